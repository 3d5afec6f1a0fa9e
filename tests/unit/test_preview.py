"""The preview of a message: its events, the source of each field, and what was not used."""

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.admin.preview import Given, Preview, files_of, of_document, of_file, of_message
from consumer.demo.shop import shop
from jirafe.services import Event, make_events
from schemas.codec import Codec
from schemas.hub import to_message
from tests.messages import cart, line_item, order, taxon
from tests.thorough import scaled

GIVEN = Given({"jirafe.product_category_taxonomy": "2"}, {}, 1_393_664_400_000, "the record's timestamp")
CODEC = Codec()
STORY = [CODEC.decode(record.value) for record in shop(scaled(400), broken_share=0, codec=CODEC)]


def fields(shown: Preview, event: int = 0) -> dict[str, tuple[object, str]]:
    return {field.path: (field.value, field.why) for field in shown.fields[event]}


def whys(document: dict[str, Any]) -> dict[str, str]:
    return {path: why for path, (_, why) in fields(of_document(document, GIVEN)).items()}


def test_each_field_has_its_value_and_its_source() -> None:
    found = fields(of_document(cart("R1"), GIVEN))
    assert found["id"] == ("R1", "from payload.cart.number")
    assert found["total"] == (26.0, "from payload.cart.totals.order")
    assert found["create_date"] == (
        "2014-03-01T10:00:00.000Z",
        'from payload.cart.placed_on ("2014-03-01T10:00:00Z")',
    )
    assert found["items[0].quantity"] == (2, "from payload.cart.line_items[0].quantity")
    assert found["items[0].cart_item_number"] == ("1", "(its position in the list)")
    assert found["items[0].product.is_sku"] == (True, "(always)")
    assert found["total_payment_cost"] == (0, "(none in the message)")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"discount": 3}, "from payload.order.totals.discount, since the totals add up without it"),
        (
            {"order": 24},
            'from payload.order.adjustments[0].value "Discounts", since the totals don\'t add up with it',
        ),
        ({}, "(none in the message)"),
    ],
)
def test_the_explanation_says_why_a_discount_does_not_count(changed: dict[str, float], why: str) -> None:
    document = order("R1", "order:updated")
    totals = {"item": 20, "tax": 2, "shipping": 3, "order": 25, **changed}
    adjustments = [{"name": "Discounts", "value": 9}] if "order" in changed else []
    document["payload"]["order"] |= {"totals": totals, "adjustments": adjustments}
    assert fields(of_document(document, GIVEN))["total_discounts"] == (0, why)


def test_values_before_and_after_a_change_are_distinguished() -> None:
    document = order("R1", "order:updated")
    before, after = [line_item(id=31)], [line_item(id=31, quantity=3)]
    document["payload"]["diff"] = {"line_items": [before, after], "total": ["9", "27"]}
    shown = of_document(document, GIVEN)
    assert ("payload.diff.line_items[1]" in shown.unknown, "payload.diff.total" in shown.outdone) == (True, True)
    assert not [place for place in (*shown.outdone, *shown.unknown) if "line_items[]" in place and "diff" in place]


def test_the_explanation_says_why_a_taxon_of_another_taxonomy_makes_no_event() -> None:
    shown = of_document(taxon("9", "Bags", taxonomy_id=3), GIVEN)
    assert (shown.events, shown.notifications, shown.decisive) == ([], [], ['payload.taxon.taxonomy_id is "3"'])
    assert shown.notes == ["only taxons of taxonomy 2 (jirafe.product_category_taxonomy) become categories"]


def test_a_source_is_named_as_in_the_document() -> None:
    later = {"request_id": "m", **order("R1")["payload"]}
    assert whys(later)["id"] == "from order.number"


def test_a_previous_item_has_the_id_of_the_current_one() -> None:
    document = order("R1", "order:updated", line_items=[line_item(id=31, variant_id=8)])
    document["payload"]["previous"] = {"line_items": [line_item(id=None, variant_id=8, quantity=1)]}
    found = whys(document)
    assert found["previous_items[0].id"] == "from payload.order.line_items[0].id"
    assert found["previous_items[0].quantity"] == "from payload.previous.line_items[0].quantity"


def test_a_sum_has_all_its_sources_and_the_reason_for_it() -> None:
    promotion = {"label": "Spring", "amount": "-1", "source_type": "Spree::PromotionAction"}
    items = [line_item(id=number, adjustments=[promotion]) for number in (1, 2)]
    totals = {"item": 42, "order": 40, "tax": 0, "shipping": 0}
    places = [f"payload.cart.line_items[{index}].adjustments[0].amount" for index in (0, 1)]
    found = whys(cart("R1", line_items=items, totals=totals))
    assert found["total_discounts"] == f'from {" and ".join(places)} "Spring", since the totals only add up so'


def test_the_explanation_has_the_values_that_decide_which_events_are_made() -> None:
    shown = of_document(order("R1", "order:updated", status="cancelled"), GIVEN)
    assert shown.decisive == ['payload.order.status is "cancelled"']
    assert [kind for kind, _ in shown.events] == ["order-accepted", "order-cancelled"]
    assert of_document(taxon("9", "Bags"), GIVEN).decisive == ['payload.taxon.taxonomy_id is "2"']


def test_unused_parts_are_listed_by_their_largest_places() -> None:
    document = order("R1", "order:updated", channel="web", payments=[{"amount": 1}, {"amount": 2}])
    document["payload"] |= {"original": {"number": "R1", "token": "x", "user_id": 7}, "shipment": {"items": [1]}}
    document["payload"]["order"]["line_items"] = [line_item(id=i, options={"size": i}) for i in (1, 2)]
    shown = of_document(document, GIVEN)
    assert shown.unknown == [
        "payload.order.line_items[].options",
        "payload.order.channel",
        "payload.order.payments",
        "payload.original.token",
        "payload.shipment",
    ]
    assert shown.outdone == ["payload.original.number"]


def test_parameters_and_empty_values_are_not_listed_as_unused() -> None:
    document = cart("R1", note=None, extra={}, gift=False)
    document["payload"]["parameters"] = [{"name": "jirafe.access_token", "value": "secret"}]
    shown = of_document(document, GIVEN)
    assert shown.unknown == shown.outdone == []
    assert "secret" not in repr(shown)


def test_an_event_that_cannot_be_made_lists_only_unknown_parts() -> None:
    shown = of_document(order("R1", "order:updated", currency=None, channel="web"), GIVEN)
    assert (shown.is_faulty, shown.unknown, shown.outdone) == (True, ["payload.order.channel"], [])


def test_notifications_say_that_events_would_be_sent() -> None:
    (notification,) = of_document(cart("R1"), GIVEN).notifications
    assert notification == {
        "level": "info",
        "subject": "Cart event would be sent to Jirafe",
        "description": "A cart event for R1 would be sent to Jirafe.",
    }


def test_a_note_says_that_a_taxon_without_dates_has_the_timestamp_of_its_record() -> None:
    shown = of_document(taxon("9", "Bags", created_at=None), GIVEN)
    assert fields(shown)["create_date"] == ("2014-03-01T09:00:00.000Z", "from the record's timestamp")
    assert shown.notes == ["the message has no dates, so its event has the record's timestamp"]
    assert of_document(taxon("9", "Bags"), GIVEN).notes == []


@pytest.mark.parametrize(
    ("text", "said"), [(b"{", "not JSON"), (b"[]", "there is no message in it"), (b"1", "must be")]
)
def test_an_unreadable_file_has_its_own_error(text: bytes, said: str) -> None:
    ((origin, shown),) = of_file("a.json", [text], GIVEN)
    assert origin == "a.json"
    assert said in shown.notifications[0]["description"]


def test_the_files_of_a_folder_are_sorted(tmp_path: Any) -> None:
    for name in ("b.jsonl", "a.json", "c.txt", "inner/d.ndjson"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [name.removeprefix(f"{tmp_path}/") for name in files_of([str(tmp_path), "-", "absent.json"])]
    assert found == ["a.json", "b.jsonl", "inner/d.ndjson", "-", "absent.json"]


@given(st.sampled_from(STORY))
@settings(max_examples=scaled(60))
def test_explaining_changes_nothing(message: dict[str, Any]) -> None:
    marked = of_message(copy.deepcopy(message), GIVEN)
    made = make_events(message["message"], message["payload"], {**GIVEN.defaults, **message["parameters"]})
    plain = [{"kind": event.kind.name, "body": event.body} for event in made if isinstance(event, Event)]
    assert orjson.dumps(marked.as_json()["events"]) == orjson.dumps(plain)


@pytest.mark.parametrize(("eligible", "off"), [(True, 1.5), (False, 0)])
def test_booleans_count_even_without_a_source(*, eligible: bool, off: float) -> None:
    sale = {"label": "Sale", "amount": -1.5, "eligible": eligible}
    document = cart("R1", totals={"item": 21, "order": 26 - off, "tax": 2, "shipping": 3}, adjustments=[sale])
    assert fields(of_document(document, GIVEN))["total_discounts"][0] == off


def test_every_value_of_a_shops_events_has_a_source_or_needs_none() -> None:
    unexplained = set()
    for document in (cart("R1"), order("R1"), order("R1", "order:updated", status="canceled")):
        shown = of_document(document, GIVEN)
        assert orjson.dumps(shown.as_json()["events"]) == orjson.dumps(
            [
                {"kind": event.kind.name, "body": event.body}
                for event in make_events(shown.message, to_message(document)["payload"], GIVEN.defaults)
                if isinstance(event, Event)
            ]
        )
        unexplained |= {f.path for each in shown.fields for f in each if f.why == "(none in the message)"}
    assert unexplained == {"total_payment_cost", "total_discounts"}
