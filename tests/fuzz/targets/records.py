"""Records from Kafka: from the client library to results and dead letters that can be read back."""

import copy
import json
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from random import Random
from threading import Thread
from typing import Any, cast

import orjson
from confluent_kafka import Message, Producer

from consumer import app, settings
from consumer.admin.letters import read_letter
from consumer.admin.story import contents
from consumer.delivery.work import Work
from consumer.engine.deadline import Clock, Deadline
from consumer.engine.kafka import TransactionalProducer, to_record
from consumer.engine.ports import Chunk, Done, Hooks, Retry
from consumer.engine.records import Output, Partition, Record
from consumer.engine.writer import Writer
from schemas.codec import Codec, SchemaId, Undecodable, UnknownSchema
from schemas.hub import to_message
from schemas.writers import Schema
from tests.fuzz import draw as drawing
from tests.fuzz.avro import Encoder, draw_schema
from tests.fuzz.draw import chance
from tests.fuzz.targets import Breach, Case, Limits, hub, latin

_LARGEST_CHUNK = 40
_ONE, _FURTHER = 1.0, 0.1
"""Processor seconds that a chunk may take: for the first record, and for each further one."""

LIMITS = Limits(cpu=_ONE + _LARGEST_CHUNK * _FURTHER, clock=20.0, memory=256)

LARGEST_RESULT = 1_000_000
"""Bytes that a topic accepts by default, less some for the framing."""

_ORDERS = Partition("orders", 0)
_TRIES = 100
_TRIALS_OF_A_CODEC = 100
_BY_REGISTRY = b"\0\0\0\0\1"
_TIMESTAMPS = (
    0,
    1,
    -1,
    1_400_000_000_000,
    1_400_000_000_000_000,
    1_400_000_000_000_000_000,
    2**63 - 1,
    -(2**63),
    253_402_300_800_000,
    -62_135_596_800_001,
)


def draw(random: Random) -> Case:
    """Draw a writer's schema, and a chunk of records, most of them by it."""
    schema = draw_schema(random)
    number = random.choice((1, 5, 20, _LARGEST_CHUNK))
    largest = 1_000_000 if number == 1 and chance(random, 0.1) else 20_000
    encoder = Encoder(random, schema, largest)
    messages = [_message(random) for _ in range(min(number, 4))]
    records = [_draw_record(random, encoder, random.choice(messages), largest) for _ in range(number)]
    return {"schema": json.dumps(schema), "records": records}


def _draw_record(random: Random, encoder: Encoder, message: Any, largest: int) -> dict[str, Any]:
    kind = random.random()
    if kind < 0.6:
        body = _BY_REGISTRY + encoder.record(message)
    elif kind < 0.85:
        body = _own(random, message, largest)
    elif kind < 0.9:
        body = random.choice(
            (
                b"",
                b"\0",
                b"\xc3\x01",
                b"\0" + struct.pack(">I", random.choice((0, 2, 2**31, 2**32 - 1))),
                b"{}",
                b"null",
            )
        )
        body += drawing.data(random)
    elif kind < 0.96:
        body = hub.draw(random)["text"].encode("latin-1")
        if chance(random, 0.3):
            body = _BY_REGISTRY + body
    else:
        body = random.choice((_BY_REGISTRY, b"\xc3\x01", b"")) + drawing.data(random)
    if chance(random, 0.1):
        body = drawing.damaged(random, body)
    return {
        "value": None if chance(random, 0.02) else latin(body),
        "key": _key(random),
        "headers": [
            _header(random) for _ in range(random.choice((0, 0, 0, 1, 3, 300 if chance(random, 0.1) else 1)))
        ],
        "timestamp": random.choice(_TIMESTAMPS),
    }


def _message(random: Random) -> Any:
    """Draw a message that can be converted, None if the drawn one can't."""
    try:
        return to_message(orjson.loads(json.dumps(hub.draw_document(random))))
    except ValueError:
        return None


def _own(random: Random, message: Any, largest: int) -> bytes:
    """Draw a message of our own schema, sometimes so large that its result can't quote it."""
    if message is None:
        return b"\xc3\x01" + drawing.data(random)
    message = copy.deepcopy(message)
    name = message["message"].partition(":")[0]
    if chance(random, 0.05):
        long = "x" * random.choice((2000, largest // 2))
        section = (
            message["payload"].get("order") or message["payload"].get("cart") or message["payload"].get("taxon")
        )
        if section:
            section[random.choice(("number", "id", "name", "currency"))] = long
        else:
            message["message_id"] = long
    if chance(random, 0.03):
        message["parameters"]["jirafe.site_id"] = drawing.utf8(random)
        message["parameters"]["jirafe.access_token"] = drawing.utf8(random)
    if chance(random, 0.05):
        kinds = ("cart", "order", "product", "taxon", "other", "")
        message["message"] = random.choice(kinds) + random.choice((":new", ":updated", ":canceled", ":update", ""))
    try:
        return _own_codec().encode(name, message)
    except (ValueError, TypeError, OverflowError, AttributeError):
        return b"\xc3\x01"


def _key(random: Random) -> str | None:
    return random.choice((None, "", "R1", "R1", "R2", latin(drawing.data(random)), "\xff", "a" * 10_000))


def _header(random: Random) -> list[str | None]:
    name = random.choice(
        (
            "a",
            "",
            "dlq.reason",
            "dlq.topic",
            "dlq.time",
            "dlq.",
            "ä",
            "\xff\xfe",
            "\xed\xa0\xbd",
            "a\0b",
            "x" * 3000,
            "__value_schema_id",
        )
    )
    if name == "__value_schema_id" and chance(random, 0.8):
        return [name, random.choice(("\1" + "a" * 16, "\0\0\0\0d", "\0\xff\xff\xff\xff"))]
    return [name, random.choice((None, "", "b", "\xff", latin(drawing.data(random)), "y" * 5000))]


# The surroundings are real where possible.


class _Registry:
    """Has the schema of a trial, as its answer's text, under an id of the trial's own; and our own ones."""

    def __init__(self) -> None:
        self.id, self.text = 100, ""
        self._ours: list[Schema] = []

    def schema(self, schema_id: SchemaId) -> list[Schema]:
        if isinstance(schema_id, int) and 0 < schema_id <= len(self._ours):
            return [self._ours[schema_id - 1]]
        if schema_id != self.id:
            raise UnknownSchema(f"the schema registry knows no schema with the id {schema_id}")
        try:
            found: Schema = orjson.loads(self.text)
        except orjson.JSONDecodeError as error:
            raise UnknownSchema(f"it is not JSON: {error}") from None
        return [found]

    def register(self, name: str, schema: Schema) -> int:
        self._ours.append({key: value for key, value in schema.items() if not key.startswith("__")})
        return len(self._ours)


class _Api(BaseHTTPRequestHandler):
    """Accepts most events. By their bytes, it refuses some with errors that quote them."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body together: one that waits for the other costs 40 ms

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        arrays = orjson.loads(body)
        answer = orjson.dumps({array: [_verdict(event) for event in events] for array, events in arrays.items()})
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _verdict(event: Any) -> dict[str, Any]:
    text = orjson.dumps(event).decode()
    if sum(text.encode()[:200]) % 5:
        return {"success": True}
    return {
        "success": False,
        "error_type": "validation",
        "errors": {"id": f"{text[:50_000]} is not valid", "x": text[:3]},
    }


@cache
def _api() -> str:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Api)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/v2"


@cache
def _settings() -> settings.Settings:
    given = {"URL": _api(), "SITE_ID": "1", "ACCESS_TOKEN": "a-token", "PRODUCT_CATEGORY_TAXONOMY": "2"}
    return settings.load(None, {f"JIRAFE_{name}": value for name, value in given.items()})


@cache
def _own_codec() -> Codec:
    return Codec()


@cache
def _surroundings(_turn: int) -> tuple[_Registry, Codec]:
    registry = _Registry()
    return registry, Codec(registry)


_trials = count()


def _set_up(text: str) -> tuple[bytes, Codec]:
    """Put this schema into a registry, and give the framing of its records. Each codec keeps only a few schemas."""
    trial = next(_trials)
    if trial % _TRIALS_OF_A_CODEC == 0:
        _surroundings.cache_clear()
    registry, codec = _surroundings(0)
    registry.id, registry.text = 100 + trial, text
    return b"\0" + struct.pack(">I", registry.id), codec


class _Loopback:
    """A producer that returns its records. A real one, which sends them nowhere, checks them first."""

    def __init__(self) -> None:
        self._real = Producer({"bootstrap.servers": "127.0.0.1:9", "log_level": 0, "message.max.bytes": 20_971_520})
        self.records: list[tuple[str, bytes | None, bytes | None, list[Any]]] = []

    def produce(
        self, topic: str, value: bytes | None, key: bytes | None, *, headers: list[Any], **others: Any
    ) -> None:
        self._real.produce(topic, value, key, headers=headers, **others)
        self.records.append((topic, value, key, headers))

    def forget(self) -> None:
        self._real.purge()
        self._real.poll(0)
        self.records.clear()

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None  # transactions


@cache
def _loopback() -> _Loopback:
    return _Loopback()


class _Handed:
    """A record as the library returns it. It raises SystemError if the name of a header is not UTF-8."""

    def __init__(self, offset: int, drawn: dict[str, Any], framing: bytes) -> None:
        key, value = drawn["key"], drawn["value"]
        self._message = Message(
            *_ORDERS,
            offset,
            key=None if key is None else key.encode("latin-1"),
            value=None if value is None else _framed(value.encode("latin-1"), framing),
            timestamp=(1, drawn["timestamp"]),
        )
        self._headers = [
            (name.encode("latin-1"), value and value.encode("latin-1")) for name, value in drawn["headers"]
        ]

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        try:
            return [(name.decode(), value) for name, value in self._headers] or None
        except UnicodeDecodeError as error:
            raise SystemError(
                "<method 'headers' of 'cimpl.Message' objects> returned a result with an exception set"
            ) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)


def _framed(value: bytes, framing: bytes) -> bytes:
    return framing + value[len(_BY_REGISTRY) :] if value.startswith(_BY_REGISTRY) else value


def try_out(case: Case) -> None:
    """Deliver a chunk, write its outputs, and read them back."""
    framing, codec = _set_up(case["schema"])
    records = [to_record(cast("Message", _Handed(*each, framing))) for each in enumerate(case["records"])]
    delivery = app.make_delivery(_settings(), codec)
    chunk: Chunk[Work] = Chunk(_ORDERS, 1, records)
    begun = time.process_time()
    for _ in range(_TRIES):
        ended = delivery.handle(chunk, lambda: True)
        if isinstance(ended, Done):
            break
    else:
        assert isinstance(ended, Retry)
        raise Breach("a record is never decided", ended.trouble.message)
    seconds = time.process_time() - begun
    if seconds > _ONE + (len(records) - 1) * _FURTHER:
        raise Breach("a chunk takes too much of the processor", f"{seconds:.1f} s for {len(records)} records")
    for record in records:
        # Any record may be in the topic of results too. Code that reads it there expects Undecodable.
        with suppress(Undecodable):
            orjson.dumps(codec.decode_result(record.value or b""))
        orjson.dumps(contents(record, codec, {}))
    if len(ended.outputs) != len(records):
        raise Breach("there is not one output for each record")
    for record, output in zip(records, ended.outputs, strict=True):
        _check(codec, record, output)


def _check(codec: Codec, record: Record, output: Output) -> None:
    """Check that the result and the dead letter of an output can be read after a member has written them."""
    loopback = _loopback()
    writer = Writer(cast("TransactionalProducer", loopback), ("results", "letters"), "shop", Hooks(), Clock())
    try:
        writer.write([output], {}, None, Deadline(5.0))
        written = list(loopback.records)
    finally:
        loopback.forget()
    topic, value, key, _ = written[0]
    if len(value or b"") + len(key or b"") > LARGEST_RESULT:
        raise Breach("a result is larger than its topic takes", f"{len(value or b'')} bytes")
    result = codec.decode_result(value or b"")
    if (result["topic"], result["partition"], result["offset"]) != record.place:
        raise Breach("a result names another place")
    is_failed = any(notification["level"] == "error" for notification in result["notifications"])
    if is_failed != (output.dead_letter is not None) or is_failed != (result["code"] == 500):
        raise Breach("a result, its code and its dead letter contradict each other", repr(result))
    orjson.dumps(result)
    hub.check_secret([each["description"] for each in result["notifications"]])
    if output.dead_letter:
        if output.dead_letter.kind == "internal":
            raise Breach("our own code fails on a record", output.dead_letter.reason)
        hub.check_secret(output.dead_letter.reason)
        topic, value, key, headers = written[1]
        letter = read_letter(
            Record(
                topic, 0, 0, 0, key, value, tuple((n, v.encode() if isinstance(v, str) else v) for n, v in headers)
            )
        )
        if letter is None:
            raise Breach("a dead letter can't be read", repr(headers)[-300:])
        if letter.record[:6] != record[:6]:
            raise Breach("a dead letter is not its record", f"{letter.record!r} of {record!r}"[:300])
