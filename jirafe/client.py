"""Sends events to the Jirafe Events API v2 in batches, and reads the answers item by item.

Transport and answers: the API's documentation of `/v2/{site_id}/batch`. Nothing here retries or waits: an
answer says what became of each event, or why the request as a whole did not serve, and the caller decides.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import quote

import orjson
import requests
import urllib3

Array = Literal["cart", "order", "category"]

MAX_REQUEST_BYTES = 10 * 1024 * 1024
"""A batch may be up to 10 MB per request (the API's documentation)."""

_ARRAYS: tuple[Array, ...] = ("cart", "order", "category")
_QUOTED = 200
_TRANSIENT = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_SHORTEST_SECRET = 8
_READ_AT_ONCE = 65_536
_LONGEST_ANSWER = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Site:
    """Where events go and by what right. The token shows in no text of it."""

    site_id: str
    access_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Document:
    """One event as it is sent: its array in a batch, and its JSON."""

    array: Array
    json: bytes


@dataclass(frozen=True, slots=True)
class Accepted:
    """The API has the event."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The API will never accept the event as it is; `message` quotes the API's own errors, path first."""

    message: str


@dataclass(frozen=True, slots=True)
class Transient:
    """The API could not take this event now, and names no error in the event itself."""

    message: str


Item = Accepted | Rejected | Transient


@dataclass(frozen=True, slots=True)
class Answered:
    """The API went through the batch: one item for each event, in the order they were given."""

    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """The API will not take the batch as a whole (400, 413): something in it is at fault."""

    message: str


@dataclass(frozen=True, slots=True)
class Forbidden:
    """The token is not valid (`invalid_token`), or has no access to the site (`authorization`)."""

    error_type: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The request as a whole did not serve: the same one may serve later.

    `cause` is a short name for counting (`503`, `timeout`, `connection`, `unreadable`), `message` the
    sentence. `retry_after` is in seconds, as the API asked, None where it did not. `is_final` marks a status
    that the same request will bring again unless something is mended (4xx, but 408, 425 and 429). Whether the
    events were taken in is not known.
    """

    cause: str
    message: str
    retry_after: float | None = None
    is_final: bool = False


Answer = Answered | Refused | Forbidden | Failed


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer: how many events and bytes were sent, and the seconds until the answer was read."""

    site_id: str
    events: int
    size: int
    seconds: float
    answer: Answer


def batch(documents: Sequence[Document]) -> bytes:
    """Compose a batch request's body; within each array the order given is kept."""
    parts = []
    for array in _ARRAYS:
        items = [document.json for document in documents if document.array == array]
        if items:
            parts.append(b'"%b":[%b]' % (array.encode(), b",".join(items)))
    return b"{%b}" % b",".join(parts)


BATCH_OVERHEAD = len(batch([Document(array, b"") for array in _ARRAYS]))
"""Bytes that a batch may have beside its documents and the commas between them."""


PROBE = Document("category", b'{"name":null}')
"""What the API was recorded to refuse for its form, in a batch too, after it looked at the token.

It takes in nothing of it, and shows that it serves."""


class Client:
    """One API at `url` (up to and with `/v2`); may be shared between threads, each has its own connections.

    Timeouts are in seconds. `now` tells the time by which a `Retry-After` date is read. `observe` is called after
    each exchange, in the thread that sent it.
    """

    def __init__(
        self,
        url: str,
        *,
        connect_timeout: float,
        read_timeout: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        observe: Callable[[Exchange], None] = lambda _: None,
    ) -> None:
        self._url = url.rstrip("/")
        self._timeout = (connect_timeout, read_timeout)
        self._now = now
        self._observe = observe
        self._local = threading.local()

    def send(self, site: Site, documents: Sequence[Document]) -> Answer:
        """Send one batch and read its answer; blocks up to the timeouts, raises nothing of the transport's."""
        body, begun = batch(documents), time.monotonic()
        answer = self._post(site, body, documents)
        self._observe(Exchange(site.site_id, len(documents), len(body), time.monotonic() - begun, answer))
        return answer

    def _post(self, site: Site, body: bytes, documents: Sequence[Document]) -> Answer:
        try:
            response = self._session().post(
                f"{self._url}/{quote(site.site_id, safe='')}/batch",
                data=body,
                headers={"Authorization": f"Bearer {site.access_token}", "Content-Type": "application/json"},
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            )
            content = self._content(response)
        except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
            return Failed("timeout", f"no answer in time ({type(error).__name__})")
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            # Only the error's class: its text may hold the address with what was put into it.
            return Failed(
                "connection", f"the request could not be made or its answer not read ({type(error).__name__})"
            )
        if isinstance(content, Failed):
            return content
        return self._read(response, _without(site.access_token, content), documents)

    def _content(self, response: requests.Response) -> bytes | Failed:
        """Read an answer's body, within the read timeout in all: its parts may each come just in time."""
        end = time.monotonic() + self._timeout[1]
        content = bytearray()
        with response:
            while part := response.raw.read1(_READ_AT_ONCE, decode_content=True):
                content += part
                if time.monotonic() > end:
                    return Failed("timeout", "the answer came too slowly")
                if len(content) > _LONGEST_ANSWER:
                    return Failed("unreadable", f"the answer has more than {_LONGEST_ANSWER} bytes")
        return bytes(content)

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            # Proxies and certificates still come from the environment; a .netrc must not replace our token.
            session.auth = _keep_authorization
        return session

    def _read(self, response: requests.Response, content: bytes, documents: Sequence[Document]) -> Answer:
        body = _json_object(content)
        if response.status_code == HTTPStatus.OK:
            return _read_items(body, documents)
        return self._read_error(response, body or {})

    def _read_error(self, response: requests.Response, body: dict[str, Any]) -> Answer:
        status, error_type = response.status_code, str(body.get("error_type", ""))
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) and error_type:
            return Forbidden(error_type)
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return Refused("413: the request is too large for the API")
        if status == HTTPStatus.BAD_REQUEST and (error_type or body.get("errors")):
            return Refused(f"400: {_message(body)}")
        said = f": {_message(body)}" if body else ""
        is_final = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _TRANSIENT
        return Failed(str(status), f"the API answered {status}{said}", self._retry_after(response), is_final)

    def _retry_after(self, response: requests.Response) -> float | None:
        """Read Retry-After in both its forms (RFC 9110, 10.2.3), as seconds from now; None where unreadable."""
        text = response.headers.get("Retry-After", "").strip()
        if text.isascii() and text.isdigit():
            return float(text)
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        # An HTTP date is in GMT also where it fails to say so.
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, (moment - self._now()).total_seconds())


def _without(token: str, content: bytes) -> bytes:
    """Take our token out of an answer that echoes it; one too short to be a secret may be any part of it."""
    return content.replace(token.encode(), b"[token]") if len(token) >= _SHORTEST_SECRET else content


def _keep_authorization(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None


def _read_items(body: dict[str, Any] | None, documents: Sequence[Document]) -> Answered | Failed:
    if body is None:
        return Failed("unreadable", "200 with a body that is not a JSON object")
    items = _items(body, documents)
    if items is None:
        return Failed("unreadable", "200 with arrays that do not match the request")
    return Answered(items)


def _items(body: dict[str, Any], documents: Sequence[Document]) -> tuple[Item, ...] | None:
    """Match the answer's arrays to the documents; None where they differ in kind, length or form."""
    places: dict[str, list[int]] = {}
    for index, document in enumerate(documents):
        places.setdefault(document.array, []).append(index)
    if body.keys() != places.keys():
        return None
    items: list[Item | None] = [None] * len(documents)
    for array, indexes in places.items():
        verdicts = body[array]
        if not isinstance(verdicts, list) or len(verdicts) != len(indexes):
            return None
        for index, verdict in zip(indexes, verdicts, strict=True):
            items[index] = _item(verdict)
    return tuple(item for item in items if item is not None) if None not in items else None


def _item(verdict: object) -> Item | None:
    if not isinstance(verdict, dict) or not isinstance(verdict.get("success"), bool):
        return None
    if verdict["success"]:
        return Accepted()
    # Only what speaks of the event itself is final: its errors, or its form.
    if verdict.get("errors") or verdict.get("error_type") in ("validation", "bad_json", "invalid_type"):
        return Rejected(_message(verdict))
    return Transient(_message(verdict))


def _message(body: dict[str, Any]) -> str:
    """Word an answer's errors: `total: None is not of type 'number'`, else its message or its type."""
    errors = body.get("errors")
    if isinstance(errors, dict) and errors:
        return "; ".join(f"{path}: {message}" for path, message in errors.items())
    if isinstance(errors, list):
        errors = "; ".join(map(str, errors))
    if errors:
        return str(errors)[:_QUOTED]
    said = [str(body[name])[:_QUOTED] for name in ("error_type", "message") if body.get(name)]
    return ": ".join(said) or "no reason given"
