"""Servers that answer with exactly the given bytes, as no real server would."""

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def answering(*parts: bytes, drip: bytes = b"x", tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve an API that answers each request with the next of these bytes. Yields its address.

    After the last of them it sends `drip` again and again, until it is no longer wanted; nothing if it is empty.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()
        sockets = [listener]

        def answer() -> None:
            with contextlib.suppress(OSError):
                accepted, _ = listener.accept()
                sockets.append(accepted.dup())
                with tls.wrap_socket(accepted, server_side=True) if tls else accepted as connection:
                    for part in parts:
                        _read_request(connection)
                        connection.sendall(part)
                    while not over.wait(0.02):
                        connection.sendall(drip)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}/v2"
        finally:
            over.set()
            for each in sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            thread.join()
            for each in sockets:
                each.close()


def _read_request(connection: socket.socket) -> None:
    """Read a whole request, or the beginning of a TLS handshake."""
    data = connection.recv(65_536)
    while data and not data.startswith(b"\x16"):
        head, end, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if end and (not length or len(body) >= int(length[1])):
            return
        more = connection.recv(65_536)
        data = data + more if more else b""
