"""OpenTelemetry spans of a member: `decode` of a record, `send` of a request, `commit` of a transaction.

A record brings its trace along in the headers `traceparent` and `tracestate` (W3C Trace Context,
https://www.w3.org/TR/trace-context/). They go on to the API's request and to the result without this module too.
It needs the extra `otel`, and is loaded only where `OTEL_EXPORTER_OTLP_ENDPOINT` or its like says where spans go.
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

_CLOSED_WITHIN = 3.0
_QUIET_SECONDS = 60.0
_MOST_LINKS = 128
_W3C = TraceContextTextMapPropagator()


class OpenTelemetry:
    """Makes the spans of one member; any thread may call.

    `provider` says where they go. What its library complains of is told in the log, if there is one.
    """

    def __init__(self, provider: TracerProvider, log: Logger | None = None) -> None:
        if log:
            library = logging.getLogger("opentelemetry")
            library.handlers, library.propagate = [_Complaints(log)], False
        self._provider = provider
        self._tracer = provider.get_tracer("jirafe-consumer")

    @contextmanager
    def decode(self, record: Record) -> Iterator["_Decoding"]:
        """Surround the decoding and mapping of a record: a child of the record's own trace."""
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
        """Surround a request: a child of its events' trace where they have one, else linked to all of theirs."""
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
        """Tell of a transaction that took some seconds until now, linked to the traces of its records."""
        now = time.time_ns()
        self._tracer.start_span(
            "commit",
            kind=SpanKind.PRODUCER,
            start_time=now - round(seconds * 1e9),
            attributes={"messaging.system": "kafka", "messaging.batch.message_count": len(outputs)},
            links=list(_links({output.record.trace for output in outputs} - {()})),
        ).end(now)

    def close(self) -> None:
        """Send what is left. Blocks for three seconds at most: where nobody takes spans, they are dropped."""
        with suppress(CallTimeout):
            call_within(_CLOSED_WITHIN, self._provider.shutdown, lambda: None)


class _Complaints(logging.Handler):
    """Tells in our log what the library complains of: a line at once, then one a minute at most."""

    def __init__(self, log: Logger, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._clock = clock
        self._quiet_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it, unless another was told just now."""
        now = self._clock()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_SECONDS
            self._log.warning("tracing", reason=record.getMessage())


class _Decoding:
    """The span of one record's decoding."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def failed(self, kind: str) -> None:
        """Note the kind of fault that the record has."""
        self._span.set_status(Status(StatusCode.ERROR, kind))


class _Sending:
    """The span of one request; `headers` tell the API of it."""

    def __init__(self, span: Span) -> None:
        self._span = span
        headers: dict[str, str] = {}
        _W3C.inject(headers)
        self.headers: Mapping[str, str] = headers

    def answered(self, answer: Answer) -> None:
        """Note what came of the request: anything but verdicts on its events is an error."""
        if not isinstance(answer, Answered):
            self._span.set_status(Status(StatusCode.ERROR, type(answer).__name__.lower()))


def _links(traces: Collection[Trace]) -> Iterator[Link]:
    for trace in islice(traces, _MOST_LINKS):
        context = _context(trace)
        if context.is_valid:
            yield Link(context)


def _context(trace: Trace) -> SpanContext:
    return get_current_span(_W3C.extract(dict(trace))).get_span_context()
