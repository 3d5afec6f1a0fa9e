"""When to retry: exponential backoff with full jitter, and Retry-After.

Pure: the caller passes the random numbers. Full jitter:
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Maximum delays in seconds: of the first retry, of any retry, and of a Retry-After."""

    first: float
    longest: float
    longest_retry_after: float

    def delay(self, failures: int, retry_after: float | None, chance: Callable[[], float]) -> float:
        """Return the seconds to wait after `failures` in a row (from 1); `chance` gives 0 to 1.

        A Retry-After is obeyed up to the maximum, and spread over a little more.
        """
        # The exponent is limited: an outage of days must not overflow a float.
        jittered = chance() * min(self.longest, self.first * 2.0 ** min(failures - 1, 60))
        if retry_after is None:
            return jittered
        return min(retry_after, self.longest_retry_after) + min(jittered, self.first)
