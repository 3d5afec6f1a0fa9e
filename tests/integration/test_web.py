"""What a member serves over HTTP: a real member, a real broker, real requests."""

import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from consumer.demo.broker import EmbeddedBroker
from consumer.demo.processes import await_that, free_port
from jirafe.sandbox import Sandbox, SandboxServer
from schemas.hub import to_message
from tests.integration.test_service import orders
from tests.messages import order
from tests.stand import SITE, TOKEN, Stand

EXPIRED = "expired-token"
GARBAGE = b"\x07not Avro"
FAST = {"KAFKA_STATISTICS_INTERVAL_MS": "200"}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Page:
    """What one member serves."""

    def __init__(self) -> None:
        self.address = f"127.0.0.1:{free_port()}"

    def get(self, path: str) -> requests.Response:
        return requests.get(f"http://{self.address}{path}", timeout=10)

    def samples(self) -> Samples:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.get("/metrics").text)
            for sample in family.samples
        }

    def sum(self, name: str, **labels: str) -> float:
        return sum(
            value
            for (found, has), value in self.samples().items()
            if found == f"jirafe_consumer_{name}" and labels.items() <= has
        )

    def lanes(self) -> list[dict[str, Any]]:
        lanes: list[dict[str, Any]] = self.get("/status.json").json()["lanes"]
        return lanes


@pytest.fixture
def page() -> Page:
    return Page()


def start(stand: Stand, page: Page, **changed: str) -> None:
    stand.await_assigned(stand.member(CONSUMER_HTTP_ADDRESS=page.address, **FAST, **changed))


def test_metrics_count_what_a_member_did(stand: Stand, page: Page) -> None:
    start(stand, page)
    stand.api.add_fault({"action": "status", "status": 503, "times": 1})
    stand.produce(*orders(20), order("R99", totals={"order": -1}))
    stand.produce_raw(b"bad", GARBAGE)
    stand.await_results(22)
    await_that("all is counted", lambda: page.sum("results_total") == 22)
    assert page.sum("records_received_total", topic=stand.orders_topic) == 22
    assert page.sum("results_total", code="500") == 2
    assert page.sum("dead_letters_total", kind="undecodable") == 1
    assert page.sum("dead_letters_total", kind="rejected") == 1
    assert page.sum("events_total", kind="cart", outcome="rejected") == 1
    assert page.sum("events_total", kind="order-accepted", outcome="accepted") == 21
    assert page.sum("retries_total", cause="503") == page.sum("requests_total", answer="503") == 1
    requests_made = page.sum("requests_total", site="123")
    assert requests_made == page.sum("request_duration_seconds_count") == page.sum("request_size_bytes_count")
    assert page.sum("request_events_sum") >= 23
    assert page.sum("request_duration_seconds_sum") > 0
    assert page.sum("commit_duration_seconds_count") >= 1
    assert page.sum("rebalances_total", event="assigned") >= 1
    await_that("nothing is held", lambda: page.sum("held_records") == 0)
    assert page.sum("lanes") == 4 * 3


def test_lag_is_right_while_partitions_are_paused_and_zero_at_the_end(stand: Stand, page: Page) -> None:
    start(stand, page, CONSUMER_CHUNK_RECORDS="1")
    stand.api.add_fault({"action": "status", "status": 503, "times": None})
    stand.produce(*orders(180))
    await_that("partitions are paused", lambda: page.sum("paused_lanes", state="site") == 3)
    await_that("the lag is known", lambda: page.sum("lag_records") == 180)
    # A fetch that was under way at the pause may report these. No fetch reports any later ones.
    stand.produce(*orders(30, start=180))
    await_that("the lag grows", lambda: page.sum("lag_records") == 210)
    stand.produce(*orders(30, start=210))
    await_that("it grows on", lambda: page.sum("lag_records") == 240)
    assert page.sum("oldest_unfinished_age_seconds") > 0
    assert page.sum("held_bytes") > 0
    stand.api.clear_faults()
    await_that("no lag is left", lambda: page.sum("lag_records") == 0)
    assert page.sum("paused_lanes") == 0
    assert page.sum("ready") == 1


def test_transaction_markers_at_the_end_of_a_log_do_not_count_as_lag(stand: Stand, page: Page) -> None:
    start(stand, page)
    hub = stand.writer(stand.orders_topic)
    value = stand.codec.encode("order", to_message(order("R1", "order:updated")))
    for _ in range(3):
        hub.begin_transaction()
        hub.produce(stand.orders_topic, value, b"R1")
        hub.commit_transaction(30)
    stand.await_results(3)
    await_that("the end of the log", lambda: sum(lane["position"] or 0 for lane in page.lanes()) == 6)
    assert page.sum("lag_records") == 0


def test_readiness_says_why_the_member_is_not_ready(stand: Stand, page: Page) -> None:
    start(stand, page, JIRAFE_ACCESS_TOKEN=EXPIRED)
    await_that("it is ready", lambda: page.get("/readyz").ok)
    stand.produce(*orders(1))
    await_that("it is not", lambda: page.get("/readyz").status_code == 503)
    assert page.get("/readyz").json()["reasons"] == [
        "123: the API refused the access token for site 123: invalid_token"
    ]
    assert page.get("/healthz").json() == {"status": "ok", "reasons": []}
    await_that("it is counted", lambda: page.sum("lanes", state="credentials") == 1)
    assert page.sum("ready") == 0
    for path in ("/", "/status.json", "/metrics", "/readyz", "/healthz", "/none"):
        head, got = requests.head(f"http://{page.address}{path}", timeout=10), page.get(path)
        assert (head.status_code, head.text) == (got.status_code, "")
        assert head.headers["Content-Type"] == got.headers["Content-Type"]
    for path in ("/", "/status.json", "/metrics", "/readyz"):
        assert EXPIRED not in page.get(path).text
        assert TOKEN not in page.get(path).text


@pytest.mark.parametrize("messages", [0, 300])
@pytest.mark.parametrize(("how", "within"), [(signal.SIGKILL, 15), (signal.SIGSTOP, 25)])
def test_a_member_without_a_broker_is_not_ready_within_seconds_but_healthy(
    tmp_path: Path, page: Page, how: signal.Signals, within: float, messages: int
) -> None:
    with EmbeddedBroker() as broker, SandboxServer(Sandbox(credentials={TOKEN: [SITE]})) as api:
        stand = Stand(broker.bootstrap_servers, api, tmp_path)
        try:
            start(stand, page)
            await_that(
                "it is ready and connected", lambda: page.get("/readyz").ok and page.sum("connected_brokers") == 1
            )
            if messages:
                stand.produce(*orders(messages))
                stand.await_results(20)
            broker.signal(how)
            await_that("it says so", lambda: page.sum("connected_brokers") == page.sum("ready") == 0, within)
            reasons = page.get("/readyz").json()["reasons"]
            assert {"Kafka: no broker answers", "Kafka: no broker has answered recently"} & set(reasons)
            assert page.get("/healthz").json() == {"status": "ok", "reasons": []}
            assert page.get("/status.json").json()["state"] == "waiting"
        finally:
            broker.signal(signal.SIGCONT)
            stand.close()


@pytest.mark.timeout(240)
def test_kubernetes_probes_restart_no_member_while_the_broker_is_suspended(tmp_path: Path, page: Page) -> None:
    live, ready = probe("liveness"), probe("readiness")

    def passes(probed: dict[str, Any]) -> bool:
        path, within = probed["httpGet"]["path"], probed["timeoutSeconds"]
        return requests.get(f"http://{page.address}{path}", timeout=within).ok

    with EmbeddedBroker() as broker, SandboxServer(Sandbox(credentials={TOKEN: [SITE]})) as api:
        stand = Stand(broker.bootstrap_servers, api, tmp_path)
        try:
            start(stand, page)
            await_that("it is ready", lambda: passes(ready))
            broker.signal(signal.SIGSTOP)
            until = time.monotonic() + live["failureThreshold"] * live["periodSeconds"] + live["timeoutSeconds"]
            await_that("it is not ready", lambda: not passes(ready), within=15)
            reasons = set()
            while time.monotonic() < until:
                assert passes(live)
                assert not passes(ready)
                reasons.update(page.get(ready["httpGet"]["path"]).json()["reasons"])
                time.sleep(1)
            broker.signal(signal.SIGCONT)
            await_that("it is ready again", lambda: passes(ready))
            assert passes(live)
            assert any(reason.startswith("Kafka: ") for reason in reasons), reasons
        finally:
            broker.signal(signal.SIGCONT)
            stand.close()


def probe(name: str) -> dict[str, Any]:
    """Give a probe as the manifest of the members sets it."""
    manifest = Path(__file__).parents[2] / "ops/kubernetes/base/stateful-set.yaml"
    (stateful_set,) = (each for each in yaml.safe_load_all(manifest.read_text()) if each["kind"] == "StatefulSet")
    (container,) = stateful_set["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = container[f"{name}Probe"]
    return found


def test_the_page_loads_no_external_resources(stand: Stand, page: Page) -> None:
    start(stand, page)
    answer = page.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert answer.headers["Cache-Control"] == "no-store"
    assert not re.search(r"""(src|href)=["']https?:""", answer.text)
    assert page.get("/absent").status_code == 404


def test_metrics_have_the_requested_format(stand: Stand, page: Page) -> None:
    start(stand, page)
    headers = {"Accept": "application/openmetrics-text; version=1.0.0"}
    answer = requests.get(f"http://{page.address}/metrics", headers=headers, timeout=10)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    assert page.get("/metrics").headers["Content-Type"].startswith("text/plain")


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_configured_address_that_is_taken_ends_the_member(stand: Stand, taken: str) -> None:
    member = stand.member(CONSUMER_HTTP_ADDRESS=taken)
    assert member.wait() == 2
    last = member.log.read_text().splitlines()[-1]
    assert last == f"jirafe-consumer: CONSUMER_HTTP_ADDRESS: can't listen on {taken}: Address already in use."


def test_a_member_runs_without_http_if_the_default_address_is_taken(stand: Stand) -> None:
    stand.environment.pop("CONSUMER_HTTP_ADDRESS")
    first, second = stand.member(), stand.member()
    stand.await_assigned(first)
    stand.await_assigned(second)
    assert first.said('"event": "no_web"') + second.said('"event": "no_web"') >= 1
    stand.produce(*orders(5))
    stand.await_results(5)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_metrics(stand: Stand, page: Page) -> None:
    start(stand, page)
    text = page.get("/metrics").text
    check = ["promtool", "check", "metrics"]
    said = subprocess.run(check, input=text, capture_output=True, text=True, check=True)
    assert "jirafe_consumer" not in said.stdout + said.stderr
