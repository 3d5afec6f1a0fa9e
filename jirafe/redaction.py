"""Takes our access token out of what an API says, however the API wrote it."""

import html
import re
from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import unquote

_SHORTEST_SECRET = 8
_DEEPEST = 3
_INSTEAD = "[token]"
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+=*")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)


def without(token: str, text: str) -> str:
    """Give a text without the token: as it is, or escaped, percent-encoded, as an HTML entity, or in Base64.

    What has it only once it is decoded is given decoded. A token too short to be a secret may be any part of a
    text, and stays.
    """
    if len(token) < _SHORTEST_SECRET:
        return text
    cores = _in_base64(token)
    text = _replaced(token, cores, text)
    for _ in range(_DEEPEST):
        for decoded in _decoded(text):
            redacted = _replaced(token, cores, decoded)
            if redacted != decoded:
                text = redacted
                break
        else:
            break
    else:
        return _INSTEAD  # again and again, in ever other ways: nothing of it is worth the risk
    return text


def _replaced(token: str, cores: tuple[str, ...], text: str) -> str:
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


def _decoded(text: str) -> Iterator[str]:
    """Give all that a text may stand for, decoded in one to three steps."""
    seen = {text}
    level = [text]
    for _ in range(_DEEPEST):
        level = [once for each in level for once in _decoded_once(each) if once not in seen]
        seen.update(level)
        yield from level


def _decoded_once(text: str) -> Iterator[str]:
    if "\\" in text:
        yield _ESCAPE.sub(
            lambda found: chr(int(found[1] or found[2], 16)) if found[1] or found[2] else found[3], text
        )
    if "%" in text:
        yield unquote(text)
    if "&" in text:
        yield html.unescape(text)
