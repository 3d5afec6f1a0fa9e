"""The registry's answers at the level of bytes: whatever a server does, a request ends in time, in an outage."""

import contextlib
import gzip
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import RegistryUnavailable, UnknownSchema
from schemas.registry import SchemaRegistry
from schemas.transport import Access
from tests.unit.test_codec import LESS

OK = b"HTTP/1.1 200 OK\r\n"
GOOD = json.dumps({"schema": json.dumps(LESS)}).encode()
SECRET = "s3cret"
TIMEOUT = 0.3


@contextlib.contextmanager
def server(*parts: bytes, drip: bytes = b"", pause: float = 0) -> Iterator[str]:
    """Serve connections, each with these bytes after a pause; then with `drip`, again and again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def serve(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:
                connection.recv(65536)
                time.sleep(pause)
                for part in parts:
                    connection.sendall(part)
                while drip and not over.wait(0.02):
                    connection.sendall(drip)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://ada:{SECRET}@127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def registry(url: str, access: Access | None = None, timeout: float = TIMEOUT) -> SchemaRegistry:
    return SchemaRegistry(url, {"result": "results-value"}, access or Access(), timeout=timeout)


def outage(of: SchemaRegistry) -> str:
    """Have a request end in an outage, in time, and give its sentence."""
    began = time.monotonic()
    with pytest.raises(RegistryUnavailable) as caught:
        of.schema(7)
    assert time.monotonic() - began < 30
    said = str(caught.value)
    assert said.startswith("the schema registry ")
    assert SECRET not in said
    assert said.isprintable()
    return said


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
DRIPS = {
    "nothing": ((), b""),
    "a status line": ((b"HTTP/1.1 200 ",), b"O"),
    "headers": ((OK,), b"X-More: 1\r\n"),
    "a header": ((OK + b"X: ",), b"x"),
    "continue": ((), b"HTTP/1.1 100 Continue\r\n\r\n"),
    "early hints": ((), b"HTTP/1.1 103 Early Hints\r\nX: 1\r\n\r\n"),
    "a body": ((OK + b"Content-Length: 1000000\r\n\r\n{",), b" "),
    "a body without a length": ((OK + b"\r\n{",), b" "),
    "chunks": ((CHUNKED,), b"1\r\n \r\n"),
    "a chunk's extension": ((CHUNKED + b"1;",), b"x"),
    "trailers": ((CHUNKED + b"1\r\n \r\n0\r\n",), b"X: 1\r\n"),
    "a redirect": ((b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 1000000\r\n\r\n",), b"x"),
}


class TestTime:
    @pytest.mark.parametrize("drips", DRIPS)
    def test_a_server_that_drips_is_an_outage_in_time(self, drips: str) -> None:
        parts, drip = DRIPS[drips]
        with server(*parts, drip=drip) if drip else _silent() as url:
            outage(registry(url))

    def test_a_handshake_that_drips_is_one(self) -> None:
        with server(b"\x16\x03\x03\x40\x00", drip=b"\x00") as url:
            said = outage(registry(url.replace("http:", "https:"), timeout=2))
            assert "no whole answer within 2 seconds" in said

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_a_proxy_that_drips_is_one(self, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
        with server(b"HTTP/1.1 200 ", drip=b"O") as proxy:
            monkeypatch.setenv(f"{scheme}_proxy", proxy)
            assert "no whole answer within 0.3 seconds" in outage(registry(f"{scheme}://registry.test"))

    def test_what_a_schema_refers_to_has_no_time_of_its_own(self) -> None:
        references = [{"subject": f"s{at}", "version": 1} for at in range(90)]
        one = json.dumps({"schema": json.dumps(LESS), "references": references}).encode()
        with server(OK + b"Content-Length: %d\r\n\r\n%b" % (len(one), one), pause=0.05) as url:
            outage(registry(url))

    def test_no_thread_and_no_connection_is_left(self) -> None:
        before = threading.active_count()
        with server(OK + b"X: ", drip=b"x") as url:
            for _ in range(5):
                outage(registry(url, timeout=0.05))
            end = time.monotonic() + 30
            while any(each.name == "registry request" for each in threading.enumerate()):
                assert time.monotonic() < end
                time.sleep(0.01)
        assert threading.active_count() <= before + 5


@contextlib.contextmanager
def _silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def bomb(layers: int) -> bytes:
    """Compress 48 megabytes of blanks, some times over."""
    content = b" " * 48 * 1024 * 1024
    for _ in range(layers):
        content = gzip.compress(content, 1)
    return content


class TestSize:
    @pytest.mark.parametrize("layers", [1, 2])
    def test_a_bomb_is_an_outage_and_takes_little_memory(self, layers: int) -> None:
        content = bomb(layers)
        head = OK + b"Content-Encoding: " + b", ".join([b"gzip"] * layers) + b"\r\nContent-Length: %d\r\n\r\n"
        with server(head % len(content), content) as url:
            tracemalloc.start()
            try:
                assert "more than 2097152 bytes" in outage(registry(url, timeout=10))
                assert tracemalloc.get_traced_memory()[1] < 32 * 1024 * 1024
            finally:
                tracemalloc.stop()

    @pytest.mark.parametrize("status", [b"200 OK", b"302 Found", b"500 Odd"])
    @pytest.mark.parametrize("location", [b"", b"Location: http://elsewhere.test/\r\n"])
    def test_an_endless_body_is_an_outage_whatever_the_status(self, status: bytes, location: bytes) -> None:
        with server(b"HTTP/1.1 " + status + b"\r\n" + location + b"\r\n", *[b" " * 1024 * 1024] * 20) as url:
            assert "more than 2097152 bytes" in outage(registry(url, timeout=10))


LOCATIONS = [
    "http://[::1",
    "http://[nonsense]/",
    "//",
    "http://\xff/",
    "https://x:99999999/",
    "javascript:1",
    "http://ä.b/\x1b",
]


class TestAnythingRaisedIsAnOutage:
    @pytest.mark.parametrize("location", LOCATIONS)
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirect_to_anywhere(self, status: int, location: str) -> None:
        head = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")
        with server(head) as url:
            assert f"the schema registry answered {status}" in outage(registry(url))

    def test_a_redirect_is_not_followed_and_names_the_host(self) -> None:
        head = b"HTTP/1.1 301 Moved\r\nLocation: https://u:s3cret@other.test/s3cret\r\nContent-Length: 0\r\n\r\n"
        with server(head) as url:
            said = outage(registry(url))
        assert said == "the schema registry answered 301, and redirects to other.test"

    @pytest.mark.parametrize(
        "proxy", ["http://[", "://", "socks5://127.0.0.1:1", "http://127.0.0.1:99999999", "nonsense", "ftp://x"]
    )
    def test_a_proxy_that_can_not_be_used(self, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
        monkeypatch.setenv("http_proxy", proxy)
        assert "prox" in outage(registry("http://registry.test")).lower()

    @pytest.mark.parametrize("names", [{"ca": Path("/absent/ca.pem")}, {"certificate": Path("/absent/own.pem")}])
    def test_certificates_that_are_gone(self, names: dict[str, Path]) -> None:
        with server(b"") as url:
            assert "certificates can't be read" in outage(registry(url.replace("http:", "https:"), Access(**names)))  # type: ignore[arg-type]

    def test_certificates_of_the_environment_that_are_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/absent/ca.pem")
        assert "certificates can't be read" in outage(registry("https://127.0.0.1:1"))

    def test_certificates_that_are_none(self, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_bytes(b"\xff\xfe not PEM")
        outage(registry("https://127.0.0.1:1", Access(ca=tmp_path / "ca.pem")))

    @pytest.mark.parametrize(
        "url", ["http://", "http://[", "nonsense", "http://a b/", "http://\x00/", "http://127.0.0.1:0"]
    )
    def test_an_address_that_is_none(self, url: str) -> None:
        outage(registry(url))

    @given(
        st.lists(
            st.binary(max_size=30)
            | st.sampled_from([OK, b"\r\n", b"Content-Length: ", b"-1", CHUNKED, GOOD, b"HTTP/1.1 "])
        )
    )
    def test_any_bytes(self, parts: list[bytes]) -> None:
        with server(*parts) as url, contextlib.suppress(RegistryUnavailable, UnknownSchema):
            registry(url).schema(7)


def test_a_good_answer_is_read_in_chunks_and_compressed() -> None:
    chunked = CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD)
    with server(chunked) as url:
        assert registry(url, timeout=5).schema(7) == [LESS]
    packed = gzip.compress(GOOD)
    with server(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed), packed) as url:
        assert registry(url, timeout=5).schema(7) == [LESS]
