"""The consumer group, seen from outside: its members, their partitions, and its committed offsets."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from confluent_kafka import (
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AclOperation, AdminClient

from consumer.admin.asking import TRY, answered
from consumer.engine.ahead import Ahead, NotOurs, read
from consumer.engine.kafka import kafka_error
from consumer.engine.records import Partition
from consumer.errors import GroupNotEmpty, KafkaUnusable

_NONE = (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GroupMember:
    """One member of the group, and the partitions that it owns.

    `id` is unique. `instance_id` is the name that a static member keeps over a restart, None if it has none.
    """

    id: str
    instance_id: str | None
    client_id: str
    host: str
    owns: frozenset[Partition]


@dataclass(frozen=True, slots=True)
class Described:
    """The group as its coordinator describes it. `state` is Kafka's name of the state, in lower case.

    `may_join` is None if the broker does not say. The embedded broker lists no members: `members` is then empty
    even if the group has some.
    """

    state: str
    is_empty: bool
    members: tuple[GroupMember, ...]
    may_join: bool | None


@dataclass(frozen=True, slots=True)
class Progress:
    """What the group has committed for a partition. `offset` is the next to read, None if none is committed.

    An offset that was committed for a deleted topic of the same name is none: the group does not use it. `ahead`
    has the offsets that are decided beyond it, and what blocks it. It is None if there is neither.
    """

    offset: int | None
    ahead: Ahead | None = None

    @classmethod
    def of(cls, place: TopicPartition, topic_id: str) -> "Progress":
        """Read the broker's answer. Metadata that another program committed with the offset is ignored.

        `topic_id` is the topic's current id, empty if it is not known.
        """
        if place.offset < 0:
            return cls(None)
        try:
            ahead = read(place.offset, place.metadata or "")
        except NotOurs:
            return cls(place.offset)
        if ahead.topic_id and topic_id and ahead.topic_id != topic_id:
            return cls(None)
        return cls(place.offset, ahead if ahead.runs or ahead.blocker else None)


class Group:
    """A group, accessed through an admin client. Every method may block for seconds, and raises KafkaUnusable."""

    def __init__(self, admin: AdminClient, name: str) -> None:
        self.name = name
        self._admin = admin

    def describe(self) -> Described:
        """Return the group's state and members. A group that does not exist is `dead`."""

        def describe() -> Described:
            found = self._admin.describe_consumer_groups(
                [self.name], include_authorized_operations=True, request_timeout=TRY
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
        """Return the committed offset of each partition, which is the next to read; None if there is none.

        With `settled`, it waits for open transactions that may still commit other offsets.
        """
        return {place: done.offset for place, done in self.progress(places, settled=settled).items()}

    def progress(self, places: Collection[Partition], *, settled: bool = False) -> dict[Partition, Progress]:
        """Return what is committed for each partition: its offset, and what is decided beyond it."""

        def committed() -> dict[Partition, Progress]:
            asked = ConsumerGroupTopicPartitions(self.name, [TopicPartition(*place) for place in places])
            found = self._admin.list_consumer_group_offsets([asked], require_stable=settled, request_timeout=TRY)
            answer = _without_error(found[self.name].result())
            ids = self._topic_ids({place.topic for place in answer if place.metadata})
            return {
                Partition(place.topic, place.partition): Progress.of(place, ids.get(place.topic, ""))
                for place in answer
            }

        return self._answered(committed) if places else {}

    def _topic_ids(self, topics: Collection[str]) -> dict[str, str]:
        """Return the current ids of topics, without those that the broker does not tell."""
        ids = {}
        asked = self._admin.describe_topics(TopicCollection(sorted(topics)), request_timeout=TRY) if topics else {}
        for topic, future in asked.items():
            with suppress(KafkaException):
                ids[topic] = str(future.result().topic_id)
        return ids

    def check_empty(self) -> None:
        """Raise GroupNotEmpty if the group has members."""
        if not self.describe().is_empty:
            raise self._has_members()

    def alter(self, offsets: Mapping[Partition, int]) -> None:
        """Commit offsets for the group. Raises GroupNotEmpty if it has members."""

        def alter() -> None:
            places = [TopicPartition(*place, offset) for place, offset in offsets.items()]
            asked = ConsumerGroupTopicPartitions(self.name, places)
            done = self._admin.alter_consumer_group_offsets([asked], request_timeout=TRY)
            _without_error(done[self.name].result())

        self._answered(alter)

    def delete(self) -> None:
        """Delete the group and its offsets. It must have no members."""

        def delete() -> None:
            self._admin.delete_consumer_groups([self.name], request_timeout=TRY)[self.name].result()

        self._answered(delete)

    def _answered(self, ask: Callable[[], T]) -> T:
        try:
            return answered(ask)
        except KafkaException as error:
            if kafka_error(error).code() == KafkaError.UNKNOWN_MEMBER_ID:
                raise self._has_members() from None
            if kafka_error(error).code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                raise KafkaUnusable(
                    f"this client may not use the group {self.name}; "
                    "SECURITY.md lists the permissions of each command."
                ) from None
            raise KafkaUnusable(
                f"Kafka reports an error for the group {self.name}: {kafka_error(error).str()}."
            ) from None

    def _has_members(self) -> GroupNotEmpty:
        return GroupNotEmpty(f"the group {self.name} has members: stop them all, then reset the offsets.")


def _without_error(answer: ConsumerGroupTopicPartitions) -> list[TopicPartition]:
    """Return the partitions of an answer. Raises KafkaException if one has an error."""
    places = answer.topic_partitions or []
    for place in places:
        if place.error:
            raise KafkaException(place.error)
    return places
