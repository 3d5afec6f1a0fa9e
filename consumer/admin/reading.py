"""Reads topics without joining the group. Commits nothing, and does not disturb members.

Records behind an open transaction are hidden from readers, and may still be committed. So code that lists the
records of a topic uses `read_settled`, or calls `await_visible` first. Both wait as long as a transaction may last,
and then raise Hidden, so that nothing is left out silently.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
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
# Seconds without a record until a reader that follows a topic asks whether a broker answers, and for how long.
_QUIET = 5.0
_ANSWERED_WITHIN = 3.0
# For reading whole ranges. Compressed records can take a multiple of this in memory, per partition.
_AHEAD: dict[str, object] = {"fetch.message.max.bytes": 262_144}
# For reading one record: fetch little, and do not wait for more.
_AT_ONCE: dict[str, object] = {"fetch.wait.max.ms": 10, "fetch.message.max.bytes": 16_384}


Start = Literal["beginning", "end"] | Mapping[Partition, int | None]
"""Where to start reading: at the beginning, at the end, or at an offset per partition (None: its end)."""


def read_topic(
    cluster: Cluster, topic: str, *, start: Start, follow: bool, on_away: Callable[[], None] = lambda: None
) -> Iterator[Record | None]:
    """Yield a topic's committed records up to its present end, or, with `follow`, without end.

    With `follow`, it yields None while no record comes, so that the caller gets control. It calls `on_away` when no
    broker answers any more, and goes on when one does. Raises KafkaUnusable, and without `follow` Hidden if records
    before the end do not become visible.
    """
    places = [Partition(topic, number) for number in find_topic(cluster, topic).partitions]
    if follow:
        at = _starts(start, dict.fromkeys(places, OFFSET_BEGINNING), dict.fromkeys(places, OFFSET_END))
        yield from _follow(cluster, at, on_away)
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


def _follow(
    cluster: Cluster, starts: Mapping[Partition, int], on_away: Callable[[], None]
) -> Iterator[Record | None]:
    was_away, quiet = False, Deadline(_QUIET)
    with _reader(cluster) as consumer:
        consumer.assign([TopicPartition(*place, offset) for place, offset in starts.items()])
        while True:
            messages, _ = _polled(consumer)
            if not messages:
                yield None
            yield from map(to_record, messages)
            if messages or not quiet.left:
                # The library waits silently for an absent broker.
                is_away = not messages and not _answers(consumer, next(iter(starts)).topic)
                if is_away and not was_away:
                    on_away()
                was_away, quiet = is_away, Deadline(_QUIET)


def _answers(consumer: Consumer, topic: str) -> bool:
    """Return whether a broker answers. A consumer that asks for an absent topic does not create it."""
    try:
        consumer.list_topics(topic, timeout=_ANSWERED_WITHIN)
    except KafkaException:
        return False
    return True


def find_topic(cluster: Cluster, topic: str) -> TopicMetadata:
    """Return the broker's metadata of a topic. Raises KafkaUnusable if the topic is absent or can't be read."""
    _, topics = cluster.reach()
    found = topics.get(topic)
    if found is None:
        raise KafkaUnusable(f"there is no topic {topic} at {cluster.servers}; see jirafe-consumer topics create.")
    if found.error:
        raise KafkaUnusable(f"the topic {topic} can't be read: {found.error.str()}.")
    return found


def read_ranges(cluster: Cluster, ranges: Collection[Range]) -> Iterator[list[Message]]:
    """Yield the committed records of ranges in batches, in order within each partition, until all are read.

    If an open transaction hides the end of a range, it waits until the transaction ends. It yields an empty batch
    while no record comes, so that the caller gets control. Raises KafkaUnusable.
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
                # No record may follow this one: transaction markers and compaction leave offsets without records.
                if offset >= end - 1:
                    ends[place] = offset + 1
            read = [place for place, offset in ends.items() if offset >= left.get(place, offset + 1)]
            for place in read:
                del left[place]
            consumer.pause([TopicPartition(*place) for place in read])
            yield batch


def patience(cluster: Cluster) -> float:
    """Return how many seconds to wait for an open transaction: a little more than its timeout."""
    return cluster.transaction_timeout + _MORE_THAN_A_TRANSACTION


def read_settled(cluster: Cluster, ranges: Collection[Range]) -> Iterator[list[Message]]:
    """Yield the records of ranges as `read_ranges` does, but with a limit on the wait for open transactions.

    Raises Hidden if no record came for as long as a transaction may last, and KafkaUnusable.
    """
    deadline = Deadline(patience(cluster))
    for batch in read_ranges(cluster, ranges):
        yield batch
        if batch:
            deadline = Deadline(patience(cluster))
        elif not deadline.left:
            _check_leaders(cluster, [each.of for each in ranges])  # an absent broker is not a transaction
            topics = ", ".join(dict.fromkeys(each.topic for each in ranges))
            raise Hidden(f"{topics} has a transaction that does not end; records behind it are hidden.")


def await_visible(cluster: Cluster, ends: Mapping[Partition, int]) -> None:
    """Block until readers can see everything before these offsets. Raises Hidden, KafkaUnusable."""
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
    """Return the offset after each partition's last record: the last committed one, or else the last written.

    It is found by reading, because the embedded broker reports the first offset of the last batch instead. Raises
    KafkaUnusable.
    """
    found: dict[Partition, int] = {}
    isolation = "read_committed" if committed else "read_uncommitted"
    with _reader(cluster, **_AT_ONCE, **{"isolation.level": isolation}) as consumer:
        consumer.assign([TopicPartition(*place, OFFSET_END) for place in places])
        deadline = Deadline(REACHED_WITHIN)
        while len(found) < len(places):
            _, ends = _polled(consumer)
            found |= {place: end for place, end in ends.items() if place not in found}
            _check(cluster, set(places) - found.keys(), deadline)
    return found


def read_firsts(cluster: Cluster, ranges: Collection[Range]) -> dict[Partition, Record]:
    """Return the first committed record of each range that has one. Raises KafkaUnusable."""
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
            _check(cluster, left, deadline)
    return found


def _check(cluster: Cluster, left: Collection[Partition], deadline: Deadline) -> None:
    """Raise KafkaUnusable if reading takes too long: the library waits silently for an absent broker."""
    if left and not deadline.left:
        _check_leaders(cluster, left)
        raise KafkaUnusable(
            f"no Kafka broker answers at {cluster.servers} (no answer within {REACHED_WITHIN:.0f} seconds)."
        )


def _check_leaders(cluster: Cluster, places: Collection[Partition]) -> None:
    """Raise KafkaUnusable if no broker answers, or none leads one of these partitions."""
    _, topics = cluster.reach()
    for place in sorted(places):
        topic = topics.get(place.topic)
        if topic and place.number in topic.partitions and topic.partitions[place.number].leader < 0:
            raise KafkaUnusable(f"{place} has no leader, so it can't be read; start the brokers that host it.")


@contextmanager
def _reader(cluster: Cluster, **properties: object) -> Iterator[Consumer]:
    # What a user sets for the member must not make records seem absent or hidden here.
    own = {
        "group.id": f"{cluster.group}.reader",
        "auto.offset.reset": "earliest",
        "fetch.min.bytes": 1,
        "fetch.wait.max.ms": 500,
        "fetch.error.backoff.ms": 500,
        "fetch.queue.backoff.ms": 1000,
    }
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
    """Wait briefly for records. Returns them, and the end offset of each partition that reached its end."""
    messages, ends = [], {}
    # `consume` alone would wait until it has that many.
    first = consumer.poll(_WAIT)
    for message in [] if first is None else [first, *consumer.consume(_AT_A_TIME, 0)]:
        error = message.error()
        if error is None:
            messages.append(message)
        elif error.code() == KafkaError._PARTITION_EOF:
            ends[_place(message)] = message.offset() or 0
        elif message.topic() is None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            pass  # the library asks for the coordinator of a group that this consumer does not use
        elif not error.retriable():
            what = f"the topic {message.topic()}" if message.topic() else "Kafka"
            raise KafkaUnusable(f"{what} can't be read: {error.str().rstrip('.')}.")
    return messages, ends


def _place(message: Message) -> Partition:
    return Partition(message.topic() or "", message.partition() or 0)
