r"""`completion`: scripts that let a shell complete our commands."""

import os
from pathlib import Path
from typing import NamedTuple

import click
from click.shell_completion import get_completion_class

from consumer.cli import PROGRAM
from consumer.errors import UsageError

_VARIABLE = f"_{PROGRAM.upper().replace('-', '_')}_COMPLETE"
_SHELLS = ("bash", "zsh", "fish")


class _Home(NamedTuple):
    """Where a shell looks for completion scripts: below a folder that an environment variable may set."""

    variable: str
    default: str
    file: str
    then: str


_HOMES = {
    "bash": _Home(
        "XDG_DATA_HOME",
        ".local/share",
        f"bash-completion/completions/{PROGRAM}",
        "It works in new shells, if the package bash-completion is installed.",
    ),
    "zsh": _Home(
        "ZDOTDIR",
        "",
        f".zfunc/_{PROGRAM}",
        "It works in new shells, if .zshrc has: fpath+=(${ZDOTDIR:-~}/.zfunc); autoload -Uz compinit; compinit",
    ),
    "fish": _Home("XDG_CONFIG_HOME", ".config", f"fish/completions/{PROGRAM}.fish", "It works in new shells."),
}


def _shell(_context: click.Context, _parameter: click.Parameter, given: str | None) -> str:
    shell = given or Path(os.environ.get("SHELL", "")).name
    if shell not in _SHELLS:
        raise UsageError(f"name a shell ({', '.join(_SHELLS)}): the environment variable SHELL names none of them.")
    return shell


of_shell = click.argument("shell", type=click.Choice(_SHELLS), required=False, callback=_shell)


@click.group(no_args_is_help=False)
def completion() -> None:
    """Set up completion in bash, zsh or fish.

    \b
    Example:
      jirafe-consumer completion install
    """


@completion.command()
@of_shell
@click.pass_context
def show(context: click.Context, shell: str) -> int:
    """Print the completion script.

    The shell is bash, zsh or fish. Default: the one that the environment variable SHELL names.

    \b
    Example:
      source <(jirafe-consumer completion show bash)
    """
    click.echo(_source(context, shell))
    return 0


@completion.command()
@of_shell
@click.pass_context
def install(context: click.Context, shell: str) -> int:
    """Install the completion script for this user.

    The shell is bash, zsh or fish. Default: the one that the environment variable SHELL names. Prints the name of
    the file that it writes, and changes no other file.

    \b
    Example:
      jirafe-consumer completion install zsh
    """
    home = _HOMES[shell]
    try:
        folder = Path(os.environ.get(home.variable) or Path.home() / home.default)
    except RuntimeError:
        raise UsageError("this user has no home folder: set HOME.") from None
    file = folder / home.file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_source(context, shell) + "\n")
    click.echo(f"Wrote {file}. {home.then}")
    return 0


def _source(context: click.Context, shell: str) -> str:
    found = get_completion_class(shell)
    assert found, "click has all three"  # noqa: S101 - for the type checker
    return found(context.find_root().command, {}, PROGRAM, _VARIABLE).source().strip()
