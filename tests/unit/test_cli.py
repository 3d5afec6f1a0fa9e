"""The commands together: what is told of each before it is loaded, and what is loaded."""

import subprocess
import sys

import click
import pytest

from consumer.cli.main import _COMMANDS, cli

CONTEXT = click.Context(cli)


@pytest.mark.parametrize("name", sorted(_COMMANDS))
def test_a_command_is_told_of_by_its_own_name_and_first_sentence(name: str) -> None:
    command = cli.get_command(CONTEXT, name)
    assert command
    assert (command.name, command.get_short_help_str(100)) == (name, _COMMANDS[name][1])


def test_there_is_no_command_of_another_name() -> None:
    assert cli.list_commands(CONTEXT) == sorted(_COMMANDS)
    assert cli.get_command(CONTEXT, "nope") is None


def loaded(*arguments: str) -> set[str]:
    """Give the libraries that a command has loaded when it ends."""
    code = f"""
import sys
from consumer.cli.main import main
try:
    main({list(arguments)!r})
finally:
    sys.__stderr__.write(" ".join(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    return {name.partition(".")[0] for name in done.stderr.split()}


HEAVY = {"confluent_kafka", "pydantic", "requests", "prometheus_client", "structlog"}


def test_help_loads_no_library_that_it_does_not_need() -> None:
    assert loaded("--help") & {*HEAVY, "click"} == {"click"}
    assert loaded("--version") & HEAVY == set()
