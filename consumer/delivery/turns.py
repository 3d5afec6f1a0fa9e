"""Lets threads take turns at CPU-bound work: the interpreter runs only one thread at a time anyway.

Threads that decode at the same time only interrupt each other, and all of them finish late. With turns, each
finishes as early as possible, and sends its request while the next thread decodes.
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
        """Take a turn. Goes on without one after a quarter of a second: its holder may wait for the registry."""
        is_ours = self._lock.acquire(timeout=_LONGEST_WAIT)
        try:
            yield
        finally:
            if is_ours:
                self._lock.release()
