"""What a member serves over HTTP: a real server on loopback, with the data of a monitor."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from consumer.demo.processes import await_that
from consumer.engine.ports import Trouble
from consumer.engine.records import DeadLetter, Output, Record
from consumer.monitor.letters import LetterLog
from consumer.monitor.listener import MOST_CONNECTIONS
from consumer.monitor.monitor import Monitor
from consumer.monitor.report import STUCK_AFTER, About
from consumer.monitor.server import StatusServer
from tests.thorough import scaled
from tests.views import QUIET

ABOUT = About("1.2.3", "group", "member", 0)
FOR_PEOPLE = ("/", "/status.json", "/none")
FOR_MACHINES = ("/metrics", "/healthz", "/readyz")


@pytest.fixture
def monitor() -> Monitor:
    def make_admin() -> Any:
        raise AssertionError("nothing is paused")

    return Monitor(make_admin, 5.0, LetterLog(structlog.get_logger(), lambda: 0.0))


class Visitor:
    """Asks one status server."""

    def __init__(self, server: StatusServer) -> None:
        self.address = server.url.removeprefix("http://").rstrip("/")

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection(self.address, timeout=10)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read().decode()
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        host, _, port = self.address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=10)

    def json(self, path: str) -> tuple[int, Any]:
        status, headers, body = self.ask(path)
        assert headers["Content-Type"] == "application/json"
        return status, json.loads(body)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.monitor.server.PATIENCE", 1.0)


@pytest.fixture
def visitor(monitor: Monitor) -> Iterator[Visitor]:
    server = StatusServer("127.0.0.1:0", ABOUT, monitor)
    try:
        yield Visitor(server)
    finally:
        server.close()


def turn(monitor: Monitor, gates: dict[str, str], seconds_ago: float = 0.0) -> None:
    monitor.viewed(replace(QUIET, now=time.monotonic() - seconds_ago, gates=gates))


def test_probes_follow_the_monitor(monitor: Monitor, visitor: Visitor) -> None:
    assert visitor.json("/readyz") == (503, {"status": "not ready", "reasons": ["no partition is assigned"]})
    assert visitor.json("/healthz") == (200, {"status": "ok", "reasons": []})
    turn(monitor, {})
    assert visitor.json("/readyz") == (200, {"status": "ok", "reasons": []})
    turn(monitor, {"123": "down"})
    assert visitor.json("/readyz") == (503, {"status": "not ready", "reasons": ["123: down"]})
    assert visitor.json("/healthz")[0] == 200
    turn(monitor, {}, seconds_ago=20)
    silent = "the main loop has not reported for 20 s"
    assert visitor.json("/readyz") == (503, {"status": "not ready", "reasons": [silent]})
    assert visitor.json("/healthz")[0] == 200  # a restart would not help
    turn(monitor, {}, seconds_ago=STUCK_AFTER + 1)
    stuck = "the main loop has not reported for over 120 s; restart this member. No records are lost"
    assert visitor.json("/healthz") == (503, {"status": "stuck", "reasons": [stuck]})


def test_the_status_and_the_metrics_come_from_the_monitor(monitor: Monitor, visitor: Visitor) -> None:
    turn(monitor, {"123": "down"})
    monitor.retried(Trouble("123", "503", "down"))
    record = Record("orders", 0, 7, 0, None, None, ())
    monitor.committed([Output(record, b"", DeadLetter("rejected", "total: wrong", 1))], 0.1)
    status, document = visitor.json("/status.json?now")
    assert status == 200
    assert (document["member"], document["group"], document["version"]) == ("member", "group", "1.2.3")
    assert document["kinds"] == [{"kind": "rejected", "count": 1, "example": "total: wrong"}]
    assert (document["results"], document["dead_letters"], document["retries"]) == (1, 1, 1)
    assert document["not_ready"] == ["123: down"]
    assert [failure["place"] for failure in document["failures"]] == ["orders/0/7"]
    _, headers, text = visitor.ask("/metrics")
    assert headers["Content-Type"].startswith("text/plain")
    assert 'jirafe_consumer_dead_letters_total{kind="rejected"} 1.0' in text
    _, headers, text = visitor.ask("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


def test_the_page_loads_no_external_resources(visitor: Visitor) -> None:
    status, headers, page = visitor.ask("/")
    assert (status, headers["Cache-Control"]) == (200, "no-store")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert visitor.ask("/none")[0] == 404


def test_a_head_request_is_answered_without_a_body(visitor: Visitor) -> None:
    for path in ("/", "/status.json", "/metrics", "/readyz", "/healthz", "/none"):
        got, asked = visitor.ask(path), visitor.ask(path, "HEAD")
        assert (asked[0], asked[1]["Content-Type"], asked[2]) == (got[0], got[1]["Content-Type"], "")


def test_an_address_that_is_taken_is_refused_at_once(monitor: Monitor, visitor: Visitor) -> None:
    with pytest.raises(OSError, match="in use"):
        StatusServer(visitor.address, ABOUT, monitor)


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(("host", "asked"), [("[::1]", ["[::1]"]), ("[::]", ["[::1]", "127.0.0.1"])])
def test_it_listens_at_an_ipv6_address(monitor: Monitor, host: str, asked: list[str]) -> None:
    server = StatusServer(f"{host}:0", ABOUT, monitor)
    try:
        visitor = Visitor(server)
        port = visitor.address.removeprefix(f"{host}:")
        for each in asked:
            visitor.address = f"{each}:{port}"
            assert visitor.json("/healthz")[0] == 200
    finally:
        server.close()


# the host names that it accepts

PUBLIC = [
    "attacker.example",
    "localhost.attacker.example",
    "127.0.0.1.attacker.example",
    "attacker.example.",
    "svc.attacker.example",
    "xn--bcher-kva.example",
    "[attacker.example]",
]
SERVICES = ["consumer", "consumer.shop.svc", "consumer.shop.svc.cluster.local", "consumer.shop.internal"]
OWN = ["localhost", "LOCALHOST", "127.0.0.1", "10.2.3.4", "[::1]", "[fe80::1%eth0]", socket.gethostname()]


@pytest.mark.parametrize("port", ["", ":8000"])
def test_a_public_host_name_is_refused(visitor: Visitor, port: str) -> None:
    for path, name in product((*FOR_PEOPLE, *FOR_MACHINES), PUBLIC):
        status, headers, body = visitor.ask(path, Host=name + port)
        assert (status, headers["Content-Type"]) == (421, "text/plain; charset=utf-8"), name
        assert "Use its IP address, localhost, or the name of its machine" in body
        assert visitor.ask(path, "HEAD", Host=name + port)[::2] == (421, "")


@pytest.mark.parametrize("port", ["", ":8000"])
def test_the_machines_own_addresses_and_names_are_accepted(visitor: Visitor, port: str) -> None:
    for path in (*FOR_PEOPLE, *FOR_MACHINES):
        for name in OWN:
            assert visitor.ask(path, Host=name + port)[0] != 421, name


def test_a_service_name_only_reaches_the_paths_for_machines(visitor: Visitor) -> None:
    for name in SERVICES:
        assert [visitor.ask(path, Host=name)[0] for path in FOR_PEOPLE] == [421, 421, 421]
        assert [visitor.ask(path, Host=name)[0] == 421 for path in FOR_MACHINES] == [False, False, False]


def test_the_full_name_of_the_machine_is_accepted(monkeypatch: pytest.MonkeyPatch, monitor: Monitor) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: "Shop7.Corp.Example")
    server = StatusServer("127.0.0.1:0", ABOUT, monitor)
    try:
        names = [thread for thread in threading.enumerate() if thread.name == "own-name"]
        for thread in names:
            thread.join(10)
        assert Visitor(server).ask("/", Host="shop7.corp.example:8000")[0] == 200
    finally:
        server.close()


def answer_to(visitor: Visitor, request: bytes) -> bytes:
    """Send these bytes, and read until the server ends the connection."""
    with visitor.connect() as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_request_without_a_host_header_is_answered(visitor: Visitor) -> None:
    assert answer_to(visitor, b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200 ")


def test_each_of_two_host_headers_must_be_ours(visitor: Visitor) -> None:
    both = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: attacker.example\r\n\r\n"
    assert answer_to(visitor, both).startswith(b"HTTP/1.0 421 ")
    assert answer_to(visitor, b"GET / HTTP/1.1\r\nHost:\r\n\r\n").startswith(b"HTTP/1.0 421 ")


# whatever clients accept

_MEDIA = st.sampled_from(["application/openmetrics-text", "text/plain", "application/json", "*/*", "", "\xe9"])
_PARAMETERS = st.sampled_from(
    ["version=1.0.0", "version=0.0.4", "version=x", "version=", "version", "escaping=?", "q=0", "=", ";", ""]
)
_ACCEPTED = st.builds(lambda media, parameters: ";".join([media, *parameters]), _MEDIA, st.lists(_PARAMETERS))


@settings(max_examples=scaled(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(accept=st.lists(_ACCEPTED).map(",".join))
def test_metrics_are_served_for_any_accept_header(visitor: Visitor, accept: str) -> None:
    status, headers, text = visitor.ask("/metrics", Accept=accept)
    assert status == 200
    if headers["Content-Type"].startswith("application/openmetrics-text"):
        assert text.endswith("# EOF\n")
    else:
        assert headers["Content-Type"].startswith("text/plain")
        assert any(family.name == "jirafe_consumer_ready" for family in text_string_to_metric_families(text))


# slow clients, and many


def is_dropped(connection: socket.socket) -> bool:
    """Wait for the server to end a connection. Returns whether it does within five seconds."""
    connection.settimeout(5)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def drip(connection: socket.socket, text: bytes) -> None:
    """Send a byte ten times a second, for as long as the server takes them."""
    try:
        for byte in text:
            connection.sendall(bytes([byte]))
            time.sleep(0.1)
    except OSError:
        pass


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://localhost/metrics?a=b", 200),
        ("HTTP://127.0.0.1:8000/", 200),
        ("http://localhost", 200),
        ("http://attacker.example/metrics", 421),
        ("http://localhost@attacker.example/", 421),
        ("http:///", 421),
        ("http://[/", 400),
    ],
)
@pytest.mark.parametrize("host", ["localhost", "attacker.example"])
def test_an_absolute_target_has_priority_over_the_host_header(
    visitor: Visitor, target: str, status: int, host: str
) -> None:
    asked = f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    assert answer_to(visitor, asked).startswith(f"HTTP/1.0 {status} ".encode())


@pytest.mark.parametrize("start", [b"", b"G", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "])
@pytest.mark.usefixtures("impatient")
def test_a_client_that_sends_slowly_is_disconnected(visitor: Visitor, start: bytes) -> None:
    with visitor.connect() as connection:
        connection.sendall(start)
        dripping = threading.Thread(target=drip, args=(connection, b"x" * 100))
        dripping.start()
        begun = time.monotonic()
        assert is_dropped(connection)
        assert time.monotonic() - begun < 30
        dripping.join()


@pytest.mark.usefixtures("impatient")
def test_a_client_that_reads_nothing_is_disconnected(monitor: Monitor, visitor: Visitor) -> None:
    lanes = tuple(replace(QUIET.lanes[0], message="x" * 20_000) for _ in range(500))
    monitor.viewed(replace(QUIET, lanes=lanes))  # more than the buffers of both ends take
    before = connection_threads()
    with visitor.connect() as connection:
        connection.sendall(b"GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await_that("its thread works", lambda: connection_threads() > before)
        await_that("its thread is free again", lambda: connection_threads() == before, within=8)


def connection_threads() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


def test_connections_and_threads_are_bounded_and_new_clients_are_answered(visitor: Visitor) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(visitor.connect()) for _ in range(3 * MOST_CONNECTIONS)]
        assert visitor.json("/healthz")[0] == 200
        assert connection_threads() <= MOST_CONNECTIONS
        assert is_dropped(idle[0])  # the oldest made room
        assert visitor.json("/healthz")[0] == 200


def test_waiting_clients_are_disconnected_when_the_server_closes(monitor: Monitor) -> None:
    server = StatusServer("127.0.0.1:0", ABOUT, monitor)
    visitor = Visitor(server)
    with visitor.connect() as connection:
        assert visitor.json("/healthz")[0] == 200  # so the one before is taken too
        server.close()
        assert is_dropped(connection)
