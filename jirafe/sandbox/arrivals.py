"""The log of the events that arrived."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum


class ArrivalVerdict(StrEnum):
    """What became of an event."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event as it arrived."""

    sequence: int
    """Its place among all events since the start, from 1."""
    request: int
    """The number of the request that brought it."""
    received: float
    """When that request had been read, in seconds since the epoch."""
    site: str
    kind: str
    status: str | None
    """Of an order: placed, accepted or cancelled, if it said so."""
    id: str | None
    digest: str
    """SHA-256 of its canonical JSON (keys sorted, no spaces, ASCII), in hex."""
    verdict: ArrivalVerdict
    body: object = None
    """The event itself while it is among the most recent ones."""


@dataclass(frozen=True)
class ArrivalFilter:
    """Which arrivals are asked for; None is any."""

    site: str | None = None
    kind: str | None = None
    id: str | None = None

    def fits(self, arrival: Arrival) -> bool:
        """Say whether this arrival is asked for."""
        return (
            (self.site is None or self.site == arrival.site)
            and (self.kind is None or self.kind == arrival.kind)
            and (self.id is None or self.id == arrival.id)
        )


class ArrivalLog:
    """The most recent arrivals, the bodies of the latest of these, and counts of all. Not thread-safe."""

    def __init__(self, keep_events: int, keep_bodies: int) -> None:
        self._keep_events = keep_events
        self._keep_bodies = keep_bodies
        self._arrivals: dict[int, Arrival] = {}  # by sequence, which has no gaps
        self._texts: dict[int, str] = {}
        self._counts: Counter[tuple[str, ArrivalVerdict]] = Counter()
        self._last = 0

    @property
    def last(self) -> int:
        """The sequence number of the last arrival ever; 0 before the first."""
        return self._last

    @property
    def next(self) -> int:
        """The sequence number of the next arrival."""
        return self._last + 1

    def append(self, arrival: Arrival, text: str) -> None:
        """Log an arrival, numbered `next`, with its body as JSON; the oldest may make room for it."""
        self._last = arrival.sequence
        self._counts[arrival.kind, arrival.verdict] += 1
        self._arrivals[self._last] = arrival
        self._arrivals.pop(self._last - self._keep_events, None)
        self._texts[self._last] = text
        self._texts.pop(self._last - self._keep_bodies, None)

    def find(self, wanted: ArrivalFilter, after: int) -> Iterator[Arrival]:
        """Yield the arrivals asked for with a sequence number over `after`, oldest first."""
        first = self._last - len(self._arrivals) + 1
        for sequence in range(max(first, after + 1), self._last + 1):
            arrival = self._arrivals[sequence]
            if wanted.fits(arrival):
                text = self._texts.get(sequence)
                yield arrival if text is None else replace(arrival, body=json.loads(text))

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of arrivals by kind and verdict."""
        counts: dict[str, dict[str, int]] = {}
        for (kind, verdict), count in sorted(self._counts.items()):
            counts.setdefault(kind, {})[verdict.value] = count
        return counts

    def forget(self) -> None:
        """Forget all arrivals and counts; sequence numbers go on."""
        self._arrivals.clear()
        self._texts.clear()
        self._counts.clear()

    def __len__(self) -> int:
        return len(self._arrivals)
