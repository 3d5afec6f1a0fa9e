"""Requests to servers that never stop sending, and requests that can't be made at all."""

import contextlib
import gc
import gzip
import os
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from http import cookiejar
from pathlib import Path
from typing import NoReturn

import pytest
import trustme

from tests.rawserver import answering
from transport import http
from transport.http import Reply, Transport, Unanswered

# A connection that is shut down just before its TLS handshake is left to be freed, and not closed, by urllib3.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed <ssl.SSLSocket:ResourceWarning",
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning",
)

TIMEOUT = 0.2
LONGEST = 1_000_000
LATE = f"no complete answer within {TIMEOUT:g} seconds"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def asked(subject: Transport, url: str, body: bytes = b"{}", *, timeout: float = 10, close: bool = False) -> Reply:
    headers = {"Connection": "close"} if close else {}
    return subject.request("POST", url, headers, body, longest=LONGEST, timeout=timeout)


def failed(url: str, body: bytes = b"{}", subject: Transport | None = None, timeout: float = 30) -> Unanswered:
    with pytest.raises(Unanswered) as error:
        asked(subject or Transport(), url, body, timeout=timeout)
    assert error.value.message.isprintable()
    return error.value


def late(url: str, body: bytes = b"{}", subject: Transport | None = None) -> Unanswered:
    return failed(url, body, subject, TIMEOUT)


@contextlib.contextmanager
def unconnectable() -> Iterator[int]:
    """Give a port of this host to which no connection comes about, however long one waits."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        while True:  # until its queue is full, and whoever comes gets no answer
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0.2)
            try:
                waiting.connect(listener.getsockname())
            except TimeoutError:
                break
        yield listener.getsockname()[1]


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    return context


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HANDSHAKE = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc"  # the head of a server's first message, of 16 kB
STAGES = {
    "status line": (b"HTTP/1.1 200 O", b"K"),
    "header": (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "nothing": (b"", b""),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "100 Continue's headers": (b"HTTP/1.1 100 Continue\r\n", b"X: y\r\n"),
    "redirect's body": (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", b"x"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n", b"x"),
    "body without a length": (b"HTTP/1.0 200 OK\r\n\r\n", b"x"),
    "body of a connection that is to be closed": (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"x"),
    "compressed body": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10],
        b"\x00\x00\x00\xff\xff",  # a block without content
    ),
    "chunks": (CHUNKED, b"1\r\nx\r\n"),
    "chunk": (CHUNKED + b"ffff\r\n", b"x"),
    "chunk's extension": (CHUNKED + b"1;name=", b"x"),
    "trailer": (CHUNKED + b"1\r\nx\r\n0\r\nX-Long: ", b"x"),
    "trailers": (CHUNKED + b"1\r\nx\r\n0\r\n", b"X: y\r\n"),
}


class TestTimeLimit:
    """No stage of a request exceeds the time limit. The servers here never stop sending."""

    @pytest.mark.parametrize("stage", STAGES)
    def test_of_an_answer(self, stage: str) -> None:
        begin, drip = STAGES[stage]
        with answering(begin, drip=drip) as url:
            error = late(url)
        assert (error.cause, error.message) == ("timeout", LATE)

    @pytest.mark.parametrize("stage", STAGES)
    def test_of_an_answer_over_tls(self, stage: str, authority: ssl.SSLContext) -> None:
        begin, drip = STAGES[stage]
        with answering(begin, drip=drip, tls=authority) as url:
            error = late(url)
        assert (error.cause, error.message) == ("timeout", LATE)

    @pytest.mark.parametrize("stage", [*STAGES][:3])
    def test_of_a_later_answer_on_the_same_connection(self, stage: str) -> None:
        begin, drip = STAGES[stage]
        subject = Transport()
        with answering(OK, begin, drip=drip) as url:
            assert asked(subject, url).content == b"{}"
            error = late(url, subject=subject)
        assert (error.cause, error.message) == ("timeout", LATE)

    @pytest.mark.parametrize("drip", [b"", b"\x00"])
    def test_of_the_tls_handshake(self, drip: bytes) -> None:
        with answering(HANDSHAKE, drip=drip) as url:
            assert late(url.replace("http:", "https:")).cause == "timeout"

    @pytest.mark.parametrize("scheme", ["http", "https"])
    @pytest.mark.parametrize(("begin", "drip"), [(b"", b""), *list(STAGES.values())[:3]])
    def test_of_a_proxy(self, begin: bytes, drip: bytes, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with answering(begin, drip=drip) as url:
            monkeypatch.setenv(f"{scheme}_proxy", url.removesuffix("/v2"))
            monkeypatch.delenv("NO_PROXY", raising=False)
            monkeypatch.delenv("no_proxy", raising=False)
            error = late(f"{scheme}://api.example")
        assert (error.cause, error.message) == ("timeout", LATE)

    def test_of_the_tls_handshake_behind_a_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with answering(b"HTTP/1.1 200 OK\r\n\r\n", HANDSHAKE, drip=b"\x00") as url:
            monkeypatch.setenv("HTTPS_PROXY", url.removesuffix("/v2"))
            monkeypatch.delenv("NO_PROXY", raising=False)
            monkeypatch.delenv("no_proxy", raising=False)
            assert late("https://api.example").cause == "timeout"

    @pytest.mark.parametrize("is_tls", [False, True])
    def test_of_sending(self, is_tls: bool, authority: ssl.SSLContext) -> None:  # noqa: FBT001 - a case
        with answering(drip=b"", tls=authority if is_tls else None) as url:
            error = late(url, bytes(20_000_000))
        assert (error.cause, error.message) == ("timeout", LATE)

    def test_of_the_dns_lookup(self, monkeypatch: pytest.MonkeyPatch) -> None:
        over = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(30) and [])
        began = time.monotonic()
        error = late("http://api.example")
        over.set()
        assert (error.cause, error.message) == ("timeout", LATE)
        assert time.monotonic() - began < 20

    def test_of_connecting_to_all_addresses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with unconnectable() as port:
            address = socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)[0]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [address] * 100_000)
            error = late(f"http://127.0.0.1:{port}")
        assert (error.cause, error.message) == ("timeout", LATE)

    @pytest.mark.parametrize("timeout", [0, -1])
    def test_that_has_already_passed(self, timeout: float) -> None:
        with answering(OK) as url:
            error = failed(url, timeout=timeout)
        assert (error.cause, error.message) == ("timeout", f"no complete answer within {timeout} seconds")

    def test_ends_only_late_requests(self) -> None:
        subject = Transport()
        quick: list[Reply] = []
        with answering(*[OK] * 200) as url, answering() as slow:
            threads = [
                threading.Thread(target=lambda: failed(slow, subject=subject, timeout=1.0)) for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads) and len(quick) < 200:
                quick.append(asked(subject, url))
            for thread in threads:
                thread.join()
        assert [reply.content for reply in quick] == [b"{}"] * len(quick)
        assert quick

    def test_that_is_shorter_than_the_previous_one(self) -> None:
        subject = Transport()
        # Drips: the sockets' own timeout would not end it.
        with answering(OK) as url, answering(b"HTTP/1.1 200 O") as slow:
            asked(subject, url, timeout=60)
            began = time.monotonic()
            error = late(slow, subject=subject)
        assert (error.cause, error.message) == ("timeout", LATE)
        assert time.monotonic() - began < 30


class TestConnecting:
    def test_has_its_own_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http, "CONNECT_TIMEOUT", 0.05)
        with unconnectable() as port:
            error = failed(f"http://127.0.0.1:{port}")
        assert (error.cause, error.message) == ("timeout", "no connection within 0.05 seconds")

    def test_goes_on_to_the_next_address(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http, "CONNECT_TIMEOUT", 0.05)
        with unconnectable() as port, answering(OK) as url:
            good = int(url.removesuffix("/v2").rpartition(":")[2])
            addresses = [socket.getaddrinfo("127.0.0.1", each, type=socket.SOCK_STREAM)[0] for each in (port, good)]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
            assert asked(Transport(), "http://api.example").content == b"{}"

    def test_an_address_that_the_system_has_no_sockets_for_is_skipped(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with answering(OK) as url:
            port = int(url.removesuffix("/v2").rpartition(":")[2])
            good = socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)[0]
            no_such_family = (99, *good[1:])
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [no_such_family, good])
            assert asked(Transport(), url).content == b"{}"

    def test_is_done_again_if_the_connection_was_idle_for_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A firewall may have forgotten it: then nothing answers there, and nothing says so."""
        monkeypatch.setattr(http, "LONGEST_IDLE", 0.1, raising=False)
        kept: list[socket.socket] = []

        def serve() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                kept.append(connection)
                connection.recv(65_536)
                connection.sendall(OK)

        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=serve, daemon=True).start()
            subject, url = Transport(), f"http://127.0.0.1:{listener.getsockname()[1]}"
            assert asked(subject, url).content == b"{}"
            time.sleep(0.2)
            assert asked(subject, url, timeout=5).content == b"{}"
        for each in kept:
            each.close()

    @pytest.mark.parametrize("close", [False, True])
    def test_ends_after_one_request_if_asked(self, close: bool) -> None:  # noqa: FBT001 - a case
        left: list[bytes] = []

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(0.5)
                connection.recv(65_536)
                connection.sendall(OK)  # and keeps the connection, whatever it was told
                with contextlib.suppress(TimeoutError):
                    left.append(connection.recv(65_536))

        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=serve)
            thread.start()
            subject = Transport()
            asked(subject, f"http://127.0.0.1:{listener.getsockname()[1]}", b"", close=close)
            thread.join()
        assert left == ([b""] if close else [])


def test_requests_leave_no_threads_or_open_files() -> None:
    others = {*threading.enumerate()}
    subject = Transport()
    with answering(*[OK] * 20) as url:
        asked(subject, url, timeout=1)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(18):
            asked(subject, url, timeout=1)
        assert len(os.listdir("/proc/self/fd")) == before
        until = time.monotonic() + 10
        ours = {"request deadlines", "name look-up"}
        while ours & {thread.name for thread in {*threading.enumerate()} - others}:
            assert time.monotonic() < until
            time.sleep(0.01)
    with answering(b"HTTP/1.1 200 O") as url:  # a later request is watched again
        assert late(url, subject=subject).cause == "timeout"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 2zz No\r\n\r\n", STAGES["body"][0], None])
def test_a_failed_connection_is_freed_without_the_garbage_collector(answer: bytes | None) -> None:
    def connections() -> int:
        return sum(isinstance(each, http._Watched) for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = connections()
        with answering(answer or b"") as url:
            late(url if answer else "http://a..b")
        assert connections() == before
    finally:
        gc.enable()


class TestSizes:
    @pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK", b"HTTP/1.1 302 Found\r\nLocation: /", b"HTTP/1.1 503 No"])
    @pytest.mark.parametrize("coding", [1, 2])
    def test_a_compression_bomb_is_refused_with_little_memory(self, head: bytes, coding: int) -> None:
        bomb = bytes(48 * 1024 * 1024)
        for _ in range(coding):
            bomb = gzip.compress(bomb, 1)
        coded = b", ".join([b"gzip"] * coding)
        with answering(
            b"%b\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b" % (head, coded, len(bomb), bomb)
        ) as url:
            tracemalloc.start()
            try:
                error = failed(url)
                assert tracemalloc.get_traced_memory()[1] < 16 * 1024 * 1024
            finally:
                tracemalloc.stop()
        assert (error.cause, error.message) == ("unreadable", "the answer has more than 1000000 bytes")

    @pytest.mark.parametrize("status", [b"200 OK", b"302 Found", b"500 Odd"])
    @pytest.mark.parametrize("location", [b"", b"Location: http://elsewhere.test/\r\n"])
    def test_an_endless_body_is_refused(self, status: bytes, location: bytes) -> None:
        with answering(b"HTTP/1.1 " + status + b"\r\n" + location + b"\r\n", drip=b" " * 1_000_000) as url:
            error = failed(url)
        assert (error.cause, error.message) == ("unreadable", "the answer has more than 1000000 bytes")

    def test_a_body_of_the_maximum_size_is_read(self) -> None:
        packed = gzip.compress(bytes(LONGEST))
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
        with answering(head + packed) as url:
            assert asked(Transport(), url).content == bytes(LONGEST)

    def test_headers_are_bounded(self) -> None:
        with answering(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000) as url:
            assert failed(url).cause == "connection"


class TestSurroundings:
    """Whatever prevents a request is a connection failure, whatever the class of its exception."""

    @pytest.fixture(autouse=True)
    def no_exceptions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("NO_PROXY", "no_proxy", "https_proxy", "http_proxy"):
            monkeypatch.delenv(name, raising=False)

    @pytest.mark.parametrize(
        "proxy",
        [
            "http://[::1",
            "http://",
            "://",
            "http://pass:word@:80",
            "http://host:port",
            "http://host:99999999",
            "ftp://127.0.0.1:1",
            "socks5://127.0.0.1:1",
            "http://\udcff",
            "http://" + "h" * 300,
            "http://a..b",
            "http://*.example",
            "http://word@127.0.0.1:1",
            "http://[",
            "nonsense",
            "ftp://x",
        ],
    )
    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_an_unusable_proxy(self, proxy: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy)
        error = failed(f"{scheme}://127.0.0.1:1")
        assert error.cause == "connection"
        assert "word" not in error.message
        assert "through the proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names" in error.message

    def test_a_proxy_that_makes_no_connection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with answering(b"HTTP/1.1 407 Not with word\r\n\r\n", drip=b"") as url:
            monkeypatch.setenv("HTTPS_PROXY", url.removesuffix("/v2"))
            error = failed("https://api.example", timeout=10)
        assert error.cause == "connection"
        assert error.message.endswith("names (ProxyError: it answered 407)")
        assert "word" not in error.message

    @pytest.mark.parametrize("proxy", ["socks4://127.0.0.1:1", "SOCKS5h://127.0.0.1:1"])
    def test_a_socks_proxy(self, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ALL_PROXY", proxy)
        assert failed("https://127.0.0.1:1").message == (
            "can't send requests through the proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names: "
            "SOCKS is not supported"
        )

    @pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_missing_certificates_of_the_environment(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        monkeypatch.setenv(name, str(tmp_path / "gone.pem"))
        error = failed("https://127.0.0.1:1")
        assert error.cause == "connection"
        assert error.message.startswith(
            "the CA certificates can't be read; see REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE"
        )

    @pytest.mark.parametrize("name", ["ca", "certificate"])
    def test_missing_certificates_of_the_settings(self, name: str, tmp_path: Path) -> None:
        subject = Transport(**{name: tmp_path / "gone.pem"})
        error = failed("https://127.0.0.1:1", subject=subject)
        assert (error.cause, error.message) == ("connection", "the certificates can't be read (OSError)")

    def test_an_invalid_ca_file_of_the_settings(self, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_bytes(b"\xff\xfe not PEM")
        with answering() as url:
            subject = Transport(ca=tmp_path / "ca.pem")
            assert failed(url.replace("http:", "https:"), subject=subject).cause == "connection"

    @pytest.mark.parametrize(
        "url",
        ["http://", "http://[", "nonsense", "http://a b/", "http://\x00/", "http://127.0.0.1:0", "http://a..b"],
    )
    def test_an_invalid_address(self, url: str) -> None:
        assert failed(url).cause == "connection"

    def test_a_thread_that_cannot_be_started(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def start(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with answering(OK) as url:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", start)
                error = failed(url)
            assert error.cause == "connection"
            assert error.message == "the request's time limit can't be enforced (can't start new thread)"
            subject = Transport()
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", start)
                failed(url, subject=subject)
            assert asked(subject, url).content == b"{}", "it works once there are threads again"

    def test_an_exception_that_the_caller_handles_is_not_reported_as_the_cause(self) -> None:
        with socket.socket() as taken:  # not listening: it refuses
            taken.bind(("127.0.0.1", 0))
            late: Future[None] = Future()
            try:
                late.result(timeout=0)
            except TimeoutError:
                error = failed(f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert error.cause == "connection"
        assert "Connection refused" in error.message

    def test_an_invalid_ca_file_of_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "ca.pem").write_text("none\n")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        with answering() as url:
            assert failed(url.replace("http:", "https:")).cause == "connection"

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"HTTP",
            b"\x00\xff\n\n",
            b"HTTP/1.1 abc OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1,2\r\n\r\nxx",
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nnone",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ],
    )
    def test_answers_that_are_not_http(self, answer: bytes) -> None:
        with answering(answer, drip=b"") as url:
            assert late(url).cause in {"connection", "timeout"}

    @pytest.mark.parametrize("status", [101, 102, 103, 199])
    def test_an_informational_status_is_unreadable(self, status: int) -> None:
        # A client that takes it for the answer takes the real answer for that of the next request.
        subject = Transport()
        with answering(b"HTTP/1.1 %d Early\r\n\r\n" % status, OK) as url:
            error = failed(url, subject=subject)
        assert (error.cause, error.message) == (
            "unreadable",
            f"the answer's status is {status}, which is not final",
        )

    def test_headers_that_are_not_ascii(self) -> None:
        headers = (
            b"Location: \xff\xfe\r\nSet-Cookie: \xff=\xff; Domain=.; Expires=never\r\nContent-Length: 0\r\n\r\n"
        )
        with answering(b"HTTP/1.1 302 \xff\r\n" + headers) as url:
            assert asked(Transport(), url).status == 302

    def test_cookies_are_neither_read_nor_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def read(*_: object) -> NoReturn:
            pytest.fail("it takes long to read many")

        monkeypatch.setattr(cookiejar, "parse_ns_headers", read)
        subject = Transport()
        with answering(OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n"), OK) as url:
            assert asked(subject, url).status == 200
            assert not subject._session().cookies
