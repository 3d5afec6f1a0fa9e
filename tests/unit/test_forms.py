"""A message makes the same events in every form: that of early hubs, of later hubs, or only the shop's own."""

from collections.abc import Callable
from typing import Any

import pytest

from jirafe.sandbox.validation import Validator
from jirafe.services import Event, Unsendable, make_events
from schemas.codec import Codec
from schemas.hub import kind_of, to_message

Hub = dict[str, Any]
CODEC = Codec()
PARAMETERS = {"jirafe.product_category_taxonomy": "2", "jirafe.store_url": "https://shop.example"}
ADDRESS = {"name": "Ada Byron", "address1": "1 Mill Lane", "state_name": "Kent", "country": {"name": "England"}}
SOLIDUS: Hub = {
    "id": 44,
    "number": "R100",
    "state": "complete",
    "user_id": 7,
    "email": "ada@example.com",
    "currency": "GBP",
    "created_at": "2021-07-13T07:59:23.546-04:00",
    "updated_at": "2021-07-13T07:59:24.276-04:00",
    "completed_at": "2021-07-13T08:00:00.000-04:00",
    "item_total": "30.0",
    "total": "32.0",
    "tax_total": "0.0",
    "ship_total": "5.0",
    "adjustment_total": "-3.0",
    "bill_address": ADDRESS,
    "ship_address": ADDRESS,
    "adjustments": [],
    "line_items": [
        {
            "id": 41,
            "quantity": 3,
            "price": "10.0",
            "variant_id": 97,
            "variant": {
                "id": 97,
                "product_id": 12,
                "name": "Mug",
                "sku": "MUG",
                "images": [{"mini_url": "/m.png", "large_url": "/l.png"}],
            },
            "adjustments": [{"label": "Spring", "amount": "-3.0", "source_type": "Spree::PromotionAction"}],
        }
    ],
}
CANCELED = {**SOLIDUS, "state": "canceled", "canceled_at": "2021-07-14T08:00:00Z"}
CART = {**SOLIDUS, "state": "cart", "completed_at": None}
TAXON = {"id": 9, "name": "Bags", "taxonomy_id": 2, "permalink": "c/bags"}
PRODUCT = {"id": 5, "name": "Mug", "created_at": "2014-02-01T00:00:00Z", "master": {"sku": "MUG"}, "variants": []}

MESSAGES = {
    "order:new": (SOLIDUS, ["cart", "order-placed", "order-accepted"]),
    "order:updated": (CANCELED, ["order-accepted", "order-cancelled"]),
    "cart:new": (CART, ["cart"]),
    "taxon:new": (TAXON, ["category"]),
    "product:new": (PRODUCT, ["product"]),
}


def early(message_type: str, raw: Hub) -> Hub:
    kind = message_type.partition(":")[0]
    return {"message": message_type, "message_id": "m", "payload": {kind: raw, "original": raw}}


def later(message_type: str, raw: Hub) -> Hub:
    return {"request_id": "m", message_type.partition(":")[0]: raw}


def early_of_the_shop_alone(message_type: str, raw: Hub) -> Hub:
    return {"message": message_type, "message_id": "m", "payload": {"original": raw}}


def later_of_the_shop_alone(_message_type: str, raw: Hub) -> Hub:
    return {"request_id": "m", "original": raw}


FORMS = (early, later, early_of_the_shop_alone, later_of_the_shop_alone)


def events(document: Hub) -> tuple[str, list[Event | Unsendable]]:
    """Encode a document as a record and make its events, as the service does."""
    message = to_message(document)
    record = CODEC.decode(CODEC.encode(kind_of(message["message"]) or "", message))
    return message["message"], make_events(message["message"], record["payload"], PARAMETERS, 1_400_000_000_000)


@pytest.mark.parametrize("message_type", MESSAGES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_makes_the_same_events(form: Callable[[str, Hub], Hub], message_type: str) -> None:
    raw, kinds = MESSAGES[message_type]
    made = events(form(message_type, raw))
    assert made == events(early(message_type, raw))
    assert [event.kind.name for event in made[1]] == kinds
    for event in made[1]:
        assert isinstance(event, Event)
        assert Validator().errors(event.kind.array, event.body) == {}


def test_an_order_of_solidus_is_mapped() -> None:
    _, made = events(later("order:new", SOLIDUS))
    cart, _, accepted = (event.body for event in made if isinstance(event, Event))
    assert cart["total_discounts"] == accepted["total_discounts"] == 3
    assert cart["customer"]["name"] == "Ada Byron"
    assert "first_name" not in cart["customer"]
    assert cart["items"][0]["product"]["images"] == [{"url": "https://shop.example/l.png"}]
    assert accepted["payment_address"] == {"address1": "1 Mill Lane", "state": "Kent", "country": "England"}
