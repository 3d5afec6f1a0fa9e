"""Traces of a real member: from a record's headers to its result, and its spans at a collector."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from consumer.demo.processes import await_that, free_port
from schemas.avro_json import message_of
from tests.messages import order
from tests.stand import Stand

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector(ThreadingHTTPServer):
    """Receives spans as OTLP over HTTP, and keeps the bodies."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def test_a_result_has_the_trace_of_its_record(stand: Stand) -> None:
    headers = [("traceparent", PARENT), ("other", b"stays behind")]
    stand.send_later(b"R1", stand.codec.encode("order", message_of(order("R1"))), headers)
    stand.flush()
    stand.member()
    stand.await_results(1)
    (record,) = [each for each in stand.records("results") if each]
    assert record.headers == (("traceparent", PARENT),)


def test_a_member_sends_its_spans(stand: Stand, collector: Collector) -> None:
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    member = stand.member(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_COMPRESSION="none")
    stand.send_later(b"R1", stand.codec.encode("order", message_of(order("R1"))), [("traceparent", PARENT)])
    stand.flush()
    stand.await_results(1)
    # Spans that are not sent yet are sent at the end.
    assert member.stop() == 0
    await_that("the spans", lambda: b"commit" in b"".join(collector.bodies))
    told = b"".join(collector.bodies)
    for text in (
        b"jirafe-consumer",
        b"decode",
        b"send",
        stand.orders_topic.encode(),
        bytes.fromhex(PARENT[3:35].decode()),
    ):
        assert text in told


def test_a_member_logs_an_unreachable_collector_once_and_stops_cleanly(stand: Stand) -> None:
    stand.produce(order("R1"))
    member = stand.member(
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}", OTEL_BSP_SCHEDULE_DELAY="100"
    )
    stand.await_results(1)
    await_that("the complaint", lambda: member.said('"event": "tracing"') > 0)
    assert member.stop() == 0
    lines = [json.loads(line) for line in member.log.read_text().splitlines()]  # nothing but our log
    (complaint,) = [line for line in lines if line["event"] == "tracing"]
    assert "refused" in complaint["reason"]
    stopping, stopped = [line for line in lines if line["event"] in {"stopping", "stopped"}]
    assert (stopping["event"], stopped["event"]) == ("stopping", "stopped")
