"""The last records that could not be delivered, for those who ask what went wrong: a bounded list."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from consumer.record import Output, Partition

_KEPT = 50
_LONGEST_REASON = 400


@dataclass(frozen=True, slots=True)
class Failure:
    """A record that became a dead letter: its place, why, and when (milliseconds since 1970)."""

    partition: Partition
    offset: int
    kind: str
    reason: str
    at_ms: int


class Failures:
    """The last failures; any thread may note and ask. `epoch_ms` tells the time."""

    def __init__(self, epoch_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._epoch_ms = epoch_ms
        self._last: deque[Failure] = deque(maxlen=_KEPT)

    def note(self, outputs: Iterable[Output]) -> None:
        """Note those of the outputs that have a dead letter."""
        for record, _, letter in outputs:
            if letter:
                place = (record.topic, record.partition)
                reason = letter.reason
                if len(reason) > _LONGEST_REASON:
                    reason = reason[:_LONGEST_REASON] + " ..."
                self._last.append(Failure(place, record.offset, letter.kind, reason, self._epoch_ms()))

    @property
    def last(self) -> list[Failure]:
        """The last failures, newest first; a record that failed again after a rebalance is there once."""
        newest: dict[tuple[Partition, int], Failure] = {}
        for failure in reversed(self._last.copy()):
            newest.setdefault((failure.partition, failure.offset), failure)
        return list(newest.values())
