from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumer.delivery.defaults import Credentials
from consumer.delivery.results import brief, output, success
from consumer.delivery.work import Draft, Fault, Outgoing
from consumer.engine.records import DeadLetter, Record, Redelivery
from jirafe.client import Accepted, Document
from jirafe.services import CART, ORDER_ACCEPTED, Kind
from schemas.codec import Codec

CODEC = Codec()
RECORD = Record("orders", 2, 17, 1_400_000_000_000, b"R1", b"value", ())


def event(kind: Kind, outcome: Accepted | Fault | None) -> Outgoing:
    return Outgoing(kind, "R1", "R1", Credentials("1", "token"), Document(kind.array, b"{}"), outcome)


def test_a_result_has_the_place_and_the_sent_events() -> None:
    made = output(Draft(RECORD, "id-1", "order:new", [event(CART, Accepted())]), 1, CODEC, "shop")
    assert (made.record, made.dead_letter) == (RECORD, None)
    assert CODEC.decode_result(made.result) == {
        "message_id": "id-1",
        "message": "order:new",
        "code": 200,
        "notifications": [
            {
                "level": "info",
                "subject": "Cart event sent to Jirafe",
                "description": "A cart event for R1 was sent to Jirafe.",
            }
        ],
        "topic": "orders",
        "partition": 2,
        "offset": 17,
        "timestamp": datetime(2014, 5, 13, 16, 53, 20, tzinfo=UTC),
        "replay": None,
        "redrive": None,
        "group": "shop",
    }


@pytest.mark.parametrize("outcome", [Accepted(), Fault("rejected", "total: wrong")])
def test_a_result_encoded_in_advance_counts_only_if_all_events_are_accepted(outcome: Accepted | Fault) -> None:
    draft = Draft(RECORD, "id-1", "order:new", [event(CART, None), event(ORDER_ACCEPTED, None)])
    plain = Draft(RECORD, "id-1", "order:new", [event(CART, Accepted()), event(ORDER_ACCEPTED, outcome)])
    draft.success = success(draft, CODEC, "shop")
    assert draft.success is not None
    for each, decided in zip(draft.events, plain.events, strict=True):
        each.outcome = decided.outcome
    assert output(draft, 2, CODEC, "shop") == output(plain, 2, CODEC, "shop")
    assert success(Draft(RECORD, fault=Fault("undecodable", "no framing")), CODEC) is None


def test_one_fault_makes_a_dead_letter_and_keeps_the_sent_events() -> None:
    faulty = Fault("rejected", "total: wrong")
    made = output(
        Draft(RECORD, "", "order:new", [event(CART, Accepted()), event(ORDER_ACCEPTED, faulty)]), 3, CODEC
    )
    result = CODEC.decode_result(made.result)
    assert result["code"] == 500
    assert [notification["level"] for notification in result["notifications"]] == ["info", "error"]
    assert result["notifications"][1]["description"] == "total: wrong"
    assert made.dead_letter == DeadLetter("rejected", "order-accepted: total: wrong", 3)


def test_a_fault_of_the_record_is_in_the_result_unchanged() -> None:
    made = output(Draft(RECORD, fault=Fault("undecodable", "no framing")), 1, CODEC)
    (notification,) = CODEC.decode_result(made.result)["notifications"]
    assert notification["subject"] == "There was a problem while reading a message for Jirafe."
    assert made.dead_letter == DeadLetter("undecodable", "no framing", 1)


def test_the_reason_names_each_fault_once() -> None:
    same = Fault("missing-parameter", "no token")
    events = [event(CART, same), event(CART, same), event(ORDER_ACCEPTED, Fault("rejected", "bad"))]
    made = output(Draft(RECORD, events=events), 1, CODEC)
    assert made.dead_letter == DeadLetter("missing-parameter", "cart: no token; order-accepted: bad", 1)


@pytest.mark.parametrize(("length", "shown"), [(2000, 2000), (2001, 2004)])
def test_long_messages_are_cut(length: int, shown: int) -> None:
    made = output(Draft(RECORD, fault=Fault("undecodable", "x" * length)), 1, CODEC)
    assert made.dead_letter is not None
    assert len(made.dead_letter.reason) == shown
    assert len(CODEC.decode_result(made.result)["notifications"][0]["description"]) == shown


def test_a_result_names_its_replay_or_redrive() -> None:
    again = RECORD._replace(redelivery=Redelivery("r-1", "dead/0/3"))
    result = CODEC.decode_result(output(Draft(again), 1, CODEC).result)
    assert (result["replay"], result["redrive"]) == ("r-1", "dead/0/3")


def test_an_undecided_event_cannot_have_a_result() -> None:
    with pytest.raises(AssertionError, match="is not decided"):
        output(Draft(RECORD, events=[event(CART, None)]), 1, CODEC)


def test_a_brief_result_has_few_notifications_and_keeps_the_errors() -> None:
    events = [event(CART, Accepted()) for _ in range(5000)]
    made = output(Draft(RECORD, events=[*events, event(CART, Fault("x", "no"))]), 1, CODEC)
    small = brief(made, CODEC)
    assert len(small.result) < 3_000
    notifications = CODEC.decode_result(small.result)["notifications"]
    assert [each["level"] for each in notifications] == ["error", "info", "info", "info"]


@given(st.text(), st.text(), st.text(), st.integers(1, 400_000))
@example("\U0001f600", "\u0000", "x", 400_000)
def test_the_size_of_a_result_is_bounded_for_any_message(
    name: str, identity: str, message: str, times: int
) -> None:
    long = Outgoing(CART, name * times, "k", Credentials("1", "t"), Document("cart", b""), Accepted())
    wrong = Outgoing(
        CART, name * times, "k", Credentials("1", "t"), Document("cart", b""), Fault("x", message * times)
    )
    draft = Draft(RECORD, identity * times, identity * times, [long, wrong, wrong])
    made = output(draft, 1, CODEC)
    assert len(made.result) < 40_000
    small = brief(made, CODEC)
    assert len(small.result) < 3_000
    assert small.is_brief
    assert small.record is made.record
    assert small.dead_letter is made.dead_letter
    before, after = CODEC.decode_result(made.result), CODEC.decode_result(small.result)
    texts = ("message_id", "message", "notifications")
    assert {key: value for key, value in before.items() if key not in texts} == {
        key: value for key, value in after.items() if key not in texts
    }
    assert [each["subject"] for each in before["notifications"]] == [
        each["subject"] for each in after["notifications"]
    ]
