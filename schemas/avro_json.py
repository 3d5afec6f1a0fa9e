"""Hub messages in the JSON encoding of Avro, as Kafka tools print them: `{"string": "R1"}` for an optional text.

https://avro.apache.org/docs/1.12.0/specification/#json-encoding
"""

from collections.abc import Mapping
from typing import Any

from fastavro import validate
from fastavro.validation import ValidationError

from schemas.hub import HubError, Message, kind_of, to_message
from schemas.own import own_schema
from schemas.reading import Mark
from schemas.writers import Schema

_OURS = "jirafe.hub."
_UNFIT = object()


def message_of(document: object, mark: Mark | None = None) -> Message:
    """Read a document that is a hub's JSON, or Avro's; raises HubError. `mark` is as in `to_message`."""
    kind = _kind_in_avro(document)
    if kind is None:
        return to_message(document, mark)
    schema = own_schema(kind)
    message: Message = _plain(document, schema, schema["__named_schemas"])
    try:
        validate(message, schema)
    except ValidationError as error:
        raise HubError(f"this is Avro's JSON encoding, but no valid {kind} message: {_said(error)}") from None
    return message if mark is None else {**message, "payload": _marked(message["payload"], "payload", mark)}


def is_avro(document: object) -> bool:
    """Return whether a document is in Avro's JSON."""
    return _kind_in_avro(document) is not None


def _plain(value: Any, schema: Any, types: Mapping[str, Schema]) -> Any:
    """Return a value without the names of branches, and with defaults. What does not fit its type stays so.

    fastavro's own reader takes time in proportion to the square of the length of a list or a map.
    """
    if isinstance(schema, list):
        return value if value is None else _of_branch(value, schema, types)
    definition: Any = types.get(schema, schema) if isinstance(schema, str) else schema
    match definition:
        case {"type": "record", "fields": fields} if isinstance(value, Mapping):
            given = ((each, value.get(each["name"], each.get("default", _UNFIT))) for each in fields)
            return {each["name"]: _plain(part, each["type"], types) for each, part in given}
        case {"type": "array", "items": items} if isinstance(value, list):
            return [_plain(part, items, types) for part in value]
        case {"type": "map", "values": values} if isinstance(value, Mapping):
            return {name: _plain(part, values, types) for name, part in value.items()}
    return value


def _of_branch(value: Any, branches: list[Any], types: Mapping[str, Schema]) -> Any:
    name, part = next(iter(value.items())) if isinstance(value, Mapping) and len(value) == 1 else (None, None)
    for branch in branches:
        if name == (branch["name"] if isinstance(branch, dict) else branch):
            return _plain(part, branch, types)
    return _UNFIT


def _said(error: ValidationError) -> str:
    """Say what does not fit a schema. fastavro's own text would quote values, which may be access tokens."""
    expected: dict[str, list[str]] = {}
    for each in error.errors:
        schema = each.schema
        expected.setdefault(each.field, []).append(schema["type"] if isinstance(schema, dict) else str(schema))
    return "; ".join(f"{place} must be {' or '.join(types)}" for place, types in expected.items())


def _marked(value: Any, place: str, mark: Mark) -> Any:
    """Mark the values of a message with their places in it."""
    if isinstance(value, dict):
        return {name: _marked(part, f"{place}.{name}", mark) for name, part in value.items()}
    if isinstance(value, list):
        return [_marked(part, f"{place}[{index}]", mark) for index, part in enumerate(value)]
    return value if value is None else mark(value, place)


def _kind_in_avro(document: object) -> str | None:
    """Name the schema of a document in Avro's JSON; None for any other document."""
    if not isinstance(document, Mapping) or not isinstance(document.get("message"), str):
        return None
    payload = document.get("payload")
    return kind_of(document["message"]) if isinstance(payload, Mapping) and _has_branch(payload) else None


def _has_branch(payload: Mapping[str, Any]) -> bool:
    """Return whether a part of a payload is an object that names the branch of a union, a record of ours.

    Nothing deeper tells: shops name options and parameters as they like, such as `{"string": "Nylon"}`.
    """
    parts = (part for part in payload.values() if isinstance(part, Mapping))
    return any(len(part) == 1 and next(iter(part)).startswith(_OURS) for part in parts)
