"""`check`: checks a deployment and says how to fix it."""

from collections.abc import Iterator

import click
from rich.markup import escape
from rich.table import Table

from consumer import app
from consumer.admin.check import Finding, Verdict, check
from consumer.cli.listing import Form, in_a_form
from consumer.errors import SettingsError
from consumer.printing import Console, Csv, print_json, while_read
from consumer.settings import SettingsSource

_STYLES = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.FAILED: "red"}


@click.command("check")
@in_a_form("one object")
@click.pass_obj
def check_command(source: SettingsSource, form: Form) -> int:
    """Check a deployment, and say how to fix what is wrong.

    Checks settings, secrets, broker, topics, records, permissions, group, transactions, Schema Registry, API, token
    and clock. Writes to no topic and disturbs no member. Sends the API one invalid event. If the API refuses the
    event and not the token, the token is valid. Exit status 1 if a check failed, 0 if there are only warnings.

    \b
    Examples:
      jirafe-consumer check
      jirafe-consumer check --json | jq '.checks[] | select(.verdict != "ok")'
    """
    found: list[Finding] = []
    console = Console()
    rows: Csv | None = None
    if form is Form.CSV:
        with while_read():
            rows = Csv(["check", "verdict", "message", "fix"])
    for finding in _findings(source):
        found.append(finding)
        with while_read():
            if rows:
                rows.row(_object(finding))
            elif form is Form.TABLE:
                console.print(_line(finding))
    is_ok = not any(finding.verdict is Verdict.FAILED for finding in found)
    if form is Form.JSON:
        with while_read():
            print_json({"ok": is_ok, "checks": [_object(each) for each in found]})
    return int(not is_ok)


def _object(finding: Finding) -> dict[str, str]:
    return {
        "check": finding.check,
        "verdict": finding.verdict.value,
        "message": finding.message,
        "fix": finding.fix,
    }


def _findings(source: SettingsSource) -> Iterator[Finding]:
    try:
        loaded = source.load()
        codec = app.make_codec(loaded)
    except SettingsError as error:
        for fault in error.faults:
            yield Finding("settings", Verdict.FAILED, fault, "see docs/settings.md")
        return
    for caution in source.cautions(loaded):
        yield Finding("secrets", Verdict.WARNING, caution.message, caution.fix)
    yield from check(
        app.make_deployment(loaded),
        app.make_registry(loaded),
        codec,
        app.make_checked_api(loaded),
        creates_topics=loaded.stream.create_topics,
    )


def _line(finding: Finding) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=7)
    table.add_column(width=12)
    table.add_column(overflow="fold")
    fix = f"\n[dim]fix:[/] {escape(finding.fix)}" if finding.fix else ""
    verdict = f"[{_STYLES[finding.verdict]}]{finding.verdict}[/]"
    table.add_row(verdict, escape(finding.check), f"{escape(finding.message)}{fix}")
    return table
