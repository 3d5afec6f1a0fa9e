"""How the sandbox can be told to fail: descriptions of faults, and the choice of one for a request.

Pure: nothing here waits, sends or reads; chance comes from the random generator handed in.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias


class FaultError(ValueError):
    """A fault's description is invalid. The message is one sentence that says why."""


@dataclass(frozen=True)
class CannedBody:
    """A body that is sent unchanged."""

    text: str
    content_type: str


@dataclass(frozen=True)
class AnswerStatus:
    """Answer this status; the events are not processed."""

    status: int
    retry_after: str | None
    body: CannedBody | None


@dataclass(frozen=True)
class Delay:
    """Wait, then serve as usual or as the next fault says."""

    seconds: float


@dataclass(frozen=True)
class Reset:
    """Reset the connection, before or after the events are processed."""

    after: bool


@dataclass(frozen=True)
class Truncate:
    """Process the events, but cut the answer in the middle."""


@dataclass(frozen=True)
class Html:
    """Answer 200 with an HTML page; the events are not processed."""


@dataclass(frozen=True)
class Partial:
    """Answer some items with a transient error, and process the others."""


@dataclass(frozen=True)
class Mismatch:
    """Process the events, but leave the last item of the answer's first array out."""


@dataclass(frozen=True)
class Redirect:
    """Answer 302; the events are not processed."""


Action: TypeAlias = AnswerStatus | Delay | Reset | Truncate | Html | Partial | Mismatch | Redirect


_PLAIN: Mapping[str, Action] = {
    "truncate": Truncate(),
    "html": Html(),
    "partial": Partial(),
    "mismatch": Mismatch(),
    "redirect": Redirect(),
}


@dataclass(frozen=True)
class InjectedFault:
    """An action and the requests it is for."""

    action: Action
    times: int | None = 1
    """The number of requests it is for; None: all, until it is cleared."""
    ids: frozenset[str] = frozenset()
    """Only requests with an event of these ids; empty: any request."""
    site: str | None = None
    probability: float = 1.0
    description: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Traits:
    """The properties of a request that a fault can select by. A refused request has no events."""

    site: str
    ids: frozenset[str]
    events: int
    batch: bool


@dataclass(frozen=True)
class Injection:
    """What to do with a request: wait for `delay` seconds, then act, or serve it as usual without an action."""

    delay: float
    action: Action | None = None
    ids: frozenset[str] = frozenset()

    def failing(self, ids: Sequence[str | None]) -> frozenset[int]:
        """Return the places of the events a partial fault is for, given the ids of all: the first by default."""
        return (
            frozenset(place for place, known in enumerate(ids) if known in self.ids) if self.ids else frozenset({0})
        )


def parse(description: object) -> InjectedFault:
    """Read the description of a fault. Raises FaultError."""
    if not isinstance(description, Mapping):
        raise FaultError("A fault is described by one JSON object.")
    fields = dict(description)
    fault = InjectedFault(
        action=_action(fields),
        times=_take(fields, "times", 1, _is_times, "a positive integer or null"),
        ids=frozenset(_take(fields, "ids", (), _is_ids, "a list of at least one string")),
        site=_take(fields, "site", None, _is_text, "a string"),
        probability=_take(fields, "probability", 1.0, _is_probability, "a number from 0 to 1"),
        description=dict(description),
    )
    if fields:
        raise FaultError(f"The action {description['action']} takes no {', '.join(sorted(map(str, fields)))}.")
    return fault


def _action(fields: dict[str, Any]) -> Action:
    match fields.pop("action", None):
        case "status":
            return _status(fields)
        case "delay":
            if "seconds" not in fields:
                raise FaultError("A delay needs seconds.")
            return Delay(_take(fields, "seconds", 0, _is_seconds, "a number from 0 to 86400"))
        case "reset":
            return Reset(_take(fields, "after", False, _is_bool, "true or false"))  # noqa: FBT003 - a default
        case str(name) if name in _PLAIN:
            return _PLAIN[name]
    raise FaultError(f"An action is one of status, delay, reset, {', '.join(_PLAIN)}.")


def _status(fields: dict[str, Any]) -> AnswerStatus:
    status = _take(fields, "status", 503, _is_status, "an integer from 200 to 599")
    retry_after = _take(fields, "retry_after", None, _is_header, "a string that can stand in a header")
    if "body" not in fields:
        return AnswerStatus(status, retry_after, None)
    text = _take(fields, "body", "", _is_text, "a string")
    content_type = _take(fields, "content_type", "text/html", _is_header, "a string that can stand in a header")
    return AnswerStatus(status, retry_after, CannedBody(text, content_type))


def _take(fields: dict[str, Any], name: str, default: Any, fits: Callable[[Any], bool], wanted: str) -> Any:
    if name not in fields:
        return default
    value = fields.pop(name)
    if not fits(value):
        raise FaultError(f"{name} must be {wanted}, not {value!r}.")
    return value


def _is_number(value: Any) -> bool:
    return type(value) in {int, float}


def _is_times(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 1)


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_probability(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_seconds(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 86_400  # noqa: PLR2004 - a day


def _is_status(value: Any) -> bool:
    return type(value) is int and 200 <= value <= 599  # noqa: PLR2004 - the range of final statuses


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_header(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable()


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


@dataclass
class _Entry:
    number: int
    fault: InjectedFault
    applied: int = 0

    @property
    def remaining(self) -> int | None:
        return None if self.fault.times is None else self.fault.times - self.applied


class InjectedFaults:
    """The faults in force, in the order in which they were given. Not thread-safe."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._entries: list[_Entry] = []
        self._last = 0

    def add(self, fault: InjectedFault) -> int:
        """Put a fault in force and return its number."""
        self._last += 1
        self._entries.append(_Entry(self._last, fault))
        return self._last

    def clear(self) -> None:
        """Forget all faults."""
        self._entries.clear()

    def listing(self) -> list[dict[str, object]]:
        """Return the faults as described, with their counts; a spent one is listed until all are cleared."""
        return [
            {
                **entry.fault.description,
                "number": entry.number,
                "remaining": entry.remaining,
                "applied": entry.applied,
            }
            for entry in self._entries
        ]

    def choose(self, request: Traits) -> Injection:
        """Return the first fault for this request, with the delays before it. Counts each as applied."""
        delay = 0.0
        for entry in self._entries:
            if entry.remaining == 0 or not self._is_for(entry.fault, request):
                continue
            entry.applied += 1
            if not isinstance(entry.fault.action, Delay):
                return Injection(delay, entry.fault.action, entry.fault.ids)
            delay += entry.fault.action.seconds
        return Injection(delay)

    def _is_for(self, fault: InjectedFault, request: Traits) -> bool:
        if fault.site is not None and fault.site != request.site:
            return False
        if fault.ids and fault.ids.isdisjoint(request.ids):
            return False
        if not _has_what_it_takes(fault.action, request):
            return False
        return fault.probability >= 1 or self._chance.random() < fault.probability


def _has_what_it_takes(action: Action, request: Traits) -> bool:
    match action:
        case Partial():
            return request.events > 0
        case Mismatch():
            return request.events > 0 and request.batch
    return True
