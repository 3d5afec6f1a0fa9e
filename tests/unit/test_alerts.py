"""The dashboard and the alert rules: they use metrics that exist, and fire when they should, and only then.

Prometheus' own tool tries the rules, on series that are made up and on series that were recorded of real members.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from consumer.engine.ports import StrandView
from consumer.monitor.metrics import Metrics
from consumer.monitor.status import MemberStatus
from jirafe.client import Answered, Exchange
from tests.alerts.record import INTERVAL, METRIC, RULES
from tests.views import LANE_STATUS

DASHBOARD = Path("ops/grafana/dashboards/jirafe-consumer.json")
ALERT_TESTS = RULES.with_name("alerts_test.yml")
RECORDED = Path("tests/alerts")
AFTERWARDS = 45 * 60
"""Seconds for which the last recorded values are repeated: longer than any rule waits."""

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


@pytest.fixture
def exposed() -> dict[str, set[str]]:
    """The names of all samples that a busy member exposes, each with its labels."""
    strand = StrandView("123", records=1, since=0.0, cause="timeout", message="the API did not answer")
    lane = replace(LANE_STATUS, hidden=1, ahead=1, strands=(strand,))
    metrics = Metrics(lambda: MemberStatus(0.0, (), (lane,), brokers=1))
    metrics.received({"orders": 1})
    metrics.lost("orders", 1)
    metrics.decided({("cart", "accepted"): 1})
    metrics.exchanged(Exchange("1", events=3, size=2000, seconds=0.07, answer=Answered(())))
    labels: dict[str, set[str]] = {"up": set()}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            if not sample.name.endswith("_created"):  # a member switches these off
                labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def used(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics of a query, each with the labels that it is selected by."""
    for name, selector in re.findall(r"\b((?:jirafe_consumer|process)_\w+|up\b)(?:\{(.*?)\})?", expression):
        yield name, set(re.findall(r"(\w+)\s*[=!]~?", selector))


def assert_exists(expression: str, exposed: dict[str, set[str]]) -> set[str]:
    """Check the metrics of a query, and the labels it selects and groups by; gives the metrics."""
    metrics = list(used(expression))
    assert metrics, expression
    has = {"job", "instance", "le"}
    for name, labels in metrics:
        assert name in exposed, expression
        assert labels <= exposed[name] | has, expression
    for by in re.findall(r"\bby \((.*?)\)", expression):
        assert set(by.split(", ")) <= has.union(*(exposed[name] for name, _ in metrics)), expression
    return {name for name, _ in metrics}


def test_the_dashboard_shows_every_metric_and_no_other(exposed: dict[str, set[str]]) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", ())]
    variables = [each["definition"] for each in dashboard["templating"]["list"] if "definition" in each]
    names: set[str] = set()
    for expression in (*(target["expr"] for target in targets), *variables):
        names |= assert_exists(expression, exposed)
    for target in targets:
        assert target["datasource"]["uid"] == "${datasource}"
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            assert re.search(rf"\bby \([^)]*\b{label}\b|^(?!.*\bby \()", target["expr"]), target
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    there_are = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed if name.startswith("jirafe_")}
    assert there_are <= shown, "a metric that nobody sees"


def test_alerts_use_metrics_that_exist_and_say_what_to_do(exposed: dict[str, set[str]]) -> None:
    for rule in rules():
        assert_exists(rule["expr"], exposed)
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"].endswith(".")
        assert re.fullmatch(r"docs/operations\.md#[a-z-]+", rule["annotations"]["runbook"])
        for label in re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())):
            assert label in rule["expr"] or label in ("job", "instance"), rule["alert"]


def test_the_expected_alert_texts_are_the_actual_ones() -> None:
    said = {rule["alert"]: rule["annotations"] for rule in rules()}
    expectations = [
        (case["alertname"], alert["exp_annotations"])
        for test in yaml.safe_load(ALERT_TESTS.read_text())["tests"]
        for case in test["alert_rule_test"]
        for alert in case["exp_alerts"]
    ]
    assert expectations
    for name, expected in expectations:
        assert expected.keys() == said[name].keys()
        for key, text in expected.items():
            template = ".+".join(map(re.escape, re.split(r"\{\{.*?\}\}", said[name][key])))
            assert re.fullmatch(template, text), name


# on series that were recorded


class Recording:
    """A recording: `began` and `over` in seconds, its series, and their length with `AFTERWARDS`."""

    def __init__(self, what: str) -> None:
        document = yaml.safe_load((RECORDED / f"{what}.yml").read_text())
        self.began, self.over = document["began"] * INTERVAL, document["over"] * INTERVAL
        self.series: dict[str, str] = document["series"]

    def values(self, series: str) -> list[float | None]:
        """All samples of a series, None where there was none."""
        found: list[float | None] = []
        for word in self.series[series].split():
            value, _, count = word.partition("x")
            if value == "_":
                found += [None] * int(count)
            else:
                found += [float(value)] * (1 + int(count or 0))
        return found

    def counted(self, metric: str) -> float:
        """How much the counters of a metric grew in all, over the restarts of members."""
        grown = 0.0
        for series in self.series:
            if series.startswith(metric):
                values = [value for value in self.values(series) if value is not None]
                grown += sum(after - before if after >= before else after for before, after in pairwise(values))
        return grown

    def rules_test(self, expectations: dict[int, dict[str, int]]) -> dict[str, Any]:
        """Give a test of promtool: at each second, how many of each alert fire."""
        return {
            "rule_files": [str(RULES.resolve())],
            "evaluation_interval": "15s",
            "tests": [
                {
                    "interval": f"{INTERVAL}s",
                    "input_series": [
                        {"series": name, "values": f"{values} {self._last(name)}x{AFTERWARDS // INTERVAL}"}
                        for name, values in self.series.items()
                    ],
                    "promql_expr_test": [
                        {
                            "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                            "eval_time": f"{second}s",
                            "exp_samples": [
                                {"labels": f'{{alertname="{name}"}}', "value": count}
                                for name, count in firing.items()
                            ],
                        }
                        for second, firing in expectations.items()
                    ],
                }
            ],
        }

    def _last(self, series: str) -> str:
        last = self.values(series)[-1]
        return "_" if last is None else f"{last:g}"

    @property
    def end(self) -> int:
        return len(self.values(next(iter(self.series)))) * INTERVAL + AFTERWARDS


def promtool(*arguments: str, given: str | None = None) -> str:
    done = subprocess.run(["promtool", *arguments], input=given, capture_output=True, text=True, check=False)  # noqa: S607
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("what", ["rollout", "outage"])
def test_the_recording_has_every_metric_of_the_rules(what: str) -> None:
    recording = Recording(what)
    used_by_rules = {name for rule in rules() for name in METRIC.findall(rule["expr"])}
    assert used_by_rules == {name.partition("{")[0] for name in recording.series}
    lengths = {len(recording.values(name)) for name in recording.series}
    assert len(lengths) == 1
    assert 0 < recording.began < recording.over < lengths.pop() * INTERVAL


def test_the_recorded_rollout_has_rebalances_aborts_and_restarts() -> None:
    rollout = Recording("rollout")
    assert rollout.counted("jirafe_consumer_rebalances_total") >= 18
    assert rollout.counted("jirafe_consumer_transaction_aborts_total") > 5
    assert all(0 in rollout.values(name) for name in rollout.series if name.startswith("up{"))


@needs_promtool
def test_no_alert_fires_at_a_rolling_deployment(tmp_path: Path) -> None:
    rollout = Recording("rollout")
    made = tmp_path / "rollout.yml"
    made.write_text(json.dumps(rollout.rules_test({second: {} for second in range(0, rollout.end, 30)})))
    promtool("test", "rules", str(made))


@needs_promtool
def test_only_the_alerts_for_a_broker_outage_fire_while_it_lasts(tmp_path: Path) -> None:
    outage = Recording("outage")
    told = {"JirafeBrokersUnreachable": 3}
    before: dict[int, dict[str, int]] = {second: {} for second in range(0, outage.began + 60, 30)}
    after: dict[int, dict[str, int]] = {second: {} for second in range(outage.over + 60, outage.end, 30)}
    made = tmp_path / "outage.yml"
    made.write_text(json.dumps(outage.rules_test({**before, outage.began + 180: told, **after})))
    promtool("test", "rules", str(made))


@needs_promtool
def test_promtool_accepts_the_rules_and_passes_their_tests() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    promtool("test", "rules", str(ALERT_TESTS))
