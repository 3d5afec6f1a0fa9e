"""The hub's JSON, in all its shapes, becomes a message of our schemas, or an error that names the place."""

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import Codec
from schemas.hub import HubError, key_of, kind_of, to_message
from tests.messages import CHARACTERS

CODEC = Codec()

BLANK_ORDER: dict[str, Any] = {
    **dict.fromkeys(("number", "status", "email", "user_id", "currency", "placed_on", "created_at", "updated_at")),
    **dict.fromkeys(("completed_at", "canceled_at", "item_total", "total", "tax_total", "ship_total")),
    **dict.fromkeys(("discount_total", "payment_fee", "shipping_address", "billing_address")),
    **dict.fromkeys(("visit_id", "visitor_id", "pageview_id", "last_pageview_id")),
    "line_items": [],
    "adjustments": [],
}
BLANK_ITEM: dict[str, Any] = {
    **dict.fromkeys(("id", "product_id", "variant_id", "name", "sku", "quantity", "price")),
    **dict.fromkeys(("created_at", "updated_at", "variant")),
    "adjustments": [],
}
BLANK_ADDRESS: dict[str, Any] = dict.fromkeys(
    ("firstname", "lastname", "name", "address1", "city", "state", "zipcode", "country")
)

NORMALIZED: dict[str, Any] = {
    "number": "R0815",
    "channel": "spree",
    "email": "ada@example.com",
    "currency": "EUR",
    "placed_on": "2014-03-01T08:00:00Z",
    "updated_at": "2014-03-01T09:00:00Z",
    "status": "complete",
    "totals": {"item": 40, "adjustment": 4.5, "tax": 1.5, "shipping": 3, "payment": 44.5, "order": 44.5},
    "line_items": [{"name": "Mug", "sku": "MUG-1", "quantity": 2, "price": 20, "variant_id": 8, "options": {}}],
    "adjustments": [{"name": "Tax", "value": 1.5}, {"name": "Voucher", "value": -5}],
    "shipping_address": {"firstname": "Ada", "address2": " ", "zipcode": "10115", "country": "DE", "phone": "1"},
    "billing_address": {},
    "payments": [{"number": 6, "amount": 44.5}],
}
ORIGINAL: dict[str, Any] = {
    "id": 4711,
    "number": "R0815",
    "state": "complete",
    "user_id": 12,
    "item_total": "40.0",
    "total": "44.5",
    "tax_total": "1.5",
    "ship_total": "3.0",
    "created_at": "2014-02-28T12:00:00.123Z",
    "updated_at": "2014-03-01T09:00:00.456Z",
    "completed_at": "2014-03-01T03:00:00-05:00",
    "visit_id": "659",
    "visitor_id": 382,
    "pageview_id": "0",
    "last_pageview_id": None,
    "special_instructions": None,
    "bill_address": {
        "firstname": "Ada",
        "lastname": "Byron",
        "address1": "1 Mill Lane",
        "city": "Bethesda",
        "zipcode": 20814,
        "state": {"id": 3, "name": "Maryland", "abbr": "MD"},
        "country": {"id": 4, "iso": "US", "name": "United States"},
    },
    "ship_address": {},
    "line_items": [
        {
            "id": 31,
            "quantity": 2,
            "price": "20.0",
            "variant_id": 8,
            "variant": {
                "id": 8,
                "product_id": 5,
                "name": "Mug",
                "sku": "MUG-1",
                "price": "20.0",
                "weight": None,
                "images": [{"id": 1, "attachment_url": "/spree/5/mug.jpeg?1"}, {"id": 2, "attachment_url": None}],
                "product": {
                    "taxons": [{"id": 9, "name": "Kitchen", "taxonomy_id": 2, "position": 1}, {"id": 10}],
                    "created_at": "2013-01-01T00:00:00Z",
                    "updated_at": "2013-01-02T00:00:00Z",
                },
            },
        },
        {},
    ],
    "adjustments": [{"label": "Spring", "amount": "-5.0", "eligible": False}, {}],
    "credit_cards": [{"number": "4111111111111111"}],
}
ORDER_NEW: dict[str, Any] = {
    "message": "order:new",
    "message_id": "518726r1",
    "payload": {
        "order": NORMALIZED,
        "original": ORIGINAL,
        "previous": {"number": "R0815", "line_items": [{"sku": "OLD", "quantity": "1", "price": "1"}]},
        "diff": {"status": ["cart", "complete"]},
        "parameters": [{"name": "jirafe.site_id", "value": "77"}, {"name": "jirafe.access_token", "value": "t"}],
    },
}
CART_LATER: dict[str, Any] = {
    "request_id": "later-1",
    "cart": {**ORIGINAL, "number": "C1"},
    "parameters": {"jirafe_site_id": "77", "jirafe_product_category_taxonomy": 2},
}
TAXON_NEW: dict[str, Any] = {
    "message": "taxon:new",
    "message_id": 1234,
    "payload": {
        "taxon": {
            "id": 9,
            "parent_id": 1,
            "name": "Kitchen",
            "permalink": "c/kitchen",
            "taxonomy_id": 2,
            "description": None,
            "created_at": "2013-12-03T19:54:33Z",
            "updated_at": "2013-12-04T19:54:33Z",
        },
        "parameters": [],
    },
}
PRODUCT_LATER: dict[str, Any] = {
    "request_id": "later-2",
    "product": {
        "id": "MUG-1",
        "sku": "MUG-1",
        "name": "Mug",
        "available_on": "2014-01-01T00:00:00Z",
        "images": [{"url": "http://img.example/mug.png"}, "/mug.png"],
        "taxons": [["Kitchen", "Mugs"]],
        "meta_data": {"jirafe": {"taxons": [{"permalink": "c/kitchen", "name": "Kitchen"}]}},
        "variants": [{"sku": "MUG-1-S", "images": []}],
    },
    "original": {"id": 5, "created_at": "2014-01-01T00:00:00Z", "master": {"sku": "MUG-1"}, "variants": []},
}
DOCUMENTS = [ORDER_NEW, CART_LATER, TAXON_NEW, PRODUCT_LATER]


def order(**fields: object) -> dict[str, Any]:
    """Convert an order with these fields, and give it as the message has it."""
    converted: dict[str, Any] = to_message({"message": "order:new", "order": fields})["payload"]["order"]
    return converted


class TestShapes:
    def test_normalized_order(self) -> None:
        message = to_message(ORDER_NEW)
        assert (message["message"], message["message_id"]) == ("order:new", "518726r1")
        assert message["parameters"] == {"jirafe.site_id": "77", "jirafe.access_token": "t"}
        assert message["payload"]["order"] == {
            **BLANK_ORDER,
            "number": "R0815",
            "status": "complete",
            "email": "ada@example.com",
            "currency": "EUR",
            "placed_on": "2014-03-01T08:00:00Z",
            "updated_at": "2014-03-01T09:00:00Z",
            "item_total": 40.0,
            "total": 44.5,
            "tax_total": 1.5,
            "ship_total": 3.0,
            "line_items": [
                {
                    **BLANK_ITEM,
                    "name": "Mug",
                    "sku": "MUG-1",
                    "quantity": 2,
                    "price": 20.0,
                    "variant_id": "8",
                }
            ],
            "adjustments": [
                {"label": "Tax", "amount": 1.5, "eligible": True, "source": None},
                {"label": "Voucher", "amount": -5.0, "eligible": True, "source": None},
            ],
            "shipping_address": {**BLANK_ADDRESS, "firstname": "Ada", "zipcode": "10115", "country": "DE"},
        }

    def test_shops_own_order(self) -> None:
        assert to_message(ORDER_NEW)["payload"]["original"] == {
            **BLANK_ORDER,
            "number": "R0815",
            "status": "complete",
            "user_id": "12",
            "item_total": 40.0,
            "total": 44.5,
            "tax_total": 1.5,
            "ship_total": 3.0,
            "created_at": "2014-02-28T12:00:00.123Z",
            "updated_at": "2014-03-01T09:00:00.456Z",
            "completed_at": "2014-03-01T03:00:00-05:00",
            "visit_id": "659",
            "visitor_id": "382",
            "pageview_id": "0",
            "billing_address": {
                "name": None,
                "firstname": "Ada",
                "lastname": "Byron",
                "address1": "1 Mill Lane",
                "city": "Bethesda",
                "zipcode": "20814",
                "state": "Maryland",
                "country": "United States",
            },
            "line_items": [
                {
                    **BLANK_ITEM,
                    "id": "31",
                    "variant_id": "8",
                    "quantity": 2,
                    "price": 20.0,
                    "variant": {
                        "product_id": "5",
                        "name": "Mug",
                        "sku": "MUG-1",
                        "price": 20.0,
                        "images": ["/spree/5/mug.jpeg?1"],
                        "taxons": [
                            {"id": "9", "name": "Kitchen", "taxonomy_id": "2"},
                            {"id": "10", "name": None, "taxonomy_id": None},
                        ],
                        "created_at": "2013-01-01T00:00:00Z",
                        "updated_at": "2013-01-02T00:00:00Z",
                    },
                }
            ],
            "adjustments": [{"label": "Spring", "amount": -5.0, "eligible": False, "source": None}],
        }

    def test_previous_state_and_diff(self) -> None:
        payload = to_message(ORDER_NEW)["payload"]
        assert payload["previous"] == {
            **BLANK_ORDER,
            "number": "R0815",
            "line_items": [{**BLANK_ITEM, "sku": "OLD", "quantity": 1, "price": 1.0}],
        }
        assert payload["diff"] == {"status": ["cart", "complete"]}

    def test_later_hub(self) -> None:
        message = to_message(CART_LATER)
        assert (message["message"], message["message_id"]) == ("cart:new", "later-1")
        assert message["parameters"] == {"jirafe.site_id": "77", "jirafe.product_category_taxonomy": "2"}
        assert message["payload"].keys() == {"cart", "original", "previous", "previous_items", "diff"}
        assert message["payload"]["cart"]["number"] == "C1"
        assert message["payload"]["original"] is None

    def test_taxon(self) -> None:
        assert to_message(TAXON_NEW) == {
            "message": "taxon:new",
            "message_id": "1234",
            "parameters": {},
            "payload": {
                "taxon": {
                    "id": "9",
                    "parent_id": "1",
                    "name": "Kitchen",
                    "taxonomy_id": "2",
                    "created_at": "2013-12-03T19:54:33Z",
                    "updated_at": "2013-12-04T19:54:33Z",
                }
            },
        }

    @pytest.mark.parametrize("nothing", [{}, {"payload": None}, {"payload": {}}, {"order": None, "diff": None}])
    def test_message_with_nothing_in_it(self, nothing: dict[str, Any]) -> None:
        assert to_message({"message": "order:updated", **nothing}) == {
            "message": "order:updated",
            "message_id": "",
            "parameters": {},
            "payload": {"order": None, "original": None, "previous": None, "previous_items": [], "diff": {}},
        }

    @pytest.mark.parametrize(
        ("document", "message_type"),
        [
            ({"cart": {}}, "cart:new"),
            ({"taxon": {}}, "taxon:new"),
            ({"order": {}}, "order:new"),
            ({"product": {}}, "product:new"),
            ({"order": {"status": "cancelled"}}, "order:updated"),
            ({"original": {"number": "R1", "state": "cart"}}, "cart:new"),
            ({"original": {"number": "R1", "completed_at": "2014-03-01"}}, "order:new"),
            ({"original": {"number": "R1", "state": "canceled"}}, "order:updated"),
            ({"original": {"taxonomy_id": 2}}, "taxon:new"),
            ({"original": {"master": {}}}, "product:new"),
            ({"order": {}, "previous": {}}, "order:updated"),
            ({"order": {}, "diff": {}}, "order:updated"),
            ({"payload": {"order": {}}}, "order:new"),
            ({"message": " ", "cart": {}}, "cart:new"),
            ({"message": "cart:updated", "order": {}}, "cart:updated"),
        ],
    )
    def test_type_is_given_or_derived_from_the_object(self, document: object, message_type: str) -> None:
        assert to_message(document)["message"] == message_type

    @pytest.mark.parametrize("value", [None, "", "   ", {}])
    def test_an_empty_address_is_none_and_empty_fields_are_blank(self, value: object) -> None:
        if isinstance(value, dict):
            assert order(billing_address=value)["billing_address"] is None
        else:
            assert order(billing_address={"city": value})["billing_address"] == BLANK_ADDRESS

    def test_an_address_may_have_either_name(self) -> None:
        assert order(ship_address={"city": "A"})["shipping_address"]["city"] == "A"
        assert order(shipping_address={}, ship_address={"city": "A"})["shipping_address"]["city"] == "A"
        assert order(shipping_address={"city": "B"}, ship_address={"city": "A"})["shipping_address"]["city"] == "B"

    @pytest.mark.parametrize(
        ("given_address", "state", "country"),
        [
            ({"state": "MD", "country": "US"}, "MD", "US"),
            ({"state": {"name": None, "abbr": "MD"}, "country": {"iso": "US"}}, "MD", "US"),
            ({"state": None, "state_name": "Kent", "country": {}}, "Kent", None),
            ({"state": {}, "state_name": "Kent", "country": None}, "Kent", None),
        ],
    )
    def test_state_and_country(self, given_address: dict[str, Any], state: str | None, country: str | None) -> None:
        address = order(bill_address=given_address)["billing_address"]
        assert (address["state"], address["country"]) == (state, country)

    @pytest.mark.parametrize(
        ("fields", "number"),
        [
            ({"number": "R1", "id": "R2"}, "R1"),
            ({"id": "R2"}, "R2"),
            ({"number": 17}, "17"),
            ({"id": 17}, None),
            ({"id": "", "number": " "}, None),
        ],
    )
    def test_number_may_be_a_textual_id(self, fields: dict[str, Any], number: str | None) -> None:
        assert order(**fields)["number"] == number

    @pytest.mark.parametrize(
        ("value", "number"),
        [("9.99", 9.99), (" 7 ", 7.0), (0, 0.0), ("-1e2", -100.0), ("", None), (" ", None), (None, None)],
    )
    def test_amounts_may_be_text(self, value: object, number: float | None) -> None:
        assert order(totals={"tax": value})["tax_total"] == number
        assert order(tax_total=value)["tax_total"] == number

    @pytest.mark.parametrize(
        ("total", "own"),
        [
            ("item", "item_total"),
            ("order", "total"),
            ("tax", "tax_total"),
            ("shipping", "ship_total"),
            ("discount", "discount_total"),
            ("payment_fee", "payment_fee"),
        ],
    )
    def test_totals_have_priority_over_the_orders_own_fields(self, total: str, own: str) -> None:
        assert order(totals={total: 0}, **{own: "9"})[own] == 0
        assert order(totals={}, **{own: "9"})[own] == 9

    def test_name_and_value_of_an_adjustment_have_priority(self) -> None:
        adjustment = {"name": "A", "label": "B", "value": 0, "amount": 2}
        assert order(adjustments=[adjustment])["adjustments"] == [
            {"label": "A", "amount": 0, "eligible": True, "source": None}
        ]

    @pytest.mark.parametrize(
        ("value", "quantity"),
        [
            (3, 3),
            ("3", 3),
            (3.0, 3),
            ("3.0", 3),
            (-1, -1),
            (1000, 1000),
            (2**62, 2**62),
            (-(2**62), -(2**62)),
            (" ", None),
            (None, None),
        ],
    )
    def test_quantities_are_integers(self, value: object, quantity: int | None) -> None:
        item = order(line_items=[{"sku": "A", "quantity": value}])["line_items"][0]
        assert item["quantity"] == quantity
        assert type(item["quantity"]) is type(quantity)

    def test_empty_list_members_are_ignored(self) -> None:
        assert [item["sku"] for item in order(line_items=[{}, {"sku": "A"}, None])["line_items"]] == ["A"]
        assert order(line_items=None, adjustments=[{}]) == BLANK_ORDER

    def test_a_diff_may_be_a_single_value_of_any_type(self) -> None:
        document = {"message": "order:updated", "diff": {"status": "canceled", "total": [None, 9.5], "x": []}}
        assert to_message(document)["payload"]["diff"] == {
            "status": ["canceled"],
            "total": [None, "9.5"],
            "x": [],
        }


class TestParameters:
    @pytest.mark.parametrize(
        "parameters",
        [
            [{"name": "jirafe.site_id", "value": "77"}, {"name": "jirafe.store_url", "value": None}],
            [{"name": "jirafe_site_id", "value": 77}, {}],
            {"jirafe.site_id": "77", "jirafe.store_url": ""},
            {"jirafe_site_id": 77},
        ],
    )
    @pytest.mark.parametrize("place", ["payload", "envelope"])
    def test_all_forms(self, parameters: object, place: str) -> None:
        document: dict[str, Any] = {"message": "order:new", "payload": {"order": {}}}
        (document["payload"] if place == "payload" else document)["parameters"] = parameters
        assert to_message(document)["parameters"] == {"jirafe.site_id": "77"}

    @pytest.mark.parametrize(
        "others",
        [
            [
                {"name": "mailer.password", "value": "hunter2"},
                {"name": "jirafes.x", "value": "hunter2"},
                {"name": "erp.login", "value": {"password": "hunter2"}},
                {"name": None, "value": "hunter2"},
                {"value": "hunter2"},
            ],
            {"mailer.password": "hunter2", "erp_login": {"password": ["hunter2"]}, "": "hunter2"},
        ],
    )
    def test_secrets_of_other_integrations_are_dropped(self, others: Any) -> None:
        document = copy.deepcopy(ORDER_NEW)
        document["payload"]["parameters"] = others
        document["parameters"] = others
        message = to_message(document)
        assert message["parameters"] == {}
        encoded = CODEC.encode("order", message)
        assert b"hunter2" not in encoded
        assert b"4111111111111111" not in encoded


class TestErrors:
    @pytest.mark.parametrize(
        ("document", "sentence"),
        [
            ([], "the message: must be an object, but is a list"),
            ("order", "the message: must be an object, but is text"),
            (None, "the message: must be an object, but is null"),
            ({}, "message: missing, and there is no cart, order, product or taxon that shows the type"),
            ({"message": {"a": 1}}, "message: must be text or a number, but is an object"),
            ({"message": True}, "message: must be text or a number, but is true"),
            (
                {"message": "shipment:ready", "order": {}},
                "message: unknown type 'shipment:ready'; known types: cart:*, order:*, product:* and taxon:*",
            ),
            ({"message": "order:new", "payload": []}, "payload: must be an object, but is a list"),
            ({"message_id": [], "cart": {}}, "message_id: must be text or a number, but is a list"),
            ({"cart": 1}, "cart: must be an object, but is 1"),
            ({"cart": {}, "original": "x"}, "original: must be an object, but is text"),
            ({"taxon": {"name": {}}}, "taxon.name: must be text or a number, but is an object"),
            ({"order": {"email": []}}, "order.email: must be text or a number, but is a list"),
            ({"order": {"total": "ten"}}, 'order.total: must be a number, but is "ten"'),
            ({"order": {"total": "NaN"}}, 'order.total: must be a number, but is "NaN"'),
            ({"order": {"total": "1_000"}}, 'order.total: must be a number, but is "1_000"'),
            ({"order": {"total": True}}, "order.total: must be a number, but is true"),
            ({"order": {"total": {}}}, "order.total: must be a number, but is an object"),
            ({"order": {"totals": {"item": "1,99"}}}, 'order.totals.item: must be a number, but is "1,99"'),
            ({"order": {"totals": []}}, "order.totals: must be an object, but is a list"),
            ({"order": {"line_items": {"a": 1}}}, "order.line_items: must be a list, but is an object"),
            ({"order": {"line_items": [{}, 5]}}, "order.line_items.1: must be an object, but is 5"),
            (
                {"order": {"line_items": [{"quantity": 1.5}]}},
                "order.line_items.0.quantity: must be a whole number, but is 1.5",
            ),
            (
                {"order": {"line_items": [{"quantity": 2**63}]}},
                "order.line_items.0.quantity: must be a whole number, but is 9223372036854775808",
            ),
            (
                {"order": {"line_items": [{"quantity": -1e30}]}},
                "order.line_items.0.quantity: must be a whole number, but is -1e+30",
            ),
            (
                {"order": {"previous": {}}, "previous": {"line_items": [{"variant": {"images": [{"url": []}]}}]}},
                "previous.line_items.0.variant.images.0.url: must be text or a number, but is a list",
            ),
            (
                {"order": {"line_items": [{"variant": {"product": {"taxons": [{"id": 1}, {"id": [2]}]}}}]}},
                "order.line_items.0.variant.product.taxons.1.id: must be text or a number, but is a list",
            ),
            (
                {"order": {"adjustments": [{"value": "x"}]}},
                'order.adjustments.0.value: must be a number, but is "x"',
            ),
            ({"order": {"bill_address": "x"}}, "order.bill_address: must be an object, but is text"),
            (
                {"order": {"bill_address": {"country": {"name": []}}}},
                "order.bill_address.country.name: must be text or a number, but is a list",
            ),
            ({"order": {}, "diff": ["status"]}, "diff: must be an object, but is a list"),
            (
                {"order": {}, "parameters": "x"},
                "parameters: must be a list of objects with name and value, or one object",
            ),
            (
                {"order": {}, "parameters": ["password=hunter2"]},
                "parameters: must be a list of objects with name and value, or one object",
            ),
            (
                {"order": {}, "parameters": {"jirafe_access_token": {"token": "hunter2"}}},
                "parameters.jirafe.access_token: must be text or a number",
            ),
        ],
    )
    def test_name_the_place_and_the_value(self, document: object, sentence: str) -> None:
        with pytest.raises(HubError) as caught:
            to_message(document)
        assert str(caught.value) == sentence

    @pytest.mark.parametrize("value", [[], {}, True])
    def test_name_the_parameter(self, value: object) -> None:
        with pytest.raises(HubError, match=r"^parameters\.jirafe\.site_id: must be text or a number$"):
            to_message({"order": {}, "parameters": {"jirafe_site_id": value}})

    @pytest.mark.parametrize(
        ("length", "quoted"), [(58, f'"{"x" * 58}"'), (59, f'"{"x" * 56}...'), (1000, f'"{"x" * 56}...')]
    )
    def test_shorten_long_values(self, length: int, quoted: str) -> None:
        with pytest.raises(HubError) as caught:
            order(total="x" * length)
        assert str(caught.value) == f"order.total: must be a number, but is {quoted}"


SECRETS = {"parameters": {"jirafe.access_token": "secret"}}
TEXT = orjson.dumps(SECRETS).decode()


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ([SECRETS], "the message: must be an object, but is a list"),
        (TEXT, "the message: must be an object, but is text"),
        ({"message": "order:new", "payload": TEXT}, "payload: must be an object, but is text"),
        ({"order": TEXT}, "order: must be an object, but is text"),
        ({"order": {"line_items": TEXT}}, "order.line_items: must be a list, but is text"),
        ({"order": {"line_items": [TEXT]}}, "order.line_items.0: must be an object, but is text"),
        (
            {"message": TEXT},
            "message: not a message type; known types: cart:*, order:*, product:* and taxon:*",
        ),
    ],
)
def test_an_error_does_not_quote_what_may_have_secrets(document: object, sentence: str) -> None:
    with pytest.raises(HubError) as caught:
        to_message(document)
    assert str(caught.value) == sentence


class TestKeys:
    @pytest.mark.parametrize(
        ("message_type", "kind"),
        [
            ("cart:new", "cart"),
            ("order:canceled", "order"),
            ("taxon:persist", "taxon"),
            ("shipment:ready", None),
            ("orders:new", None),
            ("", None),
        ],
    )
    def test_kind(self, message_type: str, kind: str | None) -> None:
        assert kind_of(message_type) == kind

    @pytest.mark.parametrize(
        ("document", "key"),
        [
            ({"order": {"number": "N"}, "original": {"number": "O"}}, "N"),
            ({"order": {}, "original": {"number": "O"}}, "O"),
            ({"message": "order:new", "original": {"number": "O"}}, "O"),
            ({"cart": {"number": "C"}}, "C"),
            ({"order": {"id": 5}}, None),
            ({"message": "cart:new"}, None),
            ({"taxon": {"id": 9}}, "9"),
            ({"taxon": {}}, None),
            ({"message": "taxon:new"}, None),
            ({"product": {"sku": "A", "id": "B"}}, "A"),
            ({"product": {"id": "B"}}, "B"),
            ({"product": {"id": 7}}, None),
            ({"message": "product:new"}, None),
        ],
    )
    def test_key(self, document: object, key: str | None) -> None:
        assert key_of(to_message(document)) == key


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(CHARACTERS, max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(CHARACTERS, max_size=8), inner, max_size=3),
    max_leaves=8,
)


def places(value: object, way: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """List the ways to all values inside a document, itself included."""
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [way, *(place for step, part in inner for place in places(part, (*way, step)))]


PLACES = [(document, way) for document in DOCUMENTS for way in places(document)]


@st.composite
def documents(draw: st.DrawFn) -> object:
    """Draw a hub document of which one part is any JSON."""
    document, way = draw(st.sampled_from(PLACES))
    value = draw(JSON)
    if not way:
        return value
    changed: Any = copy.deepcopy(document)
    part = changed
    for step in way[:-1]:
        part = part[step]
    part[way[-1]] = value
    return changed


@given(documents())
def test_any_json_is_a_message_that_encodes_or_an_error_of_the_hub(document: object) -> None:
    try:
        message = to_message(document)
    except HubError:
        return
    kind = kind_of(message["message"])
    assert kind
    assert CODEC.decode(CODEC.encode(kind, message)) == message


@pytest.mark.parametrize("document", DOCUMENTS)
def test_conversion_does_not_change_its_document_and_its_message_can_be_encoded(document: dict[str, Any]) -> None:
    before = copy.deepcopy(document)
    message = to_message(document)
    assert document == before
    assert CODEC.decode(CODEC.encode(kind_of(message["message"]) or "", message)) == message


class TestNumbersAsIds:
    @pytest.mark.parametrize(
        ("raw", "text"),
        [
            (9.0, "9"),
            (9.5, "9.5"),
            (-1e6, "-1000000"),
            (2.0**53 - 1, "9007199254740991"),
            (2**53 - 1, "9007199254740991"),
            (2**63, str(2**63)),
        ],
    )
    def test_a_whole_number_is_written_without_decimals(self, raw: float, text: str) -> None:
        assert to_message({"taxon": {"id": raw}})["payload"]["taxon"]["id"] == text
        parameters = {"jirafe.product_category_taxonomy": raw}
        assert to_message({"taxon": {}, "parameters": parameters})["parameters"] == dict.fromkeys(parameters, text)

    @pytest.mark.parametrize("number", ["123456789012345678901234", "9007199254740992.0", "-9007199254740992.0"])
    def test_a_number_that_may_have_lost_digits_is_an_error(self, number: str) -> None:
        with pytest.raises(
            HubError, match=r"^order\.number: is too large a number to be read exactly; write it as text$"
        ):
            to_message(orjson.loads(f'{{"order": {{"number": {number}}}}}'))


class TestDerivedTypes:
    @pytest.mark.parametrize(
        "document",
        [
            {"order": {"status": "canceled"}},
            {"order": {"state": "canceled"}},
            {"order": {}, "original": {"state": "canceled"}},
            {"order": {}, "diff": {}},
        ],
    )
    def test_a_canceled_order_is_not_a_new_order(self, document: dict[str, Any]) -> None:
        assert to_message(document)["message"] == "order:updated"
        assert to_message({"order": {"status": "complete"}})["message"] == "order:new"


def test_parameters_may_be_in_both_places() -> None:
    outer = {"jirafe.site_id": "1", "jirafe.store_url": "http://a"}
    inner = [{"name": "jirafe_site_id", "value": 2}]
    message = to_message({"parameters": outer, "payload": {"taxon": {}, "parameters": inner}})
    assert message["parameters"] == {"jirafe.site_id": "2", "jirafe.store_url": "http://a"}
