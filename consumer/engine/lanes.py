"""All lanes of a member: what may be dispatched now, what is to be committed, and what waits for what.

Pure state like its lanes: no threads, no I/O. The clock and the random numbers are handed in.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Generic

from consumer.engine.backoff import Backoff
from consumer.engine.defence import Raised
from consumer.engine.gate import Gate
from consumer.engine.kafka import Logger
from consumer.engine.lane import Bounds, Lane
from consumer.engine.ports import Chunk, Done, LaneView, Retry, Trouble, W
from consumer.engine.records import Partition, Record


class Lanes(Generic[W]):
    """The lanes of the partitions that are assigned, each with the epoch of its assignment.

    `hold_interval` is the seconds between tries while an operator is needed.
    """

    def __init__(
        self, bounds: Bounds, backoff: Backoff, hold_interval: float, chance: Callable[[], float], log: Logger
    ) -> None:
        self._bounds = bounds
        self._backoff = backoff
        self._hold_interval = hold_interval
        self._chance = chance
        self._log = log
        self._lanes: dict[Partition, Lane[W]] = {}
        self._gates: dict[str, Gate] = {}
        self._epoch = 0

    def __iter__(self) -> Iterator[Lane[W]]:
        return iter(self._lanes.values())

    # the assignment

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Have a new lane for each partition; what is left of an earlier one is dropped."""
        self._epoch += 1
        for partition in partitions:
            self.drop([partition])
            self._lanes[partition] = Lane(partition, self._epoch, self._bounds)

    def drop(self, partitions: Iterable[Partition]) -> None:
        """Forget lanes with all they hold, uncommitted: the next owner delivers it again."""
        for partition in partitions:
            lane = self._lanes.pop(partition, None)
            if lane:
                self._leave(lane)

    def has(self, chunk: Chunk[W]) -> bool:
        """Tell whether a chunk's lane is still assigned as it was; any thread may ask."""
        lane = self._lanes.get(chunk.partition)
        return lane is not None and lane.epoch == chunk.epoch

    # records in, chunks out and back

    def add(self, record: Record) -> None:
        """Let a record wait on its lane; one of a partition that is not assigned is another member's."""
        lane = self._lanes.get(Partition(record.topic, record.partition))
        if lane:
            lane.add(record)

    def at_end(self, partition: Partition, offset: int) -> None:
        """Note that a partition has no further record before this offset."""
        lane = self._lanes.get(partition)
        if lane:
            lane.at_end(offset)

    def dispatch(self, now: float) -> Iterator[Chunk[W]]:
        """Put in flight, and give, a chunk of each lane that may go now."""
        for lane in self._lanes.values():
            if lane.has_work and self._may_go(lane, now):
                yield lane.dispatch()

    def next_due(self, now: float) -> float:
        """Give the seconds until a lane may go by the passing of time alone; infinite if none will."""
        dues = [lane.due for lane in self._lanes.values() if lane.has_work]
        dues += [gate.due for gate in self._gates.values()]
        return min((due - now for due in dues if due > now), default=float("inf"))

    def take(self, answer: Done[W] | Retry[W] | Raised[W], now: float) -> Trouble | None:
        """Take a chunk back; gives why it is tried again, None if it is finished or its lane is gone."""
        if not self.has(answer.chunk):
            return None
        lane = self._lanes[answer.chunk.partition]
        match answer:
            case Done(_, outputs, served):
                self._serve(served, now)
                self._leave(lane)
                lane.goes_to = next(iter(served)) if len(served) == 1 else None
                lane.finish(outputs)
                return None
            case Retry(_, trouble, served):
                self._serve(served, now)
                # Told to wait, or held, all lanes wait, whatever went through before.
                serves = trouble.waits_for in served and trouble.retry_after is None and not trouble.held
                self._retry(lane, trouble, now, serves=serves)
                return trouble
            case Raised(chunk):
                self._leave(lane)
                due = now + self._backoff.delay(lane.failures + 1, None, self._chance)
                lane.raised(chunk, answer.trouble, due)
                return answer.trouble

    def _may_go(self, lane: Lane[W], now: float) -> bool:
        if lane.waits_for is None and lane.goes_to in self._gates and self._gates[lane.goes_to].is_firm:
            # Its site is known to be down: it waits with the others, and need not find out by itself.
            lane.waits_for = lane.goes_to
            self._gates[lane.goes_to].join(lane.partition)
        gate = self._gate_of(lane)
        return gate.admits(lane.partition, now) if gate else now >= lane.due

    def _retry(self, lane: Lane[W], trouble: Trouble, now: float, *, serves: bool) -> None:
        if lane.waits_for != trouble.waits_for:
            self._leave(lane)
        if serves and not trouble.isolating:
            lane.failures = 0  # it got on: what is left need not wait the longer for what is behind it

        def due_after(failures: int) -> float:
            if trouble.held:
                return now + self._hold_interval
            return now + self._backoff.delay(failures, trouble.retry_after, self._chance)

        own_due = due_after(lane.failures + 1)
        if serves:
            # The site serves: only this chunk waits, and no other lane.
            if trouble.isolating and (lane.trouble is None or lane.trouble.message != trouble.message):
                self._log.warning(
                    "isolating", partition=str(lane.partition), cause=trouble.cause, reason=trouble.message
                )
            lane.retry(trouble, own_due, None)
            return
        gate = self._gates.get(trouble.waits_for)
        if gate is None:
            gate = self._gates[trouble.waits_for] = Gate(now, trouble)
        if gate.failures == 0 or gate.trouble.message != trouble.message:
            event = "held" if trouble.held else "waiting"
            self._log.warning(event, on=trouble.waits_for, cause=trouble.cause, reason=trouble.message)
        gate.failed(lane.partition, trouble, due_after)
        lane.retry(trouble, own_due, trouble.waits_for)

    # what lanes wait for

    @property
    def gates(self) -> dict[str, str]:
        """What does not serve now, each with the reason."""
        return {name: gate.trouble.message for name, gate in self._gates.items()}

    def _gate_of(self, lane: Lane[W]) -> Gate | None:
        return self._gates.get(lane.waits_for) if lane.waits_for else None

    def views(self, now: float) -> tuple[LaneView, ...]:
        """Tell how each lane is."""
        return tuple(self._view(lane, now) for lane in self._lanes.values())

    def _view(self, lane: Lane[W], now: float) -> LaneView:
        gate = self._gate_of(lane)
        trouble, due = (gate.trouble, gate.due) if gate else (lane.trouble, lane.due)
        if gate is None and not (lane.has_work and lane.due > now):
            trouble = None  # nothing stands in its way now
        finished = len(lane.finished)
        return LaneView(
            partition=lane.partition,
            epoch=lane.epoch,
            waiting=lane.held_records - lane.records_in_flight - finished,
            in_flight=lane.records_in_flight,
            finished=finished,
            held_bytes=lane.held_bytes,
            is_paused=bool(lane.paused),
            oldest=lane.oldest.offset if lane.oldest else None,
            newest=lane.newest.offset if lane.newest else None,
            committed=lane.committed_offset,
            waits_for=lane.waits_for,
            cause=trouble.cause if trouble else None,
            message=trouble.message if trouble else None,
            held=trouble is not None and trouble.held,
            due=due if trouble else None,
        )

    def try_again(self, now: float) -> None:
        """Let what does not serve be tried at once: something was mended."""
        for gate in self._gates.values():
            gate.due = now

    def _serve(self, names: Iterable[str], now: float) -> None:
        for name in names:
            self._open(name, now)

    def _open(self, name: str, now: float) -> None:
        """Let all lanes that waited for this go on at once: it serves again."""
        gate = self._gates.pop(name, None)
        if gate is None:
            return
        self._log.info("resumed", on=name, after_seconds=round(now - gate.since, 3))
        for lane in self._lanes.values():
            if lane.waits_for == name:
                lane.resume()

    def _leave(self, lane: Lane[W]) -> None:
        name, lane.waits_for = lane.waits_for, None
        if name in self._gates and not self._gates[name].leave(lane.partition):
            del self._gates[name]
