"""Finds probably misspelled fields in hub JSON: nothing reads them, but they resemble a field that is read."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

_MOST = 1000
_SHORT, _LONG = 3, 6
_SEPARATORS = re.compile(r"[^a-z0-9]")


class Stray(NamedTuple):
    """A field that is not read: its first place, its path, the field that may be meant, and how often it came."""

    place: str
    path: str
    meant: str
    times: int


class _Fields(dict[str, Any]):
    """An object of a document that records which of its fields are read."""

    def __init__(self, fields: dict[str, Any], path: str) -> None:
        super().__init__(fields)
        self.path = path
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return super().__getitem__(name)

    def items(self) -> Any:
        self.asked.update(self)
        return super().items()


class Spelling:
    """Watches which fields of a document are read, so it needs no list of known fields.

    Hubs send many fields that are not needed. A field counts as misspelled only if it resembles a field that the
    reader looked for and did not find.
    """

    def __init__(self) -> None:
        self._objects: list[_Fields] = []
        self._meant: dict[tuple[str, str], str | None] = {}
        self._found: dict[tuple[str, str], Stray] = {}

    def watched(self, document: object) -> object:
        """Return an equal document that records what is read. Read that one instead."""
        self._objects.clear()
        return self._watched(document, "")

    def _watched(self, value: object, path: str) -> object:
        if isinstance(value, dict):
            fields = {name: self._watched(each, f"{path}.{name}".lstrip(".")) for name, each in value.items()}
            self._objects.append(_Fields(fields, path))
            return self._objects[-1]
        if isinstance(value, list):
            return [self._watched(each, path) for each in value]
        return value

    def note(self, place: str) -> None:
        """Record the unread fields of the last watched document. Call it once the document has been read."""
        for each in self._objects:
            if not each.asked:
                continue  # it is inside a field that is not read, and only that field is reported
            for name in each.keys() - each.asked:
                meant = self._closest(each, name)
                if meant and dict.get(each, meant) is None:
                    key = (each.path, name)
                    first = self._found.get(key) or Stray(place, f"{each.path}.{name}".lstrip("."), meant, 0)
                    self._found[key] = first._replace(times=first.times + 1)

    def _closest(self, of: _Fields, name: str) -> str | None:
        key = (of.path, name)
        if key not in self._meant:
            if len(self._meant) >= _MOST:
                return None
            distances = {each: _distance(_plain(name), _plain(each)) for each in sorted(of.asked)}
            nearest = min(distances, key=distances.__getitem__)
            length = len(_plain(nearest))
            most = 0 if length < _SHORT else 1 if length < _LONG else 2
            self._meant[key] = nearest if distances[nearest] <= most else None
        return self._meant[key]

    def strays(self) -> Iterator[Stray]:
        """Yield the stray fields in the order in which they were found."""
        yield from self._found.values()


def _plain(name: str) -> str:
    return _SEPARATORS.sub("", name.lower())[:40]


def _distance(one: str, other: str) -> int:
    """Count the typing errors between two words: letters left out, added, changed or swapped with the next."""
    before, last = list[int](), list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b)))
            if before and j > 1 and a == other[j - 2] and one[i - 2] == b:
                row[j] = min(row[j], before[j - 2] + 1)
        before, last = last, row
    return last[-1]
