"""Builds the JSON document that the status page shows: the member, its lanes, recent minutes and failures. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from consumer.monitor.failures import Failure
from consumer.monitor.history import STEP, Point
from consumer.monitor.metrics import Totals
from consumer.monitor.status import NOT_ASSIGNED, LaneStatus, MemberStatus

STUCK_AFTER = 120.0
"""A member counts as stuck if its main loop has not reported for this many seconds. Then only a restart helps.

The main loop reports on every turn, even while it waits for Kafka or anything else.
"""

_TOP_KINDS = 5

Overall = Literal["stuck", "stopping", "unassigned", "held", "waiting", "working", "idle"]


@dataclass(frozen=True, slots=True)
class About:
    """The identity of a member. `started_ms` is in milliseconds since 1970."""

    version: str
    group: str
    member: str
    started_ms: int


def is_stuck(status: MemberStatus, now: float) -> bool:
    """Return whether the main loop has stopped. `now` is in seconds of the monotonic clock."""
    return now - status.turned_at > STUCK_AFTER


@dataclass(frozen=True, slots=True)
class Seen:
    """A member at one moment. `now` is in seconds of the monotonic clock, `now_ms` in milliseconds since 1970."""

    now: float
    now_ms: int
    status: MemberStatus
    totals: Totals
    failures: Sequence[Failure]
    points: Sequence[Point]


def report(about: About, seen: Seen) -> dict[str, Any]:
    """Build the document."""
    now, now_ms, status, totals = seen.now, seen.now_ms, seen.status, seen.totals
    lanes = status.lanes
    lags = [lane.lag for lane in lanes if lane.lag is not None]
    ages = [now - lane.oldest_since for lane in lanes if lane.oldest_since is not None]
    return {
        "now": now_ms,
        "version": about.version,
        "group": about.group,
        "member": about.member,
        "started": about.started_ms,
        "state": overall(seen),
        "not_ready": status.not_ready,
        "waits": _waits(lanes, now),
        "further": status.further,
        "brokers": status.brokers,
        "lag": sum(lags) if lags else None,
        "held": {
            "waiting": sum(lane.waiting for lane in lanes),
            "in_flight": sum(lane.in_flight for lane in lanes),
            "finished": sum(lane.finished for lane in lanes),
            "bytes": sum(lane.held_bytes for lane in lanes),
        },
        "oldest_seconds": max(ages, default=None),
        "results": totals.results,
        "dead_letters": totals.dead_letters,
        "retries": totals.retries,
        "lanes": [_lane(lane, now) for lane in sorted(lanes, key=lambda lane: lane.partition)],
        "history": {
            "step": STEP,
            "points": [
                {
                    "at": now_ms - round((now - point.at) * 1000),
                    "results": point.results,
                    "dead_letters": point.dead_letters,
                    "retries": point.retries,
                    "median": point.median,
                    "most": point.most,
                    "lag": point.lag,
                }
                for point in seen.points
            ],
        },
        "failures": [_failure(failure) for failure in seen.failures],
        "kinds": [
            {"kind": kind, "count": count, "example": _example(kind, seen.failures)}
            for kind, count in Counter(totals.kinds).most_common(_TOP_KINDS)
        ],
    }


def overall(seen: Seen) -> Overall:
    """Return the worst state that the member is in."""
    states = {lane.state for lane in seen.status.lanes}
    if is_stuck(seen.status, seen.now):
        return "stuck"
    if seen.status.is_stopping:
        return "stopping"
    if not states and set(seen.status.not_ready) <= {NOT_ASSIGNED}:
        return "unassigned"
    if states & {"credentials", "flood"}:
        return "held"
    if seen.status.not_ready or states & {"site", "registry", "commit", "leaderless"}:
        return "waiting"
    # Between two chunks a lane is idle for a moment.
    was_busy = bool(seen.points) and seen.points[-1].results > 0
    return "working" if states & {"working", "backoff"} or was_busy else "idle"


def _waits(lanes: Sequence[LaneStatus], now: float) -> list[dict[str, Any]]:
    """Summarize what lanes wait for, with the number of lanes that wait for each."""
    waits: dict[tuple[str, str | None, str | None], list[LaneStatus]] = {}
    for lane in lanes:
        if lane.state not in ("idle", "working"):
            waits.setdefault((lane.state, lane.waits_for, lane.message), []).append(lane)
    return [
        {"state": state, "on": on, "message": message, "lanes": len(those), "due_in": _due_in(those[0], now)}
        for (state, on, message), those in waits.items()
    ]


def _lane(lane: LaneStatus, now: float) -> dict[str, Any]:
    return {
        "topic": lane.partition.topic,
        "partition": lane.partition.number,
        "state": lane.state,
        "position": lane.position,
        "lag": lane.lag,
        "waiting": lane.waiting,
        "in_flight": lane.in_flight,
        "finished": lane.finished,
        "bytes": lane.held_bytes,
        "paused": lane.is_paused,
        "waits_for": lane.waits_for,
        "message": lane.message,
        "due_in": _due_in(lane, now),
        "oldest_seconds": None if lane.oldest_since is None else now - lane.oldest_since,
        "hidden": lane.hidden,
        "hidden_seconds": None if lane.hidden_since is None else now - lane.hidden_since,
        "ahead": lane.ahead,
        "strands": [
            {
                "name": strand.name,
                "records": strand.records,
                "seconds": max(0.0, now - strand.since),
                "cause": strand.cause,
                "message": strand.message,
            }
            for strand in lane.strands
        ],
    }


def _due_in(lane: LaneStatus, now: float) -> float | None:
    return None if lane.due is None else max(0.0, lane.due - now)


def _failure(failure: Failure) -> dict[str, Any]:
    place = str(failure.place)
    return {
        "at": failure.at_ms,
        "place": place,
        "kind": failure.kind,
        "reason": failure.reason,
        "command": f"jirafe-consumer dead-letters show {place}",
    }


def _example(kind: str, failures: Sequence[Failure]) -> str | None:
    return next((failure.reason for failure in failures if failure.kind == kind), None)
