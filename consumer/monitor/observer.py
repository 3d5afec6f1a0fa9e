"""Converts the engine's view to a status: adds what the view lacks, and says what each lane waits for.

Everything runs on the main thread. The status is immutable.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from confluent_kafka.admin import AdminClient

from consumer.engine.ports import LaneView, MemberView
from consumer.engine.records import Partition
from consumer.monitor.statistics import LogEnds, Reach, Statistics, read_statistics
from consumer.monitor.status import NOT_ASSIGNED, LaneStatus, MemberStatus, State

_FLOODED = "too many dead letters, so the topic is paused; SIGHUP lets one window of records through"
_REGISTRY = "registry"
_AT_GATES: tuple[State, ...] = ("site", "credentials", "registry")
_UNKNOWN = Reach(None, None)
_MOST_MARKS = 1000


class Observer:
    """Keeps what a view lacks: the ends of logs, and how long the oldest record has been in memory.

    `make_admin` makes the client that looks up the ends that the statistics do not update: those of paused
    partitions, and those of all partitions once no statistics have come for `patience` seconds. `patience` is None
    if there are never statistics. `fetch_wait` is how long a fetch may wait for records, in seconds.
    """

    def __init__(self, make_admin: Callable[[], AdminClient], patience: float | None, fetch_wait: float) -> None:
        self._log_ends = LogEnds(make_admin)
        self._patience = patience
        self._fetch_wait = fetch_wait
        self._statistics = Statistics(None, {})
        self._are_new = True
        self._until: float | None = None
        self._ends: dict[Partition, int] = {}
        self._paused: list[Partition] = []
        self._hidden: dict[Partition, float] = {}
        self._marks: dict[tuple[Partition, int], deque[tuple[int, float]]] = {}

    def note(self, statistics: str) -> None:
        """Read librdkafka's statistics, and look up the ends of paused partitions."""
        self._statistics = read_statistics(statistics, self._fetch_wait)
        self._are_new = True
        self._log_ends.ask(self._paused)

    def look(self, view: MemberView) -> MemberStatus:
        """Return the member's status."""
        if self._are_new and self._patience is not None:
            self._until = view.now + self._patience
        self._are_new = False
        are_old = self._until is not None and view.now > self._until
        self._paused = [lane.partition for lane in view.lanes if lane.is_paused]
        unknown = [lane.partition for lane in view.lanes] if are_old else self._paused
        ends = self._ends | self._log_ends.answers()
        if are_old:
            self._log_ends.ask(unknown)
        # Drop the ends of partitions that are fetched again: statistics are newer, and the log may have been cut.
        self._ends = {partition: ends[partition] for partition in unknown if partition in ends}
        assignments = [(lane.partition, lane.epoch) for lane in view.lanes]
        self._marks = {assignment: self._marks.get(assignment, deque()) for assignment in assignments}
        held = {lane.partition for lane in view.lanes}
        self._hidden = {partition: since for partition, since in self._hidden.items() if partition in held}
        # While no broker is connected, that is the reason, and not each partition.
        is_unknown = are_old or self._statistics.brokers == 0
        leaderless = frozenset() if is_unknown else self._statistics.leaderless
        lanes = tuple(self._look_at(lane, view, leaderless) for lane in view.lanes)
        reasons = list(_reasons(view, lanes, leaderless))
        return MemberStatus(
            turned_at=view.now,
            not_ready=tuple(reason for reason, _ in reasons),
            further=tuple(reason for reason, is_told in reasons if not is_told),
            lanes=lanes,
            brokers=self._statistics.brokers,
            brokers_until=self._until,
            is_stopping=view.is_stopping,
            refusal=view.refusal,
            losses=len(view.losses),
        )

    def _look_at(self, lane: LaneView, view: MemberView, leaderless: frozenset[Partition]) -> LaneStatus:
        reach = self._reach(lane)
        state, message, due = _obstacle(lane, view)
        if state == "idle" and lane.partition in leaderless:
            state = "leaderless"
        return LaneStatus(
            partition=lane.partition,
            state=state,
            position=reach.next,
            lag=None if reach.next is None or reach.end is None else max(0, reach.end - reach.next),
            waiting=lane.waiting,
            in_flight=lane.in_flight,
            finished=lane.finished,
            held_bytes=lane.held_bytes,
            # A new lane is also paused for a moment, but not because it is full.
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
        """Return how far a lane is. Its records in memory come before those that the library hands over next."""
        told = self._statistics.reaches.get(lane.partition, _UNKNOWN)
        reach = replace(told, end=_latest(told.end, self._ends.get(lane.partition)))
        return replace(reach, next=_latest(told.next, lane.committed) if lane.oldest is None else lane.oldest)

    def _since(self, lane: LaneView, now: float) -> float | None:
        """Return when the oldest record in memory was first seen.

        Each mark has an offset that was the newest when it was seen, and the time.
        """
        marks = self._marks[lane.partition, lane.epoch]
        if lane.oldest is None or lane.newest is None:
            marks.clear()
            return None
        if not marks or marks[-1][0] < lane.newest:
            marks.append((lane.newest, now))
        while marks[0][0] < lane.oldest:
            marks.popleft()
        if len(marks) > _MOST_MARKS:
            # The first says since when the oldest record waits. The others may be coarser: each stands for more.
            self._marks[lane.partition, lane.epoch] = deque([marks[0], *islice(marks, 2, None, 2)])
        return marks[0][1]


def _latest(*offsets: int | None) -> int | None:
    return max((offset for offset in offsets if offset is not None), default=None)


def _reasons(
    view: MemberView, lanes: Sequence[LaneStatus], leaderless: frozenset[Partition]
) -> Iterator[tuple[str, bool]]:
    """Yield each reason why the member does not deliver all its records, and whether a lane's state tells it."""
    states = {(lane.state, lane.partition.topic) for lane in lanes}
    waits_for = {lane.waits_for for lane in lanes if lane.state in _AT_GATES}
    for name, message in view.gates.items():
        yield f"{name}: {message}", name in waits_for
    for topic in view.flooded:
        yield f"{topic}: {_FLOODED}", ("flood", topic) in states
    if view.commit_trouble is not None:
        yield f"results can't be committed: {view.commit_trouble}", any(state == "commit" for state, _ in states)
    if not lanes:
        yield NOT_ASSIGNED, False
    for reason in view.unreadable:
        yield reason, False
    for lane in lanes:
        if lane.partition in leaderless:
            yield f"{lane.partition} has no leader", lane.state == "leaderless"
    for loss in view.losses:
        yield f"{loss}; SIGHUP acknowledges it", False


def _obstacle(lane: LaneView, view: MemberView) -> tuple[State, str | None, float | None]:
    """Return a lane's state, the message of what blocks it, and the time of the next try."""
    if lane.finished and lane.partition.topic in view.flooded:
        return "flood", None, None
    if lane.finished and view.commit_trouble is not None:
        return "commit", view.commit_trouble, None
    return _state(lane), lane.message, lane.due


def _state(lane: LaneView) -> State:
    """Return what a lane does or waits for, apart from its results."""
    if lane.waits_for is not None and lane.cause == _REGISTRY:
        return "registry"
    if lane.held:
        return "credentials"
    if lane.waits_for is not None:
        return "site"
    if lane.due is not None:
        return "backoff"
    return "working" if lane.waiting or lane.in_flight else "idle"
