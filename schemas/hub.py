"""From the hub's JSON, in all its observed shapes, to the message that the Avro schemas describe.

The shapes vary by the hub's age: the id is `message_id` or `request_id`; the object is in `payload` or at
top level; parameters are a list of name and value or a map, their names with dots or with underscores;
numbers may be strings; sections and fields may be missing or null. What the schemas do not name is dropped.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

KINDS = ("cart", "order", "taxon")

_INEXACT = 2.0**53

Message = dict[str, Any]
"""A message as the schemas of `cart.avsc`, `order.avsc` or `taxon.avsc` have it."""


class HubError(ValueError):
    """The JSON is not a hub message; the sentence names the place and what is wrong there."""


def parse(text: bytes | str) -> object:
    """Read one JSON document; raises HubError where it is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise HubError(f"not JSON: {error}") from None


def parse_all(text: bytes) -> list[object]:
    """Read hub JSON as files hold it: one object, a list of objects, or JSON lines; raises HubError."""
    try:
        document = parse(text)
    except HubError:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        if not lines or not _is_json(lines[0][1]):
            raise  # it is no document of lines either
        return [_line(number, line) for number, line in lines]
    return document if isinstance(document, list) else [document]


def _is_json(line: bytes) -> bool:
    try:
        parse(line)
    except HubError:
        return False
    return True


def _line(number: int, line: bytes) -> object:
    try:
        return parse(line)
    except HubError as error:
        raise HubError(f"line {number}: {error}") from None


def kind_of(message_type: str) -> str | None:
    """Name the schema of a message type (`order:new` -> `order`); None for a type that is not ours."""
    kind = message_type.partition(":")[0]
    return kind if kind in KINDS else None


def key_of(message: Message) -> str | None:
    """Give the key under which a message is produced: the order's or cart's number, the taxon's id."""
    payload = message["payload"]
    if "taxon" in payload:
        taxon = payload["taxon"]
        return taxon["id"] if taxon else None
    sections = [payload.get("cart"), payload.get("order"), payload["original"]]
    return next((section["number"] for section in sections if section and section["number"]), None)


def to_message(document: object) -> Message:
    """Convert one hub JSON document to the message of its schema.

    The message's type is `message`, or, for the later hubs that send none, told from the object: a `cart` is
    `cart:new`, a `taxon` is `taxon:new`, an `order` is `order:new`, or `order:updated` where the hub also
    says what it was before, or that it is canceled. Raises HubError.
    """
    envelope = _object(document, "the message")
    payload = _object(envelope.get("payload"), "payload") if envelope.get("payload") is not None else envelope
    message_type = _text(envelope, "", "message") or _inferred_type(payload)
    kind = kind_of(message_type)
    if kind is None:
        raise HubError(f"message: unknown type '{message_type}'; known are cart:*, order:* and taxon:* messages")
    return {
        "message": message_type,
        "message_id": _text(envelope, "", "message_id", "request_id") or "",
        "parameters": {**_parameters(envelope.get("parameters")), **_parameters(payload.get("parameters"))},
        "payload": _taxon_payload(payload) if kind == "taxon" else _order_payload(payload, kind),
    }


def _inferred_type(payload: Mapping[str, Any]) -> str:
    kind = next((kind for kind in KINDS if payload.get(kind) is not None), None)
    if kind is None:
        raise HubError("message: missing, and there is no cart, order or taxon that would tell the type")
    if kind != "order":
        return f"{kind}:new"
    changed = payload.get("previous") is not None or payload.get("diff") is not None
    if changed or _is_canceled(payload["order"]) or _is_canceled(payload.get("original")):
        return "order:updated"
    return "order:new"


def _is_canceled(section: object) -> bool:
    return isinstance(section, Mapping) and "canceled" in (section.get("status"), section.get("state"))


def _order_payload(payload: Mapping[str, Any], kind: str) -> Message:
    return {
        kind: _optional(payload, "", kind, _order),
        "original": _optional(payload, "", "original", _order),
        "previous": _optional(payload, "", "previous", _order),
        "diff": _diff(payload.get("diff")),
    }


def _taxon_payload(payload: Mapping[str, Any]) -> Message:
    return {"taxon": _optional(payload, "", "taxon", _taxon)}


def _taxon(raw: Mapping[str, Any], at: str) -> Message:
    names = ("id", "name", "taxonomy_id", "parent_id", "created_at", "updated_at")
    return {name: _text(raw, at, name) for name in names}


def _order(raw: Mapping[str, Any], at: str) -> Message:
    totals = _optional(raw, at, "totals", lambda section, _: section) or {}
    inside = f"{at}.totals"
    # A later hub's order has its number as a textual id; the shop's own id is a row number.
    identifier = raw.get("id")
    return {
        "number": _text(raw, at, "number") or (identifier if isinstance(identifier, str) and identifier else None),
        "status": _text(raw, at, "status", "state"),
        **{name: _text(raw, at, name) for name in ("email", "user_id", "currency", "placed_on")},
        **{name: _text(raw, at, name) for name in ("created_at", "updated_at", "completed_at", "canceled_at")},
        "item_total": _first(_number(totals, inside, "item"), _number(raw, at, "item_total")),
        "total": _first(_number(totals, inside, "order"), _number(raw, at, "total")),
        "tax_total": _first(_number(totals, inside, "tax"), _number(raw, at, "tax_total")),
        "ship_total": _first(_number(totals, inside, "shipping"), _number(raw, at, "ship_total")),
        "payment_fee": _first(_number(totals, inside, "payment_fee"), _number(raw, at, "payment_fee")),
        "line_items": _list(raw, at, "line_items", _line_item),
        "adjustments": _list(raw, at, "adjustments", _adjustment),
        "shipping_address": _address(raw, at, "shipping_address", "ship_address"),
        "billing_address": _address(raw, at, "billing_address", "bill_address"),
        **{name: _text(raw, at, name) for name in ("visit_id", "visitor_id", "pageview_id", "last_pageview_id")},
    }


def _line_item(raw: Mapping[str, Any], at: str) -> Message:
    return {
        **{name: _text(raw, at, name) for name in ("id", "product_id", "variant_id", "name", "sku")},
        "quantity": _whole_number(raw, at, "quantity"),
        "price": _number(raw, at, "price"),
        "created_at": _text(raw, at, "created_at"),
        "updated_at": _text(raw, at, "updated_at"),
        "variant": _optional(raw, at, "variant", _variant),
    }


def _variant(raw: Mapping[str, Any], at: str) -> Message:
    product = _optional(raw, at, "product", lambda section, _: section) or {}
    inside = f"{at}.product"
    return {
        **{name: _text(raw, at, name) for name in ("product_id", "name", "sku")},
        "price": _number(raw, at, "price"),
        "images": [
            url for url in _list(raw, at, "images", lambda image, i: _text(image, i, "attachment_url")) if url
        ],
        "taxons": _list(product, inside, "taxons", _product_taxon),
        "created_at": _text(product, inside, "created_at"),
        "updated_at": _text(product, inside, "updated_at"),
    }


def _product_taxon(raw: Mapping[str, Any], at: str) -> Message:
    return {name: _text(raw, at, name) for name in ("id", "name", "taxonomy_id")}


def _adjustment(raw: Mapping[str, Any], at: str) -> Message:
    return {
        "label": _text(raw, at, "name", "label"),
        "amount": _first(_number(raw, at, "value"), _number(raw, at, "amount")),
        "eligible": raw.get("eligible") is not False,
    }


def _address(raw: Mapping[str, Any], at: str, *names: str) -> Message | None:
    name = next((name for name in names if raw.get(name)), None)
    if name is None:
        return None
    inside, address = f"{at}.{name}", _object(raw[name], f"{at}.{name}")
    return {
        **{part: _text(address, inside, part) for part in ("firstname", "lastname", "address1", "city", "zipcode")},
        "state": _named(address, inside, "state", "name", "abbr") or _text(address, inside, "state_name"),
        "country": _named(address, inside, "country", "name", "iso"),
    }


def _named(raw: Mapping[str, Any], at: str, name: str, *inner: str) -> str | None:
    """Read a field that is text in the normalised form and an object with a name in Spree's raw form."""
    value = raw.get(name)
    return _text(value, f"{at}.{name}", *inner) if isinstance(value, Mapping) else _text(raw, at, name)


def _parameters(raw: object) -> dict[str, str]:
    """Take the parameters that are ours: other integrations' settings, passwords among them, stay behind."""
    found = {}
    for name, value in _pairs(raw):
        if not isinstance(name, str) or name[:7] not in {"jirafe.", "jirafe_"} or value is None:
            continue
        dotted = f"jirafe.{name[7:]}"
        # A wrong value is not quoted: it may be an access token.
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise HubError(f"parameters.{dotted}: must be text or a number")
        if (text := _written(value, f"parameters.{dotted}")).strip():
            found[dotted] = text
    return found


def _pairs(raw: object) -> Iterable[tuple[Any, Any]]:
    """Give names and values of parameters, which are an object or a list of objects."""
    if raw is None:
        return ()
    if isinstance(raw, Mapping):
        return raw.items()
    if isinstance(raw, list) and all(isinstance(parameter, Mapping) for parameter in raw):
        return [(parameter.get("name"), parameter.get("value")) for parameter in raw]
    raise HubError("parameters: must be a list of objects with name and value, or one object")


def _diff(raw: object) -> dict[str, list[str | None]]:
    if raw is None:
        return {}
    return {
        name: [None if side is None else str(side) for side in (change if isinstance(change, list) else [change])]
        for name, change in _object(raw, "diff").items()
    }


def _object(value: object, at: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise HubError(f"{at}: must be an object, and is {_said(value)}")
    return value


def _optional(raw: Mapping[str, Any], at: str, name: str, convert: Any) -> Any:
    value, inside = raw.get(name), f"{at}.{name}".lstrip(".")
    return None if value is None else convert(_object(value, inside), inside)


def _list(raw: Mapping[str, Any], at: str, name: str, convert: Any) -> list[Any]:
    """Convert a list's objects; empty ones, as some hubs leave for what they elide, are passed over."""
    values = raw.get(name)
    if values is None:
        return []
    if not isinstance(values, list):
        raise HubError(f"{at}.{name}: must be a list, and is {_said(values)}")
    places = ((value, f"{at}.{name}.{index}") for index, value in enumerate(values))
    return [
        convert(_object(value, inside), inside) for value, inside in places if value != {} and value is not None
    ]


def _text(raw: Mapping[str, Any], at: str, *names: str) -> str | None:
    """Read the first of the names that has a value, as text; blank text is no value."""
    for name in names:
        value = raw.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise HubError(f"{f'{at}.{name}'.lstrip('.')}: must be text or a number, and is {_said(value)}")
        text = _written(value, f"{at}.{name}".lstrip("."))
        if text.strip():
            return text
    return None


def _written(value: str | float, at: str) -> str:
    """Write an id as text; one that JSON's numbers have lost digits of would be another's."""
    if isinstance(value, float) and value.is_integer():
        if abs(value) >= _INEXACT:
            raise HubError(f"{at}: is too large a number to be read exactly; write it as text")
        return str(int(value))
    return str(value)


def _number(raw: Mapping[str, Any], at: str, name: str) -> float | None:
    value = raw.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        # float() would take True for 1, and "1_000" for a thousand.
        number = math.nan if isinstance(value, bool) or "_" in str(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise HubError(f"{at}.{name}: must be a number, and is {_said(value)}")
    return number


def _whole_number(raw: Mapping[str, Any], at: str, name: str) -> int | None:
    number = _number(raw, at, name)
    if number is not None and (number != int(number) or abs(number) >= 2**63):
        raise HubError(f"{at}.{name}: must be a whole number, and is {_said(raw[name])}")
    return None if number is None else int(number)


def _first(one: float | None, other: float | None) -> float | None:
    return other if one is None else one


def _said(value: object) -> str:
    """Say a wrong value in a few characters; of what has parts, which may be secrets, only what it is."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = str(orjson.dumps(value), "utf-8")
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004 - a line's worth
