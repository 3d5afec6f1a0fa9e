"""The monitor: its status and metrics after hooks that are called as the engine calls them."""

import json
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, cast, get_args

import pytest
import structlog
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ListOffsetsResultInfo
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from consumer.engine.backoff import Backoff
from consumer.engine.lanes import Lanes
from consumer.engine.ports import Apart, Change, Chunk, Done, LaneView, MemberView, Retry, StrandView, Trouble
from consumer.engine.records import DeadLetter, Output, Partition, Place, Record
from consumer.engine.strand import Bounds
from consumer.monitor.letters import LetterLog
from consumer.monitor.monitor import Monitor
from consumer.monitor.status import LaneStatus, State
from tests.views import IDLE, QUIET

PARTITION = IDLE.partition


class ScriptedAdmin:
    """An admin client whose answers come when the test gives them."""

    def __init__(self) -> None:
        self.made = 0
        self.asked: list[dict[Partition, Future[ListOffsetsResultInfo]]] = []

    def __len__(self) -> int:
        return 0  # as the library's, while nothing is under way

    def make(self) -> AdminClient:
        self.made += 1
        return cast("AdminClient", self)

    def list_offsets(
        self, requests: Iterable[TopicPartition], *, isolation_level: IsolationLevel, request_timeout: float
    ) -> dict[TopicPartition, Future[ListOffsetsResultInfo]]:
        assert isolation_level == IsolationLevel.READ_COMMITTED
        assert request_timeout > 0
        futures: dict[TopicPartition, Future[ListOffsetsResultInfo]] = {of: Future() for of in requests}
        self.asked.append({Partition(of.topic, of.partition): future for of, future in futures.items()})
        return futures

    def answer(self, end: int, of: Partition = PARTITION) -> None:
        self.asked[-1][of].set_result(ListOffsetsResultInfo(end, -1, -1))


@pytest.fixture
def admin() -> ScriptedAdmin:
    return ScriptedAdmin()


def silent() -> LetterLog:
    return LetterLog(structlog.get_logger(), lambda: 0.0)


@pytest.fixture
def monitor(admin: ScriptedAdmin) -> Monitor:
    return Monitor(admin.make, 5.0, silent())


def see(monitor: Monitor, lane: LaneView = IDLE, view: MemberView = QUIET) -> LaneStatus:
    """Show a member with this one lane, and give its status."""
    monitor.viewed(replace(view, lanes=(lane,)))
    (status,) = monitor.status.lanes
    return status


def holding(*offsets: int, **changed: Any) -> LaneView:
    """A lane that holds these records, all waiting."""
    return replace(IDLE, oldest=offsets[0], newest=offsets[-1], waiting=len(offsets), **changed)


def statistics(
    following: int = 0, end: int = 0, *, brokers: Mapping[str, Any] | None = None, **changed: Any
) -> str:
    """What librdkafka tells of one partition with nothing fetched ahead."""
    partition = {
        "partition": 0,
        "leader": 1,
        "fetch_state": "active",
        "fetchq_cnt": 0,
        "next_offset": following,
        "app_offset": following,
        "ls_offset": end,
        "hi_offset": end,
        **changed,
    }
    topic = {"topic": "orders", "partitions": {str(partition["partition"]): partition}}
    return json.dumps({"brokers": brokers or {}, "topics": {"orders": topic}})


def values(monitor: Monitor, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """All samples of a name that are not zero, by the values of these labels, as Prometheus would read them."""
    return {
        tuple(sample.labels[label] for label in labels): sample.value
        for family in text_string_to_metric_families(generate_latest(monitor.metrics.registry).decode())
        for sample in family.samples
        if sample.name == f"jirafe_consumer_{name}" and sample.value
    }


# counters


def output(offset: int, letter: DeadLetter | None = None) -> Output:
    return Output(Record("orders", 1, offset, 0, None, None, ()), b"", letter)


def test_records_received_are_counted_by_topic(monitor: Monitor) -> None:
    monitor.received({"orders": 3, "carts": 1})
    monitor.received({"orders": 2})
    assert values(monitor, "records_received_total", "topic") == {("orders",): 5, ("carts",): 1}


def test_retries_are_counted_by_cause(monitor: Monitor) -> None:
    monitor.retried(Trouble("123", "503", "the API answered 503"))
    monitor.retried(Trouble("123", "503", "the API answered 503, again"))
    monitor.retried(Trouble("schema registry", "registry", "away"))
    assert values(monitor, "retries_total", "cause") == {("503",): 2, ("registry",): 1}


def test_a_commit_counts_results_and_dead_letters_and_notes_failures(monitor: Monitor) -> None:
    monitor.committed([output(1), output(2, DeadLetter("rejected", "total: wrong", 1)), output(3)], 0.5)
    monitor.committed([output(4, DeadLetter("undecodable", "no Avro", 1))], 0.25)
    assert values(monitor, "results_total", "code") == {("200",): 2, ("500",): 2}
    assert values(monitor, "dead_letters_total", "kind") == {("rejected",): 1, ("undecodable",): 1}
    assert values(monitor, "commit_duration_seconds_sum") == {(): 0.75}
    assert values(monitor, "commit_duration_seconds_count") == {(): 2}
    assert [(failure.place, failure.kind, failure.reason) for failure in monitor.failures.last] == [
        (Place("orders", 1, 4), "undecodable", "no Avro"),
        (Place("orders", 1, 2), "rejected", "total: wrong"),
    ]


def test_aborts_rejoins_and_rebalances_are_counted(monitor: Monitor) -> None:
    monitor.aborted()
    monitor.rejoining()
    monitor.rejoining()
    monitor.rebalanced("assigned", [PARTITION])
    monitor.rebalanced("lost", [PARTITION])
    monitor.rebalanced("assigned", iter([PARTITION]))
    for change in get_args(Change):
        monitor.rebalanced(change, [])  # others' partitions went from one to the other
    assert values(monitor, "transaction_aborts_total") == {(): 1}
    assert values(monitor, "rejoins_total") == {(): 2}
    assert values(monitor, "rebalances_total", "event") == {("assigned",): 2, ("lost",): 1}


# views


def test_a_view_is_due_once_a_second(monitor: Monitor) -> None:
    assert monitor.is_view_due(100.0)
    assert monitor.is_view_due(100.0)  # it was not taken
    monitor.viewed(QUIET)
    assert not monitor.is_view_due(100.0)
    assert not monitor.is_view_due(100.99)
    assert monitor.is_view_due(101.0)


def test_each_turn_counts_as_progress_with_or_without_a_view(monitor: Monitor) -> None:
    monitor.is_view_due(100.0)
    monitor.viewed(QUIET)
    assert monitor.status.turned_at == 100.0
    monitor.is_view_due(100.5)
    assert monitor.status.turned_at == 100.5
    assert len(monitor.status.lanes) == 1


def test_before_the_first_view_no_partition_is_assigned(monitor: Monitor) -> None:
    assert monitor.status.not_ready == ("no partition is assigned",)
    assert monitor.status.lanes == ()
    assert monitor.status.brokers is None
    assert values(monitor, "ready") == {}
    monitor.viewed(replace(QUIET, now=time.monotonic()))
    assert values(monitor, "ready") == {(): 1}


@pytest.mark.parametrize(
    ("changed", "reasons"),
    [
        ({}, ()),
        ({"gates": {"123": "down", "schema registry": "away"}}, ("123: down", "schema registry: away")),
        (
            {"flooded": ("orders",)},
            ("orders: too many dead letters, so the topic is paused; SIGHUP lets one window of records through",),
        ),
        ({"commit_trouble": "too large"}, ("results can't be committed: too large",)),
        ({"commit_trouble": ""}, ("results can't be committed: ",)),
        ({"lanes": ()}, ("no partition is assigned",)),
        (
            {"gates": {"123": "down"}, "flooded": ("orders",), "commit_trouble": "too large", "lanes": ()},
            (
                "123: down",
                "orders: too many dead letters, so the topic is paused; SIGHUP lets one window of records through",
                "results can't be committed: too large",
                "no partition is assigned",
            ),
        ),
    ],
)
def test_readiness_gives_every_reason(monitor: Monitor, changed: dict[str, Any], reasons: tuple[str, ...]) -> None:
    monitor.viewed(replace(QUIET, **changed))
    assert monitor.status.not_ready == reasons


def test_a_reason_that_no_lane_tells_is_told_apart(monitor: Monitor) -> None:
    monitor.statistics(statistics(brokers={"b1": ANSWERS}, leader=-1))
    finished = replace(IDLE, finished=1, oldest=1, newest=1)
    lanes = (
        IDLE,
        replace(holding(1, waits_for="123", cause="timeout", message="down"), partition=Partition("carts", 0)),
        replace(finished, partition=Partition("carts", 1)),
        replace(finished, partition=Partition("taxons", 0)),
    )
    monitor.viewed(
        replace(
            QUIET,
            lanes=lanes,
            gates={"123": "down", "456": "down"},
            flooded=("taxons", "products"),
            commit_trouble="too large",
            losses=("orders/4 lost 7 records",),
        )
    )
    assert [lane.state for lane in monitor.status.lanes] == ["leaderless", "site", "commit", "flood"]
    assert len(monitor.status.not_ready) == 7
    reasons = monitor.status.as_of(107.0).further
    assert [reason.partition(":")[0].partition(";")[0] for reason in reasons] == [
        "the main loop has not reported for 7 s",
        "456",
        "products",
        "orders/4 lost 7 records",
    ]
    monitor.rejoining()
    assert monitor.status.further == ("the member left its group and joins again",)


def test_a_main_loop_that_is_silent_is_not_ready_and_says_for_how_long(monitor: Monitor) -> None:
    monitor.viewed(replace(QUIET, gates={"123": "down"}))
    assert monitor.status.as_of(105.0).not_ready == ("123: down",)
    silent = "the main loop has not reported for 7 s"
    assert monitor.status.as_of(107.2).not_ready == (silent, "123: down")
    monitor.is_view_due(107.0)
    assert monitor.status.as_of(107.2).not_ready == ("123: down",)
    # While the engine waits for Kafka, it still reports, and says what it waits for.
    waits = "Kafka: the transaction has been waiting for 7 s"
    monitor.viewed(replace(QUIET, now=110.0, commit_trouble=waits))
    assert monitor.status.as_of(111.0).not_ready == (f"results can't be committed: {waits}",)


def test_a_member_that_rejoins_says_so_and_has_no_partition(monitor: Monitor) -> None:
    monitor.viewed(QUIET)
    monitor.rejoining()
    now = time.monotonic()
    assert monitor.status.as_of(now).not_ready[-1] == "the member left its group and joins again"
    assert now - monitor.status.turned_at < 5  # it is alive: it counts as silent only after some time
    assert monitor.status.lanes == ()
    monitor.viewed(replace(QUIET, now=now))
    assert monitor.status.not_ready == ()


ANSWERS = {"state": "UP", "source": "learned", "waitresp_cnt": 1, "rxidle": 500_000}
UP = {"b1": ANSWERS}


def test_brokers_count_as_disconnected_without_recent_statistics(monitor: Monitor) -> None:
    def brokers(at: float) -> tuple[int | None, tuple[str, ...]]:
        status = replace(monitor.status, turned_at=at).as_of(at)
        return status.brokers, status.not_ready

    unheard = ("Kafka: no broker has answered recently",)
    monitor.viewed(QUIET)
    assert brokers(115.0) == (None, ())  # not known yet
    assert brokers(115.1) == (0, unheard)  # three statistics have not come
    monitor.statistics(statistics(brokers=UP))
    monitor.viewed(replace(QUIET, now=200.0))
    assert brokers(215.0) == (1, ())
    monitor.viewed(replace(QUIET, now=214.0))  # a view alone tells nothing of brokers
    assert brokers(215.1) == (0, unheard)
    monitor.statistics(statistics(brokers=UP))
    monitor.viewed(replace(QUIET, now=300.0))
    assert brokers(300.0) == (1, ())
    monitor.statistics(statistics(brokers={"b1": {"state": "CONNECT", "source": "learned"}}))
    monitor.viewed(replace(QUIET, now=301.0))
    assert brokers(301.0) == (0, ("Kafka: no broker answers",))


def test_a_refusal_is_reported_only_while_no_broker_is_connected(monitor: Monitor) -> None:
    refused = "Kafka refuses our credentials, or its certificate is not trusted: wrong password"

    def reasons(at: float) -> tuple[str, ...]:
        return replace(monitor.status, turned_at=at).as_of(at).not_ready

    view = replace(QUIET, refusal="wrong password")
    monitor.viewed(view)
    assert reasons(100.0) == reasons(200.0) == (refused,)
    monitor.statistics(statistics(brokers=UP))
    monitor.viewed(view)
    assert reasons(100.0) == ()
    monitor.statistics(statistics(brokers={}))
    monitor.viewed(view)
    assert reasons(100.0) == (refused,)


@pytest.mark.parametrize(("interval", "patience"), [(0.2, 5), (1, 5), (5, 15), (60, 180)])
def test_brokers_may_be_silent_for_three_intervals_and_at_least_five_seconds(
    admin: ScriptedAdmin, interval: float, patience: float
) -> None:
    monitor = Monitor(admin.make, interval, silent())
    monitor.viewed(QUIET)
    assert monitor.status.as_of(100 + patience).brokers is None
    assert monitor.status.as_of(100.1 + patience).brokers == 0


def test_without_statistics_nothing_is_known_of_brokers(admin: ScriptedAdmin) -> None:
    monitor = Monitor(admin.make, 0.0, silent())
    monitor.viewed(QUIET)
    assert replace(monitor.status, turned_at=9e9).as_of(9e9).brokers is None
    see(monitor, view=replace(QUIET, now=9e9))
    assert admin.asked == []


def test_the_status_says_that_a_member_is_stopping(monitor: Monitor) -> None:
    monitor.viewed(QUIET)
    assert not monitor.status.is_stopping
    monitor.viewed(replace(QUIET, is_stopping=True))
    assert monitor.status.is_stopping


DOWN = {"waits_for": "123", "cause": "503", "message": "down", "due": 107.0}
AWAY = {"waits_for": "schema registry", "cause": "registry", "message": "away", "due": 107.0}
REFUSED = {"waits_for": "123", "cause": "invalid_token", "message": "refused", "due": 130.0, "held": True}
LATER = {"cause": "500", "message": "one event fails", "due": 107.0}
FLOODED = replace(QUIET, flooded=("orders",))
ABORTED = replace(QUIET, commit_trouble="too large")


@pytest.mark.parametrize(
    ("view", "changed", "expected"),
    [
        (QUIET, {}, ("idle", None, None)),
        (QUIET, {"finished": 1}, ("idle", None, None)),
        (QUIET, {"waiting": 1}, ("working", None, None)),
        (QUIET, {"in_flight": 1}, ("working", None, None)),
        (QUIET, {"waiting": 1, **LATER}, ("backoff", "one event fails", 107.0)),
        (QUIET, {"waiting": 1, **LATER, "due": 0.0}, ("backoff", "one event fails", 0.0)),
        (QUIET, {"waiting": 1, **DOWN}, ("site", "down", 107.0)),
        (QUIET, {"in_flight": 1, **DOWN}, ("site", "down", 107.0)),
        (QUIET, {"waiting": 1, **AWAY}, ("registry", "away", 107.0)),
        (QUIET, {"waiting": 1, **AWAY, "held": True}, ("registry", "away", 107.0)),
        (QUIET, {"waiting": 1, **REFUSED}, ("credentials", "refused", 130.0)),
        (FLOODED, {"finished": 1, "waiting": 1, **DOWN}, ("flood", None, None)),
        (FLOODED, {"waiting": 1, **DOWN}, ("site", "down", 107.0)),
        (FLOODED, {}, ("idle", None, None)),
        (replace(QUIET, flooded=("carts",)), {"finished": 1}, ("idle", None, None)),
        (ABORTED, {"finished": 1, "waiting": 1, **DOWN}, ("commit", "too large", None)),
        (ABORTED, {"waiting": 1}, ("working", None, None)),
        (replace(FLOODED, commit_trouble="too large"), {"finished": 1}, ("flood", None, None)),
    ],
)
def test_the_state_of_a_lane_says_what_it_does_or_waits_for(
    monitor: Monitor,
    view: MemberView,
    changed: dict[str, Any],
    expected: tuple[State, str | None, float | None],
) -> None:
    lane = see(monitor, replace(IDLE, **changed), view)
    assert (lane.state, lane.message, lane.due) == expected
    assert lane.waits_for == changed.get("waits_for")
    assert values(monitor, "lanes", "state") == {(lane.state,): 1}


def test_the_status_has_the_counts_of_a_lane(monitor: Monitor) -> None:
    lane = see(monitor, replace(IDLE, waiting=1, in_flight=2, finished=3, held_bytes=40, oldest=5, newest=10))
    assert (lane.partition, lane.waiting, lane.in_flight, lane.finished, lane.held_bytes) == (
        PARTITION,
        1,
        2,
        3,
        40,
    )


def test_only_a_lane_that_holds_records_counts_as_paused(monitor: Monitor) -> None:
    assert not see(monitor, replace(IDLE, is_paused=True)).is_paused  # just assigned
    assert see(monitor, holding(0, is_paused=True)).is_paused
    assert not see(monitor, holding(0)).is_paused


def test_the_age_of_the_oldest_record_starts_when_it_was_first_seen(monitor: Monitor) -> None:
    def since(now: float, lane: LaneView) -> float | None:
        return see(monitor, lane, replace(QUIET, now=now)).oldest_since

    assert since(100, IDLE) is None
    assert since(101, holding(0)) == 101
    assert since(106, holding(0, 1)) == 101
    assert since(109, holding(0, 1, 2)) == 101
    assert since(110, holding(1, 2)) == 106  # the first is committed
    assert since(111, holding(2)) == 109
    assert since(112, IDLE) is None
    assert since(113, holding(2)) == 113  # nothing of before is left
    assert since(114, holding(2, epoch=2)) == 114  # assigned again, from the same offset
    monitor.viewed(replace(QUIET, lanes=()))
    assert since(115, holding(2, epoch=2)) == 115


def test_a_lane_that_goes_on_ahead_of_a_blocked_record_takes_little_memory(monitor: Monitor) -> None:
    observer = monitor._observer
    for newest in range(5_000):
        lane = replace(holding(0), newest=newest)
        assert see(monitor, lane, replace(QUIET, now=100.0 + newest)).oldest_since == 100
    assert sum(map(len, observer._marks.values())) <= 1001


# where logs end


def test_lag_is_from_the_next_record_to_finish_to_the_end_of_the_log(monitor: Monitor) -> None:
    def reach(lane: LaneView) -> tuple[int | None, int | None]:
        status = see(monitor, lane)
        return status.position, status.lag

    assert reach(IDLE) == (None, None)
    monitor.statistics(statistics(7, 20))
    assert reach(IDLE) == (7, 13)
    monitor.statistics(statistics(10, 20))
    assert reach(holding(7, 9)) == (7, 13)  # handed over, but not finished
    assert reach(holding(0, 9)) == (0, 20)
    assert reach(replace(IDLE, committed=10)) == (10, 10)
    assert reach(replace(IDLE, committed=15)) == (15, 5)  # statistics come seconds later
    monitor.statistics(statistics(20, 20))  # past the markers of transactions
    assert reach(replace(IDLE, committed=15)) == (20, 0)
    assert reach(replace(IDLE, committed=21)) == (21, 0)  # the end is older than the commit
    assert values(monitor, "lag_records", "topic", "partition") == {}
    assert reach(holding(17)) == (17, 3)
    assert values(monitor, "lag_records", "topic", "partition") == {("orders", "0"): 3}


@pytest.mark.parametrize("fetch_wait", [0.5, 15.0, 60.0])
def test_a_broker_that_keeps_its_connection_and_answers_nothing_is_not_connected(
    admin: ScriptedAdmin, fetch_wait: float
) -> None:
    monitor = Monitor(admin.make, 5.0, silent(), fetch_wait=fetch_wait)

    def brokers(**told: int | str) -> int | None:
        coordinator = {"state": "UP", "source": "logical", "waitresp_cnt": 1, "rxidle": 300_000_000}
        monitor.statistics(statistics(brokers={"b1": {**ANSWERS, **told}, "coordinator": coordinator}))
        see(monitor)
        return monitor.status.brokers

    longest = round((10 + fetch_wait) * 1_000_000)  # it may hold a fetch back as long as it was asked to
    assert brokers(rxidle=longest - 1) == 1
    assert brokers(rxidle=longest) == 0
    assert brokers(rxidle=300_000_000, waitresp_cnt=0) == 1  # nothing was asked of it
    assert brokers(state="DOWN") == 1  # the coordinator alone may take long: others are to rejoin first


def test_a_partition_without_a_leader_is_named_while_statistics_come(monitor: Monitor) -> None:
    def reasons() -> list[str]:
        return list(monitor.status.not_ready)

    brokers = {"b1": ANSWERS}
    monitor.statistics(statistics(brokers=brokers, leader=-1))
    assert see(monitor).state == "leaderless"
    assert reasons() == ["orders/0 has no leader"]
    held = replace(IDLE, waiting=1, oldest=1, newest=1, waits_for="123", cause="timeout")
    assert see(monitor, held).state == "site"  # what it holds waits for something else
    assert reasons() == ["orders/0 has no leader"]
    other = replace(IDLE, partition=Partition("orders", 1))
    assert see(monitor, other).state == "idle"
    assert reasons() == []
    see(monitor, view=replace(QUIET, now=QUIET.now + 60))  # what is known is old
    assert reasons() == []
    monitor.statistics(statistics(brokers=brokers))
    assert see(monitor).state == "idle"
    assert reasons() == []


def test_partitions_are_not_named_while_no_broker_is_connected(monitor: Monitor) -> None:
    monitor.statistics(statistics(brokers={"b1": {"state": "DOWN", "source": "learned"}}, leader=-1))
    assert see(monitor).state == "idle"
    assert monitor.status.as_of(QUIET.now).not_ready == ("Kafka: no broker answers",)


def test_statistics_of_librdkafka_are_read(monitor: Monitor) -> None:
    brokers = {
        "b1": ANSWERS,
        "b2": {"state": "DOWN", "source": "learned"},
        "coordinator": {"state": "UP", "source": "logical"},
    }
    monitor.statistics(statistics(12, 15, brokers=brokers, app_offset=11))
    assert (see(monitor).position, see(monitor).lag, monitor.status.brokers) == (12, 3, 1)
    monitor.statistics(statistics(12, 15, app_offset=11, fetchq_cnt=3))  # fetched, but not handed over
    assert (see(monitor).position, see(monitor).lag, monitor.status.brokers) == (11, 4, 0)
    coordinator = {"coordinator": {"state": "UP", "source": "logical"}}
    monitor.statistics(statistics(12, 15, brokers=coordinator))  # nothing is fetched
    see(monitor)
    assert monitor.status.brokers == 1
    monitor.statistics(statistics(0, 0))
    assert (see(monitor).position, see(monitor).lag) == (0, 0)
    monitor.statistics(statistics(-1001, -1001))  # not known yet
    assert (see(monitor).position, see(monitor).lag) == (None, None)
    monitor.statistics(statistics(12, 15, fetch_state="none"))
    assert (see(monitor).position, see(monitor).lag) == (None, None)


def test_the_ends_of_paused_partitions_are_requested(monitor: Monitor, admin: ScriptedAdmin) -> None:
    monitor.statistics(statistics())
    see(monitor, holding(0))
    monitor.statistics(statistics())
    assert (admin.made, admin.asked) == (0, [])  # nothing to ask
    other = replace(IDLE, partition=Partition("orders", 1))
    monitor.viewed(replace(QUIET, lanes=(holding(0, is_paused=True), other)))
    monitor.statistics(statistics(1, 20))
    assert [list(asked) for asked in admin.asked] == [[PARTITION]]
    monitor.statistics(statistics(1, 20))
    assert len(admin.asked) == 1  # its answer is still to come
    assert see(monitor, holding(0, is_paused=True)).lag == 20
    admin.answer(500)
    assert see(monitor, holding(0, is_paused=True)).lag == 500
    monitor.statistics(statistics(1, 20))
    assert len(admin.asked) == 2
    assert see(monitor, holding(0, is_paused=True)).lag == 500  # until there is a newer answer
    admin.answer(600)
    assert see(monitor, holding(0, is_paused=True)).lag == 600
    assert admin.made == 1


def test_a_partition_that_is_fetched_again_has_the_end_of_its_statistics(
    monitor: Monitor, admin: ScriptedAdmin
) -> None:
    see(monitor, holding(0, is_paused=True))
    monitor.statistics(statistics(1, 20))
    admin.answer(500)
    assert see(monitor, holding(0, is_paused=True)).lag == 500
    assert see(monitor, holding(0)).lag == 20  # the log may have been cut
    assert see(monitor, holding(0, is_paused=True)).lag == 20


def test_without_new_statistics_the_ends_of_all_partitions_are_requested(
    monitor: Monitor, admin: ScriptedAdmin
) -> None:
    def lag(now: float) -> int | None:
        return see(monitor, holding(0), replace(QUIET, now=now)).lag

    monitor.statistics(statistics(1, 20))
    assert lag(100) == lag(115) == 20
    assert admin.asked == []
    assert lag(116) == 20  # the main thread is in a transaction, and statistics do not come
    assert [list(asked) for asked in admin.asked] == [[PARTITION]]
    admin.answer(500)
    assert lag(117) == 500
    admin.answer(600)
    assert lag(118) == 600
    monitor.statistics(statistics(1, 610))
    assert lag(119) == 610


def test_an_unknown_end_is_requested_again(monitor: Monitor, admin: ScriptedAdmin) -> None:
    second = Partition("orders", 1)
    lanes = (holding(0, is_paused=True), holding(0, is_paused=True, partition=second))
    monitor.viewed(replace(QUIET, lanes=lanes))
    monitor.statistics(statistics(1, 20))
    admin.asked[0][PARTITION].set_exception(KafkaException(KafkaError(KafkaError._TIMED_OUT)))
    monitor.viewed(replace(QUIET, lanes=lanes))
    monitor.statistics(statistics(1, 20))
    assert len(admin.asked) == 1  # the other answer is still to come
    admin.answer(70, second)
    monitor.viewed(replace(QUIET, lanes=lanes))
    assert [lane.lag for lane in monitor.status.lanes] == [20, 70]
    monitor.statistics(statistics(1, 20))
    assert len(admin.asked) == 2
    admin.answer(90)
    monitor.viewed(replace(QUIET, lanes=lanes))
    assert monitor.status.lanes[0].lag == 90


# with the engine's own lanes: who waits for what, and until when


class Waiting:
    """Two partitions whose chunks a test answers; the clock is moved by hand, and backoff has no jitter."""

    def __init__(self, monitor: Monitor) -> None:
        bounds = Bounds(lane_records=10, lane_bytes=1000, chunk_records=1, chunk_bytes=1000)
        backoff = Backoff(first=8, longest=8, longest_retry_after=60)
        self.lanes = Lanes[None](bounds, backoff, 30.0, lambda: 1.0, structlog.get_logger())
        self.lanes.keeps_ahead = True
        self.lanes.assign([Partition("orders", 0), Partition("orders", 1)])
        self.monitor = monitor
        self.now = 100.0
        for number in (0, 1):
            for offset in range(3):
                self.lanes.add(Record("orders", number, offset, 0, None, b"value", ()))
        self.chunks: dict[int, Chunk[None]] = {}

    def dispatch(self) -> set[int]:
        """Return which partitions' chunks went out."""
        went = {chunk.partition.number: chunk for chunk in self.lanes.dispatch(self.now)}
        self.chunks |= went
        return set(went)

    def done(self, number: int, working: str = "123") -> None:
        chunk = self.chunks.pop(number)
        outputs = [Output(record, b"", None) for record in chunk.records]
        self.lanes.take(Done(chunk, outputs, frozenset({working})), self.now)
        for lane in self.lanes:
            if lane.partition.number == number:
                lane.committed()

    def failed(self, number: int, cause: str, *working: str, **changed: Any) -> None:
        trouble = Trouble("123", cause, f"said {cause}", **changed)
        self.lanes.take(Retry(self.chunks.pop(number), trouble, frozenset(working)), self.now)

    def set_apart(self, number: int) -> None:
        chunk = self.chunks.pop(number)
        apart = Apart[None]("123", chunk.records, [frozenset(["123"])])
        self.lanes.take(Done(chunk, [], frozenset(), [apart]), self.now)

    def states(self) -> list[tuple[State, float | None]]:
        """Each lane's state, and the seconds until its next try."""
        self.monitor.viewed(replace(QUIET, now=self.now, lanes=self.lanes.views(self.now), gates=self.lanes.gates))
        return [
            (lane.state, None if lane.due is None else lane.due - self.now) for lane in self.monitor.status.lanes
        ]


@pytest.fixture
def waiting(monitor: Monitor) -> Waiting:
    return Waiting(monitor)


def test_only_the_failing_lane_is_in_backoff_if_its_site_works_for_others(waiting: Waiting) -> None:
    assert waiting.dispatch() == {0, 1}
    waiting.failed(0, "500", "123", isolating=True)
    assert waiting.states() == [("backoff", 8), ("working", None)]
    assert waiting.monitor.status.not_ready == ()
    waiting.done(1)
    assert waiting.dispatch() == {1}
    waiting.now += 8
    assert waiting.states()[0] == ("working", None)


def test_lanes_wait_together_after_a_retry_after_and_resume_together(waiting: Waiting) -> None:
    waiting.dispatch()
    waiting.done(1)
    waiting.failed(0, "429", "123", retry_after=20.0)  # although something went through on this try
    assert waiting.dispatch() == {1}
    waiting.set_apart(1)  # it is for the same site
    assert waiting.states() == [("site", 28), ("site", 28)]
    assert waiting.monitor.status.not_ready == ("123: said 429",)
    waiting.now += 28
    assert waiting.dispatch() == {0, 1}  # one of them probes, and new records of the other go
    waiting.done(1, working="another")
    assert waiting.states() == [("site", 0), ("site", 0)]
    waiting.done(0)
    assert waiting.dispatch() == {0, 1}
    assert waiting.states() == [("working", None), ("working", None)]
    assert not waiting.monitor.status.not_ready


def test_the_status_has_waiting_strands_and_records_decided_ahead(waiting: Waiting) -> None:
    waiting.dispatch()
    waiting.failed(0, "429", "123", retry_after=20.0)
    waiting.set_apart(1)
    waiting.now += 5
    assert waiting.dispatch() == {1}
    waiting.done(1, working="another")
    assert waiting.states() == [("site", 23), ("site", 23)]
    _, second = waiting.monitor.status.lanes
    assert (second.position, second.ahead) == (0, 1)
    assert second.strands == (StrandView("123", 1, 100.0, "429", "said 429"),)


def test_refused_credentials_are_tried_again_at_the_hold_interval(waiting: Waiting) -> None:
    waiting.dispatch()
    waiting.failed(0, "invalid_token", held=True)
    waiting.failed(1, "invalid_token", held=True)
    assert waiting.states() == [("credentials", 30), ("credentials", 30)]
    waiting.lanes.try_again(waiting.now)
    assert waiting.states() == [("credentials", 0), ("credentials", 0)]
    assert len(waiting.dispatch()) == 1


def test_the_status_has_hidden_records_and_since_when(monitor: Monitor) -> None:
    for now, high, hidden, since in (
        (100.0, 5, 0, None),
        (101.0, 9, 4, 101.0),
        (104.0, 12, 7, 101.0),
        (105.0, 5, 0, None),
    ):
        monitor.statistics(statistics(5, 5, hi_offset=high))
        lane = see(monitor, view=replace(QUIET, now=now))
        assert (lane.hidden, lane.hidden_since, lane.lag) == (hidden, since, 0)
        expected = {("orders", "0"): hidden} if hidden else {}
        assert values(monitor, "hidden_records", "topic", "partition") == expected
    monitor.statistics(statistics(5, 5, hi_offset=-1001))
    assert see(monitor).hidden == 0


def test_the_time_of_hidden_records_begins_again_with_a_new_assignment(monitor: Monitor) -> None:
    monitor.statistics(statistics(5, 5, hi_offset=9))
    assert see(monitor, view=replace(QUIET, now=100.0)).hidden_since == 100.0
    monitor.viewed(replace(QUIET, now=101.0, lanes=()))
    assert see(monitor, view=replace(QUIET, now=900.0)).hidden_since == 900.0
