import json
import re
from pathlib import Path

import pytest

from consumer import settings
from consumer.cli.init import env_text
from consumer.settings import GROUPS
from jirafe.sandbox.validation import Validator
from jirafe.services import Event, make_events
from schemas.codec import Codec
from schemas.hub import kind_of, to_message

EXAMPLES = sorted(Path("consumer/examples").glob("*.json"))
CODEC = Codec()


def test_the_file_and_its_commented_lines_have_the_default_values(tmp_path: Path) -> None:
    file, default = tmp_path / ".env", settings.load(None, {})
    every = re.sub(r"^#(?=[A-Z]+_)", "", env_text(), flags=re.MULTILINE)
    for text in (env_text(), every):
        file.write_text(text)
        loaded = settings.load(file, {})
        assert (loaded.api, loaded.stream) == (default.api, default.stream)
    named = set(re.findall(r"^([A-Z_]+)=", every, flags=re.MULTILINE))
    assert {f"{prefix}{name.upper()}" for prefix, group in GROUPS.items() for name in group.model_fields} <= named


def test_there_is_one_message_of_each_type() -> None:
    page = Path("docs/topics.md").read_text()
    types = set(re.findall(r"`((?:cart|order|taxon|product):(?:new|updated|canceled))`", page))
    assert len(types) == 9
    assert {json.loads(path.read_text())["message"] for path in EXAMPLES} == types


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_message_makes_events_that_the_api_accepts(path: Path) -> None:
    message = to_message(json.loads(path.read_text()))
    assert path.stem == message["message"].replace(":", "-")
    record = CODEC.decode(CODEC.encode(kind_of(message["message"]) or "", message))
    made = make_events(message["message"], record["payload"], dict(record["parameters"] or {}), 0)
    assert made
    for event in made:
        assert isinstance(event, Event)
        assert Validator().errors(event.kind.array, event.body) == {}
