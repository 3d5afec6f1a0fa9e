"""Reads topics from outside the group: nothing is committed, no member is disturbed."""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Literal

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import TopicMetadata

from consumer.kafka import Unusable, make_consumer, reach, to_record, unreachable
from consumer.log import LibraryLog
from consumer.record import Partition, Range, Record
from consumer.settings import Settings

_REACH_TIMEOUT = 10.0
_WAIT = 0.2
_AT_A_TIME = 500
# For a whole range: what is fetched ahead of each partition is a multiple of this, as far as it is compressed.
_AHEAD: dict[str, object] = {"fetch.message.max.bytes": 262_144}
# For a look at one record: little is fetched, and it is not waited for more.
_AT_ONCE: dict[str, object] = {"fetch.wait.max.ms": 10, "fetch.message.max.bytes": 16_384}


def read_topic(
    settings: Settings, topic: str, log: LibraryLog, *, start: Literal["beginning", "end"], follow: bool
) -> Iterator[Record | None]:
    """Give a topic's committed records, to its end as it is now or for ever.

    While it follows, a None now and then lets the caller look at other things. Raises Unusable.
    """
    places = [(topic, number) for number in find_topic(settings, topic, log).partitions]
    stops = {} if follow else read_ends(settings, places, log)
    with _reader(settings, log) as consumer:
        offset = OFFSET_BEGINNING if start == "beginning" else OFFSET_END
        consumer.assign([TopicPartition(*place, offset) for place in places])
        left = {place for place, stop in stops.items() if stop}
        while left or follow:
            messages, ends = _polled(consumer)
            if follow and not messages:
                yield None
            left -= ends.keys()
            for message in messages:
                place, offset = _place(message), message.offset() or 0
                if follow or offset < stops[place]:
                    yield to_record(message)
                if not follow and offset + 1 >= stops[place]:
                    left.discard(place)


def find_topic(settings: Settings, topic: str, log: LibraryLog) -> TopicMetadata:
    """Give what the broker says of a topic; raises Unusable where it is absent."""
    _, topics = reach(settings, log)
    found = topics.get(topic)
    if found is None:
        raise Unusable(f"there is no topic {topic} at {settings.kafka['bootstrap.servers']}.")
    if found.error:
        raise Unusable(f"the topic {topic} can't be read: {found.error.str()}.")
    return found


def read_ranges(settings: Settings, ranges: Collection[Range], log: LibraryLog) -> Iterator[list[Message]]:
    """Give the committed records of ranges in batches, in order within each partition, until all are read.

    Where a range ends behind a transaction that is open, it waits for the transaction's end; an empty batch now
    and then lets the caller look at other things. Raises Unusable.
    """
    left = {(each.topic, each.partition): each.end for each in ranges if each.start < each.end}
    with _reader(settings, log, **_AHEAD) as consumer:
        consumer.assign([TopicPartition(each.topic, each.partition, each.start) for each in ranges])
        while left:
            messages, ends = _polled(consumer)
            batch = []
            for message in messages:
                place = _place(message)
                end, offset = left.get(place, 0), message.offset() or 0
                if offset < end:
                    batch.append(message)
                # Any record may be the last: what follows may be markers of transactions, or compacted away.
                if offset >= end - 1:
                    ends[place] = offset + 1
            read = [place for place, offset in ends.items() if offset >= left.get(place, offset + 1)]
            for place in read:
                del left[place]
            consumer.pause([TopicPartition(*place) for place in read])
            yield batch


def read_ends(
    settings: Settings, places: Collection[Partition], log: LibraryLog, *, committed: bool = True
) -> dict[Partition, int]:
    """Give the offset after the last record of each partition, committed or, else, written at all; raises Unusable.

    It is where a reader comes to: the embedded broker's own answer is the last batch's first record.
    """
    found: dict[Partition, int] = {}
    isolation = "read_committed" if committed else "read_uncommitted"
    with _reader(settings, log, **_AT_ONCE, **{"isolation.level": isolation}) as consumer:
        consumer.assign([TopicPartition(*place, OFFSET_END) for place in places])
        late = time.monotonic() + _REACH_TIMEOUT
        while len(found) < len(places):
            _, ends = _polled(consumer)
            found |= {place: end for place, end in ends.items() if place not in found}
            _check(settings, late)
    return found


def read_firsts(settings: Settings, ranges: Collection[Range], log: LibraryLog) -> dict[Partition, Record]:
    """Give the first committed record of each range that has one; raises Unusable."""
    left = {(each.topic, each.partition): each.end for each in ranges if each.start < each.end}
    found: dict[Partition, Record] = {}
    with _reader(settings, log, **_AT_ONCE) as consumer:
        consumer.assign([TopicPartition(*each[:3]) for each in ranges if each.start < each.end])
        late = time.monotonic() + _REACH_TIMEOUT
        while left:
            messages, ends = _polled(consumer)
            looked_at = set(ends)
            for message in messages:
                place = _place(message)
                if (message.offset() or 0) < left.get(place, 0):
                    found.setdefault(place, to_record(message))
                looked_at.add(place)
            for place in looked_at & left.keys():
                del left[place]
            consumer.pause([TopicPartition(*place) for place in looked_at])
            _check(settings, late)
    return found


def _check(settings: Settings, late: float) -> None:
    """Raise Unusable if a look takes too long: a broker that is away is waited for without a word."""
    if time.monotonic() > late:
        servers = settings.kafka["bootstrap.servers"]
        raise Unusable(f"no Kafka broker answers at {servers} (nothing within {_REACH_TIMEOUT:.0f} seconds).")


@contextmanager
def _reader(settings: Settings, log: LibraryLog, **properties: object) -> Iterator[Consumer]:
    own = {"group.id": f"{settings.kafka['group.id']}.reader"}
    config = {**settings.consumer, **settings.client("reader"), **own, **properties}
    config.pop("group.instance.id", None)
    consumer = make_consumer(config, log)
    try:
        yield consumer
    except KafkaException as error:
        raise unreachable(settings, error.args[0]) from None
    finally:
        consumer.close()


def _polled(consumer: Consumer) -> tuple[list[Message], dict[Partition, int]]:
    """Wait a little for records; gives them, and the offset of the end of each partition that came to it."""
    messages, ends = [], {}
    # To consume so many at once would wait for all of them.
    first = consumer.poll(_WAIT)
    for message in [] if first is None else [first, *consumer.consume(_AT_A_TIME, 0)]:
        error = message.error()
        if error is None:
            messages.append(message)
        elif error.code() == KafkaError._PARTITION_EOF:
            ends[_place(message)] = message.offset() or 0
        elif not error.retriable():
            raise Unusable(f"the topic {message.topic()} can't be read: {error.str()}.")
    return messages, ends


def _place(message: Message) -> Partition:
    return message.topic() or "", message.partition() or 0
