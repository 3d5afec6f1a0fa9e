"""Virtual time, and tasks that take turns in one thread. The seed chooses every interleaving.

A task is blocking code in its own greenlet. It runs until it waits. Then the hub, the greenlet that called `run`,
takes the next event from the queue and moves the clock to it. The seed draws the order of events of the same
moment. Nothing here reads the real clock.
"""

import heapq
from collections.abc import Callable
from random import Random
from typing import Any

from greenlet import getcurrent, greenlet

NEVER = float("inf")


class Killed(BaseException):
    """The process of a task was killed. Only `finally` blocks still run."""


class Stuck(AssertionError):
    """A run needs more events than any run should: something loops without progress."""


class Process:
    """Tasks and their events, which can be killed or frozen together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_alive = True
        self.frozen_until = 0.0
        self.freezes: list[tuple[float, float]] = []
        self._tasks: dict[Task, None] = {}

    def tasks(self) -> list["Task"]:
        return list(self._tasks)

    def add(self, task: "Task") -> None:
        self._tasks[task] = None

    def remove(self, task: "Task") -> None:
        self._tasks.pop(task, None)


class Signal:
    """Tasks wait for it. Once set, it stays set until `clear`."""

    __slots__ = ("_waiting", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._waiting: list[Callable[[bool], None]] = []

    def set(self) -> None:
        self.is_set = True
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake(True)  # noqa: FBT003 - the answer to whether it was set

    def clear(self) -> None:
        self.is_set = False

    def wait_with(self, wake: Callable[[bool], None]) -> None:
        self._waiting.append(wake)


class Task:
    """Blocking code of a process, in its own greenlet. `works_on` is for the code that started it."""

    __slots__ = ("_body", "_ended", "_greenlet", "_kernel", "process", "works_on")

    def __init__(
        self,
        kernel: "Kernel",
        process: Process,
        body: Callable[[], None],
        ended: Callable[[BaseException | None], None],
    ) -> None:
        self._kernel = kernel
        self.process = process
        self.works_on: Any = None
        self._body = body
        self._ended = ended
        self._greenlet = greenlet(self._run, kernel.hub)
        process.add(self)

    def switch(self, value: object = None) -> None:
        """Continue it until it waits or ends. Only the hub calls this."""
        self._kernel.current = self
        self._greenlet.switch(value)
        self._kernel.current = None

    def kill(self) -> None:
        """End it where it waits. Only the hub calls this."""
        if not self._greenlet.dead:
            self._kernel.current = self
            if self._greenlet:
                self._greenlet.throw(Killed)
            self._kernel.current = None
        self.process.remove(self)

    def _run(self, _: object) -> None:
        error: BaseException | None = None
        try:
            self._body()
        except BaseException as raised:  # noqa: BLE001 - `ended` gets it
            error = raised
        self.process.remove(self)
        if not isinstance(error, Killed):
            self._ended(error)


class Kernel:
    """The clock, the queue of events, and the tasks."""

    def __init__(self, seed: object) -> None:
        self.now = 1000.0
        self.random = Random(f"{seed} kernel")  # noqa: S311 - chance, not cryptography
        self.current: Task | None = None
        self.events = 0
        self._queue: list[tuple[float, float, int, Process | None, Callable[[], None]]] = []
        self._pushed = 0
        self.hub = getcurrent()

    # events

    def at(self, moment: float, call: Callable[[], None], process: Process | None = None) -> None:
        """Call later, in the hub. A dead process gets no calls, and a frozen one gets them when it wakes up."""
        self._pushed += 1
        heapq.heappush(self._queue, (max(moment, self.now), self.random.random(), self._pushed, process, call))

    def at_first(self, moment: float, call: Callable[[], None]) -> None:
        """Call before all other events of that moment. Unlike `at`, this does not change their order."""
        self._pushed += 1
        heapq.heappush(self._queue, (moment, -1.0, self._pushed, None, call))

    def after(self, seconds: float, call: Callable[[], None], process: Process | None = None) -> None:
        self.at(self.now + seconds, call, process)

    def run(self, until: float, is_over: Callable[[], bool] = lambda: False, most_events: int = 400_000) -> bool:
        """Run events until a moment, or until `is_over`. Returns whether it is over."""
        while not is_over():
            if not self._queue or self._queue[0][0] > until:
                self.now = max(self.now, until)
                return False
            moment, _, _, process, call = heapq.heappop(self._queue)
            if process is not None:
                if not process.is_alive:
                    continue
                if process.frozen_until > moment:
                    self.at(process.frozen_until, call, process)
                    continue
            self.now = moment
            self.events += 1
            if self.events > most_events:
                raise Stuck(f"more than {most_events} events")
            call()
        return True

    # tasks

    def start(
        self,
        process: Process,
        body: Callable[[], None],
        ended: Callable[[BaseException | None], None],
        delay: float = 0.0,
    ) -> Task:
        """Start a task. `ended` gets what it raised, or None. It is not called if the task was killed."""
        task = Task(self, process, body, ended)
        self.after(delay, task.switch, process)
        return task

    def wait(self, signal: Signal | None, seconds: float = NEVER) -> bool:
        """Wait in a task for a signal, for at most some seconds. Returns whether the signal is set."""
        task = self.current
        assert task is not None, "only a task can wait"
        if not task.process.is_alive:
            raise Killed
        if signal is not None and signal.is_set:
            return True
        if seconds <= 0:
            return False
        woken = False

        def wake(value: bool) -> None:  # noqa: FBT001
            nonlocal woken
            if not woken:
                woken = True
                self.at(self.now, lambda: task.switch(value), task.process)

        def time_out() -> None:
            nonlocal woken
            if not woken:
                woken = True
                task.switch(False)  # noqa: FBT003

        if signal is not None:
            signal.wait_with(wake)
        if seconds != NEVER:
            self.after(seconds, time_out, task.process)
        answer = self.hub.switch()
        if not task.process.is_alive:
            raise Killed
        return bool(answer)

    def sleep(self, seconds: float) -> None:
        self.wait(None, seconds)

    # processes

    def kill(self, process: Process) -> None:
        """End a process at once. If one of its tasks calls this, it must raise Killed next."""
        process.is_alive = False
        self.at(self.now, lambda: self._bury(process))

    def freeze(self, process: Process, seconds: float) -> None:
        """Freeze a process. If one of its tasks calls this, it continues afterwards."""
        since = self.now
        if process.freezes and process.freezes[-1][1] >= since:
            since, _ = process.freezes.pop()
        process.frozen_until = max(process.frozen_until, self.now + seconds)
        process.freezes.append((since, process.frozen_until))
        if self.current is not None and self.current.process is process:
            self.sleep(seconds)

    def _bury(self, process: Process) -> None:
        for task in process.tasks():
            task.kill()
