"""Makes a status of the engine's view: adds what the view can't tell, and words what stands in the way.

Everything runs on the main thread. The status is immutable.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from confluent_kafka.admin import AdminClient

from consumer.engine.ports import LaneView, MemberView
from consumer.engine.records import Partition
from consumer.monitor.statistics import LogEnds, Reach, Statistics, read_statistics
from consumer.monitor.status import NOT_ASSIGNED, LaneStatus, MemberStatus, State

_FLOODED = "too many of the last records are dead letters; SIGHUP lets one window through"
_REGISTRY = "registry"
_UNKNOWN = Reach(None, None)


class Observer:
    """Keeps what a view can't tell: where logs end, and since when the oldest record is held.

    `make_admin` makes the client that asks for the ends that the statistics tell nothing new of: those of paused
    partitions, and of all once no statistics have come for `patience` seconds. None: there are no statistics.
    """

    def __init__(self, make_admin: Callable[[], AdminClient], patience: float | None) -> None:
        self._log_ends = LogEnds(make_admin)
        self._patience = patience
        self._statistics = Statistics(None, {})
        self._are_new = True
        self._until: float | None = None
        self._ends: dict[Partition, int] = {}
        self._paused: list[Partition] = []
        self._hidden: dict[Partition, float] = {}
        self._marks: dict[tuple[Partition, int], deque[tuple[int, float]]] = {}

    def note(self, statistics: str) -> None:
        """Take librdkafka's statistics, and ask where the logs of paused partitions end."""
        self._statistics = read_statistics(statistics)
        self._are_new = True
        self._log_ends.ask(self._paused)

    def look(self, view: MemberView) -> MemberStatus:
        """Tell how the member is."""
        if self._are_new and self._patience is not None:
            self._until = view.now + self._patience
        self._are_new = False
        are_old = self._until is not None and view.now > self._until
        self._paused = [lane.partition for lane in view.lanes if lane.is_paused]
        unknown = [lane.partition for lane in view.lanes] if are_old else self._paused
        ends = self._ends | self._log_ends.answers()
        if are_old:
            self._log_ends.ask(unknown)
        # Once it is fetched again the library knows better: the log may have been cut since we asked.
        self._ends = {partition: ends[partition] for partition in unknown if partition in ends}
        assignments = [(lane.partition, lane.epoch) for lane in view.lanes]
        self._marks = {assignment: self._marks.get(assignment, deque()) for assignment in assignments}
        return MemberStatus(
            turned_at=view.now,
            not_ready=_not_ready(view),
            lanes=tuple(self._look_at(lane, view) for lane in view.lanes),
            brokers=self._statistics.brokers,
            brokers_until=self._until,
            is_stopping=view.is_stopping,
            refusal=view.refusal,
        )

    def _look_at(self, lane: LaneView, view: MemberView) -> LaneStatus:
        reach = self._reach(lane)
        state, message, due = _obstacle(lane, view)
        return LaneStatus(
            partition=lane.partition,
            state=state,
            position=reach.next,
            lag=None if reach.next is None or reach.end is None else max(0, reach.end - reach.next),
            waiting=lane.waiting,
            in_flight=lane.in_flight,
            finished=lane.finished,
            held_bytes=lane.held_bytes,
            # A new lane is paused too, for a moment, but not because it is full.
            is_paused=lane.is_paused and lane.oldest is not None,
            waits_for=lane.waits_for,
            message=message,
            due=due,
            oldest_since=self._since(lane, view.now),
            hidden=reach.hidden,
            hidden_since=self._hidden_since(lane.partition, reach.hidden, view.now),
            ahead=lane.ahead,
            strands=lane.strands,
        )

    def _hidden_since(self, partition: Partition, hidden: int, now: float) -> float | None:
        if not hidden:
            self._hidden.pop(partition, None)
            return None
        return self._hidden.setdefault(partition, now)

    def _reach(self, lane: LaneView) -> Reach:
        """Tell how far a lane is. The records it holds come before those the library hands over next."""
        told = self._statistics.reaches.get(lane.partition, _UNKNOWN)
        reach = replace(told, end=_latest(told.end, self._ends.get(lane.partition)))
        return replace(reach, next=_latest(told.next, lane.committed) if lane.oldest is None else lane.oldest)

    def _since(self, lane: LaneView, now: float) -> float | None:
        """Tell when the oldest record held was first seen: marks tell how far the lane was, and when."""
        marks = self._marks[lane.partition, lane.epoch]
        if lane.oldest is None or lane.newest is None:
            marks.clear()
            return None
        if not marks or marks[-1][0] < lane.newest:
            marks.append((lane.newest, now))
        while marks[0][0] < lane.oldest:
            marks.popleft()
        return marks[0][1]


def _latest(*offsets: int | None) -> int | None:
    return max((offset for offset in offsets if offset is not None), default=None)


def _not_ready(view: MemberView) -> tuple[str, ...]:
    """Say why the member does not deliver all it is given; one sentence for each reason."""
    reasons = [f"{name}: {message}" for name, message in view.gates.items()]
    reasons += [f"{topic}: {_FLOODED}" for topic in view.flooded]
    if view.commit_trouble is not None:
        reasons.append(f"results can't be committed: {view.commit_trouble}")
    if not view.lanes:
        reasons.append(NOT_ASSIGNED)
    reasons += [f"{loss}; SIGHUP acknowledges it" for loss in view.losses]
    return tuple(reasons)


def _obstacle(lane: LaneView, view: MemberView) -> tuple[State, str | None, float | None]:
    """Tell a lane's state, with the message of what stands in its way and the time of the next try."""
    if lane.finished and lane.partition.topic in view.flooded:
        return "flood", None, None
    if lane.finished and view.commit_trouble is not None:
        return "commit", view.commit_trouble, None
    return _state(lane), lane.message, lane.due


def _state(lane: LaneView) -> State:
    """Tell what a lane does or waits for, its results aside."""
    if lane.waits_for is not None and lane.cause == _REGISTRY:
        return "registry"
    if lane.held:
        return "credentials"
    if lane.waits_for is not None:
        return "site"
    if lane.due is not None:
        return "backoff"
    return "working" if lane.waiting or lane.in_flight else "idle"
