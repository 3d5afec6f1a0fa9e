"""Requests made on other threads, so that one slow site does not keep a worker from serving the others."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Protocol

from jirafe.client import Answer


class Call(Protocol):
    """A request that another thread makes; any thread may ask for its answer."""

    def done(self) -> bool:
        """Return whether the answer has arrived. Never blocks."""

    def result(self, timeout: float | None = None) -> Answer:
        """Wait up to `timeout` seconds for the answer. Raises TimeoutError, and what the request raised."""


Start = Callable[[Callable[[], Answer]], Call | None]
"""Lets another thread make a request. Returns None if no thread is free; then the caller makes it itself."""


class Callers:
    """Up to `most` threads that make requests.

    They are daemons: unlike the threads of an executor, they can't keep the process from ending.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._busy = 0
        self._started = 0
        self._lock = threading.Lock()
        self._requests: SimpleQueue[tuple[Future[Answer], Callable[[], Answer]]] = SimpleQueue()

    def start(self, request: Callable[[], Answer]) -> Future[Answer] | None:
        """Let a thread make a request; None if all are busy. Any thread may call; never blocks."""
        with self._lock:
            if self._busy == self._most:
                return None
            if self._busy == self._started:
                try:
                    threading.Thread(target=self._run, name=f"caller-{self._started}", daemon=True).start()
                except RuntimeError:  # the system has no thread left
                    return None
                self._started += 1
            self._busy += 1
        future: Future[Answer] = Future()
        self._requests.put((future, request))
        return future

    def _run(self) -> None:
        while True:
            future, request = self._requests.get()
            try:
                answer = request()
            except BaseException as error:  # noqa: BLE001 - the waiting thread must get every exception
                self._free()
                future.set_exception(error)
            else:
                self._free()
                future.set_result(answer)

    def _free(self) -> None:
        with self._lock:
            self._busy -= 1
