"""All lanes of a member: which chunks may be dispatched now, what to commit, and what the others wait for.

Pure state like its lanes: no threads, no I/O except log lines. The caller passes the time and the random numbers.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Generic

from consumer.engine.backoff import Backoff
from consumer.engine.defence import Answer, Raised
from consumer.engine.gate import Gate
from consumer.engine.kafka import Logger
from consumer.engine.lane import Lane
from consumer.engine.ports import Chunk, Done, LaneView, Prepared, Retry, StrandView, Trouble, W
from consumer.engine.records import Partition, Record
from consumer.engine.strand import MOST_SHARES, Bounds, Strand

_CHUNKS_A_WORKER = 8
"""How many chunks all lanes hold for each worker, not counting records set apart. But each lane may hold two."""

_SHARE = 4
"""Strands of one kind may use one in this many workers; all strands set apart together may use half of them."""


class Lanes(Generic[W]):
    """The lanes of the partitions that are assigned, each with the epoch of its assignment.

    `hold_interval` is the seconds between tries while an operator is needed. `workers` is how many chunks are
    handled at the same time.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - each has its own purpose
        self,
        bounds: Bounds,
        backoff: Backoff,
        hold_interval: float,
        chance: Callable[[], float],
        log: Logger,
        workers: int = 1,
    ) -> None:
        self._bounds = bounds
        self._backoff = backoff
        self._hold_interval = hold_interval
        self._chance = chance
        self._log = log
        self._workers = workers
        self.keeps_ahead: bool | None = None
        self._lanes: dict[Partition, Lane[W]] = {}
        self._gates: dict[str, Gate] = {}
        # By partition, chunks in flight and pending requests that outlived their assignment.
        self._outlived: dict[Partition, list[Chunk[W] | Callable[[], bool]]] = {}
        self._epoch = 0

    def __iter__(self) -> Iterator[Lane[W]]:
        return iter(self._lanes.values())

    def _strands(self) -> Iterator[tuple[Lane[W], Strand[W]]]:
        for lane in self._lanes.values():
            for strand in lane.strands:
                yield lane, strand

    # the assignment

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Make a new lane for each partition, and drop any earlier one."""
        self._epoch += 1
        for partition in partitions:
            self.drop([partition])
            self._lanes[partition] = Lane(partition, self._epoch, self._bounds, keeps_ahead=self.keeps_ahead)

    def learn(self, *, keeps_ahead: bool) -> None:
        """Note whether Kafka keeps the metadata of offsets."""
        self.keeps_ahead = keeps_ahead
        for lane in self._lanes.values():
            lane.learn(keeps_ahead=keeps_ahead)

    def drop(self, partitions: Iterable[Partition]) -> None:
        """Forget lanes, and everything in them that is not committed. The next owner delivers it.

        Requests of these lanes may still be on their way. A new lane of the same partition starts only once they
        have ended: it sends the same events again, and the events of each key must stay in order.
        """
        for partition in partitions:
            lane = self._lanes.pop(partition, None)
            for strand in lane.strands if lane else ():
                self._leave(strand)
                if outlived := strand.chunk if strand.in_flight else strand.is_ready:
                    self._outlived.setdefault(partition, []).append(outlived)

    def has(self, chunk: Chunk[W]) -> bool:
        """Return whether the assignment that a chunk came from is still valid. Any thread may ask."""
        lane = self._lanes.get(chunk.partition)
        return lane is not None and lane.epoch == chunk.epoch

    # records in, chunks out and back

    def add(self, record: Record) -> None:
        """Add a record to its lane. Records of unassigned partitions are ignored."""
        lane = self._lanes.get(Partition(record.topic, record.partition))
        if lane:
            lane.add(record)

    def at_end(self, partition: Partition, offset: int) -> None:
        """Note that a partition has no further record before this offset."""
        lane = self._lanes.get(partition)
        if lane:
            lane.at_end(offset)

    def dispatch(self, now: float) -> Iterator[Chunk[W]]:
        """Dispatch a chunk of each strand that may go now, and return these chunks.

        New records go first. Strands set apart may use only a share of the workers, each kind and all together, so
        a site that is slow or down leaves workers for the others. Workers that are idle even then prepare chunks.
        The fewer partitions have new records, the more of them each may hold, and the larger are their chunks.
        """
        closed = frozenset(name for name, gate in self._gates.items() if gate.is_firm)
        self._forget_ended()
        flying = Counter[str]()
        busy = sum(1 for lane in self._lanes.values() if len(lane.main))
        shares = max(1, min(MOST_SHARES, 4 * self._workers // max(1, busy)))
        most_new = self._bounds.chunk_records * max(2, _CHUNKS_A_WORKER * self._workers // max(1, busy))
        for lane in self._lanes.values():
            lane.reunite(now)
            lane.most_new = min(most_new, self._bounds.lane_records)
        for lane, strand in self._strands() if self._gates else ():
            gate = self._gate_of(strand)
            if gate and not lane.has_work(strand):
                gate.pass_over(strand.id)
        for lane, strand in self._strands():
            if strand is lane.main:
                if lane.has_work(strand) and self._may_go(lane, strand, now):
                    yield lane.dispatch(strand, closed, shares)
            elif strand.in_flight:
                flying[strand.kind] += 1
        waiting = [(lane, strand) for lane, strand in self._strands() if strand is not lane.main]
        for lane, strand in sorted(waiting, key=lambda each: each[1].tried):
            if (
                lane.has_work(strand)
                and flying[strand.kind] < max(1, self._workers // _SHARE)
                and flying.total() < max(1, self._workers // 2)
                and self._may_go(lane, strand, now)
            ):
                flying[strand.kind] += 1
                strand.tried = now
                yield lane.dispatch(strand)
        if preparable := [lane.main for lane in self._lanes.values() if lane.main.can_prepare]:
            idle = self._workers - sum(strand.in_flight + strand.is_preparing for _, strand in self._strands())
            for strand in preparable[: max(0, idle)]:
                yield strand.prepare(shares)

    def dispatch_pending(self, partitions: Iterable[Partition]) -> Iterator[Chunk[W]]:
        """Dispatch the chunks of these partitions whose pending request is answered now, and return them.

        No share or gate stops them: they must end before the partitions are given up.
        """
        for lane in [self._lanes[each] for each in partitions if each in self._lanes]:
            for strand in lane.apart:
                if strand.is_ready and lane.has_work(strand):
                    yield lane.dispatch(strand)

    def next_due(self, now: float) -> float:
        """Return the seconds until the next backoff ends; infinite if nothing is backing off."""
        dues = [strand.due for lane, strand in self._strands() if lane.has_work(strand)]
        dues += [gate.due for gate in self._gates.values()]
        return min((due - now for due in dues if due > now), default=float("inf"))

    def take(self, answer: Answer[W], now: float) -> list[Trouble]:
        """Take a chunk back. Returns the troubles of the records to retry; empty if the lane is gone."""
        chunk = answer.chunk
        if not self.has(chunk):
            self._end_outlived(answer)
            return []
        lane = self._lanes[chunk.partition]
        strand = next(each for each in lane.strands if each.name == chunk.strand)
        match answer:
            case Prepared():
                strand.prepared(chunk)
                return []
            case Done():
                return self._take_decided(answer, lane, strand, now)
            case Retry(_, trouble, working):
                self._open_all(working, now)
                self._retry(lane, strand, trouble, now, working)
                return [trouble]
            case Raised():
                self._leave(strand)
                due = now + self._backoff.delay(strand.failures + 1, None, self._chance)
                strand.raised(chunk, answer.trouble, now, due)
                return [answer.trouble]

    def _end_outlived(self, answer: Answer[W]) -> None:
        """Note that a chunk came back that outlived its assignment. It may have left requests pending."""
        outlived = self._outlived.get(answer.chunk.partition, [])
        outlived[:] = [each for each in outlived if each is not answer.chunk]
        if isinstance(answer, Done):
            outlived += [each.is_ready for each in answer.apart if each.is_ready]

    def _forget_ended(self) -> None:
        """Forget pending requests that outlived their assignment and are answered now."""
        for partition, outlived in list(self._outlived.items()):
            outlived[:] = [each for each in outlived if isinstance(each, Chunk) or not each()]
            if not outlived:
                del self._outlived[partition]

    def _take_decided(self, done: Done[W], lane: Lane[W], strand: Strand[W], now: float) -> list[Trouble]:
        """Take the outputs of a chunk, and set its other records apart."""
        self._open_all(done.working, now)
        lane.finish(strand, done.outputs)
        attempts = done.chunk.attempts
        found = [(lane.set_apart(strand, each, attempts, now), each.trouble) for each in done.apart]
        if not any(target is strand and trouble for target, trouble in found):
            self._leave(strand)
            strand.go_on()
        for target, trouble in found:
            if target.in_flight:
                continue  # a try there shows more
            if trouble:
                self._retry(lane, target, trouble, now, done.working)
            elif target.kind in self._gates and target.waits_for is None:
                # The site is known to be down: these records wait behind its gate without their own try.
                target.waits_for = target.kind
                self._gates[target.kind].join(target.id)
        for gone in lane.tidy():
            self._leave(gone)
        return [trouble for _, trouble in found if trouble is not None]

    def _may_go(self, lane: Lane[W], strand: Strand[W], now: float) -> bool:
        if lane.partition in self._outlived:
            return False
        gate = self._gate_of(strand)
        return gate.admits(strand.id, now) if gate else now >= strand.due

    def _retry(
        self, lane: Lane[W], strand: Strand[W], trouble: Trouble, now: float, working: frozenset[str]
    ) -> None:
        # If the site asks to wait, or an operator is needed, all its strands wait, even if some events succeeded.
        works = trouble.waits_for in working and trouble.retry_after is None and not trouble.held
        if strand.waits_for != trouble.waits_for:
            self._leave(strand)
        if works and not trouble.isolating:
            strand.failures = 0  # it made progress, so the rest need not wait longer because of earlier failures

        def due_after(failures: int) -> float:
            if trouble.held:
                return now + self._hold_interval
            return now + self._backoff.delay(failures, trouble.retry_after, self._chance)

        own_due = due_after(strand.failures + 1)
        if works:
            # The site works: only this chunk waits, and no other lane.
            if trouble.isolating and (strand.trouble is None or strand.trouble.message != trouble.message):
                self._log.warning(
                    "isolating", partition=str(lane.partition), cause=trouble.cause, reason=trouble.message
                )
            strand.retry(trouble, now, own_due, None)
            return
        gate = self._gates.get(trouble.waits_for)
        if gate is None:
            gate = self._gates[trouble.waits_for] = Gate(now, trouble)
        if gate.failures == 0 or gate.trouble.message != trouble.message:
            event = "held" if trouble.held else "waiting"
            self._log.warning(event, on=trouble.waits_for, cause=trouble.cause, reason=trouble.message)
        gate.failed(strand.id, trouble, due_after)
        strand.retry(trouble, now, own_due, trouble.waits_for)

    # what strands wait for

    @property
    def gates(self) -> dict[str, str]:
        """All that is down now, each with the reason."""
        return {name: gate.trouble.message for name, gate in self._gates.items()}

    def _gate_of(self, strand: Strand[W]) -> Gate | None:
        return self._gates.get(strand.waits_for) if strand.waits_for else None

    def _obstacle(self, lane: Lane[W], strand: Strand[W], now: float) -> tuple[Trouble | None, float]:
        """Return what blocks a strand now, and when it is tried again."""
        gate = self._gate_of(strand)
        if gate:
            return gate.trouble, gate.due
        return (strand.trouble if lane.has_work(strand) and strand.due > now else None), strand.due

    def views(self, now: float) -> tuple[LaneView, ...]:
        """Return the state of each lane."""
        return tuple(self._view(lane, now) for lane in self._lanes.values())

    def _view(self, lane: Lane[W], now: float) -> LaneView:
        holder = lane.holder
        trouble, due = self._obstacle(lane, holder, now)
        finished = lane.uncommitted
        in_flight = lane.records_in_flight
        strands = []
        for strand in lane.apart:
            obstacle = self._obstacle(lane, strand, now)[0]
            cause, message = (obstacle.cause, obstacle.message) if obstacle else (None, None)
            strands.append(StrandView(strand.kind, len(strand), strand.since, cause, message))
        return LaneView(
            partition=lane.partition,
            epoch=lane.epoch,
            waiting=lane.held_records - in_flight - finished,
            in_flight=in_flight,
            finished=finished,
            held_bytes=lane.held_bytes,
            is_paused=bool(lane.paused),
            oldest=lane.oldest,
            newest=lane.newest,
            committed=lane.committed_offset,
            waits_for=holder.waits_for,
            cause=trouble.cause if trouble else None,
            message=trouble.message if trouble else None,
            held=trouble is not None and trouble.held,
            due=due if trouble else None,
            ahead=lane.decided_ahead,
            strands=tuple(strands),
        )

    def try_again(self, now: float) -> None:
        """Retry at once everything that is down: it may be fixed."""
        for gate in self._gates.values():
            gate.due = now

    def _open_all(self, names: Iterable[str], now: float) -> None:
        for name in names:
            self._open(name, now)

    def _open(self, name: str, now: float) -> None:
        """Let all strands that wait for this go on at once: it works again."""
        gate = self._gates.pop(name, None)
        if gate is None:
            return
        self._log.info("resumed", on=name, after_seconds=round(now - gate.since, 3))
        for _, strand in self._strands():
            if strand.waits_for == name:
                strand.resume()

    def _leave(self, strand: Strand[W]) -> None:
        name, strand.waits_for = strand.waits_for, None
        if name in self._gates and not self._gates[name].leave(strand.id):
            del self._gates[name]
