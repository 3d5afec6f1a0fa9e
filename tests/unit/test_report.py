import math
from dataclasses import replace
from typing import Any

import pytest

from consumer.engine.ports import StrandView
from consumer.engine.records import Partition, Place
from consumer.monitor.failures import Failure
from consumer.monitor.history import History, Point, Reading, point, quantile
from consumer.monitor.metrics import Totals
from consumer.monitor.report import STUCK_AFTER, About, Seen, overall, report
from consumer.monitor.status import NOT_ASSIGNED, NOT_CONNECTED, LaneStatus, MemberStatus, State
from tests.views import LANE_STATUS

ABOUT = About("1.2.3", "group", "member", 0)
TOTALS = Totals(10, 2, 1, ((0.1, 0.0), (math.inf, 0.0)), {"rejected": 2})
LANE = replace(LANE_STATUS, state="idle")


def lane(state: State, number: int = 0, **changed: Any) -> LaneStatus:
    return replace(LANE, partition=Partition("orders", number), state=state, **changed)


def seen(*lanes: LaneStatus, points: tuple[Point, ...] = (), **changed: Any) -> Seen:
    status = MemberStatus(turned_at=1000.0, not_ready=(), lanes=lanes)
    return replace(Seen(1000.0, 5_000_000, status, TOTALS, (), points), **changed)


@pytest.mark.parametrize(
    ("states", "word"),
    [
        ((), "unassigned"),
        (("idle", "idle"), "idle"),
        (("idle", "working"), "working"),
        (("idle", "backoff"), "working"),
        (("idle", "working", "backoff"), "working"),
        (("working", "site"), "waiting"),
        (("registry",), "waiting"),
        (("commit",), "waiting"),
        (("site", "credentials"), "held"),
        (("idle", "flood"), "held"),
    ],
)
def test_a_member_has_the_worst_state_of_its_lanes(states: tuple[State, ...], word: str) -> None:
    assert overall(seen(*(lane(state) for state in states))) == word


def test_a_member_that_makes_no_progress_is_stuck_in_any_state() -> None:
    moment = seen(lane("site"))
    stopping = replace(moment, status=replace(moment.status, is_stopping=True))
    assert overall(stopping) == "stopping"
    assert overall(replace(stopping, now=1000 + STUCK_AFTER)) == "stopping"
    assert overall(replace(stopping, now=1000 + STUCK_AFTER + 1)) == "stuck"


def test_a_member_that_is_not_ready_is_waiting_whatever_its_lanes_do() -> None:
    def word(*reasons: str, lanes: tuple[LaneStatus, ...] = (lane("working"),)) -> str:
        return overall(replace(seen(), status=MemberStatus(1000.0, reasons, lanes)))

    assert word() == "working"
    assert word(NOT_CONNECTED) == "waiting"
    assert word(NOT_CONNECTED, NOT_ASSIGNED, lanes=()) == "waiting"
    assert word(NOT_ASSIGNED, lanes=()) == "unassigned"


def test_a_member_is_still_working_between_two_chunks() -> None:
    assert overall(seen(lane("idle"), points=(Point(999, 12.5, 0, 0, None, None, 0),))) == "working"
    assert overall(seen(lane("idle"), points=(Point(999, 0, 0, 0, None, None, 0),))) == "idle"


def test_lanes_that_wait_for_the_same_thing_are_listed_once() -> None:
    down = {"waits_for": "1", "message": "down", "due": 1003.0}
    other = {"waits_for": "2", "message": "down", "due": 999.0}
    document = report(
        ABOUT, seen(lane("site", 2, **down), lane("idle", 1), lane("site", 0, **down), lane("site", 3, **other))
    )
    assert document["waits"] == [
        {"state": "site", "on": "1", "message": "down", "lanes": 2, "due_in": 3.0},
        {"state": "site", "on": "2", "message": "down", "lanes": 1, "due_in": 0.0},
    ]
    assert [each["partition"] for each in document["lanes"]] == [0, 1, 2, 3]


def test_a_lane_is_shown_with_its_records_and_what_it_waits_for() -> None:
    waits = {"waits_for": "1", "message": "down", "due": 1003.0, "oldest_since": 990.0, "is_paused": True}
    waits |= {"hidden": 4, "hidden_since": 998.0, "ahead": 6}
    waits |= {"strands": (StrandView("1", 2, 991.0, "503", "down"),)}
    (told,) = report(ABOUT, seen(lane("site", 3, **waits)))["lanes"]
    assert told == {
        "topic": "orders",
        "partition": 3,
        "state": "site",
        "position": 5,
        "lag": 7,
        "waiting": 1,
        "in_flight": 2,
        "finished": 3,
        "bytes": 40,
        "paused": True,
        "waits_for": "1",
        "message": "down",
        "due_in": 3.0,
        "oldest_seconds": 10.0,
        "hidden": 4,
        "hidden_seconds": 2.0,
        "ahead": 6,
        "strands": [{"name": "1", "records": 2, "seconds": 9.0, "cause": "503", "message": "down"}],
    }


def test_the_counts_of_all_lanes_are_added_up() -> None:
    lanes = lane("idle", 0), lane("idle", 1, lag=None, oldest_since=400.0), lane("idle", 2, oldest_since=700.0)
    document = report(ABOUT, seen(*lanes))
    assert document["lag"] == 14
    assert document["held"] == {"waiting": 3, "in_flight": 6, "finished": 9, "bytes": 120}
    assert document["oldest_seconds"] == 600.0
    assert report(ABOUT, seen(lane("idle", lag=0)))["lag"] == 0
    unknown = report(ABOUT, seen(lane("idle", lag=None)))
    assert (unknown["lag"], unknown["oldest_seconds"]) == (None, None)


def test_points_of_the_last_minutes_have_their_time_of_day() -> None:
    document = report(ABOUT, seen(points=(Point(990.0, 12.5, 1, 2, 0.1, 0.2, 3),)))
    assert document["history"]["points"] == [
        {"at": 4_990_000, "results": 12.5, "dead_letters": 1, "retries": 2, "median": 0.1, "most": 0.2, "lag": 3}
    ]


def test_a_failure_has_its_place_and_the_command_that_shows_more() -> None:
    failure = Failure(Place("orders", 3, 77), "rejected", "total: wrong", 4_000_000)
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


def test_the_commonest_kinds_of_dead_letters_come_first_each_with_an_example() -> None:
    kinds = {"forbidden": 1.0, "rejected": 9.0, "undecodable": 5.0, "refused": 4.0, "failing": 3.0, "internal": 2.0}
    failures = [Failure(Place("orders", 3, at), "rejected", why, 0) for at, why in ((8, "newest"), (7, "older"))]
    document = report(ABOUT, seen(totals=replace(TOTALS, kinds=kinds), failures=failures))
    assert [each["kind"] for each in document["kinds"]] == [
        "rejected",
        "undecodable",
        "refused",
        "failing",
        "internal",
    ]
    assert document["kinds"][:2] == [
        {"kind": "rejected", "count": 9, "example": "newest"},
        {"kind": "undecodable", "count": 5, "example": None},
    ]


def test_a_point_covers_the_time_between_two_readings() -> None:
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


def test_a_history_keeps_a_point_from_each_reading_to_the_next() -> None:
    readings = [Reading(100.0 + 5 * n, replace(TOTALS, results=n * n), n) for n in range(200)]
    history = History(iter(readings).__next__)
    assert history.points == []
    for _ in range(3):
        history.take()
    assert [(each.at, each.results, each.lag) for each in history.points] == [
        (105.0, 0.2, 1),
        (110.0, 0.6, 2),
        (115.0, 1.0, 3),
    ]
    for _ in range(150):
        history.take()
    assert len(history.points) == 120
    assert history.points[-1].at == readings[153].at
