"""From a hub message's payload to the bodies of Jirafe events.

Pure: no I/O, no clock; the same payload gives the same body, today and on replay. Rules: the mapping table of
the hub's messages and the Events API's schemas (v2). What a message does not say is left out, never null;
what the API requires and the message lacks raises Unmappable.

`Order` payload sections come as `order` and `cart` (N, the hub's normalised form) and `original` (O, the
shop's own): dicts that have every field of `jirafe.hub.Order`, None where the message had none.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

Body = dict[str, Any]
Section = Mapping[str, Any]

_NOTHING: Section = {}
_WEB = ("http://", "https://")
_LONGEST_DATE = 64
_VISIT = ("visit_id", "visitor_id", "pageview_id", "last_pageview_id")


class _Shared(NamedTuple):
    """What all items of an event share; `numbered` names the field that counts them, from "1"."""

    created: str
    changed: str
    parameters: Mapping[str, str]
    numbered: str


class Unmappable(ValueError):
    """The message lacks what the API requires; the sentence is `place: what is wrong`."""


def cart(payload: Section, parameters: Mapping[str, str]) -> Body:
    """Make a cart event of a cart's or an order's payload; raises Unmappable."""
    normalised, original = _sections(payload)
    created, changed = _dates(original, normalised, "created_at")
    shared = _Shared(created, changed, parameters, "cart_item_number")
    body: Body = {
        "id": number(payload) or _missing("id", "the cart or order has no number"),
        "create_date": created,
        "change_date": changed,
        **_totals(original, normalised),
        "total_discounts": _discounts(original, normalised),
        "currency": _either(normalised, original, "currency") or _missing("currency"),
        "items": _items(payload, shared),
        "customer": _customer(normalised, original, created, changed),
    }
    _add(body, "visit", _visit(original, normalised))
    _add(body, "previous_items", _previous_items(payload, shared))
    return body


def order_placed(payload: Section, _parameters: Mapping[str, str]) -> Body:
    """Make the order-placed event, which ties an order to its visit; raises Unmappable."""
    normalised, original = _sections(payload)
    created, changed = _dates(normalised, original, "placed_on")
    order_number = number(payload) or _missing("order_number")
    body: Body = {
        "order_number": order_number,
        "cart_id": order_number,
        "status": "placed",
        "order_date": created,
        "customer": _customer(normalised, original, created, changed),
    }
    _add(body, "visit", _visit(original, normalised))
    return body


def order_accepted(payload: Section, parameters: Mapping[str, str]) -> Body:
    """Make the order-accepted event: everything after payment; raises Unmappable."""
    normalised, original = _sections(payload)
    created, changed = _dates(normalised, original, "placed_on")
    order_number = number(payload) or _missing("order_number")
    shared = _Shared(created, changed, parameters, "order_item_number")
    body: Body = {
        "order_number": order_number,
        "cart_id": order_number,
        "status": "accepted",
        "order_date": created,
        "create_date": created,
        "change_date": changed,
        **_totals(normalised, original),
        "total_discounts": _discounts(normalised, original),
        "currency": _either(normalised, original, "currency") or _missing("currency"),
        "items": _items(payload, shared),
        "customer": _customer(normalised, original, created, changed),
    }
    _add(body, "delivery_address", _address(normalised, original, "shipping_address"))
    _add(body, "payment_address", _address(normalised, original, "billing_address"))
    _add(body, "previous_items", _previous_items(payload, shared))
    return body


def order_cancelled(payload: Section, _parameters: Mapping[str, str]) -> Body:
    """Make the order-cancelled event (the hub writes `canceled`, the API two l's); raises Unmappable."""
    normalised, original = _sections(payload)
    canceled = _either(normalised, original, "canceled_at")
    return {
        "order_number": number(payload) or _missing("order_number"),
        "cancel_date": date("canceled_at", canceled) if canceled else _dates(normalised, original, "placed_on")[1],
        "status": "cancelled",
    }


def category(payload: Section, _parameters: Mapping[str, str]) -> Body:
    """Make the category event of a taxon; raises Unmappable."""
    taxon = payload["taxon"] or _NOTHING
    created, changed = _dates(taxon, _NOTHING, "created_at")
    body: Body = {
        "id": taxon.get("id") or _missing("id"),
        "name": taxon.get("name") or _missing("name"),
        "create_date": created,
        "change_date": changed,
    }
    parent = taxon.get("parent_id")
    _add(body, "parent_categories", [{"id": parent}] if parent else None)
    return body


def number(payload: Section) -> str | None:
    """Give the number of the payload's cart or order, None where it has none."""
    normalised, original = _sections(payload)
    return _either(normalised, original, "number")


def is_canceled(payload: Section) -> bool:
    """Tell whether an order is canceled: by its status, else by the status that the hub says it changed to."""
    normalised, original = _sections(payload)
    changes = payload["diff"].get("status") or [None]
    return (_either(normalised, original, "status") or changes[-1]) == "canceled"


def date(place: str, text: str) -> str:
    """Write a date as the API does, `2013-06-17T15:16:10.000Z`; raises Unmappable, which quotes the text.

    Read are ISO 8601 with any offset, UTC where there is none, and Ruby's `01/31/2013 12:34:22 UTC`.
    """
    try:
        # Only what is as short as a date is kept in memory.
        return _written(text) if len(text) <= _LONGEST_DATE else _written.__wrapped__(text)
    except (ValueError, OverflowError):
        raise Unmappable(f"{place}: '{text}' is not a date") from None


@lru_cache(maxsize=4096)
def _written(text: str) -> str:
    moment = _moment(text)
    moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _date_or(otherwise: str, place: str, name: str, text: str | None) -> str:
    """Write the date of a part of the message, `otherwise` where it has none; raises Unmappable."""
    return date(f"{place}.{name}", text) if text else otherwise


def _moment(text: str) -> datetime:
    # Without dashes fromisoformat takes plain numbers too, milliseconds among them.
    if text[4:5] == text[7:8] == "-":
        return datetime.fromisoformat(text)
    return datetime.strptime(text, "%m/%d/%Y %H:%M:%S UTC").replace(tzinfo=UTC)


def _missing(place: str, why: str = "missing in the message") -> Any:
    raise Unmappable(f"{place}: {why}")


def _add(body: Body, name: str, value: object) -> None:
    """Set an optional field; what is empty is absent."""
    if value:
        body[name] = value


def _sections(payload: Section) -> tuple[Section, Section]:
    return payload.get("order") or payload.get("cart") or _NOTHING, payload["original"] or _NOTHING


def _either(one: Section, other: Section, name: str) -> str | None:
    return one.get(name) or other.get(name)


def _dates(first: Section, second: Section, created: str) -> tuple[str, str]:
    """Give the dates of creation and change: the field `created` leads, any other of the kind stands in."""
    changed = _either(first, second, "updated_at")
    for name in (created, "placed_on", "completed_at", "created_at"):
        if text := _either(first, second, name):
            create_date = date(name, text)
            return create_date, date("updated_at", changed) if changed else create_date
    return (date("updated_at", changed or _missing(created)),) * 2


def _amount(first: Section, second: Section, name: str) -> float:
    value = first.get(name)
    if value is None:
        value = second.get(name)
    return 0 if value is None else _finite(name, value)


def _finite(place: str, value: float) -> float:
    return value if math.isfinite(value) else _missing(place, f"{value} is not a number that JSON can carry")


def _totals(first: Section, second: Section) -> Body:
    return {
        "subtotal": _amount(first, second, "item_total"),
        "total": _amount(first, second, "total"),
        "total_tax": _amount(first, second, "tax_total"),
        "total_shipping": _amount(first, second, "ship_total"),
        # The fee of the payment method: the amount paid is not a cost.
        "total_payment_cost": _amount(first, second, "payment_fee"),
    }


def _discounts(first: Section, second: Section) -> float:
    """Sum the negative adjustments that count, as a positive number."""
    adjustments = first.get("adjustments") or second.get("adjustments") or ()
    if not adjustments:
        return 0
    amounts = [a["amount"] for a in adjustments if a["eligible"] and a["amount"] is not None]
    return round(-_finite("adjustments", sum(amount for amount in amounts if not amount >= 0)), 4)


def _items(payload: Section, shared: _Shared) -> list[Body]:
    normalised, original = _sections(payload)
    return _made("items", original.get("line_items") or normalised.get("line_items") or (), shared)


def _previous_items(payload: Section, shared: _Shared) -> list[Body]:
    """Make the items that there were before; as the API can do without, what can't be made is left out."""
    try:
        return _made("previous_items", (payload["previous"] or _NOTHING).get("line_items") or (), shared)
    except Unmappable:
        return []


def _made(place: str, items: Iterable[Section], shared: _Shared) -> list[Body]:
    return [_item(f"{place}.{index}", str(index + 1), item, shared) for index, item in enumerate(items)]


def _item(place: str, item_number: str, item: Section, shared: _Shared) -> Body:
    variant = item["variant"] or _NOTHING
    created = _date_or(shared.created, place, "created_at", item["created_at"])
    changed = _date_or(shared.changed, place, "updated_at", item["updated_at"])
    price = item["price"] if item["price"] is not None else variant.get("price")
    body: Body = {
        "id": item["id"] or item["variant_id"] or item["product_id"] or item["sku"] or _missing(f"{place}.id"),
        "create_date": created,
        "change_date": changed,
        shared.numbered: item_number,
        "quantity": _missing(f"{place}.quantity") if item["quantity"] is None else item["quantity"],
        "price": _missing(f"{place}.price") if price is None else _finite(f"{place}.price", price),
        "discount_price": 0,
        "product": _product(place, item, created, changed, shared.parameters),
    }
    if shared.numbered == "order_item_number":
        body["status"] = "accepted"
    return body


def _product(place: str, item: Section, created: str, changed: str, parameters: Mapping[str, str]) -> Body:
    variant = item["variant"] or _NOTHING
    body: Body = {
        "id": _product_id(item, variant) or _missing(f"{place}.product.id"),
        "code": _product_code(item, variant) or _missing(f"{place}.product.code", "the line item has no sku"),
        "is_product": True,
        "is_sku": True,
        "create_date": _date_or(created, place, "product.created_at", variant.get("created_at")),
        "change_date": _date_or(changed, place, "product.updated_at", variant.get("updated_at")),
    }
    _add(body, "name", variant.get("name") or item["name"])
    if taxons := variant.get("taxons"):
        if brand_taxonomy := parameters.get("jirafe.brand_category_taxonomy"):
            _add(body, "brand", _brand(taxons, brand_taxonomy))
        _add(body, "categories", _categories(taxons))
    if images := variant.get("images"):
        _add(body, "images", _images(images, parameters.get("jirafe.store_url", "")))
    return body


def _product_id(item: Section, variant: Section) -> str | None:
    identifier: str | None = variant.get("product_id") or item["product_id"] or item["variant_id"] or item["sku"]
    return identifier


def _product_code(item: Section, variant: Section) -> str | None:
    return variant.get("sku") or item["sku"] or item["product_id"] or variant.get("product_id")


def _brand(taxons: Iterable[Section], taxonomy: str) -> str | None:
    """Name the first taxon of the brands' taxonomy; None where there is none."""
    names: list[str] = [taxon["name"] for taxon in taxons if taxon["taxonomy_id"] == taxonomy]
    return names[0] if names else None


def _categories(taxons: Iterable[Section]) -> list[Body]:
    # A dict drops the repeated, and keeps the order of the first.
    named = {(t["id"], t["name"]): None for t in taxons if t["id"] and t["name"]}
    return [{"id": identity, "name": name} for identity, name in named]


def _images(paths: Iterable[str], store: str) -> list[Body]:
    """Make the images that have an absolute address, or get one by the store's."""
    urls = [_absolute(store, path) for path in paths]
    return [{"url": url} for url in urls if url.startswith(_WEB)]


def _absolute(store: str, path: str) -> str:
    """Put the store's address before an image's path, where it has none itself."""
    if path.startswith(_WEB):
        return path
    if path.startswith("//"):
        return f"https:{path}"
    return f"{store.rstrip('/')}/{path.lstrip('/')}"


def _customer(normalised: Section, original: Section, created: str, changed: str) -> Body:
    """Make the customer; its dates are the order's, so that a replay gives the same bytes."""
    email = _either(normalised, original, "email")
    body: Body = {
        "id": _either(original, normalised, "user_id") or email or "anonymous",
        "create_date": created,
        "change_date": changed,
    }
    _add(body, "email", email)
    for section in (normalised, original):
        address = section.get("billing_address") or _NOTHING
        if address.get("firstname") or address.get("lastname"):
            _add(body, "first_name", address["firstname"])
            _add(body, "last_name", address["lastname"])
            break
    return body


def _visit(original: Section, normalised: Section) -> Body | None:
    visit = {name: original.get(name) or normalised.get(name) or "" for name in _VISIT}
    return visit if any(visit.values()) else None


def _address(normalised: Section, original: Section, name: str) -> Body:
    parts = (
        ("postalcode", "zipcode"),
        ("address1", "address1"),
        ("city", "city"),
        ("state", "state"),
        ("country", "country"),
    )
    for section in (normalised, original):
        address = section.get(name) or _NOTHING
        body = {ours: address[theirs] for ours, theirs in parts if address.get(theirs)}
        if body:
            return body
    return {}
