"""Which events each type of message makes, and how each is worded in notifications.

The texts are the hub's own, to the letter (its integration guide for Jirafe).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, NamedTuple

from jirafe import events, products
from jirafe.client import MAX_REQUEST_BYTES
from jirafe.fields import Unmappable
from jirafe.sourced import derived

Parameters = Mapping[str, str]
"""A message's parameters by their dotted names, e.g. `jirafe.site_id`."""

_AN_IMAGE = 100
"""Bytes that an image takes in addition to the store's address. In memory this is more than in a request."""

_A_VARIANT = 2500
"""Bytes that a variant's event takes in memory, in addition to what it repeats of its product."""

_TOO_MANY = f"too many images for a request of at most {MAX_REQUEST_BYTES} bytes"

CATEGORY_TAXONOMY = "jirafe.product_category_taxonomy"


class UnknownMessageType(ValueError):
    """No service handles messages of this type. The sentence names it and the known types."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of event: its name, its array in a batch, how it is built and how it is worded."""

    name: str
    array: Literal["cart", "order", "category", "product"]
    build: Callable[[Mapping[str, Any], Parameters], dict[str, Any]]
    sent: str
    told: str
    failed: str


CART = Kind(
    "cart",
    "cart",
    events.cart,
    "Cart event sent to Jirafe",
    "A cart event for {} was sent to Jirafe.",
    "There was a problem while sending a cart event to Jirafe.",
)
ORDER_PLACED = Kind(
    "order-placed",
    "order",
    events.order_placed,
    "Order placed event sent to Jirafe",
    "An order-placed event for {} was sent to Jirafe.",
    "There was a problem while sending an order-placed event to Jirafe.",
)
ORDER_ACCEPTED = Kind(
    "order-accepted",
    "order",
    events.order_accepted,
    "Order accepted event sent to Jirafe",
    "An order-accepted event for {} was sent to Jirafe.",
    "There was a problem while sending an order-accepted event to Jirafe.",
)
ORDER_CANCELLED = Kind(
    "order-cancelled",
    "order",
    events.order_cancelled,
    "Order canceled event sent to Jirafe",
    "An order-canceled event for {} was sent to Jirafe.",
    "There was a problem while sending an order-canceled event to Jirafe.",
)
CATEGORY = Kind(
    "category",
    "category",
    events.category,
    "Category event sent to Jirafe.",
    "The category '{}' was sent to Jirafe.",
    "There was a problem while sending a category event to Jirafe.",
)
PRODUCT = Kind(
    "product",
    "product",
    products.product,
    "Product event sent to Jirafe.",
    "The product '{}' was sent to Jirafe.",
    "There was a problem while sending a product event to Jirafe.",
)


class Event(NamedTuple):
    """An event ready to be sent. Events with the same `key` are sent in order. `name` is for people."""

    kind: Kind
    key: str
    name: str
    body: dict[str, Any]


class Unsendable(NamedTuple):
    """An event that could not be made from its message. `message` is `place: what is wrong`."""

    kind: Kind
    name: str
    message: str


def make_events(
    message_type: str, payload: Mapping[str, Any], parameters: Parameters, timestamp: int | None = None
) -> list[Event | Unsendable]:
    """Make the events of one message, in the order in which they must arrive.

    `timestamp` is the record's, in milliseconds since 1970, or None. A taxon without dates gets it as its date.
    Raises UnknownMessageType.
    """
    match message_type:
        case "cart:new" | "cart:updated":
            return _made_all([CART], payload, parameters)
        case "order:new":
            cancelled = [ORDER_CANCELLED] if events.is_canceled(payload) else []
            return _made_all([CART, ORDER_PLACED, ORDER_ACCEPTED, *cancelled], payload, parameters)
        case "order:update" | "order:updated":
            return _updated(payload, parameters)
        case "order:canceled" | "order:cancel":
            return _made_all([ORDER_CANCELLED], payload, parameters)
        case "product:new" | "product:updated":
            return _products(payload, parameters)
        case "taxon:new" | "taxon:updated" | "taxon:persist":
            return _categories(payload, parameters, timestamp)
    raise UnknownMessageType(
        f"message: unknown type '{message_type}'; known types: cart:new, cart:updated, order:new, "
        "order:updated, order:canceled, product:new, product:updated, taxon:new and taxon:updated"
    )


def decisive(message_type: str, payload: Mapping[str, Any]) -> list[object]:
    """Return the values of a message that, besides its type, decide which events it makes."""
    if message_type.startswith("order:"):
        return [events.status(payload)]
    return [(payload["taxon"] or {}).get("taxonomy_id")] if message_type.startswith("taxon:") else []


def _updated(payload: Mapping[str, Any], parameters: Parameters) -> list[Event | Unsendable]:
    """Make the events of a change; a canceled order's last state comes before its cancellation.

    Such an order may lack what order-accepted requires. Then only its cancellation is sent.
    """
    if not events.is_canceled(payload):
        return _made_all([ORDER_ACCEPTED], payload, parameters)
    accepted, cancelled = _made_all([ORDER_ACCEPTED, ORDER_CANCELLED], payload, parameters)
    return [cancelled] if isinstance(accepted, Unsendable) else [accepted, cancelled]


def _made_all(kinds: list[Kind], payload: Mapping[str, Any], parameters: Parameters) -> list[Event | Unsendable]:
    number = events.number(payload) or ""
    items = list(payload["previous_items"])
    for name in ("cart", "order", "original", "previous"):
        if section := payload.get(name):
            items += section.get("line_items") or ()
    is_too_much = _are_too_many([variant["images"] for item in items if (variant := item["variant"])], parameters)
    return [
        Unsendable(kind, number, f"line_items: {_TOO_MANY}")
        if is_too_much and kind in (CART, ORDER_ACCEPTED)
        else _made(kind, number, number, partial(kind.build, payload, parameters))
        for kind in kinds
    ]


def _are_too_many(images: Sequence[Sequence[str]], parameters: Parameters) -> bool:
    """Return whether lists of images would exceed a request, once the store's address is put before each image."""
    count = sum(map(len, images))
    return (len(parameters.get("jirafe.store_url", "")) + _AN_IMAGE) * count > MAX_REQUEST_BYTES


def _products(payload: Mapping[str, Any], parameters: Parameters) -> list[Event | Unsendable]:
    """Make a product, then its variants. All have the product's key, so that they arrive in this order."""
    product = payload["product"]
    if not product:
        return [Unsendable(PRODUCT, "", "product: missing in the message")]
    sku = product["sku"] or ""
    if _are_too_many([part["images"] for part in (product, *product["variants"])], parameters):
        return [Unsendable(PRODUCT, sku, f"product: {_TOO_MANY}")]
    variants = len(product["variants"])
    # The event of each variant has the name and the sku of its product.
    if (_A_VARIANT + len(product["name"] or "") + 2 * len(sku)) * variants > MAX_REQUEST_BYTES:
        why = f"product: its {variants} variants make events that are too large together"
        return [Unsendable(PRODUCT, sku, why)]
    made = [_made(PRODUCT, sku, sku, partial(PRODUCT.build, payload, parameters))]
    for index, variant in enumerate(product["variants"]):
        build = partial(products.variant, payload, parameters, index)
        made.append(_made(PRODUCT, sku, variant["sku"] or "", build))
    return made


def _categories(
    payload: Mapping[str, Any], parameters: Parameters, timestamp: int | None
) -> list[Event | Unsendable]:
    """Make a category from a taxon of the product taxonomy. Taxons of other taxonomies make no event."""
    taxon = payload["taxon"] or {}
    name = taxon.get("name") or ""
    taxonomy = parameters.get(CATEGORY_TAXONOMY)
    if taxonomy is None:
        return [Unsendable(CATEGORY, name, missing_parameter(CATEGORY_TAXONOMY))]
    if not taxon:
        return [Unsendable(CATEGORY, name, "taxon: missing in the message")]
    if taxon["taxonomy_id"] != taxonomy:
        return []
    if not (taxon["created_at"] or taxon["updated_at"]):
        # Spree's public API has taxons without dates. The record's timestamp is the same on replay.
        payload = {"taxon": {**taxon, "created_at": _moment(timestamp)}}
    return [_made(CATEGORY, taxon["id"] or "", name, partial(CATEGORY.build, payload, parameters))]


def _moment(timestamp: int | None) -> str | None:
    """Write a record's timestamp as a date. None if it has none, or one that is out of range."""
    if timestamp is None or timestamp < 0:
        return None
    try:
        return derived(datetime.fromtimestamp(timestamp / 1000, UTC).isoformat(), timestamp)
    except (ValueError, OverflowError, OSError):
        return None


def _made(kind: Kind, key: str, name: str, build: Callable[[], dict[str, Any]]) -> Event | Unsendable:
    try:
        return Event(kind, key, name, build())
    except Unmappable as error:
        return Unsendable(kind, name, str(error))


def missing_parameter(name: str) -> str:
    """Say that a parameter is missing, and where it can come from."""
    setting = name.upper().replace(".", "_")
    return f"{name}: missing; neither the message's parameters nor the setting {setting} has it"


def notification_of_sent(kind: Kind, name: str) -> dict[str, str]:
    """Word the notification of an event that the API accepted."""
    return {"level": "info", "subject": kind.sent, "description": kind.told.format(name)}


def notification_of_sendable(kind: Kind, name: str) -> dict[str, str]:
    """Word the notification of an event that could be sent, but was not."""
    sent = notification_of_sent(kind, name)
    subject = sent["subject"].replace(" sent ", " would be sent ")
    return {**sent, "subject": subject, "description": kind.told.replace(" was ", " would be ").format(name)}


def notification_of_failed(kind: Kind, message: str) -> dict[str, str]:
    """Word the notification of an event that could not be sent or was refused."""
    return {"level": "error", "subject": kind.failed, "description": message}


def notification_of_unreadable(message: str) -> dict[str, str]:
    """Word the notification of a record that could not be made into events at all."""
    return {
        "level": "error",
        "subject": "There was a problem while reading a message for Jirafe.",
        "description": message,
    }
