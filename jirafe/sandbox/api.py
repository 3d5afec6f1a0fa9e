"""The API's side of a conversation: the events in a request, and the answer to them. Pure."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, NoReturn, TypeAlias

from jirafe.sandbox.validation import KINDS, Validator


@dataclass(frozen=True)
class Answer:
    """A status and a JSON body."""

    status: int
    body: Mapping[str, object]


def refusal(status: int, error_type: str, message: str) -> Answer:
    """Return the answer to a request that is refused as a whole."""
    return Answer(status, {"error_type": error_type, "message": message, "success": False})


@dataclass(frozen=True)
class ReceivedEvent:
    """An event as sent: any JSON value, until it is judged."""

    kind: str
    body: object
    text: str
    """Its canonical JSON."""

    @property
    def id(self) -> str | None:
        """The event's id, or the number of an order, if it is a string."""
        return self._string("order_number" if self.kind == "order" else "id")

    @property
    def status(self) -> str | None:
        """Which event of an order it is, if that is a string."""
        return self._string("status") if self.kind == "order" else None

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def _string(self, name: str) -> str | None:
        value = self.body.get(name) if isinstance(self.body, dict) else None
        return value if isinstance(value, str) else None


@dataclass(frozen=True)
class Single:
    """A request with one event."""

    event: ReceivedEvent

    @property
    def events(self) -> tuple[ReceivedEvent, ...]:
        """The events in order of arrival."""
        return (self.event,)

    def answer(self, results: Sequence[Mapping[str, object]]) -> Answer:
        """Make the answer from the result of the event."""
        (result,) = results
        if result.get("success"):
            return Answer(200, result)
        return Answer(400 if result["error_type"] == "validation" else 503, result)


@dataclass(frozen=True)
class Batch:
    """A request with arrays of events, by kind."""

    arrays: Mapping[str, tuple[ReceivedEvent, ...]]

    @cached_property
    def events(self) -> tuple[ReceivedEvent, ...]:
        """The events in order of arrival."""
        return tuple(event for array in self.arrays.values() for event in array)

    def answer(self, results: Sequence[Mapping[str, object]]) -> Answer:
        """Make the answer from the results of all events, in the same order."""
        rest = iter(results)
        return Answer(200, {kind: list(islice(rest, len(array))) for kind, array in self.arrays.items()})


Call: TypeAlias = Single | Batch


def read(kind: str, raw: bytes) -> Call | Answer:
    """Read the body of a request: its events, or the refusal of the whole."""
    if kind != "batch" and kind not in KINDS:
        return _invalid_type(kind)
    try:
        body = parse_json(raw)
        if not isinstance(body, dict):
            return refusal(400, "bad_json", "The body is not a JSON object.")
        return _batch(body) if kind == "batch" else Single(_event(kind, body))
    except RecursionError:
        return refusal(400, "bad_json", "The body is not JSON that can be read: it is nested too deeply.")
    except ValueError as error:
        return refusal(400, "bad_json", f"The body is not JSON that can be read: {error}.")


def parse_json(raw: bytes) -> Any:
    """Parse strict JSON. Raises ValueError, or RecursionError if it is nested too deeply."""
    return json.loads(raw, parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")


def _batch(body: Mapping[str, object]) -> Batch | Answer:
    arrays: dict[str, tuple[ReceivedEvent, ...]] = {}
    for kind, array in body.items():
        if kind not in KINDS:
            return _invalid_type(kind)
        if not isinstance(array, list):
            return refusal(400, "bad_json", f"The value of {kind} is not an array.")
        arrays[kind] = tuple(_event(kind, item) for item in array)
    return Batch(arrays)


def _event(kind: str, body: object) -> ReceivedEvent:
    # A number like 1e999 is infinite once read, which no JSON can say: refused as unreadable.
    return ReceivedEvent(kind, body, json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False))


def _invalid_type(kind: str) -> Answer:
    return refusal(400, "invalid_type", f"There is no {kind!r}. There are {', '.join(KINDS)}, and batch.")


def judge(validator: Validator, event: ReceivedEvent) -> Mapping[str, object]:
    """Return the result of one event."""
    errors = validator.errors(event.kind, event.body)
    return {"error_type": "validation", "errors": errors, "success": False} if errors else {"success": True}


def transient_error() -> Mapping[str, object]:
    """Return the result of an event that failed, but may succeed later."""
    return {"error_type": "unknown", "message": "An unexpected error occurred.", "success": False}
