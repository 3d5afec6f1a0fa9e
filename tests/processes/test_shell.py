"""Completion in shells, and the man page."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from consumer.cli.main import cli, main
from consumer.cli.manual import manual
from tests.command import run

SHELLS = ("bash", "zsh", "fish")


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_install_writes_what_completion_show_prints(shell: str, tmp_path: Path) -> None:
    homes = {"HOME": str(tmp_path), "XDG_DATA_HOME": "", "XDG_CONFIG_HOME": "", "ZDOTDIR": ""}
    shown = run("completion", "show", shell, **homes)
    assert (shown.returncode, shown.stderr) == (0, "")
    done = run("completion", "install", SHELL=f"/usr/bin/{shell}", **homes)
    assert done.returncode == 0
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert done.stdout.startswith(f"Wrote {file}.")
    assert file.read_text() == shown.stdout
    assert file.relative_to(tmp_path) == Path(
        {
            "bash": ".local/share/bash-completion/completions/jirafe-consumer",
            "zsh": ".zfunc/_jirafe-consumer",
            "fish": ".config/fish/completions/jirafe-consumer.fish",
        }[shell]
    )


def test_completion_install_needs_a_supported_shell() -> None:
    done = run("completion", "install", SHELL="/bin/sh")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "jirafe-consumer: name a shell (bash, zsh, fish): the environment variable SHELL names none of them.\n"
    )


def test_completion_install_needs_a_home(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # as in a container whose user is only a number
    with pytest.raises(SystemExit) as ended:
        main(["completion", "install", "bash"])
    said = "jirafe-consumer: this user has no home folder: set HOME.\n"
    assert (ended.value.code, capsys.readouterr().err) == (2, said)


@pytest.fixture
def program(tmp_path: Path) -> str:
    """A PATH in which our command comes first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "jirafe-consumer"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m consumer "$@"\n')
    script.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def completed(shell: str, program: str, line: str) -> set[str]:
    """Let a shell complete the last word of a line, as the Tab key does."""
    path = shutil.which(shell)
    if not path:
        pytest.skip(f"there is no {shell}")
    script = {
        "bash": (
            "source <(jirafe-consumer completion show bash); "
            "COMP_WORDS=($1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); "
            "_jirafe_consumer_completion jirafe-consumer; printf '%s\\n' \"${COMPREPLY[@]}\""
        ),
        "fish": 'jirafe-consumer completion show fish | source; complete --do-complete "$argv[1]"',
    }[shell]
    arguments = [path, "-c", script, *(["x"] if shell == "bash" else []), line]
    done = subprocess.run(
        arguments, capture_output=True, text=True, check=True, timeout=60, env={**os.environ, "PATH": program}
    )
    return {each.split("\t")[0] for each in done.stdout.split("\n")} - {""}


@pytest.mark.parametrize("shell", ["bash", "fish"])
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("jirafe-consumer la", {"lag"}),
        ("jirafe-consumer dead-letters li", {"list"}),
        ("jirafe-consumer results --out", {"--output"}),
        ("jirafe-consumer lag --output c", {"csv"}),
    ],
)
def test_a_shell_completes_commands_options_and_values(
    shell: str, line: str, words: set[str], program: str
) -> None:
    assert completed(shell, program, line) == words


def test_the_man_page_has_every_command_and_no_warnings(tmp_path: Path) -> None:
    page = manual()
    for name in cli.list_commands(click.Context(cli)):
        assert f".SS jirafe\\-consumer {name.replace('-', chr(92) + '-')}" in page
    man = shutil.which("man")
    if not man:
        pytest.skip("there is no man")
    file = tmp_path / "jirafe-consumer.1"
    file.write_text(page)
    done = subprocess.run(
        [man, "--warnings=all", "-l", str(file)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "MANWIDTH": "100", "MANPAGER": "cat", "LC_ALL": "C.UTF-8"},
    )
    assert done.stderr == ""
    shown = re.sub(".\b", "", done.stdout)
    assert "jirafe-consumer results --follow --from end" in shown
    assert "--output [table|json|csv]" in shown
    assert "jq 'select(.code == 500)'" in shown
