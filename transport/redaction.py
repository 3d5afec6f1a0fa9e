"""Removes a secret, such as an access token, from a server's text, however the server wrote it."""

import html
import re
import string
import sys
from base64 import b64encode
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

_SHORTEST_SECRET = 8
_DEEPEST = 4

TIMES_SEARCHED = 10
"""The part of a text that is searched for the secret, as a multiple of the quote's length."""

_INSTEAD = "[secret]"
_MARKS = "\\%&"
_ESCAPES = (
    r"\\(?:U(?P<U>[0-9a-fA-F]{8})|[uU](?P<u>[0-9a-fA-F]{4})|x(?P<x>[0-9a-fA-F]{2})|(?P<one>.))",
    r"(?P<percent>(?:%[0-9a-fA-F]{2})+)",
    r"(?P<entity>&#?[0-9A-Za-z]{1,32};?)",
)
_ANY = re.compile("|".join(_ESCAPES), re.DOTALL)
_EACH = [re.compile(escape, re.DOTALL) for escape in _ESCAPES]
# What may be between two characters of a split secret. If it has few letters and digits, its other signs count too.
_BETWEEN = [re.compile(each) for each in ("[^0-9A-Za-z]+", "[^!-~]+|[;,\"']+", "[^!-~]+", "(?!)")]
_SMALL = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_DIGITS = f"{string.ascii_letters}{string.digits}+/-_"


def without(secret: str, text: str) -> str:
    """Remove the secret from a text: plain, escaped, percent-encoded, as HTML entities, in hex, or in Base64.

    It is also found in other case, and if anything but letters and digits stands between its characters. If it
    appears only after decoding, the decoded text is returned. One that is too short to be a secret could be any
    part of a text, and is not removed. The time is in proportion to the length of the text.
    """
    if len(secret) < _SHORTEST_SECRET:
        return text
    search = _search(secret)
    text = search.taken_out(text)
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
            decoded = search.taken_out(once)
            if decoded != once:
                text = decoded
    return text


def quoted(secret: str, text: str, longest: int) -> str:
    """Return the beginning of a text without the secret, up to `longest` characters."""
    most = TIMES_SEARCHED * longest
    shown = without(secret, text[:most])
    if len(text) > most:  # it may end with a part of the secret, and the text before it may have become shorter
        shown = shown[: max(0, len(shown) - most // 2)]
    return shown[:longest]


class _Search(NamedTuple):
    """The forms of a secret to search for, reduced to the characters that `between` leaves.

    `in_any_case` has the forms in small letters, whose case does not matter. The case of `in_base64` does.
    """

    between: re.Pattern[str]
    in_any_case: tuple[str, ...]
    in_base64: tuple[str, ...]

    def taken_out(self, text: str) -> str:
        """Replace what is found. Searches the reduced text, because a regular expression might never end."""
        reduced = self.between.sub("", text)
        lowered = reduced.translate(_SMALL)
        found = [place for form in self.in_any_case for place in _places(form, lowered)]
        encoded = [place for form in self.in_base64 for place in _places(form, reduced)]
        if not (found or encoded):
            return text
        kept = [at for at, sign in enumerate(text) if not self.between.match(sign)]
        spans = [(kept[start], kept[end - 1] + 1) for start, end in found]
        spans += _runs(text, ((kept[start], kept[end - 1] + 1) for start, end in encoded))
        parts, at = [], 0
        for start, end in sorted(spans):
            if start >= at:
                parts += [text[at:start], _INSTEAD]
            at = max(at, end)
        return "".join((*parts, text[at:]))


@lru_cache(maxsize=16)
def _search(secret: str) -> _Search:
    between = next((each for each in _BETWEEN if len(each.sub("", secret)) >= _SHORTEST_SECRET), _BETWEEN[-1])
    plain = between.sub("", secret).translate(_SMALL)
    encoded = (between.sub("", each) for core in _in_base64(secret) for each in {core, _for_addresses(core)})
    return _Search(
        between,
        (plain, secret.encode().hex()),
        tuple(each for each in encoded if len(each) >= _SHORTEST_SECRET),
    )


def _places(form: str, text: str) -> Iterator[tuple[int, int]]:
    at = text.find(form)
    while at >= 0:
        yield at, at + len(form)
        at = text.find(form, at + len(form))


def _runs(text: str, places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Extend each place to the whole run of Base64 around it. Leaves out those within an earlier run."""
    reached = 0  # no character before this is looked at again, or the time would be quadratic
    for place in sorted(places):
        start, end = place
        if end <= reached:
            continue
        while start > reached and text[start - 1] in _DIGITS:
            start -= 1
        while end < len(text) and text[end] in f"{_DIGITS}=":
            end += 1
        yield start, end
        reached = end


def _for_addresses(digits: str) -> str:
    return digits.replace("+", "-").replace("/", "_")


def _in_base64(secret: str) -> tuple[str, ...]:
    """Return the secret in Base64 for each of its three alignments, without the digits shared with neighbors."""
    raw = secret.encode()
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
