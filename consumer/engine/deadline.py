"""The engine's clock, and deadlines that use it."""

import time
from collections.abc import Callable


class Clock:
    """The real clock. A simulation passes its own."""

    def monotonic(self) -> float:
        """Return seconds that never go backwards, for waits and deadlines."""
        return time.monotonic()

    def epoch_ms(self) -> int:
        """Return milliseconds since 1970, for output that others read."""
        return time.time_ns() // 1_000_000

    def sleep(self, seconds: float) -> None:
        """Block the calling thread for some seconds."""
        time.sleep(seconds)


class Deadline:
    """One time limit, in seconds, shared by all steps of an operation."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    @property
    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - self._clock())
