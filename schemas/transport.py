"""One HTTP request to the registry and its whole answer, bounded in time and size, whatever the server does.

The sockets' own timeouts limit a single read, and a server that sends a byte now and then never meets one. So a
request runs on a separate thread, and when its time is over its connection is shut down. Then whatever waits
on it ends: a proxy's CONNECT, the TLS handshake, headers, the body. Requests are few: each has a new connection.
"""

import queue
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, NamedTuple

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from requests.utils import get_environ_proxies, select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection

LARGEST_ANSWER = 2 * 1024 * 1024
"""Bytes that an answer may have, decompressed too. A registry keeps a schema in one record of Kafka."""

_READ_AT_ONCE = 8192


class Unanswered(Exception):
    """There is no whole answer; the sentence says why, without the address, which may hold a password."""


class Reply(NamedTuple):
    """A whole answer; `content` is its body, decompressed."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Access:
    """How a registry is known, and how it knows us; the password shows in no text of it.

    `ca` has the certificates that the registry's own is checked by, None: the usual ones. `certificate` is ours,
    with `key` or with its key in the same file.
    """

    user: str = ""
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class Transport:
    """Makes requests; safe to share between threads. Redirects are not followed, and no cookies kept."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, timeout: float
    ) -> Reply:
        """Make one request and read its whole answer; raises Unanswered, and nothing else.

        Blocks up to the timeout, in seconds, which is for all: from the look-up of the host's name to the answer's
        last byte.
        """
        line = _Line()
        answers: queue.Queue[Reply | Exception] = queue.Queue()

        def make() -> None:
            _LINE.set(line)
            try:
                answers.put(self._exchanged(method, url, headers, body, timeout))
            except Exception as error:  # noqa: BLE001 - what a server, a proxy or a setting may cause has no end
                answers.put(error)

        threading.Thread(target=make, name="registry request", daemon=True).start()
        try:
            answer = answers.get(timeout=timeout)
        except queue.Empty:
            raise Unanswered(f"no whole answer within {timeout:.3g} seconds") from None
        finally:
            line.cut()
        if isinstance(answer, Exception):
            raise Unanswered(_said(answer, url))
        return answer

    def _exchanged(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Reply:
        access = self._access
        with _Session() as session:
            if access.password is not None:
                # As text they would have to be Latin-1.
                session.auth = HTTPBasicAuth(access.user.encode(), access.password.encode())
            if access.certificate:
                session.cert = (str(access.certificate), str(access.key or access.certificate))
            with session.request(
                method,
                url,
                data=body,
                headers=headers,
                # Not left to the session: there the environment's would go before it.
                verify=str(access.ca) if access.ca else None,
                timeout=(timeout, None),  # of reads there is no other end than the line's
                allow_redirects=False,
                stream=True,
            ) as response:
                content = bytearray()
                for part in response.iter_content(_READ_AT_ONCE):
                    content += part
                    if len(content) > LARGEST_ANSWER:
                        raise Unanswered(f"its answer has more than {LARGEST_ANSWER} bytes")
                return Reply(response.status_code, response.headers, bytes(content))


class _Line:
    """The connection of one request. It is cut when the request is over, in whatever state it is then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: list[socket.socket] = []
        self._is_cut = False

    def hold(self, connection: socket.socket) -> None:
        """Note a connection; raises OSError once the line is cut. A copy is held: TLS takes the original apart."""
        with self._lock:
            if self._is_cut:
                raise OSError("the request is over")
            self._held.append(connection.dup())

    def cut(self) -> None:
        """Shut down what is held, and let nothing more be connected."""
        with self._lock:
            self._is_cut = True
            for held in self._held:
                with suppress(OSError), held:
                    held.shutdown(socket.SHUT_RDWR)


_LINE: ContextVar[_Line] = ContextVar("_LINE")


class _Held:
    """What our connections have in common: they can be cut from the moment when they are there."""

    def _new_conn(self: Any) -> socket.socket:
        connection: socket.socket = super()._new_conn()  # type: ignore[misc] # of what it is mixed into
        try:
            _LINE.get().hold(connection)
        except OSError:
            connection.close()
            raise
        return connection


class _PlainConnection(_Held, HTTPConnection):
    pass


class _TlsConnection(_Held, HTTPSConnection):
    pass


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


_POOLS = {"http": _PlainPool, "https": _TlsPool}


class _Adapter(HTTPAdapter):
    """Makes our connections, directly and over proxies."""

    def init_poolmanager(self, *given: Any, **named: Any) -> None:
        super().init_poolmanager(*given, **named)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **named: Any) -> Any:
        if proxy.lower().startswith("socks"):
            raise Unanswered("a SOCKS proxy is set, and its connections can't be watched")
        manager = super().proxy_manager_for(proxy, **named)
        manager.pool_classes_by_scheme = _POOLS
        return manager


class _Session(requests.Session):
    """A session that adds no credentials and no cookies. The environment still sets proxies and certificates."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = _as_it_is  # a .netrc must not replace our credentials
        self.headers["Accept-Encoding"] = "identity"
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter())

    def get_redirect_target(self, _response: requests.Response) -> None:
        """Have no redirect looked into: even unasked it would be parsed, and its body read without bound."""


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _said(error: Exception, url: str) -> str:
    """Word what stood in the way by its class and the system's word, not by its text, which has the address."""
    if isinstance(error, Unanswered):
        return str(error)
    bottom: BaseException = error
    while deeper := bottom.__cause__ or bottom.__context__:
        bottom = deeper
    system = bottom.strerror if isinstance(bottom, OSError) else None
    reason = f"{type(error).__name__} ({system})" if system else type(error).__name__
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        return f"certificates can't be read: {reason}"
    return f"{reason}, over the proxy that the environment sets" if _has_proxy(url) else reason


def _has_proxy(url: str) -> bool:
    try:
        return bool(select_proxy(url, get_environ_proxies(url)))
    except ValueError:
        return True  # one that can't be read
