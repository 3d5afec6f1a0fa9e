"""The last minutes of a member, for small charts: a series of points at equal intervals."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consumer.monitor.metrics import Totals

STEP = 5.0
"""Seconds from one point to the next."""

_KEPT = 120
_MEDIAN, _MOST = 0.5, 0.95


@dataclass(frozen=True, slots=True)
class Reading:
    """The totals at a moment (`at`, in monotonic seconds), and the lag then; None while it is not known."""

    at: float
    totals: Totals
    lag: int | None


@dataclass(frozen=True, slots=True)
class Point:
    """What happened between two readings: rates per second, and the durations of requests in seconds.

    `median` and `most` are the 50th and the 95th percentile of the durations, None if there was no request.
    """

    at: float
    results: float
    dead_letters: float
    retries: float
    median: float | None
    most: float | None
    lag: int | None


def point(before: Reading, after: Reading) -> Point:
    """Return the point between two readings."""
    seconds, old, new = after.at - before.at, before.totals, after.totals
    buckets = [(bound, count - was) for (bound, count), (_, was) in zip(new.latency, old.latency, strict=True)]
    return Point(
        at=after.at,
        results=(new.results - old.results) / seconds,
        dead_letters=(new.dead_letters - old.dead_letters) / seconds,
        retries=(new.retries - old.retries) / seconds,
        median=quantile(_MEDIAN, buckets),
        most=quantile(_MOST, buckets),
        lag=after.lag,
    )


def quantile(share: float, buckets: Sequence[tuple[float, float]]) -> float | None:
    """Estimate a quantile as Prometheus does, linearly within its bucket; None if nothing was counted.

    `buckets` has pairs of an upper bound and the count of values up to it. The last bound is infinite.
    """
    rank = share * buckets[-1][1]
    if not rank:
        return None
    lower, below = 0.0, 0.0
    for bound, count in buckets[:-1]:
        if count >= rank:
            return lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return lower  # it is above the last finite bound, so at least that bound


class History:
    """Keeps the points of the last ten minutes. One thread takes them, any thread may read them."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read
        self._last = read()
        self._points: deque[Point] = deque(maxlen=_KEPT)

    @property
    def points(self) -> list[Point]:
        """The points so far, oldest first."""
        return list(self._points.copy())

    def take(self) -> None:
        """Take a reading, and add the point since the last one."""
        reading = self._read()
        self._points.append(point(self._last, reading))
        self._last = reading
