"""Product events: the product itself, and one for each variant that can be bought."""

from collections.abc import Mapping
from typing import Any

from jirafe.fields import NOTHING, Body, Section, add, date_or, dates, missing
from jirafe.items import describe


def product(payload: Section, parameters: Mapping[str, str]) -> Body:
    """Make the event of a product itself; raises Unmappable."""
    product = payload["product"] or NOTHING
    created, changed = dates(product, NOTHING, "created_at")
    sku = product.get("sku") or missing("sku")
    body: Body = {
        "id": sku,
        "code": sku,
        "is_product": True,
        "is_sku": True,
        "create_date": created,
        "change_date": changed,
    }
    add(body, "name", product["name"])
    describe(body, product["taxons"], product["images"], parameters)
    return body


def variant(payload: Section, parameters: Mapping[str, str], index: int) -> Body:
    """Make the event of one variant of a product; raises Unmappable."""
    product: Section = payload["product"]
    variant, place = product["variants"][index], f"variants.{index}"
    created, changed = dates(product, NOTHING, "created_at")
    sku = variant["sku"] or missing(f"{place}.sku")
    base_sku: Any = product["sku"] or missing("sku")
    base: Body = {"id": base_sku, "code": base_sku}
    add(base, "name", product["name"])
    body: Body = {
        "id": sku,
        "code": sku,
        "is_product": False,
        "is_sku": True,
        "create_date": date_or(created, place, "created_at", variant["created_at"]),
        "change_date": date_or(changed, place, "updated_at", variant["updated_at"]),
        "base_product": base,
    }
    describe(body, (), variant["images"], parameters)
    return body
