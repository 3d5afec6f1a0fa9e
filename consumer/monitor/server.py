"""The HTTP side of a member: `/` for people, `/metrics` for Prometheus, `/healthz` and `/readyz` for probes."""

import json
import threading
import time
from http import HTTPStatus
from importlib.resources import files

from prometheus_client.exposition import choose_encoder

from consumer.monitor.history import STEP, History, Reading
from consumer.monitor.listener import Listener, Names, Request, content_policy
from consumer.monitor.monitor import Monitor
from consumer.monitor.report import STUCK_AFTER, About, Seen, is_stuck, report
from consumer.monitor.status import MemberStatus

STUCK = f"the main loop has not reported for over {STUCK_AFTER:.0f} s; restart this member. No records are lost"

PATIENCE = 10.0
"""The time limit of a connection, in seconds. A connection that takes longer is dropped."""

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_OPENMETRICS = "application/openmetrics-text"
_FOR_MACHINES = ("/metrics", "/healthz", "/readyz")
_MISDIRECTED = (
    b"This member does not accept the name in the Host header. Use its IP address, localhost, or the name of its "
    b"machine. A proxy must set Host to one of these.\n"
)


class StatusServer:
    """An HTTP server at `address` (HOST:PORT), on its own threads. It reads the state of `monitor` at each request.

    It is read-only, and its answers have no secrets. But the page and its document say why messages failed, and may
    quote customers' data. So they are served only to requests that name this machine: by an IP address, as
    localhost, by the machine's own name, or by the name in `address`.

    Metrics and probes have only counts, and what the member waits for. They are also served to requests with a name
    that can't be in the public DNS, such as a service's name in a cluster. No foreign web page can have such a
    name, and monitoring works without a setting.
    """

    def __init__(self, address: str, about: About, monitor: Monitor) -> None:
        """Start to listen and answer. Raises OSError."""
        host, _, port = address.rpartition(":")
        self._about = about
        self._monitor = monitor
        self._page = (files("consumer.monitor") / "page.html").read_bytes()
        self._policy = content_policy(self._page.decode())
        self._history = History(self._read)
        self._closed = threading.Event()
        self._listener = Listener(host, int(port), self._answer, patience=PATIENCE)
        self._names = Names(host)
        self._listener.start()
        threading.Thread(target=self._keep_history, name="history", daemon=True).start()

    @property
    def url(self) -> str:
        """The URL that it listens on."""
        return self._listener.url

    def close(self) -> None:
        """Stop listening. Blocks until the server has stopped."""
        self._closed.set()
        self._listener.close()

    def _answer(self, request: Request) -> None:
        """Answer one request, on its thread."""
        path = request.path.partition("?")[0]
        if not (self._names.is_local(request) if path in _FOR_MACHINES else self._names.is_ours(request)):
            request.send(_TEXT, _MISDIRECTED, status=HTTPStatus.MISDIRECTED_REQUEST)
            return
        now = time.monotonic()
        status = self._monitor.status.as_of(now)
        match path:
            case "/":
                request.send("text/html; charset=utf-8", self._page, {"Content-Security-Policy": self._policy})
            case "/status.json":
                request.send(_JSON, json.dumps(self._report(now, status)).encode())
            case "/metrics":
                # Other texts in this header have made the encoder raise. Both formats have the same content.
                accepted = request.headers.get("Accept", "")
                encode, content_type = choose_encoder(_OPENMETRICS if _OPENMETRICS in accepted else "")
                request.send(content_type, encode(self._monitor.metrics.registry))
            case "/healthz":
                stuck = is_stuck(status, now)
                _tell(request, "stuck" if stuck else None, (STUCK,) if stuck else ())
            case "/readyz":
                _tell(request, "not ready" if status.not_ready else None, status.not_ready)
            case _:
                request.send_error(HTTPStatus.NOT_FOUND)

    def _report(self, now: float, status: MemberStatus) -> dict[str, object]:
        seen = Seen(
            now,
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


def _tell(request: Request, trouble: str | None, reasons: tuple[str, ...]) -> None:
    """Answer a probe."""
    body = json.dumps({"status": trouble or "ok", "reasons": reasons}).encode()
    request.send(_JSON, body, status=HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK)
