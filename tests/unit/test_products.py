"""Product messages, in the forms of hubs and shops: the product itself, then its variants."""

from typing import Any

import orjson
import pytest

from consumer.delivery.defaults import Credentials, Defaults
from consumer.delivery.mapping import Mapper
from consumer.engine.records import Record
from jirafe.sandbox.validation import Validator
from jirafe.services import PRODUCT, Event, Unsendable, make_events, notification_of_failed, notification_of_sent
from schemas.codec import Codec
from schemas.hub import key_of, to_message

Hub = dict[str, Any]
T1, T2, T3 = (f"2014-02-0{day}T00:00:00.000Z" for day in (1, 2, 3))
PARAMETERS = {"jirafe.store_url": "https://shop.example", "jirafe.brand_category_taxonomy": "1"}
LATE: Hub = {
    "id": "BAG-1",
    "name": "Bag",
    "sku": "BAG-1",
    "price": 31,
    "available_on": T1,
    "taxons": [["Categories", "Bags"]],
    "options": ["size"],
    "images": [{"url": "http://img.example/bag.png", "position": 1}],
    "meta_data": {"jirafe": {"taxons": [{"permalink": "c/bags", "name": "Bags"}]}},
    "variants": [{"sku": "BAG-1-S", "images": [{"url": "/s.png"}]}, {"sku": "BAG-1-M", "updated_at": T3}],
}
RAW: Hub = {
    "id": 7,
    "name": "Bag",
    "created_at": T1,
    "updated_at": T2,
    "master": {
        "id": 70,
        "sku": "BAG-1",
        "is_master": True,
        "images": [{"large_url": "/l.png", "mini_url": "/m.png"}],
    },
    "taxons": [{"id": 9, "name": "Bags", "taxonomy_id": 2}, {"id": 3, "name": "Apache", "taxonomy_id": 1}],
    "variants": [{"id": 71, "sku": "BAG-1-S", "is_master": False}],
}


def made(document: Hub) -> list[Event | Unsendable]:
    message = to_message({"message": "product:new", **document})
    return make_events(message["message"], message["payload"], PARAMETERS)


def bodies(document: Hub) -> list[dict[str, Any]]:
    found = [event.body for event in made(document) if isinstance(event, Event)]
    assert [Validator().errors("product", body) for body in found] == [{}] * len(found)
    return found


def test_a_late_hubs_product_and_its_variants() -> None:
    base = {"id": "BAG-1", "code": "BAG-1", "name": "Bag"}
    variant = {"is_product": False, "is_sku": True, "create_date": T1, "change_date": T1, "base_product": base}
    assert bodies({"product": LATE}) == [
        {
            **base,
            "is_product": True,
            "is_sku": True,
            "create_date": T1,
            "change_date": T1,
            "categories": [{"id": "c/bags", "name": "Bags"}],
            "images": [{"url": "http://img.example/bag.png"}],
        },
        {**variant, "id": "BAG-1-S", "code": "BAG-1-S", "images": [{"url": "https://shop.example/s.png"}]},
        {**variant, "id": "BAG-1-M", "code": "BAG-1-M", "change_date": T3},
    ]


@pytest.mark.parametrize("place", ["product", "original"])
def test_a_shops_own_product(place: str) -> None:
    product, variant = bodies({place: RAW})
    assert product == {
        "id": "BAG-1",
        "code": "BAG-1",
        "name": "Bag",
        "is_product": True,
        "is_sku": True,
        "create_date": T1,
        "change_date": T2,
        "brand": "Apache",
        "categories": [{"id": "9", "name": "Bags"}, {"id": "3", "name": "Apache"}],
        "images": [{"url": "https://shop.example/l.png"}],
    }
    assert (variant["id"], variant["create_date"], variant["change_date"]) == ("BAG-1-S", T1, T2)


def test_fields_that_the_hubs_form_lacks_come_from_the_shops() -> None:
    hub = {"id": "BAG-1", "name": "Better bag"}
    product, variant = bodies({"payload": {"product": hub, "original": RAW}})
    assert (product["name"], product["create_date"], variant["id"]) == ("Better bag", T1, "BAG-1-S")


def test_the_master_is_not_a_variant() -> None:
    variants = [{"sku": "BAG-1"}, {"sku": "BAG-1-M", "is_master": True}, {"sku": "BAG-1-S"}]
    assert [body["id"] for body in bodies({"product": {**LATE, "variants": variants}})] == ["BAG-1", "BAG-1-S"]


@pytest.mark.parametrize(
    ("dates", "created", "changed"),
    [
        ({"created_at": T2, "updated_at": T3}, T2, T3),
        ({"created_at": T2}, T2, T2),
        ({"updated_at": T3, "available_on": None}, T3, T3),
        ({"updated_at": T3}, T1, T3),
        ({}, T1, T1),
    ],
)
def test_dates(dates: Hub, created: str, changed: str) -> None:
    product = bodies({"product": {**LATE, **dates}})[0]
    assert (product["create_date"], product["change_date"]) == (created, changed)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"product": None}, "product: missing in the message"),
        ({"product": {"name": "Bag", "created_at": T1}}, "sku: missing in the message"),
        ({"product": {"sku": "A"}}, "created_at: missing in the message"),
        ({"product": {"sku": "A", "available_on": "soon"}}, "available_on: 'soon' is not a date"),
    ],
)
def test_missing_fields_are_named(document: Hub, problem: str) -> None:
    (event,) = made(document)
    assert isinstance(event, Unsendable)
    assert event.message == problem


def test_one_variant_does_not_hold_up_the_others() -> None:
    variants = [{"sku": None}, {"sku": "A", "created_at": "soon"}, {"sku": "B"}]
    product, *events = made({"product": {**LATE, "variants": variants}})
    assert isinstance(product, Event)
    assert [event.message if isinstance(event, Unsendable) else event.body["id"] for event in events] == [
        "variants.0.sku: missing in the message",
        "variants.1.created_at: 'soon' is not a date",
        "B",
    ]


def test_events_are_under_the_products_key_so_that_they_arrive_in_order() -> None:
    message = to_message({"product": LATE})
    assert (message["message"], key_of(message)) == ("product:new", "BAG-1")
    events = [event for event in made({"product": LATE}) if isinstance(event, Event)]
    assert [(event.key, event.name) for event in events] == [
        ("BAG-1", "BAG-1"),
        ("BAG-1", "BAG-1-S"),
        ("BAG-1", "BAG-1-M"),
    ]


def test_notifications_have_the_exact_texts_of_the_hub() -> None:
    assert notification_of_sent(PRODUCT, "ROR-TS") == {
        "level": "info",
        "subject": "Product event sent to Jirafe.",
        "description": "The product 'ROR-TS' was sent to Jirafe.",
    }
    assert notification_of_failed(PRODUCT, "why") == {
        "level": "error",
        "subject": "There was a problem while sending a product event to Jirafe.",
        "description": "why",
    }


def test_a_record_becomes_documents_of_the_array_of_products() -> None:
    codec = Codec()
    value = codec.encode("product", to_message({"product": LATE}))
    record = Record("products", 0, 0, 0, b"BAG-1", value, ())
    draft = Mapper(codec, 100_000).draft(record, Defaults(Credentials("1", "token"), {}))
    assert draft.fault is None
    assert [event.document.array for event in draft.events] == ["product"] * 3
    assert [orjson.loads(event.document.json)["is_product"] for event in draft.events] == [True, False, False]
