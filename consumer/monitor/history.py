"""The last minutes, for small charts: what a member did between one moment and the next."""

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
    """What was counted until a moment (`at`, monotonic), and the lag then; None while it is not known."""

    at: float
    totals: Totals
    lag: int | None


@dataclass(frozen=True, slots=True)
class Point:
    """What was between two readings: rates a second, and how long requests took, in seconds.

    Of requests `median` is the middle, and `most` what 95 % of them did not exceed; None where there was none.
    """

    at: float
    results: float
    dead_letters: float
    retries: float
    median: float | None
    most: float | None
    lag: int | None


def point(before: Reading, after: Reading) -> Point:
    """Tell what was between two readings."""
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
    """Estimate a quantile, as Prometheus does: linear in its bucket; None if nothing was counted.

    `buckets` has upper bounds, the last infinite, each with how many were up to it.
    """
    rank = share * buckets[-1][1]
    if not rank:
        return None
    lower, below = 0.0, 0.0
    for bound, count in buckets[:-1]:
        if count >= rank:
            return lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return lower  # over the last finite bound: at least that


class History:
    """Keeps the points of the last ten minutes. One thread takes them, any thread may ask."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read
        self._last = read()
        self._points: deque[Point] = deque(maxlen=_KEPT)

    @property
    def points(self) -> list[Point]:
        """The points so far, oldest first."""
        return list(self._points.copy())

    def take(self) -> None:
        """Take a point: what was since the last reading."""
        reading = self._read()
        self._points.append(point(self._last, reading))
        self._last = reading
