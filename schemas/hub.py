"""Converts the hub's JSON, in all its observed forms, to the message that the Avro schemas describe.

The shapes vary by the hub's age: the id is `message_id` or `request_id`; the object is in `payload` or at
top level; parameters are a list of name and value or a map, their names with dots or with underscores;
numbers may be strings; sections and fields may be missing or null. What the schemas do not name is dropped.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from schemas import sections
from schemas.reading import HubError, Mark, Section, written

__all__ = ["HubError", "key_of", "kind_of", "to_message"]

KINDS = ("cart", "order", "product", "taxon")

_TYPE = re.compile(r"[\w:.-]{1,60}")
_INDEX = re.compile(r"\.(\d+)(?=\.|$)", re.ASCII)

Message = dict[str, Any]
"""A message as the schemas of `cart.avsc`, `order.avsc`, `product.avsc` or `taxon.avsc` have it."""


def kind_of(message_type: str) -> str | None:
    """Return the name of a message type's schema (`order:new` -> `order`). None for a type that is not ours."""
    kind = message_type.partition(":")[0]
    return kind if kind in KINDS else None


def key_of(message: Message) -> str | None:
    """Return the key of a message in Kafka: a cart's or order's number, a product's sku, a taxon's id."""
    payload = message["payload"]
    for kind, name in (("taxon", "id"), ("product", "sku")):
        if kind in payload:
            return payload[kind][name] if payload[kind] else None
    orders = [payload.get("cart"), payload.get("order"), payload["original"]]
    return next((order["number"] for order in orders if order and order["number"]), None)


def to_message(document: object, mark: Mark | None = None) -> Message:
    """Convert one hub JSON document to the message of its schema.

    The message's type is `message`, or, for the later hubs that send none, derived from the object: a `cart` is
    `cart:new`, a `product` is `product:new`, a `taxon` is `taxon:new`, an `order` is `order:new`, or
    `order:updated` where the hub also says what it was before, or that it is canceled. An `original` alone is an
    order if it was completed, else a cart. `mark` is given each value of the payload and its place in the document
    (`payload.order.line_items[0].price`), and gives what is put into the message. Raises HubError.
    """
    envelope = Section.of(document, "")
    inner, root = envelope.value("payload"), "payload."
    if inner is None:
        inner, root = document, ""
    elif not isinstance(inner, Mapping):
        Section.of(inner, "payload")
    # An error names the place inside the payload, wherever the payload is in the document.
    payload = Section(inner, "", _marking(mark, root) if mark else None)
    message_type = envelope.text("message") or _inferred_type(payload)
    kind = kind_of(message_type)
    if kind is None:
        # Do not quote other text: it may be a whole message, with secrets.
        what = f"unknown type '{message_type}'" if _TYPE.fullmatch(message_type) else "not a message type"
        raise HubError(f"message: {what}; known types: cart:*, order:*, product:* and taxon:*")
    return {
        "message": message_type,
        "message_id": envelope.text("message_id", "request_id") or "",
        "parameters": {**_parameters(envelope.value("parameters")), **_parameters(inner.get("parameters"))},
        "payload": _payload(payload, kind),
    }


def _marking(mark: Mark, root: str) -> Mark:
    """Name places as a document's reader does: from its top, and with indices in brackets."""
    return lambda value, at: mark(value, root + _INDEX.sub(r"[\1]", at))


def _inferred_type(payload: Section) -> str:
    original = payload.part("original")
    kind = next((kind for kind in KINDS if payload.value(kind) is not None), None) or _kind_of_raw(original)
    if kind is None:
        raise HubError("message: missing, and there is no cart, order, product or taxon that shows the type")
    if kind != "order":
        return f"{kind}:new"
    changed = payload.value("previous") is not None or payload.value("diff") is not None
    if changed or sections.is_canceled(payload.part("order")) or sections.is_canceled(original):
        return "order:updated"
    return "order:new"


def _kind_of_raw(original: Section) -> str | None:
    """Return the kind of a shop's own object. In Spree, a cart is an order that is not completed."""
    if original.value("number") is not None:
        return "order" if original.value("completed_at") is not None or sections.is_canceled(original) else "cart"
    if original.value("taxonomy_id") is not None:
        return "taxon"
    is_product = any(original.value(name) is not None for name in ("sku", "master", "variants"))
    return "product" if is_product else None


def _payload(payload: Section, kind: str) -> Message:
    own, original = payload.section(kind), payload.section("original")
    if kind == "product":
        product = own or original
        return {"product": sections.product(product, original or product) if product else None}
    if kind == "taxon":
        taxon = own or original
        return {"taxon": sections.taxon(taxon) if taxon else None}
    previous, diff = payload.section("previous"), payload.section("diff")
    return {
        kind: sections.order(own) if own else None,
        "original": sections.order(original) if original else None,
        "previous": sections.order(previous) if previous else None,
        "previous_items": _previous_items(diff) if diff else [],
        "diff": _diff(diff) if diff else {},
    }


def _previous_items(diff: Section) -> list[Message]:
    """Convert the line items from before the change, if the diff has them: lists of the items before and after."""
    return [sections.line_item(item) for item in diff.part("line_items").objects("0")]


def _diff(diff: Section) -> dict[str, list[str | None]]:
    """Read the changes of plain fields. Other fields are read elsewhere, or not at all."""
    return {name: change for name in diff if (change := diff.change(name)) is not None}


def _parameters(raw: object) -> dict[str, str]:
    """Read our own parameters. Those of other integrations are dropped, because they may be passwords."""
    found = {}
    for name, value in _pairs(raw):
        if not isinstance(name, str) or name[:7] not in {"jirafe.", "jirafe_"} or value is None:
            continue
        dotted = f"jirafe.{name[7:]}"
        # Do not quote a wrong value, because it may be an access token.
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise HubError(f"parameters.{dotted}: must be text or a number")
        if (text := written(value, f"parameters.{dotted}")).strip():
            found[dotted] = text
    return found


def _pairs(raw: object) -> Iterable[tuple[Any, Any]]:
    """Return names and values of parameters, which are an object or a list of objects."""
    if raw is None:
        return ()
    if isinstance(raw, Mapping):
        return raw.items()
    if isinstance(raw, list) and all(isinstance(parameter, Mapping) for parameter in raw):
        return [(parameter.get("name"), parameter.get("value")) for parameter in raw]
    raise HubError("parameters: must be a list of objects with name and value, or one object")
