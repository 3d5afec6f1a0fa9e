"""Looks at the lanes for those outside: once a second at most, so that it costs nothing. Pure state.

All is of the main thread; what it gives is immutable.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import replace

from consumer.delivery import REGISTRY
from consumer.lane import Lane
from consumer.lanes import Lanes
from consumer.record import Partition
from consumer.telemetry.statistics import Reach, Statistics
from consumer.telemetry.status import LaneStatus, State

_INTERVAL = 1.0
_UNKNOWN = Reach(None, None)


class Observer:
    """Keeps what it takes to tell of lanes more than they are: where their logs end, since when they have what."""

    def __init__(self) -> None:
        self.brokers: int | None = None
        self._due = 0.0
        self._seen: tuple[LaneStatus, ...] = ()
        self._reaches: Mapping[Partition, Reach] = {}
        self._ends: dict[Partition, int] = {}
        self._marks: dict[tuple[Partition, int], deque[tuple[int, float]]] = {}

    def note(self, statistics: Statistics) -> None:
        """Take what the library tells of its consumer."""
        self.brokers = statistics.brokers
        self._reaches = statistics.reaches

    def note_ends(self, ends: Mapping[Partition, int]) -> None:
        """Take ends of logs that were asked for: the library's own are older."""
        self._ends.update(ends)

    def look(
        self, lanes: Lanes, now: float, *, flooded: bool, commit_problem: str | None
    ) -> tuple[LaneStatus, ...]:
        """Tell how the lanes are; anew once a second, else as a moment ago."""
        if now >= self._due:
            self._due = now + _INTERVAL
            marks = {key: self._marks.get(key, deque()) for key in ((lane.partition, lane.epoch) for lane in lanes)}
            self._marks = marks
            self._ends = {lane.partition: self._ends[lane.partition] for lane in lanes if self._is_asked(lane)}
            self._seen = tuple(
                self._look_at(lane, lanes, now, flooded=flooded, commit_problem=commit_problem) for lane in lanes
            )
        return self._seen

    def _is_asked(self, lane: Lane) -> bool:
        return lane.paused and lane.partition in self._ends

    def _look_at(
        self, lane: Lane, lanes: Lanes, now: float, *, flooded: bool, commit_problem: str | None
    ) -> LaneStatus:
        reach = self._reach(lane)
        finished, in_flight = len(lane.finished), lane.records_in_flight
        state, due, reason = _state(lane, lanes, now)
        if finished and (flooded or commit_problem):
            state, due, reason = ("flood", None, None) if flooded else ("commit", None, commit_problem)
        return LaneStatus(
            partition=lane.partition,
            state=state,
            position=reach.next,
            lag=None if reach.next is None or reach.end is None else max(0, reach.end - reach.next),
            waiting=lane.held_records - in_flight - finished,
            in_flight=in_flight,
            finished=finished,
            held_bytes=lane.held_bytes,
            is_paused=lane.paused and lane.held_records > 0,
            waits_for=lane.waits_for,
            reason=reason,
            due=due,
            oldest_since=self._since(lane, now),
        )

    def _reach(self, lane: Lane) -> Reach:
        """Tell how far a lane is. What it holds is behind what the library has handed over."""
        told = self._reaches.get(lane.partition, _UNKNOWN)
        ends = [end for end in (told.end, self._ends.get(lane.partition)) if end is not None]
        reach = replace(told, end=max(ends, default=None))
        if lane.oldest:
            return replace(reach, next=lane.oldest.offset)
        nexts = [offset for offset in (told.next, lane.committed_offset) if offset is not None]
        return replace(reach, next=max(nexts, default=None))

    def _since(self, lane: Lane, now: float) -> float | None:
        """Tell when the oldest record was first seen here: by marks of how far the lane was when."""
        marks = self._marks[lane.partition, lane.epoch]
        if lane.oldest is None or lane.newest is None:
            marks.clear()
            return None
        if not marks or marks[-1][0] < lane.newest.offset:
            marks.append((lane.newest.offset, now))
        while marks[0][0] < lane.oldest.offset:
            marks.popleft()
        return marks[0][1]


def _state(lane: Lane, lanes: Lanes, now: float) -> tuple[State, float | None, str | None]:
    """Tell what a lane does or waits for, when that is tried again, and the reason."""
    gate = lanes.gate_of(lane)
    if gate:
        waits: State = "credentials" if gate.is_held else "registry" if lane.waits_for == REGISTRY else "site"
        return waits, gate.due, gate.problem
    if lane.has_work and lane.due > now:
        return "backoff", lane.due, lane.problem
    return "working" if lane.in_flight or lane.has_work else "idle", None, None
