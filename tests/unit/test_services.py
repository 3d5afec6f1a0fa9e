"""Which events each type of message makes, in which order, and the notifications for people."""

from collections.abc import Mapping
from typing import Any

import pytest

from jirafe import events
from jirafe.services import (
    CART,
    CATEGORY,
    ORDER_ACCEPTED,
    ORDER_CANCELLED,
    ORDER_PLACED,
    Event,
    Kind,
    UnknownMessageType,
    Unsendable,
    make_events,
    missing_parameter,
    notification_of_failed,
    notification_of_sent,
    notification_of_unreadable,
)
from schemas.hub import to_message

NUMBER = "R827035050"
ORDER = {
    "number": NUMBER,
    "currency": "USD",
    "created_at": "2014-03-01T08:00:00Z",
    "line_items": [{"id": 1, "sku": "A", "quantity": 1, "price": 1}],
}
TAXON = {"id": 9, "name": "Bags", "taxonomy_id": 2, "created_at": "2014-03-01T08:00:00Z"}
TAXONOMY = {"jirafe.product_category_taxonomy": "2"}


def made(
    message_type: str, sections: Mapping[str, Any], parameters: Mapping[str, str] = TAXONOMY
) -> list[Event | Unsendable]:
    return make_events(message_type, to_message({"message": message_type, **sections})["payload"], parameters)


class TestEvents:
    @pytest.mark.parametrize(
        ("message_type", "kinds"),
        [
            ("cart:new", [CART]),
            ("cart:updated", [CART]),
            ("order:new", [CART, ORDER_PLACED, ORDER_ACCEPTED]),
            ("order:update", [ORDER_ACCEPTED]),
            ("order:updated", [ORDER_ACCEPTED]),
            ("order:canceled", [ORDER_CANCELLED]),
            ("order:cancel", [ORDER_CANCELLED]),
        ],
    )
    def test_of_carts_and_orders(self, message_type: str, kinds: list[Kind]) -> None:
        section = message_type.partition(":")[0]
        payload = to_message({"message": message_type, section: ORDER})["payload"]
        assert make_events(message_type, payload, {}) == [
            Event(kind, NUMBER, NUMBER, kind.build(payload, {})) for kind in kinds
        ]

    @pytest.mark.parametrize("message_type", ["taxon:new", "taxon:updated", "taxon:persist"])
    def test_of_taxons(self, message_type: str) -> None:
        payload = to_message({"message": message_type, "taxon": TAXON})["payload"]
        assert make_events(message_type, payload, TAXONOMY) == [
            Event(CATEGORY, "9", "Bags", events.category(payload, {}))
        ]

    @pytest.mark.parametrize("spelling", ["canceled", "cancelled"])
    @pytest.mark.parametrize("place", ["order", "original", "diff.status", "diff.state"])
    def test_of_a_canceled_order(self, place: str, spelling: str) -> None:
        where: dict[str, dict[str, Any]] = {
            "order": {"order": {**ORDER, "status": spelling}},
            "original": {"original": {**ORDER, "state": spelling}},
            "diff.status": {"order": ORDER, "diff": {"status": ["complete", spelling]}},
            "diff.state": {"original": ORDER, "diff": {"state": ["complete", spelling]}},
        }
        for message_type in ("order:update", "order:updated"):
            kinds = [event.kind for event in made(message_type, where[place])]
            assert kinds == [ORDER_ACCEPTED, ORDER_CANCELLED]
        kinds = [event.kind for event in made("order:new", where[place])]
        assert kinds == [CART, ORDER_PLACED, ORDER_ACCEPTED, ORDER_CANCELLED]

    def test_a_canceled_order_without_required_fields_sends_only_its_cancellation(self) -> None:
        unreadable = {"order": {**ORDER, "placed_on": "soon", "updated_at": "2014-03-01", "status": "canceled"}}
        assert [event.kind for event in made("order:updated", unreadable)] == [ORDER_CANCELLED]
        lacking = {"order": {**ORDER, "currency": None, "status": "canceled"}}
        assert [type(event) for event in made("order:updated", lacking)] == [Event]
        assert [event.kind for event in made("order:updated", lacking)] == [ORDER_CANCELLED]
        assert [type(event) for event in made("order:new", lacking)] == [Unsendable, Event, Unsendable, Event]

    def test_bodies_are_of_their_kind(self) -> None:
        orders = made("order:new", {"order": ORDER}) + made("order:cancel", {"order": ORDER})
        assert [
            (event.kind.name, event.kind.array, event.body.get("status"))
            for event in orders
            if isinstance(event, Event)
        ] == [
            ("cart", "cart", None),
            ("order-placed", "order", "placed"),
            ("order-accepted", "order", "accepted"),
            ("order-cancelled", "order", "cancelled"),
        ]
        assert (CATEGORY.name, CATEGORY.array) == ("category", "category")

    def test_parameters_reach_the_body(self) -> None:
        item = {**ORDER["line_items"][0], "variant": {"images": [{"attachment_url": "/a.png"}]}}  # type: ignore[dict-item]
        (event,) = made(
            "cart:new",
            {"cart": {**ORDER, "line_items": [item]}},
            {"jirafe.store_url": "https://shop.example"},
        )
        assert isinstance(event, Event)
        assert event.body["items"][0]["product"]["images"] == [{"url": "https://shop.example/a.png"}]

    @pytest.mark.parametrize(
        "message_type", ["order:deleted", "cart:cancel", "order", "taxon:", "shipment:ready", ""]
    )
    def test_of_an_unknown_type(self, message_type: str) -> None:
        with pytest.raises(UnknownMessageType) as caught:
            make_events(message_type, {}, {})
        assert str(caught.value) == (
            f"message: unknown type '{message_type}'; known types: cart:new, cart:updated, order:new, "
            "order:updated, order:canceled, product:new, product:updated, taxon:new and taxon:updated"
        )


class TestUnsendable:
    def test_one_event_does_not_hold_up_the_others(self) -> None:
        cart, placed, accepted = made("order:new", {"order": {**ORDER, "currency": None}})
        message = "currency: missing in the message"
        assert cart == Unsendable(CART, NUMBER, message)
        assert isinstance(placed, Event)
        assert accepted == Unsendable(ORDER_ACCEPTED, NUMBER, message)

    def test_order_without_a_number(self) -> None:
        assert made("order:new", {"order": {**ORDER, "number": None}}) == [
            Unsendable(CART, "", "id: the cart or order has no number"),
            Unsendable(ORDER_PLACED, "", "order_number: missing in the message"),
            Unsendable(ORDER_ACCEPTED, "", "order_number: missing in the message"),
        ]

    def test_order_without_anything(self) -> None:
        assert [type(event) for event in made("order:new", {})] == [Unsendable] * 3
        assert [type(event) for event in made("cart:new", {})] == [Unsendable]


class TestTimestamps:
    BARE: Mapping[str, Any] = {name: value for name, value in TAXON.items() if name != "created_at"}

    def dates(self, timestamp: int | None, **taxon: str) -> tuple[str, str] | str:
        payload = to_message({"message": "taxon:new", "taxon": {**self.BARE, **taxon}})["payload"]
        (event,) = make_events("taxon:new", payload, TAXONOMY, timestamp)
        if isinstance(event, Unsendable):
            return event.message
        return event.body["create_date"], event.body["change_date"]

    def test_a_taxon_without_dates_gets_the_timestamp_of_its_record(self) -> None:
        assert self.dates(1_393_664_400_123) == ("2014-03-01T09:00:00.123Z",) * 2
        assert self.dates(0) == ("1970-01-01T00:00:00.000Z",) * 2

    def test_its_own_date_has_priority(self) -> None:
        own = "2014-01-01T00:00:00.000Z"
        assert self.dates(1_393_664_400_123, updated_at=own) == (own, own)
        assert self.dates(1_393_664_400_123, updated_at="soon") == "updated_at: 'soon' is not a date"

    @pytest.mark.parametrize("timestamp", [None, -1, -(2**63), 2**63 - 1, 253_402_300_800_000])
    def test_an_invalid_timestamp_counts_as_none(self, timestamp: int | None) -> None:
        assert self.dates(timestamp) == "created_at: missing in the message"

    def test_orders_and_carts_without_dates_are_errors(self) -> None:
        payload = to_message({"message": "order:new", "order": {**ORDER, "created_at": None}})["payload"]
        assert [type(event) for event in make_events("order:new", payload, {}, 1_393_664_400_123)] == [
            Unsendable
        ] * 3


class TestTaxonomies:
    @pytest.mark.parametrize("taxonomy_id", [3, None])
    def test_a_taxon_of_another_taxonomy_makes_no_event(self, taxonomy_id: int | None) -> None:
        assert made("taxon:new", {"taxon": {**TAXON, "taxonomy_id": taxonomy_id, "name": None}}) == []

    @pytest.mark.parametrize("taxon", [TAXON, {**TAXON, "taxonomy_id": 3}, None])
    def test_the_error_for_a_missing_parameter_names_its_sources(self, taxon: object) -> None:
        message = (
            "jirafe.product_category_taxonomy: missing; neither the message's parameters "
            "nor the setting JIRAFE_PRODUCT_CATEGORY_TAXONOMY has it"
        )
        assert missing_parameter("jirafe.product_category_taxonomy") == message
        assert made("taxon:new", {"taxon": taxon}, {"jirafe.site_id": "1"}) == [
            Unsendable(CATEGORY, "Bags" if taxon else "", message)
        ]

    def test_carts_and_orders_need_no_taxonomy(self) -> None:
        assert len(made("order:new", {"order": ORDER}, {})) == 3

    @pytest.mark.parametrize(("name", "variants"), [("B", 5_000), ("B" * 20_000, 500), ("B" * 400_000, 30)])
    def test_a_product_whose_variants_exceed_a_request_is_unmappable(self, name: str, variants: int) -> None:
        product = {"sku": "P1", "name": name, "created_at": "2014-03-01T10:00:00Z"}
        few, many = ({**product, "variants": [{"sku": "V"}] * number} for number in (20, variants))
        assert len(made("product:new", {"product": few})) == 21
        (event,) = made("product:new", {"product": many})
        assert isinstance(event, Unsendable)
        assert event.message == f"product: its {variants} variants make events that are too large together"

    def test_missing_taxon(self) -> None:
        assert made("taxon:new", {}) == [Unsendable(CATEGORY, "", "taxon: missing in the message")]

    def test_taxon_without_a_name(self) -> None:
        assert made("taxon:new", {"taxon": {**TAXON, "name": None}}) == [
            Unsendable(CATEGORY, "", "name: missing in the message")
        ]


class TestNotifications:
    @pytest.mark.parametrize(
        ("kind", "name", "subject", "description"),
        [
            (CART, NUMBER, "Cart event sent to Jirafe", "A cart event for R827035050 was sent to Jirafe."),
            (
                ORDER_PLACED,
                NUMBER,
                "Order placed event sent to Jirafe",
                "An order-placed event for R827035050 was sent to Jirafe.",
            ),
            (
                ORDER_ACCEPTED,
                NUMBER,
                "Order accepted event sent to Jirafe",
                "An order-accepted event for R827035050 was sent to Jirafe.",
            ),
            (
                ORDER_CANCELLED,
                NUMBER,
                "Order canceled event sent to Jirafe",
                "An order-canceled event for R827035050 was sent to Jirafe.",
            ),
            (CATEGORY, "Bags", "Category event sent to Jirafe.", "The category 'Bags' was sent to Jirafe."),
            (CATEGORY, "{0} {x}", "Category event sent to Jirafe.", "The category '{0} {x}' was sent to Jirafe."),
        ],
    )
    def test_of_sent_events(self, kind: Kind, name: str, subject: str, description: str) -> None:
        assert notification_of_sent(kind, name) == {
            "level": "info",
            "subject": subject,
            "description": description,
        }

    @pytest.mark.parametrize(
        ("kind", "event"),
        [
            (CART, "a cart event"),
            (ORDER_PLACED, "an order-placed event"),
            (ORDER_ACCEPTED, "an order-accepted event"),
            (ORDER_CANCELLED, "an order-canceled event"),
            (CATEGORY, "a category event"),
        ],
    )
    def test_of_failed_events(self, kind: Kind, event: str) -> None:
        assert notification_of_failed(kind, "total: None is not of type 'number'") == {
            "level": "error",
            "subject": f"There was a problem while sending {event} to Jirafe.",
            "description": "total: None is not of type 'number'",
        }

    def test_of_unreadable_records(self) -> None:
        assert notification_of_unreadable("why") == {
            "level": "error",
            "subject": "There was a problem while reading a message for Jirafe.",
            "description": "why",
        }
