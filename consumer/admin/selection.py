"""Selects results or dead letters, by the same criteria for both."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from consumer.engine.records import Partition


class Told(NamedTuple):
    """What a selection compares: facts about a result or dead letter, and about its record.

    `kind` is that of a dead letter, and "" for a result.
    """

    of: Partition
    message_type: str
    key: str
    reason: str
    at: datetime
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """Criteria that must all match; None matches all. Times are those of the result, or of the failure."""

    kind: str | None = None
    topic: str | None = None
    partitions: Collection[int] = ()
    message_type: str | None = None
    key: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def fits(self, told: Told) -> bool:
        """Return whether a result or dead letter is selected."""
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
"""The selection without criteria: it matches everything."""
