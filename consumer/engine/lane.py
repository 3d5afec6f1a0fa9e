"""One assigned partition: its records in memory, by strand, and what to commit.

Pure state: no threads, no I/O, no clock. An offset here is always the next one to read.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NamedTuple

from consumer.engine import ahead
from consumer.engine.ahead import Blocker, Runs
from consumer.engine.ports import Apart, Behind, Chunk, W
from consumer.engine.records import Output, Partition, Record
from consumer.engine.strand import MAIN, Bounds, Strand


class _Next(NamedTuple):
    """What to commit next: the outputs, the offset, and the runs decided beyond the offset."""

    outputs: list[Output]
    offset: int | None
    runs: Runs


class Lane(Generic[W]):
    """One assigned partition. `epoch` tells this assignment from earlier and later ones.

    A record starts in the main strand. After handling, it is either finished and has an output, or it is set apart
    in a strand that waits for something while later records go on. The lane forgets a record once its output is
    committed.

    The offset to commit is that of the first undecided record. The runs decided beyond it are committed with it, as
    `ahead`, and the next owner skips them. While `knows_ahead` is false, no record is handled, because `begin` has
    not said yet what an earlier owner decided. `topic_id` is the id of the records' topic, empty if it is not
    known.

    `keeps_ahead` says whether Kafka keeps offset metadata; it is None while that is not known. Outputs beyond an
    undecided record are committed only if Kafka does. Otherwise they wait for that record. `told` is the blocker
    in the metadata of the last committed offset. `most_new` limits the records that are not set apart.

    While the outputs of one chunk wait for their commit, the strand may have its next chunk in flight, but none
    after it. If a topic refuses an output for its size, the next transactions have fewer outputs.
    """

    def __init__(
        self, partition: Partition, epoch: int, bounds: Bounds, *, keeps_ahead: bool | None = None
    ) -> None:
        self.keeps_ahead = keeps_ahead
        self.partition = partition
        self.epoch = epoch
        # None if not known: a partition stays paused from an earlier assignment.
        self.paused: bool | None = None
        self.knows_ahead = True
        self.topic_id = ""
        self.told: Blocker | None = None
        self.most_new = bounds.lane_records
        self.main = Strand[W](partition, epoch, MAIN, bounds, 0.0, kind=MAIN)
        self._apart: dict[str, Strand[W]] = {}
        self._bounds = bounds
        self._finished: list[Output] = []
        self._last_outputs = 0
        self._next: _Next | None = None
        self._most_committed: int | None = None
        self._records = 0
        self._bytes = 0
        self._end: int | None = None
        self._committed: int | None = None
        self._begun: int | None = None
        self._newest: int | None = None
        # The offset after the last decided record; earlier records may be undecided.
        self._decided_to: int | None = None
        self._skipped: Runs = ()
        self._ahead: Runs = ()

    # records in

    def begin(self, runs: Runs, offset: int | None = None, told: Blocker | None = None) -> None:
        """Skip the runs that an earlier owner decided, also among records that wait already.

        `offset` is the committed offset, None if there is none, and `told` the blocker in its metadata.
        """
        self.knows_ahead = True
        self._begun, self.told = offset, told
        self._skipped = self._ahead = runs
        waiting = list(self.main) if runs else []
        if waiting:
            self.main = Strand[W](self.partition, self.epoch, MAIN, self._bounds, 0.0, kind=MAIN)
            for record in waiting:
                self._records -= 1
                self._bytes -= record.size
                self._take(record)

    def learn(self, *, keeps_ahead: bool) -> None:
        """Note whether Kafka keeps the metadata of offsets."""
        self.keeps_ahead, self._next = keeps_ahead, None

    def add(self, record: Record) -> None:
        """Add a record, unless an earlier owner decided it. Records come in the order of their offsets."""
        self._end = None
        self._newest = record.offset
        self._take(record)

    def _take(self, record: Record) -> None:
        self._next = None
        run = bisect_right(self._skipped, record.offset, key=lambda each: each[0]) - 1
        if run >= 0 and record.offset < self._skipped[run][1]:
            self._decided_to = record.offset + 1
            return
        self.main.add(record)
        self._records += 1
        self._bytes += record.size

    def at_end(self, offset: int) -> None:
        """Note that the partition has no more records before this offset. There may be transaction markers."""
        self._end = offset
        self._next = None

    # the records in memory

    @property
    def strands(self) -> Iterator[Strand[W]]:
        """The main strand, and those set apart."""
        yield self.main
        yield from self._apart.values()

    @property
    def apart(self) -> Sequence[Strand[W]]:
        """The strands set apart."""
        return list(self._apart.values())

    @property
    def held_records(self) -> int:
        """All records in memory: waiting, in flight, and finished but not committed."""
        return self._records

    @property
    def held_bytes(self) -> int:
        """Bytes of the records in memory."""
        return self._bytes

    @property
    def _records_apart(self) -> int:
        return sum(map(len, self._apart.values()))

    @property
    def is_full(self) -> bool:
        """Whether the partition should be paused."""
        if self._records >= self._bounds.lane_records or self._bytes >= self._bounds.lane_bytes:
            return True
        return self._records - self._records_apart >= self.most_new

    @property
    def is_half_empty(self) -> bool:
        """Whether to resume the partition: half of the room that the strands set apart leave is free."""
        if self.is_full:
            return False
        apart, bytes_apart = self._records_apart, sum(each.size for strand in self.apart for each in strand)
        records, size = self._bounds.lane_records - apart, self._bounds.lane_bytes - bytes_apart
        return (
            2 * (self._records - apart) <= min(records, self.most_new) and 2 * (self._bytes - bytes_apart) <= size
        )

    @property
    def in_flight(self) -> bool:
        """Whether a worker has a chunk of this lane, or a chunk has a pending request."""
        return any(strand.in_flight or strand.is_ready for strand in self.strands)

    @property
    def records_in_flight(self) -> int:
        """Records of the chunks that workers have, or that have a pending request."""
        return sum(strand.records_in_flight for strand in self.strands)

    @property
    def oldest(self) -> int | None:
        """The offset of the oldest record in memory, None if there is none."""
        firsts = [self._undecided, self._finished[0].record.offset if self._finished else None]
        return min((each for each in firsts if each is not None), default=None)

    @property
    def _undecided(self) -> int | None:
        """The offset of the oldest undecided record, None if all are decided."""
        firsts = [strand.oldest for strand in self.strands]
        return min((each for each in firsts if each is not None), default=None)

    @property
    def newest(self) -> int | None:
        """The offset of the newest record that came, None if no record is in memory."""
        return self._newest if self._records else None

    @property
    def holder(self) -> Strand[W]:
        """The strand of the oldest undecided record; the main one if there is none."""
        undecided = self._undecided
        return next(strand for strand in self.strands if strand.oldest == undecided)

    # chunks out and back

    def has_work(self, strand: Strand[W]) -> bool:
        """Return whether a chunk of a strand could be dispatched now, backoff aside."""
        if strand.in_flight or strand.is_preparing or not len(strand) or not self.knows_ahead:
            return False
        if strand.after is not None and strand.after is self.main.chunk:
            return False
        if strand.is_ready and not strand.is_ready():
            return False
        # Outputs that wait for a strand must not stop that strand.
        may_help = (strand is not self.main or strand.has_old) and len(self.finished) < len(self._finished)
        # The outputs of the last chunk may wait, even if it was a larger one.
        return may_help or len(self._finished) <= max(self._bounds.chunk_records, self._last_outputs)

    def dispatch(self, strand: Strand[W], closed: frozenset[str] = frozenset(), shares: int = 1) -> Chunk[W]:
        """Put a chunk of a strand in flight. `closed` names the sites that are known to be down.

        The chunk may have up to `shares` times the usual number of records.
        """
        behind: Behind = {}
        for other in self.strands:
            if other is not strand:
                for offset, names in other.names():
                    for name in names:
                        if name not in behind or offset < behind[name][0]:
                            behind[name] = offset, other.name
        return strand.dispatch(behind, closed, shares)

    def finish(self, strand: Strand[W], outputs: Sequence[Output]) -> None:
        """Take the outputs of a strand's chunk in flight."""
        strand.finish()
        self._next = None
        self._last_outputs = len(outputs)
        for output in outputs:
            self._decided_to = max(self._decided_to or 0, output.record.offset + 1)
            if self._finished and output.record.offset < self._finished[-1].record.offset:
                insort(self._finished, output, key=lambda each: each.record.offset)
            else:
                self._finished.append(output)

    def set_apart(self, source: Strand[W], apart: Apart[W], attempts: int, now: float) -> Strand[W]:
        """Set records of a chunk from `source` apart in a strand. Returns that strand.

        Each chunk that was tried has its own strand, so the work done for it is kept. Records without a named
        strand rejoin the main one. While that has a chunk of later records, they wait in a strand of their own.
        """
        self._next = None
        kind, after = apart.strand, None
        if kind == MAIN and source is not self.main:
            after = self.main.chunk
            kind = source.kind if after else MAIN
        if kind == MAIN:
            self.main.join(apart, attempts)
            return self.main
        name, number = kind, 1
        if apart.work is not None and source.kind == kind:
            name = source.name
        kind = kind.partition(" #")[0]  # these records may wait for a numbered strand, even for one that is gone
        while name in self._apart and not self._may_join(self._apart[name], apart, after):
            number += 1
            name = f"{kind} #{number}"
        if name not in self._apart:
            self._apart[name] = Strand(self.partition, self.epoch, name, self._bounds, now, kind=kind)
        self._apart[name].after = after
        self._apart[name].join(apart, attempts)
        return self._apart[name]

    def _may_join(self, strand: Strand[W], apart: Apart[W], after: Chunk[W] | None) -> bool:
        """Return whether records may join a strand.

        Their work must be kept, and both must wait for the same chunk or none.
        """
        own_after = strand.after if strand.after is self.main.chunk else None
        return own_after is after and (apart.work is None or strand.is_settled)

    def reunite(self, now: float) -> None:
        """Move records that no longer have to wait back to the main strand."""
        if self._apart and self.main.is_settled:
            for strand in self._apart.values():
                if strand.is_free(now):
                    self.main.take_back(strand)
            self.tidy()

    def tidy(self) -> list[Strand[W]]:
        """Forget empty strands; returns them."""
        gone = [strand for strand in self._apart.values() if not len(strand)]
        for strand in gone:
            del self._apart[strand.name]
        return gone

    # outputs and offsets out

    @property
    def finished(self) -> list[Output]:
        """Outputs to commit in one transaction, in the order of their records."""
        return self._to_commit().outputs

    @property
    def uncommitted(self) -> int:
        """Outputs that are not committed, also those that wait for an earlier record."""
        return len(self._finished)

    @property
    def offset(self) -> int | None:
        """The offset to commit with `finished`: that of the first undecided record; None if nothing is to commit.

        If the lane has no other records, it is the end of the partition, after any transaction markers. So a group
        that has finished everything has lag 0.
        """
        return self._to_commit().offset

    @property
    def ahead(self) -> Runs:
        """The runs decided beyond `offset`, to commit with `finished`."""
        return self._to_commit().runs

    @property
    def wants_ahead(self) -> bool:
        """Whether outputs wait because it is not known yet whether Kafka keeps the metadata of offsets."""
        return self.keeps_ahead is None and self.knows_ahead and self._in_order() < len(self._finished)

    @property
    def decided_ahead(self) -> int:
        """Offsets decided beyond the one to commit."""
        runs = self._ahead if self.offset is None else self.ahead
        return ahead.counted(runs)

    @property
    def committed_offset(self) -> int | None:
        """The last offset committed in this assignment, None if there is none yet."""
        return self._committed

    @property
    def last_commit(self) -> tuple[int, Runs] | None:
        """The last committed offset, also of an earlier owner, and the runs beyond it. None if it is not known."""
        offset = self._begun if self._committed is None else self._committed
        return None if offset is None else (offset, self._ahead)

    def _to_commit(self) -> _Next:
        if self._next is None:
            count = len(self._finished) if self.keeps_ahead else self._in_order()
            if self._most_committed is not None:
                count = min(count, self._most_committed)
            self._next = self._first_finished(count)
            while not self._fits(self._next):
                count = len(self._next.outputs) // 2
                self._next = self._first_finished(count)
        return self._next

    def _in_order(self) -> int:
        """Count the leading outputs: those with no undecided record before them."""
        if not (self._finished and (self._apart or self.main.has_old)):
            return len(self._finished)  # new records come after all decided ones
        undecided = self._undecided
        if undecided is None:
            return len(self._finished)
        return bisect_left(self._finished, undecided, key=lambda each: each.record.offset)

    @staticmethod
    def _fits(commit: _Next) -> bool:
        return not (commit.outputs and commit.runs) or ahead.fits(commit.offset or 0, commit.runs)

    def _first_finished(self, count: int) -> _Next:
        """Return what a commit of the first `count` outputs would contain."""
        outputs = self._finished[:count]
        if not (self.knows_ahead and (outputs or not self._finished or self.wants_ahead)):
            return _Next([], None, ())
        if self._end and self._records == len(outputs):
            return _Next(outputs, self._end if outputs or self._end != self._committed else None, ())
        end = self._decided_to or 0
        # New records come after all decided ones, unless some were decided ahead.
        strands = self.strands if self._skipped or self.main.has_old else self._apart.values()
        held = [record.offset for strand in strands for record in strand if record.offset < end]
        undecided = sorted((*held, *(output.record.offset for output in self._finished[count:])))
        offset = undecided[0] if undecided else end
        if self.wants_ahead:
            return _Next(outputs, offset, ())
        if not outputs and (undecided or offset <= (self._committed or 0)):
            return _Next([], None, ())
        later = ((max(start, end), stop) for start, stop in self._skipped)
        runs = ahead.joined((*ahead.between(undecided, end), *later))
        if runs and runs[0][0] == offset:
            offset, runs = runs[0][1], runs[1:]
        return _Next(outputs, offset, runs)

    def committed(self) -> None:
        """Forget `finished`: it is committed together with the offset."""
        outputs, self._committed, self._ahead = self._to_commit()
        self._next = None
        for output in outputs:
            self._records -= 1
            self._bytes -= output.record.size
        del self._finished[: len(outputs)]
        passed = min(self._committed or 0, (self._newest or 0) + 1)
        self._skipped = tuple(run for run in self._skipped if run[1] > passed)
        if self._most_committed:
            self._most_committed = 2 * self._most_committed if self._finished else None

    def too_large(self, brief: Callable[[Output], Output]) -> bool:
        """Note that a topic refused `finished` because of its size. Returns whether to retry at once.

        The next try has half as many outputs. A single output is shortened instead.
        """
        count = len(self.finished)
        self._next = None
        if count > 1:
            self._most_committed = count // 2
            return True
        self._most_committed = 1
        if self._finished[0].is_brief:
            return False
        self._finished[0] = brief(self._finished[0])
        return self._finished[0].is_brief
