"""Which trials run where: one thread and one worker process for each core, until enough trials have run."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.found import FOLDER, keep
from tests.fuzz.losable import Failure, Losable
from tests.fuzz.shrink import shrink
from tests.fuzz.targets import Case
from tests.fuzz.worker import target_module

_BATCH_SECONDS = 1.0
_FIRST_BATCH = 10
_LARGEST_BATCH = 2000
_MOST_FAILURES = 8
_SHRINK_SECONDS = 20.0
_SHRINK_TRIES = 400


@dataclass
class Hunted:
    """The progress of a target: its next seed, its trials, and the seconds that they took."""

    next_seed: int
    trials: int = 0
    seconds: float = 0.0
    failures: dict[str, Failure] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """The number of trials that take about as long as a batch should."""
        rate = self.trials / self.seconds if self.seconds else 0.0
        return min(_LARGEST_BATCH, max(_FIRST_BATCH, int(rate * _BATCH_SECONDS)))


class Bounds(NamedTuple):
    """The extent of a hunt: the first seed, the most trials of each target (None: any), and the seconds in all."""

    seed: int
    trials: int | None
    seconds: float


class Hunt:
    """Trials of targets within bounds.

    `tell` gets each new kind of failure, with the path of its case. Any thread may call it, but only one at a time.
    `folder` is where failing cases are kept.
    """

    def __init__(
        self,
        targets: Sequence[str],
        bounds: Bounds,
        tell: Callable[[Failure, Path | None], None],
        folder: Path = FOLDER,
    ) -> None:
        self.hunted = {target: Hunted(bounds.seed) for target in targets}
        self._end_seed = None if bounds.trials is None else bounds.seed + bounds.trials
        self._end = time.monotonic() + bounds.seconds
        self._tell = tell
        self._folder = folder
        self._lock = threading.Lock()

    @property
    def failures(self) -> list[Failure]:
        """One failure of each kind."""
        return [failure for hunted in self.hunted.values() for failure in hunted.failures.values()]

    def run(self, workers: int) -> None:
        """Run with this many worker processes. Blocks until the end, and raises an error that stops a thread."""
        for target in self.hunted:
            target_module(target)  # in one thread: two can't load some libraries at once
        with ThreadPoolExecutor(workers, "fuzz") as pool:
            for ended in [pool.submit(self._work) for _ in range(workers)]:
                ended.result()

    def stop(self) -> None:
        """Start no more batches. Any thread may call this."""
        self._end = 0.0

    def _work(self) -> None:
        with Losable() as losable:
            while batch := self._next():
                target, first, number = batch
                self._try(losable, target, first, number)

    def _next(self) -> tuple[str, int, int] | None:
        """Choose the target that had the least time so far, and take its next seeds."""
        with self._lock:
            left = [name for name, hunted in self.hunted.items() if self._left(hunted)]
            if not left or time.monotonic() > self._end:
                return None
            name = min(left, key=lambda each: self.hunted[each].seconds)
            hunted = self.hunted[name]
            number = min(hunted.batch, self._left(hunted))
            first, hunted.next_seed = hunted.next_seed, hunted.next_seed + number
            # Counted in advance, so that the other workers choose another target meanwhile.
            hunted.seconds += _BATCH_SECONDS
            return name, first, number

    def _left(self, hunted: Hunted) -> int:
        if len(hunted.failures) >= _MOST_FAILURES:
            return 0
        return _LARGEST_BATCH if self._end_seed is None else self._end_seed - hunted.next_seed

    def _try(self, losable: Losable, target: str, first: int, number: int) -> None:
        hunted, begun, last, end = self.hunted[target], time.monotonic(), first, first + number
        order = {"first": first, "count": number}
        while last < end:
            failures = []
            for told in losable.run(target, {"first": last, "count": end - last}):
                if isinstance(told, Failure):
                    failures.append(told)
                else:
                    last = told.seed
                    with self._lock:
                        hunted.trials += 1
            last += 1
            for failure in failures:
                self._found(losable, failure, order)
            if time.monotonic() > self._end:
                break
        with self._lock:
            hunted.seconds += time.monotonic() - begun - _BATCH_SECONDS

    def _found(self, losable: Losable, failure: Failure, order: dict[str, int]) -> None:
        """Shrink, keep and report the case of a new kind of failure."""
        with self._lock:
            known = self.hunted[failure.target].failures
            if failure.rule in known:
                return
            known[failure.rule] = failure
        path = None
        case = losable.case_of(failure.target, failure.seed)
        if case is not None and _fails(losable, failure, case):
            case = shrink(
                case,
                lambda each: _fails(losable, failure, each),
                seconds=_SHRINK_SECONDS,
                tries=_SHRINK_TRIES,
            )
            path = keep(failure, case, self._folder)
        with self._lock:
            self._tell(failure, path)


def _fails(losable: Losable, failure: Failure, case: Case) -> bool:
    """Return whether a case fails in the same way."""
    found = losable.try_case(failure.target, case)
    return found is not None and found.rule == failure.rule
