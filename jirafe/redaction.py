"""Takes our access token out of what an API says, however the API wrote it."""

import html
import re
import sys
from base64 import b64encode
from functools import lru_cache

_SHORTEST_SECRET = 8
_DEEPEST = 4
_INSTEAD = "[token]"
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+=*")
_MARKS = "\\%&"
# What may stand between two characters of a token that was broken over lines or over a list.
_BETWEEN = r"""[\s\x00-\x1f\x7f;,"']*"""
_ESCAPES = (
    r"\\(?:U(?P<U>[0-9a-fA-F]{8})|[uU](?P<u>[0-9a-fA-F]{4})|x(?P<x>[0-9a-fA-F]{2})|(?P<one>.))",
    r"(?P<percent>(?:%[0-9a-fA-F]{2})+)",
    r"(?P<entity>&#?[0-9A-Za-z]{1,32};)",
)
_ANY = re.compile("|".join(_ESCAPES), re.DOTALL)
_EACH = [re.compile(escape, re.DOTALL) for escape in _ESCAPES]


def without(token: str, text: str) -> str:
    """Remove the token from a text: plain, escaped, percent-encoded, as HTML entities, in hex, or in Base64.

    It is also found in other case, or broken by spaces, line ends, commas or quotes.
    If the token appears only after decoding, the decoded text is returned. A token that is too short to be a secret
    could be any part of a text, and is not removed.
    """
    if len(token) < _SHORTEST_SECRET:
        return text
    cores = _in_base64(token)
    text = _replaced(token, cores, text)
    if not any(mark in text for mark in _MARKS):
        return text
    # Text that only looks encoded can break the decoding of the others. So try all encodings together, then each
    # alone.
    for escapes in (_ANY, *_EACH):
        decoded = text
        for _ in range(_DEEPEST):
            once = escapes.sub(_character, decoded)
            if once == decoded:
                break
            decoded = _replaced(token, cores, once)
            if decoded != once:
                text = decoded
    return text


def _replaced(token: str, cores: tuple[str, ...], text: str) -> str:
    text = _plainly(token).sub(_INSTEAD, text)
    plain = text.replace("-", "+").replace("_", "/")
    if not any(core in plain for core in cores):
        return text
    return _BASE64.sub(lambda run: _INSTEAD if _has_core(cores, run[0]) else run[0], text)


@lru_cache(maxsize=16)
def _plainly(token: str) -> re.Pattern[str]:
    return re.compile(f"{_BETWEEN.join(map(re.escape, token))}|{token.encode().hex()}", re.IGNORECASE)


def _has_core(cores: tuple[str, ...], run: str) -> bool:
    plain = run.replace("-", "+").replace("_", "/")
    return any(core in plain for core in cores)


def _in_base64(token: str) -> tuple[str, ...]:
    """Return the token in Base64 for each of its three alignments, without the digits shared with neighbours."""
    raw = token.encode()
    cores = []
    for before in range(3):
        digits = b64encode(bytes(before) + raw).decode().rstrip("=")
        first, last = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
        cores.append(digits[first:last])
    return tuple(cores)


def _character(found: re.Match[str]) -> str:
    sort = found.lastgroup or ""
    escaped: str = found[sort]
    match sort:
        case "U" | "u" | "x":
            return chr(min(int(escaped, 16), sys.maxunicode))
        case "percent":
            return bytes.fromhex(escaped.replace("%", "")).decode(errors="replace")
        case "entity":
            return html.unescape(escaped)
    return escaped
