"""Worker threads, and calls that may never return."""

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Generic, NoReturn, Protocol, TypeVar

from consumer.engine.deadline import Deadline

_LOOK = 1.0

Task = TypeVar("Task")
Answer = TypeVar("Answer")

Task_contra = TypeVar("Task_contra", contravariant=True)
Answer_co = TypeVar("Answer_co", covariant=True)


class Pool(Protocol[Task_contra, Answer_co]):
    """The engine's interface to its workers. A simulation passes its own."""

    def submit(self, task: Task_contra) -> None:
        """Hand a task over; never blocks."""

    def answers(self, timeout: float) -> Sequence[Answer_co]:
        """Take all answers, waiting up to `timeout` seconds for the first; raises what a task raised."""

    def stop(self) -> None:
        """Let the workers end once they are idle; does not wait for them."""


class Workers(Generic[Task, Answer]):
    """A fixed number of threads that work on tasks, and hand answers back through a queue.

    The threads are daemons: none can keep the process from ending.
    """

    def __init__(self, count: int, work: Callable[[Task], Answer]) -> None:
        self._work = work
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        # Not a SimpleQueue: in CPython 3.11 its wait never ends if a signal's handler returns after the timeout.
        self._answers: queue.Queue[Callable[[], Answer]] = queue.Queue()
        self._threads = [
            threading.Thread(target=self._run, name=f"worker-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Task) -> None:
        """Hand a task over; never blocks."""
        self._tasks.put(task)

    def answers(self, timeout: float) -> list[Answer]:
        """Take all answers, waiting up to `timeout` seconds for the first; raises what a task raised."""
        taken: list[Callable[[], Answer]] = []
        with suppress(queue.Empty):
            taken.append(self._answers.get(timeout=timeout))
            while True:
                taken.append(self._answers.get_nowait())
        return [answer() for answer in taken]

    def stop(self) -> None:
        """Let the threads end once they are idle; does not wait for them."""
        for _ in self._threads:
            self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._answers.put(_outcome(partial(self._work, task)))


class CallTimeout(Exception):
    """A call did not return in time. Its thread is abandoned."""


def call_within(seconds: float, call: Callable[[], None], meanwhile: Callable[[], None]) -> None:
    """Make a call in a separate thread; raises what it raises, and CallTimeout if it does not return in time.

    `meanwhile` is called on this thread about once a second.
    """
    outcomes: queue.Queue[Callable[[], None]] = queue.Queue()
    threading.Thread(target=lambda: outcomes.put(_outcome(call)), name="call-within", daemon=True).start()
    deadline = Deadline(seconds)
    while True:
        try:
            outcome = outcomes.get(timeout=min(_LOOK, deadline.left))
        except queue.Empty:
            if not deadline.left:
                raise CallTimeout from None
            meanwhile()
        else:
            return outcome()


def _outcome(call: Callable[[], Answer]) -> Callable[[], Answer]:
    """Make a call, and return a function that returns or raises the same on another thread."""
    try:
        answer = call()
    except BaseException as error:  # noqa: BLE001 - the waiting thread must get every exception
        return partial(_raise, error)
    return lambda: answer


def _raise(error: BaseException) -> NoReturn:
    raise error
