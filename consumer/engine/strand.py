"""Records of one lane that wait together, with at most one chunk in flight, and its backoff.

Pure state: no threads, no I/O, no clock of its own.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Generic

from consumer.engine.ports import Apart, Behind, Chunk, Names, Trouble, W
from consumer.engine.records import Partition, Record

MAIN = ""
"""The name of the main strand: new records, and those that no longer wait for anything."""

MOST_SHARES = 8
"""A chunk may have up to this many times the usual number of records while few partitions have records."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a whole lane and of one chunk, in records and in bytes (see `Record.size`)."""

    lane_records: int
    lane_bytes: int
    chunk_records: int
    chunk_bytes: int


class Strand(Generic[W]):
    """Records of a lane that are handled together; `name` is empty for the main one.

    `kind` is the handler's name for it. Several strands may have the same kind; `name` tells them apart.

    `due` is the time of the next try. `trouble` is the trouble of the last try, and `waits_for` names what must
    work again before the next try; each is None if there is none. `is_ready` is set while a request of the last
    try is still pending, and returns whether it is answered. `id` identifies the strand at gates. `since` is when
    the strand was made, or when the main strand's trouble began. `tried` is when its last chunk was dispatched. Its
    records wait while `after`, a chunk of the main strand, is not finished.

    A record first waits. Then it is in flight with its chunk, once or several times, with backoff between tries.
    While a full chunk is in flight, the next one may be prepared. While few partitions have records, chunks grow
    with the number of records that wait. If handling a chunk raises, later chunks are smaller, until the record at
    fault is alone. Then they grow again.
    """

    def __init__(  # noqa: PLR0913 - each has its own purpose
        self, partition: Partition, epoch: int, name: str, bounds: Bounds, since: float, *, kind: str
    ) -> None:
        self.id = partition, name
        self._partition = partition
        self.name = name
        self.kind = kind
        self.since = since
        self.failures = 0
        self.due = 0.0
        self.waits_for: str | None = None
        self.trouble: Trouble | None = None
        self.in_flight = False
        self.is_ready: Callable[[], bool] | None = None
        self.after: Chunk[W] | None = None
        self._epoch = epoch
        self._bounds = bounds
        self._most = self._largest = MOST_SHARES * bounds.chunk_records
        self._waiting: deque[Record] = deque()
        self._chunk: Chunk[W] | None = None
        self._next: Chunk[W] | None = None
        self.is_preparing = False
        self._may_prepare = False
        self._names: dict[int, Names] = {}
        self.tried = since

    def __len__(self) -> int:
        return len(self._waiting) + sum(len(chunk.records) for chunk in (self._chunk, self._next) if chunk)

    def __iter__(self) -> Iterator[Record]:
        """Yield its records; those of its chunks first."""
        return chain(*(chunk.records for chunk in (self._chunk, self._next) if chunk), self._waiting)

    @property
    def records_in_flight(self) -> int:
        """Records of the chunk that a worker has, or that has a pending request."""
        return len(self._chunk.records) if self._chunk and (self.in_flight or self.is_ready) else 0

    @property
    def oldest(self) -> int | None:
        """The offset of its oldest record, None if it has none."""
        if self._names:
            return min(record.offset for record in self)
        first = next(iter(self), None)  # new records are in order
        return first.offset if first else None

    @property
    def has_old(self) -> bool:
        """Whether any of its records was already handled and set apart."""
        return bool(self._names)

    def names(self) -> Iterator[tuple[int, Names]]:
        """Return for each offset the names that make later records wait for this record."""
        return iter(self._names.items())

    def add(self, record: Record) -> None:
        """Add a record. Records come in the order of their offsets."""
        self._waiting.append(record)

    def join(self, apart: Apart[W], attempts: int) -> None:
        """Add records that were set apart. The work done for them is kept if the strand has no chunk."""
        self._names.update(zip((record.offset for record in apart.records), apart.names, strict=True))
        if apart.work is not None and self._chunk is None:
            self._chunk = Chunk(
                self._partition, self._epoch, list(apart.records), apart.work, attempts, strand=self.name
            )
            self.is_ready = apart.is_ready
        else:
            self._unprepare()
            self._waiting = deque(sorted((*self._waiting, *apart.records), key=_offset))

    @property
    def chunk(self) -> Chunk[W] | None:
        """The chunk that is in flight or waits for a retry."""
        return self._chunk

    @property
    def is_settled(self) -> bool:
        """Whether no chunk is in flight or waits for a retry, so that older records can still go first."""
        return self._chunk is None

    def is_free(self, now: float) -> bool:
        """Return whether its records no longer have to wait, and no work was done for them."""
        return self._chunk is None and self.waits_for is None and now >= self.due

    def take_back(self, other: "Strand[W]") -> None:
        """Move the records of a free strand here, in the order of their offsets."""
        self._unprepare()
        self._names |= other._names
        self._waiting = deque(sorted((*other._waiting, *self._waiting), key=_offset))
        other._names, other._waiting = {}, deque()

    def dispatch(self, behind: Behind, closed: frozenset[str], shares: int) -> Chunk[W]:
        """Put a chunk in flight: the one to be retried, the next, or a new one. Waiting records may join it.

        It may have up to `shares` times as many records as usual. A larger chunk leaves as many for the next one.
        """
        is_prepared = self._chunk is None and self._next is not None
        if self._chunk is None:
            self._chunk, self._next = self._next, None
        chunk = self._chunk or self._new_chunk()
        chunk.behind, chunk.closed, chunk.is_next = behind, closed, False
        if self._next is None and not is_prepared:  # a prepared chunk goes at once; the next takes what waits
            self._fill(chunk, len(self._waiting) // 2, shares)
        self._may_prepare = self._next is None and len(chunk.records) >= min(self._most, self._bounds.chunk_records)
        self._chunk, self.in_flight, self.is_ready = chunk, True, None
        return chunk

    def _new_chunk(self) -> Chunk[W]:
        return Chunk[W](self._partition, self._epoch, strand=self.name)

    def _fill(self, chunk: Chunk[W], wanted: int, shares: int) -> None:
        """Add waiting records to a chunk.

        It may have the usual number, or `wanted` if that is more and `shares` allow it. A larger chunk may have
        twice the bytes, no more: large records take far more memory once they are decoded. For the same reason, no
        chunk is prepared after one that has fewer than the usual number because of its bytes.
        """
        usual = self._bounds.chunk_records
        most = min(self._most, max(usual, min(wanted, shares * usual)))
        most_bytes = max(1, min(shares // 4, 2)) * self._bounds.chunk_bytes
        size = sum(record.size for record in chunk.records)
        while self._waiting and len(chunk.records) < most:
            size += self._waiting[0].size
            if chunk.records and size > most_bytes:
                return
            chunk.records.append(self._waiting.popleft())

    @property
    def can_prepare(self) -> bool:
        """Whether a full, unprepared chunk waits behind the full one in flight."""
        is_behind_one = self.in_flight and self._may_prepare and self._chunk is not None
        return is_behind_one and len(self._waiting) >= self.records_in_flight

    def prepare(self, shares: int) -> Chunk[W]:
        """Return the next chunk, to be prepared. It may have up to `shares` times as many records as usual."""
        self._next = self._new_chunk()
        self._next.is_next = True
        self._fill(self._next, len(self._waiting), shares)
        self._may_prepare, self.is_preparing = False, True
        return self._next

    def prepared(self, chunk: Chunk[W]) -> None:
        """Note that a chunk is prepared."""
        if chunk is self._next:
            self.is_preparing = False

    def _unprepare(self) -> None:
        """Put the records of the next chunk back: older ones go first."""
        if self._next:
            self._waiting.extendleft(reversed(self._next.records))
        self._next, self.is_preparing = None, False

    def finish(self) -> None:
        """Forget the chunk in flight: its records are decided or set apart."""
        for record in self._chunk.records if self._chunk else ():
            self._names.pop(record.offset, None)
        self._chunk, self.in_flight = None, False
        self._most = min(2 * self._most, self._largest)

    def go_on(self) -> None:
        """Forget the trouble and the backoff of the last try."""
        self.failures, self.due, self.waits_for, self.trouble = 0, 0.0, None, None

    def retry(self, trouble: Trouble, now: float, due: float, waits_for: str | None) -> None:
        """Keep the chunk for another try: at `due`, or as soon as `waits_for` works again.

        A chunk that isolates a suspect always waits until `due`.
        """
        self.in_flight = False
        self.failures += 1
        if self.trouble is None and self.name == MAIN:
            self.since = now
        self.trouble, self.due, self.waits_for = trouble, due, waits_for

    def raised(self, chunk: Chunk[W], trouble: Trouble, now: float, due: float) -> None:
        """Take back the chunk in flight, whose handling raised. Its records wait again, and go in smaller chunks.

        A chunk of one record is tried again at `due`.
        """
        self._most = max(1, len(chunk.records) // 2)
        if len(chunk.records) == 1:
            self.retry(trouble, now, due, None)
            return
        self._unprepare()
        self._waiting.extendleft(reversed(chunk.records))
        self._chunk, self.in_flight = None, False

    def resume(self) -> None:
        """Go on: what the chunk waits for works again."""
        self.waits_for = None
        if not (self.trouble and self.trouble.isolating):
            self.due = 0.0


def _offset(record: Record) -> int:
    return record.offset
