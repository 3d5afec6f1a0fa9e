"""What is produced: records of every kind, each known by its number, with its expected events and verdict.

The real hub mapping and the real codec make the values once per process. Runs draw from them.
"""

from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

from consumer.delivery.defaults import Credentials, Defaults
from consumer.delivery.mapping import Mapper
from consumer.engine.records import Partition, Record
from jirafe.client import Array
from schemas.codec import Codec, SchemaId
from schemas.hub import to_message
from schemas.own import OWN_SCHEMAS, own_schema
from schemas.writers import Schema
from tests.messages import cart, order, taxon

SITE, TOKEN, NEW_TOKEN = "own-site", "own-token-1", "own-token-2"
OTHER_SITE, OTHER_TOKEN, SECOND_TOKEN = "other-site", "other-token", "second-token"
GONE_SITE = "gone-site"
TAXONOMY = {"jirafe.product_category_taxonomy": "2"}
REQUEST_BYTES = 20_000
IDS = {name: number for number, name in enumerate(OWN_SCHEMAS, 1)}
"""The ids of our schemas in the simulated registry."""

LETTERS: dict[str, str | None] = {
    "cart": None,
    "order": None,
    "new order": None,
    "taxon": None,
    "other site": None,
    "other site, other token": None,
    "nothing to send": None,
    "tombstone": None,
    "empty": "undecodable",
    "garbage": "undecodable",
    "truncated": "undecodable",
    "unknown schema": "undecodable",
    "a result": "undecodable",
    "unknown type": "unknown-type",
    "unmappable": "unmappable",
    "bad token": "unmappable",
    "too large": "too-large",
    "rejected": "rejected",
    "refused": "refused",
    "forbidden": "forbidden",
    "gone site": "failing",
    "failing": "failing",
}
"""The kinds of records, and the kind of dead letter that each must have."""

SENT = ("rejected", "refused", "forbidden", "gone site", "failing")
"""Kinds that fail only at the API."""

UNORDERED = ("forbidden", "gone site", "failing")
"""Kinds whose events never show that they are decided, so their order is not checked."""

GOOD = ("cart", "order", "new order", "taxon", "other site", "other site, other token")
_BAD = tuple(kind for kind, letter in LETTERS.items() if letter and kind not in ("failing", "gone site"))


_KEYS_APART = {"other site": "x", "other site, other token": "x", "forbidden": "f", "gone site": "g"}


@dataclass(frozen=True, slots=True)
class Event:
    """One event that a record makes. `number` counts the events of the record."""

    array: Array
    json: bytes
    number: int


@dataclass(frozen=True, slots=True)
class Made:
    """A record's value, and its expected outcome."""

    kind: str
    key: bytes
    value: bytes | None
    events: tuple[Event, ...]
    event_key: str

    @property
    def letter(self) -> str | None:
        return LETTERS[self.kind]


@dataclass(eq=False, slots=True)
class Sent:
    """A record in the log, and what has become of it so far.

    `before` is the record whose events come before its own at the API, None for none. `is_expired`: retention
    deleted it before it was read, or its topic was deleted. `is_early`: its sender could not know yet that the
    topic was recreated, so earlier records come later.
    """

    made: Made
    partition: Partition
    offset: int
    before: "Sent | None" = None
    accepted: set[int] = field(default_factory=set)
    results: int = 0
    decided_at: float = 0.0
    is_expired: bool = False
    timestamp: int = 0
    incarnation: int = 0
    is_early: bool = False

    def __str__(self) -> str:
        return f"{self.partition}/{self.offset} ({self.made.kind}, {self.made.event_key})"


class _IdsOnly:
    """A registry that only gives ids, for encoding."""

    def schema(self, schema_id: SchemaId) -> list[Schema]:
        raise AssertionError("not asked for")

    def register(self, name: str, schema: Schema) -> int:
        return IDS[name]


_ENCODERS = {True: Codec(_IdsOnly()), False: Codec()}
_MAPPER = Mapper(_ENCODERS[False], REQUEST_BYTES)
_DEFAULTS = Defaults(Credentials(SITE, TOKEN), TAXONOMY)


@cache
def make(kind: str, partition: Partition, letter: str, version: int, *, by_registry: bool) -> Made:
    """Make the record of a key's version. The same arguments give the same bytes."""
    # Events are ordered by site and key, so each site has its own keys.
    number = f"{partition.topic[0]}{partition.number}{letter}{_KEYS_APART.get(kind, '')}"
    name, document = _document(kind, number, version)
    codec = _ENCODERS[by_registry]
    message = to_message(document)
    parameters = {
        "other site": {"jirafe.site_id": OTHER_SITE, "jirafe.access_token": OTHER_TOKEN},
        "other site, other token": {"jirafe.site_id": OTHER_SITE, "jirafe.access_token": SECOND_TOKEN},
        "forbidden": {"jirafe.site_id": "nobody's-site", "jirafe.access_token": "no-such-token"},
        "gone site": {"jirafe.site_id": GONE_SITE, "jirafe.access_token": "its-token"},
        "bad token": {"jirafe.access_token": "two\nlines"},
    }.get(kind)
    if parameters:
        message["parameters"] = {**message["parameters"], **parameters}
    if kind == "unknown type":
        message["message"] = "order:eaten"
    value: bytes | None = codec.encode(name, message)
    assert value is not None
    match kind:
        case "tombstone":
            value = None
        case "empty":
            value = b""
        case "garbage":
            value = b"\x07 no Avro %d" % version
        case "truncated":
            value = value[:-5]
        case "unknown schema":
            value = b"\x00\x00\x00\x0f\xff" + value[5:] if by_registry else value[:2] + b"\x0f" * 8 + value[10:]
        case "a result":
            value = codec.encode("result", _result(version))
    events: tuple[Event, ...] = ()
    if kind in GOOD or kind in SENT:
        plain = _ENCODERS[False].encode(name, message)
        draft = _MAPPER.draft(Record(*partition, 0, 0, b"", plain, ()), _DEFAULTS)
        events = tuple(Event(e.document.array, e.document.json, i) for i, e in enumerate(draft.events))
        assert events, (kind, draft)
    # Kafka keys are different: sometimes two sites share one.
    key = number if version % 3 else f"{partition.topic[0]}{partition.number}{letter}"
    return Made(kind, key.encode(), value, events, number)


def _document(kind: str, number: str, version: int) -> tuple[str, dict[str, Any]]:
    moment = f"2014-03-01T10:{version // 60:02}:{version % 60:02}Z"
    changed: dict[str, Any] = {
        "updated_at": moment,
        "totals": {"item": 1, "order": version, "tax": 2, "shipping": 3},
    }
    if kind == "rejected":
        changed["totals"]["order"] = -version - 1
    if kind in ("taxon", "nothing to send"):
        other = {"taxonomy_id": "9"} if kind == "nothing to send" else {}
        return "taxon", taxon(number, f"Taxon {version}", "taxon:updated", updated_at=moment, **other)
    if kind == "unmappable":
        changed["placed_on"] = "no date"
    if kind == "too large":
        changed["email"] = "e" * REQUEST_BYTES
    if kind == "refused":
        changed["email"] = f"refused{version}@example.com"
    if kind == "failing":
        changed["email"] = f"failing{version}@example.com"
    if kind == "cart":
        return "cart", cart(number, "cart:updated", **changed)
    if kind == "new order":
        changed["email"] = f"v{version}@example.com"
        return "order", order(number, "order:new", **changed)
    return "order", order(number, "order:updated", **changed)


def _result(version: int) -> dict[str, Any]:
    return {
        "message_id": f"m-{version}",
        "message": "order:new",
        "code": 200,
        "notifications": [],
        "topic": "orders",
        "partition": 0,
        "offset": version,
        "timestamp": 0,
        "replay": None,
        "redrive": None,
        "group": None,
    }


def own_schema_of(schema_id: SchemaId) -> Schema | None:
    """Give the schema that the simulated registry has under an id."""
    name = next((name for name, number in IDS.items() if number == schema_id), None)
    return own_schema(name) if name else None


def draw_kind(chance: Random, bad: float, *, may_fail: bool) -> str:
    """Draw the kind of the next record."""
    if chance.random() >= bad:
        return chance.choice((*GOOD, "cart", "order", "nothing to send", "tombstone"))
    return chance.choice((*_BAD, "failing", "gone site") if may_fail else _BAD)


def decoder(*, by_registry: bool) -> Codec:
    """Give the codec that reads results back."""
    return _READERS[by_registry]


class _AllKnown(_IdsOnly):
    def schema(self, schema_id: SchemaId) -> list[Schema]:
        schema = own_schema_of(schema_id)
        assert schema
        return [schema]


_READERS = {True: Codec(_AllKnown()), False: Codec()}
