"""Which events each type of message makes, and how each is worded in notifications.

The texts are the hub's own, to the letter (its integration guide for Jirafe).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jirafe import events
from jirafe.client import MAX_REQUEST_BYTES
from jirafe.events import Unmappable

Parameters = Mapping[str, str]
"""A message's parameters by their dotted names, e.g. `jirafe.site_id`."""

_AN_IMAGE = 100
"""Bytes that an image takes beside its address, in memory more than in a request."""

CATEGORY_TAXONOMY = "jirafe.product_category_taxonomy"


class UnknownMessageType(ValueError):
    """No service takes messages of this type; the sentence names it and those that are known."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of event: its name, its array in a batch, how it is built and how it is worded."""

    name: str
    array: Literal["cart", "order", "category"]
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


@dataclass(frozen=True, slots=True)
class Event:
    """An event ready to be sent. `key` is what the API's order is kept by, `name` what people know it by."""

    kind: Kind
    key: str
    name: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Unsendable:
    """An event that the message should have made and could not; `message` is `place: what is wrong`."""

    kind: Kind
    name: str
    message: str


def make_events(message_type: str, payload: Mapping[str, Any], parameters: Parameters) -> list[Event | Unsendable]:
    """Make the events of one message, in the order in which they must arrive.

    Raises UnknownMessageType.
    """
    if message_type in ("taxon:new", "taxon:updated", "taxon:persist"):
        return _categories(payload, parameters)
    if message_type in ("cart:new", "cart:updated"):
        kinds = [CART]
    elif message_type == "order:new":
        kinds = [CART, ORDER_PLACED, ORDER_ACCEPTED]
    elif message_type in ("order:update", "order:updated"):
        kinds = [ORDER_CANCELLED if events.is_canceled(payload) else ORDER_ACCEPTED]
    elif message_type in ("order:canceled", "order:cancel"):
        kinds = [ORDER_CANCELLED]
    else:
        raise UnknownMessageType(
            f"message: unknown type '{message_type}'; known are cart:new, cart:updated, order:new, order:updated, "
            "order:canceled, taxon:new and taxon:updated"
        )
    number = events.number(payload) or ""
    is_too_much = _bytes_of_images(payload, parameters) > MAX_REQUEST_BYTES
    problem = f"line_items: have more images than the {MAX_REQUEST_BYTES} bytes of a request hold"
    return [
        Unsendable(kind, number, problem)
        if is_too_much and kind in (CART, ORDER_ACCEPTED)
        else _made(kind, number, number, payload, parameters)
        for kind in kinds
    ]


def _bytes_of_images(payload: Mapping[str, Any], parameters: Parameters) -> int:
    """Tell what a message's images take once each has the store's address before it: perhaps many times as much."""
    store = len(parameters.get("jirafe.store_url", ""))
    sections = [payload.get(name) or {} for name in ("cart", "order", "original", "previous")]
    items = [item for section in sections for item in section.get("line_items") or ()]
    images = [image for item in items if item["variant"] for image in item["variant"]["images"] or ()]
    return (store + _AN_IMAGE) * len(images) + sum(map(len, images))


def _categories(payload: Mapping[str, Any], parameters: Parameters) -> list[Event | Unsendable]:
    """Make a category of a taxon of the product taxonomy; the taxons of others are none of ours."""
    taxon = payload["taxon"] or {}
    name = taxon.get("name") or ""
    taxonomy = parameters.get(CATEGORY_TAXONOMY)
    if taxonomy is None:
        return [Unsendable(CATEGORY, name, missing_parameter(CATEGORY_TAXONOMY))]
    if not taxon:
        return [Unsendable(CATEGORY, name, "taxon: missing in the message")]
    if taxon["taxonomy_id"] != taxonomy:
        return []
    return [_made(CATEGORY, taxon["id"] or "", name, payload, parameters)]


def _made(
    kind: Kind, key: str, name: str, payload: Mapping[str, Any], parameters: Parameters
) -> Event | Unsendable:
    try:
        return Event(kind, key, name, kind.build(payload, parameters))
    except Unmappable as error:
        return Unsendable(kind, name, str(error))


def missing_parameter(name: str) -> str:
    """Say that a parameter is missing, and where it can come from."""
    setting = name.upper().replace(".", "_")
    return f"{name}: missing; neither the message's parameters nor the setting {setting} has it"


def notification_of_sent(kind: Kind, name: str) -> dict[str, str]:
    """Word the notification of an event that the API accepted."""
    return {"level": "info", "subject": kind.sent, "description": kind.told.format(name)}


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
