"""Threads that do a thing with what they are given, and hand it back through a queue."""

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Task = TypeVar("Task")
Answer = TypeVar("Answer")


class Workers(Generic[Task, Answer]):
    """A fixed number of threads. They are daemons: none can keep a process from its end."""

    def __init__(self, count: int, work: Callable[[Task], Answer]) -> None:
        self._work = work
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        # No SimpleQueue: its wait becomes endless by a signal whose handler ends after the timeout.
        self._answers: queue.Queue[Answer | Exception] = queue.Queue()
        self._threads = [
            threading.Thread(target=self._run, name=f"worker-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Task) -> None:
        """Hand a task over; never blocks."""
        self._tasks.put(task)

    def answers(self, timeout: float) -> list[Answer]:
        """Take all answers there are, waiting up to `timeout` seconds for a first; raises what a task raised."""
        taken: list[Answer] = []
        try:
            answer = self._answers.get(timeout=timeout) if timeout else self._answers.get_nowait()
            while True:
                if isinstance(answer, Exception):
                    raise answer
                taken.append(answer)
                answer = self._answers.get_nowait()
        except queue.Empty:
            return taken

    def stop(self) -> None:
        """Let the threads end once they are idle; does not wait for them."""
        for _ in self._threads:
            self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                self._answers.put(self._work(task))
            except Exception as error:  # noqa: BLE001 - it is raised again where the answer is taken
                self._answers.put(error)
