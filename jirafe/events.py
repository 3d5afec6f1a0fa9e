"""Makes the bodies of Jirafe events from the payload of a hub message.

Pure: no I/O, no clock. The same payload gives the same body, today and on replay. The rules come from the hub's
mapping table and the Events API's schemas (v2). A field that the message lacks is left out, never null. If the API
requires it, Unmappable is raised. `docs/mapping.md` has the rules as a table.
"""

from collections.abc import Mapping

from jirafe import items
from jirafe.fields import NOTHING, Body, Section, add, date, dates, either, missing, sections
from jirafe.totals import totals

_CANCELED = ("canceled", "cancelled")

_VISIT = ("visit_id", "visitor_id", "pageview_id", "last_pageview_id")
_ADDRESS = (
    ("postalcode", "zipcode"),
    ("address1", "address1"),
    ("city", "city"),
    ("state", "state"),
    ("country", "country"),
)


def cart(payload: Section, parameters: Mapping[str, str]) -> Body:
    """Make a cart event of a cart's or an order's payload; raises Unmappable."""
    normalized, original = sections(payload)
    created, changed = dates(original, normalized, "created_at")
    shared = items.Shared(created, changed, parameters, "cart_item_number")
    lines = items.items_of(payload)
    body: Body = {
        "id": either(normalized, original, "number") or missing("id", "the cart or order has no number"),
        "create_date": created,
        "change_date": changed,
        **totals(original, normalized, lines),
        "currency": either(normalized, original, "currency") or missing("currency"),
        "items": items.made(lines, shared),
        "customer": _customer(normalized, original, created, changed),
    }
    add(body, "visit", _visit(original, normalized))
    if payload["previous_items"] or payload["previous"]:
        add(body, "previous_items", items.made_previous(payload, lines, body["items"], shared))
    return body


def order_placed(payload: Section, _parameters: Mapping[str, str]) -> Body:
    """Make the order-placed event, which ties an order to its visit; raises Unmappable."""
    normalized, original = sections(payload)
    created, changed = dates(normalized, original, "placed_on")
    order_number = either(normalized, original, "number") or missing("order_number")
    body: Body = {
        "order_number": order_number,
        "cart_id": order_number,
        "status": "placed",
        "order_date": created,
        "customer": _customer(normalized, original, created, changed),
    }
    add(body, "visit", _visit(original, normalized))
    return body


def order_accepted(payload: Section, parameters: Mapping[str, str]) -> Body:
    """Make the order-accepted event: everything after payment; raises Unmappable."""
    normalized, original = sections(payload)
    created, changed = dates(normalized, original, "placed_on")
    order_number = either(normalized, original, "number") or missing("order_number")
    shared = items.Shared(created, changed, parameters, "order_item_number")
    lines = items.items_of(payload)
    body: Body = {
        "order_number": order_number,
        "cart_id": order_number,
        "status": "accepted",
        "order_date": created,
        "create_date": created,
        "change_date": changed,
        **totals(normalized, original, lines),
        "currency": either(normalized, original, "currency") or missing("currency"),
        "items": items.made(lines, shared),
        "customer": _customer(normalized, original, created, changed),
    }
    add(body, "delivery_address", _address(normalized, original, "shipping_address"))
    add(body, "payment_address", _address(normalized, original, "billing_address"))
    if payload["previous_items"] or payload["previous"]:
        add(body, "previous_items", items.made_previous(payload, lines, body["items"], shared))
    return body


def order_cancelled(payload: Section, _parameters: Mapping[str, str]) -> Body:
    """Make the order-cancelled event (the hub writes `canceled`, the API two l's); raises Unmappable."""
    normalized, original = sections(payload)
    return {
        "order_number": either(normalized, original, "number") or missing("order_number"),
        "cancel_date": _cancel_date(normalized, original),
        "status": "cancelled",
    }


def _cancel_date(normalized: Section, original: Section) -> str:
    """Return the date of cancellation, else of the last change. Other dates may then be unreadable."""
    for name in ("canceled_at", "updated_at"):
        if text := either(normalized, original, name):
            return date(name, text)
    return dates(normalized, original, "placed_on")[0]


def category(payload: Section, _parameters: Mapping[str, str]) -> Body:
    """Make the category event of a taxon; raises Unmappable."""
    taxon = payload["taxon"] or NOTHING
    created, changed = dates(taxon, NOTHING, "created_at")
    body: Body = {
        "id": taxon.get("id") or missing("id"),
        "name": taxon.get("name") or missing("name"),
        "create_date": created,
        "change_date": changed,
    }
    parent = taxon.get("parent_id")
    add(body, "parent_categories", [{"id": parent}] if parent else None)
    return body


def number(payload: Section) -> str | None:
    """Return the number of the payload's cart or order, None where it has none."""
    normalized, original = sections(payload)
    return either(normalized, original, "number")


def status(payload: Section) -> str | None:
    """Return the status of an order: a canceled one from any source, else the first that the message has.

    The hub's status comes first, then the shop's, then the new values in `diff`.
    """
    normalized, original = sections(payload)
    changes = [change[-1] for name in ("status", "state") if (change := payload["diff"].get(name))]
    said = [text for text in (normalized.get("status"), original.get("status"), *changes) if text]
    return next(filter(_says_canceled, said), said[0] if said else None)


def is_canceled(payload: Section) -> bool:
    """Return whether an order is canceled, by its status in either form or by a new value in `diff`."""
    return _says_canceled(status(payload) or "")


def _says_canceled(status: str) -> bool:
    """Return whether a status is `canceled`, in the hub's spelling or the API's. Some shops write capitals."""
    return status.lower() in _CANCELED


def _customer(normalized: Section, original: Section, created: str, changed: str) -> Body:
    """Make the customer; its dates are the order's, so that a replay gives the same bytes."""
    email = either(normalized, original, "email")
    body: Body = {
        "id": either(original, normalized, "user_id") or email or "anonymous",
        "create_date": created,
        "change_date": changed,
    }
    add(body, "email", email)
    addresses = [section.get("billing_address") or NOTHING for section in (normalized, original)]
    for address in addresses:
        if address.get("firstname") or address.get("lastname"):
            add(body, "first_name", address["firstname"])
            add(body, "last_name", address["lastname"])
            return body
    # Solidus has one field for both.
    add(body, "name", next((address["name"] for address in addresses if address.get("name")), None))
    return body


def _visit(original: Section, normalized: Section) -> Body | None:
    visit = {name: original.get(name) or normalized.get(name) or "" for name in _VISIT}
    return visit if any(visit.values()) else None


def _address(normalized: Section, original: Section, name: str) -> Body:
    for section in (normalized, original):
        address = section.get(name) or NOTHING
        body = {ours: address[theirs] for ours, theirs in _ADDRESS if address.get(theirs)}
        if body:
            return body
    return {}
