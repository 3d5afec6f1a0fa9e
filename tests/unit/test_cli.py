"""All commands together: their names and first sentences, before they are loaded."""

import signal
import subprocess
import sys

import click
import pytest

from consumer.cli.main import _COMMANDS, cli

CONTEXT = click.Context(cli)


@pytest.mark.parametrize("name", sorted(_COMMANDS))
def test_each_command_has_its_name_and_first_sentence(name: str) -> None:
    command = cli.get_command(CONTEXT, name)
    assert command
    assert (command.name, command.get_short_help_str(100)) == (name, _COMMANDS[name][1])


def test_unknown_commands_are_refused() -> None:
    assert cli.list_commands(CONTEXT) == sorted(_COMMANDS)
    assert cli.get_command(CONTEXT, "nope") is None


LOADED = ["click", "consumer.cli.main", "consumer.cli.run", "consumer.app", "consumer.engine.member"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", LOADED)
def test_a_service_that_is_stopped_while_its_libraries_load_ends_cleanly(
    module: str, number: signal.Signals
) -> None:
    assert told_while_loading(module, number, "run") == (0, "", "")


@pytest.mark.parametrize("module", LOADED[:2])
def test_a_command_that_is_interrupted_while_its_libraries_load_ends_without_a_traceback(module: str) -> None:
    assert told_while_loading(module, signal.SIGINT, "lag") == (130, "", "")


def told_while_loading(module: str, number: signal.Signals, command: str) -> tuple[int, str, str]:
    """Send a command a signal when it begins to load a module; gives its status, output and errors."""
    program = f"""
import os, sys
from consumer.__main__ import main

class Told:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {int(number)})

sys.meta_path.insert(0, Told())
sys.argv = ["jirafe-consumer", {command!r}]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr
