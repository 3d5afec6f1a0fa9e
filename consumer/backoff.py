"""When to try again: full-jitter exponential backoff, Retry-After, and one probe while a site is down.

Pure: the clock and the chance are handed in. Full jitter:
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from collections.abc import Callable
from dataclasses import dataclass

from consumer.record import Partition


@dataclass(frozen=True, slots=True)
class Backoff:
    """Bounds in seconds: the first delay's, every delay's, and how much of a Retry-After is obeyed."""

    first: float
    longest: float
    longest_retry_after: float

    def delay(self, failures: int, retry_after: float | None, chance: Callable[[], float]) -> float:
        """Give the seconds to wait after the failure number `failures` (from 1); `chance` gives 0 to 1.

        What the API asked for is kept to, up to the bound, and spread over a little more.
        """
        # The exponent is bounded: an outage of days must not overflow a float.
        jittered = chance() * min(self.longest, self.first * 2.0 ** min(failures - 1, 60))
        if retry_after is None:
            return jittered
        return min(retry_after, self.longest_retry_after) + min(jittered, self.first)


class Gate:
    """What lanes wait for while it does not serve (a site of the API, the registry): one of them probes.

    The lane that failed last probes last, so that none can keep the others waiting for ever. `is_held` tells that
    only an operator can mend it.
    """

    def __init__(self, since: float) -> None:
        self.since = since
        self.due = since
        self.failures = 0
        self.problem = ""
        self.is_held = False
        self._firm = False
        self._probe: Partition | None = None
        self._waiting: dict[Partition, None] = {}

    @property
    def is_firm(self) -> bool:
        """Whether lanes that did not fail here should wait too: a probe failed, or we were told to wait."""
        return self._firm or self.failures > 1

    def join(self, partition: Partition) -> None:
        """Let a lane wait behind the others."""
        self._waiting.setdefault(partition)

    def failed(self, partition: Partition, problem: str, due: Callable[[int], float], *, firm: bool) -> None:
        """Note that a lane's try failed, and why; `due` gives the time of the next after so many failures.

        Lanes that fail together are one failure: only the first one's and a probe's count.
        """
        self._waiting.pop(partition, None)
        self._waiting[partition] = None
        self.problem = problem
        self._firm = self._firm or firm
        if self.failures == 0 or self._probe == partition:
            self.failures += 1
            self.due = due(self.failures)
            self._probe = None
        elif firm:
            self.due = max(self.due, due(self.failures))  # told to wait longer than we knew

    def admits(self, partition: Partition, now: float) -> bool:
        """Tell whether this lane may probe now; if so it is the probe until it fails or leaves."""
        if self._probe is not None or now < self.due or next(iter(self._waiting)) != partition:
            return False
        self._probe = partition
        return True

    def leave(self, partition: Partition) -> bool:
        """Forget a lane that is gone; tells whether any still waits."""
        self._waiting.pop(partition, None)
        if self._probe == partition:
            self._probe = None
        return bool(self._waiting)
