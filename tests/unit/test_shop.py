from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from consumer.demo.shop import FAULTS, Produced, shop
from jirafe.sandbox.validation import Validator
from jirafe.services import Event, UnknownMessageType, Unsendable, make_events
from schemas.codec import Codec, Undecodable, UnknownSchema
from schemas.hub import key_of
from tests.thorough import scaled

CODEC = Codec()
VALIDATOR = Validator()
STORY = tuple(shop(900, broken_share=0.03, codec=CODEC))
GOOD = tuple(record for record in STORY if record.broken is None)


@cache
def message_of(record: Produced) -> dict[str, Any]:
    return CODEC.decode(record.value)


@cache
def events_of(record: Produced) -> list[Event | Unsendable]:
    message = message_of(record)
    return make_events(message["message"], message["payload"], message["parameters"])


def messages() -> Iterator[dict[str, Any]]:
    return map(message_of, GOOD)


def events(record: Produced) -> list[Event]:
    return [event for event in events_of(record) if isinstance(event, Event)]


def unsendable(record: Produced) -> list[tuple[str, str]]:
    return [(event.kind.name, event.message) for event in events_of(record) if isinstance(event, Unsendable)]


def faulty(fault: str) -> Produced:
    return next(record for record in STORY if record.broken == fault)


def told_by(seed: int) -> list[Produced]:
    return list(shop(100, seed=seed, codec=CODEC))


def test_the_same_seed_gives_the_same_messages_and_another_seed_others() -> None:
    told = told_by(7)
    assert told_by(7) == told
    assert not {record.value for record in told} & {record.value for record in told_by(8)}


@pytest.mark.parametrize("count", [0, 1, 99, 100])
@pytest.mark.parametrize("broken_share", [0, 0.01, 0.5, 1])
def test_there_are_as_many_as_asked_for(count: int, broken_share: float) -> None:
    records = list(shop(count, broken_share=broken_share, codec=CODEC))
    assert len(records) == count
    least = len(FAULTS) if count >= 100 and broken_share else 0
    assert sum(record.broken is not None for record in records) == max(round(count * broken_share), least)


def test_every_good_message_makes_events_that_the_api_accepts() -> None:
    for record in GOOD:
        for event in events_of(record):
            assert isinstance(event, Event), event
            assert VALIDATOR.errors(event.kind.array, event.body) == {}


def test_records_are_keyed_and_sorted_by_their_object() -> None:
    for record, message in zip(GOOD, messages(), strict=True):
        assert record.key == (key_of(message) or "").encode() != b""
        assert record.topic_kind == message["message"].partition(":")[0]


def test_all_types_occur_and_carts_and_orders_are_most_of_them() -> None:
    types = Counter(message["message"] for message in messages())
    assert types.keys() == {
        "cart:new",
        "cart:updated",
        "order:new",
        "order:updated",
        "order:canceled",
        "product:new",
        "product:updated",
        "taxon:new",
        "taxon:updated",
    }
    kinds = Counter(event.kind.name for record in GOOD for event in events(record))
    assert kinds.keys() == {"cart", "order-placed", "order-accepted", "order-cancelled", "product", "category"}
    assert types["cart:updated"] > types["order:new"] > types["order:updated"] > types["order:canceled"]


def test_the_catalog_comes_first_and_has_taxons_that_make_no_category() -> None:
    types = [message["message"] for message in messages()]
    first = types.index("cart:new")
    assert set(types[:first]) == {"taxon:new", "product:new"}
    assert not {"taxon:new", "product:new"} & set(types[first:])
    made = [(kind, len(events_of(record))) for kind, record in zip(types, GOOD[:first], strict=False)]
    assert {count for kind, count in made if kind == "taxon:new"} == {0, 1}
    assert {count for kind, count in made if kind == "product:new"} == {1, 4}


def test_the_dates_of_a_number_increase() -> None:
    changed = defaultdict(list)
    for record in GOOD:
        if made := [event for event in events(record) if event.kind.name != "order-placed"]:
            body = made[-1].body
            changed[record.key].append(datetime.fromisoformat(body.get("change_date") or body["cancel_date"]))
    assert max(map(len, changed.values())) > 5
    assert all(earlier < later for dates in changed.values() for earlier, later in pairwise(dates))


def is_number(key: bytes) -> bool:
    """Tell a cart's or order's number from a taxon's id and a product's sku."""
    return key.startswith(b"R") and key[1:].isdigit()


def test_a_number_is_first_a_cart_then_an_order_and_then_perhaps_canceled() -> None:
    stories = defaultdict(list)
    for record, message in zip(GOOD, messages(), strict=True):
        canceled = any(event.kind.name == "order-cancelled" for event in events(record))
        stories[record.key].append("canceled" if canceled else message["message"])
    order = ("cart:new", "cart:updated", "order:new", "order:updated", "canceled")
    of_numbers = [story for key, story in stories.items() if is_number(key)]
    assert of_numbers
    for story in of_numbers:
        assert story == sorted(story, key=order.index)
        assert story.count("cart:new") == 1
        assert story.count("order:new") <= 1
        assert "order:new" in story or not {"order:updated", "canceled"} & set(story)


def test_several_customers_are_interleaved() -> None:
    numbers = [record.key for record in GOOD if is_number(record.key)]
    spans = [(numbers.index(number), len(numbers) - numbers[::-1].index(number)) for number in set(numbers)]
    assert sum(start <= 500 < end for start, end in spans) > 3


def test_totals_add_up() -> None:
    discounts = 0
    for body in (event.body for record in GOOD for event in events(record) if "items" in event.body):
        assert 1 <= len(body["items"]) <= 5
        assert body["subtotal"] == pytest.approx(sum(item["quantity"] * item["price"] for item in body["items"]))
        added = body["subtotal"] + body["total_tax"] + body["total_shipping"] - body["total_discounts"]
        assert body["total"] == pytest.approx(added)
        discounts += body["total_discounts"] > 0
    assert discounts


def test_orders_have_visits_addresses_products_and_previous_items() -> None:
    seen: dict[str, dict[str, Any]] = defaultdict(dict)
    for record in GOOD:
        for event in events(record):
            seen[event.kind.name] |= event.body
    assert {"visit", "customer"} <= seen["order-placed"].keys()
    assert {"delivery_address", "payment_address", "previous_items"} <= seen["order-accepted"].keys()
    product = seen["order-accepted"]["items"][0]["product"]
    assert {"name", "brand", "categories", "images", "code"} <= product.keys()
    assert product["images"][0]["url"].startswith("https://shop.example.com/spree/products/")


def test_no_message_carries_credentials() -> None:
    names = {name for message in messages() for name in message["parameters"]}
    assert names == {"jirafe.product_category_taxonomy", "jirafe.brand_category_taxonomy", "jirafe.store_url"}


@pytest.mark.parametrize("broken_share", [0.001, 0.01, 0.2])
def test_every_fault_occurs_as_often_as_any_other(broken_share: float) -> None:
    faults = Counter(record.broken for record in shop(100, broken_share=broken_share, codec=CODEC) if record.broken)
    assert faults.keys() == set(FAULTS)
    assert max(faults.values()) - min(faults.values()) <= 1


def test_broken_messages_do_not_change_other_messages() -> None:
    told = shop(scaled(len(GOOD)), broken_share=0, codec=CODEC)
    assert all(record == alone for record, alone in zip(GOOD, told, strict=False))
    broken = [record.key for record in STORY if record.broken]
    assert len({*broken}) == len(broken)
    assert not {*broken} & {record.key for record in GOOD}


def test_faulty_bytes_do_not_decode() -> None:
    with pytest.raises(Undecodable, match=r"begins like JSON, but is not valid JSON"):
        CODEC.decode(faulty("truncated JSON").value)
    with pytest.raises(UnknownSchema, match="fingerprint"):
        CODEC.decode(faulty("unknown schema").value)
    for record in STORY:
        if record.broken == "truncated Avro":
            with pytest.raises(Undecodable, match="are not a"):
                CODEC.decode(record.value)


def test_an_unknown_type_has_no_service() -> None:
    with pytest.raises(UnknownMessageType, match="order:exploded"):
        events_of(faulty("unknown message type"))


def test_faulty_messages_can_not_be_mapped() -> None:
    (parameter,) = unsendable(faulty("missing taxonomy parameter"))
    assert parameter[0] == "category"
    assert parameter[1].startswith("jirafe.product_category_taxonomy: missing")
    assert unsendable(faulty("missing currency")) == [("cart", "currency: missing in the message")]
    dates = unsendable(faulty("unreadable date"))
    assert [kind for kind, _ in dates] == ["order-placed", "order-accepted"]
    assert all("is not a date" in problem and " =>" in problem for _, problem in dates)
    assert [event.kind.name for event in events(faulty("unreadable date"))] == ["cart"]


def test_a_negative_total_is_refused_by_the_api() -> None:
    for record in STORY:
        if record.broken == "negative total":
            (event,) = events(record)
            assert VALIDATOR.errors("cart", event.body).keys() == {"total"}
