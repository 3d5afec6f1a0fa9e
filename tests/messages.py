"""Hub messages for tests: small, valid, and changed as a test needs."""

from typing import Any

CHARACTERS = "aZ09 ._:/%\n\0ä€\U0001f45c"
"""The characters of drawn texts: some of each kind. A strategy for all of Unicode takes seconds to set up."""


def line_item(**changed: Any) -> dict[str, Any]:
    return {"id": 1, "sku": "BAG-1", "name": "Bag", "product_id": 7, "quantity": 2, "price": "10.50", **changed}


def sale(number: str, **changed: Any) -> dict[str, Any]:
    """A cart or an order in the hub's normalized form."""
    return {
        "number": number,
        "email": "ann@example.com",
        "currency": "USD",
        "placed_on": "2014-03-01T10:00:00Z",
        "updated_at": "2014-03-01T10:05:00Z",
        "totals": {"item": 21, "order": 26, "tax": 2, "shipping": 3},
        "line_items": [line_item()],
        **changed,
    }


def nested(levels: int, inner: bytes = b"") -> bytes:
    """Lists within each other, as JSON."""
    return b"[" * levels + inner + b"]" * levels


def message(message_type: str, message_id: str = "m-1", **payload: Any) -> dict[str, Any]:
    return {"message": message_type, "message_id": message_id, "payload": payload}


def cart(number: str, message_type: str = "cart:new", **changed: Any) -> dict[str, Any]:
    return message(message_type, cart=sale(number, **changed))


def order(number: str, message_type: str = "order:new", **changed: Any) -> dict[str, Any]:
    return message(message_type, order=sale(number, **changed))


def taxon(identity: str, name: str, message_type: str = "taxon:new", **changed: Any) -> dict[str, Any]:
    fields = {"id": identity, "name": name, "taxonomy_id": "2", "created_at": "2014-03-01T10:00:00Z", **changed}
    return message(message_type, taxon=fields)


def product(sku: str, message_type: str = "product:new", **changed: Any) -> dict[str, Any]:
    return message(
        message_type, product={"sku": sku, "name": "Bag", "created_at": "2014-03-01T10:00:00Z", **changed}
    )
