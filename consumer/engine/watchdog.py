"""Notices that this process was paused: stopped by a signal, on a suspended machine, in a starved container.

During a pause, its partitions may have moved to another member. Then the process must not send its remaining
events, or an older event would follow a newer one.
"""

import threading
import time
from collections.abc import Callable

_BEATS_PER_TIMEOUT = 10


class Watchdog:
    """A thread that beats. After `timeout` seconds the group may have given up a silent member."""

    def __init__(self, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout = timeout
        self._clock = clock
        self._last = clock()
        self._stood_still = False
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    @property
    def stood_still(self) -> bool:
        """Whether the process was ever paused for at least the timeout. Any thread may ask."""
        # The caller may be awake before the watchdog's thread is.
        return self._stood_still or self._clock() - self._last > self._timeout

    def end(self) -> None:
        """End the thread."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self._timeout / _BEATS_PER_TIMEOUT):
            now = self._clock()
            self._stood_still = self._stood_still or now - self._last > self._timeout
            self._last = now
