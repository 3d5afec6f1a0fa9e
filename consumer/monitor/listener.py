"""The HTTP listener of the status server: limits connections, threads and time, and checks host names.

It builds on Python's own server. Other servers limit how long a client may be silent, but not the total time.
"""

import base64
import hashlib
import re
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

MOST_CONNECTIONS = 32
"""The maximum number of connections at a time. Each has its own thread."""

_SLOT_WITHIN = 1.0
_NOT_PUBLIC = (".internal", ".local", ".svc")


class Listener(ThreadingHTTPServer):
    """Listens on `host` and `port`, and calls `answer` for each request, on a separate thread.

    A host in brackets is an IPv6 address.

    A connection serves one request, and is dropped after `patience` seconds, even if its client still sends or
    reads. If there are `MOST_CONNECTIONS`, the oldest is dropped for the next one. An honest client needs only
    milliseconds, so probes are answered even while slow clients try to occupy every connection.
    """

    daemon_threads = True
    request_queue_size = 1024  # connections that wait in the kernel until they are accepted

    def __init__(self, host: str, port: int, answer: Callable[["Request"], None], *, patience: float) -> None:
        """Bind and listen. Requests are answered after `start`. Raises OSError."""
        self._patience = patience
        self._lock = threading.Lock()
        self._open: dict[socket.socket, float] = {}  # when each is dropped, oldest first
        self._slots = threading.Semaphore(MOST_CONNECTIONS)
        if host.startswith("["):
            self.address_family = socket.AF_INET6
        super().__init__((host.strip("[]"), port), partial(Request, answer))

    @property
    def url(self) -> str:
        """The URL that it listens on."""
        host, port = map(str, self.server_address[:2])
        return f"http://[{host}]:{port}/" if self.address_family == socket.AF_INET6 else f"http://{host}:{port}/"

    def start(self) -> None:
        """Start to answer requests, on a thread of its own, until `close`."""
        threading.Thread(target=self.serve_forever, name="status-server", daemon=True).start()

    def close(self) -> None:
        """Stop listening, and drop every connection. Blocks until the listener has stopped."""
        self.shutdown()
        self.server_close()
        self._drop_until(float("inf"))

    # The base classes call the methods below.

    def server_bind(self) -> None:
        """Bind the socket."""
        # HTTPServer looks up the host's full name here, which may wait for a name server. We do not need it.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def service_actions(self) -> None:
        """Drop the connections whose time is over. Called at least twice a second."""
        self._drop_until(time.monotonic())

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a connection's thread and its time limit."""
        if not self._slots.acquire(blocking=False):
            self._drop_oldest()
            if not self._slots.acquire(timeout=_SLOT_WITHIN):
                self.shutdown_request(request)
                return
        with self._lock:
            self._open[request] = time.monotonic() + self._patience
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, and make room for another."""
        with self._lock:  # before it is closed: another connection may then get its number
            had_slot = self._open.pop(request, None) is not None
        super().shutdown_request(request)
        if had_slot:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what a request raised."""
        if not isinstance(sys.exception(), OSError):  # a client may go away at any time
            super().handle_error(request, client_address)

    def _drop_until(self, now: float) -> None:
        with self._lock:
            for connection, until in self._open.items():
                if until > now:
                    break
                _cut(connection)

    def _drop_oldest(self) -> None:
        with self._lock:
            for connection in self._open:
                _cut(connection)
                break


def _cut(connection: socket.socket) -> None:
    """Shut a connection down in both directions. Its thread wakes up and closes it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class Request(BaseHTTPRequestHandler):
    """One request, on its own thread. `path` and `headers` come from the client unchecked. `send` answers."""

    server_version, sys_version = "jirafe-consumer", ""

    def __init__(self, answer: Callable[["Request"], None], *arguments: Any) -> None:
        self._answer = answer
        super().__init__(*arguments)  # handles the request

    def do_GET(self) -> None:
        """Answer."""
        try:
            target = urlsplit(self.path)
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        if target.scheme:
            # The target is a whole URL, as for a proxy. Its host counts, not that of the header (RFC 9112, 3.2.2).
            del self.headers["Host"]
            self.headers["Host"] = target.netloc
            self.path = urlunsplit(("", "", target.path or "/", target.query, ""))
        self._answer(self)

    def do_HEAD(self) -> None:
        """Answer; `send` leaves the body out."""
        self.do_GET()

    def send(
        self,
        content_type: str,
        body: bytes,
        headers: Mapping[str, str] = MappingProxyType({}),
        status: HTTPStatus = HTTPStatus.OK,
    ) -> None:
        """Send an answer that must not be cached."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep probes out of the log."""


def content_policy(page: str) -> str:
    """Build a policy that allows a page its own script and style (by hash), requests to its server, no more."""
    allowed = {
        tag: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        )
        for tag in ("script", "style")
    }
    return (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class Names:
    """The host names that requests may use. Any thread may call, and no method blocks.

    A foreign web page can make its own name resolve to our address, and then read our answers in a visitor's
    browser (DNS rebinding). The Host header reveals this, because browsers always send it with the name in the URL.
    A request without the header does not come from a browser. A request with an IP address was really sent to that
    address.
    """

    def __init__(self, listens_at: str) -> None:
        """Accept the name or address that we listen on. Starts a thread that looks up this host's full name."""
        self._own = frozenset({"localhost", listens_at.lower(), socket.gethostname().lower()})
        threading.Thread(target=self._learn, name="own-name", daemon=True).start()

    def _learn(self) -> None:
        self._own |= {socket.getfqdn().lower()}  # may wait for a name server

    def is_ours(self, request: Request) -> bool:
        """Return whether the request names this machine: by IP address, as localhost, or by its own name."""
        return all(name in self._own or _is_address(name) for name in _asked_for(request))

    def is_local(self, request: Request) -> bool:
        """Return whether the request names this machine, or has a name that can't be in the public DNS.

        Services in a cluster or a compose file have such names: `consumer`, `consumer.shop.svc`.
        """
        return self.is_ours(request) or all(
            (bool(name) and "." not in name) or name.endswith(_NOT_PUBLIC) for name in _asked_for(request)
        )


def _asked_for(request: Request) -> list[str]:
    """Return the names in the Host headers, without ports. Usually there is one."""
    return [_without_port(host.strip().lower()) for host in request.headers.get_all("Host", [])]


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
