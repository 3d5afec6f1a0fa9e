"""A bounded list of the last records that became dead letters, for the status page."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from consumer.engine.records import Output, Place

_KEPT = 50


@dataclass(frozen=True, slots=True)
class Failure:
    """A record that became a dead letter: its place, why, and when (milliseconds since 1970)."""

    place: Place
    kind: str
    reason: str
    at_ms: int


class Failures:
    """The last failures. One thread adds them, any thread may read them. `epoch_ms` is the clock."""

    def __init__(self, epoch_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._epoch_ms = epoch_ms
        self._last: deque[Failure] = deque(maxlen=_KEPT)

    def note(self, outputs: Iterable[Output]) -> None:
        """Add the outputs that have a dead letter."""
        for output in outputs:
            if letter := output.dead_letter:
                self._last.append(Failure(output.record.place, letter.kind, letter.reason, self._epoch_ms()))

    @property
    def last(self) -> list[Failure]:
        """The last failures, newest first."""
        return list(reversed(self._last.copy()))
