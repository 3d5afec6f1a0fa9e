"""Traces: a record's trace goes on to its request and its result, with spans if the environment asks for them."""

import logging
import threading
from collections.abc import Iterator, MutableMapping
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from structlog.testing import capture_logs

from consumer.app import make_tracing
from consumer.delivery.defaults import Credentials, Defaults
from consumer.delivery.handler import Delivery
from consumer.delivery.sending import Rules
from consumer.delivery.work import Work
from consumer.demo.processes import free_port
from consumer.engine.ports import Chunk, Done
from consumer.engine.records import DeadLetter, Headers, Output, Partition, Record
from consumer.settings import wants_tracing
from consumer.tracing import OpenTelemetry
from jirafe.client import Client
from schemas.codec import Codec
from tests.messages import order

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
OTHER = "00-1af7651916cd43dd8448eb211c80319c-c7ad6b7169203331-01"
STATE = "rojo=00f067aa0ba902b7"


class Api(ThreadingHTTPServer):
    """Accepts all, or answers `status`, and keeps the headers of what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.asked: list[Message] = []

    def client(self, tracing: OpenTelemetry | None = None) -> Client:
        return Client(f"http://127.0.0.1:{self.server_port}", timeout=10, tracing=tracing)


class _Handler(BaseHTTPRequestHandler):
    server: Api

    def do_POST(self) -> None:
        arrays = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = orjson.dumps({array: [{"success": True}] * len(events) for array, events in arrays.items()})
        self.server.asked.append(self.headers)
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> OpenTelemetry:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return OpenTelemetry(provider)


def record(offset: int, parent: str | None, value: bytes | None = None) -> Record:
    headers: Headers = (("traceparent", parent.encode()), ("tracestate", STATE.encode())) if parent else ()
    return Record(
        "orders", 0, offset, 0, b"R", value or orjson.dumps(order(f"R{offset}", "order:updated")), headers
    )


def deliver(api: Api, *records: Record, tracing: OpenTelemetry | None = None) -> Done[Work] | None:
    delivery = Delivery(
        Codec(),
        api.client(tracing),
        Rules(10**6, 10, 60),
        Defaults(Credentials("1", "token"), {}),
        tracing=tracing,
    )
    done = delivery.handle(Chunk[Work](Partition("orders", 0), 1, list(records)), lambda: True)
    return done if isinstance(done, Done) else None


class TestRecords:
    @pytest.mark.parametrize(
        ("headers", "trace"),
        [
            ((), ()),
            ((("traceparent", PARENT.encode()),), (("traceparent", PARENT),)),
            (
                (("a", b"b"), ("tracestate", STATE.encode()), ("traceparent", PARENT.encode())),
                (("traceparent", PARENT), ("tracestate", STATE)),
            ),
            ((("tracestate", STATE.encode()),), ()),
            ((("traceparent", None),), ()),
            ((("traceparent", PARENT.encode()), ("tracestate", b"x" * 513)), (("traceparent", PARENT),)),
            ((("traceparent", PARENT.encode()), ("tracestate", b"x\r\nA: b")), (("traceparent", PARENT),)),
        ],
    )
    def test_well_formed_headers_are_used(self, headers: Headers, trace: object) -> None:
        assert Record("orders", 0, 0, 0, None, None, headers).trace == trace

    @given(st.binary(max_size=80) | st.text(alphabet="0123456789abcdef-", max_size=60).map(str.encode))
    def test_traces_from_any_headers_can_be_sent_in_headers(self, value: bytes) -> None:
        found = Record("orders", 0, 0, 0, None, None, (("traceparent", value), ("tracestate", value))).trace
        assert all(each.isascii() and each.isprintable() and len(each) <= 512 for _, each in found)

    def test_a_result_has_the_trace_of_its_record(self) -> None:
        told = (("traceparent", PARENT), ("tracestate", STATE))
        assert Output(record(0, PARENT), b"", None).result_headers == told
        assert Output(record(0, None), b"", None).result_headers == ()
        assert Output(record(0, PARENT), b"", None, is_brief=True).result_headers == ()


class TestWithoutOpenTelemetry:
    def test_a_request_with_one_trace_has_its_header(self, api: Api) -> None:
        assert deliver(api, record(0, PARENT), record(1, PARENT))
        (asked,) = api.asked
        assert (asked["traceparent"], asked["tracestate"]) == (PARENT, STATE)

    @pytest.mark.parametrize("parents", [(None,), (PARENT, None), (PARENT, OTHER)])
    def test_a_request_with_several_traces_or_none_has_no_header(
        self, api: Api, parents: tuple[str | None, ...]
    ) -> None:
        assert deliver(api, *(record(offset, parent) for offset, parent in enumerate(parents)))
        (asked,) = api.asked
        assert asked["traceparent"] is None


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


class TestSpans:
    def test_records_of_one_trace_are_decoded_and_sent_in_it(
        self, api: Api, exporter: InMemorySpanExporter, tracing: OpenTelemetry
    ) -> None:
        assert deliver(api, record(5, PARENT), record(6, PARENT), tracing=tracing)
        decoded, sent = named(exporter, "decode"), named(exporter, "send")
        assert [span.attributes and span.attributes["messaging.kafka.offset"] for span in decoded] == [5, 6]
        assert len(sent) == 1
        for span in (*decoded, *sent):
            assert span.parent is not None
            assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE_ID, SPAN_ID)
            assert span.status.status_code is StatusCode.UNSET
        (asked,) = api.asked
        assert asked["traceparent"] == f"00-{TRACE_ID}-{sent[0].context.span_id:016x}-01"
        assert asked["tracestate"] == STATE

    def test_a_request_of_several_traces_is_linked_to_each(
        self, api: Api, exporter: InMemorySpanExporter, tracing: OpenTelemetry
    ) -> None:
        assert deliver(api, record(0, PARENT), record(1, OTHER), record(2, None), tracing=tracing)
        (sent,) = named(exporter, "send")
        assert sent.parent is None
        linked = {f"00-{link.context.trace_id:032x}-{link.context.span_id:016x}-01" for link in sent.links}
        assert linked == {PARENT, OTHER}
        (asked,) = api.asked
        # The flags tell that it is sampled, and perhaps that its id is drawn.
        parent = asked["traceparent"].rpartition("-")[0]
        assert parent == f"00-{sent.context.trace_id:032x}-{sent.context.span_id:016x}"

    def test_spans_of_failures_are_errors(
        self, api: Api, exporter: InMemorySpanExporter, tracing: OpenTelemetry
    ) -> None:
        api.status = 503
        assert deliver(api, record(0, PARENT), record(1, PARENT, b"?"), tracing=tracing) is None
        good, bad = named(exporter, "decode")
        assert good.status.status_code is StatusCode.UNSET
        assert (bad.status.status_code, bad.status.description) == (StatusCode.ERROR, "undecodable")
        (sent,) = named(exporter, "send")
        assert (sent.status.status_code, sent.status.description) == (StatusCode.ERROR, "failed")

    def test_a_commit_is_linked_to_the_traces_of_its_records(
        self, exporter: InMemorySpanExporter, tracing: OpenTelemetry
    ) -> None:
        letter = DeadLetter("rejected", "no", 1)
        outputs = [Output(record(0, PARENT), b"", None), Output(record(1, None), b"", letter)]
        tracing.committed([*outputs, Output(record(2, PARENT), b"", None)], 1.5)
        (committed,) = exporter.get_finished_spans()
        assert committed.attributes
        assert committed.attributes["messaging.batch.message_count"] == 3
        assert [f"{link.context.trace_id:032x}" for link in committed.links] == [TRACE_ID]
        assert committed.end_time
        assert committed.start_time
        assert committed.end_time - committed.start_time == 1_500_000_000

    def test_no_token_is_in_a_span(self, api: Api, exporter: InMemorySpanExporter, tracing: OpenTelemetry) -> None:
        assert deliver(api, record(0, PARENT), tracing=tracing)
        assert all("token" not in span.to_json() for span in exporter.get_finished_spans())


class TestWhatIsLogged:
    """The collector does not exist here, so that the library complains."""

    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
        # It gives up before `close` does, so that no thread of one test complains in the next.
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
        yield
        logging.getLogger("opentelemetry").handlers = [logging.NullHandler()]

    def said(self) -> list[MutableMapping[str, Any]]:
        with capture_logs() as said:
            tracing = make_tracing(structlog.get_logger())
            if tracing:
                tracing.committed([], 0.1)
                tracing.close()
        return said

    @pytest.mark.parametrize(
        ("name", "value", "reason"),
        [
            ("TRACES_ENDPOINT", "http://127.0.0.1:1/v1/traces?api-key=hush-hush-hush", "Transient error"),
            ("HEADERS", "a=b,Authorization: Bearer hush-hush-hush", "Header format invalid!"),
            ("TRACES_HEADERS", "authorization=Bearer%20hush-hush-hush%0a", ""),
        ],
    )
    def test_no_secret_of_the_collector(
        self, name: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
        (complaint,) = self.said()
        assert complaint["event"] == "tracing"
        assert complaint["reason"].startswith(reason)
        assert "hush" not in str(complaint)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("BSP_MAX_QUEUE_SIZE", "1"),
            ("SPAN_ATTRIBUTE_COUNT_LIMIT", "none"),
            ("PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "none"),
        ],
    )
    def test_a_wrong_variable_and_delivery_goes_on(
        self, name: str, value: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(f"OTEL_{name}", value)
        (complaint,) = self.said()
        assert complaint["event"] == "no_tracing"
        assert complaint["reason"].startswith("a variable OTEL_* is wrong: ")

    def test_no_secret_that_an_error_about_a_variable_quotes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hush-hush")
        monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "hush-hush")
        (complaint,) = self.said()
        assert complaint["event"] == "no_tracing"
        assert "hush" not in str(complaint)


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_spans_are_made_only_if_the_environment_names_an_endpoint(environ: dict[str, str], *, wanted: bool) -> None:
    assert wants_tracing(environ) == wanted
