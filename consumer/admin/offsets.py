"""Where the stopped group is to go on: its committed offsets, moved to another place."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from consumer.admin.group import Group
from consumer.admin.ranges import Position, Topics
from consumer.engine.kafka import Cluster
from consumer.engine.records import Partition
from consumer.errors import KafkaUnusable

Target = Literal["earliest", "latest"] | Position


@dataclass(frozen=True, slots=True)
class Move:
    """One partition: from the offset that is committed, None where none is, to another.

    `first` is the offset of its first record, where a group that has committed nothing begins.
    """

    topic: str
    partition: int
    first: int
    committed: int | None
    to: int

    @property
    def by(self) -> int:
        """Offsets forward, or, if negative, back, from where the group would go on; some may have no record."""
        return self.to - max(self.committed or 0, self.first)


class Offsets:
    """The group's offsets; methods raise KafkaUnusable."""

    def __init__(self, cluster: Cluster) -> None:
        self._topics = Topics(cluster)
        self.group = Group(self._topics.admin, cluster.group)

    def moves(self, topics: Mapping[str, Collection[int]], target: Target) -> list[Move]:
        """Tell what a reset of topics would do, of some of their partitions (none: of all); changes nothing.

        A time without a record then or later is the end. Nothing is skipped that is not committed yet.
        """
        places = [
            Partition(topic, each)
            for topic, numbers in topics.items()
            for each in self._topics.chosen(topic, numbers)
        ]
        firsts, ends = self._topics.firsts(places), self._topics.ends(places)
        match target:
            case "earliest":
                to: Mapping[Partition, int] = firsts
            case "latest":
                to = ends
            case int():
                for place in places:
                    _check(place, target, firsts[place], ends[place])
                to = dict.fromkeys(places, target)
            case _:
                found = self._topics.at(places, target)
                to = {place: ends[place] if (offset := found[place]) is None else offset for place in places}
        committed = self.group.committed(places)
        return [Move(*place, firsts[place], committed[place], to[place]) for place in places]

    def make(self, moves: Collection[Move]) -> None:
        """Commit what moves say; raises GroupNotEmpty while the group has any."""
        self.group.alter({Partition(move.topic, move.partition): move.to for move in moves})


def _check(place: Partition, offset: int, first: int, end: int) -> None:
    if not first <= offset <= end:
        raise KafkaUnusable(
            f"the offset {offset} is not in {place}, which goes from {first} to {end}; "
            "choose another, or one partition by --partition."
        )
