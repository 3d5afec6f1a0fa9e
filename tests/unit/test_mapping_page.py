"""docs/mapping.md against the code: if a source is removed, the next one must be used."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from consumer.admin.preview import Given, Preview, of_document
from jirafe.sourced import Sourced, marked
from schemas import sections
from schemas.reading import Section

PAGE = (Path(__file__).parents[2] / "docs" / "mapping.md").read_text()
BRANDS = {"jirafe.brand_category_taxonomy": "1", "jirafe.store_url": "https://shop.example"}
GIVEN = Given({"jirafe.product_category_taxonomy": "2", **BRANDS}, {}, 1_393_664_400_000, "the record's timestamp")


class Row(NamedTuple):
    """A row of the page: the table it is in, its field, its sources in order, and what stands in without them."""

    table: str
    field: str
    sources: list[str]
    otherwise: str


def chapters() -> Iterator[tuple[str, str]]:
    for chapter in PAGE.split("\n## ")[1:]:
        title, _, text = chapter.partition("\n")
        text, _, variant = text.partition("\nA variant:\n")
        yield title, text
        yield "variant", variant


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def cells(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith(("| field", "| of")):
            yield [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]


ROWS = [
    Row(title, quoted(row[0])[0], quoted(row[1]), row[2])
    for title, text in chapters()
    if title != "Names"
    for row in cells(text)
]
NAMES = [
    (row[0], quoted(row[1])[0], quoted(row[2]))
    for title, text in chapters()
    if title == "Names"
    for row in cells(text)
]
BASES: dict[str, dict[str, Any]] = {
    "cart": {"N.number": "R1", "N.currency": "USD", "N.created_at": "2014-03-01"},
    "Items": {
        "N.number": "R1",
        "N.currency": "USD",
        "N.created_at": "2014-03-01",
        **{f"N.line_items.0.{name}": value for name, value in (("id", 1), ("quantity", 1), ("price", 1))},
        **{f"N.line_items.0.{name}": "x" for name in ("sku", "variant.taxons.0.id", "variant.taxons.0.name")},
    },
    "category": {"taxon.id": 1, "taxon.name": "Bags", "taxon.taxonomy_id": 2},
    "product": {
        "product.sku": "A",
        "product.created_at": "2014-03-01",
        **{f"product.taxons.0.{name}": "x" for name in ("id", "name")},
        **{f"product.variants.0.{name}": "x" for name in ("sku", "name")},
    },
}
TYPES = {
    "cart": "cart:new",
    "order-placed": "order:new",
    "order-accepted": "order:new",
    "order-cancelled": "order:canceled",
    "Items": "order:new",
    "category": "taxon:new",
    "product": "product:new",
    "variant": "product:new",
}


def place_of(table: str, source: str) -> str:
    """Name the place of a source in a message."""
    hub = "cart" if TYPES[table].startswith("cart") else "order"
    if table == "Items":
        source = f"N.line_items.0.{source.removeprefix('N.line_items.0.')}" if source[:2] != "N." else source
    return re.sub(r"^N\.", f"{hub}.", re.sub(r"^O\.", "original.", source))


def value_for(place: str) -> object:
    name = place.rpartition(".")[2]
    if name.endswith(("_at", "_on")):
        return "2014-03-02T10:00:00Z"
    if "url" in name:
        return "http://img.example/a.png"
    is_number = name.endswith(("total", "fee")) or name in ("item", "order", "tax", "discount", "quantity", "price")
    return 3 if is_number or name in ("value", "amount", "shipping") else f"a {name}"


def put(document: Any, place: str, value: object) -> None:
    """Put a value at a place such as `order.line_items.0.id`."""
    last = place.rpartition(".")[2]
    for step, following in pairwise(place.split(".")):
        empty: Any = [] if following.isdigit() else {}
        if isinstance(document, list):
            document.extend([{}] * (int(step) + 1 - len(document)))
            document = document[int(step)]
        else:
            document = document.setdefault(step, empty)
    if isinstance(document, list):
        document.append(value)
    else:
        document[last] = value


def shown_with(row: Row, sources: list[str]) -> Preview:
    base = {place_of(row.table, place): value for place, value in BASES.get(row.table, BASES["cart"]).items()}
    if row.table == "variant":
        base = dict(BASES["product"])
    payload: dict[str, Any] = {}
    for place, value in base.items():
        if place not in [place_of(row.table, source) for source in row.sources]:
            put(payload, place, value)
    for source in sources:
        put(payload, place_of(row.table, source), value_for(source))
    return of_document({"message": TYPES[row.table], "payload": payload}, GIVEN)


def fields(row: Row, shown: Preview) -> dict[str, tuple[object, str]] | None:
    """Give the fields of the row's event, None where it could not be made."""
    kinds = [kind for kind, _ in shown.events]
    if row.table == "variant":
        found = shown.fields[1] if len(kinds) > 1 else None
    else:
        kind = "cart" if row.table == "Items" else row.table
        found = shown.fields[kinds.index(kind)] if kind in kinds else None
    inside = "items[0]." if row.table == "Items" else ""
    return {f.path.removeprefix(inside): (f.value, f.why) for f in found} if found is not None else None


def in_brackets(place: str) -> str:
    return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", place)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.table} {row.field}")
def test_each_source_has_priority_over_the_next_ones(row: Row) -> None:
    for index, source in enumerate(row.sources):
        made = fields(row, shown_with(row, row.sources[index:]))
        assert made is not None, source
        why = made[row.field][1]
        place = re.escape(f"payload.{in_brackets(place_of(row.table, source))}")
        assert re.match(rf"from {place}( |,|$)", why), why


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.table} {row.field}")
def test_the_default_applies_without_a_source(row: Row) -> None:
    shown = shown_with(row, [])
    made = fields(row, shown)
    if row.otherwise == "error":
        assert made is None
        assert shown.is_faulty
        return
    assert made is not None
    if row.otherwise == "left out":
        assert row.field not in made
    elif row.otherwise == "the record's timestamp":
        assert made[row.field][1] == f"from {row.otherwise}"
    elif row.otherwise.startswith("as "):
        assert made[row.field][0] == made[quoted(row.otherwise)[0]][0]
    else:
        assert made[row.field][0] == orjson.loads(quoted(row.otherwise)[0])


@pytest.mark.parametrize(("of", "field", "names"), NAMES, ids=lambda value: value if isinstance(value, str) else "")
def test_each_name_has_priority_over_the_next_ones(of: str, field: str, names: list[str]) -> None:
    for index, name in enumerate(names):
        raw: dict[str, Any] = {}
        for later in names[index:]:
            put(raw, later, value_for(later))
        section = Section(raw, "", marked)
        if of == "product":
            made: Any = sections.product(section, Section({}))
        else:
            made = {"order": sections.order, "line item": sections.line_item}[of](section)
        for step in field.split("."):
            made = made[int(step)] if step.isdigit() else made[step]
        assert isinstance(made, Sourced)
        assert made.sources == (name,)


ADDRESS = {**dict.fromkeys(("firstname", "lastname", "address1", "city", "zipcode", "state", "country"), "x")}
ITEM = {
    "id": 1,
    "quantity": 1,
    "price": 1,
    "sku": "A",
    "name": "Bag",
    "variant": {"images": ["/a.png"], "taxons": [{"id": 1, "name": "Apache", "taxonomy_id": 1}]},
}
FULL: dict[str, Any] = {
    "number": "R1",
    "currency": "USD",
    "created_at": "2014-03-01",
    "email": "a@example.com",
    "visit_id": "1",
    "billing_address": ADDRESS,
    "shipping_address": ADDRESS,
    "line_items": [ITEM],
    "status": "canceled",
}
PRODUCT = {**ITEM, **ITEM["variant"], "created_at": "2014-03-01", "variants": [{"sku": "B", "images": ["/b.png"]}]}  # type: ignore[dict-item]
TAXON = {"id": 1, "name": "Bags", "taxonomy_id": 2, "parent_id": 3}


def test_every_field_of_every_event_is_on_the_page() -> None:
    of_items = {row.field for row in ROWS if row.table == "Items"}
    order_items = of_items - {"cart_item_number"} | {"order_item_number", "status"}
    listed: dict[str, set[str]] = {}
    for row in ROWS:
        if row.table != "Items":
            listed.setdefault(row.table, set()).add(row.field)
    for kind, names in (("cart", of_items), ("order-accepted", order_items)):
        listed[kind] |= {f"{part}[0].{name}" for part in ("items", "previous_items") for name in names}
    found: dict[str, set[str]] = {}
    for document in (
        {"message": "order:new", "payload": {"order": FULL, "previous": FULL}},
        {"message": "order:new", "payload": {"order": {**FULL, "billing_address": {"name": "x"}}}},
        {"message": "taxon:new", "payload": {"taxon": TAXON}},
        {"message": "product:new", "payload": {"product": PRODUCT}},
    ):
        shown = of_document(document, GIVEN)
        assert not shown.is_faulty, shown.notifications
        for (kind, body), made in zip(shown.events, shown.fields, strict=True):
            name = "variant" if body.get("is_product") is False else kind
            found.setdefault(name, set()).update(field.path for field in made)
    assert found == listed


def examples() -> list[tuple[Any, Any]]:
    blocks = [orjson.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
    return list(zip(blocks[::2], blocks[1::2], strict=True))


def test_there_is_an_example_of_each_service() -> None:
    types = [before["message"] for before, _ in examples()]
    assert types == ["cart:updated", "order:new", "order:updated", "taxon:new", "product:new"]


@pytest.mark.parametrize(("before", "after"), examples(), ids=lambda value: "")
def test_an_example_makes_what_the_page_says(before: Any, after: Any) -> None:
    assert [{kind: body} for kind, body in of_document(before, GIVEN).events] == after
