"""Event bodies, field by field of the mapping, and properties of the events of any message."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jirafe import events, fields
from jirafe.fields import Body, Unmappable, date
from jirafe.sandbox.validation import Validator
from jirafe.services import Event, Unsendable, make_events
from schemas.codec import Codec
from schemas.hub import to_message
from schemas.own import own_schema
from tests.messages import CHARACTERS
from tests.thorough import scaled

T1, T2, T3, T4 = (f"2014-03-0{day}T00:00:00.000Z" for day in (1, 2, 3, 4))
ITEM: dict[str, Any] = {
    "id": 31,
    "quantity": 2,
    "price": "20.0",
    "variant_id": 8,
    "variant": {"product_id": 5, "name": "Mug", "sku": "MUG-1"},
}
ORIGINAL: dict[str, Any] = {
    "number": "R1",
    "currency": "EUR",
    "user_id": 12,
    "email": "ada@example.com",
    "created_at": T1,
    "updated_at": T2,
    "line_items": [ITEM],
}


def payload(
    normalized: Mapping[str, Any] | None = None,
    original: Mapping[str, Any] | None = ORIGINAL,
    *,
    previous: Mapping[str, Any] | None = None,
    kind: str = "order",
) -> dict[str, Any]:
    """Convert sections, in the hub's JSON, to the payload of a message."""
    sections = {kind: normalized, "original": original, "previous": previous}
    converted: dict[str, Any] = to_message({"message": f"{kind}:new", "payload": sections})["payload"]
    return converted


def cart(original: Mapping[str, Any] | None = None, **normalized: Any) -> Body:
    return events.cart(payload(normalized, {**ORIGINAL, **(original or {})}, kind="cart"), {})


def accepted(original: Mapping[str, Any] | None = None, **normalized: Any) -> Body:
    return events.order_accepted(payload(normalized, {**ORIGINAL, **(original or {})}), {})


def product(item: Mapping[str, Any], **parameters: str) -> Body:
    """Make the product of a line item."""
    dotted = {f"jirafe.{name}": value for name, value in parameters.items()}
    body = events.cart(payload(None, {**ORIGINAL, "line_items": [{**ITEM, **item}]}), dotted)
    made: Body = body["items"][0]["product"]
    return made


def variant(**fields: object) -> dict[str, Any]:
    return {"variant": {**ITEM["variant"], **fields}}


CUSTOMER: dict[str, Any] = {"id": "12", "email": "ada@example.com", "create_date": T1, "change_date": T2}
NO_TOTALS: dict[str, Any] = {
    "subtotal": 0,
    "total": 0,
    "total_tax": 0,
    "total_shipping": 0,
    "total_payment_cost": 0,
    "total_discounts": 0,
    "currency": "EUR",
}
EITHER_ITEM: dict[str, Any] = {
    "id": "31",
    "create_date": T1,
    "change_date": T2,
    "quantity": 2,
    "price": 20.0,
    "discount_price": 0,
    "product": {
        "id": "5",
        "code": "MUG-1",
        "name": "Mug",
        "is_product": True,
        "is_sku": True,
        "create_date": T1,
        "change_date": T2,
    },
}


class TestBodies:
    """Whole bodies of small messages: exactly these fields."""

    @pytest.mark.parametrize("kind", ["cart", "order"])
    def test_cart(self, kind: str) -> None:
        assert events.cart(payload(kind=kind), {}) == {
            "id": "R1",
            "create_date": T1,
            "change_date": T2,
            **NO_TOTALS,
            "items": [{**EITHER_ITEM, "cart_item_number": "1"}],
            "customer": CUSTOMER,
        }

    def test_order_placed(self) -> None:
        assert events.order_placed(payload(), {}) == {
            "order_number": "R1",
            "cart_id": "R1",
            "status": "placed",
            "order_date": T1,
            "customer": CUSTOMER,
        }

    def test_order_accepted(self) -> None:
        assert events.order_accepted(payload(), {}) == {
            "order_number": "R1",
            "cart_id": "R1",
            "status": "accepted",
            "order_date": T1,
            "create_date": T1,
            "change_date": T2,
            **NO_TOTALS,
            "items": [{**EITHER_ITEM, "order_item_number": "1", "status": "accepted"}],
            "customer": CUSTOMER,
        }

    def test_order_cancelled(self) -> None:
        assert events.order_cancelled(payload(), {}) == {
            "order_number": "R1",
            "cancel_date": T2,
            "status": "cancelled",
        }

    def test_category(self) -> None:
        taxon = {"id": 9, "name": "Bags", "taxonomy_id": 2, "parent_id": 1, "created_at": T1, "updated_at": T2}
        body = {"id": "9", "name": "Bags", "create_date": T1, "change_date": T2}
        assert category(taxon) == {**body, "parent_categories": [{"id": "1"}]}
        assert category({**taxon, "parent_id": None}) == body
        assert category({**taxon, "updated_at": None})["change_date"] == T1
        assert category({**taxon, "created_at": None})["create_date"] == T2


def category(taxon: Mapping[str, Any] | None) -> Body:
    return events.category(to_message({"message": "taxon:new", "taxon": taxon})["payload"], {})


class TestNumberAndCurrency:
    def test_the_normalized_number_has_priority(self) -> None:
        body = accepted({"number": "O"}, number="N")
        assert (body["order_number"], body["cart_id"]) == ("N", "N")
        assert accepted({"number": "O"})["order_number"] == "O"
        assert cart({"number": "O"}, number="N")["id"] == "N"

    def test_the_normalized_currency_has_priority(self) -> None:
        assert cart({"currency": "USD"}, currency="GBP")["currency"] == "GBP"
        assert accepted({"currency": "USD"}, currency="GBP")["currency"] == "GBP"
        assert accepted({"currency": "USD"})["currency"] == "USD"


class TestDates:
    @pytest.mark.parametrize(
        ("text", "written"),
        [
            ("2013-06-17T15:16:10Z", "2013-06-17T15:16:10.000Z"),
            ("2014-01-29T23:15:49.670Z", "2014-01-29T23:15:49.670Z"),
            ("2014-01-29T23:15:49.670987Z", "2014-01-29T23:15:49.670Z"),
            ("2013-09-20T16:24:22-04:00", "2013-09-20T20:24:22.000Z"),
            ("2013-12-31T23:30:00-04:00", "2014-01-01T03:30:00.000Z"),
            ("2013-09-20T16:24:22+05:30", "2013-09-20T10:54:22.000Z"),
            ("01/31/2013 12:34:22 UTC", "2013-01-31T12:34:22.000Z"),
            ("2013-06-17 15:16:10", "2013-06-17T15:16:10.000Z"),
            ("2013-06-17", "2013-06-17T00:00:00.000Z"),
            ("0900-01-01T00:00:00Z", "0900-01-01T00:00:00.000Z"),
            ("2014-03-01 10:00:00 UTC", "2014-03-01T10:00:00.000Z"),
            ("2014-03-01 10:00:00 +0000", "2014-03-01T10:00:00.000Z"),
            ("2014-03-01 10:00:00 -0430", "2014-03-01T14:30:00.000Z"),
            ("2014-03-01 10:00:00.5 +01:00", "2014-03-01T09:00:00.500Z"),
            ("2014-03-01t10:00:00z", "2014-03-01T10:00:00.000Z"),
            ("  2014-03-01T10:00:00Z\r\n", "2014-03-01T10:00:00.000Z"),
            (" 01/31/2013 12:34:22 UTC\n", "2013-01-31T12:34:22.000Z"),
            ("2012-06-30T23:59:60Z", "2012-07-01T00:00:00.000Z"),
            ("2012-06-30 23:59:60.250 UTC", "2012-07-01T00:00:00.250Z"),
            ("2012-06-30T19:59:60-04:00", "2012-07-01T00:00:00.000Z"),
            ("2014-02-28T24:00:00Z", "2014-03-01T00:00:00.000Z"),
            ("2014-02-28T24:00:00.000-05:00", "2014-03-01T05:00:00.000Z"),
            ("2014-03-01T100000.5Z", "2014-03-01T10:00:00.500Z"),
            ("2014-03-01T10:00:00+01:00[Europe/Berlin]", "2014-03-01T09:00:00.000Z"),
            ("2014-03-01T10:00:00Z [UTC]", "2014-03-01T10:00:00.000Z"),
            (" " * 44 + "2014-03-01T10:00:00Z", "2014-03-01T10:00:00.000Z"),
        ],
    )
    def test_known_forms_are_read(self, text: str, written: str) -> None:
        assert date("created_at", text) == written

    @pytest.mark.parametrize(
        "text",
        [
            "2013-07-30T19 =>19 =>05Z",
            "31/01/2013 12:34:22 UTC",
            "2013-02-30T00:00:00Z",
            "1387818177",
            "yesterday",
            "",
            " ",
            "2014-03-01T10:00:60Z",
            "2012-06-30T23:59:60-04:00",
            "2014-03-01T24:00:01Z",
            "2014-03-01T24:00:00.5Z",
            "2014-03-01T25:00:00Z",
            "2014-W09-6T10:00:00Z",
            "2014-03-01T10:00:00[Europe/Berlin]",
            "2014-03-01T10:00:00Z[",
            "2014-03-01T10:00:00 PST",
            "9999-12-31T24:00:00Z",
            "2014-0\uff13-01T10:00:00Z",
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-01:00",
        ],
    )
    def test_unreadable_dates_are_quoted(self, text: str) -> None:
        with pytest.raises(Unmappable) as caught:
            date("placed_on", text)
        assert str(caught.value) == f"placed_on: '{text}' is not a date"

    @pytest.mark.parametrize("length", [65, 1000, 1_000_000])
    def test_a_text_that_is_too_long_for_a_date_is_quoted_in_part(self, length: int) -> None:
        text = "2014-03-01T10:00:00Z".ljust(length)
        with pytest.raises(Unmappable) as caught:
            date("placed_on", text)
        assert str(caught.value) == f"placed_on: '{text[:64]}...' is not a date"

    @given(st.from_regex(r"[0-9]{4}-[0-9W][0-9]-[0-9]{2}[T ][0-2][0-9]:[0-9]{2}:[0-9]{2}Z", fullmatch=True))
    def test_the_usual_form_is_read_like_all_others(self, text: str) -> None:
        def read(text: str) -> str:
            try:
                return date("placed_on", text)
            except Unmappable:
                return "none"

        assert read(text) == read(f"{text[:-1]}+00:00")

    @given(st.text("0123456789-:TZ .+[]/UC", max_size=70))
    def test_any_text_is_a_date_or_unmappable(self, text: str) -> None:
        try:
            written = date("placed_on", text)
        except Unmappable:
            return
        assert len(written) == len("2014-03-01T10:00:00.000Z")
        assert date("placed_on", written) == written

    def test_carts_prefer_the_dates_of_the_shop(self) -> None:
        body = cart({"created_at": T1, "updated_at": T2}, created_at=T3, updated_at=T4, placed_on=T4)
        assert (body["create_date"], body["change_date"]) == (T1, T2)

    def test_orders_prefer_the_dates_of_the_hub(self) -> None:
        original = {"created_at": T1, "updated_at": T1, "completed_at": T2}
        body = accepted(original, placed_on=T3, updated_at=T4)
        assert (body["order_date"], body["create_date"], body["change_date"]) == (T3, T3, T4)
        body = accepted(original)
        assert (body["order_date"], body["create_date"], body["change_date"]) == (T2, T2, T1)
        placed = events.order_placed(payload({"placed_on": T3}, {**ORIGINAL, **original}), {})
        assert placed["order_date"] == T3

    @pytest.mark.parametrize("make", [events.cart, events.order_accepted])
    def test_a_single_date_of_any_field_is_used_for_both(self, make: Any) -> None:
        only: dict[str, Any] = {**ORIGINAL, "created_at": None, "updated_at": None}
        for field in ("created_at", "completed_at", "placed_on", "updated_at"):
            body = make(payload(None, {**only, field: T3}), {})
            assert (body["create_date"], body["change_date"]) == (T3, T3)

    def test_unreadable_date_of_a_message_is_named(self) -> None:
        with pytest.raises(Unmappable, match=r"^placed_on: 'soon' is not a date$"):
            accepted(placed_on="soon")
        with pytest.raises(Unmappable, match=r"^updated_at: 'soon' is not a date$"):
            accepted(updated_at="soon")
        with pytest.raises(Unmappable, match=r"^items\.1\.created_at: 'soon' is not a date$"):
            cart({"line_items": [ITEM, {**ITEM, "created_at": "soon"}]})
        with pytest.raises(Unmappable, match=r"^items\.0\.product\.updated_at: 'soon' is not a date$"):
            product(variant(product={"updated_at": "soon"}))

    @pytest.mark.parametrize("text", ["1386100481200", "1533110850136", "20140101", "2014-1-1", "01/31/2013"])
    def test_numbers_and_incomplete_dates_are_refused(self, text: str) -> None:
        with pytest.raises(Unmappable, match=f"^placed_on: '{text}' is not a date$"):
            accepted(placed_on=text)

    def test_cancel_date(self) -> None:
        def date(**normalized: str) -> object:
            return events.order_cancelled(payload(normalized), {})["cancel_date"]

        assert date(canceled_at=T4, updated_at=T3) == T4
        assert date(updated_at=T3) == T3
        assert date(placed_on="soon", updated_at=T3) == T3
        with pytest.raises(Unmappable, match=r"^canceled_at: 'soon' is not a date$"):
            date(canceled_at="soon")


HUB_TOTALS: dict[str, Any] = {"totals": {"item": 1, "order": 2, "tax": 3, "shipping": 4, "payment": 99}}
SHOP_TOTALS: dict[str, Any] = {
    "item_total": "5",
    "total": "6",
    "tax_total": "7",
    "ship_total": "8",
    "payment_total": "99",
}


class TestTotals:
    NAMES = ("subtotal", "total", "total_tax", "total_shipping")

    @staticmethod
    def totals(body: Body) -> list[float]:
        return [body[name] for name in TestTotals.NAMES]

    def test_orders_prefer_the_hub_and_carts_the_shop(self) -> None:
        assert self.totals(accepted(SHOP_TOTALS, **HUB_TOTALS)) == [1, 2, 3, 4]
        assert self.totals(cart(SHOP_TOTALS, **HUB_TOTALS)) == [5, 6, 7, 8]

    def test_each_falls_back_to_the_other(self) -> None:
        assert self.totals(accepted(SHOP_TOTALS, totals={"order": 2})) == [5, 2, 7, 8]
        assert self.totals(cart({"total": "6"}, **HUB_TOTALS)) == [1, 6, 3, 4]

    def test_zero_is_a_value(self) -> None:
        assert accepted({"total": "6"}, totals={"order": 0})["total"] == 0

    def test_missing_totals_are_zero(self) -> None:
        assert self.totals(accepted()) == self.totals(cart()) == [0, 0, 0, 0]

    def test_the_amount_paid_is_not_a_payment_cost(self) -> None:
        assert accepted(SHOP_TOTALS, **HUB_TOTALS)["total_payment_cost"] == 0
        assert accepted({"payment_fee": "2.5"}, **HUB_TOTALS)["total_payment_cost"] == 2.5

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_a_number_that_json_cannot_represent_is_named(self, value: float) -> None:
        message = payload()
        message["original"]["total"] = value
        with pytest.raises(Unmappable, match=r"^total: (nan|-?inf) is not a number that JSON can carry$"):
            events.cart(message, {})


class TestDiscounts:
    @pytest.mark.parametrize(
        ("adjustments", "discounts"),
        [
            ([], 0),
            ([{"amount": "-5.0"}], 5),
            ([{"value": -5}, {"value": 3}, {"value": -0.5}], 5.5),
            ([{"value": 3}], 0),
            ([{"value": -0.1}, {"value": -0.2}], 0.3),
            ([{"value": -0.12344}], 0.1234),
            ([{"value": -0.12346}], 0.1235),
            ([{"value": -5}, {"value": -1, "eligible": False}, {"name": "Tax"}], 5),
        ],
    )
    def test_are_the_negative_adjustments(self, adjustments: list[object], discounts: float) -> None:
        for body in (
            cart({"adjustments": adjustments}),
            accepted({"adjustments": adjustments}),
            accepted(adjustments=adjustments),
        ):
            assert body["total_discounts"] == discounts
            assert str(body["total_discounts"])[0] != "-"


class TestItems:
    def test_come_from_the_shop_first(self) -> None:
        hub_items = [{"sku": "HUB", "quantity": 1, "price": 1}]
        assert [i["product"]["code"] for i in accepted(line_items=hub_items)["items"]] == ["MUG-1"]
        assert [i["product"]["code"] for i in cart(line_items=hub_items)["items"]] == ["MUG-1"]
        assert [i["product"]["code"] for i in accepted({"line_items": []}, line_items=hub_items)["items"]] == [
            "HUB"
        ]

    @pytest.mark.parametrize(
        ("make", "numbered", "absent"),
        [(cart, "cart_item_number", "order_item_number"), (accepted, "order_item_number", "cart_item_number")],
    )
    def test_are_numbered_from_one_in_order(self, make: Any, numbered: str, absent: str) -> None:
        items = make({"line_items": [{**ITEM, "id": name} for name in ("c", "a", "b")]})["items"]
        assert [(item["id"], item[numbered]) for item in items] == [("c", "1"), ("a", "2"), ("b", "3")]
        assert not any(absent in item for item in items)

    def test_may_be_empty(self) -> None:
        assert cart({"line_items": []})["items"] == []

    @pytest.mark.parametrize("given_field", ["id", "variant_id", "product_id", "sku"])
    def test_id_falls_back(self, given_field: str) -> None:
        item = {"product_id": "p", "sku": "s", "quantity": 1, "price": 1, given_field: "it"}
        assert cart({"line_items": [item]})["items"][0]["id"] == ("it" if given_field != "sku" else "p")

    def test_price_falls_back_to_the_variants(self) -> None:
        assert cart({"line_items": [{**ITEM, "price": None, **variant(price="3.5")}]})["items"][0]["price"] == 3.5
        assert cart({"line_items": [{**ITEM, "price": 0, **variant(price="3.5")}]})["items"][0]["price"] == 0

    def test_dates_come_from_the_item(self) -> None:
        item = cart({"line_items": [{**ITEM, "created_at": T3, "updated_at": T4}]})["items"][0]
        assert (item["create_date"], item["change_date"]) == (T3, T4)
        assert (item["product"]["create_date"], item["product"]["change_date"]) == (T3, T4)

    @pytest.mark.parametrize(
        ("lacking", "message"),
        [
            ({"quantity": None}, "items.1.quantity: missing in the message"),
            ({"price": None}, "items.1.price: missing in the message"),
            ({"id": None, "variant_id": None, "variant": None}, "items.1.id: missing in the message"),
            ({"variant": None, "variant_id": None}, "items.1.product.id: missing in the message"),
            ({"variant": None}, "items.1.product.code: the line item has no sku"),
        ],
    )
    def test_a_missing_required_field_is_named(self, lacking: dict[str, None], message: str) -> None:
        with pytest.raises(Unmappable) as caught:
            cart({"line_items": [ITEM, {**ITEM, **lacking}]})
        assert str(caught.value) == message

    @pytest.mark.parametrize(
        ("make", "numbered"),
        [(events.cart, "cart_item_number"), (events.order_accepted, "order_item_number")],
    )
    def test_previous_items(self, make: Any, numbered: str) -> None:
        previous = {"line_items": [{**ITEM, "quantity": 7}, {"sku": "OLD", "quantity": 1, "price": 1}]}
        items = make(payload(previous=previous), {})["previous_items"]
        assert [(item[numbered], item["quantity"]) for item in items] == [("1", 7), ("2", 1)]
        assert "previous_items" not in make(payload(previous={"line_items": [{}]}), {})
        assert "previous_items" not in make(payload(), {})

    def test_previous_items_that_cannot_be_made_are_left_out(self) -> None:
        made = events.order_accepted(payload(previous={"line_items": [{**ITEM, "quantity": None}]}), {})
        assert "previous_items" not in made


class TestProducts:
    def test_comes_from_the_variant(self) -> None:
        made = product({"product_id": "x", "name": "x", "sku": "x"})
        assert (made["id"], made["code"], made["name"]) == ("5", "MUG-1", "Mug")

    def test_the_product_id_is_the_code_if_there_is_no_sku(self) -> None:
        made = product(variant(sku=None, product_id=3))
        assert (made["id"], made["code"]) == ("3", "3")

    def test_comes_from_the_line_item_if_there_is_no_variant(self) -> None:
        made = product({"variant": None, "product_id": "p", "name": "n", "sku": "s"})
        assert (made["id"], made["code"], made["name"]) == ("p", "s", "n")
        later_hub = product({"variant": None, "variant_id": None, "product_id": "MUG"})
        assert (later_hub["id"], later_hub["code"]) == ("MUG", "MUG")
        assert "name" not in later_hub

    def test_dates_come_from_the_product_first(self) -> None:
        made = product(
            {"created_at": T1, "updated_at": T2, **variant(product={"created_at": T3, "updated_at": T4})}
        )
        assert (made["create_date"], made["change_date"]) == (T3, T4)

    def test_categories_without_duplicates(self) -> None:
        taxons = [
            {"id": 2, "name": "Bags", "taxonomy_id": 1},
            {"id": 1, "name": "Sale"},
            {"id": "2", "name": "Bags", "taxonomy_id": 9},
            {"id": 2, "name": "Totes"},
            {"id": 3},
            {"name": "Nameless"},
        ]
        assert product(variant(product={"taxons": taxons}))["categories"] == [
            {"id": "2", "name": "Bags"},
            {"id": "1", "name": "Sale"},
            {"id": "2", "name": "Totes"},
        ]
        assert "categories" not in product(variant(product={"taxons": [{"id": 3}]}))

    def test_brand_is_the_taxon_of_its_taxonomy(self) -> None:
        taxons = [{"id": 1, "name": "Bags", "taxonomy_id": 1}, {"id": 2, "name": "Apache", "taxonomy_id": 2}]
        item = variant(product={"taxons": taxons})
        assert product(item, brand_category_taxonomy="2")["brand"] == "Apache"
        assert "brand" not in product(item, brand_category_taxonomy="3")
        assert "brand" not in product(item)

    @pytest.mark.parametrize(
        ("store", "path", "url"),
        [
            ("https://shop.example", "/5/mug.jpeg?1", "https://shop.example/5/mug.jpeg?1"),
            ("https://shop.example/", "5/mug.jpeg", "https://shop.example/5/mug.jpeg"),
            ("https://shop.example", "http://cdn.example/mug.jpeg", "http://cdn.example/mug.jpeg"),
            ("https://shop.example", "//cdn.example/mug.jpeg", "https://cdn.example/mug.jpeg"),
            ("", "https://cdn.example/mug.jpeg", "https://cdn.example/mug.jpeg"),
            ("", "/5/mug.jpeg", None),
            ("shop.example", "/5/mug.jpeg", None),
            ("https://shop.example", "data:image/png;base64,iVBORw0KGgo", None),
            ("https://shop.example", "ftp://cdn.example/mug.jpeg", None),
            ("https://shop.example", "/5/mug.jpeg?at=10:30", "https://shop.example/5/mug.jpeg?at=10:30"),
            ("https://shop.example/store/", "/5/mug.jpeg", "https://shop.example/store/5/mug.jpeg"),
        ],
    )
    def test_images_are_absolute_or_left_out(self, store: str, path: str, url: str | None) -> None:
        item = variant(images=[{"attachment_url": path}, {"attachment_url": None}])
        assert product(item, store_url=store).get("images") == ([{"url": url}] if url else None)
        if not store:
            assert product(item).get("images") == ([{"url": url}] if url else None)


class TestCustomers:
    @staticmethod
    def customer(original: Mapping[str, Any], **normalized: Any) -> Body:
        sections = payload(normalized, {**ORIGINAL, "user_id": None, "email": None, **original})
        placed: Body = events.order_placed(sections, {})["customer"]
        assert placed == events.order_accepted(sections, {})["customer"]
        return placed

    def test_id_is_the_user_id_then_the_email_then_anonymous(self) -> None:
        assert self.customer({"user_id": 12, "email": "o@example.com"})["id"] == "12"
        assert self.customer({"email": "o@example.com"})["id"] == "o@example.com"
        assert self.customer({})["id"] == "anonymous"

    def test_the_normalized_email_has_priority_and_null_is_left_out(self) -> None:
        assert self.customer({"email": "o@example.com"}, email="n@example.com")["email"] == "n@example.com"
        assert self.customer({"email": "o@example.com"})["email"] == "o@example.com"
        assert self.customer({}) == {"id": "anonymous", "create_date": T1, "change_date": T2}

    def test_names_come_from_the_billing_address(self) -> None:
        shop = {
            "bill_address": {"firstname": "Ada", "lastname": "Byron"},
            "ship_address": {"firstname": "X", "lastname": "Y"},
        }
        made = self.customer(shop)
        assert (made["first_name"], made["last_name"]) == ("Ada", "Byron")
        made = self.customer(shop, billing_address={"lastname": "King"})
        assert made["last_name"] == "King"
        assert "first_name" not in self.customer({"bill_address": {"lastname": "Byron"}})

    def test_a_name_in_one_field(self) -> None:
        made = self.customer({"bill_address": {"name": "Ada Byron"}})
        assert made["name"] == "Ada Byron"
        assert not {"first_name", "last_name"} & made.keys()
        made = self.customer({"bill_address": {"firstname": "Ada"}}, billing_address={"name": "Ada Byron"})
        assert (made["first_name"], "name" in made) == ("Ada", False)

    def test_dates_come_from_the_order(self) -> None:
        made = self.customer({}, placed_on=T3, updated_at=T4)
        assert (made["create_date"], made["change_date"]) == (T3, T4)


VISIT: dict[str, Any] = {"visit_id": "659", "visitor_id": "382", "pageview_id": "0", "last_pageview_id": "1"}


class TestVisits:
    @pytest.mark.parametrize("make", [events.cart, events.order_placed])
    @pytest.mark.parametrize(
        ("fields", "visit"),
        [
            (VISIT, VISIT),
            ({"visitor_id": 382}, {**dict.fromkeys(VISIT, ""), "visitor_id": "382"}),
            ({}, None),
            (dict.fromkeys(VISIT, ""), None),
        ],
    )
    def test_may_be_complete_partial_or_absent(self, make: Any, fields: dict[str, Any], visit: object) -> None:
        assert make(payload(None, {**ORIGINAL, **fields}), {}).get("visit") == visit

    @pytest.mark.parametrize("make", [events.cart, events.order_placed])
    def test_each_field_comes_from_the_shop_first(self, make: Any) -> None:
        shop, hub = {**ORIGINAL, "visit_id": "1"}, {"visit_id": "2", "visitor_id": "3"}
        visit = {**dict.fromkeys(VISIT, ""), "visit_id": "1", "visitor_id": "3"}
        assert make(payload(hub, shop), {})["visit"] == visit

    def test_are_found_if_the_hub_sends_no_original(self) -> None:
        assert events.cart(payload({**ORIGINAL, **VISIT}, None, kind="cart"), {})["visit"] == VISIT


HUB_ADDRESS: dict[str, Any] = {
    "address1": "1 Mill Lane",
    "address2": "",
    "zipcode": "20814",
    "city": "Bethesda",
    "state": "MD",
}
RAW_ADDRESS: dict[str, Any] = {
    "zipcode": 10115,
    "country": {"name": "Germany"},
    "state": {"name": "Berlin", "abbr": "BE"},
}


class TestAddresses:
    def test_delivery_and_payment_addresses_are_separate(self) -> None:
        body = accepted(shipping_address=HUB_ADDRESS, billing_address={"country": "US"})
        assert body["delivery_address"] == {
            "postalcode": "20814",
            "address1": "1 Mill Lane",
            "city": "Bethesda",
            "state": "MD",
        }
        assert body["payment_address"] == {"country": "US"}

    def test_the_raw_form_is_used_if_the_normalized_one_is_empty(self) -> None:
        body = accepted({"ship_address": RAW_ADDRESS, "bill_address": {"city": None}}, shipping_address={})
        assert body["delivery_address"] == {"postalcode": "10115", "state": "Berlin", "country": "Germany"}
        assert "payment_address" not in body

    def test_the_normalized_form_has_priority(self) -> None:
        assert accepted({"ship_address": RAW_ADDRESS}, shipping_address={"city": "B"})["delivery_address"] == {
            "city": "B"
        }
        hollow = accepted({"ship_address": {"city": "A"}}, shipping_address={"phone": "1"})
        assert hollow["delivery_address"] == {"city": "A"}


class TestMissingFields:
    @pytest.mark.parametrize(
        ("make", "fields", "message"),
        [
            (events.cart, {"number": None}, "id: the cart or order has no number"),
            (events.cart, {"currency": None}, "currency: missing in the message"),
            (events.cart, {"created_at": None, "updated_at": None}, "created_at: missing in the message"),
            (events.order_placed, {"number": None}, "order_number: missing in the message"),
            (events.order_placed, {"created_at": None, "updated_at": None}, "placed_on: missing in the message"),
            (events.order_accepted, {"number": None}, "order_number: missing in the message"),
            (events.order_accepted, {"currency": None}, "currency: missing in the message"),
            (events.order_cancelled, {"number": None}, "order_number: missing in the message"),
        ],
    )
    def test_are_named(self, make: Any, fields: dict[str, None], message: str) -> None:
        with pytest.raises(Unmappable) as caught:
            make(payload(None, {**ORIGINAL, **fields}), {})
        assert str(caught.value) == message

    @pytest.mark.parametrize("field", ["id", "name"])
    def test_of_taxons_are_named(self, field: str) -> None:
        with pytest.raises(Unmappable, match=f"^{field}: missing in the message$"):
            category({"id": 1, "name": "Bags", "created_at": T1, field: None})

    @pytest.mark.parametrize("make", [events.cart, events.order_placed, events.order_accepted])
    def test_an_empty_message_is_unmappable(self, make: Any) -> None:
        with pytest.raises(Unmappable):
            make(payload(None, None), {})
        with pytest.raises(Unmappable):
            category(None)


class TestCanceled:
    @pytest.mark.parametrize(
        ("sections", "canceled"),
        [
            ({"order": {"status": "canceled"}}, True),
            ({"order": {"status": "complete"}}, False),
            ({"order": {}, "original": {"state": "canceled"}}, True),
            ({"order": {"status": "complete"}, "original": {"state": "canceled"}}, True),
            ({"order": {}, "diff": {"status": ["complete", "canceled"]}}, True),
            ({"order": {}, "diff": {"status": ["canceled", "complete"]}}, False),
            ({"order": {}, "diff": {"status": []}}, False),
            ({"order": {}, "diff": {"email": ["a", "canceled"]}}, False),
            ({"order": {"status": "cancelled"}}, True),
            ({"order": {}, "original": {"state": "cancelled"}}, True),
            ({"order": {}, "diff": {"state": ["complete", "canceled"]}}, True),
            ({"order": {}, "diff": {"state": ["complete", "cancelled"]}}, True),
            ({"original": {"state": "complete"}, "diff": {"state": ["complete", "canceled"]}}, True),
            ({"order": {"status": "complete"}, "diff": {"status": ["complete", "cancelled"]}}, True),
            ({"order": {"status": "resumed"}, "diff": {"state": ["canceled", "resumed"]}}, False),
            ({"order": {"status": "resumed"}, "previous": {"status": "canceled"}}, False),
            ({"order": {}, "diff": {"status": [], "state": ["complete", "canceled"]}}, True),
            ({"order": {"status": "complete", "state": "canceled"}}, True),
            ({"order": {"status": "Canceled"}}, True),
            ({"original": {"state": "CANCELLED"}}, True),
            ({}, False),
        ],
    )
    def test_by_status_or_diff(self, sections: dict[str, Any], canceled: bool) -> None:  # noqa: FBT001 - a case
        assert events.is_canceled(to_message({"message": "order:updated", **sections})["payload"]) is canceled


# What holds for any message of the schemas' shape.

VALIDATOR = Validator()
CODEC = Codec()
TYPES = {
    "cart": ("cart:new", "cart:updated"),
    "product": ("product:new", "product:updated"),
    "order": ("order:new", "order:update", "order:updated", "order:canceled", "order:cancel"),
    "taxon": ("taxon:new", "taxon:updated", "taxon:persist"),
}
WRITTEN = {
    "2014-03-01T08:00:00Z": "2014-03-01T08:00:00.000Z",
    "2014-03-01T08:00:00.123-04:00": "2014-03-01T12:00:00.123Z",
    "01/31/2013 12:34:22 UTC": "2013-01-31T12:34:22.000Z",
}
DATES = st.sampled_from(list(WRITTEN))
TEXTS = st.sampled_from(["1", "2", "canceled", "cancelled", "complete", "http://a/b.png", "/c.png"]) | st.text(
    CHARACTERS, max_size=6
)
PARAMETERS = st.fixed_dictionaries(
    {"jirafe.product_category_taxonomy": st.sampled_from(["1", "2"])},
    optional={
        "jirafe.brand_category_taxonomy": st.sampled_from(["1", "2"]),
        "jirafe.store_url": st.just("https://shop.example") | TEXTS,
    },
)


def filled(schema: Any, name: str, named: dict[str, Any]) -> Any:
    """Make a value of the schema with everything in it. `named` collects the types that the schema has defined."""
    match schema:
        case ["null", inner]:
            value = filled(inner, name, named)
        case {"type": "record", "name": str(known), "fields": fields}:
            named[known] = schema
            value = {field["name"]: filled(field["type"], field["name"], named) for field in fields}
        case {"type": "array", "items": items}:
            value = [filled(items, name, named) for _ in range(2)]
        case {"type": "map"}:
            value = {}
        case "string":
            value = next(iter(WRITTEN)) if is_date(name) else name
        case "double" | "long" | "boolean":
            value = {"double": 1.5, "long": 2, "boolean": True}[schema]
        case _:
            value = filled(named[schema], name, named)
    return value


def hollowed(value: Any) -> Any:
    """Remove every text and number, but keep the objects and lists around them."""
    if isinstance(value, dict):
        return {name: hollowed(part) for name, part in value.items()}
    if isinstance(value, list):
        return [hollowed(part) if isinstance(part, dict) else part for part in value]
    return value if isinstance(value, bool) else None


def is_date(name: str) -> bool:
    return name.endswith(("_at", "_on"))


def payload_of(kind: str) -> Any:
    (field,) = [field for field in own_schema(kind)["fields"] if field["name"] == "payload"]
    return filled(field["type"], "payload", {})


FULL = {kind: payload_of(kind) for kind in TYPES}
NEEDED = {"cart", "order", "original", "product", "taxon"}
IN_RANGE = st.floats(0, 1e6)
IN_RANGE_LONGS = st.integers(-(2**53), 2**53)


@dataclass(frozen=True)
class Values:
    """What may stand in a payload. `complete`: every text and number is there, and every date is one."""

    complete: bool = False
    numbers: st.SearchStrategy[float] = IN_RANGE
    longs: st.SearchStrategy[int] = IN_RANGE_LONGS

    def instead(self, name: str, value: object, *, listed: bool) -> st.SearchStrategy[Any]:
        """Draw what may stand in a field of this name instead of this value."""
        match value:
            case bool():
                return st.booleans()
            case list():
                return st.just([])
            case dict() if name == "diff":
                sides = st.lists(st.none() | TEXTS, max_size=2)
                return st.dictionaries(st.just("status") | TEXTS, sides, max_size=2)
            case dict():
                whole = st.builds(copy.deepcopy, st.just(value))
                return whole if listed or (self.complete and name in NEEDED) else st.none() | whole
        plain = self._plain(name, value)
        return plain if self.complete or listed else st.none() | plain

    def _plain(self, name: str, value: object) -> st.SearchStrategy[Any]:
        match value:
            case float():
                # This does not test sums of huge adjustments.
                return st.floats(-1e6, 1e6) if name == "amount" else self.numbers
            case int():
                return self.longs
        if self.complete:
            return DATES if is_date(name) else TEXTS.map(lambda text: text or "0")
        return DATES | TEXTS if is_date(name) else TEXTS


@st.composite
def messages(draw: st.DrawFn, values: Values) -> tuple[str, Any]:
    """Draw a message's type and payload: a full or a hollow one with a few changes.

    So an example takes few draws, and one that fails shrinks to the changes that matter.
    """
    kind = draw(st.sampled_from(list(TYPES)))
    hollow = not values.complete and draw(st.booleans())
    payload = hollowed(FULL[kind]) if hollow else copy.deepcopy(FULL[kind])
    for way, value in draw(st.lists(st.sampled_from(WAYS[kind]), max_size=8)):
        name = next(step for step in reversed(way) if isinstance(step, str))
        put(payload, way, draw(values.instead(name, value, listed=isinstance(way[-1], int))))
    return draw(st.sampled_from(TYPES[kind])), payload


def ways(value: object, way: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], object]]:
    """List the path to each value inside another, and that value."""
    inner: list[tuple[Any, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [((*way, step), part) for step, part in inner] + [
        found for step, part in inner for found in ways(part, (*way, step))
    ]


WAYS = {kind: ways(payload) for kind, payload in FULL.items()}


def put(payload: Any, way: tuple[Any, ...], value: object) -> None:
    """Put a value at a place, if an earlier change has not removed the place."""
    *steps, last = way
    part = payload
    for step in steps:
        part = part[step] if part else None
    if part:
        part[last] = value


COMPLETE = messages(Values(complete=True))
ANY = messages(Values())
WILD = messages(Values(numbers=st.floats() | st.floats(-1e6, 1e6), longs=st.integers(-(2**63), 2**63 - 1)))


def parts(value: object, name: str = "") -> list[tuple[str, object]]:
    """List all parts of a body, each with the name of its field."""
    inner: list[tuple[str, object]] = []
    if isinstance(value, dict):
        inner = [part for key, item in value.items() for part in parts(item, key)]
    elif isinstance(value, list):
        inner = [part for item in value for part in parts(item, name)]
    return [(name, value), *inner]


@given(COMPLETE | ANY, PARAMETERS)
def test_every_event_is_valid_and_without_null(message: tuple[str, Any], parameters: dict[str, str]) -> None:
    for event in make_events(*message, parameters):
        if isinstance(event, Event):
            body = orjson.loads(orjson.dumps(event.body))
            assert VALIDATOR.errors(event.kind.array, body) == {}
            assert None not in [value for _, value in parts(body)]
        else:
            assert ": " in event.message


@settings(max_examples=scaled(50))
@given(COMPLETE, PARAMETERS)
def test_complete_messages_make_all_their_events(message: tuple[str, Any], parameters: dict[str, str]) -> None:
    message_type, payload = message
    made = make_events(message_type, payload, parameters)
    assert not [event for event in made if isinstance(event, Unsendable)]
    if message_type.startswith("product"):
        assert len(made) == 1 + len(payload["product"]["variants"])
    elif not message_type.startswith("taxon"):
        canceled = message_type in ("order:new", "order:update", "order:updated") and events.is_canceled(payload)
        assert len(made) == (3 if message_type == "order:new" else 1) + canceled


@settings(max_examples=scaled(50))
@given(COMPLETE, PARAMETERS)
def test_every_date_is_one_of_the_messages(message: tuple[str, Any], parameters: dict[str, str]) -> None:
    known = {WRITTEN[value] for _, value in parts(message[1]) if isinstance(value, str) and value in WRITTEN}
    dates = [
        value
        for event in make_events(*message, parameters)
        if isinstance(event, Event)
        for name, value in parts(event.body)
        if name.endswith("_date")
    ]
    assert set(dates) <= known


class TestDateCache:
    def test_invalid_dates_are_not_cached(self) -> None:
        fields._written.cache_clear()
        for number in range(50):
            with pytest.raises(Unmappable):
                date(f"items.{number}", f"01/31/2013{' ' * (100_000 + number)}12:34:22 UTC")
        assert fields._written.cache_info().currsize == 0

    def test_a_date_is_cached_for_all_places(self) -> None:
        fields._written.cache_clear()
        for number in range(50):
            date(f"items.{number}", "2014-03-01T08:00:00Z")
        assert (fields._written.cache_info().hits, fields._written.cache_info().currsize) == (49, 1)


@settings(max_examples=scaled(50))
@given(COMPLETE | ANY, PARAMETERS)
def test_the_same_message_gives_the_same_bytes(message: tuple[str, Any], parameters: dict[str, str]) -> None:
    message_type, payload = message
    kind = message_type.partition(":")[0]
    before = copy.deepcopy(payload)
    first = dump(make_events(message_type, payload, parameters))
    assert payload == before
    # As in a replay: the record is decoded again, and nothing is cached from the first time.
    record = {"message": message_type, "message_id": "", "parameters": parameters, "payload": payload}
    again = CODEC.decode(CODEC.encode(kind, record))
    fields._written.cache_clear()
    assert dump(make_events(message_type, again["payload"], again["parameters"])) == first


def dump(made: list[Event | Unsendable]) -> list[bytes | str]:
    return [orjson.dumps(event.body) if isinstance(event, Event) else event.message for event in made]


@given(WILD, PARAMETERS | st.dictionaries(TEXTS, TEXTS))
def test_events_of_any_numbers_are_invalid_only_by_their_range(
    message: tuple[str, Any], parameters: dict[str, str]
) -> None:
    for event in make_events(*message, parameters):
        if isinstance(event, Event):
            errors = VALIDATOR.errors(event.kind.array, orjson.loads(orjson.dumps(event.body)))
            assert all(" than the m" in error for error in errors.values()), errors
