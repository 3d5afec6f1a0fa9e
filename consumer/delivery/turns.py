"""Turns at work that takes the processor: the interpreter runs one thread at a time in any case.

Threads that decode at the same time only interrupt each other, and all of them finish late. In turns each finishes
as early as possible, and its request is on its way while the next thread decodes.
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
        """Take a turn. Waits a quarter of a second at most: whoever has the turn may wait for the registry."""
        is_ours = self._lock.acquire(timeout=_LONGEST_WAIT)
        try:
            yield
        finally:
            if is_ours:
                self._lock.release()
