"""The registry's answers as bytes: whatever a server does, a look-up ends in time, as an outage."""

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import RegistryUnavailable, UnknownSchema
from schemas.registry import Access, SchemaRegistry
from tests.rawserver import answering
from tests.unit.test_codec import LESS

OK = b"HTTP/1.1 200 OK\r\n"
GOOD = json.dumps({"schema": json.dumps(LESS)}).encode()
SECRET = "s3cret"
TIMEOUT = 0.3
"""Seconds that a look-up gets if the test wants it to take too long. Others get more than a busy machine needs."""


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


def registry(url: str, timeout: float = 30) -> SchemaRegistry:
    return SchemaRegistry(url, {"result": "results-value"}, Access("ada", SECRET), timeout=timeout)


def outage(of: SchemaRegistry) -> str:
    """Have a look-up end in an outage, in time, and give its sentence."""
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


class TestTime:
    def test_a_slow_server_is_an_outage_after_the_time_limit(self) -> None:
        with server(OK, drip=b"X-More: 1\r\n") as url:
            said = outage(registry(url, TIMEOUT))
        assert said == "the schema registry did not answer: no complete answer within 0.3 seconds"

    def test_references_of_a_schema_share_its_time_limit(self) -> None:
        references = [{"name": f"n{at}", "subject": f"s{at}", "version": 1} for at in range(90)]
        one = json.dumps({"schema": json.dumps(LESS), "references": references}).encode()
        with server(OK + b"Content-Length: %d\r\n\r\n%b" % (len(one), one), pause=0.05) as url:
            assert "no complete answer within 0" in outage(registry(url, TIMEOUT))


def test_an_answer_may_have_two_mebibytes_and_no_more() -> None:
    most = 2 * 1024 * 1024
    largest = GOOD + b" " * (most - len(GOOD))
    for answer in (largest, largest + b" "):
        packed = gzip.compress(answer, 1)
        head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
        with server(head, packed) as url:
            if answer is largest:
                assert registry(url).schema(7) == [LESS]
            else:
                said = outage(registry(url))
                assert said == f"the schema registry did not answer: the answer has more than {most} bytes"


@pytest.mark.parametrize("value", [b"[]", b'""'])
def test_an_answer_of_many_values_is_an_outage(value: bytes) -> None:
    body = b'{"schema": [%b]}' % b",".join([value] * 200_002)
    with server(OK + b"Content-Length: %d\r\n\r\n" % len(body), body) as url:
        said = outage(registry(url))
    assert said == "the schema registry did not answer: the answer has more than 200000 values"


def test_each_request_has_its_own_connection() -> None:
    good = OK + b"Content-Length: %d\r\n\r\n%b" % (len(GOOD), GOOD)
    with answering(good, good) as url:  # it serves one connection alone
        subject = registry(url, timeout=3)
        assert subject.schema(7) == [LESS]
        assert "no complete answer" in outage(subject)


LOCATIONS = [
    "http://[::1",
    "http://[nonsense]/",
    "//",
    "http://\xff/",
    "https://x:99999999/",
    "javascript:1",
    "http://ä.b/\x1b",
]


class TestAnythingElseIsAnOutage:
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

    @pytest.mark.parametrize("url", [f"http://ada:{SECRET}@[", f"{SECRET}://x", f"http://ada:{SECRET}@127.0.0.1:0"])
    def test_an_invalid_address(self, url: str) -> None:
        outage(registry(url))

    @pytest.mark.parametrize("proxy", [f"http://ada:{SECRET}@[", f"socks5://ada:{SECRET}@127.0.0.1:1"])
    def test_an_unusable_proxy(self, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", proxy)
        said = outage(registry("http://registry.test"))
        assert "through the proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names" in said

    @given(
        st.lists(
            st.binary(max_size=30)
            | st.sampled_from([OK, b"\r\n", b"Content-Length: ", b"-1", CHUNKED, GOOD, b"HTTP/1.1 "])
        )
    )
    def test_any_bytes(self, parts: list[bytes]) -> None:
        with server(*parts) as url, contextlib.suppress(RegistryUnavailable, UnknownSchema):
            registry(url, TIMEOUT).schema(7)


def test_a_good_answer_is_read_in_chunks_and_compressed() -> None:
    chunked = CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD)
    with server(chunked) as url:
        assert registry(url).schema(7) == [LESS]
    packed = gzip.compress(GOOD)
    with server(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed), packed) as url:
        assert registry(url).schema(7) == [LESS]
