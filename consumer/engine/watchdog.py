"""Notices that this process stood still: stopped by a signal, on a suspended machine, in a starved container.

While it stood still its partitions may have become another member's. What it was about to send must then not be
sent any more, or an older event would follow a newer one.
"""

import threading
import time
from collections.abc import Callable

_BEATS_PER_TIMEOUT = 10


class Watchdog:
    """A thread that beats. `timeout` is in seconds: after it the group may have given up a silent member."""

    def __init__(self, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout = timeout
        self._clock = clock
        self._last = clock()
        self._stood_still = False
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    @property
    def stood_still(self) -> bool:
        """Whether the process stood still for the timeout at any time so far; any thread may ask."""
        # Who asks may be awake before the thread is.
        return self._stood_still or self._clock() - self._last > self._timeout

    def end(self) -> None:
        """End the thread."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self._timeout / _BEATS_PER_TIMEOUT):
            now = self._clock()
            self._stood_still = self._stood_still or now - self._last > self._timeout
            self._last = now
