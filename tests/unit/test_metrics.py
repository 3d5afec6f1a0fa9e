import math
import re
from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from consumer.record import DeadLetter, Output, Record
from consumer.telemetry.failures import Failures
from consumer.telemetry.metrics import MOST_SITES, OTHER, Metrics
from consumer.telemetry.status import LaneStatus, Status
from jirafe.client import Answer, Answered, Exchange, Failed, Forbidden, Refused

LANE = LaneStatus(("orders", 3), "site", 5, 7, 1, 2, 3, 40, True, "1", "down", 9.0, 0.0)  # noqa: FBT003


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"jirafe_consumer_{name}", labels)


def exchange(site_id: str = "1", answer: Answer | None = None) -> Exchange:
    return Exchange(site_id, events=3, size=2000, seconds=0.07, answer=answer or Answered(()))


def families(metrics: Metrics) -> Iterable[Metric]:
    return text_string_to_metric_families(generate_latest(metrics.registry).decode())


def test_sites_are_bounded(metrics: Metrics) -> None:
    for number in range(MOST_SITES + 10):
        metrics.exchanged(exchange(f"site-{number}"))
    metrics.exchanged(exchange("site-0"))
    assert value(metrics, "requests_total", site="site-0", answer="answered") == 2
    assert value(metrics, "requests_total", site=f"site-{MOST_SITES}", answer="answered") is None
    assert value(metrics, "requests_total", site=OTHER, answer="answered") == 10


def test_what_the_api_or_a_mistake_may_make_up_is_no_label(metrics: Metrics) -> None:
    for cause in ("503", "timeout", "599", "a new error type"):
        metrics.to_be_retried(cause)
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
    assert value(metrics, "dead_letters_total", reason=OTHER) == 4


def test_a_transaction_is_counted_by_code_and_reason(metrics: Metrics) -> None:
    metrics.committed(10, ["rejected", "rejected", "undecodable"], 0.02)
    assert value(metrics, "results_total", code="200") == 7
    assert value(metrics, "results_total", code="500") == 3
    assert value(metrics, "dead_letters_total", reason="rejected") == 2
    assert value(metrics, "dead_letters_total", reason="failing") == 0
    assert value(metrics, "commit_duration_seconds_count") == 1


def test_totals_add_up_what_was_counted(metrics: Metrics) -> None:
    metrics.committed(10, ["rejected"], 0.02)
    metrics.to_be_retried("503")
    metrics.exchanged(exchange())
    totals = metrics.totals()
    assert (totals.results, totals.dead_letters, totals.retries) == (10, 1, 1)
    assert totals.reasons == {"rejected": 1}
    assert dict(totals.latency)[0.05] == 0
    assert dict(totals.latency)[0.1] == dict(totals.latency)[math.inf] == 1


def test_gauges_tell_of_the_status_as_it_is_when_they_are_collected(metrics: Metrics) -> None:
    status = Status(0.0, ("down",), (LANE,), brokers=2)
    metrics.show(lambda: status)
    assert value(metrics, "ready") == 0
    assert value(metrics, "lanes", state="site") == value(metrics, "paused_lanes", state="site") == 1
    assert value(metrics, "lanes", state="idle") == 0
    assert value(metrics, "lag_records", topic="orders", partition="3") == 7
    assert value(metrics, "held_records", stage="in_flight") == 2
    assert value(metrics, "connected_brokers") == 2
    status = Status(0.0, (), ())
    assert value(metrics, "ready") == 1
    assert value(metrics, "lanes", state="site") == 0
    assert value(metrics, "lag_records", topic="orders", partition="3") is None
    assert value(metrics, "connected_brokers") is None


def test_names_and_units_follow_the_conventions(metrics: Metrics) -> None:
    metrics.show(lambda: Status(0.0, (), (LANE,), brokers=1))
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


def test_the_last_failures_are_kept_newest_first_each_record_once() -> None:
    failures = Failures(epoch_ms=iter(range(1000)).__next__)
    failures.note([failed(1), failed(2), Output(failed(3).record, b"", None), failed(1, "again")])
    assert [(failure.offset, failure.reason, failure.at_ms) for failure in failures.last] == [
        (1, "again", 2),
        (2, "why", 1),
    ]
    failures.note(failed(offset, "x" * 5000) for offset in range(10, 200))
    assert len(failures.last) == 50
    assert failures.last[0].offset == 199
    assert len(failures.last[0].reason) < 500
