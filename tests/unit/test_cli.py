"""The commands together: what is told of each before it is loaded."""

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
