"""The cost of each stage of the work, in one thread, without Kafka."""

import gc
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, TypeVar

import orjson
from fastavro import schemaless_reader

from consumer.delivery import results
from consumer.delivery.defaults import Credentials, Defaults
from consumer.delivery.handler import Delivery
from consumer.delivery.mapping import Mapper
from consumer.delivery.sending import Rules
from consumer.delivery.work import Work
from consumer.demo.shop import Produced
from consumer.engine.ports import Chunk, Done
from consumer.engine.records import Partition, Record
from jirafe.client import Client
from jirafe.services import Event, make_events, notification_of_sent
from schemas.codec import Codec
from schemas.own import own_schema

T = TypeVar("T")

_CHUNK = 500
_REQUEST_BYTES = 10 * 1024 * 1024


def _seconds(work: Callable[[], object]) -> float:
    """Give the processor time of some work. The garbage collector ignores the objects of the benchmark itself."""
    gc.collect()
    gc.freeze()
    begun = time.process_time()
    work()
    seconds = time.process_time() - begun
    gc.unfreeze()
    return seconds


def _each(work: Callable[[T], object], things: Sequence[T]) -> None:
    """Do the work on each, and keep nothing, because the garbage collector would traverse it."""
    for thing in things:
        work(thing)


def floor_seconds(messages: Sequence[Produced]) -> float:
    """Give the seconds for decoding with fastavro and serializing, without mapping or sending."""
    codec = Codec()
    schemas = {kind: own_schema(kind) for kind in ("cart", "order", "taxon", "product")}
    work = []
    for message in messages:
        decoded = codec.decode(message.value)
        events = make_events(decoded["message"], decoded["payload"], decoded["parameters"])
        made = [event for event in events if isinstance(event, Event)]
        result: dict[str, Any] = {
            "message_id": decoded["message_id"],
            "message": decoded["message"],
            "code": 200,
            "notifications": [notification_of_sent(event.kind, event.name) for event in made],
            "topic": "orders",
            "partition": 0,
            "offset": 0,
            "timestamp": 0,
        }
        work.append((schemas[message.topic_kind], message.value[10:], [event.body for event in made], result))

    def all_of_it() -> None:
        for schema, value, bodies, result in work:
            schemaless_reader(BytesIO(value), schema, None)
            for body in bodies:
                orjson.dumps(body)
            codec.encode("result", result)

    return _seconds(all_of_it)


def stage_seconds(messages: Sequence[Produced], url: str) -> dict[str, float]:
    """Give the seconds of each stage, over chunks of 500 messages; they are sent to the API at `url`."""
    codec = Codec()
    rules = Rules(_REQUEST_BYTES, 10, 300.0)
    defaults = Defaults(Credentials("1", "token"), {})
    client = Client(url, timeout=30)
    delivery, mapper = Delivery(codec, client, rules, defaults, group="bench"), Mapper(codec, _REQUEST_BYTES)
    partition = Partition("orders", 0)
    records = [Record("orders", 0, number, 0, each.key, each.value, ()) for number, each in enumerate(messages)]
    chunks = [Chunk[Work](partition, 0, records[at : at + _CHUNK]) for at in range(0, len(records), _CHUNK)]
    delivery.handle(Chunk[Work](partition, 0, records[:_CHUNK]), lambda: True)  # the first request connects

    def handle() -> None:
        for chunk in chunks:
            if not isinstance(delivery.handle(chunk, lambda: True), Done):
                raise RuntimeError("the API did not accept a chunk")  # noqa: TRY004 - no type is wrong

    whole = _seconds(handle)
    decode = _seconds(lambda: _each(codec.decode_message, [each.value for each in messages]))
    draft = _seconds(lambda: _each(lambda record: mapper.draft(record, defaults), records))
    drafts = [draft for chunk in chunks if chunk.work for draft in chunk.work.drafts]
    for each in drafts:
        each.success = None
    encode = _seconds(lambda: _each(lambda draft: results.output(draft, 1, codec, "bench"), drafts))
    return {
        "decode": decode,
        "map, and write the JSON": draft - decode,
        "send, and read the answer": whole - draft - encode,
        "decide, and encode results": encode,
    }
