"""Draws HTTP answers as bytes: valid, unusual and invalid ones."""

import json
import zlib
from random import Random

from tests.fuzz import draw as drawing
from tests.fuzz.draw import chance
from tests.fuzz.raw import Script
from tests.fuzz.targets import latin

BOMB = 200_000_000
"""Bytes that are far more than an answer may have."""

_STATUSES = (
    100,
    101,
    200,
    200,
    200,
    200,
    201,
    202,
    204,
    205,
    206,
    226,
    300,
    301,
    302,
    303,
    304,
    305,
    307,
    308,
    400,
    401,
    403,
    404,
    405,
    407,
    408,
    409,
    413,
    418,
    422,
    425,
    429,
    431,
    451,
    499,
    500,
    502,
    503,
    504,
    511,
    599,
    999,
)
_LOCATIONS = (
    "",
    "/",
    "//",
    "///",
    "http://",
    "http://[",
    "http://[::1",
    "http://[::1]:x/",
    "http://a:99999999/",
    "http://\xff/",
    "http://a b/",
    "\xff\xfe",
    "http:///x",
    "http://127.0.0.1:1/",
    "file:///etc/passwd",
    "ftp://a/",
    "javascript:0",
    "?",
    "#",
    "http://user:pass@127.0.0.1:1/",
    "http://.../",
    "http://a..b/",
    "http://xn--/",
    "http://" + "a" * 300 + "/",
    "%",
    "%zz",
    "http://\u0660/".encode().decode("latin-1"),
    "\\\\a\\b",
    "http://127.0.0.1:1/" + "a" * 9000,
    "http://*/",
    "http://\t/",
)
_RETRY_AFTER = (
    "0",
    "1",
    "-1",
    "1e9",
    "NaN",
    "inf",
    "9" * 30,
    "9" * 5000,
    "\xb2",
    "Wed, 21 Oct 2015 07:28:00 GMT",
    "Wed, 21 Oct 99999",
    "Fri, 31 Dec 9999 23:59:59 -2359",
    "Sat, 01 Jan 0001 00:00:00 +2359",
    "",
    " ",
    "1, 2",
    "0x10",
    "1_000",
    "Mon",
    "Thu, 01 Jan 1970 00:00:00 +9999",
    "Thu, 01 Jan 1970 00:00:00 +999999999999",
)
_LINES = ("\r\n", "\n", "\r", "\r\n\r\n", "\0", "\n\r")
_ENCODINGS = (
    "gzip",
    "deflate",
    "br",
    "zstd",
    "identity",
    "x-gzip",
    "gzip, gzip",
    "gzip, deflate, br",
    "nonsense",
    "gzip" + ", gzip" * 100,
)


def draw_answer(random: Random, body: bytes) -> Script:
    """Draw the script of an answer with such a body."""
    kind = random.random()
    if kind < 0.25:
        return _right(random, body)
    if kind < 0.9:
        return _odd(random, body)
    if kind < 0.99:
        return _damaged(random, body)
    return _slow_or_large(random, body)


def _right(random: Random, body: bytes) -> Script:
    status = random.choice((200, 200, 400, 403, 503))
    head = f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return [["send", head + latin(body)], ["send", ""]]


def _status_line(random: Random) -> str:
    status = random.choice(_STATUSES)
    if chance(random, 0.9):
        return f"HTTP/1.1 {status} {random.choice(('OK', '', 'a' * 100, chr(255)))}"
    return random.choice(
        (
            f"HTTP/1.0 {status}", f"HTTP/2 {status} OK", f"HTTP/9.9 {status} OK", f"http/1.1 {status} ok", "HTTP/1.1", "",
            "HTTP/1.1 abc OK", "HTTP/1.1 -1 OK", "HTTP/1.1 99999 OK", "HTTP/1.1 2e2 OK", "ICY 200 OK", "\0", "SSH-2.0-x",
            "HTTP/1.1 \xb2\xb2\xb2 OK", f"HTTP/1.1 {status} " + "a" * 70_000, f"HTTP/1.1  {status}  OK", "HTTP/1.1\t200\tOK",
        )
    )  # fmt: skip


def _header(random: Random) -> str:
    value = latin(drawing.text(random).encode("utf-8", "replace"))
    return random.choice(
        (
            f"Location: {random.choice(_LOCATIONS)}",
            f"Retry-After: {random.choice(_RETRY_AFTER)}",
            f"Set-Cookie: a={value}; Expires={random.choice(_RETRY_AFTER)}; Max-Age={random.choice(_RETRY_AFTER)}",
            f"Set-Cookie: {value}",
            f"Content-Type: {value}",
            f"Content-Type: text/html; charset={value}",
            f"Content-Encoding: {random.choice(_ENCODINGS)}",
            f"Connection: {random.choice(('close', 'keep-alive', 'upgrade', value))}",
            f"Content-Length: {random.choice(('0', '-1', '1e3', 'abc', '9' * 30, '1, 1', '5, 6', '', '+5', '0x5', chr(178)))}",
            f"Transfer-Encoding: {random.choice(('chunked', 'gzip', 'chunked, chunked', 'identity', 'CHUNKED', value))}",
            f"WWW-Authenticate: {value}",
            f"X-{value}: {value}",
            value,
            " folded",
            ": no name",
            "A" * 70_000 + ": b",
            "\r\n".join(f"X-{index}: b" for index in range(200)),
        )
    )


def _odd(random: Random, body: bytes) -> Script:
    """Draw something like an answer, with unusual headers and framing."""
    line = "\r\n" if chance(random, 0.95) else random.choice(_LINES)
    interim = "HTTP/1.1 100 Continue\r\n\r\n" * random.choice((1, 2, 500)) if chance(random, 0.05) else ""
    headers = [_header(random) for _ in range(random.choice((0, 1, 1, 2, 4)))]
    if chance(random, 0.1):
        body, encoding = _encoded(random, body)
        headers.append(f"Content-Encoding: {encoding}")
    framing = random.random()
    if framing < 0.5:
        headers.append(f"Content-Length: {len(body) + random.choice((0, 0, 0, 0, 1, -1, 100))}")
        content = latin(body)
    elif framing < 0.8:
        headers.append("Transfer-Encoding: chunked")
        content = _chunked(random, body)
    else:
        content = latin(body)
    head = interim + line.join([_status_line(random), *headers]) + line * 2
    end = random.choice(([["send", ""]], *[[]] * 6, [["reset"]]))
    return [["send", head + content], *end]


def _encoded(random: Random, body: bytes) -> tuple[bytes, str]:
    packer = zlib.compressobj(6, wbits=random.choice((31, 15, -15)))
    packed = packer.compress(body) + packer.flush()
    if chance(random, 0.3):
        packed = drawing.damaged(random, packed)
    return packed, random.choice(("gzip", "deflate", "gzip, gzip", "br"))


def _chunked(random: Random, body: bytes) -> str:
    size = max(1, len(body) // random.choice((1, 2, 5)))
    parts = []
    for start in range(0, len(body), size):
        part = latin(body[start : start + size])
        length = (
            f"{len(part):x}"
            if chance(random, 0.95)
            else random.choice(("-1", "", "zz", "f" * 30, "0x5", "1_0", "+1", "²"))
        )
        extension = random.choice(("", "", "", "", ";a=b", ";" + "x" * 70_000, " "))
        parts.append(f"{length}{extension}\r\n{part}\r\n")
    end = random.choice(
        ("0\r\n\r\n", "0\r\n\r\n", "0\r\nTrailer: a\r\n\r\n", "0\r\n" + "X: y\r\n" * 5000 + "\r\n", "0", "")
    )
    return "".join(parts) + end


def _damaged(random: Random, body: bytes) -> Script:
    script = _odd(random, body)
    text = drawing.damaged(random, script[0][1].encode("latin-1"))
    return [["send", latin(text)], *script[1:]]


def _slow_or_large(random: Random, body: bytes) -> Script:
    """Draw an answer that never ends, comes too slowly, or is far too large, with any status."""
    head = f"{_status_line(random)}\r\n"
    chunked = f"{head}Transfer-Encoding: chunked\r\n"
    location = random.choice(("", "Location: /x\r\n"))
    pace = random.choice((0.01, 0.05, 0.15))
    scripts: tuple[Script, ...] = (
            [["drip", "HTTP/1.1 200 OK\r\n"[: random.randrange(18)], pace]],
            [["send", "HTTP/1.1 100 Continue\r\n\r\n"], ["drip", "HTTP/1.1 100 Continue\r\n\r\n", pace]],
            [["send", head], ["drip", "X: y\r\n", pace]],
            [["send", head], ["drip", "y", pace]],
            [["send", f"{head}{location}\r\n"], ["drip", "x", pace]],
            [["send", f"{chunked}{location}\r\n1;"], ["drip", "x", pace]],
            [["send", f"{chunked}{location}\r\n"], ["drip", "1\r\nx\r\n", pace]],
            [["send", f"{chunked}{location}\r\n0\r\n"], ["drip", "X: y\r\n", pace]],
            [["send", f"{chunked}{location}\r\n0\r\nX: "], ["drip", "y", pace]],
            [["hold"]],
            [["send", head], ["hold"]],
            [["send", f"{head}Content-Length: {len(body) + 9}\r\n\r\n{latin(body)}"], ["hold"]],
            [["send", f"{head}{location}Content-Length: {BOMB}\r\n\r\n"], ["repeat", "x" * 1000, BOMB // 1000]],
            [["send", f"{head}{location}\r\n"], ["repeat", "[" * 1000, BOMB // 1000]],
            [["send", f"{chunked}{location}\r\n"], ["repeat", "400\r\n" + "x" * 1024 + "\r\n", BOMB // 1024]],
            [["send", f"{head}{location}Content-Encoding: gzip\r\n\r\n"], ["gzip", "x" * 1000, BOMB // 1000]],
            [["send", f"{head}{location}Content-Encoding: gzip\r\n\r\n"], ["gzip", '{"a":[' * 100, 10_000]],
            [["repeat", "HTTP/1.1 100 Continue\r\n\r\n", 2_000_000]],
            [["send", head], ["repeat", "X: y\r\n", 10_000_000]],
            [["send", head], ["repeat", "X: " + "y" * 60_000 + "\r\n", 5_000]],
            [["send", f"{chunked}\r\n0\r\n"], ["repeat", "X: y\r\n", 10_000_000]],
    )  # fmt: skip
    return random.choice(scripts)


def draw_json(random: Random, right: object) -> bytes:
    """Draw the body of an answer: valid, with unusual values in it, or as unusual text."""
    document = drawing.mutated(random, right, random.choice((0, 0, 1, 1, 2, 4)))
    text = json.dumps(document, ensure_ascii=chance(random, 0.5))
    if chance(random, 0.05):
        text = random.choice(
            (
                drawing.nested(random.choice((10, 600, 20_000, 200_000))),
                text.replace(":", ":" + drawing.nested(random.choice((100, 2000))) + ',"a":', 1),
                "", "null", "[]", "{}", "<html>no</html>", "NaN", "{" + text, text + text, '"\\ud83d"', "\ufeff" + text,
                text.replace("{", "{" + '"a":1,' * 50_000, 1), text.replace('"', '"\\ud83d', 1), "9" * 100_000,
            )
        )  # fmt: skip
    return text.encode(
        random.choice(("utf-8", "utf-8", "utf-8", "utf-16", "latin-1")),
        random.choice(("replace", "replace", "backslashreplace")),
    )
