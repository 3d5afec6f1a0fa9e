"""Where the stopped group is to go on: its committed offsets, moved to another place."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from consumer.kafka import Unusable
from consumer.log import LibraryLog
from consumer.record import Partition
from consumer.settings import Settings
from consumer.tools.group import Group
from consumer.tools.ranges import Place, Places

Target = Literal["earliest", "latest"] | Place


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
    """The group's offsets; methods raise Unusable."""

    def __init__(self, settings: Settings, log: LibraryLog) -> None:
        self._places = Places(settings, log)
        self.group = Group(self._places.admin, settings.kafka["group.id"])

    def moves(self, topics: Mapping[str, Collection[int]], target: Target) -> list[Move]:
        """Tell what a reset of topics would do, of some of their partitions (none: of all); changes nothing.

        A time without a record then or later is the end. Nothing is skipped that is not committed yet.
        """
        places = [
            (topic, each) for topic, numbers in topics.items() for each in self._places.chosen(topic, numbers)
        ]
        firsts, ends = self._places.firsts(places), self._places.ends(places)
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
                found = self._places.at(places, target)
                to = {place: ends[place] if (offset := found[place]) is None else offset for place in places}
        committed = self.group.committed(places)
        return [Move(*place, firsts[place], committed[place], to[place]) for place in places]

    def make(self, moves: Collection[Move]) -> None:
        """Commit what moves say; raises HasMembers while the group has any."""
        self.group.alter({(move.topic, move.partition): move.to for move in moves})


def _check(place: Partition, offset: int, first: int, end: int) -> None:
    if not first <= offset <= end:
        topic, partition = place
        raise Unusable(
            f"the offset {offset} is not in {topic}/{partition}, which goes from {first} to {end}; "
            "choose another, or one partition by --partition."
        )
