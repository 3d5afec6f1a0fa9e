"""Shows what messages would send, and why: their events and notifications. Sends nothing.

The message's values are marked with their places before they are mapped (see `jirafe.sourced`). So each field of an
event shows where it comes from, and no rule of the mapping is written twice.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from consumer.admin.documents import read_documents
from jirafe import services
from jirafe.services import Event, UnknownMessageType, Unsendable
from jirafe.sourced import Sourced, marked
from schemas.avro_json import is_avro, message_of
from schemas.hub import HubError

_SUFFIXES = (".json", ".jsonl", ".ndjson")
_ENVELOPE = ("message", "message_id", "request_id")
_PARAMETERS = ("parameters", "payload.parameters")
# The two entries of a change in `diff` are its old and new value, so they keep their indices.
_INDEX = re.compile(r"(\bdiff\.\w+\[\d+\])|\[\d+\]", re.ASCII)
_FIXED = ("status", "is_product", "is_sku", "discount_price")


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an event: its path and value, and why it has that value."""

    path: str
    value: object
    why: str


@dataclass(slots=True)
class Preview:
    """What one message would send.

    `events` are pairs of a kind's name and a body, and `fields` explain each value of each event's body. `decisive`
    has the values that the choice of events depends on. `notes` say what was assumed, or why there is no event.
    `outdone` are places in the message that were not used because others have priority or because they don't apply.
    `unknown` are places that the mapping never reads.
    """

    message_id: str = ""
    message: str = ""
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    notifications: list[dict[str, str]] = field(default_factory=list)
    fields: list[list[Field]] = field(default_factory=list)
    decisive: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    outdone: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def is_faulty(self) -> bool:
        """Whether a notification is an error."""
        return any(notification["level"] == "error" for notification in self.notifications)

    def as_json(self) -> dict[str, Any]:
        """Return the preview as a JSON object, without the explanations."""
        notes = {"notes": self.notes} if self.notes else {}
        return {
            "message_id": self.message_id,
            "message": self.message,
            "events": [{"kind": kind, "body": _plain(body)} for kind, body in self.events],
            "notifications": self.notifications,
            **notes,
        }


@dataclass(frozen=True, slots=True)
class Given:
    """What a preview needs in addition to the message.

    The message's parameters override `defaults`, and `overrides` override both. `timestamp` is the record's, in
    milliseconds since 1970, and `stamped` says where it comes from.
    """

    defaults: Mapping[str, str]
    overrides: Mapping[str, str]
    timestamp: int
    stamped: str


def files_of(names: Iterable[str]) -> Iterator[str]:
    """List files. A folder stands for all its files named .json, .jsonl or .ndjson, in order."""
    for name in names:
        if name != "-" and Path(name).is_dir():
            yield from (str(path) for path in sorted(Path(name).rglob("*")) if path.suffix in _SUFFIXES)
        else:
            yield name


def of_file(name: str, blocks: Iterable[bytes], given: Given) -> Iterator[tuple[str, Preview]]:
    """Preview all messages of a file, each with its place. A message that can't be read gets an error."""
    documents = read_documents(blocks)
    try:
        first = next(documents, None)
        if first is None:
            yield name, _unreadable(Preview(), "there is no message in it")
            return
        second = next(documents, None)
        if second is None:
            yield name, of_document(first.value, given)
            return
        for document in chain((first, second), documents):
            yield f"{name}, message {document.number}", of_document(document.value, given)
    except HubError as error:
        yield name, _unreadable(Preview(), str(error))


def of_document(document: object, given: Given) -> Preview:
    """Preview one message, in the hub's JSON or in Avro's. If it can't be read, the preview has an error."""
    read: dict[str, object] = {}

    def mark(value: object, place: str) -> object:
        read[place] = value
        return marked(value, place)

    try:
        message = message_of(document, mark)
    except HubError as error:
        return _unreadable(Preview(), str(error))
    shown, used = _mapped(message, given, read)
    # If an event could not be made, it is unknown which values it would have used.
    whole = message if is_avro(document) else document
    unused = _unused(whole, "", read if shown.is_faulty else used)[0]
    outdone = [place for place in unused if any(_is_inside(known, place) for known in read)]
    shown.outdone, shown.unknown = (
        _named_once(outdone),
        _named_once(place for place in unused if place not in outdone),
    )
    return shown


def of_message(message: Mapping[str, Any], given: Given) -> Preview:
    """Preview a decoded message."""
    return _mapped(message, given, {})[0]


def _mapped(message: Mapping[str, Any], given: Given, read: Mapping[str, object]) -> tuple[Preview, set[str]]:
    """Preview a message. Also returns the places of the marked values that were used."""
    shown, used = Preview(message["message_id"], message["message"]), set[str]()
    parameters = {**given.defaults, **message["parameters"], **given.overrides}
    timestamp = marked(given.timestamp, given.stamped)
    try:
        made = services.make_events(shown.message, message["payload"], parameters, timestamp)
    except UnknownMessageType as error:
        return _unreadable(shown, str(error)), used
    for value in services.decisive(shown.message, message["payload"]):
        if isinstance(value, Sourced):
            used.update(value.sources)
            shown.decisive.append(f"{value.sources[0]} is {_quoted(value)}")
    for event in made:
        match event:
            case Unsendable(kind, _, problem):
                shown.notifications.append(services.notification_of_failed(kind, problem))
            case Event(kind, _, name, body):
                shown.events.append((kind.name, body))
                shown.notifications.append(services.notification_of_sendable(kind, name))
                leaves = list(_leaves(body))
                used.update(source for _, leaf in leaves if isinstance(leaf, Sourced) for source in leaf.sources)
                shown.fields.append([_explained(path, leaf, read) for path, leaf in leaves])
    if not made:
        taxonomy = parameters[services.CATEGORY_TAXONOMY]
        shown.notes.append(f"only taxons of taxonomy {taxonomy} ({services.CATEGORY_TAXONOMY}) become categories")
    if given.stamped in used:
        shown.notes.append(f"the message has no dates, so its event has {given.stamped}")
    return shown, used


def _unreadable(shown: Preview, why: str) -> Preview:
    shown.notifications = [services.notification_of_unreadable(why)]
    return shown


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """List the values inside an event's body, each with its path."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _leaves(part, f"{path}[{index}]")
    else:
        yield path, value


def _explained(path: str, value: object, read: Mapping[str, object]) -> Field:
    return Field(path, _plain(value), _why(path.rpartition(".")[2], value, read))


def _why(name: str, value: object, read: Mapping[str, object]) -> str:
    if isinstance(value, Sourced):
        why = f"from {' and '.join(value.sources)}"
        original = read.get(value.sources[0])
        if isinstance(original, str) and isinstance(value, str) and original != value:
            why += f" ({_quoted(original)})"
        return f"{why} {value.why}" if value.why.startswith('"') else ", ".join(filter(None, (why, value.why)))
    if name.endswith("_item_number"):
        return "(its position in the list)"
    return "(always)" if name in _FIXED else "(none in the message)"


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _plain(value: Any) -> Any:
    """Return a value without its marks."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    plain = next((kind for kind in (str, float, int) if isinstance(value, kind)), None)
    return value if plain is None or isinstance(value, bool) else plain(value)


def _unused(value: Any, place: str, used: Collection[str]) -> tuple[list[str], bool]:
    """List the unused places inside a document, and whether the whole document is unused.

    Empty values are left out, and so are booleans, which only say how to read other values.
    """
    if value in (None, "", [], {}) or isinstance(value, bool) or place in _PARAMETERS:
        return [], True
    if place in used or place in _ENVELOPE:
        return [], False
    if isinstance(value, dict):
        inner = [(f"{place}.{name}" if place else name, part) for name, part in value.items()]
    elif isinstance(value, list):
        inner = [(f"{place}[{index}]", part) for index, part in enumerate(value)]
    else:
        return [place], True
    found = [_unused(part, at, used) for at, part in inner]
    if place and all(whole for _, whole in found):
        return ([place] if any(places for places, _ in found) else []), True
    return [each for places, _ in found for each in places], False


def _is_inside(place: str, other: str) -> bool:
    return place == other or place.startswith((f"{other}.", f"{other}["))


def _named_once(places: Iterable[str]) -> list[str]:
    """Replace list indices by `[]`, and drop the duplicates that this makes."""
    return list(dict.fromkeys(_INDEX.sub(lambda found: found[1] or "[]", place) for place in places))
