"""The input of commands: files, times, places and options, and foreign records in the dead-letters topic."""

import json
import os
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import click

from consumer.admin import produce
from consumer.admin.letters import read_letter
from consumer.admin.ranges import NotAPosition, parse_position
from consumer.admin.spelling import Spelling
from consumer.cli.main import cli, main
from consumer.engine.records import Place, Record
from consumer.errors import UsageError
from schemas.codec import Codec
from schemas.hub import HubError
from tests.fuzz import draw as drawing
from tests.fuzz.avro import draw_schema
from tests.fuzz.draw import chance
from tests.fuzz.targets import Breach, Case, Limits, hub, latin

LIMITS = Limits()

_STATUSES = (0, 1, 2)
_NOW = datetime(2014, 3, 1, tzinfo=UTC)
_TIMES = (
    "2h", "0s", "9" * 30 + "d", "9" * 5000 + "d", "9" * 5000, "1d ago", "٣h", "²", "-1", "2014-03-01", "2014-03-01T10:00Z", "0001-01-01",
    "2014-02-30", "9999-12-31T23:59:59.999999-23:59", "0001-01-01T00:00+23:59", "2014-W01-1", "20140301", "10:00Z", "2014-03-01T24:00Z",
    "2014-03-01T10:00", "", " ", "now", "orders/0/17", "orders/0/" + "9" * 19, "a/b/0/1", "/0/1", "orders/٣/1", "orders/-1/1", "o/1/1\n",
)  # fmt: skip


def draw(random: Random) -> Case:
    """Draw one input of a command."""
    kind = random.choice(("preview", "preview", "produce", "schemas", "options", "place", "letter"))
    case: Case = {"kind": kind}
    if kind in ("preview", "produce"):
        text = hub.draw(random)["text"]
        case["file"] = random.choice(
            (text, text, text, "\ufeff".encode().decode("latin-1") + text, latin(drawing.data(random)))
        )
        case["given"] = (
            [f"jirafe.{random.choice(('store_url', drawing.utf8(random)))}={drawing.utf8(random)}"]
            if chance(random, 0.3)
            else []
        )
    elif kind == "schemas":
        text = json.dumps(draw_schema(random)).encode() if chance(random, 0.9) else drawing.nested(2000).encode()
        case["file"] = latin(drawing.damaged(random, text) if chance(random, 0.3) else text)
    elif kind == "options":
        case |= _options(random)
    elif kind == "place":
        case["text"] = latin(random.choice((random.choice(_TIMES), drawing.utf8(random))).encode())
    else:
        case["headers"] = [_header(random) for _ in range(random.choice((0, 3, 8, 10)))]
        case["whole"] = chance(random, 0.7)
    return case


def _options(random: Random) -> Case:
    """Draw a command with some of its options, each with unusual values."""
    path, command = [], cli
    found: click.Command = command
    while isinstance(found, click.Group):
        name = random.choice(sorted(found.list_commands(click.Context(found))))
        path.append(name)
        found = _within(found, name)
    words: list[str] = []
    for parameter in random.sample(found.params, min(len(found.params), random.choice((0, 1, 2, 4)))):
        value = random.choice((random.choice(_TIMES), drawing.utf8(random)))
        flag = isinstance(parameter, click.Option) and parameter.is_flag
        words += (
            [parameter.opts[0]]
            if flag
            else [value]
            if isinstance(parameter, click.Argument)
            else [parameter.opts[0], value]
        )
    # No argument can contain a zero byte, because the system ends it there.
    return {"path": path, "words": [latin(word.encode(errors="replace").replace(b"\0", b"")) for word in words]}


def _header(random: Random) -> list[str]:
    names = (
        "reason",
        "kind",
        "topic",
        "partition",
        "offset",
        "timestamp",
        "attempts",
        "time",
        "redrives",
        "replay",
    )
    name = "dlq." + random.choice(names) if chance(random, 0.9) else drawing.utf8(random)
    numbers = (
        "0",
        "1",
        "-1",
        "²",
        "٣",
        "1_0",
        " 1 ",
        "1e3",
        "9" * 18,
        "9" * 30,
        "9" * 5000,
        "nan",
        "",
        str(2**63),
        str(-(2**63)),
        "253402300800000",
    )
    return [name, latin(random.choice((*numbers, drawing.utf8(random))).encode())]


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="jirafe-fuzz-")


@cache
def _codec() -> Codec:
    return Codec()


def try_out(case: Case) -> None:
    """Give the input to the code that reads it."""
    folder = Path(_temporary().name)
    match case["kind"]:
        case "preview":
            (folder / "message.json").write_bytes(case["file"].encode("latin-1"))
            _command(
                [
                    "preview",
                    str(folder / "message.json"),
                    *(word for each in case["given"] for word in ("--set", each)),
                ]
            )
        case "produce":
            with suppress(HubError):
                blocks = [case["file"].encode("latin-1")]
                for _ in produce.encode_all(
                    "messages.json", blocks, _codec(), 1_000_000, Spelling(), produce.UnknownTypes()
                ):
                    pass
        case "schemas":
            (folder / "one.avsc").write_bytes(case["file"].encode("latin-1"))
            with suppress(ValueError):
                Codec(more=folder)
        case "options":
            _parse_options(case["path"], [word.encode("latin-1").decode() for word in case["words"]])
        case "place":
            _parse_place(case["text"].encode("latin-1").decode())
        case "letter":
            _read_letter(case)
        case other:
            raise KeyError(other)


def _command(words: list[str]) -> None:
    """Run a command to its end. It must end with one of its exit statuses."""
    with patch.dict(os.environ, {"CONSUMER_LOG_LEVEL": "error"}):
        try:
            main(words)
        except SystemExit as ended:
            if ended.code not in _STATUSES:
                raise Breach("a command ends with an unknown status", f"{words}: {ended.code}") from None


def _within(group: click.Group, name: str) -> click.Command:
    command = group.get_command(click.Context(group), name)
    assert command
    return command


def _parse_options(path: list[str], words: list[str]) -> None:
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        command = _within(command, name)
    with suppress(click.ClickException, click.exceptions.Exit, UsageError):
        command.make_context(path[-1], words)


def _parse_place(text: str) -> None:
    with suppress(NotAPosition):
        parse_position(text, _NOW)
    with suppress(ValueError):
        Place.parse(text)


def _read_letter(case: Case) -> None:
    given = [(name, value.encode("latin-1")) for name, value in case["headers"]]
    whole: list[Any] = [("dlq.reason", b"r"), ("dlq.kind", b"k"), ("dlq.topic", b"orders"), ("dlq.attempts", b"1")]
    whole += [(f"dlq.{name}", b"1") for name in ("partition", "offset", "timestamp", "time")]
    # Drawn values replace valid ones.
    headers = [each for each in whole if each[0] not in dict(given)] if case["whole"] else []
    letter = read_letter(Record("letters", 0, 0, 0, None, b"", (*headers[:1], *given, *headers[1:])))
    if letter:
        str(letter.of)
        letter.failed_at.isoformat()
