"""OpenTelemetry spans of a member: `decode` of a record, `send` of a request, `commit` of a transaction.

A record carries its trace in the headers `traceparent` and `tracestate` (W3C Trace Context,
https://www.w3.org/TR/trace-context/). They are passed on to the API's request and to the result even without this
module. It needs the extra `otel`. It is loaded only if `OTEL_EXPORTER_OTLP_ENDPOINT` or
`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` says where spans go.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from consumer.engine.kafka import Logger
from consumer.engine.records import Output, Record
from consumer.engine.workers import CallTimeout, call_within
from jirafe.client import Answer, Answered, Trace
from transport.redaction import TIMES_SEARCHED, without

_CLOSED_WITHIN = 3.0
_QUIET_SECONDS = 60.0
_MOST_LINKS = 128
_QUOTED = 2000
_W3C = TraceContextTextMapPropagator()


class OpenTelemetry:
    """Makes the spans of one member; any thread may call. `provider` exports them."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("jirafe-consumer")

    @contextmanager
    def decode(self, record: Record) -> Iterator["_Decoding"]:
        """Make the span of a record's decoding and mapping. It is a child of the record's own trace."""
        attributes: dict[str, str | int] = {
            "messaging.system": "kafka",
            "messaging.destination.name": record.topic,
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.offset": record.offset,
        }
        with self._tracer.start_as_current_span(
            "decode", context=_W3C.extract(dict(record.trace)), kind=SpanKind.CONSUMER, attributes=attributes
        ) as span:
            yield _Decoding(span)

    @contextmanager
    def send(self, site_id: str, traces: Collection[Trace]) -> Iterator["_Sending"]:
        """Make the span of a request: a child of the trace of its events if they share one, else linked to each."""
        alone = next(iter(traces)) if len(traces) == 1 else ()
        with self._tracer.start_as_current_span(
            "send",
            context=_W3C.extract(dict(alone)),
            kind=SpanKind.CLIENT,
            attributes={"jirafe.site_id": site_id},
            links=[] if alone else list(_links(traces)),
        ) as span:
            yield _Sending(span)

    def committed(self, outputs: Sequence[Output], seconds: float) -> None:
        """Make the span of a transaction that took `seconds` until now, linked to the traces of its records."""
        now = time.time_ns()
        self._tracer.start_span(
            "commit",
            kind=SpanKind.PRODUCER,
            start_time=now - round(seconds * 1e9),
            attributes={"messaging.system": "kafka", "messaging.batch.message_count": len(outputs)},
            links=list(_links({output.record.trace for output in outputs} - {()})),
        ).end(now)

    def close(self) -> None:
        """Export the remaining spans. Blocks for at most three seconds, then drops what nothing has accepted."""
        with suppress(CallTimeout):
            call_within(_CLOSED_WITHIN, self._provider.shutdown, lambda: None)


def quotable(said: str, secrets: Sequence[str]) -> str:
    """Shorten what the OpenTelemetry library says, and take secrets out: it quotes addresses and headers."""
    said = said[: TIMES_SEARCHED * _QUOTED]
    for secret in secrets:
        said = without(secret, said)
    return said[:_QUOTED]


def log_warnings(log: Logger, secrets: Sequence[str]) -> None:
    """Write the warnings of the OpenTelemetry library to our log, without the secrets."""
    library = logging.getLogger("opentelemetry")
    library.handlers, library.propagate = [_Complaints(log, secrets)], False


class _Complaints(logging.Handler):
    """Writes the library's warnings to our log: the first at once, then at most one per minute."""

    def __init__(
        self, log: Logger, secrets: Sequence[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._secrets = secrets
        self._clock = clock
        self._quiet_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Log the warning, unless another was logged less than a minute ago."""
        now = self._clock()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_SECONDS
            self._log.warning("tracing", reason=quotable(record.getMessage(), self._secrets))


class _Decoding:
    """The span of one record's decoding."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def failed(self, kind: str) -> None:
        """Mark the span as failed, with the kind of the record's fault."""
        self._span.set_status(Status(StatusCode.ERROR, kind))


class _Sending:
    """The span of one request. `headers` pass it on to the API."""

    def __init__(self, span: Span) -> None:
        self._span = span
        headers: dict[str, str] = {}
        _W3C.inject(headers)
        self.headers: Mapping[str, str] = headers

    def answered(self, answer: Answer) -> None:
        """Mark the span as failed, unless the answer has a verdict for each event."""
        if not isinstance(answer, Answered):
            self._span.set_status(Status(StatusCode.ERROR, type(answer).__name__.lower()))


def _links(traces: Collection[Trace]) -> Iterator[Link]:
    for trace in islice(traces, _MOST_LINKS):
        context = _context(trace)
        if context.is_valid:
            yield Link(context)


def _context(trace: Trace) -> SpanContext:
    return get_current_span(_W3C.extract(dict(trace))).get_span_context()
