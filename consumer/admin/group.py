"""The consumer group, seen from outside: its members, what they own, and what is committed."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

from confluent_kafka import (
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AclOperation, AdminClient

from consumer.engine.ahead import Ahead, NotOurs, read
from consumer.engine.deadline import Deadline
from consumer.engine.kafka import REACHED_WITHIN, kafka_error
from consumer.engine.records import Partition
from consumer.errors import GroupNotEmpty, KafkaUnusable

_PAUSE = 0.2
_TRANSIENT = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
    KafkaError._TRANSPORT,
)
_NONE = (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GroupMember:
    """One member of the group, and the partitions that it owns.

    `id` tells it from all others; `instance_id` is the name that it keeps over a restart, None where it has none.
    """

    id: str
    instance_id: str | None
    client_id: str
    host: str
    owns: frozenset[Partition]


@dataclass(frozen=True, slots=True)
class Described:
    """The group as its coordinator describes it; `state` is Kafka's word for it, in small letters.

    `may_join` is None where the broker does not tell. The embedded broker tells no members: then there are none,
    also where the group is not empty.
    """

    state: str
    is_empty: bool
    members: tuple[GroupMember, ...]
    may_join: bool | None


@dataclass(frozen=True, slots=True)
class Progress:
    """What is committed of a partition: its offset is next to read, None where none is.

    `ahead` tells what is decided beyond the offset, None where nothing is said of that.
    """

    offset: int | None
    ahead: Ahead | None = None

    @classmethod
    def of(cls, place: TopicPartition) -> "Progress":
        """Read what the broker tells; what another program wrote beside the offset is left out."""
        if place.offset < 0:
            return cls(None)
        try:
            ahead = read(place.offset, place.metadata or "")
        except NotOurs:
            return cls(place.offset)
        return cls(place.offset, ahead if ahead.runs else None)


class Group:
    """A group, asked for through an admin client; every method raises KafkaUnusable where Kafka does not answer."""

    def __init__(self, admin: AdminClient, name: str) -> None:
        self.name = name
        self._admin = admin

    def describe(self) -> Described:
        """Give the group's state and members; a group that is not there is dead."""

        def describe() -> Described:
            found = self._admin.describe_consumer_groups(
                [self.name], include_authorized_operations=True, request_timeout=REACHED_WITHIN
            )
            group = found[self.name].result()
            members = tuple(
                GroupMember(
                    member.member_id,
                    member.group_instance_id or None,
                    member.client_id,
                    member.host.lstrip("/"),
                    frozenset(
                        Partition(place.topic, place.partition) for place in member.assignment.topic_partitions
                    ),
                )
                for member in group.members
            )
            allowed = group.authorized_operations
            may_join = None if allowed is None else AclOperation.READ in allowed
            return Described(group.state.name.lower().replace("_", " "), group.state in _NONE, members, may_join)

        return self._answered(describe)

    def committed(self, places: Collection[Partition], *, settled: bool = False) -> dict[Partition, int | None]:
        """Give the offset that is committed of each partition, next to read; None where none is.

        With `settled` it waits for transactions that may still commit others.
        """
        return {place: done.offset for place, done in self.progress(places, settled=settled).items()}

    def progress(self, places: Collection[Partition], *, settled: bool = False) -> dict[Partition, Progress]:
        """Give what is committed of each partition: its offset, and what is decided beyond it."""

        def committed() -> dict[Partition, Progress]:
            asked = ConsumerGroupTopicPartitions(self.name, [TopicPartition(*place) for place in places])
            found = self._admin.list_consumer_group_offsets(
                [asked], require_stable=settled, request_timeout=REACHED_WITHIN
            )
            return {
                Partition(place.topic, place.partition): Progress.of(place)
                for place in _without_error(found[self.name].result())
            }

        return self._answered(committed) if places else {}

    def check_empty(self) -> None:
        """Raise GroupNotEmpty if the group has any."""
        if not self.describe().is_empty:
            raise self._has_members()

    def alter(self, offsets: Mapping[Partition, int]) -> None:
        """Commit offsets for the group; raises GroupNotEmpty if it has any."""

        def alter() -> None:
            places = [TopicPartition(*place, offset) for place, offset in offsets.items()]
            asked = ConsumerGroupTopicPartitions(self.name, places)
            done = self._admin.alter_consumer_group_offsets([asked], request_timeout=REACHED_WITHIN)
            _without_error(done[self.name].result())

        self._answered(alter)

    def delete(self) -> None:
        """Forget the group and its offsets; it must have no members."""

        def delete() -> None:
            self._admin.delete_consumer_groups([self.name], request_timeout=REACHED_WITHIN)[self.name].result()

        self._answered(delete)

    def _answered(self, ask: Callable[[], T]) -> T:
        """Ask until there is an answer: a coordinator that has just been found, or moved, gives none at first."""
        deadline = Deadline(REACHED_WITHIN)
        while True:
            try:
                return ask()
            except KafkaException as error:
                code, why = kafka_error(error).code(), kafka_error(error).str()
                if code == KafkaError.UNKNOWN_MEMBER_ID:
                    raise self._has_members() from None
                if code not in _TRANSIENT or not deadline.left:
                    raise KafkaUnusable(f"Kafka says of the group {self.name}: {why}.") from None
                time.sleep(_PAUSE)

    def _has_members(self) -> GroupNotEmpty:
        return GroupNotEmpty(f"the group {self.name} has members: stop them all, then reset the offsets.")


def _without_error(answer: ConsumerGroupTopicPartitions) -> list[TopicPartition]:
    """Give the partitions of an answer; raises KafkaException for an error of one."""
    places = answer.topic_partitions or []
    for place in places:
        if place.error:
            raise KafkaException(place.error)
    return places
