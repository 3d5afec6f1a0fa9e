"""Values that know where in a message they came from, to explain why an event says what it says.

The mapping takes values from messages and puts them into events, mostly as they are. So an event made of a message
whose values are marked has the marks too, and explains itself; no rule is written twice. Ordinary messages have
plain values, and pay nothing. Only where the mapping makes a value of others must it hand the marks on (`derived`).
"""

from typing import Any, TypeVar

V = TypeVar("V", bound=object)


class Sourced:
    """A marked value: the places that it came from (`sources`), and why else it has this value, if anything."""

    sources: tuple[str, ...] = ()
    why: str = ""


class Text(str, Sourced):
    """Marked text."""


class Number(float, Sourced):
    """A marked amount."""


class WholeNumber(int, Sourced):
    """A marked whole number."""


def marked(value: Any, *sources: str, why: str = "") -> Any:
    """Mark text or a number with the places it came from; anything else stays as it is."""
    made: Sourced
    match value:
        case bool():
            return value
        case str():
            made = Text(value)
        case float():
            made = Number(value)
        case int():
            made = WholeNumber(value)
        case _:
            return value
    made.sources, made.why = sources, why
    return made


def derived(value: V, *parts: object, why: str = "") -> V:
    """Mark a value that was made from others, if any of them is marked. Else return it unchanged."""
    sourced = [part for part in parts if isinstance(part, Sourced)]
    if not sourced:
        return value
    sources = dict.fromkeys(source for part in sourced for source in part.sources)
    made: V = marked(value, *sources, why=why or next((part.why for part in sourced if part.why), ""))
    return made
