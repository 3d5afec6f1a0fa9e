"""Discounts in all their forms: the event's totals add up as the message's do."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jirafe import events
from jirafe.fields import Body, Unmappable
from schemas.hub import to_message

Hub = dict[str, Any]
DATE = "2014-03-01T10:00:00Z"


def body(make: Callable[..., Body], hub: Hub, shop: Hub | None = None) -> Body:
    sections = {"order": {"number": "R1", "currency": "USD", "placed_on": DATE, **hub}, "original": shop}
    return make(to_message({"message": "order:new", **sections})["payload"], {})


def discounts(hub: Hub, shop: Hub | None = None) -> float:
    (one, other) = (body(make, hub, shop)["total_discounts"] for make in (events.cart, events.order_accepted))
    assert one == other
    return float(one)


def item(price: str = "10", **fields: Any) -> Hub:
    return {"id": 1, "sku": "A", "quantity": 1, "price": price, "product_id": 3, **fields}


def promotion(amount: object, **fields: Any) -> Hub:
    return {"label": "Spring", "amount": amount, "source_type": "Spree::PromotionAction", **fields}


def totals(order: float, item: float = 20, tax: float = 2, shipping: float = 3, **more: float) -> Hub:
    return {"totals": {"item": item, "tax": tax, "shipping": shipping, "order": order, **more}}


class TestReadings:
    def test_the_named_total_has_priority(self) -> None:
        assert discounts(totals(20, discount=5)) == 5
        assert discounts(totals(20, discount=-5)) == 5
        assert discounts(totals(20), {"discount_total": "-5.00"}) == 5
        assert discounts({"totals": {"discount": 5}}) == 5

    def test_a_named_total_of_zero_does_not_exclude_adjustments(self) -> None:
        assert discounts({**totals(20, discount=0), "adjustments": [{"name": "Spring", "value": -5}]}) == 5

    def test_promotions_of_line_items_count(self) -> None:
        shop = {"line_items": [item(adjustments=[promotion("-2")]), item(adjustments=[promotion("-3")])]}
        assert discounts(totals(20), shop) == 5
        assert discounts({**totals(18), "adjustments": [{"name": "Spring", "value": -2}]}, shop) == 7
        assert discounts({}, shop) == 5

    def test_adjustments_of_shipments_do_not_count(self) -> None:
        shop = {"shipments": [{"cost": "5", "adjustments": [promotion("-2")]}]}
        assert discounts(totals(25), shop) == 0

    def test_a_refunded_tax_is_not_a_discount(self) -> None:
        refund = {"label": "Refund (VAT)", "amount": "-2", "source_type": "Spree::TaxRate"}
        assert discounts(totals(20), {"line_items": [item(adjustments=[refund, promotion("-5")])]}) == 5
        # Until Spree 2.1, the source is the order, and the originator is the rate.
        refund = {**refund, "source_type": "Spree::Order", "originator_type": "Spree::TaxRate"}
        of_order = promotion("-5", source_type="Spree::Order", originator_type="Spree::PromotionAction")
        assert discounts(totals(20), {"adjustments": [refund, of_order]}) == 5
        assert discounts({}, {"adjustments": [refund]}) == 0

    def test_ineligible_adjustments_do_not_count(self) -> None:
        shop = {"line_items": [item(adjustments=[promotion("-2", eligible=False)])]}
        assert discounts({}, shop) == 0

    @pytest.mark.parametrize("name", ["Discounts", "discount", "Promotion (10% off)", "Coupon", "VOUCHER 5"])
    def test_a_positive_discount_counts_only_if_the_totals_add_up_with_it(self, name: str) -> None:
        assert discounts({**totals(20), "adjustments": [{"name": name, "value": 5}]}) == 5
        assert discounts({**totals(25), "adjustments": [{"name": name, "value": 5}]}) == 0
        assert discounts({**totals(11), "adjustments": [{"name": name, "value": 5}]}) == 0
        assert discounts({"adjustments": [{"name": name, "value": 5}]}) == 0

    def test_a_positive_adjustment_with_another_name_is_not_a_discount(self) -> None:
        assert discounts({**totals(20), "adjustments": [{"name": "Gift wrap", "value": 5}]}) == 0

    def test_totals_that_add_up_without_a_discount_have_none(self) -> None:
        in_shipping = {"adjustments": [{"name": "Free shipping", "value": -5}]}
        assert discounts({**totals(22, shipping=0), **in_shipping}) == 0
        assert discounts({**totals(22, shipping=0, discount=5), **in_shipping}) == 0
        shop = {"line_items": [item(adjustments=[promotion("-4")])]}
        assert discounts({**totals(25), **in_shipping}, shop) == 0

    def test_a_reading_that_adds_up_is_used(self) -> None:
        adjustments = {"adjustments": [{"name": "Spring", "value": -4}]}
        assert discounts({**totals(20, discount=5), **adjustments}) == 5
        assert discounts({**totals(21, discount=5), **adjustments}) == 4
        assert discounts(totals(25, discount=5)) == 0
        shop = {"line_items": [item(adjustments=[promotion("-4")])]}
        assert discounts({**totals(21), **adjustments}, shop) == 4
        assert discounts({**totals(17), **adjustments}, shop) == 8

    def test_the_named_total_may_exclude_the_line_items(self) -> None:
        shop = {"line_items": [item(adjustments=[promotion("-2")])]}
        assert discounts(totals(18, discount=5), shop) == 7
        assert discounts(totals(20, discount=5), shop) == 5
        assert discounts(totals(99, discount=5), shop) == 5

    def test_if_no_reading_adds_up_the_named_total_has_priority_over_adjustments(self) -> None:
        adjustments = {"adjustments": [{"name": "Spring", "value": -4}]}
        assert discounts({**totals(99, discount=5), **adjustments}) == 5
        assert discounts({**totals(99), **adjustments}) == 4

    def test_discounts_may_be_in_either_section(self) -> None:
        shop = {"adjustments": [{"label": "Spring", "amount": "-5"}]}
        assert discounts({**totals(20), "adjustments": [{"name": "Tax", "value": 2}]}, shop) == 5
        assert discounts({**totals(99), "adjustments": [{"name": "Tax", "value": 2}]}, shop) == 5

    @pytest.mark.parametrize("amount", [float("nan"), float("-inf")])
    def test_a_number_that_json_cannot_represent_is_named(self, amount: float) -> None:
        message = to_message({"order": {"number": "R1", "placed_on": DATE, "adjustments": [{"value": -1}]}})
        message["payload"]["order"]["adjustments"][0]["amount"] = amount
        with pytest.raises(Unmappable, match=r"^adjustments: .* is not a number that JSON can carry$"):
            events.order_accepted(message["payload"], {})


CENTS = st.integers(0, 100_000)
NOISE = st.lists(
    st.sampled_from(
        [
            {"label": "Tax", "amount": "2.00", "source_type": "Spree::TaxRate"},
            {"label": "Shipping", "amount": "3.00"},
            {"label": "Refund", "amount": "-1.00", "originator_type": "Spree::TaxRate"},
            {"label": "Promotion (too late)", "amount": "-7.00", "eligible": False},
            {"label": "Spring", "amount": None},
        ]
    ),
    max_size=3,
)


def money(cents: int) -> str:
    return f"{cents / 100:.2f}"


def named(order: Hub, cents: int) -> None:
    order["totals"]["discount"] = cents / 100


def named_below_zero(order: Hub, cents: int) -> None:
    order["totals"]["discount"] = money(-cents)


def of_the_shop(order: Hub, cents: int) -> None:
    order["discount_total"] = money(cents)


def adjusted(order: Hub, cents: int) -> None:
    half = cents // 2
    order["adjustments"] += [
        {"name": "Spring", "value": -half / 100},
        {"label": "V", "amount": money(half - cents)},
    ]


def of_the_items(order: Hub, cents: int) -> None:
    half = cents // 2
    for line, part in zip(order["line_items"], (half, cents - half), strict=True):
        line["adjustments"] += [promotion(money(-part))]


def of_both(order: Hub, cents: int) -> None:
    adjusted(order, cents // 3)
    of_the_items(order, cents - cents // 3)


def positive(order: Hub, cents: int) -> None:
    order["adjustments"] += [{"name": "Discounts", "value": cents / 100}]


def named_and_of_the_items(order: Hub, cents: int) -> None:
    named(order, cents - cents // 3)
    of_the_items(order, cents // 3)


SPELLINGS = (
    named,
    named_below_zero,
    of_the_shop,
    adjusted,
    of_the_items,
    of_both,
    named_and_of_the_items,
    positive,
)


@given(
    st.tuples(CENTS, CENTS, CENTS, CENTS),
    st.integers(1, 50_000),
    st.sampled_from(SPELLINGS),
    st.sampled_from(["order", "original"]),
    st.tuples(NOISE, NOISE),
)
def test_the_totals_add_up_however_a_discount_is_written(
    drawn: tuple[int, int, int, int],
    cents: int,
    spelling: Callable[[Hub, int], None],
    section: str,
    noise: tuple[list[Hub], list[Hub]],
) -> None:
    (*prices, tax, shipping), subtotal = drawn, drawn[0] + drawn[1]
    sums = {"item": subtotal, "tax": tax, "shipping": shipping, "order": subtotal + tax + shipping - cents}
    order: Hub = {
        "number": "R1",
        "currency": "USD",
        "created_at": DATE,
        "totals": {name: money(value) for name, value in sums.items()},
        "line_items": [
            item(money(price), id=place, adjustments=[*noise[0]]) for place, price in enumerate(prices, 1)
        ],
        "adjustments": [*noise[1]],
    }
    spelling(order, cents)
    payload = to_message({"message": "order:new", section: order})["payload"]
    for make in (events.cart, events.order_accepted):
        made = make(payload, {})
        added = made["subtotal"] + made["total_tax"] + made["total_shipping"] - made["total_discounts"]
        assert abs(made["total"] - added) < 0.005
        assert made["total_discounts"] == cents / 100
