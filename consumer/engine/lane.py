"""One assigned partition: its waiting records, at most one chunk in flight, its backoff.

Pure state: no threads, no I/O, no clock. An offset here is always the next one to read.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Generic

from consumer.engine.ports import Chunk, Trouble, W
from consumer.engine.records import Output, Partition, Record


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of what a lane holds in all, and of one chunk: in records, and in their bytes (see `Record.size`)."""

    lane_records: int
    lane_bytes: int
    chunk_records: int
    chunk_bytes: int


class Lane(Generic[W]):
    """One partition while it is assigned. `epoch` tells this assignment from earlier and later ones.

    `due` is the time of the next try, `trouble` what the last try met, and `waits_for` what must serve again
    before the next; None for nothing. `goes_to` is what served the last chunk, if it was one thing alone.

    A record waits, is in flight with its chunk (perhaps often, with backoffs between), is finished with its
    output, and is forgotten once that is committed. While one chunk's outputs wait for their commit the next
    chunk may be in flight, but no further one. Chunks become smaller once the handling of one raises, until the
    record that does it is alone, and then grow again. In the same way the outputs of one transaction become fewer
    once a topic refuses one for its size.
    """

    def __init__(self, partition: Partition, epoch: int, bounds: Bounds) -> None:
        self.partition = partition
        self.epoch = epoch
        self.failures = 0
        self.due = 0.0
        self.waits_for: str | None = None
        self.trouble: Trouble | None = None
        self.goes_to: str | None = None
        # None for not known: the client keeps the pause of an earlier assignment.
        self.paused: bool | None = None
        self._bounds = bounds
        self._most = bounds.chunk_records
        self._waiting: deque[Record] = deque()
        self._chunk: Chunk[W] | None = None
        self._in_flight = False
        self._finished: list[list[Output]] = []
        self._most_committed: int | None = None
        self._records = 0
        self._bytes = 0
        self._end: int | None = None
        self._committed: int | None = None

    def add(self, record: Record) -> None:
        """Let a record wait; they come in the order of their offsets."""
        self._waiting.append(record)
        self._records += 1
        self._bytes += record.size
        self._end = None

    def at_end(self, offset: int) -> None:
        """Note that the partition has no further record before this offset; there may be transaction markers."""
        self._end = offset

    @property
    def held_records(self) -> int:
        """Records held in all: waiting, in flight, and finished but not committed."""
        return self._records

    @property
    def held_bytes(self) -> int:
        """Bytes of the records held."""
        return self._bytes

    @property
    def is_full(self) -> bool:
        """Whether the partition should be paused."""
        return self._records >= self._bounds.lane_records or self._bytes >= self._bounds.lane_bytes

    @property
    def is_half_empty(self) -> bool:
        """Whether the partition should be resumed."""
        return self._records * 2 <= self._bounds.lane_records and self._bytes * 2 <= self._bounds.lane_bytes

    @property
    def in_flight(self) -> bool:
        """Whether a worker has a chunk of this lane."""
        return self._in_flight

    @property
    def records_in_flight(self) -> int:
        """Records of the chunk that a worker has."""
        return len(self._chunk.records) if self._chunk and self._in_flight else 0

    @property
    def oldest(self) -> Record | None:
        """The oldest record held, None if none is."""
        if self._finished:
            return self._finished[0][0].record
        return next(iter(self._chunk.records if self._chunk else self._waiting), None)

    @property
    def newest(self) -> Record | None:
        """The newest record held, None if none is."""
        if self._waiting:
            return self._waiting[-1]
        if self._chunk:
            return self._chunk.records[-1]
        return self._finished[-1][-1].record if self._finished else None

    @property
    def has_work(self) -> bool:
        """Whether a chunk could be dispatched now, backoff aside."""
        return not self._in_flight and len(self._finished) <= 1 and bool(self._chunk or self._waiting)

    def dispatch(self) -> Chunk[W]:
        """Put a chunk in flight: the one that is to be retried, or a new one, with all that waits and fits."""
        chunk = self._chunk or Chunk[W](self.partition, self.epoch)
        size = sum(record.size for record in chunk.records)
        while self._waiting and len(chunk.records) < self._most:
            size += self._waiting[0].size
            if chunk.records and size > self._bounds.chunk_bytes:
                break
            chunk.records.append(self._waiting.popleft())
        self._chunk, self._in_flight = chunk, True
        return chunk

    def finish(self, outputs: Sequence[Output]) -> None:
        """Take the outputs of the chunk in flight, one for each of its records."""
        self._finished.append(list(outputs))
        self._chunk, self._in_flight = None, False
        self._most = min(2 * self._most, self._bounds.chunk_records)
        self.failures, self.due, self.waits_for, self.trouble = 0, 0.0, None, None

    def retry(self, trouble: Trouble, due: float, waits_for: str | None) -> None:
        """Keep the chunk in flight for another try at `due`, or once what it waits for serves again.

        A chunk that is isolating a suspect keeps to `due` in any case.
        """
        self._in_flight = False
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
        self._chunk, self._in_flight = None, False

    def resume(self) -> None:
        """Go on: what the chunk waits for serves again."""
        self.waits_for = None
        if not (self.trouble and self.trouble.isolating):
            self.due = 0.0

    @property
    def finished(self) -> list[Output]:
        """Outputs to commit in one transaction, in the order of their records."""
        return list(islice(chain.from_iterable(self._finished), self._most_committed))

    @property
    def offset(self) -> int | None:
        """The offset to commit with `finished`: next to read after the last of them; None for nothing to commit.

        Once nothing else is held it is the partition's end, past the markers that transactions leave there, so
        that a group that has done everything has lag 0.
        """
        finished = self.finished
        if self._end and self._records == len(finished) and self._end != self._committed:
            return self._end
        return finished[-1].record.offset + 1 if finished else None

    @property
    def committed_offset(self) -> int | None:
        """The offset that was last committed, None while none was."""
        return self._committed

    def committed(self) -> None:
        """Forget `finished`: it is committed, and the offset with it."""
        self._committed = self.offset
        finished = self.finished
        for output in finished:
            self._records -= 1
            self._bytes -= output.record.size
        left = len(finished)
        while self._finished and left >= len(self._finished[0]):
            left -= len(self._finished.pop(0))
        if left:
            del self._finished[0][:left]
        if self._most_committed:
            self._most_committed = 2 * self._most_committed if self._finished else None

    def too_large(self, brief: Callable[[Output], Output]) -> bool:
        """Note that a topic refused `finished` for its size; tells whether to try again at once.

        Half as many are tried next. One that is alone is made brief.
        """
        finished = self.finished
        if len(finished) > 1:
            self._most_committed = len(finished) // 2
            return True
        self._most_committed = 1
        if finished[0].is_brief:
            return False
        self._finished[0][0] = brief(finished[0])
        return self._finished[0][0].is_brief
