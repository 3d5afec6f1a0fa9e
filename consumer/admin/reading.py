"""Reads topics from outside the group: nothing is committed, no member is disturbed.

What is behind an open transaction is hidden from readers, and may be committed yet. So whoever lists what is in a
topic reads it by `read_settled`, or asks `await_visible` first: both wait as long as any transaction may last, and
raise Hidden rather than leave something out without a word.
"""

import time
from collections.abc import Collection, Iterator, Mapping
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

from consumer.engine.deadline import Deadline
from consumer.engine.kafka import REACHED_WITHIN, Cluster, kafka_error, to_record
from consumer.engine.records import Partition, Range, Record
from consumer.errors import Hidden, KafkaUnusable

_WAIT = 0.2
_PAUSE = 0.5
_MORE_THAN_A_TRANSACTION = 5.0
_AT_A_TIME = 500
# For a whole range: what is fetched ahead of each partition is a multiple of this, as far as it is compressed.
_AHEAD: dict[str, object] = {"fetch.message.max.bytes": 262_144}
# For a look at one record: little is fetched, and it is not waited for more.
_AT_ONCE: dict[str, object] = {"fetch.wait.max.ms": 10, "fetch.message.max.bytes": 16_384}


Start = Literal["beginning", "end"] | Mapping[Partition, int | None]
"""Where to read from: an offset of each partition, None for its end."""


def read_topic(cluster: Cluster, topic: str, *, start: Start, follow: bool) -> Iterator[Record | None]:
    """Give a topic's committed records, to its present end, or, with `follow`, for ever.

    While it follows, a None now and then lets the caller look at other things. Raises KafkaUnusable, and Hidden for
    what does not become visible before the end.
    """
    places = [Partition(topic, number) for number in find_topic(cluster, topic).partitions]
    if follow:
        at = _starts(start, dict.fromkeys(places, OFFSET_BEGINNING), dict.fromkeys(places, OFFSET_END))
        yield from _follow(cluster, at)
        return
    ends = read_ends(cluster, places, committed=False)
    at = _starts(start, dict.fromkeys(places, 0), ends)
    for batch in read_settled(cluster, [Range(*place, at[place], end) for place, end in ends.items()]):
        yield from map(to_record, batch)


def _starts(start: Start, beginnings: dict[Partition, int], ends: dict[Partition, int]) -> dict[Partition, int]:
    match start:
        case "beginning":
            return beginnings
        case "end":
            return ends
        case _:
            chosen = {place: start.get(place) for place in ends}
            return {place: ends[place] if offset is None else offset for place, offset in chosen.items()}


def _follow(cluster: Cluster, starts: Mapping[Partition, int]) -> Iterator[Record | None]:
    with _reader(cluster) as consumer:
        consumer.assign([TopicPartition(*place, offset) for place, offset in starts.items()])
        while True:
            messages, _ = _polled(consumer)
            if not messages:
                yield None
            yield from map(to_record, messages)


def find_topic(cluster: Cluster, topic: str) -> TopicMetadata:
    """Give what the broker says of a topic; raises KafkaUnusable where it is absent."""
    _, topics = cluster.reach()
    found = topics.get(topic)
    if found is None:
        raise KafkaUnusable(f"there is no topic {topic} at {cluster.servers}.")
    if found.error:
        raise KafkaUnusable(f"the topic {topic} can't be read: {found.error.str()}.")
    return found


def read_ranges(cluster: Cluster, ranges: Collection[Range]) -> Iterator[list[Message]]:
    """Give the committed records of ranges in batches, in order within each partition, until all are read.

    Where a range ends behind a transaction that is open, it waits for the transaction's end; an empty batch now
    and then lets the caller look at other things. Raises KafkaUnusable.
    """
    left = {each.of: each.end for each in ranges if each.start < each.end}
    with _reader(cluster, **_AHEAD) as consumer:
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


def patience(cluster: Cluster) -> float:
    """Tell in how many seconds any open transaction ends: a little longer than the broker lets one live."""
    return cluster.transaction_timeout + _MORE_THAN_A_TRANSACTION


def read_settled(cluster: Cluster, ranges: Collection[Range]) -> Iterator[list[Message]]:
    """Give the records of ranges as `read_ranges` does, and wait for what open transactions hide, but not for ever.

    Raises Hidden once nothing came for as long as a transaction may last, and KafkaUnusable.
    """
    deadline = Deadline(patience(cluster))
    for batch in read_ranges(cluster, ranges):
        yield batch
        if batch:
            deadline = Deadline(patience(cluster))
        elif not deadline.left:
            cluster.reach()  # no broker, no word on transactions
            topics = ", ".join(dict.fromkeys(each.topic for each in ranges))
            raise Hidden(f"{topics} has a transaction that does not end; records behind it are hidden.")


def await_visible(cluster: Cluster, ends: Mapping[Partition, int]) -> None:
    """Wait until readers see all before these offsets, which were written; raises Hidden, KafkaUnusable."""
    deadline = Deadline(patience(cluster))
    while True:
        seen = read_ends(cluster, ends)
        left = [place for place, end in ends.items() if seen[place] < end]
        if not left:
            return
        if not deadline.left:
            raise Hidden(
                f"{left[0]} has a transaction that does not end; the records from the offset {seen[left[0]]} on "
                "are hidden behind it."
            )
        time.sleep(min(_PAUSE, deadline.left))


def read_ends(cluster: Cluster, places: Collection[Partition], *, committed: bool = True) -> dict[Partition, int]:
    """Give the offset after each partition's last record, committed or, else, written; raises KafkaUnusable.

    It is where a reader comes to: the embedded broker's own answer is the last batch's first record.
    """
    found: dict[Partition, int] = {}
    isolation = "read_committed" if committed else "read_uncommitted"
    with _reader(cluster, **_AT_ONCE, **{"isolation.level": isolation}) as consumer:
        consumer.assign([TopicPartition(*place, OFFSET_END) for place in places])
        deadline = Deadline(REACHED_WITHIN)
        while len(found) < len(places):
            _, ends = _polled(consumer)
            found |= {place: end for place, end in ends.items() if place not in found}
            _check(cluster, deadline)
    return found


def read_firsts(cluster: Cluster, ranges: Collection[Range]) -> dict[Partition, Record]:
    """Give the first committed record of each range that has one; raises KafkaUnusable."""
    left = {each.of: each.end for each in ranges if each.start < each.end}
    found: dict[Partition, Record] = {}
    with _reader(cluster, **_AT_ONCE) as consumer:
        consumer.assign([TopicPartition(*each[:3]) for each in ranges if each.start < each.end])
        deadline = Deadline(REACHED_WITHIN)
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
            _check(cluster, deadline)
    return found


def _check(cluster: Cluster, deadline: Deadline) -> None:
    """Raise KafkaUnusable if a look takes too long: the library waits for an absent broker without a word."""
    if not deadline.left:
        raise KafkaUnusable(
            f"no Kafka broker answers at {cluster.servers} (nothing within {REACHED_WITHIN:.0f} seconds)."
        )


@contextmanager
def _reader(cluster: Cluster, **properties: object) -> Iterator[Consumer]:
    own = {"group.id": f"{cluster.group}.reader"}
    config = {**cluster.consumer_properties, **cluster.client_properties("reader"), **own, **properties}
    config.pop("group.instance.id", None)
    consumer = cluster.make_consumer(config)
    try:
        yield consumer
    except KafkaException as error:
        raise cluster.unreachable(kafka_error(error)) from None
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
            raise KafkaUnusable(f"the topic {message.topic()} can't be read: {error.str()}.")
    return messages, ends


def _place(message: Message) -> Partition:
    return Partition(message.topic() or "", message.partition() or 0)
