"""One HTTP request and its whole answer, bounded in time and size, whatever the server does.

The sockets' own timeouts limit a single read, and a server that sends a byte now and then never meets one. So a
watcher shuts the connection down when the request's time is over. Whatever waited on it then ends: the connection's
set-up, a proxy's CONNECT, the TLS handshake, sending, the status line, headers, the body.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError

_READ_AT_ONCE = 65_536


class Unanswered(Exception):
    """There is no whole answer; `cause` is a short name to count by: `timeout`, `connection` or `unreadable`."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer; `content` is its body, decompressed."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Transport:
    """Makes requests; may be shared between threads, each has its own connections.

    `timeout` is for a request in all: from its start to its answer's last byte. Only the look-up of the host's name
    is left to the system, which bounds it itself. `connect_timeout` is for each address of the host. Both are in
    seconds. Redirects are not followed, and no cookies kept.
    """

    def __init__(self, *, connect_timeout: float, timeout: float) -> None:
        self._timeouts = (min(connect_timeout, timeout), timeout)
        self._watcher = _Watcher(timeout)
        self._local = threading.local()

    def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes, longest: int) -> Reply:
        """Make one request and read its whole answer; blocks up to the timeout, raises Unanswered alone.

        The answer's body may have `longest` bytes, decompressed too.
        """
        session = self._session()
        with self._watcher.watch() as watch:
            try:
                reply, failure = self._exchanged(session, method, url, headers, body, longest), None
            except Unanswered as error:
                failure = error
            except Exception as error:  # noqa: BLE001 - what a server, a proxy or a setting may cause has no end
                failure = self._unanswered(error, url)
            if watch.is_over:  # a body without a length seems whole where it was cut off
                failure = self._late()
        if failure:
            session.close()  # its connection may be in the middle of an answer
            # Out of reach of what was caught: its frames hold sockets and bodies.
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
    ) -> Reply:
        response = session.request(
            method, url, data=body, headers=headers, timeout=self._timeouts, allow_redirects=False, stream=True
        )
        return self._read(response, longest)

    @staticmethod
    def _read(response: requests.Response, longest: int) -> Reply:
        content = bytearray()
        with response:
            while part := response.raw.read1(_READ_AT_ONCE, decode_content=True):
                content += part
                if len(content) > longest:
                    raise Unanswered("unreadable", f"the answer has more than {longest} bytes")
        return Reply(response.status_code, response.headers, bytes(content))

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = _Session()
        return session

    def _unanswered(self, error: Exception, url: str) -> Unanswered:
        if isinstance(error, requests.ConnectTimeout | ConnectTimeoutError):
            return Unanswered("timeout", f"no connection within {self._timeouts[0]:g} seconds")
        bottom = _bottom(error)
        if isinstance(bottom, TimeoutError):
            return self._late()
        # Only the error's class and the system's word: its text may hold the address with what was put into it.
        said = bottom.strerror if isinstance(bottom, OSError) else None
        reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
        if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
            what = "the CA certificates can't be read; see REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE"
        elif isinstance(error, requests.exceptions.SSLError):
            what = "TLS could not be set up"
        else:
            what = "the request could not be made or its answer not read"
        over = " over the proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names" if _has_proxy(url) else ""
        return Unanswered("connection", f"{what}{over} ({reason})")

    def _late(self) -> Unanswered:
        return Unanswered("timeout", f"no whole answer within {self._timeouts[1]:g} seconds")


def _has_proxy(url: str) -> bool:
    try:
        return bool(select_proxy(url, requests.utils.get_environ_proxies(url)))
    except Exception:  # noqa: BLE001 - a setting may be anything
        return True  # one that can't be read


def _bottom(error: BaseException) -> BaseException:
    """Give the error that began it: a socket's own lies below those of the libraries."""
    while deeper := error.__cause__ or error.__context__:
        error = deeper
    return error


class _Watch:
    """The time of one request, and the connection that it uses; any thread may call."""

    def __init__(self, end: float) -> None:
        self.end = end
        self.is_over = False
        self._lock = threading.Lock()
        self._held: int | None = None

    @property
    def left(self) -> float:
        """Seconds that are left, at least a moment: a socket takes no less."""
        return max(0.001, self.end - time.monotonic())

    def hold(self, connection: Any) -> None:
        """Have this connection shut down when the time is over, and no other.

        A copy is held: TLS takes the original apart, and a connection that is to be closed is let go early.
        """
        with self._lock:
            self._drop()
            self._held = os.dup(connection.fileno())
            if self.is_over:
                self._shut()

    def expire(self) -> None:
        """Shut down what is held."""
        with self._lock:
            self.is_over = True
            self._shut()

    def release(self) -> None:
        """Let go of what is held, as it is."""
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
    """Ends requests that take longer than `timeout` seconds: one thread for all of them, while there are any."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._lock = threading.Lock()
        self._watches: set[_Watch] = set()
        self._is_running = False

    @contextlib.contextmanager
    def watch(self) -> Iterator[_Watch]:
        """Watch the request that is made meanwhile, on this thread; raises Unanswered where nobody can."""
        watch = _Watch(time.monotonic() + self._timeout)
        with self._lock:
            if not self._is_running:
                try:
                    threading.Thread(target=self._run, name="request deadlines", daemon=True).start()
                except RuntimeError as error:
                    raise Unanswered("connection", f"the request's time can't be watched ({error})") from None
                self._is_running = True
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
        while (pause := self._expire_due()) is not None:
            # All have the same time: none that begins meanwhile ends before those that are known.
            time.sleep(pause)

    def _expire_due(self) -> float | None:
        """End what is due; gives the seconds until the next is, None once there is none."""
        with self._lock:
            now = time.monotonic()
            for watch in [watch for watch in self._watches if watch.end <= now]:
                self._watches.discard(watch)
                watch.expire()
            self._is_running = bool(self._watches)
            return min(watch.end for watch in self._watches) - now if self._watches else None


class _Watched:
    """What our connections have in common: they tell the watch of their request which socket they use."""

    def _new_conn(self: Any) -> socket.socket:
        watch = _WATCH.get()
        error: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(
            self._dns_host, self.port, type=socket.SOCK_STREAM
        ):
            connection = socket.socket(family, kind, protocol)
            watch.hold(connection)
            try:
                for option in self.socket_options or ():
                    connection.setsockopt(*option)
                connection.settimeout(min(self.timeout, watch.left))
                connection.connect(address)
            except OSError as failed:
                connection.close()
                error = failed
            else:
                connection.settimeout(watch.left)  # for all that follows
                return connection
        if isinstance(error, TimeoutError):
            raise ConnectTimeoutError(self, "no connection in time") from error
        raise error or OSError("the host has no address")

    def request(self: Any, *given: Any, **named: Any) -> None:
        if self.sock is not None:
            _WATCH.get().hold(self.sock)
        super().request(*given, **named)  # type: ignore[misc] # of the connection that it is mixed into

    def _tunnel(self: Any) -> None:
        super()._tunnel()  # type: ignore[misc] # as above
        if _WATCH.get().is_over:  # a proxy's answer seems whole where it was cut off
            raise TimeoutError


class _PlainConnection(_Watched, HTTPConnection):
    pass


class _TlsConnection(_Watched, HTTPSConnection):
    pass


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    """Makes our connections, directly and over proxies."""

    def init_poolmanager(self, *given: Any, **named: Any) -> None:
        super().init_poolmanager(*given, **named)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **named: Any) -> Any:
        if proxy.lower().startswith("socks"):
            raise requests.exceptions.InvalidSchema("a SOCKS proxy: its connections can't be watched")
        manager = super().proxy_manager_for(proxy, **named)
        manager.pool_classes_by_scheme = _POOLS
        return manager


_POOLS: dict[str, Callable[..., urllib3.HTTPConnectionPool]] = {"http": _PlainPool, "https": _TlsPool}


class _Session(requests.Session):
    """A session that adds no credentials and no cookies. The environment still sets proxies and certificates."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = _keep_authorization  # a .netrc must not replace our token
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter())

    def get_redirect_target(self, _response: requests.Response) -> None:
        """Have no redirect looked into: even unasked it would be parsed, and its body read without bound."""


def _keep_authorization(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
