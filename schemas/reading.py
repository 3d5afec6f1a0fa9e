"""Reads the hub's JSON. Each object knows its place, so that errors can name it."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

DEEPEST = 200
"""The deepest nesting of a document that is read."""

_NAMED = 3
_LONGEST_NAME = 40
_NESTING = (dict, list)
_NUMERIC = (float, int, str)
_INEXACT = 2.0**53

Mark = Callable[[Any, str], Any]
"""Gets a value that was read and its place (`order.line_items.0.price`). Returns the value for the message."""


class HubError(ValueError):
    """The JSON is not a hub message; the sentence names the place and what is wrong there."""


def document_of(text: bytes) -> Any:
    """Parse a document. Raises JSONDecodeError, or HubError if it is nested more than `DEEPEST` levels deep.

    So code may read a document by recursion.
    """
    document = orjson.loads(text)
    # An ordinary message has fewer brackets, and is not looked through.
    if text.count(b"{") + text.count(b"[") > DEEPEST and _is_deeper(document, DEEPEST):
        raise HubError(f"{_deep_place(document)}: nested more than {DEEPEST} levels deep")
    return document


def _deep_place(document: Any) -> str:
    """Return the beginning of a place that is nested too deep."""
    names: list[str] = []
    while len(names) < _NAMED:
        parts = document.items() if isinstance(document, dict) else enumerate(document)
        name, document = next(each for each in parts if _is_deeper(each[1], DEEPEST - 1 - len(names)))
        names.append(str(name)[:_LONGEST_NAME])
    return ".".join(names)


def _is_deeper(value: Any, most: int) -> bool:
    """Return whether a value is nested more than this many levels deep."""
    level = [value] if type(value) in _NESTING else []
    for _ in range(most):
        if not level:
            break
        level = [
            part
            for each in level
            for part in (each.values() if type(each) is dict else each)
            if type(part) in _NESTING
        ]
    return bool(level)


class Section:
    """An object of the hub's JSON. Null values and blank text count as absent.

    If a method takes several names, it reads the first that has a value. Methods raise HubError if a value does not
    have the requested form. `mark` is called with each value that is read, and its return value is used instead.
    """

    __slots__ = ("_at", "_mark", "_raw")

    def __init__(self, raw: Mapping[str, Any], at: str = "", mark: Mark | None = None) -> None:
        self._raw = raw
        self._at = at
        self._mark = mark

    @classmethod
    def of(cls, value: object, at: str, mark: Mark | None = None) -> "Section":
        """Make a section of a value, which must be an object."""
        if not isinstance(value, Mapping):
            raise HubError(f"{at or 'the message'}: must be an object, but is {_form(value)}")
        return cls(value, at, mark)

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def value(self, name: str) -> Any:
        """Return a value as it is, None if it is missing."""
        return self._raw.get(name)

    def text(self, *names: str) -> str | None:
        """Read text. A number becomes text."""
        for name in names:
            value = self._raw.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise HubError(f"{self._place(name)}: must be text or a number, but is {_said(value)}")
            text = written(value, self._place(name))
            if text.strip():
                marked: str = self._marked(text, name)
                return marked
        return None

    def number(self, *names: str) -> float | None:
        """Read a number, or text that contains one."""
        for name in names:
            value = self._raw.get(name)
            if value is None or (isinstance(value, str) and not value.strip()):
                continue
            try:
                # float() would take True for 1, and "1_000" for a thousand.
                number = float(value) if type(value) in _NUMERIC and "_" not in str(value) else math.nan
            except (ValueError, OverflowError):
                number = math.nan
            if not math.isfinite(number):
                raise HubError(f"{self._place(name)}: must be a number, but is {_said(value)}")
            marked: float = self._marked(number, name)
            return marked
        return None

    def whole_number(self, name: str) -> int | None:
        """Read a whole number of 64 bits."""
        number = self.number(name)
        if number is None:
            return None
        if number != int(number) or abs(number) >= 2**63:
            raise HubError(f"{self._place(name)}: must be a whole number, but is {_said(self._raw[name])}")
        marked: int = self._marked(int(number), name)
        return marked

    def is_false(self, name: str) -> bool:
        """Return whether a value exists and is false."""
        return self._marked(self._raw.get(name), name) is False

    def section(self, name: str) -> "Section | None":
        """Read an object, None if it is missing."""
        value = self._raw.get(name)
        return None if value is None else Section.of(value, self._place(name), self._mark)

    def part(self, *way: str) -> "Section":
        """Return the object at the end of a path, or an empty one. The names in a list are its indices."""
        section = self
        for name in way:
            value = section._raw.get(name)
            if isinstance(value, list):
                value = {str(index): item for index, item in enumerate(value)}
            section = Section(value if isinstance(value, Mapping) else {}, section._place(name), self._mark)
        return section

    def sections(self, name: str) -> "list[Section]":
        """Read a list's objects. Ignores empty ones, which some hubs leave for omitted objects."""
        values = self._raw.get(name)
        if values is None:
            return []
        if not isinstance(values, list):
            raise HubError(f"{self._place(name)}: must be a list, but is {_form(values)}")
        return [
            Section.of(value, f"{self._place(name)}.{index}", self._mark)
            for index, value in enumerate(values)
            if value != {} and value is not None
        ]

    def any_of(self, name: str) -> "Iterator[str | Section]":
        """Yield a list's texts and objects. Ignores items of other types, and a value that is not a list."""
        values = self._raw.get(name)
        for index, value in enumerate(values if isinstance(values, list) else ()):
            at = f"{name}.{index}"
            if isinstance(value, Mapping) and value:
                yield Section(value, self._place(at), self._mark)
            elif isinstance(value, str) and value.strip():
                yield self._marked(value, at)

    def objects(self, name: str) -> "list[Section]":
        """Return a list's objects. Ignores items of other types, and a value that is not a list."""
        return [value for value in self.any_of(name) if isinstance(value, Section)]

    def change(self, name: str) -> list[str | None] | None:
        """Read how a plain field changed: [before, after], or only the new value. None if it is not plain."""
        value = self._raw[name]
        sides = (
            [(f"{name}.{index}", side) for index, side in enumerate(value)]
            if isinstance(value, list)
            else [(name, value)]
        )
        if any(isinstance(side, list | dict) for _, side in sides):
            return None
        return [None if side is None else self._marked(str(side), at) for at, side in sides]

    def _place(self, name: str) -> str:
        return f"{self._at}.{name}" if self._at else name

    def _marked(self, value: Any, name: str) -> Any:
        return value if self._mark is None else self._mark(value, self._place(name))


def written(value: str | float, at: str) -> str:
    """Write an id as text. Raises HubError if JSON may have lost digits of it, which would make it another id."""
    if isinstance(value, float) and value.is_integer():
        if abs(value) >= _INEXACT:
            raise HubError(f"{at}: is too large a number to be read exactly; write it as text")
        return str(int(value))
    return str(value)


def _form(value: object) -> str:
    """Say what stands where an object or a list must be. Do not quote text: it may be their JSON, with secrets."""
    return "text" if isinstance(value, str) else _said(value)


def _said(value: object) -> str:
    """Quote a wrong value in a few characters. Do not quote lists and objects, which may contain secrets."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = str(orjson.dumps(value), "utf-8")
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004 - a line's worth
