"""The line items of carts and orders, and their products. An item keeps its id from before a change."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

from jirafe.fields import NOTHING, Body, Section, Unmappable, add, date_or, finite, missing, sections
from jirafe.sourced import derived

_WEB = ("http://", "https://")
_BRANDS = "jirafe.brand_category_taxonomy"
_STORE = "jirafe.store_url"
# A noted product stays in memory as long as its variant. The store's address is repeated in each image.
_MOST_PARTS_NOTED = 20
_LONGEST_NOTED = 500


class Shared(NamedTuple):
    """What all items of an event share; `numbered` names the field that counts them, from "1"."""

    created: str
    changed: str
    parameters: Mapping[str, str]
    numbered: str


class _Noting(Protocol):
    note: Any


def items_of(payload: Section) -> Sequence[Section]:
    """Return the line items of a payload: the shop's own, else the hub's."""
    normalized, original = sections(payload)
    return original.get("line_items") or normalized.get("line_items") or ()


def made(items: Sequence[Section], shared: Shared) -> list[Body]:
    """Make an event's items; raises Unmappable."""
    return [_item(f"items.{index}", str(index + 1), item, shared) for index, item in enumerate(items)]


def made_previous(payload: Section, items: Sequence[Section], bodies: Sequence[Body], shared: Shared) -> list[Body]:
    """Make the items from before a change. They are optional: if one can't be made, the list is empty.

    An item that is still there has the same id and product in both lists, even if they come from different forms.
    `bodies` are the bodies of `items`.
    """
    previous = payload["previous_items"] or (payload["previous"] or NOTHING).get("line_items") or ()
    try:
        return [
            _item(f"previous_items.{index}", str(index + 1), item, shared, None if same is None else bodies[same])
            for index, (item, same) in enumerate(zip(previous, _same(previous, items), strict=True))
        ]
    except Unmappable:
        return []


def _same(previous: Sequence[Section], items: Sequence[Section]) -> list[int | None]:
    """Match each previous item to a current one: by id, else by variant, else by sku, each at most once."""
    found: list[int | None] = [None] * len(previous)
    left = list(range(len(items)))
    for known_as in _KNOWN_AS:
        places: dict[str, list[int]] = {}
        for index in left:
            if name := known_as(items[index]):
                places.setdefault(name, []).append(index)
        for index, item in enumerate(previous):
            if found[index] is None and (same := places.get(known_as(item) or "")):
                found[index] = same.pop(0)
        taken = set(found)
        left = [index for index in left if index not in taken]
    return found


def _sku(item: Section) -> str | None:
    sku: str | None = (item["variant"] or NOTHING).get("sku") or item["sku"]
    return sku


_KNOWN_AS: tuple[Callable[[Section], str | None], ...] = (
    lambda item: item["id"],
    lambda item: item["variant_id"],
    _sku,
)


def _item(place: str, item_number: str, item: Section, shared: Shared, same: Body | None = None) -> Body:
    variant = item["variant"] or NOTHING
    created = date_or(shared.created, place, "created_at", item["created_at"])
    changed = date_or(shared.changed, place, "updated_at", item["updated_at"])
    price = item["price"] if item["price"] is not None else variant.get("price")
    body: Body = {
        "id": same["id"]
        if same
        else item["id"] or item["variant_id"] or item["product_id"] or item["sku"] or missing(f"{place}.id"),
        "create_date": created,
        "change_date": changed,
        shared.numbered: item_number,
        "quantity": missing(f"{place}.quantity") if item["quantity"] is None else item["quantity"],
        "price": missing(f"{place}.price") if price is None else finite(f"{place}.price", price),
        "discount_price": 0,
        "product": same["product"] if same else _product(place, item, created, changed, shared.parameters),
    }
    if shared.numbered == "order_item_number":
        body["status"] = "accepted"
    return body


def _product(place: str, item: Section, created: str, changed: str, parameters: Mapping[str, str]) -> Body:
    """Make the product of an item. Reuses the last one of its variant if all that it depends on is the same.

    It is cached in the variant's `note`. Only a variant that several messages may share has one.
    """
    variant = item["variant"] or NOTHING
    note = getattr(variant, "note", None)
    if note is None:
        return _new_product(place, item, variant, created, changed, parameters)
    depends_on = (
        item["product_id"],
        item["variant_id"],
        item["sku"],
        item["name"],
        None if variant["created_at"] else created,
        None if variant["updated_at"] else changed,
        parameters.get(_BRANDS),
        parameters.get(_STORE),
    )
    if note and note[0] == depends_on:
        noted: Body = note[1]
        return noted
    body = _new_product(place, item, variant, created, changed, parameters)
    parts = len(variant["images"]) + len(variant["taxons"])
    if parts <= _MOST_PARTS_NOTED and sum(len(part or "") for part in depends_on) <= _LONGEST_NOTED:
        cast("_Noting", variant).note = depends_on, body
    return body


def _new_product(  # noqa: PLR0913, PLR0917 - all that it is made of
    place: str, item: Section, variant: Section, created: str, changed: str, parameters: Mapping[str, str]
) -> Body:
    body: Body = {
        "id": _product_id(item, variant) or missing(f"{place}.product.id"),
        "code": _product_code(item, variant) or missing(f"{place}.product.code", "the line item has no sku"),
        "is_product": True,
        "is_sku": True,
        "create_date": date_or(created, place, "product.created_at", variant.get("created_at")),
        "change_date": date_or(changed, place, "product.updated_at", variant.get("updated_at")),
    }
    add(body, "name", variant.get("name") or item["name"])
    if variant:
        describe(body, variant["taxons"], variant["images"], parameters)
    return body


def _product_id(item: Section, variant: Section) -> str | None:
    """Return a product's id. The variant's own id comes last, because it may equal another product's id."""
    identifier: str | None = variant.get("product_id") or item["product_id"] or _sku(item) or item["variant_id"]
    return identifier


def _product_code(item: Section, variant: Section) -> str | None:
    return _sku(item) or item["product_id"] or variant.get("product_id")


def describe(body: Body, taxons: Sequence[Section], images: Sequence[str], parameters: Mapping[str, str]) -> None:
    """Add brand, categories and images to a product, from its taxons and images."""
    if taxons:
        if brand_taxonomy := parameters.get(_BRANDS):
            add(body, "brand", _brand(taxons, brand_taxonomy))
        add(body, "categories", _categories(taxons))
    if images:
        add(body, "images", _images(images, parameters.get(_STORE, "")))


def _brand(taxons: Iterable[Section], taxonomy: str) -> str | None:
    """Name the first taxon of the brands' taxonomy; None if there is none."""
    names: list[str] = [taxon["name"] for taxon in taxons if taxon["taxonomy_id"] == taxonomy]
    return names[0] if names else None


def _categories(taxons: Iterable[Section]) -> list[Body]:
    # A dict drops duplicates and keeps the order.
    named = {(t["id"], t["name"]): None for t in taxons if t["id"] and t["name"]}
    return [{"id": identity, "name": name} for identity, name in named]


def _images(paths: Iterable[str], store: str) -> list[Body]:
    """Make the images whose address is absolute, or becomes absolute with the store's address."""
    urls = [_absolute(store, path) for path in paths]
    return [{"url": url} for url in urls if _is_absolute(url)]


def _absolute(store: str, path: str) -> str:
    """Prefix an image's path with the store's address. One with a scheme, such as `data:`, is not a path."""
    if _is_absolute(path) or ":" in path.partition("/")[0]:
        return path
    url = f"https:{path}" if path.startswith("//") else f"{store.rstrip('/')}/{path.lstrip('/')}"
    return derived(url, path)


def _is_absolute(url: str) -> bool:
    return url[:8].lower().startswith(_WEB)
