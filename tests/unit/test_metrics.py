import math
import re
import time
from collections.abc import Iterable
from dataclasses import replace

import pytest
from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from consumer.engine.records import DeadLetter, Output, Partition, Place, Record
from consumer.monitor.failures import Failures
from consumer.monitor.metrics import MOST_SITES, OTHER, Metrics
from consumer.monitor.status import MemberStatus
from jirafe.client import Answer, Answered, Exchange, Failed, Forbidden, Refused
from tests.views import LANE_STATUS

LANE = replace(LANE_STATUS, partition=Partition("orders", 3), is_paused=True, oldest_since=0.0)
NOTHING = MemberStatus(0.0, ())


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(lambda: NOTHING)


def families(metrics: Metrics) -> Iterable[Metric]:
    return text_string_to_metric_families(generate_latest(metrics.registry).decode())


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """One sample as Prometheus would read it, None if it is not there."""
    for family in families(metrics):
        for sample in family.samples:
            if sample.name == f"jirafe_consumer_{name}" and sample.labels == labels:
                return sample.value
    return None


def exchange(site_id: str = "1", answer: Answer | None = None) -> Exchange:
    return Exchange(site_id, events=3, size=2000, seconds=0.07, answer=answer or Answered(()))


def test_sites_are_bounded(metrics: Metrics) -> None:
    for number in range(MOST_SITES + 10):
        metrics.exchanged(exchange(f"site-{number}"))
    metrics.exchanged(exchange("site-0"))
    assert value(metrics, "requests_total", site="site-0", answer="answered") == 2
    assert value(metrics, "requests_total", site=f"site-{MOST_SITES}", answer="answered") is None
    assert value(metrics, "requests_total", site=OTHER, answer="answered") == 10


def test_values_that_the_api_makes_up_are_not_used_as_labels(metrics: Metrics) -> None:
    for cause in ("503", "timeout", "599", "a new error type"):
        metrics.retried(cause)
        metrics.exchanged(exchange(answer=Failed(cause, "")))
        metrics.committed(1, [cause], 0.1)
    metrics.exchanged(exchange(answer=Forbidden("a new error type")))
    metrics.exchanged(exchange(answer=Refused("400")))
    assert value(metrics, "retries_total", cause="503") == 1
    assert value(metrics, "retries_total", cause=OTHER) == 2
    assert value(metrics, "requests_total", site="1", answer="timeout") == 1
    assert value(metrics, "requests_total", site="1", answer=OTHER) == 2
    assert value(metrics, "requests_total", site="1", answer="forbidden") == 1
    assert value(metrics, "requests_total", site="1", answer="refused") == 1
    assert value(metrics, "dead_letters_total", kind=OTHER) == 4


def test_a_transaction_is_counted_by_code_and_kind(metrics: Metrics) -> None:
    metrics.committed(10, ["rejected", "rejected", "undecodable"], 0.02)
    assert value(metrics, "results_total", code="200") == 7
    assert value(metrics, "results_total", code="500") == 3
    assert value(metrics, "dead_letters_total", kind="rejected") == 2
    assert value(metrics, "dead_letters_total", kind="failing") == 0
    assert value(metrics, "commit_duration_seconds_count") == 1


def test_totals_are_the_sums_of_the_counters(metrics: Metrics) -> None:
    metrics.committed(10, ["rejected"], 0.02)
    metrics.retried("503")
    metrics.exchanged(exchange())
    totals = metrics.totals()
    assert (totals.results, totals.dead_letters, totals.retries) == (10, 1, 1)
    assert totals.kinds == {"rejected": 1}
    assert dict(totals.latency)[0.05] == 0
    assert dict(totals.latency)[0.1] == dict(totals.latency)[math.inf] == 1


def test_events_are_counted_by_kind_and_outcome(metrics: Metrics) -> None:
    metrics.decided({("cart", "accepted"): 3, ("cart", "rejected"): 1})
    metrics.decided({("cart", "accepted"): 2})
    assert value(metrics, "events_total", kind="cart", outcome="accepted") == 5
    assert value(metrics, "events_total", kind="cart", outcome="rejected") == 1


def test_a_request_is_measured(metrics: Metrics) -> None:
    metrics.exchanged(exchange())
    assert value(metrics, "request_duration_seconds_sum") == 0.07
    assert value(metrics, "request_size_bytes_sum") == 2000
    assert value(metrics, "request_events_sum") == 3


def test_gauges_show_the_status_at_the_time_of_collection() -> None:
    status = MemberStatus(time.monotonic(), ("down",), (LANE,), brokers=2)
    metrics = Metrics(lambda: status)
    assert value(metrics, "ready") == 0
    assert value(metrics, "lanes", state="site") == value(metrics, "paused_lanes", state="site") == 1
    assert value(metrics, "lanes", state="idle") == 0
    assert value(metrics, "lag_records", topic="orders", partition="3") == 7
    assert [value(metrics, "held_records", stage=stage) for stage in ("waiting", "in_flight", "finished")] == [
        1,
        2,
        3,
    ]
    assert value(metrics, "held_bytes") == 40
    assert value(metrics, "in_flight_chunks") == 1
    assert value(metrics, "connected_brokers") == 2
    status = MemberStatus(time.monotonic(), (), ())
    assert value(metrics, "ready") == 1
    assert value(metrics, "lanes", state="site") == 0
    assert value(metrics, "lag_records", topic="orders", partition="3") is None
    assert value(metrics, "in_flight_chunks") == 0
    assert value(metrics, "connected_brokers") is None
    status = MemberStatus(time.monotonic() - 20, (), (), brokers=2, brokers_until=time.monotonic() - 5)
    assert value(metrics, "ready") == 0
    assert value(metrics, "connected_brokers") == 0


def test_the_age_is_that_of_the_oldest_record_of_all_lanes() -> None:
    now = time.monotonic()
    ages = {0: now - 1000, 1: now - 5000, 2: None}
    status = MemberStatus(
        now, (), tuple(replace(LANE, partition=Partition("orders", n), oldest_since=at) for n, at in ages.items())
    )
    age = value(Metrics(lambda: status), "oldest_unfinished_age_seconds")
    assert age is not None
    assert 5000 <= age < 10_000
    assert value(Metrics(lambda: NOTHING), "oldest_unfinished_age_seconds") == 0


def test_names_and_units_follow_the_conventions() -> None:
    metrics = Metrics(lambda: MemberStatus(0.0, (), (LANE,), brokers=1))
    own = [family for family in families(metrics) if not family.name.startswith("process_")]
    assert len(own) > 20
    for family in own:
        assert re.fullmatch(r"jirafe_consumer(_[a-z]+)+", family.name)
        assert family.documentation.endswith(".")
        if family.type == "counter":
            assert all(sample.name == f"{family.name}_total" for sample in family.samples)
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_bytes", "_events"))
        for sample in family.samples:
            assert sample.labels.keys().isdisjoint({"key", "offset", "id", "job", "instance"})


def failed(offset: int, reason: str = "why", kind: str = "rejected") -> Output:
    return Output(Record("orders", 1, offset, 0, None, None, ()), b"", DeadLetter(kind, reason, 1))


def test_the_last_failures_are_kept_newest_first() -> None:
    failures = Failures(epoch_ms=iter(range(1000)).__next__)
    failures.note([failed(1), failed(2, "how"), Output(failed(3).record, b"", None)])
    assert [(failure.place, failure.reason, failure.at_ms) for failure in failures.last] == [
        (Place("orders", 1, 2), "how", 1),
        (Place("orders", 1, 1), "why", 0),
    ]
    failures.note(failed(offset) for offset in range(10, 200))
    assert [failure.place.offset for failure in failures.last] == list(range(199, 149, -1))


def test_a_reason_is_not_shortened() -> None:
    failures = Failures()
    failures.note([failed(1, "x" * 2000)])
    assert failures.last[0].reason == "x" * 2000
