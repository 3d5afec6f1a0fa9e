r"""Generates the man page from the commands' help: `python -m consumer.cli.manual > jirafe-consumer.1`."""

import inspect
from collections.abc import Iterator
from importlib.metadata import version

import click

from consumer.cli import PROGRAM
from consumer.cli.main import cli


def manual() -> str:
    """Return the man page, in the format of man(7)."""
    context = click.Context(cli, info_name=PROGRAM)
    lines = [
        f'.TH {PROGRAM.upper()} 1 "" "{PROGRAM} {version(PROGRAM)}"',
        ".SH NAME",
        f"{_plain(PROGRAM)} \\- {_plain(cli.get_short_help_str(1000).rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_plain(PROGRAM)}",
        _plain(" ".join(cli.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        *_help(cli),
        ".SH OPTIONS",
        *_options(cli, context),
        ".SH COMMANDS",
        *_commands(cli, context),
        ".SH ENVIRONMENT",
        "Settings are environment variables, or lines of the env file. docs/settings.md lists them.",
    ]
    return "\n".join(lines) + "\n"


def _commands(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None  # noqa: S101 - it is listed
        inner = click.Context(command, info_name=name, parent=context)
        yield f".SS {_plain(' '.join((inner.command_path, *command.collect_usage_pieces(inner))))}"
        yield from _help(command)
        yield from _options(command, inner)
        if isinstance(command, click.Group):
            yield from _commands(command, inner)


def _help(command: click.Command) -> Iterator[str]:
    """Yield the paragraphs of a command's help. One that begins with a backspace keeps its line breaks."""
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b\n"):
            yield from (".PP", ".nf", *map(_plain, paragraph[2:].splitlines()), ".fi")
        else:
            yield from (".PP", _plain(" ".join(paragraph.split())))


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        if record := parameter.get_help_record(context):
            names, told = record
            yield from (".TP", f".B {_plain(names)}", _plain(" ".join(told.split())))


def _plain(text: str) -> str:
    r"""Escape text so that man reads none of it as markup."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    click.echo(manual(), nl=False)
