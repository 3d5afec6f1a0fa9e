import tracemalloc
from typing import Any

import orjson
import pytest

from consumer.delivery.defaults import Credentials, Defaults
from consumer.delivery.mapping import Mapper
from consumer.delivery.work import Draft, Fault
from consumer.engine.records import Record
from jirafe.client import BATCH_OVERHEAD, MAX_REQUEST_BYTES, Accepted
from jirafe.services import CART, ORDER_PLACED, Event
from schemas.codec import Codec, Headers, RegistryUnavailable
from schemas.hub import to_message
from tests.messages import line_item, order

CODEC = Codec()
TOO_MANY = Fault("unmappable", "line_items: too many images for a request of at most 10485760 bytes")
OURS = Defaults(Credentials("1", "ours"), {"jirafe.store_url": "https://shop.example"})


def record(value: bytes | None) -> Record:
    return Record("orders", 0, 7, 0, b"R1", value, ())


def encoded(document: dict[str, Any]) -> bytes:
    return CODEC.encode("order", to_message(document))


def draft(document: dict[str, Any], defaults: Defaults = OURS, max_request_bytes: int = 100_000) -> Draft:
    return Mapper(CODEC, max_request_bytes).draft(record(encoded(document)), defaults)


def outcomes(drafted: Draft) -> list[Accepted | Fault | None]:
    return [event.outcome for event in drafted.events]


def test_the_events_of_a_message_are_in_order() -> None:
    drafted = draft(order("R1", "order:new"))
    assert (drafted.message_type, drafted.fault) == ("order:new", None)
    assert [event.kind.name for event in drafted.events] == ["cart", "order-placed", "order-accepted"]
    assert {event.key for event in drafted.events} == {"R1"}
    assert outcomes(drafted) == [None, None, None]
    assert orjson.loads(drafted.events[2].document.json)["order_number"] == "R1"


def test_a_tombstone_has_no_events_and_no_fault() -> None:
    drafted = Mapper(CODEC, 1000).draft(record(None), OURS)
    assert drafted == Draft(record(None))


def test_undecodable_bytes_are_a_fault_of_the_record() -> None:
    drafted = Mapper(CODEC, 1000).draft(record(b"\x07"), OURS)
    assert drafted.fault is not None
    assert drafted.fault.kind == "undecodable"
    assert "framing" in drafted.fault.message


def test_an_unknown_type_is_a_fault_of_the_record() -> None:
    drafted = draft(order("R1", "order:imported"))
    assert drafted.fault is not None
    assert (drafted.fault.kind, drafted.events) == ("unknown-type", [])


def test_a_missing_required_field_is_a_fault_of_the_event() -> None:
    (outcome,) = outcomes(draft(order("R1", "order:updated", placed_on="soon")))
    assert isinstance(outcome, Fault)
    assert outcome.kind == "unmappable"
    assert "'soon'" in outcome.message


def test_an_exception_in_our_code_is_a_fault_of_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> list[object]:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("consumer.delivery.mapping.make_events", broken)
    drafted = draft(order("R1", "order:updated"))
    assert drafted.fault == Fault("internal", "the message could not be mapped: ZeroDivisionError: oops")
    assert drafted.events == []


def test_a_message_sends_nothing_if_one_event_cannot_be_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [Event(CART, "R1", "R1", {}), Event(ORDER_PLACED, "R1", "R1", {"total": object()})]
    monkeypatch.setattr("consumer.delivery.mapping.make_events", lambda *_: made)
    drafted = draft(order("R1", "order:new"))
    assert drafted.fault is not None
    assert (drafted.fault.kind, drafted.events) == ("internal", [])


def test_a_registry_outage_is_not_a_fault_of_the_record() -> None:
    class Away(Codec):
        def decode_message(self, data: bytes, headers: Headers = ()) -> dict[str, Any]:
            raise RegistryUnavailable("no answer")

    with pytest.raises(RegistryUnavailable):
        Mapper(Away(), 1000).draft(record(b"\x00\x00\x00\x00\x01"), OURS)


def test_the_message_overrides_the_settings() -> None:
    parameters = [
        {"name": "jirafe.site_id", "value": "2"},
        {"name": "jirafe.access_token", "value": "theirs"},
    ]
    (event,) = draft({**order("R1", "order:updated"), "parameters": parameters}).events
    assert event.credentials == Credentials("2", "theirs")
    assert "theirs" not in repr(event)
    site = OURS.site(event.credentials)
    assert (site.site_id, site.access_token) == ("2", "theirs")
    ours = OURS.site(Credentials(None, None))
    assert (ours.site_id, ours.access_token) == ("1", "ours")


@pytest.mark.parametrize(
    ("credentials", "kind", "message"),
    [
        (Credentials(None, "token"), "missing-parameter", "jirafe.site_id: missing"),
        (Credentials("1", None), "missing-parameter", "jirafe.access_token: missing"),
        (Credentials("1", "line\nend"), "unmappable", "jirafe.access_token: contains invalid characters"),
        (Credentials("1", "a blank"), "unmappable", "jirafe.access_token: contains invalid characters"),
        (Credentials("1", "h\u00e4"), "unmappable", "jirafe.access_token: contains invalid characters"),
        (Credentials("..", "token"), "unmappable", "jirafe.site_id: contains invalid characters"),
        (Credentials(".", "token"), "unmappable", "jirafe.site_id: contains invalid characters"),
        (Credentials("1", "x" * 2001), "unmappable", "jirafe.access_token: has 2001 characters; the limit is 2000"),
    ],
)
def test_missing_or_invalid_credentials_are_a_fault(credentials: Credentials, kind: str, message: str) -> None:
    (outcome,) = outcomes(draft(order("R1", "order:updated"), Defaults(credentials, {})))
    assert isinstance(outcome, Fault)
    assert outcome.kind == kind
    assert outcome.message.startswith(message)
    assert "line" not in outcome.message


def test_a_token_of_the_maximum_length_is_accepted() -> None:
    assert outcomes(draft(order("R1", "order:updated"), Defaults(Credentials("1", "x" * 2000), {}))) == [None]


def test_an_event_larger_than_the_request_limit_is_a_fault() -> None:
    (event,) = draft(order("R1", "order:updated")).events
    size = len(event.document.json)
    assert outcomes(draft(order("R1", "order:updated"), max_request_bytes=size + BATCH_OVERHEAD)) == [None]
    (outcome,) = outcomes(draft(order("R1", "order:updated"), max_request_bytes=size + BATCH_OVERHEAD - 1))
    assert outcome == Fault("too-large", f"the event has {size} bytes, and a request may have {size - 1}")


def test_credentials_show_no_token() -> None:
    assert "hush" not in repr(Credentials("1", "hush"))
    assert "hush" not in repr(Defaults(Credentials("1", "hush"), {}))


@pytest.mark.parametrize(
    ("named", "sites", "token"),
    [
        (None, frozenset(), "ours"),
        ("1", frozenset(), "ours"),
        ("2", frozenset(), None),
        ("2", frozenset({"2", "3"}), "ours"),
        ("4", frozenset({"2", "3"}), None),
    ],
)
def test_our_token_is_only_sent_to_the_sites_in_the_settings(
    named: str | None, sites: frozenset[str], token: str | None
) -> None:
    document = order("R1", "order:updated")
    if named:
        document["parameters"] = [{"name": "jirafe.site_id", "value": named}]
    defaults = Defaults(OURS.credentials, {}, sites)
    (event,) = draft(document, defaults).events
    assert defaults.site(event.credentials).access_token == (token or "")
    if token:
        assert event.outcome is None
    else:
        assert event.outcome == Fault(
            "missing-parameter",
            f"jirafe.access_token: missing; the message names the site {named}, and the setting "
            "JIRAFE_ACCESS_TOKEN is only for JIRAFE_SITE_ID and the sites that JIRAFE_SITES names",
        )


def test_our_token_is_not_sent_if_the_settings_name_no_site() -> None:
    document = order("R1", "order:updated")
    document["parameters"] = [{"name": "jirafe.site_id", "value": "2"}]
    (outcome,) = outcomes(draft(document, Defaults(Credentials(None, "ours"), {})))
    assert isinstance(outcome, Fault)
    assert "JIRAFE_SITES" in outcome.message


def test_a_message_may_bring_its_own_token_for_any_site() -> None:
    document = order("R1", "order:updated")
    document["parameters"] = [
        {"name": "jirafe.site_id", "value": "2"},
        {"name": "jirafe.access_token", "value": "theirs"},
    ]
    (event,) = draft(document).events
    assert event.outcome is None


def with_images(images: int, store: str, section: str = "order") -> Record:
    """Make a record whose only line item has this number of images, with this store URL."""
    message = to_message(order("R1", "order:new", line_items=[line_item(variant={"sku": "x"})]))
    item = message["payload"]["order"]["line_items"][0]
    item["variant"]["images"] = ["x"] * images
    message["payload"][section] = message["payload"]["order"]
    message["parameters"]["jirafe.store_url"] = store
    return record(CODEC.encode("order", message))


@pytest.mark.parametrize("section", ["order", "original", "previous"])
def test_images_too_large_for_a_request_are_not_built(section: str) -> None:
    given = with_images(2_000, "https://shop.example/" + "x" * 10_000, section)
    mapper = Mapper(CODEC, MAX_REQUEST_BYTES)
    tracemalloc.start()
    try:
        made = mapper.draft(given, OURS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000
    assert outcomes(made) == [TOO_MANY, None, TOO_MANY]


def test_many_short_images_also_exceed_the_limit() -> None:
    made = Mapper(CODEC, MAX_REQUEST_BYTES).draft(with_images(200_000, "https://shop.example/"), OURS)
    assert outcomes(made) == [TOO_MANY, None, TOO_MANY]


def test_the_body_of_an_event_that_is_not_sent_is_dropped() -> None:
    (event,) = draft(order("R1", "order:updated"), max_request_bytes=100).events
    assert isinstance(event.outcome, Fault)
    assert event.document.json == b""
