"""`schemas`: checks and registers our schemas in a Schema Registry, before a deployment needs them."""

import sys
from collections.abc import Callable
from dataclasses import asdict, fields

import click
from rich.markup import escape
from rich.table import Table

from consumer import app
from consumer.admin import subjects
from consumer.admin.subjects import Subject
from consumer.cli.listing import Form, in_a_form
from consumer.errors import UsageError
from consumer.printing import Console, Csv, print_json, while_read
from consumer.settings import SettingsSource
from schemas.registry import SchemaRegistry

_STATES = {
    "registered": "[green]registered[/]",
    "added": "[green]registered now[/]",
    "new": "[yellow]new[/]",
    "incompatible": "[red]incompatible[/]",
}


@click.group(no_args_is_help=False)
def schemas() -> None:
    """Check and register our schemas in the Schema Registry.

    The subject of a topic's schema is TOPIC-value, or TOPIC-RECORD for each record of a topic with several kinds of
    messages. The registry is CONSUMER_SCHEMA_REGISTRY_URL.

    \b
    Example:
      jirafe-consumer schemas check
    """


@schemas.command()
@in_a_form("one object a line")
@click.pass_obj
def check(source: SettingsSource, form: Form) -> int:
    """Compare our schemas with the registry.

    Says of each schema whether it is registered (with its id and version), new, or incompatible with the latest
    version of its subject. Changes nothing. Exit status 1 if one is incompatible.

    \b
    Example:
      jirafe-consumer schemas check --json | jq 'select(.state == "new")'
    """
    return _status(_asked(source, subjects.check), form)


@schemas.command()
@in_a_form("one object a line")
@click.pass_obj
def register(source: SettingsSource, form: Form) -> int:
    """Register our schemas that are new.

    Checks all of them first. If one is incompatible, it registers none, and the exit status is 1.

    \b
    Example:
      jirafe-consumer schemas register
    """
    return _status(_asked(source, subjects.register), form)


def _asked(source: SettingsSource, ask: Callable[[SchemaRegistry], list[Subject]]) -> list[Subject]:
    registry = app.make_registry(source.load())
    if registry is None:
        raise UsageError("no Schema Registry is set; see CONSUMER_SCHEMA_REGISTRY_URL.")
    return ask(registry)


def _status(found: list[Subject], form: Form) -> int:
    with while_read():
        _print(found, form)
    return int(any(subject.state == "incompatible" for subject in found))


def _print(found: list[Subject], form: Form) -> None:
    if form is Form.JSON:
        for subject in found:
            print_json(asdict(subject))
    elif form is Form.CSV:
        rows = Csv([field.name for field in fields(Subject)])
        for subject in found:
            rows.row(asdict(subject))
    else:
        Console(soft_wrap=not sys.stdout.isatty()).print(_table(found))
        for subject in found:
            if subject.reason:
                click.echo(f"{subject.subject} is incompatible: {subject.reason}")


def _table(found: list[Subject]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("subject", "schema", "state", "id", "version"):
        table.add_column(name, justify="right" if name in ("id", "version") else "left", overflow="fold")
    for subject in found:
        numbers = ["" if number is None else str(number) for number in (subject.id, subject.version)]
        table.add_row(escape(subject.subject), subject.schema, _STATES[subject.state], *numbers)
    return table
