import json
import re
import stat
from pathlib import Path

import pytest

from consumer import settings
from consumer.cli.init import env_text
from consumer.settings import GROUPS
from jirafe.sandbox.validation import Validator
from jirafe.services import Event, make_events
from schemas.codec import Codec
from schemas.hub import kind_of, to_message
from tests.command import run

EXAMPLES = sorted(Path("consumer/examples").glob("*.json"))
CODEC = Codec()


def test_settings_are_ours_alone_and_messages_are_there(tmp_path: Path) -> None:
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
def test_nothing_that_is_there_is_touched(name: str, *, dangling: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    if dangling:
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_text("mine")
    done = run("init", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"jirafe-consumer: {path} is there already, and nothing was written: name another folder.\n"
    )
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_the_file_changes_nothing_and_neither_do_its_defaults(tmp_path: Path) -> None:
    file, default = tmp_path / ".env", settings.load(None, {})
    every = re.sub(r"^#(?=[A-Z]+_)", "", env_text(), flags=re.MULTILINE)
    for text in (env_text(), every):
        file.write_text(text)
        loaded = settings.load(file, {})
        assert (loaded.api, loaded.stream) == (default.api, default.stream)
    named = set(re.findall(r"^([A-Z_]+)=", every, flags=re.MULTILINE))
    assert {f"{prefix}{name.upper()}" for prefix, group in GROUPS.items() for name in group.model_fields} <= named


def test_there_is_one_message_of_each_type() -> None:
    readme = Path("README.md").read_text()
    types = set(re.findall(r"`((?:cart|order|taxon|product):(?:new|updated|canceled))`", readme))
    assert len(types) == 9
    assert {json.loads(path.read_text())["message"] for path in EXAMPLES} == types


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_message_makes_events_that_the_api_takes(path: Path) -> None:
    message = to_message(json.loads(path.read_text()))
    assert path.stem == message["message"].replace(":", "-")
    record = CODEC.decode(CODEC.encode(kind_of(message["message"]) or "", message))
    made = make_events(message["message"], record["payload"], dict(record["parameters"] or {}), 0)
    assert made
    for event in made:
        assert isinstance(event, Event)
        assert Validator().errors(event.kind.array, event.body) == {}


def test_the_readme_shows_a_message_and_what_becomes_of_it() -> None:
    _, _, section = Path("README.md").read_text().partition("\nOne message of a shop, and what becomes of it:\n")
    shown = re.findall(r"```(?:json|console)\n(.*?)```", section, flags=re.DOTALL)[:2]
    command, _, printed = shown[1].partition("\n")
    program, *arguments = command.removeprefix("$ ").split()
    assert program == ".venv/bin/jirafe-consumer"
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (0, printed)
    assert shown[0] == Path(arguments[1]).read_text()
