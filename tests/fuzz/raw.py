"""A server that sends the bytes of a case, and follows no protocol.

A script is a list of steps, each a list: `["send", text]`, `["repeat", text, times]`, `["drip", text, seconds]`
(again and again, forever), `["gzip", text, times]` (compressed), `["wait", seconds]`, `["reset"]`, `["hold"]`
(says nothing more, and keeps the connection). The connection is closed at the end of the script.
"""

import socket
import struct
import threading
import time
import zlib
from contextlib import suppress
from functools import cache
from typing import Any

Script = list[list[Any]]

_LONGEST = 30.0
_TICK = 0.02


class RawServer:
    """Answers each request on 127.0.0.1 by the current script, with a thread for each connection."""

    def __init__(self) -> None:
        self._script: Script = []
        self._turn = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="raw-server", daemon=True).start()

    def play(self, script: Script) -> None:
        """Answer by this script from now on, and drop connections of the script before."""
        self._script = script
        self._turn += 1

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        turn, script = self._turn, self._script
        with suppress(OSError), connection:
            connection.settimeout(_LONGEST)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while self._turn == turn and _request(connection):
                turn, script = self._turn, self._script
                for step in script:
                    self._do(connection, step, turn)
                if not _is_framed(script):
                    return

    def _do(self, connection: socket.socket, step: list[Any], turn: int) -> None:
        match step:
            case ["send", str(text)]:
                connection.sendall(text.encode("latin-1"))
            case ["repeat", str(text), int(times)]:
                _send_many(connection, text.encode("latin-1"), times)
            case ["gzip", str(text), int(times)]:
                connection.sendall(_compressed(text, times))
            case ["drip", str(text), int() | float() as seconds]:
                while self._pause(seconds, turn):
                    connection.sendall(text.encode("latin-1") or b" ")
            case ["wait", int() | float() as seconds]:
                self._pause(seconds, turn)
            case ["hold"]:
                self._pause(_LONGEST, turn)
            case ["reset"]:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raise ConnectionResetError
            case _:
                raise ConnectionAbortedError

    def _pause(self, seconds: float, turn: int) -> bool:
        """Wait. Returns whether the script is still the current one."""
        end = time.monotonic() + seconds
        while self._turn == turn and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _TICK))
        return self._turn == turn


def _is_framed(script: Script) -> bool:
    """Return whether the connection may serve another request: the script ends with an empty step."""
    return bool(script) and script[-1] == ["send", ""]


def _request(connection: socket.socket) -> bool:
    """Read one request with its body. Returns whether there was one."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(1 << 16)
        if not part:
            return False
        head += part
    head, _, body = head.partition(b"\r\n\r\n")
    left = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    left -= len(body)
    while left > 0:
        part = connection.recv(1 << 16)
        if not part:
            return False
        left -= len(part)
    return True


def _send_many(connection: socket.socket, text: bytes, times: int) -> None:
    """Send a text this many times, without all of it in memory."""
    at_once = max(1, (1 << 16) // max(1, len(text)))
    while times > 0:
        connection.sendall(text * min(times, at_once))
        times -= at_once


@cache
def _compressed(text: str, times: int) -> bytes:
    """Compress many repetitions of a text: a compression bomb."""
    part = text.encode("latin-1") * max(1, (1 << 16) // max(1, len(text)))
    packer = zlib.compressobj(6, wbits=31)
    packed = bytearray()
    for _ in range(max(1, len(text) * times // max(1, len(part)))):
        packed += packer.compress(part)
    return bytes(packed + packer.flush())
