"""Encodes results by joining the bytes of their parts, most of which are the same in many results.

It handles only ordinary results. All others go to fastavro, which writes them or says what is wrong. The code
follows `result.avsc` field by field.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

_LEVELS = {"info": b"\x00", "warn": b"\x02", "error": b"\x04"}
_SHORT = tuple(bytes([2 * length]) for length in range(64))
_LONGEST_SHARED = 200
_INT = 2**31
_LONG = 2**63


class NotOrdinary(Exception):
    """The result can't be encoded here."""


def encoded_result(result: Mapping[str, Any]) -> bytes:
    """Encode a result without its framing; raises NotOrdinary."""
    try:
        parts = [_text(result["message_id"]), _shared(result["message"]), _number(result["code"], _INT)]
        notifications = result["notifications"]
        if count := len(notifications):
            parts.append(_number(count, _LONG))
            for each in notifications:
                parts += _LEVELS[each["level"]], _shared(each["subject"]), _text(each["description"])
        parts += (
            b"\x00",
            _shared(result["topic"]),
            _number(result["partition"], _INT),
            _number(result["offset"], _LONG),
            _number(result["timestamp"], _LONG),
            _optional(result["replay"]),
            _optional(result["redrive"]),
            _optional(result["group"]),
        )
    except (KeyError, TypeError, UnicodeEncodeError):
        raise NotOrdinary from None
    return b"".join(parts)


def _text(text: str) -> bytes:
    if type(text) is not str:
        raise NotOrdinary
    data = text.encode()
    return (_SHORT[len(data)] if len(data) < len(_SHORT) else _number(len(data), _LONG)) + data


def _shared(text: str) -> bytes:
    """Encode a text that is the same in many results."""
    return _remembered(text) if type(text) is str and len(text) <= _LONGEST_SHARED else _text(text)


_remembered = lru_cache(1000)(_text)


def _optional(text: str | None) -> bytes:
    return b"\x00" if text is None else b"\x02" + _shared(text)


@lru_cache(4000, typed=True)  # several results have the same numbers, such as times
def _number(number: int, limit: int) -> bytes:
    if type(number) is not int or not -limit <= number < limit:
        raise NotOrdinary
    left = number << 1 if number >= 0 else ~(number << 1)
    data = bytearray()
    while left > 127:  # noqa: PLR2004 - seven bits in each byte
        data.append(left & 127 | 128)
        left >>= 7
    data.append(left)
    return bytes(data)
