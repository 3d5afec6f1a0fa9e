"""What all rules of the mapping share: sections of a message, dates, and errors for missing fields.

A payload's sections come as `order` and `cart` (N, the hub's normalized form) and `original` (O, the shop's own):
dicts that have every field of `jirafe.hub.Order`, None where the message had none.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from jirafe.sourced import derived

Body = dict[str, Any]
Section = Mapping[str, Any]

NOTHING: Section = {}

_LONGEST_DATE = 64
_USUAL_LENGTH = len("2014-03-01T10:00:00Z")
_DATE = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d):(\d\d)(\.\d+)? ?(?:(Z|UTC)|([+-]\d\d:?\d\d))?( ?\[[^\[\]]+\])?",
    re.ASCII | re.IGNORECASE,
)


class Unmappable(ValueError):
    """The message lacks what the API requires; the sentence is `place: what is wrong`."""


def missing(place: str, why: str = "missing in the message") -> Any:
    """Raise Unmappable. Use it in an expression in place of a required value."""
    raise Unmappable(f"{place}: {why}")


def add(body: Body, name: str, value: object) -> None:
    """Set an optional field, unless the value is empty."""
    if value:
        body[name] = value


def sections(payload: Section) -> tuple[Section, Section]:
    """Return the payload's two forms of a cart or an order: the hub's, and the shop's own."""
    return payload.get("order") or payload.get("cart") or NOTHING, payload["original"] or NOTHING


def either(one: Section, other: Section, name: str) -> str | None:
    """Return a text of the first section that has it."""
    return one.get(name) or other.get(name)


def finite(place: str, value: float) -> float:
    """Return a number that JSON can represent. Raises Unmappable."""
    return value if math.isfinite(value) else missing(place, f"{value} is not a number that JSON can carry")


def dates(first: Section, second: Section, created: str) -> tuple[str, str]:
    """Return the dates of creation and change. If the field `created` is missing, uses similar fields."""
    changed = either(first, second, "updated_at")
    for name in (created, "placed_on", "completed_at", "created_at", "available_on"):
        if text := either(first, second, name):
            create_date = date(name, text)
            return create_date, date("updated_at", changed) if changed else create_date
    return (date("updated_at", changed or missing(created)),) * 2


def date_or(otherwise: str, place: str, name: str, text: str | None) -> str:
    """Write the date of a part of the message, or `otherwise` if it has none. Raises Unmappable."""
    return date(f"{place}.{name}", text) if text else otherwise


def date(place: str, text: str) -> str:
    """Write a date as the API does, `2013-06-17T15:16:10.000Z`; raises Unmappable, which quotes the text.

    It reads ISO 8601 with any offset (UTC if there is none), Ruby's `2014-03-01 10:00:00 UTC`, and
    `01/31/2013 12:34:22 UTC`.
    """
    try:
        written = _written(text)
    except (ValueError, OverflowError):
        quoted = text if len(text) <= _LONGEST_DATE else f"{text[:_LONGEST_DATE]}..."
        raise Unmappable(f"{place}: '{quoted}' is not a date") from None
    return written if type(text) is str else derived(written, text)


@lru_cache(maxsize=4096)
def _written(text: str) -> str:
    """Write a date. Cached, because a message repeats most dates. Texts that are not dates are not cached."""
    if len(text) > _LONGEST_DATE:
        raise ValueError
    if _is_usual(text):
        datetime.fromisoformat(text)  # only to check it
        return f"{text[:19]}.000Z"
    moment = _moment(text.strip())
    moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _is_usual(text: str) -> bool:
    """Return whether a text has the usual form of a date, neither at 24:00 nor with a leap second."""
    if len(text) != _USUAL_LENGTH or text[11:13] > "23" or text[17:19] > "59":
        return False
    return text[4] == text[7] == "-" and text[10] == "T" and text[13] == text[16] == ":" and text[19] == "Z"


def _moment(text: str) -> datetime:
    # Without dashes, fromisoformat would also accept plain numbers, such as milliseconds.
    if text[4:5] == text[7:8] == "-":
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            return _unusual_moment(text)
    return datetime.strptime(text, "%m/%d/%Y %H:%M:%S UTC").replace(tzinfo=UTC)


def _unusual_moment(text: str) -> datetime:
    """Read Ruby's forms of ISO 8601, a zone's name after the offset, midnight as 24:00, and a leap second."""
    found = _DATE.fullmatch(text)
    if found is None:
        raise ValueError
    day, time, second, fraction, utc, offset, zone = found.groups()
    if zone and not (utc or offset):
        raise ValueError  # the name of a zone alone does not give its offset
    ahead = timedelta()
    if time == "24:00" and second == "00" and not (fraction or "").strip(".0"):
        time, ahead = "00:00", timedelta(days=1)
    elif second == "60":
        second, ahead = "59", timedelta(seconds=1)
    moment = datetime.fromisoformat(f"{day}T{time}:{second}{fraction or ''}{offset or 'Z'}").astimezone(UTC)
    if second == "59" and ahead and (moment.hour, moment.minute) != (23, 59):
        raise ValueError  # leap seconds end a day of UTC
    return moment + ahead
