"""Tells over HTTP whether this member is alive (`/healthz`) and ready (`/readyz`), with the reasons if not."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_STUCK_AFTER = 120.0


@dataclass(frozen=True, slots=True)
class Status:
    """How a member is, as its main loop last said: `turned_at` is when, by the monotonic clock.

    `not_ready` has the reasons why it does not deliver all it is given; empty if it does.
    """

    turned_at: float
    not_ready: tuple[str, ...]


class Health:
    """A small HTTP server at `address` (HOST:PORT), in a thread of its own, which asks `status` at each request."""

    def __init__(self, address: str, status: Callable[[], Status]) -> None:
        """Listen at once; raises OSError."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                now = status()
                if self.path == "/healthz":
                    stuck = time.monotonic() - now.turned_at > _STUCK_AFTER
                    self._answer("stuck" if stuck else "", ("the main loop makes no progress",) if stuck else ())
                elif self.path == "/readyz":
                    self._answer("not ready" if now.not_ready else "", now.not_ready)
                else:
                    self.send_error(HTTPStatus.NOT_FOUND)

            def _answer(self, trouble: str, reasons: tuple[str, ...]) -> None:
                body = json.dumps({"status": trouble or "ok", "reasons": reasons}).encode()
                self.send_response(HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Keep probes out of the log."""

        host, _, port = address.rpartition(":")
        self._server = ThreadingHTTPServer((host, int(port)), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
