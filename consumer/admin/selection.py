"""Which results or dead letters are meant: the same words for both."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from consumer.engine.records import Partition


class Told(NamedTuple):
    """What a result or dead letter tells of its record: where it was, what it had, what became of it, and when.

    `kind` is a dead letter's alone, "" else.
    """

    of: Partition
    message_type: str
    key: str
    reason: str
    at: datetime
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """All that fit everything that is given. Times are those of the result, or of the failure."""

    kind: str | None = None
    topic: str | None = None
    partitions: Collection[int] = ()
    message_type: str | None = None
    key: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def fits(self, told: Told) -> bool:
        """Tell whether it is meant."""
        return (
            self.kind in (None, told.kind)
            and self.topic in (None, told.of.topic)
            and (not self.partitions or told.of.number in self.partitions)
            and self.message_type in (None, told.message_type)
            and self.key in (None, told.key)
            and (self.reason is None or self.reason.casefold() in told.reason.casefold())
            and (self.since is None or told.at >= self.since)
            and (self.until is None or told.at < self.until)
        )


ALL = Selection()
"""Nothing is given: every one is meant."""
