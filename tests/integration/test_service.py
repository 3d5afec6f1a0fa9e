"""The whole service: real members, a real broker, real HTTP."""

import json
import re
import signal
from collections import Counter
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from consumer.demo.processes import await_that, free_port
from schemas.hub import to_message
from tests.command import run
from tests.messages import cart, order, product, sale, taxon
from tests.raw_producer import produce_raw_headers
from tests.stand import SITE, TOKEN, Stand

CART_SENT = {
    "level": "info",
    "subject": "Cart event sent to Jirafe",
    "description": "A cart event for R1 was sent to Jirafe.",
}
PLACED_SENT = {
    "level": "info",
    "subject": "Order placed event sent to Jirafe",
    "description": "An order-placed event for R1 was sent to Jirafe.",
}
ACCEPTED_SENT = {
    "level": "info",
    "subject": "Order accepted event sent to Jirafe",
    "description": "An order-accepted event for R1 was sent to Jirafe.",
}
CANCELED_SENT = {
    "level": "info",
    "subject": "Order canceled event sent to Jirafe",
    "description": "An order-canceled event for R1 was sent to Jirafe.",
}
CATEGORY_SENT = {
    "level": "info",
    "subject": "Category event sent to Jirafe.",
    "description": "The category 'Bags' was sent to Jirafe.",
}
PRODUCT_SENT = {
    "level": "info",
    "subject": "Product event sent to Jirafe.",
    "description": "The product 'BAG-1' was sent to Jirafe.",
}


def orders(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [order(f"R{number}", "order:updated") for number in range(start, start + count)]


def assert_one_result_each(results: list[dict[str, Any]], count: int) -> None:
    places = Counter((result["topic"], result["partition"], result["offset"]) for result in results)
    assert len(places) == count
    assert set(places.values()) == {1}


def test_each_service_sends_its_events_and_writes_its_notifications(stand: Stand) -> None:
    expected = {
        "cart:new": [CART_SENT],
        "cart:updated": [CART_SENT],
        "order:new": [CART_SENT, PLACED_SENT, ACCEPTED_SENT],
        "order:update": [ACCEPTED_SENT],
        "order:updated": [ACCEPTED_SENT],
        "order:canceled": [CANCELED_SENT],
        "taxon:new": [CATEGORY_SENT],
        "taxon:updated": [CATEGORY_SENT],
        "product:new": [PRODUCT_SENT],
        "product:updated": [PRODUCT_SENT],
    }
    makers = {
        "cart": partial(cart, "R1"),
        "order": partial(order, "R1"),
        "taxon": partial(taxon, "9", "Bags"),
        "product": partial(product, "BAG-1"),
    }
    for message_type in expected:
        stand.produce(makers[message_type.partition(":")[0]](message_type))
    stand.member()
    results = stand.await_results(len(expected))
    assert {result["message"]: result["notifications"] for result in results} == expected
    assert {result["code"] for result in results} == {200}
    assert {result["message_id"] for result in results} == {"m-1"}
    assert_one_result_each(results, len(expected))
    assert sorted(stand.accepted("order")) == sorted(
        [("order", "placed", "R1"), *[("order", "accepted", "R1")] * 3, ("order", "cancelled", "R1")]
    )
    assert stand.dead_letters() == []


def test_a_result_has_the_key_of_its_record(stand: Stand) -> None:
    stand.produce(order("R1", "order:updated"), taxon("9", "Bags"))
    stand.member()
    stand.await_results(2)
    assert {record.key for record in stand.records("results") if record} == {b"R1", b"9"}


def test_results_of_a_canceled_order_and_a_taxon_of_another_taxonomy(stand: Stand) -> None:
    stand.produce(order("R1", "order:updated", status="canceled"), taxon("9", "Bags", taxonomy_id="3"))
    stand.member()
    results = {result["message"]: result for result in stand.await_results(2)}
    assert results["order:updated"]["notifications"] == [ACCEPTED_SENT, CANCELED_SENT]
    assert results["taxon:new"]["notifications"] == []
    assert results["taxon:new"]["code"] == 200
    assert stand.accepted() == [("order", "accepted", "R1"), ("order", "cancelled", "R1")]


def test_a_taxon_without_dates_gets_the_timestamp_of_its_record(stand: Stand) -> None:
    stand.produce(taxon("9", "Bags", created_at=None))
    stand.member()
    (result,) = stand.await_results(1)
    assert result["code"] == 200
    (event,) = stand.api.events(kind="category")
    body: Any = event.body
    assert datetime.fromisoformat(body["create_date"]) == result["timestamp"]


def test_a_refused_event_does_not_affect_the_rest_of_its_message_or_batch(stand: Stand) -> None:
    # The API rejects a negative total of a cart, but accepts that of an order.
    bad = order("R1", totals={"order": -1})
    stand.produce(order("R0", "order:updated"), bad, order("R2", "order:updated"))
    stand.member()
    results = stand.await_results(3)
    failed = [result for result in results if result["code"] == 500]
    assert len(failed) == 1
    assert failed[0]["notifications"] == [
        {
            "level": "error",
            "subject": "There was a problem while sending a cart event to Jirafe.",
            "description": "total: -1.0 is less than the minimum of 0",
        },
        PLACED_SENT,
        ACCEPTED_SENT,
    ]
    (letter,) = stand.dead_letters()
    headers = dict(letter.headers)
    assert letter.key == b"R1"
    assert stand.codec.decode(letter.value or b"")["payload"]["order"]["number"] == "R1"
    assert headers["dlq.kind"] == b"rejected"
    assert headers["dlq.reason"] == b"cart: total: -1.0 is less than the minimum of 0"
    assert {number for _, _, number in stand.accepted("order")} == {"R0", "R1", "R2"}


def test_undeliverable_records_become_dead_letters_with_their_original_bytes(stand: Stand) -> None:
    good = stand.codec.encode("order", to_message(order("R5", "order:updated")))
    unknown = stand.codec.encode("order", to_message(order("R6", "order:exploded")))
    values = {
        b"garbage": b"\x07not Avro",
        b"empty": b"",
        b"truncated": good[:-3],
        b"extended": good + b"!",
        b"unknown-schema": b"\xc3\x01" + b"\x00" * 8 + b"rest",
        b"no-registry": b"\x00\x00\x00\x00\x01" + good[10:],
        b"unknown-type": unknown,
    }
    for key, value in values.items():
        stand.produce_raw(key, value, [("trace", b"\x00\xff"), ("trace", b"again")])
    stand.produce_raw(b"tombstone", None)
    stand.produce(order("R1", "order:updated"))
    stand.member()
    results = stand.await_results(len(values) + 2)
    assert_one_result_each(results, len(values) + 2)
    assert Counter(result["code"] for result in results) == {500: len(values), 200: 2}
    for result in results:
        if result["code"] == 500:
            (notification,) = result["notifications"]
            assert notification["level"] == "error"
            assert notification["subject"] == "There was a problem while reading a message for Jirafe."
    letters = {letter.key: letter for letter in stand.dead_letters()}
    assert {key: letter.value for key, letter in letters.items()} == values
    for letter in letters.values():
        assert letter.headers[:2] == (("trace", b"\x00\xff"), ("trace", b"again"))
        assert {name for name, _ in letter.headers[2:]} == {
            f"dlq.{name}"
            for name in ("reason", "kind", "topic", "partition", "offset", "timestamp", "attempts", "time", "group")
        }
        assert dict(letter.headers)["dlq.topic"] == stand.orders_topic.encode()
    assert stand.accepted() == [("order", "accepted", "R1")]


def test_invalid_header_names_stop_nothing_and_dead_letters_say_what_is_missing(stand: Stand) -> None:
    names = [b"\xff", b"\xed\xa0\x80", b"caf\xe9", b"", b"cut\xe2\x82"]
    servers, good = (
        stand.environment["KAFKA_BOOTSTRAP_SERVERS"],
        stand.codec.encode("order", to_message(order("R1"))),
    )
    # The interpreter has a faster way for frequent calls, which does not check for the library's errors.
    often = 100
    for number in range(often):
        stand.send_later(b"%d" % number, good, [("trace", b"1")])
    stand.flush()
    for name in names:
        produce_raw_headers(servers, stand.orders_topic, name, b"garbage", [(b"trace", b"1"), (name, b"\xff")])
    produce_raw_headers(servers, stand.orders_topic, b"R1", good, [(b"\xff", b"1")])
    member = stand.member()
    codes = Counter(result["code"] for result in stand.await_results(often + 6))
    assert codes == {500: 5, 200: often + 1}
    assert member.stop() == 0
    letters = {letter.key: letter for letter in stand.dead_letters()}
    assert {key: letter.value for key, letter in letters.items()} == dict.fromkeys(names, b"garbage")
    for key, letter in letters.items():
        headers = dict(letter.headers)
        if key == b"":
            assert letter.headers[:2] == (("trace", b"1"), ("", b"\xff"))
            assert "dlq.missing" not in headers
        else:
            assert "trace" not in headers
            assert (headers["dlq.missing"] or b"").startswith(b"all headers: the client library can't read them")
    assert run("audit", **stand.environment).returncode == 0
    assert "Traceback" not in run("dead-letters", "redrive", **stand.environment).stderr
    again = [dict(letter.headers) for letter in stand.dead_letters() if "dlq.redrives" in dict(letter.headers)]
    assert [headers["dlq.redrives"] for headers in again] == [b"1"] * 5
    assert sum("dlq.missing" in headers for headers in again) == 4


def test_a_dead_letter_of_a_record_with_very_many_headers_can_be_read(stand: Stand) -> None:
    for number in (90_000, 99_999):
        stand.send_later(b"%d" % number, b"\x07", [("h", b"")] * number)
    stand.flush()
    stand.member()
    assert_one_result_each(stand.await_results(2), 2)
    listed = [
        json.loads(line) for line in run("dead-letters", "list", "--json", **stand.environment).stdout.splitlines()
    ]
    assert {letter["number"] for letter in listed} == {"90000", "99999"}
    kept, dropped = sorted(stand.dead_letters(), key=lambda letter: letter.key or b"")
    assert len(kept.headers) > 90_000
    assert (dict(dropped.headers)["dlq.missing"] or b"").startswith(b"all headers: there are 99999")


def test_a_missing_parameter_is_an_error_of_each_event(stand: Stand) -> None:
    stand.produce(order("R1"), taxon("9", "Bags"))
    stand.member(JIRAFE_ACCESS_TOKEN="", JIRAFE_PRODUCT_CATEGORY_TAXONOMY="")
    results = {result["message"]: result for result in stand.await_results(2)}
    assert [n["subject"] for n in results["order:new"]["notifications"]] == [
        "There was a problem while sending a cart event to Jirafe.",
        "There was a problem while sending an order-placed event to Jirafe.",
        "There was a problem while sending an order-accepted event to Jirafe.",
    ]
    assert {n["description"] for n in results["order:new"]["notifications"]} == {
        "jirafe.access_token: missing; neither the message's parameters nor the setting JIRAFE_ACCESS_TOKEN has it"
    }
    assert {dict(letter.headers)["dlq.kind"] for letter in stand.dead_letters()} == {b"missing-parameter"}
    assert stand.accepted() == []


def test_credentials_of_a_message_override_those_of_the_settings(stand: Stand) -> None:
    stand.api.set_credentials({TOKEN: [SITE], "theirs": ["456"]})
    parameters = {"jirafe_site_id": "456", "jirafe_access_token": "theirs"}
    later_hub = {"request_id": "r-1", "order": sale("R2"), "parameters": parameters, "message": "order:updated"}
    stand.produce(order("R1", "order:updated"), later_hub)
    stand.member()
    assert {result["code"] for result in stand.await_results(2)} == {200}
    assert sorted((event.site, event.id) for event in stand.api.events()) == [(SITE, "R1"), ("456", "R2")]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="signal handlers are read from /proc")
def test_a_member_that_is_stopped_while_it_starts_ends_cleanly(stand: Stand) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    member = stand.member(KAFKA_BOOTSTRAP_SERVERS=nobody)
    await_that("it handles SIGTERM", lambda: handles(member.pid, signal.SIGTERM))
    member.signal(signal.SIGTERM)
    assert member.wait() == 0
    assert "Traceback" not in member.log.read_text()


def test_a_reload_while_a_member_starts_does_not_end_it(stand: Stand) -> None:
    member = stand.member(KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}")
    await_that("it looks for the broker", lambda: member.said("librdkafka") > 0)
    member.signal(signal.SIGHUP)
    member.signal(signal.SIGTERM)
    assert member.wait() == 0


def handles(pid: int, number: signal.Signals) -> bool:
    (caught,) = re.findall(r"^SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_a_refused_token_of_a_message_does_not_stop_other_sites(stand: Stand) -> None:
    bad = order("R2", "order:updated")
    bad["parameters"] = {"jirafe.site_id": "456", "jirafe.access_token": "expired"}
    stand.produce(bad, order("R1", "order:updated"))
    member = stand.member()
    results = {result["code"]: result for result in stand.await_results(2)}
    (notification,) = results[500]["notifications"]
    assert notification["description"] == "the API refused the access token for site 456: invalid_token"
    (letter,) = stand.dead_letters()
    assert dict(letter.headers)["dlq.kind"] == b"forbidden"
    assert stand.accepted() == [("order", "accepted", "R1")]
    assert member.said("expired") == 0


def test_a_member_resumes_from_the_committed_offsets(stand: Stand) -> None:
    stand.produce(*orders(50))
    first = stand.member()
    stand.await_results(50)
    assert first.stop() == 0
    stand.produce(*orders(50, start=50))
    stand.member()
    assert_one_result_each(stand.await_results(100), 100)
    assert Counter(stand.accepted()) == {("order", "accepted", f"R{number}"): 1 for number in range(100)}


def test_sigterm_finishes_the_chunks_in_flight_and_loses_nothing(stand: Stand) -> None:
    stand.produce(*orders(300))
    stand.api.add_fault({"action": "delay", "seconds": 0.7, "times": None})
    member = stand.member(CONSUMER_CHUNK_RECORDS="1")
    await_that("a chunk in flight", lambda: bool(stand.accepted()))
    member.signal(signal.SIGTERM)
    assert member.wait() == 0
    arrived = Counter(stand.accepted())
    assert set(arrived.values()) == {1}
    assert_one_result_each(stand.results(), len(arrived))
    assert sum(stand.committed().values()) == len(arrived) < 300
    stand.api.clear_faults()
    stand.member()
    assert_one_result_each(stand.await_results(300), 300)
    assert len(stand.accepted()) == 300


def test_a_second_signal_ends_the_member_at_once_and_loses_nothing(stand: Stand) -> None:
    stand.produce(*orders(5))
    stand.api.add_fault({"action": "delay", "seconds": 20, "times": None})
    # A session that a busy machine does not cut short: the first signal must find something in flight.
    member = stand.member(KAFKA_SESSION_TIMEOUT_MS="6000")
    await_that("a request at the API", lambda: stand.api.faults()[0]["applied"] != 0)
    member.signal(signal.SIGINT)
    await_that("the first signal", lambda: member.said('"event": "stopping"') > 0)
    assert member.said('"in_flight": 0') == 0
    member.signal(signal.SIGTERM)
    assert member.wait() == 128 + signal.SIGTERM, stand.logs()
    stand.api.clear_faults()
    stand.member()
    assert_one_result_each(stand.await_results(5), 5)


def under(stand: Stand, protocol: str) -> None:
    """Have the stand's members use this group protocol: the new one (KIP-848) has its times from the broker."""
    if protocol == "consumer":
        stand.environment["KAFKA_GROUP_PROTOCOL"] = "consumer"
        for name in ("KAFKA_SESSION_TIMEOUT_MS", "KAFKA_HEARTBEAT_INTERVAL_MS"):
            stand.environment.pop(name)


PROTOCOLS = [
    "classic",
    pytest.param("consumer", marks=pytest.mark.real_broker("it has the protocol of KIP-848")),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_two_members_share_partitions_and_hand_them_over(stand: Stand, protocol: str) -> None:
    under(stand, protocol)
    # So slow that each lane with waiting records has a chunk in flight, whenever a partition is revoked.
    stand.api.add_fault({"action": "delay", "seconds": 0.6, "times": None})
    few = {"CONSUMER_CHUNK_RECORDS": "1"}
    first = stand.member(**few)
    stand.await_assigned(first)
    stand.produce(*orders(300))
    await_that("it is at work", lambda: bool(stand.accepted()))
    second = stand.member(**few)
    await_that("partitions move", lambda: first.said('"event": "revoked"') == 1)
    assert len(stand.accepted()) < 300
    stand.api.clear_faults()
    stand.await_results(300)
    assert first.stop() == 0
    stand.produce(*orders(100, start=300))
    assert_one_result_each(stand.await_results(400), 400)
    assert second.stop() == 0
    # No crash, so no repetition: what was in flight of a revoked partition was finished and committed.
    assert Counter(stand.accepted()) == {("order", "accepted", f"R{number}"): 1 for number in range(400)}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_kill_and_restart_loses_nothing(stand: Stand, protocol: str) -> None:
    under(stand, protocol)
    stand.produce(*orders(200))
    stand.api.add_fault({"action": "delay", "seconds": 0.1, "times": None})
    member = stand.member(CONSUMER_CHUNK_RECORDS="1")
    await_that("results", lambda: len(stand.accepted()) >= 60)
    member.signal(signal.SIGKILL)
    member.wait()
    stand.end_transaction_of(member)
    stand.api.clear_faults()
    stand.member()
    results = stand.await_results(200)
    assert {(result["partition"], result["offset"]) for result in results} == {
        (number, offset) for (_, number), end in stand.committed().items() for offset in range(end)
    }
    assert {number for _, _, number in stand.accepted()} == {f"R{number}" for number in range(200)}


def test_an_api_outage_loses_no_event_and_keeps_the_order(stand: Stand) -> None:
    versions = [order("R1", "order:updated", totals={"order": version}) for version in range(30)]
    stand.api.add_fault({"action": "status", "status": 503, "times": 6})
    stand.api.add_fault({"action": "reset", "after": False, "times": 2})
    stand.api.add_fault({"action": "html", "times": 2})
    member = stand.member(CONSUMER_CHUNK_RECORDS="7")
    stand.produce(*versions)
    assert {result["code"] for result in stand.await_results(30)} == {200}
    assert stand.totals("R1") == [float(version) for version in range(30)]
    assert member.said('"event": "waiting"') >= 1
    assert member.said('"event": "resumed"') >= 1
    assert stand.dead_letters() == []


def test_a_request_whose_answer_is_lost_is_repeated_with_the_same_events(stand: Stand) -> None:
    stand.api.add_fault({"action": "reset", "after": True, "times": 1})
    stand.produce(order("R1"))
    stand.member()
    assert [result["code"] for result in stand.await_results(1)] == [200]
    digests = Counter(event.digest for event in stand.api.events())
    assert len(digests) == 3
    assert max(digests.values()) == 2


def test_our_refused_token_holds_records_and_loses_none(stand: Stand) -> None:
    stand.api.set_credentials({"another": [SITE]})
    stand.produce(*orders(3))
    member = stand.member()
    await_that("it holds", lambda: member.said('"event": "held"') == 1)
    stand.api.set_credentials({TOKEN: [SITE]})
    assert {result["code"] for result in stand.await_results(3)} == {200}
    assert stand.dead_letters() == []
    assert member.said(TOKEN) == 0


def test_a_batch_that_the_api_refuses_for_its_size_is_bisected(stand: Stand) -> None:
    stand.api.add_fault({"action": "status", "status": 413, "times": None, "ids": ["R5"]})
    stand.produce(*orders(11))
    stand.member()
    results = stand.await_results(11)
    assert Counter(result["code"] for result in results) == {200: 10, 500: 1}
    (letter,) = stand.dead_letters()
    assert (letter.key, dict(letter.headers)["dlq.kind"]) == (b"R5", b"refused")
    assert len(stand.accepted()) == 10


def test_an_event_that_fails_alone_becomes_a_dead_letter(stand: Stand) -> None:
    stand.api.add_fault({"action": "status", "status": 500, "times": None, "ids": ["R7"]})
    stand.produce(*orders(15))
    stand.await_assigned(stand.member(CONSUMER_MAX_ATTEMPTS="3"))
    sent = 15

    def given_up() -> bool:
        # Only events that succeed meanwhile prove that it is not the API that fails.
        nonlocal sent
        stand.produce(*orders(1, start=sent))
        sent += 1
        return bool(stand.dead_letters())

    await_that("a dead letter", given_up)
    results = stand.await_results(sent)
    assert Counter(result["code"] for result in results) == {200: sent - 1, 500: 1}
    (letter,) = stand.dead_letters()
    assert letter.key == b"R7"
    assert dict(letter.headers)["dlq.kind"] == b"failing"
    assert Counter(stand.accepted()) == {("order", "accepted", f"R{n}"): 1 for n in range(sent) if n != 7}


def test_an_event_with_a_transient_error_is_sent_again_with_later_events_of_its_key(stand: Stand) -> None:
    stand.api.add_fault({"action": "partial", "times": 1})  # the first item of the first request
    versions = [order("R1", "order:updated", totals={"order": version}) for version in range(5)]
    stand.produce(*versions)
    stand.member()
    assert {result["code"] for result in stand.await_results(5)} == {200}
    totals = stand.totals("R1")
    assert totals[-5:] == [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.real_broker("it has the protocol of KIP-848")
def test_a_second_static_member_does_not_disturb_the_first_under_kip_848(stand: Stand) -> None:
    under(stand, "consumer")
    static = {"KAFKA_GROUP_INSTANCE_ID": "consumer-0"}
    first = stand.member(**static)
    stand.await_assigned(first)
    stand.produce(*orders(10))
    stand.await_results(10)
    for time in range(1, 6):  # as often as a supervisor starts it again
        namesake = stand.member(**static)
        stand.produce(*orders(10, start=10 * time))
        assert namesake.wait() == 1
        last = namesake.log.read_text().splitlines()[-1]
        assert '"event": "fatal"' in last
        assert "consumer-0 is in the group already: jirafe-consumer-" in last
        assert_one_result_each(stand.await_results(10 * (time + 1)), 10 * (time + 1))
    assert first.status is None
    for trouble in ("writer_lost", "rejoining", "lost", "revoked"):
        assert not first.said(f'"event": "{trouble}"')
    assert first.stop() == 0
