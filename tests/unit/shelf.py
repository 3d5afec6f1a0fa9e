"""Topics on a shelf: what the admin tools ask of Kafka, answered from memory, with transactions that stay open.

Only what a broker would say is made up here. Reading, waiting and reckoning are the tools' own.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    ConsumerGroupState,
    KafkaError,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from consumer.admin.deployment import Deployment
from consumer.engine.kafka import Cluster
from consumer.engine.records import DeadLetter, Partition, Record
from consumer.engine.writer import _headers as dead_letter_headers
from schemas.codec import Codec

GROUP = "shop"
ORDERS, RESULTS, LETTERS = "orders", "results", "letters"


CODEC = Codec()


class Kept(NamedTuple):
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


@dataclass
class Log:
    """One partition: its records by offset; readers see those before `visible`, None for all."""

    kept: dict[int, Kept] = field(default_factory=dict)
    first: int = 0
    end: int = 0
    visible: int | None = None

    @property
    def committed_end(self) -> int:
        return self.end if self.visible is None else self.visible


class Said:
    """A message as a consumer hands it over, or the end of a partition."""

    def __init__(self, place: Partition, offset: int, kept: Kept | None) -> None:
        self._place, self._offset, self._kept = place, offset, kept

    def topic(self) -> str:
        return self._place.topic

    def partition(self) -> int:
        return self._place.number

    def offset(self) -> int:
        return self._offset

    def error(self) -> KafkaError | None:
        return None if self._kept else KafkaError(KafkaError._PARTITION_EOF)

    def timestamp(self) -> tuple[int, int]:
        assert self._kept
        return 1, self._kept.timestamp

    def key(self) -> bytes | None:
        assert self._kept
        return self._kept.key

    def value(self) -> bytes | None:
        assert self._kept
        return self._kept.value

    def headers(self) -> list[tuple[str, bytes]]:
        assert self._kept
        return self._kept.headers


class Shelf:
    """All logs; `on_idle` is called whenever a reader finds nothing new, `on_assign` when one begins."""

    def __init__(self, *, partitions: int = 1) -> None:
        self.logs = {
            Partition(topic, number): Log() for topic in (ORDERS, RESULTS, LETTERS) for number in range(partitions)
        }
        self.committed: dict[Partition, int] = {}
        self.metadata: dict[Partition, str] = {}
        self.topic_id = "a-topic-id"
        self.members: list[Any] = []
        self.leaderless: set[Partition] = set()
        self.on_idle: Callable[[], None] = lambda: None
        self.on_assign: Callable[[], None] = lambda: None
        self.read_from: list[TopicPartition] = []

    def add(  # noqa: PLR0913 - as much as a record has
        self,
        topic: str,
        value: bytes | None,
        *,
        partition: int = 0,
        timestamp: int = 0,
        key: bytes | None = None,
        headers: Sequence[tuple[str, str | bytes | None]] = (),
    ) -> int:
        log = self.logs[Partition(topic, partition)]
        offset, log.end = log.end, log.end + 1
        written = [(name, each.encode() if isinstance(each, str) else each or b"") for name, each in headers]
        log.kept[offset] = Kept(timestamp, key, value, written)
        return offset

    def result(self, offset: int, *, code: int = 200, partition: int = 0, at: int = 0, **said: Any) -> int:
        result = {
            "message_id": "m",
            "message": "order:new",
            "code": code,
            "notifications": [],
            "topic": ORDERS,
            "partition": partition,
            "offset": offset,
            "timestamp": self.timestamp(offset, partition),
            **said,
        }
        return self.add(RESULTS, CODEC.encode("result", result), timestamp=at)

    def timestamp(self, offset: int, partition: int = 0) -> int:
        """Give the timestamp of a record that is there, 0 of none."""
        kept = self.logs[Partition(ORDERS, partition)].kept.get(offset)
        return kept.timestamp if kept else 0

    def letter(  # noqa: PLR0913 - each is a test's choice
        self,
        of: Record,
        *,
        kind: str = "rejected",
        at: int = 0,
        partition: int = 0,
        reason: str = "refused",
        group: str = GROUP,
    ) -> int:
        if of.topic == ORDERS and not of.timestamp:
            of = of._replace(timestamp=self.timestamp(of.offset, of.partition))
        headers = dead_letter_headers(of, DeadLetter(kind, reason, 1), group, at)
        return self.add(LETTERS, of.value, key=of.key, headers=headers, partition=partition, timestamp=at)

    def deployment(self, *, patience: float = 0.3) -> Deployment:
        return Deployment(ShelfCluster(self, patience), (ORDERS,), (), RESULTS, LETTERS)


class ShelfCluster(Cluster):
    def __init__(self, shelf: Shelf, patience: float) -> None:
        properties = {"bootstrap.servers": "shelf", "group.id": GROUP}
        super().__init__(properties, instance="test", host="test", transaction_timeout=2)
        self._shelf = shelf
        self._patience = patience

    @property
    def transaction_timeout(self) -> float:
        return self._patience - 5.0

    def make_consumer(self, properties: Mapping[str, Any]) -> Consumer:
        return cast("Consumer", ShelfConsumer(self._shelf, properties["isolation.level"] == "read_committed"))

    def reach(self) -> tuple[AdminClient, dict[str, Any]]:
        topics: dict[str, Any] = {}
        for place in self._shelf.logs:
            topic = topics.setdefault(place.topic, SimpleNamespace(error=None, partitions={}))
            topic.partitions[place.number] = SimpleNamespace(leader=-1 if place in self._shelf.leaderless else 1)
        return cast("AdminClient", ShelfAdmin(self._shelf)), topics


class ShelfConsumer:
    def __init__(self, shelf: Shelf, committed: bool) -> None:  # noqa: FBT001 - one caller, above
        self._shelf, self._committed = shelf, committed
        self._next: dict[Partition, int] = {}
        self._told: dict[Partition, int] = {}

    def assign(self, places: Collection[TopicPartition]) -> None:
        for each in places:
            place, offset = Partition(each.topic, each.partition), each.offset
            assert place not in self._shelf.leaderless, "the library would wait for its leader"
            log = self._shelf.logs[place]
            offset = self._end(log) if offset == OFFSET_END else offset
            self._next[place] = log.first if offset == OFFSET_BEGINNING else max(offset, log.first)
            self._shelf.read_from.append(TopicPartition(each.topic, each.partition, self._next[place]))

        ends_alone = OFFSET_END in {each.offset for each in places}
        (self._shelf.on_idle if ends_alone else self._shelf.on_assign)()

    def _end(self, log: Log) -> int:
        return log.committed_end if self._committed else log.end

    def poll(self, _timeout: float) -> Said | None:
        said = self._next_said()
        if said is None:
            self._shelf.on_idle()
            time.sleep(0.005)
        return said

    def _next_said(self) -> Said | None:
        for place, at in self._next.items():
            log = self._shelf.logs[place]
            offset = next((each for each in range(at, self._end(log)) if each in log.kept), None)
            if offset is not None:
                self._next[place] = offset + 1
                return Said(place, offset, log.kept[offset])
            if self._told.get(place) != self._end(log):
                self._told[place] = self._next[place] = self._end(log)
                return Said(place, self._end(log), None)
        return None

    def consume(self, count: int, _timeout: float) -> list[Said]:
        return [said for _ in range(count) if (said := self._next_said())]

    def pause(self, places: Collection[TopicPartition]) -> None:
        for each in places:
            self._next.pop(Partition(each.topic, each.partition), None)

    def close(self) -> None:
        pass


def done(value: Any) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(value)
    return future


class ShelfAdmin:
    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def list_offsets(self, asked: Mapping[TopicPartition, OffsetSpec], **_: Any) -> dict[TopicPartition, Any]:
        answers = {}
        for each, spec in asked.items():
            log = self._shelf.logs[Partition(each.topic, each.partition)]
            moment = vars(spec).get("timestamp")
            if moment is None:
                found = log.first, -1
            else:
                later = [at for at in sorted(log.kept) if at >= log.first and log.kept[at].timestamp >= moment]
                found = (later[0], log.kept[later[0]].timestamp) if later else (-1, -1)
            answers[each] = done(SimpleNamespace(offset=found[0], timestamp=found[1]))
        return answers

    def list_consumer_group_offsets(self, asked: Any, **_: Any) -> dict[str, Any]:
        (request,) = asked
        places = [
            TopicPartition(
                each.topic,
                each.partition,
                self._shelf.committed.get(Partition(each.topic, each.partition), -1001),
                self._shelf.metadata.get(Partition(each.topic, each.partition), ""),
            )
            for each in request.topic_partitions
        ]
        return {request.group_id: done(SimpleNamespace(topic_partitions=places))}

    def describe_topics(self, asked: Any, **_: Any) -> dict[str, Any]:
        return {topic: done(SimpleNamespace(topic_id=self._shelf.topic_id)) for topic in asked.topic_names}

    def describe_consumer_groups(self, names: list[str], **_: Any) -> dict[str, Any]:
        state = ConsumerGroupState.STABLE if self._shelf.members else ConsumerGroupState.EMPTY
        found = SimpleNamespace(members=self._shelf.members, authorized_operations=None, state=state)
        return {name: done(found) for name in names}


def member(member_id: str, *owns: Partition, instance_id: str | None = None) -> Any:
    places = [TopicPartition(*place) for place in owns]
    return SimpleNamespace(
        member_id=member_id,
        group_instance_id=instance_id,
        client_id="jirafe-consumer-one",
        host="/10.0.0.1",
        assignment=SimpleNamespace(topic_partitions=places),
    )
