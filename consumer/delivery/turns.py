"""Turns at work that takes the processor: the interpreter runs one thread at a time in any case.

Threads that decode at once only take it from each other, every few milliseconds, and all of them are finished late.
One after the other each is finished as early as may be, and its request is on its way while the next one decodes.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST_WAIT = 0.25


class Turns:
    """Lets one thread at a time have its turn; any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Have a turn meanwhile. Blocks for a quarter of a second at most: who has it may wait for the registry."""
        is_ours = self._lock.acquire(timeout=_LONGEST_WAIT)
        try:
            yield
        finally:
            if is_ours:
                self._lock.release()
