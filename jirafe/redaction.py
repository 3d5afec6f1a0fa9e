"""Takes our access token out of what an API says, however the API wrote it."""

import html
import re
from base64 import b64encode
from urllib.parse import unquote

_SHORTEST_SECRET = 8
_DEEPEST = 4
_INSTEAD = "[token]"
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+=*")
_ESCAPE = re.compile(
    r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})|\\(.)|((?:%[0-9a-fA-F]{2})+)|(&#?[0-9A-Za-z]{1,32};)", re.DOTALL
)


def without(token: str, text: str) -> str:
    """Give a text without the token: as it is, or escaped, percent-encoded, as HTML's entities, or in Base64.

    What has it only once it is decoded is given decoded. A token too short to be a secret may be any part of a
    text, and stays.
    """
    if len(token) < _SHORTEST_SECRET:
        return text
    cores = _in_base64(token)
    # A token may look encoded itself: then it is also looked for as what it would be decoded to.
    tokens = {token, _fully_decoded(token)}
    redacted = decoded = _replaced(tokens, cores, text)
    for _ in range(_DEEPEST):
        once = _decoded(decoded)
        if once == decoded:
            break
        decoded = _replaced(tokens, cores, once)
        if decoded != once:
            redacted = decoded
    return redacted


def _replaced(tokens: set[str], cores: tuple[str, ...], text: str) -> str:
    for token in tokens:
        text = text.replace(token, _INSTEAD)
    plain = text.replace("-", "+").replace("_", "/")
    if not any(core in plain for core in cores):
        return text
    return _BASE64.sub(lambda run: _INSTEAD if _has_core(cores, run[0]) else run[0], text)


def _has_core(cores: tuple[str, ...], run: str) -> bool:
    plain = run.replace("-", "+").replace("_", "/")
    return any(core in plain for core in cores)


def _in_base64(token: str) -> tuple[str, ...]:
    """Give what Base64 makes of the token wherever it stands, but for the digits that it shares with neighbours."""
    raw = token.encode()
    cores = []
    for before in range(3):
        digits = b64encode(bytes(before) + raw).decode().rstrip("=")
        first, last = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
        cores.append(digits[first:last])
    return tuple(cores)


def _fully_decoded(token: str) -> str:
    for _ in range(_DEEPEST):
        token = _decoded(token)
    return token


def _decoded(text: str) -> str:
    """Decode a text once, whatever it is encoded in."""
    if "\\" not in text and "%" not in text and "&" not in text:
        return text
    return _ESCAPE.sub(_character, text)


def _character(found: re.Match[str]) -> str:
    by_number = found[1] or found[2]
    if by_number:
        return chr(int(by_number, 16))
    if found[4]:
        return unquote(found[4])
    return html.unescape(found[5]) if found[5] else found[3]
