"""Hub messages in the JSON encoding of Avro, as Kafka tools print them: `{"string": "R1"}` for an optional text.

https://avro.apache.org/docs/1.12.0/specification/#json-encoding
"""

from collections.abc import Mapping
from io import StringIO
from typing import Any

import orjson
from fastavro import json_reader, validate
from fastavro.validation import ValidationError

from schemas.hub import HubError, Message, kind_of, to_message
from schemas.own import own_schema
from schemas.reading import Mark

_OURS = "jirafe.hub."


def message_of(document: object, mark: Mark | None = None) -> Message:
    """Read a document that is a hub's JSON, or Avro's; raises HubError. `mark` is as in `to_message`."""
    kind = _kind_in_avro(document)
    if kind is None:
        return to_message(document, mark)
    try:
        schema = own_schema(kind)
        (message,) = json_reader(StringIO(orjson.dumps(document).decode()), schema)
        validate(message, schema)
    except Exception as error:  # noqa: BLE001 - what does not fit the schema surfaces as any error of the reader
        raise HubError(f"this is the JSON encoding of Avro, but no {kind} message in it: {_said(error)}") from None
    if not isinstance(message, dict):
        raise HubError("this is the JSON encoding of Avro, but no message in it")
    return message if mark is None else {**message, "payload": _marked(message["payload"], "payload", mark)}


def is_avro(document: object) -> bool:
    """Return whether a document is in Avro's JSON."""
    return _kind_in_avro(document) is not None


def _said(error: Exception) -> str:
    """Say what does not fit a schema. fastavro's own text would quote values, which may be access tokens."""
    if not isinstance(error, ValidationError):
        return type(error).__name__
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
