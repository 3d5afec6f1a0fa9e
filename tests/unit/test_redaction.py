import html
import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from typing import SupportsIndex
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transport.redaction import without

VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
TOKENS = st.text(VISIBLE, min_size=8, max_size=60).filter(lambda token: token not in "[secret]")
# What may be in a bearer token (RFC 6750, 2.1), and then some.
ORDINARY = TOKENS.filter(
    lambda token: not any(mark in token for mark in "\\%&") and len(re.sub("[;,\"']", "", token)) >= 8
)
# A token that is broken between any two of its characters.
BETWEEN = ["\n", '", "', "\u200b", "\u00ad", "\ufeff", "\x85", "\x1b", "\\u200b", "&#8203;", "%E2%80%8B", " + "]
# What makes an expression that skips try every way to skip.
REPEATED = [",", "a,", "a", "\\", "%61", "&#97;", " ", "\u200b", "QUFB", '",']
TEXTS = st.text(max_size=20)
SIMPLE = ["plain", "escaped", "escaped by number", "percent", "percent for all", "entities", "Base64"]


def _hexed(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "escaped": lambda text: json.dumps(text)[1:-1],
    "escaped twice": lambda text: json.dumps(json.dumps(text))[1:-1],
    "escaped slashes": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "in capitals": lambda text: text.upper() if text.isascii() else text,
    "in small letters": lambda text: text.lower() if text.isascii() else text,
    "over lines": "\n".join,
    "over a list": '", "'.join,
    "in hex": lambda text: text.encode().hex() if len(text) % 2 else text.encode().hex().upper(),
    "escaped with a capital": lambda text: "".join(f"\\U{ord(each):08x}" for each in text),
    "escaped by number": lambda text: "".join(f"\\u{ord(each):04x}" for each in text if ord(each) < 0xD800),
    "percent": lambda text: quote(text, safe=""),
    "percent for all": _hexed,
    "percent twice": lambda text: quote(quote(text, safe=""), safe=""),
    "entities": html.escape,
    "entities by number": lambda text: "".join(f"&#{ord(each)};" for each in text),
    "entities without an end": lambda text: "".join(f"&#{ord(each)}" for each in text),
    "percent in JSON": lambda text: json.dumps(quote(text, safe="/").replace("/", "\\/"))[1:-1],
    "Base64": lambda text: b64encode(text.encode()).decode(),
    "Base64 for addresses": lambda text: urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "Base64 in JSON": lambda text: b64encode(text.encode()).decode().replace("/", "\\/"),
    "Base64 in an address": lambda text: quote(b64encode(text.encode()).decode(), safe=""),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(TEXTS, ORDINARY, TEXTS)
@example("%", "0000000/", "")  # a sign beside the token makes an escape of its beginning
@example("", "secret~~~???>>>", "")  # Base64 makes both of its odd digits of it
def test_a_token_is_found_in_every_encoding(encoding: str, before: str, token: str, behind: str) -> None:
    encode = ENCODINGS[encoding]
    redacted = without(token, f"unknown token: {encode(before + token + behind)}")
    assert "[secret]" in redacted
    assert token not in redacted


@pytest.mark.parametrize("between", BETWEEN)
@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=8, max_size=60))
def test_a_token_is_found_whatever_stands_between_its_characters(between: str, token: str) -> None:
    redacted = without(token, f"unknown token: {between.join(token)}")
    assert "[secret]" in redacted
    assert between.join(token) not in redacted


@pytest.mark.parametrize("repeated", REPEATED)
@pytest.mark.parametrize("token", [f"{each * 20}x" for each in (",", "a,", "a", '";')])
def test_redaction_is_fast_for_any_token_and_text(token: str, repeated: str) -> None:
    text = (repeated * 40_000)[:40_000]
    assert without(token, text)


class _Counted(str):
    """A text that counts the characters that are taken from it."""

    taken = 0

    def __getitem__(self, at: SupportsIndex | slice) -> str:
        part = super().__getitem__(at)
        self.taken += len(part)
        return part


@pytest.mark.parametrize("between", ["", " ", "="])
def test_a_text_full_of_the_token_in_base64_is_read_only_once(between: str) -> None:
    token = "tokAB-1234567890abcdef"
    text = _Counted((b64encode(token.encode()).decode().rstrip("=") + between) * 2_000)
    assert "[secret]" in without(token, text)
    assert text.taken <= 4 * len(text)


@pytest.mark.parametrize("encoding", SIMPLE)
@given(TOKENS)
def test_a_token_that_looks_encoded_is_found(encoding: str, token: str) -> None:
    assert "[secret]" in without(token, f"unknown token: {ENCODINGS[encoding](token)}")


# The end of an escape and seven zeros look like a token of eight zeros, so one digit of it may stay.
@given(
    ORDINARY.filter(lambda token: len(set(token)) > 3),
    st.lists(st.sampled_from([*ENCODINGS]), min_size=1, max_size=30),
)
def test_a_token_is_found_in_several_encodings_at_once(token: str, encodings: list[str]) -> None:
    text = ", ".join(ENCODINGS[each](token) for each in encodings)
    redacted = without(token, text)
    assert not [each for each in encodings if ENCODINGS[each](token) in redacted.replace("[secret]", "")]


def test_text_other_than_the_token_is_unchanged() -> None:
    text = r"100%25 of C:\new &amp; 'old' dG9rZW4tdG9rZW4 \u003d"
    assert without("tok-5ecret/=", text) == text


def test_a_password_may_have_any_characters() -> None:
    assert without("sécret €", "wrong: SéCRET €, or s%C3%A9cret%20%E2%82%AC") == "wrong: [secret], or [secret]"
    assert without("sécret €", "scret, secret") == "scret, secret"


def test_a_token_too_short_to_be_a_secret_is_kept() -> None:
    assert without("unknown", "unknown") == "unknown"
