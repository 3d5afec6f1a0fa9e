import math
from dataclasses import replace
from typing import Any

import pytest

from consumer.telemetry.failures import Failure
from consumer.telemetry.metrics import Totals
from consumer.telemetry.status import LaneStatus, State, Status
from consumer.web.history import Point, Reading, point, quantile
from consumer.web.report import STUCK_AFTER, About, Seen, overall, report

ABOUT = About("1.2.3", "group", "member", 0)
TOTALS = Totals(10, 2, 1, ((0.1, 0.0), (math.inf, 0.0)), {"rejected": 2})


def lane(state: State, number: int = 0, **changed: Any) -> LaneStatus:
    base = LaneStatus(("orders", number), state, 5, 7, 1, 2, 3, 40, False, None, None, None, None)  # noqa: FBT003
    return replace(base, **changed)


def seen(*lanes: LaneStatus, points: tuple[Point, ...] = (), **changed: Any) -> Seen:
    status = Status(turned_at=1000.0, not_ready=(), lanes=lanes)
    return replace(Seen(1000.0, 5_000_000, status, TOTALS, (), points), **changed)


@pytest.mark.parametrize(
    ("states", "word"),
    [
        ((), "unassigned"),
        (("idle", "idle"), "idle"),
        (("idle", "working"), "working"),
        (("idle", "backoff"), "working"),
        (("working", "site"), "waiting"),
        (("registry",), "waiting"),
        (("commit",), "waiting"),
        (("site", "credentials"), "held"),
        (("idle", "flood"), "held"),
    ],
)
def test_what_is_worst_of_the_lanes_is_the_members_state(states: tuple[State, ...], word: str) -> None:
    assert overall(seen(*(lane(state) for state in states))) == word


def test_a_member_that_makes_no_progress_or_stops() -> None:
    moment = seen(lane("site"))
    assert overall(replace(moment, now=1000 + STUCK_AFTER + 1)) == "stuck"
    assert overall(replace(moment, status=replace(moment.status, is_stopping=True))) == "stopping"


def test_between_two_chunks_it_is_still_working() -> None:
    assert overall(seen(lane("idle"), points=(Point(999, 12.5, 0, 0, None, None, 0),))) == "working"


def test_lanes_that_wait_for_the_same_are_told_of_once() -> None:
    down = {"waits_for": "1", "reason": "down", "due": 1003.0}
    document = report(ABOUT, seen(lane("site", 2, **down), lane("idle", 1), lane("site", 0, **down)))
    assert document["waits"] == [{"state": "site", "on": "1", "reason": "down", "lanes": 2, "due_in": 3.0}]
    assert [each["partition"] for each in document["lanes"]] == [0, 1, 2]
    assert document["lag"] == 21


def test_an_error_has_its_place_and_the_command_to_look_closer() -> None:
    failure = Failure(("orders", 3), 77, "rejected", "total: wrong", 4_000_000)
    document = report(ABOUT, seen(lane("idle"), failures=(failure,)))
    assert document["failures"] == [
        {
            "at": 4_000_000,
            "place": "orders/3/77",
            "kind": "rejected",
            "reason": "total: wrong",
            "command": "jirafe-consumer dead-letters show orders/3/77",
        }
    ]
    assert document["reasons"] == [{"kind": "rejected", "count": 2, "example": "total: wrong"}]


def test_a_point_tells_what_was_between_two_readings() -> None:
    buckets = ((0.1, 10.0), (1.0, 10.0), (math.inf, 10.0))
    later = ((0.1, 10.0), (1.0, 14.0), (math.inf, 14.0))
    before = Reading(100.0, Totals(50, 0, 3, buckets, {}), 9)
    after = Reading(105.0, Totals(150, 5, 3, later, {}), 4)
    told = point(before, after)
    assert (told.results, told.dead_letters, told.retries, told.lag) == (20, 1, 0, 4)
    assert told.median == pytest.approx(0.55)
    assert point(before, replace(before, at=101.0)).median is None


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        (0.5, (0, 0, 0), None),
        (0.5, (10, 10, 10), 0.05),
        (0.5, (0, 10, 10), 0.55),
        (0.95, (0, 0, 10), 1.0),  # all over the last bound: at least that
    ],
)
def test_quantiles_are_estimated_in_their_bucket(
    share: float, counts: tuple[float, ...], expected: float | None
) -> None:
    assert quantile(share, list(zip((0.1, 1.0, math.inf), counts, strict=True))) == pytest.approx(expected)
