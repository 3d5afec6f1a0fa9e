"""Records of one lane that wait together: at most one chunk in flight, its backoff.

Pure state: no threads, no I/O, no clock of its own.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Generic

from consumer.engine.ports import Apart, Behind, Chunk, Names, Trouble, W
from consumer.engine.records import Partition, Record

MAIN = ""
"""The strand of records that no handler has seen yet."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of what a lane holds in all, and of one chunk: in records, and in their bytes (see `Record.size`)."""

    lane_records: int
    lane_bytes: int
    chunk_records: int
    chunk_bytes: int


class Strand(Generic[W]):
    """Records of a lane that are handled together; `name` is empty for the main one.

    `kind` is what the handler calls it: strands of one kind have names of their own.

    `due` is the time of the next try, `trouble` what the last try met, and `waits_for` what must serve again
    before the next; None for nothing. `knot` is how gates know it. `since` is when the strand came to be, `tried`
    when it went last.

    A record waits, and is in flight with its chunk, perhaps often, with backoffs between. Chunks become smaller
    once the handling of one raises, until the record that does it is alone, and then grow again.
    """

    def __init__(  # noqa: PLR0913 - each is another's
        self, partition: Partition, epoch: int, name: str, bounds: Bounds, since: float, *, kind: str
    ) -> None:
        self.knot = partition, name
        self._partition = partition
        self.name = name
        self.kind = kind
        self.since = since
        self.failures = 0
        self.due = 0.0
        self.waits_for: str | None = None
        self.trouble: Trouble | None = None
        self.in_flight = False
        self._epoch = epoch
        self._bounds = bounds
        self._most = bounds.chunk_records
        self._waiting: deque[Record] = deque()
        self._chunk: Chunk[W] | None = None
        self._names: dict[int, Names] = {}
        self.tried = since

    def __len__(self) -> int:
        return len(self._waiting) + (len(self._chunk.records) if self._chunk else 0)

    def __iter__(self) -> Iterator[Record]:
        """Give its records; those of the chunk first."""
        return chain(self._chunk.records if self._chunk else (), self._waiting)

    @property
    def records_in_flight(self) -> int:
        """Records of the chunk that a worker has."""
        return len(self._chunk.records) if self._chunk and self.in_flight else 0

    @property
    def first(self) -> Record | None:
        """The oldest of the main strand's records, None if it has none."""
        return next(iter(self), None)

    @property
    def last(self) -> Record | None:
        """The newest of the main strand's records, None if it has none."""
        if self._waiting:
            return self._waiting[-1]
        return self._chunk.records[-1] if self._chunk else None

    @property
    def has_old(self) -> bool:
        """Whether any record was handed over before."""
        return bool(self._names)

    def names(self) -> Iterator[tuple[int, Names]]:
        """Give, by the offset of each record, what makes later ones wait for it."""
        return iter(self._names.items())

    def add(self, record: Record) -> None:
        """Let a record wait; they come in the order of their offsets."""
        self._waiting.append(record)

    def join(self, apart: Apart[W], attempts: int) -> None:
        """Let records that were set apart wait; what was done for them is kept if the strand has no chunk."""
        self._names.update(zip((record.offset for record in apart.records), apart.names, strict=True))
        if apart.work is not None and self._chunk is None:
            self._chunk = Chunk(
                self._partition, self._epoch, list(apart.records), apart.work, attempts, strand=self.name
            )
        else:
            self._waiting = deque(sorted((*self._waiting, *apart.records), key=_offset))

    @property
    def is_settled(self) -> bool:
        """Whether nothing is in flight or to be retried: other records may come before those that wait."""
        return self._chunk is None

    def is_free(self, now: float) -> bool:
        """Tell whether its records wait for nothing any more, and nothing was done for them."""
        return self._chunk is None and self.waits_for is None and now >= self.due

    def take_back(self, other: "Strand[W]") -> None:
        """Let the records of a strand that is free wait here, before later ones."""
        self._names |= other._names
        self._waiting = deque(sorted((*other._waiting, *self._waiting), key=_offset))
        other._names, other._waiting = {}, deque()

    def dispatch(self, behind: Behind, closed: frozenset[str]) -> Chunk[W]:
        """Put a chunk in flight: the one that is to be retried, or a new one, with all that waits and fits."""
        chunk = self._chunk or Chunk[W](self._partition, self._epoch, strand=self.name)
        chunk.behind, chunk.closed = behind, closed
        size = sum(record.size for record in chunk.records)
        while self._waiting and len(chunk.records) < self._most:
            size += self._waiting[0].size
            if chunk.records and size > self._bounds.chunk_bytes:
                break
            chunk.records.append(self._waiting.popleft())
        self._chunk, self.in_flight = chunk, True
        return chunk

    def finish(self) -> None:
        """Let go the chunk in flight: its records are decided, or set apart."""
        for record in self._chunk.records if self._chunk else ():
            self._names.pop(record.offset, None)
        self._chunk, self.in_flight = None, False
        self._most = min(2 * self._most, self._bounds.chunk_records)

    def go_on(self) -> None:
        """Forget what the last try met."""
        self.failures, self.due, self.waits_for, self.trouble = 0, 0.0, None, None

    def retry(self, trouble: Trouble, due: float, waits_for: str | None) -> None:
        """Keep the chunk for another try at `due`, or once what it waits for serves again.

        A chunk that is isolating a suspect keeps to `due` in any case.
        """
        self.in_flight = False
        self.failures += 1
        self.trouble, self.due, self.waits_for = trouble, due, waits_for

    def raised(self, chunk: Chunk[W], trouble: Trouble, due: float) -> None:
        """Take back the chunk in flight, whose handling raised: its records wait for smaller chunks.

        One record alone is tried again at `due`.
        """
        self._most = max(1, len(chunk.records) // 2)
        if len(chunk.records) == 1:
            self.retry(trouble, due, None)
            return
        self._waiting.extendleft(reversed(chunk.records))
        self._chunk, self.in_flight = None, False

    def resume(self) -> None:
        """Go on: what the chunk waits for serves again."""
        self.waits_for = None
        if not (self.trouble and self.trouble.isolating):
            self.due = 0.0


def _offset(record: Record) -> int:
    return record.offset
