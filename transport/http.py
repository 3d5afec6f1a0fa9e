"""One HTTP request and its complete answer, bounded in time and size, whatever the server does.

A socket's timeout limits only a single read, so a server that sends a byte now and then never exceeds it. Therefore
a watcher shuts the connection down when the request's time is over. That ends every wait on it: connecting, a
proxy's CONNECT, the TLS handshake, sending, and reading status, headers and body. A lookup of the host's name can't
be stopped, so it runs on its own thread, which is abandoned.
"""

import contextlib
import os
import queue
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from http import HTTPStatus
from http.client import HTTPMessage
from pathlib import Path
from typing import Any, NamedTuple

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection

CONNECT_TIMEOUT = 5.0
"""How long connecting to one address of a host may take, in seconds. Then the next address is tried."""

LONGEST_IDLE = 30.0
"""How long a connection may be unused and still serve the next request, in seconds.

Firewalls and load balancers forget idle connections, often after a few minutes, and drop what comes later. A
request would then wait until its time is over. Servers close idle connections too, often after 60 seconds.
"""

_READ_AT_ONCE = 65_536
_MOST_COMMAS = 200_000
_TUNNEL = re.compile(r"Tunnel connection failed: ([1-9]\d\d)\b", re.ASCII)  # a proxy's answer to CONNECT
_PROXY = "the proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names"


class Unanswered(Exception):
    """There is no complete answer. `message` says why, without the address, which may hold a secret.

    `cause` is a short name to count by: `timeout`, `connection` or `unreadable`.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message


class Reply(NamedTuple):
    """A complete answer; `content` is its body, decompressed."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Transport:
    """Makes requests. Thread-safe; each thread has its own connections.

    Redirects are not followed, cookies are not kept, and no credentials are added. Proxies come from the
    environment. So do the CA certificates, unless `ca` has them. `certificate` is the client's, with its key in
    `key` or in the same file.
    """

    def __init__(self, *, ca: Path | None = None, certificate: Path | None = None, key: Path | None = None) -> None:
        self._ca = str(ca) if ca else None
        self._own = (str(certificate), str(key or certificate)) if certificate else None
        self._watcher = _Watcher()
        self._local = threading.local()

    def request(  # noqa: PLR0913 - what a request is made of
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, *, longest: int, timeout: float
    ) -> Reply:
        """Make one request and read its complete answer. Blocks up to the timeout. Raises only Unanswered.

        The timeout, in seconds, covers everything from the lookup of the host's name to the last byte of the
        answer. The answer's body may have at most `longest` bytes, also after decompression. The values of its JSON
        are bounded too, by its commas. The connection is kept for this thread's next request, if that comes soon
        and the headers do not say `Connection: close`.
        """
        surrounding = sys.exception()
        session = self._session()
        with self._watcher.watch(timeout) as watch:
            try:
                reply, failure = self._exchanged(session, method, url, headers, body, longest, watch.left), None
            except Unanswered as error:
                failure = error
            except Exception as error:  # noqa: BLE001 - what a server, a proxy or a setting may cause has no end
                failure = self._unanswered(error, surrounding, url, timeout)
            if watch.is_over:  # a body without a length looks complete even if it was truncated
                failure = _late(timeout)
        self._local.used_at = time.monotonic()
        if failure or headers.get("Connection") == "close":
            session.close()  # part of an answer may still be unread on the connection
        if failure:
            # Raised without the caught error's traceback, whose frames hold sockets and bodies.
            raise failure.with_traceback(None)
        return reply

    def _exchanged(  # noqa: PLR0913, PLR0917 - what a request is made of
        self,
        session: requests.Session,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        longest: int,
        left: float,
    ) -> Reply:
        content = bytearray()
        with session.request(
            method,
            url,
            data=body,
            headers=headers,
            verify=self._ca,  # in the session, the environment's would have priority over it
            cert=self._own,
            timeout=left,
            allow_redirects=False,
            stream=True,
        ) as response:
            if response.status_code < HTTPStatus.OK:  # another answer to this request follows on this connection
                raise Unanswered("unreadable", f"the answer's status is {response.status_code}, which is not final")
            while part := response.raw.read1(_READ_AT_ONCE, decode_content=True):
                content += part
                if len(content) > longest:
                    raise Unanswered("unreadable", f"the answer has more than {longest} bytes")
        if content.count(b",") > _MOST_COMMAS:  # in memory, small values of JSON take many times their bytes
            raise Unanswered("unreadable", f"the answer has more than {_MOST_COMMAS} values")
        return Reply(response.status_code, response.headers, bytes(content))

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = _Session()
        elif time.monotonic() - self._local.used_at > LONGEST_IDLE:
            session.close()  # only its connections
        self._local.used_at = time.monotonic()
        return session

    def _unanswered(
        self, error: Exception, surrounding: BaseException | None, url: str, timeout: float
    ) -> Unanswered:
        bottom = _bottom(error, surrounding)
        if isinstance(bottom, TimeoutError):
            return _late(timeout)
        # Use only the error's class and the system's message: its text may hold the address with secrets.
        said = bottom.strerror if isinstance(bottom, OSError) else None
        if refused := _TUNNEL.match(str(bottom)):
            said = f"it answered {refused[1]}"
        reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
        if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
            if self._ca or self._own:
                what = "the certificates can't be read"
            else:
                what = "the CA certificates can't be read; see REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE"
        elif isinstance(error, requests.exceptions.SSLError):
            what = "TLS could not be set up"
        else:
            what = "the request failed"
        over = f" through {_PROXY}" if _has_proxy(url) else ""
        return Unanswered("connection", f"{what}{over} ({reason})")


def _late(timeout: float) -> Unanswered:
    return Unanswered("timeout", f"no complete answer within {round(timeout, 3):g} seconds")


def _has_proxy(url: str) -> bool:
    try:
        return bool(select_proxy(url, requests.utils.get_environ_proxies(url)))
    except Exception:  # noqa: BLE001 - a setting may be anything
        return True  # one that can't be read


def _bottom(error: BaseException, surrounding: BaseException | None) -> BaseException:
    """Return the error at the bottom of the chain: the socket's own, below those of the libraries.

    `surrounding` is an error that the caller was handling already. It is unrelated, so the search stops above it.
    Tracebacks are dropped, because their frames hold sockets and bodies, and would form reference cycles.
    """
    error.__traceback__ = None
    while (deeper := error.__cause__ or error.__context__) and deeper is not surrounding:
        error = deeper
        error.__traceback__ = None
    return error


class _Watch:
    """The deadline of one request, and the connection that it uses. Any thread may call it."""

    def __init__(self, end: float) -> None:
        self.end = end
        self._lock = threading.Lock()
        self._held: int | None = None

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.end

    @property
    def left(self) -> float:
        """The seconds left, and at least a millisecond, because a socket needs a positive timeout."""
        return max(0.001, self.end - time.monotonic())

    def hold(self, connection: Any) -> None:
        """Shut this connection down when the time is over, instead of the one held before.

        It holds a duplicate of the descriptor, because TLS detaches the original, and it may be closed early.
        """
        with self._lock:
            self._drop()
            self._held = os.dup(connection.fileno())
            if self.is_over:
                self._shut()

    def expire(self) -> None:
        """Shut the held connection down, because the time is over."""
        with self._lock:
            self._shut()

    def release(self) -> None:
        """Release the held connection without shutting it down."""
        with self._lock:
            self._drop()

    def _shut(self) -> None:
        if self._held is not None:
            with contextlib.suppress(OSError), socket.socket(fileno=self._held) as held:
                self._held = None
                held.shutdown(socket.SHUT_RDWR)

    def _drop(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None


_WATCH: ContextVar[_Watch] = ContextVar("_WATCH")


class _Watcher:
    """Ends requests when their time is over. One thread serves all requests, and ends when there are none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_earlier = threading.Condition(self._lock)
        self._watches: set[_Watch] = set()
        self._wakes: float | None = None
        """When the thread looks next, None while there is no thread."""

    @contextlib.contextmanager
    def watch(self, timeout: float) -> Iterator[_Watch]:
        """Watch the request that this thread makes inside the context. Raises Unanswered if that is impossible."""
        watch = _Watch(time.monotonic() + timeout)
        with self._lock:
            if self._wakes is None:
                try:
                    threading.Thread(target=self._run, name="request deadlines", daemon=True).start()
                except RuntimeError as error:
                    raise Unanswered(
                        "connection", f"the request's time limit can't be enforced ({error})"
                    ) from None
                self._wakes = watch.end
            elif watch.end < self._wakes:
                self._wakes = watch.end
                self._is_earlier.notify()
            self._watches.add(watch)
        token = _WATCH.set(watch)
        try:
            yield watch
        finally:
            _WATCH.reset(token)
            with self._lock:
                self._watches.discard(watch)
            watch.release()

    def _run(self) -> None:
        with self._lock:
            while self._watches:
                now = time.monotonic()
                for watch in [watch for watch in self._watches if watch.end <= now]:
                    self._watches.discard(watch)
                    watch.expire()
                if self._watches:
                    self._wakes = min(watch.end for watch in self._watches)
                    self._is_earlier.wait(self._wakes - now)
            self._wakes = None


class _Watched:
    """A mixin for our connections: tells the request's watch which socket is used."""

    def _new_conn(self: Any) -> socket.socket:
        watch = _WATCH.get()
        error = OSError("the host has no address")
        for family, kind, protocol, _, address in _looked_up(self._dns_host, self.port, watch):
            try:
                connection = socket.socket(family, kind, protocol)
            except OSError as failed:  # a system without IPv6 has no sockets for an address of it
                error = failed
                continue
            try:
                watch.hold(connection)
                for option in self.socket_options or ():
                    connection.setsockopt(*option)
                connection.settimeout(min(CONNECT_TIMEOUT, watch.left))
                connection.connect(address)
                if watch.is_over:  # a socket that is not connected yet can't be shut down
                    raise TimeoutError
            except OSError as failed:
                connection.close()
                error = failed
            else:
                connection.settimeout(watch.left)  # for all that follows
                return connection
        if isinstance(error, TimeoutError) and not watch.is_over:
            raise Unanswered("timeout", f"no connection within {CONNECT_TIMEOUT:g} seconds")
        raise error

    def request(self: Any, *given: Any, **named: Any) -> None:
        if self.sock is not None:
            _WATCH.get().hold(self.sock)
        super().request(*given, **named)  # type: ignore[misc] # of the connection that it is mixed into


def _looked_up(host: str, port: int, watch: _Watch) -> list[tuple[Any, ...]]:
    """Return a host's addresses as getaddrinfo does. Raises what it raises, or TimeoutError at the deadline."""
    answers: queue.SimpleQueue[list[tuple[Any, ...]] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except Exception as error:  # noqa: BLE001 - the name may be anything
            answers.put(error)

    threading.Thread(target=look_up, name="name look-up", daemon=True).start()
    answer: list[tuple[Any, ...]] | Exception = TimeoutError()
    with contextlib.suppress(queue.Empty):
        answer = answers.get(timeout=watch.left)
    if isinstance(answer, Exception):
        raise answer
    return answer


class _PlainConnection(_Watched, HTTPConnection):
    pass


class _TlsConnection(_Watched, HTTPSConnection):
    pass


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


_POOLS: dict[str, Callable[..., urllib3.HTTPConnectionPool]] = {"http": _PlainPool, "https": _TlsPool}


class _Adapter(HTTPAdapter):
    """Makes our connections, directly and over proxies."""

    def init_poolmanager(self, *given: Any, **named: Any) -> None:
        super().init_poolmanager(*given, **named)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **named: Any) -> Any:
        if proxy.lower().startswith("socks"):
            raise Unanswered("connection", f"can't send requests through {_PROXY}: SOCKS is not supported")
        manager = super().proxy_manager_for(proxy, **named)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """Build it without cookies: reading many takes long, and none is kept."""
        if original := resp._original_response:  # this is where requests looks for them
            original.msg = HTTPMessage()
        return super().build_response(req, resp)


class _Session(requests.Session):
    """A session that adds no credentials and no cookies. The environment still sets proxies and certificates."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = _as_it_is  # a .netrc must not replace the caller's credentials
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter())

    def get_redirect_target(self, _response: requests.Response) -> None:
        """Ignore redirects. Else requests would parse them, even if not asked to, and read bodies without limit."""


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
