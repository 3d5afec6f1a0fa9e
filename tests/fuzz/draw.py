"""Shared by all targets: draws unusual texts, numbers and JSON, and damages bytes."""

import json
from collections.abc import Sequence
from random import Random
from typing import Any

Json = Any

_TEXTS = (
    "",
    " ",
    "\t",
    "\0",
    "a",
    "0",
    "-1",
    "1e999",
    "NaN",
    "true",
    "null",
    "{}",
    "[]",
    "../..",
    ".",
    "%s%n",
    "{}{0.x}",
    "ä€\U0001f45c",
    "\ufeff",
    "\u202eabc",
    "\x1b]0;x\x07",
    "\x9b31m",
    "\u0660",
    "²",
    "\ud83d",
    "\udcff",
    "İ",
    "ß",
    "order:new",
    "order:updated",
    "order:canceled",
    "cart:new",
    "taxon:new",
    "taxon:updated",
    "canceled",
    "2",
    "USD",
    "2014-03-01T10:00:00Z",
    "2014-03-01",
    "01/31/2013 12:34:22 UTC",
    "0000-00-00T00:00:00Z",
    "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00+23:59",
    "2014-W01-1",
    "20140301T100000.123456789Z",
    "jirafe.site_id",
    "http://",
    "https://a/b",
)
_NUMBERS: tuple[Json, ...] = (
    0,
    1,
    -1,
    2,
    7,
    10**6,
    2**31 - 1,
    2**31,
    -(2**31) - 1,
    2**53,
    2**53 + 1,
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    2**64,
    10**30,
    0.0,
    -0.0,
    0.1,
    -0.5,
    1e-300,
    1e300,
    1e16,
    3.0,
    float("nan"),
    float("inf"),
    float("-inf"),
)


def chance(random: Random, probability: float) -> bool:
    """Return True with this probability."""
    return random.random() < probability


def text(random: Random) -> str:
    """Draw a text: plain, unusual or long."""
    kind = random.random()
    if kind < 0.6:
        return random.choice(_TEXTS)
    if kind < 0.9:
        return "".join(random.choice("aZ09 ._:/%\n\0ä€\U0001f45c'\"\\{}") for _ in range(random.randrange(20)))
    return random.choice(_TEXTS) * random.choice((10, 100, 1000))


def utf8(random: Random) -> str:
    """Draw a text that can be written as UTF-8."""
    return text(random).encode(errors="replace").decode()


def data(random: Random) -> bytes:
    """Draw bytes."""
    return random.randbytes(random.choice((0, 1, 2, 5, 20, 100)))


def number(random: Random) -> Json:
    """Draw a number of JSON, or one that only Python accepts."""
    return random.choice(_NUMBERS) if chance(random, 0.8) else random.randrange(-(10**4), 10**4)


def json_value(random: Random, depth: int = 3) -> Json:
    """Draw any value of JSON."""
    kind = random.random()
    if depth and kind < 0.12:
        return {text(random): json_value(random, depth - 1) for _ in range(random.randrange(4))}
    if depth and kind < 0.24:
        return [json_value(random, depth - 1) for _ in range(random.randrange(4))]
    return random.choice((None, True, False)) if kind < 0.4 else number(random) if kind < 0.65 else text(random)


def nested(depth: int, inner: Json = None) -> str:
    """Write JSON that is too deep for Python to write: lists and objects in turn."""
    opened, closed = '[{"a":' * depth, "}]" * depth
    return f"{opened}{json.dumps(inner)}{closed}"


def mutated(random: Random, document: Json, times: int) -> Json:
    """Return a copy of a JSON document that is changed in this many places."""
    document = json.loads(json.dumps(document))
    for _ in range(times):
        places = list(_places(document))
        if not places:
            return json_value(random)
        holder, key = random.choice(places)
        _mutate(random, holder, key, document)
    return document


def _places(value: Json) -> Sequence[tuple[Any, Any]]:
    """List each place of a document: its container, and its key or index there."""
    found: list[tuple[Any, Any]] = []
    left = [value]
    while left:
        holder = left.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                left.append(holder[key])
    return found


def _mutate(random: Random, holder: Any, key: Any, document: Json) -> None:
    kind = random.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[text(random)] = holder.pop(key)
    elif kind == 2 and isinstance(holder, list):
        holder.extend([holder[key]] * random.choice((1, 3, 100)))
    elif kind == 3:
        other, place = random.choice(_places(document))
        # A copy, because a document that contains itself can't be written.
        holder[key] = json.loads(json.dumps(other[place]))
    elif kind == 4:
        holder[key] = random.choice((None, [], {}, "", [None], [{}]))
    elif kind == 5:
        holder[key] = text(random)
    elif kind == 6:
        holder[key] = number(random)
    else:
        holder[key] = json_value(random)


def damaged(random: Random, whole: bytes) -> bytes:
    """Damage bytes: truncate, change or repeat them, or insert others."""
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        at = random.randrange(len(whole) + 1)
        match random.randrange(6):
            case 0:
                whole = whole[:at]
            case 1:
                whole = whole[:at] + data(random) + whole[at:]
            case 2 if whole:
                at = min(at, len(whole) - 1)
                whole = whole[:at] + bytes([whole[at] ^ 1 << random.randrange(8)]) + whole[at + 1 :]
            case 3:
                whole = whole[:at] + whole[at + random.randrange(1, 9) :]
            case 4:
                whole = (
                    whole[:at]
                    + random.choice((b"\0", b"\xff", b"\x80", b"\r\n", b"\xed\xa0\xbd")) * random.choice((1, 9))
                    + whole[at:]
                )
            case _:
                end = min(len(whole), at + random.randrange(1, 50))
                whole = whole[:end] + whole[at:end] * random.choice((1, 3)) + whole[end:]
    return whole
