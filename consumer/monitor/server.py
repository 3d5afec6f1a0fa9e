"""The HTTP side of a member: `/` for people, `/metrics` for Prometheus, `/healthz` and `/readyz` for probes."""

import base64
import hashlib
import json
import re
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from prometheus_client.exposition import choose_encoder

from consumer.monitor.history import STEP, History, Reading
from consumer.monitor.monitor import Monitor
from consumer.monitor.report import About, Seen, is_stuck, report
from consumer.monitor.status import MemberStatus

_PATIENCE = 10.0
_JSON = "application/json"


class StatusServer:
    """An HTTP server at `address` (HOST:PORT), in threads of its own. It reads what `monitor` has at each request.

    It is read-only: nothing can be changed through it, and no secret is in its answers.
    """

    def __init__(self, address: str, about: About, monitor: Monitor) -> None:
        """Listen at once; raises OSError."""
        host, _, port = address.rpartition(":")
        self._about = about
        self._monitor = monitor
        self._page = (files("consumer.monitor") / "page.html").read_bytes()
        self._policy = _content_policy(self._page.decode())
        self._history = History(self._read)
        self._closed = threading.Event()
        self._server = _Server((host, int(port)), partial(_RequestHandler, self._answer))
        threading.Thread(target=self._server.serve_forever, name="status-server", daemon=True).start()
        threading.Thread(target=self._keep_history, name="history", daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/"

    def close(self) -> None:
        """Stop listening; waits until the server has stopped."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: "_RequestHandler") -> None:
        """Answer one request, on its thread."""
        status = self._monitor.status
        match request.path.partition("?")[0]:
            case "/":
                request.send("text/html; charset=utf-8", self._page, {"Content-Security-Policy": self._policy})
            case "/status.json":
                request.send(_JSON, json.dumps(self._report(status)).encode())
            case "/metrics":
                encode, content_type = choose_encoder(request.headers.get("Accept", ""))
                request.send(content_type, encode(self._monitor.metrics.registry))
            case "/healthz":
                stuck = is_stuck(status, time.monotonic())
                request.tell("stuck" if stuck else None, ("the main loop makes no progress",) if stuck else ())
            case "/readyz":
                request.tell("not ready" if status.not_ready else None, status.not_ready)
            case _:
                request.send_error(HTTPStatus.NOT_FOUND)

    def _report(self, status: MemberStatus) -> dict[str, object]:
        seen = Seen(
            time.monotonic(),
            time.time_ns() // 1_000_000,
            status,
            self._monitor.metrics.totals(),
            self._monitor.failures.last,
            self._history.points,
        )
        return report(self._about, seen)

    def _read(self) -> Reading:
        lags = [lane.lag for lane in self._monitor.status.lanes if lane.lag is not None]
        return Reading(time.monotonic(), self._monitor.metrics.totals(), sum(lags) if lags else None)

    def _keep_history(self) -> None:
        while not self._closed.wait(STEP):
            self._history.take()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32

    def server_bind(self) -> None:
        # The class above asks for the host's full name, which may wait for a name server. We do not need it.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client may go away at any time
            super().handle_error(request, client_address)


class _RequestHandler(BaseHTTPRequestHandler):
    timeout = _PATIENCE
    server_version, sys_version = "jirafe-consumer", ""

    def __init__(self, answer: Callable[["_RequestHandler"], None], *arguments: Any) -> None:
        self._answer = answer
        super().__init__(*arguments)  # handles the request

    def do_GET(self) -> None:
        self._answer(self)

    def do_HEAD(self) -> None:
        self._answer(self)  # `send` leaves the body out

    def tell(self, trouble: str | None, reasons: tuple[str, ...]) -> None:
        """Answer a probe."""
        body = json.dumps({"status": trouble or "ok", "reasons": reasons}).encode()
        self.send(_JSON, body, status=HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK)

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


def _content_policy(page: str) -> str:
    """Allow the page its own script and style, by their hashes, and requests to this server; nothing else."""
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
