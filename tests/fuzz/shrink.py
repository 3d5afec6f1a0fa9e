"""Shrinks a failing case by leaving out parts of it."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.fuzz.targets import Case

_PARTS = (1, 2, 4, 8, 16)


def shrink(case: Case, fails: Callable[[Case], bool], *, seconds: float, tries: int) -> Case:
    """Give the smallest case found that still fails, within a time and a number of tries. Blocks."""
    end = time.monotonic() + seconds
    progress = True
    while progress:
        progress = False
        for candidate in smaller(case):
            if tries <= 0 or time.monotonic() > end:
                return case
            tries -= 1
            if fails(candidate):
                case, progress = candidate, True
                break
    return case


def smaller(value: Any) -> Iterator[Any]:
    """Yield smaller values like this one, the smallest first."""
    match value:
        case dict():
            for key in value:
                yield {name: each for name, each in value.items() if name != key}
            for key in value:
                for each in smaller(value[key]):
                    yield {**value, key: each}
        case list():
            yield from _without_parts(value)
            for index, inner in enumerate(value):
                for each in smaller(inner):
                    yield [*value[:index], each, *value[index + 1 :]]
        case str() if value:
            if isinstance(document := _document(value), dict | list):
                for each in smaller(document):
                    yield json.dumps(each)
            else:
                yield from _without_parts(value)
        case int() if value and not isinstance(value, bool):
            yield from (0, value // 2)
        case _:
            pass


def _document(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _without_parts(whole: Any) -> Iterator[Any]:
    """Yield a list or text without some part: all of it, then halves, quarters and so on."""
    for parts in _PARTS:
        size = len(whole) // parts
        if not size:
            return
        for start in range(0, len(whole), size):
            yield whole[:start] + whole[start + size :]
