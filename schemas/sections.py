"""Converts carts, orders, taxons and products from the hub's JSON to the form of the Avro schemas.

The hub normalized orders (`totals`, `adjustments` with name and value, flat addresses). Spree and Solidus shops
have their own forms (`item_total`, label and amount, nested countries), which changed between versions. Each field
is read under every name that was observed. Fields that the schemas do not have are dropped.
"""

from collections.abc import Iterable
from typing import Any

from schemas.reading import Section

Converted = dict[str, Any]

_IMAGE_URLS = ("attachment_url", "url", "large_url", "product_url", "small_url", "mini_url")
"""The names of an image's address: the hub's, later hubs', then the sizes of Spree's and Solidus' own API."""


_STATUS = ("status", "state")
_CANCELED = ("canceled", "cancelled")


def order(raw: Section) -> Converted:
    """Convert a cart or an order, in either form; raises HubError."""
    totals = raw.section("totals") or raw.part("totals")
    # A later hub's order has its number as a textual id; the shop's own id is a row number.
    identifier = raw.text("id") if isinstance(raw.value("id"), str) else None
    return {
        "number": raw.text("number") or identifier,
        # Two names for one field. The one that says canceled has priority.
        "status": raw.text(*sorted(_STATUS, key=lambda name: not _says_canceled(raw.value(name)))),
        **_texts(raw, "email", "user_id", "currency", "placed_on"),
        **_texts(raw, "created_at", "updated_at", "completed_at"),
        "canceled_at": raw.text("canceled_at", "cancelled_at"),
        "item_total": _first(totals.number("item"), raw.number("item_total")),
        "total": _first(totals.number("order"), raw.number("total")),
        "tax_total": _first(totals.number("tax"), raw.number("tax_total")),
        "ship_total": _first(totals.number("shipping"), raw.number("ship_total")),
        "discount_total": _first(totals.number("discount"), raw.number("discount_total")),
        "payment_fee": _first(totals.number("payment_fee"), raw.number("payment_fee")),
        "line_items": [line_item(item) for item in raw.sections("line_items")],
        "adjustments": [_adjustment(adjustment) for adjustment in raw.sections("adjustments")],
        "shipping_address": _address(raw, "shipping_address", "ship_address"),
        "billing_address": _address(raw, "billing_address", "bill_address"),
        **_texts(raw, "visit_id", "visitor_id", "pageview_id", "last_pageview_id"),
    }


def is_canceled(raw: Section) -> bool:
    """Return whether a cart or an order says that it is canceled, in either spelling."""
    return any(_says_canceled(raw.value(name)) for name in _STATUS)


def _says_canceled(status: object) -> bool:
    return isinstance(status, str) and status.lower() in _CANCELED


def line_item(raw: Section) -> Converted:
    """Convert a line item, in either form; raises HubError."""
    own = raw.section("variant")
    variant = own or raw.part("variant")
    made = _variant(raw, variant)
    return {
        **_texts(raw, "id", "product_id"),
        "variant_id": raw.text("variant_id") or variant.text("id"),
        **_texts(raw, "name", "sku"),
        "quantity": raw.whole_number("quantity"),
        "price": raw.number("price"),
        **_texts(raw, "created_at", "updated_at"),
        # Newer hubs send no variants, but may send other data about the product.
        "variant": made if own or made["images"] or made["taxons"] else None,
        "adjustments": [_adjustment(adjustment) for adjustment in raw.objects("adjustments")],
    }


def taxon(raw: Section) -> Converted:
    """Convert a taxon; raises HubError."""
    return _texts(raw, "id", "name", "taxonomy_id", "parent_id", "created_at", "updated_at")


def product(raw: Section, original: Section) -> Converted:
    """Convert a product with its variants. Fields that the hub's form lacks are the shop's. Raises HubError."""
    forms = (raw, original)
    return {
        "sku": next((sku for form in forms if (sku := _sku(form))), None),
        **{
            name: raw.text(name) or original.text(name)
            for name in ("name", "created_at", "updated_at", "available_on")
        },
        "images": next((urls for form in forms if (urls := _images(form, form.part("master")))), []),
        "taxons": next((taxons for form in forms if (taxons := _taxons([form], [form]))), []),
        "variants": next((variants for form in forms if (variants := _variants(form))), []),
    }


def _sku(raw: Section) -> str | None:
    """Return a product's sku. A later hub has it as a textual id too; the shop's own id is a row number."""
    identifier = raw.text("id") if isinstance(raw.value("id"), str) else None
    return raw.text("sku") or raw.part("master").text("sku") or identifier


def _variants(raw: Section) -> list[Converted]:
    """Convert a product's variants. The master represents the product itself and is not a variant."""
    skus = {raw.text("sku"), raw.part("master").text("sku")} - {None}
    return [
        {**_texts(variant, "sku", "created_at", "updated_at"), "images": _images(variant)}
        for variant in raw.objects("variants")
        if variant.value("is_master") is not True and variant.text("sku") not in skus
    ]


def _variant(item: Section, raw: Section) -> Converted:
    """Convert the variant of a line item, with the item's data about the product."""
    of_product = raw.part("product")
    return {
        **_texts(raw, "product_id", "name", "sku"),
        "price": raw.number("price"),
        "images": _images(raw, of_product, item),
        "taxons": _taxons([raw, of_product], [item, raw, of_product]),
        "created_at": raw.text("product_created_at") or of_product.text("created_at"),
        "updated_at": raw.text("product_updated_at") or of_product.text("updated_at"),
    }


def _images(*owners: Section) -> list[str]:
    """Return the addresses of the images of the first owner that has any."""
    for owner in owners:
        urls = [image if isinstance(image, str) else image.text(*_IMAGE_URLS) for image in owner.any_of("images")]
        if found := [url for url in urls if url]:
            return found
    return []


def _taxons(owners: Iterable[Section], described: Iterable[Section]) -> list[Converted]:
    """Return a product's taxons: those of its owners, or else those that newer hubs send in `meta_data`."""
    found = [taxon for owner in owners for taxon in owner.objects("taxons")]
    for section in described:
        found = found or section.part("meta_data", "jirafe").objects("taxons")
    return [
        {"id": taxon.text("id", "permalink"), "name": taxon.text("name"), "taxonomy_id": taxon.text("taxonomy_id")}
        for taxon in found
    ]


def _adjustment(raw: Section) -> Converted:
    return {
        "label": raw.text("name", "label"),
        "amount": _first(raw.number("value"), raw.number("amount")),
        "eligible": not raw.is_false("eligible"),
        # Until Spree 2.1, the source of a tax is the order.
        "source": raw.text("originator_type", "source_type"),
    }


def _address(raw: Section, *names: str) -> Converted | None:
    name = next((name for name in names if raw.value(name)), None)
    address = raw.section(name) if name else None
    if address is None:
        return None
    return {
        **_texts(address, "firstname", "lastname", "name", "address1", "city", "zipcode"),
        "state": _named(address, "state", "name", "abbr") or address.text("state_name"),
        "country": _named(address, "country", "name", "iso"),
    }


def _named(raw: Section, name: str, *inner: str) -> str | None:
    """Read a field that is text in the normalized form and an object with a name in Spree's raw form."""
    return raw.part(name).text(*inner) if isinstance(raw.value(name), dict) else raw.text(name)


def _texts(raw: Section, *names: str) -> dict[str, str | None]:
    return {name: raw.text(name) for name in names}


def _first(one: float | None, other: float | None) -> float | None:
    return other if one is None else one
