"""Moves the committed offsets of the stopped group: where it will continue."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from consumer.admin.group import Group
from consumer.admin.ranges import Position, Topics
from consumer.engine.ahead import Runs
from consumer.engine.kafka import Cluster
from consumer.engine.records import Partition
from consumer.errors import KafkaUnusable

Target = Literal["earliest", "latest"] | Position


@dataclass(frozen=True, slots=True)
class Move:
    """The move of one partition from its committed offset (None if there is none) to another.

    `first` is the offset of its first record. A group without a committed offset starts there. `ahead` are the runs
    decided beyond the committed offset. The move forgets them.
    """

    topic: str
    partition: int
    first: int
    committed: int | None
    to: int
    ahead: Runs = ()

    @property
    def changes(self) -> bool:
        """Whether there is something to commit."""
        return self.committed != self.to or bool(self.ahead)

    @property
    def again(self) -> int:
        """How many decided offsets are delivered again. Some may have no record."""
        return max(0, self._start - self.to) + self._decided(self.to, self.ahead[-1][1] if self.ahead else 0)

    @property
    def skipped(self) -> int:
        """How many undecided offsets are skipped. Some may have no record."""
        return max(0, self.to - self._start) - self._decided(self._start, self.to)

    @property
    def _start(self) -> int:
        return max(self.committed or 0, self.first)

    def _decided(self, low: int, high: int) -> int:
        """Count the offsets decided ahead from `low` on, before `high`."""
        return sum(max(0, min(end, high) - max(start, low)) for start, end in self.ahead)


class Offsets:
    """The group's offsets. Methods may block for seconds, and raise KafkaUnusable."""

    def __init__(self, cluster: Cluster) -> None:
        self._topics = Topics(cluster)
        self.group = Group(self._topics.admin, cluster.group)

    def moves(self, topics: Mapping[str, Collection[int]], target: Target) -> list[Move]:
        """Return what a reset would do to the given partitions of each topic (none given: to all); changes nothing.

        A time after the last record means the end. The end is that of committed records: no record of an open
        transaction is skipped.
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
        progress = self.group.progress(places)
        return [
            Move(*place, firsts[place], done.offset, to[place], done.ahead.runs if done.ahead else ())
            for place, done in ((place, progress[place]) for place in places)
        ]

    def make(self, moves: Collection[Move]) -> None:
        """Commit the moves. Raises GroupNotEmpty while the group has members."""
        self.group.alter({Partition(move.topic, move.partition): move.to for move in moves})


def _check(place: Partition, offset: int, first: int, end: int) -> None:
    if not first <= offset <= end:
        raise KafkaUnusable(
            f"the offset {offset} is not in {place}, whose log goes from {first} to {end}; choose another offset, "
            "or name partitions with --partition."
        )
