"""A stand-in for the API that accepts every event and checks none, so that it costs little.

`python -m bench.sink PORT SECONDS` answers each request SECONDS after it came. GET gives the number of events that
it accepted.
"""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson


class Sink(ThreadingHTTPServer):
    """The server; it answers each request after `latency` seconds."""

    def __init__(self, port: int, latency: float) -> None:
        super().__init__(("127.0.0.1", port), _Exchange)
        self.latency = latency
        self.taken = 0

    def handle_error(self, *_: object) -> None:
        """Print nothing: members are killed while they wait for an answer."""


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Sink

    def do_POST(self) -> None:
        begun = time.monotonic()
        batch = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.taken += sum(map(len, batch.values()))
        answer = orjson.dumps({array: [{"success": True}] * len(events) for array, events in batch.items()})
        time.sleep(max(0.0, begun + self.server.latency - time.monotonic()))
        self._answer(answer)

    def do_GET(self) -> None:
        self._answer(orjson.dumps(self.server.taken))

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
        """Log nothing."""


if __name__ == "__main__":
    Sink(int(sys.argv[1]), float(sys.argv[2])).serve_forever()
