"""What `init` writes, as a user runs it."""

import re
import stat
from pathlib import Path

import pytest

from consumer.cli.init import env_text
from tests.command import run

EXAMPLES = sorted(Path("consumer/examples").glob("*.json"))


def test_init_writes_private_settings_and_the_example_messages(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    done = run("init", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
    assert (folder / ".env").read_text() == env_text()
    written = {path.name: path.read_bytes() for path in (folder / "messages").iterdir()}
    assert written == {path.name: path.read_bytes() for path in EXAMPLES}
    shown = run("preview", str(folder / "messages"))
    assert (shown.returncode, len(shown.stdout.splitlines())) == (0, len(EXAMPLES))


@pytest.mark.parametrize("name", [".env", "messages"])
@pytest.mark.parametrize("dangling", [True, False])
def test_init_does_not_change_existing_files(name: str, *, dangling: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    if dangling:
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_text("mine")
    done = run("init", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"jirafe-consumer: {path} already exists, so nothing was written: name another folder.\n"
    )
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_the_readme_shows_a_message_and_the_output_of_its_preview() -> None:
    _, _, section = (
        Path("README.md")
        .read_text()
        .partition(
            "\nThe hub is the integration service that writes a shop's messages to Kafka. One of its messages:\n"
        )
    )
    shown = re.findall(r"```(?:json|console)\n(.*?)```", section, flags=re.DOTALL)[:2]
    command, _, printed = shown[1].partition("\n")
    program, *arguments = command.removeprefix("$ ").split()
    assert program == ".venv/bin/jirafe-consumer"
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (0, printed)
    assert shown[0] == Path(arguments[1]).read_text()
