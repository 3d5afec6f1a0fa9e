"""Sends events to the Jirafe Events API v2 in batches, and reads the answers item by item.

Requests and answers follow the API's documentation of `/v2/{site_id}/batch`. Nothing here retries or waits. An
answer has an outcome for each event, or says why the whole request failed. The caller decides what to do.
"""

import json
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Literal, NamedTuple, Protocol
from urllib.parse import quote, urlsplit

import orjson

from transport.http import Reply, Transport, Unanswered
from transport.redaction import TIMES_SEARCHED, quoted, without

Array = Literal["cart", "order", "category", "product"]

MAX_REQUEST_BYTES = 10 * 1024 * 1024
"""A batch may be up to 10 MB per request (the API's documentation)."""

_ARRAYS: tuple[Array, ...] = ("cart", "order", "category", "product")
_QUOTED = 200
_MOST_QUOTED = 4000
_LONGEST_HOST = 253
_SHORT_ANSWER = 1024 * 1024
_LONGEST_ANSWER = 8 * 1024 * 1024
# Only the API uses these error types. An answer with one of them does not come from a proxy.
_OF_FORM = ("validation", "bad_json", "invalid_type")
_OF_TOKEN = ("invalid_token", "authorization")


@dataclass(frozen=True, slots=True)
class Site:
    """A site, and the access token for it. The token is not in its `repr`."""

    site_id: str
    access_token: str = field(repr=False)


Trace = tuple[tuple[str, str], ...]
"""The W3C Trace Context headers of a trace; empty for none."""


class Document(NamedTuple):
    """One event as it is sent: its array in a batch, its JSON, and its trace."""

    array: Array
    json: bytes
    trace: Trace = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The API has the event."""


_ACCEPTED = Accepted()


@dataclass(frozen=True, slots=True)
class Rejected:
    """The API will never accept this event. `message` quotes the API's own errors, path first."""

    message: str


@dataclass(frozen=True, slots=True)
class Transient:
    """The API could not accept this event now, and names no error in the event itself."""

    message: str


Item = Accepted | Rejected | Transient


@dataclass(frozen=True, slots=True)
class Answered:
    """The API processed the batch. There is one item for each event, in the order they were given."""

    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """The API refuses the whole batch: something in it is wrong, or it is too large (413).

    For a single event, a 413 counts only in the API's own form. Any other 413 may come from a proxy, and is Failed.
    """

    message: str


@dataclass(frozen=True, slots=True)
class Forbidden:
    """The token is not valid (`invalid_token`), or has no access to the site (`authorization`)."""

    error_type: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The whole request failed. The same request may succeed later.

    `cause` is a short name for counting (`503`, `timeout`, `connection`, `unreadable`), and `message` a sentence.
    `retry_after` is the delay in seconds that the API asked for, None if it did not. It is not known whether the
    API has the events. An error that is not in the API's own form is one of these, whatever its status, because it
    may come from a proxy. The exception is a 413 for several events, which is Refused.
    """

    cause: str
    message: str
    retry_after: float | None = None


Answer = Answered | Refused | Forbidden | Failed


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer, with the events and bytes sent, and the seconds until the answer was read."""

    site_id: str
    events: int
    size: int
    seconds: float
    answer: Answer


def batch(documents: Sequence[Document]) -> bytes:
    """Build the body of a batch request. Each array keeps the given order."""
    parts = [b"{"]
    for array in _ARRAYS:
        before = b'%b"%b":[' % (b"," if len(parts) > 1 else b"", array.encode())
        for document in documents:
            if document.array == array:
                parts += (before, document.json)
                before = b","
        if before == b",":
            parts.append(b"]")
    return b"".join((*parts, b"}"))


BATCH_OVERHEAD = len(batch([Document(array, b"") for array in _ARRAYS]))
"""The most bytes of a batch besides its documents and the commas between them."""


PROBE = Document("category", b'{"name":null}')
"""An event that the API refuses as invalid, also in a batch, after it has checked the token.

So the API stores nothing, and its answer shows that it works and accepts the token."""


@dataclass(frozen=True, slots=True)
class Reached:
    """The API answers; `date` is its Date header, empty where it sent none."""

    date: str


class SendSpan(Protocol):
    """The span of a request. `headers` pass it on to the API."""

    headers: Mapping[str, str]

    def answered(self, answer: Answer) -> None:
        """Record the outcome of the request."""


class RequestTracing(Protocol):
    """Makes the spans of requests; any thread may call."""

    def send(self, site_id: str, traces: Collection[Trace]) -> AbstractContextManager[SendSpan]:
        """Make the span of a request to a site whose events have these traces."""


class Client:
    """A client for the API at `url` (which ends with `/v2`). Thread-safe; each thread has its own connections.

    `timeout` limits a whole request, until its answer is read, in seconds. `now` is the clock for `Retry-After`
    dates. `observe` is called after each exchange, on the thread that sent it. A request carries the trace of its
    events if they share one, or, with `tracing`, its own span.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        observe: Callable[[Exchange], None] = lambda _: None,
        tracing: RequestTracing | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._transport = Transport()
        self._timeout = timeout
        self._now = now
        self._observe = observe
        self._tracing = tracing

    def send(self, site: Site, documents: Sequence[Document]) -> Answer:
        """Send one batch and read its answer. Blocks up to the timeout. Raises nothing: failures are answers."""
        body, begun = batch(documents), time.monotonic()
        answer = self._traced(site, body, documents)
        self._observe(Exchange(site.site_id, len(documents), len(body), time.monotonic() - begun, answer))
        return answer

    def reach(self) -> Reached | Failed:
        """Check whether anything answers at the API's address, with any status. Blocks up to the timeout."""
        try:
            reply = self._transport.request(
                "HEAD", self._url, {}, b"", longest=_SHORT_ANSWER, timeout=self._timeout
            )
        except Unanswered as error:
            return Failed(error.cause, error.message)
        return Reached(reply.headers.get("Date", ""))

    def _traced(self, site: Site, body: bytes, documents: Sequence[Document]) -> Answer:
        if self._tracing is None:
            first = documents[0].trace if documents else ()
            is_common = bool(first) and all(document.trace == first for document in documents)
            return self._post(site, body, documents, dict(first) if is_common else {})
        with self._tracing.send(site.site_id, {document.trace for document in documents} - {()}) as span:
            answer = self._post(site, body, documents, span.headers)
            span.answered(answer)
        return answer

    def _post(self, site: Site, body: bytes, documents: Sequence[Document], trace: Mapping[str, str]) -> Answer:
        url = f"{self._url}/{quote(site.site_id, safe='')}/batch"
        headers = {**trace, "Authorization": f"Bearer {site.access_token}", "Content-Type": "application/json"}
        try:
            reply = self._transport.request(
                "POST", url, headers, body, longest=_longest_answer(body), timeout=self._timeout
            )
        except Unanswered as error:
            return Failed(error.cause, error.message)
        try:
            return self._read(reply, site.access_token, documents)
        except Exception as error:  # noqa: BLE001 - an answer that we stumble over is one that can't be read
            return Failed("unreadable", f"the answer could not be read ({type(error).__name__})")

    def _read(self, reply: Reply, token: str, documents: Sequence[Document]) -> Answer:
        body = _json_object(reply.content)
        if reply.status == HTTPStatus.OK:
            return _read_items(body, documents, token)
        return self._read_error(reply, body or {}, token, len(documents))

    def _read_error(self, reply: Reply, body: dict[str, Any], token: str, count: int) -> Answer:
        status, error_type = reply.status, body.get("error_type")
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) and error_type in _OF_TOKEN:
            return Forbidden(str(error_type))
        is_own_form = isinstance(error_type, str) and body.get("success") is False
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and (count > 1 or is_own_form):
            return Refused("413: the request is too large for the API")
        if status == HTTPStatus.BAD_REQUEST and error_type in _OF_FORM:
            return Refused(f"400: {_message(body, token)}")
        said = f": {_message(body, token)}" if body else _redirected(reply, token)
        return Failed(str(status), f"the API answered {status}{said}", self._retry_after(reply))

    def _retry_after(self, reply: Reply) -> float | None:
        """Read Retry-After in both forms (RFC 9110, 10.2.3), as seconds from now; None if it can't be read."""
        text = reply.headers.get("Retry-After", "").strip()
        if text.isascii() and text.isdigit():
            seconds = float(text)
            return seconds if math.isfinite(seconds) else None
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        # An HTTP date is in GMT even if it does not say so.
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, (moment - self._now()).total_seconds())


def _longest_answer(body: bytes) -> int:
    """Return the size limit of an answer: it may quote all that was sent, and escape it."""
    return min(_LONGEST_ANSWER, _SHORT_ANSWER + 4 * len(body))


def _json_object(content: bytes) -> dict[str, Any] | None:
    """Parse a JSON object leniently. Returns None if it is not one.

    If the strict parser fails, numbers stay texts, so that their length does not matter. No number is used.
    """
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        try:
            text = content.decode(json.detect_encoding(content), "replace")
            body = json.loads(text, strict=False, parse_int=str, parse_float=str, parse_constant=str)
        except (ValueError, RecursionError):
            return None
    return body if isinstance(body, dict) else None


def _read_items(body: dict[str, Any] | None, documents: Sequence[Document], token: str) -> Answered | Failed:
    if body is None:
        return Failed("unreadable", "200 with a body that is not a JSON object")
    items = _items(body, documents, token)
    if items is None:
        return Failed("unreadable", "200 with arrays that do not match the request")
    return Answered(items)


def _items(body: dict[str, Any], documents: Sequence[Document], token: str) -> tuple[Item, ...] | None:
    """Match the answer's arrays to the documents. None if one is missing, or differs in length or form."""
    places: dict[str, list[int]] = {}
    for index, document in enumerate(documents):
        places.setdefault(document.array, []).append(index)
    items: list[Item | None] = [None] * len(documents)
    for array, indexes in places.items():
        verdicts = body.get(array)
        if not isinstance(verdicts, list) or len(verdicts) != len(indexes):
            return None
        for index, verdict in zip(indexes, verdicts, strict=True):
            items[index] = _item(verdict, token)
    return tuple(item for item in items if item is not None) if None not in items else None


def _item(verdict: object, token: str) -> Item | None:
    if not isinstance(verdict, dict) or not isinstance(verdict.get("success"), bool):
        return None
    if verdict["success"]:
        return _ACCEPTED
    # Only an error about the event itself is final.
    if verdict.get("errors") or verdict.get("error_type") in _OF_FORM:
        return Rejected(_message(verdict, token))
    return Transient(_message(verdict, token))


def _message(body: dict[str, Any], token: str) -> str:
    """Put an answer's errors into words: `total: None is not of type 'number'`, else its message or its type."""
    words = _words(body, token)
    return words if words.strip() else "no reason given"


def _words(body: dict[str, Any], token: str) -> str:
    errors = body.get("errors")
    if isinstance(errors, dict) and errors:
        return _quoted((f"{path}: {_text(message)}" for path, message in errors.items()), "; ", token, _MOST_QUOTED)
    if errors:
        parts = map(_text, errors if isinstance(errors, list) else [errors])
        return _quoted(filter(str.strip, parts), "; ", token, _QUOTED)
    said = (_text(body[name]) for name in ("error_type", "message") if body.get(name))
    return _quoted(said, ": ", token, _QUOTED)


def _quoted(parts: Iterable[str], between: str, token: str, longest: int) -> str:
    """Quote the API's words: without the token, shortened, and valid as UTF-8."""
    said = "".join(_some(parts, between, TIMES_SEARCHED * longest))
    # JSON can have half of a surrogate pair, but UTF-8 can't.
    return quoted(token, said, longest).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _text(value: object) -> str:
    try:
        return str(value)
    except RecursionError:
        return "..."


def _some(parts: Iterable[str], between: str, most: int) -> Iterator[str]:
    size = 0
    for index, part in enumerate(parts):
        yield f"{between}{part}" if index else part
        size += len(part)
        if size > most:
            return


def _redirected(reply: Reply, token: str) -> str:
    """Return the host that a redirect points to, but not the rest of the address, which may hold secrets."""
    try:
        host = urlsplit(reply.headers.get("Location", "")).hostname or ""
    except ValueError:
        return ", and redirects to an address that can't be read"
    if not host:
        return ""
    if not (host.isascii() and host.isprintable() and len(host) <= _LONGEST_HOST):
        return ", and redirects to an address that can't be read"
    return f", and redirects to {without(token, host)}; see JIRAFE_URL"
