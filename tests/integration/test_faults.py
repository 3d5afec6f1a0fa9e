"""Each trouble that a member must survive: real members, a real broker, real HTTP."""

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import requests
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewTopic

from consumer.demo.broker import EmbeddedBroker
from consumer.demo.processes import CommandProcess, await_that, free_port
from jirafe.sandbox import Sandbox, SandboxServer
from schemas.codec import Codec
from schemas.hub import to_message
from tests.integration.test_service import assert_one_result_each, orders
from tests.messages import line_item, order, product
from tests.registry import RegistryServer
from tests.stand import SITE, TOKEN, Stand

GARBAGE = b"\x07not Avro"
# The bound that docs/guarantees.md states, for this test: four partitions with records, eight workers.
MEMORY_MIB = 256 + 4 * 16 + 8 * 16


def numbers(stand: Stand) -> set[str]:
    """The numbers of the orders that the API accepted."""
    return {number for _, _, number in stand.accepted()}


def health(port: str, page: str) -> tuple[int, list[str]]:
    answer = requests.get(f"http://127.0.0.1:{port}/{page}", timeout=10)
    return answer.status_code, answer.json()["reasons"]


@pytest.mark.parametrize("by", ["file", "SIGHUP"])
def test_a_member_whose_token_was_refused_resumes_without_a_restart(stand: Stand, tmp_path: Path, by: str) -> None:
    env_file = tmp_path / "settings.env"
    env_file.write_text("JIRAFE_ACCESS_TOKEN=expired-token\n")
    stand.produce(*orders(5))
    stand.environment.pop("JIRAFE_ACCESS_TOKEN")
    port = str(free_port())
    member = stand.member_with_file(env_file, CONSUMER_BACKOFF_LONGEST="600", CONSUMER_HTTP_ADDRESS=port)
    await_that("it holds", lambda: member.said('"event": "held"') > 0)
    await_that("it is not ready", lambda: "invalid_token" in str(health(port, "readyz")))
    assert health(port, "healthz") == (200, [])
    if by == "file":
        env_file.write_text("JIRAFE_ACCESS_TOKEN=\nCONSUMER_WORKERS=none\n")
        await_that("bad settings are refused", lambda: member.said('"event": "settings_refused"') > 0)
        env_file.write_text(f"JIRAFE_ACCESS_TOKEN={TOKEN}\n")
    else:
        stand.api.set_credentials({"expired-token": [SITE]})
        member.signal(signal.SIGHUP)
    assert {result["code"] for result in stand.await_results(5)} == {200}
    assert stand.dead_letters() == []
    await_that("it is ready", lambda: health(port, "readyz") == (200, []))
    assert member.said('"event": "assigned"') == 1
    assert member.said(TOKEN) == member.said("expired-token") == 0
    assert member.said('"taken": ["JIRAFE_ACCESS_TOKEN"]') == (by == "file")
    assert member.said('"event": "settings_unchanged"') == (by == "SIGHUP")


def test_a_flood_of_dead_letters_is_held_until_an_operator_releases_it(stand: Stand) -> None:
    count = 60
    for index in range(count):
        stand.produce_raw(f"k{index}".encode(), GARBAGE)
    settings = {"CONSUMER_FLOOD_WINDOW": "10", "CONSUMER_CHUNK_RECORDS": "5"}
    member = stand.member(**settings)
    await_that("it holds", lambda: member.said('"cause": "flood"') > 0)
    assert len(stand.dead_letters()) < 10
    assert sum(stand.committed().values()) < 10
    while len(stand.dead_letters()) < count:
        member.signal(signal.SIGHUP)
        time.sleep(0.2)
    assert member.said('"event": "flood_released"') > 0
    assert_one_result_each(stand.await_results(count), count)


def test_a_flood_is_held_while_good_records_arrive(stand: Stand) -> None:
    for _ in range(10):
        stand.produce_raw(b"k", GARBAGE)
    port = str(free_port())
    settings = {"CONSUMER_FLOOD_WINDOW": "10", "CONSUMER_CHUNK_RECORDS": "5", "CONSUMER_HTTP_ADDRESS": port}
    member = stand.member(**settings)
    await_that("it holds", lambda: member.said('"cause": "flood"') > 0)
    held = len(stand.dead_letters())
    stand.produce(*orders(20))
    await_that("good ones are delivered", lambda: len(numbers(stand)) > 2)
    released = "SIGHUP lets one window of records through"
    reason = f"{stand.orders_topic}: too many dead letters, so the topic is paused; {released}"
    assert (held, len(stand.dead_letters()), health(port, "readyz")) == (held, held, (503, [reason]))
    assert held < 10
    member.signal(signal.SIGHUP)
    assert_one_result_each(stand.await_results(30), 30)
    await_that("it is ready", lambda: health(port, "readyz") == (200, []))
    assert member.said('"cause": "flood"') == 1


def test_a_flood_holds_only_its_own_topic(stand: Stand) -> None:
    for index in range(30):
        stand.produce_bytes("taxon", b"%d" % index, GARBAGE)
    port = str(free_port())
    settings = {"CONSUMER_FLOOD_WINDOW": "10", "CONSUMER_CHUNK_RECORDS": "5", "CONSUMER_HTTP_ADDRESS": port}
    member = stand.member(**settings)
    await_that("it holds", lambda: member.said('"cause": "flood"') > 0)
    stand.produce(*orders(200))
    await_that("the orders are delivered", lambda: len(numbers(stand)) == 200)
    taxons = stand.settings.topics_by_kind["taxon"]
    reason = f"{taxons}: too many dead letters, so the topic is paused; SIGHUP lets one window of records through"
    await_that("it is not ready", lambda: health(port, "readyz") == (503, [reason]))
    member.signal(signal.SIGHUP)
    await_that("it says what it released", lambda: f'"topics": ["{taxons}"]' in member.log.read_text())


def test_a_record_of_the_largest_size_becomes_a_dead_letter(stand: Stand) -> None:
    largest = b"\x07" + os.urandom(1_048_400)  # a topic takes 1,048,588, its overhead included, by default
    producer = stand.cluster.make_producer(
        {**stand.cluster.client_properties("test"), "message.max.bytes": 2_000_000}
    )
    producer.produce(stand.orders_topic, largest, b"largest")
    assert producer.flush(10) == 0
    stand.member()
    assert_one_result_each(stand.await_results(1), 1)
    (letter,) = stand.dead_letters()
    assert (letter.key, letter.value) == (b"largest", largest)


@pytest.mark.parametrize("size", [30_000_000, 95_000_000])
def test_a_record_that_is_large_after_decompression_does_not_stop_the_member(stand: Stand, size: int) -> None:
    zipped = {"compression.type": "zstd", "message.max.bytes": 1_000_000_000}
    producer = stand.cluster.make_producer({**stand.cluster.client_properties("test"), **zipped})
    for number, value in enumerate((b"\x07" * size, stand.codec.encode("order", to_message(order("R1"))))):
        producer.produce(stand.orders_topic, value, f"R{number}".encode(), partition=0)
        assert producer.flush(30) == 0  # each has its own batch
    member = stand.member()
    assert_one_result_each(stand.await_results(2), 2)
    assert numbers(stand) == {"R1"}
    assert member.stop() == 0
    (letter,) = stand.dead_letters()
    headers = dict(letter.headers)
    if letter.value:
        assert (letter.key, len(letter.value)) == (b"R0", size)
    else:  # the library decompresses only up to `receive.message.max.bytes`
        assert (headers["dlq.missing"] or b"").startswith(b"the record: the client library can't read it")
        assert b"the client library can't read it" in (headers["dlq.reason"] or b"")
    assert bool(letter.value) == (size < 90_000_000)


def test_a_result_that_is_too_large_for_its_topic_is_shortened(stand: Stand) -> None:
    small = {"KAFKA_MESSAGE_MAX_BYTES": "1100", "CONSUMER_GRACE_TIME": "3"}
    long = "R" * 900
    variants = [{"sku": f"BAG-{number}"} for number in range(50)]
    stand.produce(*orders(20), order(long, "order:updated"), product("BAG", variants=variants), *orders(20, 20))
    stand.member(**small)
    results = stand.await_results(42)
    assert_one_result_each(results, 42)
    assert {result["code"] for result in results} == {200}
    assert len(numbers(stand)) == 41 + 51


@pytest.mark.real_broker("compacted topics")
def test_a_record_without_a_key_has_a_result_in_a_compacted_topic(stand: Stand) -> None:
    results = stand.settings.stream.results_topic
    admin = stand.cluster.make_admin("test")
    admin.create_topics([NewTopic(results, 1, config={"cleanup.policy": "compact"})])[results].result()
    stand.send_later(None, stand.codec.encode("order", to_message(order("R1"))))
    stand.send_later(b"k", stand.codec.encode("order", to_message(order("R2"))))
    stand.flush()
    stand.member()
    assert_one_result_each(stand.await_results(2), 2)
    assert numbers(stand) == {"R1", "R2"}


def test_a_dead_letter_that_cannot_be_written_stops_only_its_own_lane(stand: Stand) -> None:
    big = b"\x07" * 5000
    stand.produce_raw(b"big", big)
    stand.produce(*orders(30))
    port = str(free_port())
    small = {"KAFKA_MESSAGE_MAX_BYTES": "2000", "CONSUMER_GRACE_TIME": "3"}
    member = stand.member(CONSUMER_HTTP_ADDRESS=port, **small)
    await_that("it can't be written", lambda: member.said("Message size too large") > 1)
    await_that("it says why", lambda: "Message size too large" in "".join(health(port, "readyz")[1]))
    await_that("the others go on", lambda: len(stand.committed()) == 2)
    assert stand.dead_letters() == []
    assert member.stop() == 0
    stand.member()
    await_that("all is committed", lambda: sum(stand.committed().values()) == 31)
    (letter,) = stand.dead_letters()
    assert (letter.key, letter.value) == (b"big", big)
    assert numbers(stand) == {f"R{number}" for number in range(30)}


def test_a_partition_that_was_paused_and_revoked_in_an_outage_is_read_again(stand: Stand) -> None:
    small = {"CONSUMER_CHUNK_RECORDS": "3"}
    stand.api.add_fault({"action": "status", "status": 503, "times": None})
    first = stand.member(**small)
    stand.await_assigned(first)
    stand.produce(*orders(150))
    await_that("an outage", lambda: first.said('"event": "waiting"') > 0)
    second = stand.member(**small)
    stand.await_assigned(second)
    assert second.stop() == 0
    await_that("all partitions again", lambda: first.said('"event": "assigned"') > 1)
    stand.api.clear_faults()
    assert_one_result_each(stand.await_results(150), 150)


def test_a_suspended_member_sends_nothing_for_partitions_that_it_has_lost(stand: Stand) -> None:
    stand.api.add_fault({"action": "delay", "seconds": 0.1, "times": None})
    few = {"CONSUMER_CHUNK_RECORDS": "3", "CONSUMER_WORKERS": "1"}
    stopped = stand.member(**few)
    stand.await_assigned(stopped)
    stand.produce(*[order(f"R{n % 5}", "order:updated", totals={"order": n}) for n in range(60)])
    await_that("it is at work", lambda: len(stand.accepted()) > 5)
    stopped.signal(signal.SIGSTOP)
    stand.end_transaction_of(stopped)
    other = stand.member()
    await_that("the other has all", lambda: sum(stand.committed().values()) == 60)
    arrived = len(stand.api.events())
    stopped.signal(signal.SIGCONT)
    await_that(
        "it notices", lambda: stopped.said('"event": "rejoining"') > 0 or stopped.said('"event": "lost"') > 0
    )
    stand.produce(*[order(f"R{n % 5}", "order:updated", totals={"order": n}) for n in range(60, 90)])
    await_that("all is committed", lambda: sum(stand.committed().values()) == 90)
    for key in range(5):
        totals = stand.totals(f"R{key}")
        assert totals[-1] == 85.0 + key
        late = [event for event in stand.api.events(event_id=f"R{key}") if event.sequence > arrived]
        assert [event.body["total"] for event in late if isinstance(event.body, dict)] == sorted(
            totals[-len(late) :]
        )
    # It is a member as before, also alone. (The embedded broker may forget who joins while another leaves.)
    await_that("it is a member again", lambda: stopped.said('"event": "assigned"') > 1)
    assert other.stop() == 0
    stand.produce(*orders(10, start=100))
    await_that("it goes on", lambda: sum(stand.committed().values()) == 100)
    assert {f"R{number}" for number in range(100, 110)} <= numbers(stand)


def test_a_lost_writer_loses_no_record_and_does_not_make_the_member_rejoin(stand: Stand) -> None:
    member = stand.member()
    stand.await_assigned(member)
    stand.produce(*orders(40))
    stand.await_results(40)
    for lost in range(1, 5):
        stand.end_transaction_of(member)
        stand.produce(*orders(40, lost * 40))
        stand.await_results((lost + 1) * 40)
        assert member.said('"event": "writer_lost"') >= lost
    assert_one_result_each(stand.await_results(200), 200)
    assert member.said('"event": "assigned"') == 1
    assert member.said('"event": "rejoining"') == 0


def test_no_record_is_lost_while_the_broker_is_suspended(tmp_path: Path) -> None:
    with EmbeddedBroker() as broker, SandboxServer(Sandbox(credentials={TOKEN: [SITE]})) as api:
        stand = Stand(broker.bootstrap_servers, api, tmp_path)
        try:
            member = stand.member(KAFKA_TRANSACTION_TIMEOUT_MS="3000", KAFKA_SOCKET_TIMEOUT_MS="3000")
            stand.await_assigned(member)
            stand.produce(*orders(200))
            stand.await_results(20)
            broker.signal(signal.SIGSTOP)
            time.sleep(6)  # longer than the session and the commit may take
            broker.signal(signal.SIGCONT)
            stand.produce(*orders(50, start=200))
            await_that("all is committed", lambda: sum(stand.committed().values()) == 250)
            places = {(r["topic"], r["partition"], r["offset"]) for r in stand.await_results(250)}
            assert len(places) == 250
            assert member.status is None
        finally:
            broker.signal(signal.SIGCONT)
            stand.close()


def test_watermark_offsets_are_answered_quickly_while_a_fetch_waits(stand: Stand) -> None:
    consumer = stand.cluster.consumer(lambda _: None, lambda _: None)
    places = stand.order_places().values()
    consumer.assign([TopicPartition(place.topic, place.partition, 0) for place in places])
    consumer.poll(1)  # nothing is there: the broker holds the fetch back
    begun = time.monotonic()
    for place in list(places) * 6:
        assert consumer.get_watermark_offsets(place, 10) == (0, 0)
    assert time.monotonic() - begun < 0.4 * 6 * len(places)
    consumer.close()


def test_retry_after_is_obeyed_by_all_lanes(stand: Stand) -> None:
    stand.api.add_fault({"action": "status", "status": 429, "retry_after": "4", "times": None})
    member = stand.member()
    stand.await_assigned(member)
    stand.produce(*orders(30))
    await_that("it waits", lambda: member.said('"cause": "429"') > 0)
    time.sleep(1)  # four seconds are to be kept; by then none but the lanes' first requests came
    assert stand.api.faults()[0]["applied"] in range(1, 4)
    stand.api.clear_faults()
    assert {result["code"] for result in stand.await_results(30)} == {200}


@pytest.mark.parametrize(
    "fault",
    [
        {"action": "status", "status": 503},
        {"action": "status", "status": 404, "body": "<html>not here</html>"},
        {"action": "reset"},
        {"action": "delay", "seconds": 600},
    ],
)
def test_a_site_that_never_works_is_given_up_if_only_a_message_names_it(
    stand: Stand, fault: dict[str, object]
) -> None:
    stand.api.set_credentials({TOKEN: [SITE], "theirs": ["lost"]})
    stand.api.add_fault({**fault, "site": "lost", "times": None})
    lost = order("LOST", "order:updated")
    lost["parameters"] = {"jirafe.site_id": "lost", "jirafe.access_token": "theirs"}
    good = [order(f"R{number}", "order:updated") for number in range(30)]
    # All in one partition, so that nothing else shows that others are served.
    for document in (*good[:10], lost, *good[10:]):
        stand.produce_raw(b"one key", stand.codec.encode("order", to_message(document)))
    settings = {"CONSUMER_MAX_ATTEMPTS": "4", "CONSUMER_BACKOFF_LONGEST": "0.2", "JIRAFE_READ_TIMEOUT": "0.5"}
    member = stand.member(**settings)
    assert Counter(result["code"] for result in stand.await_results(31)) == {200: 30, 500: 1}
    (letter,) = stand.dead_letters()
    assert "for everything sent to this site, while other sites worked" in str(letter.headers)
    assert numbers(stand) == {f"R{number}" for number in range(30)}
    assert member.said("theirs") == 0


def test_a_long_outage_of_all_sites_makes_no_dead_letters(stand: Stand) -> None:
    stand.api.set_credentials({TOKEN: [SITE], "theirs": ["2"]})
    stand.api.add_fault({"action": "status", "status": 503, "times": None})
    theirs = order("THEIRS", "order:updated")
    theirs["parameters"] = {"jirafe.site_id": "2", "jirafe.access_token": "theirs"}
    settings = {"CONSUMER_MAX_ATTEMPTS": "2", "CONSUMER_BACKOFF_LONGEST": "0.05"}
    stand.produce(theirs, *orders(5))
    stand.member(**settings)
    await_that("a long outage", lambda: _applied(stand) > 100, within=180.0)
    stand.api.clear_faults()
    assert {result["code"] for result in stand.await_results(6)} == {200}
    assert stand.dead_letters() == []


def test_our_token_is_sent_only_to_the_sites_in_the_settings(stand: Stand) -> None:
    stand.api.set_credentials({TOKEN: [SITE, "allowed", "other"]})
    documents = [order(f"R{number}", "order:updated") for number in range(3)]
    for document, site in zip(documents, ["allowed", "other", SITE], strict=True):
        document["parameters"] = {"jirafe.site_id": site}
    stand.produce(*documents)
    stand.member(JIRAFE_SITES="allowed, another")
    assert Counter(result["code"] for result in stand.await_results(3)) == {200: 2, 500: 1}
    (letter,) = stand.dead_letters()
    assert letter.key == b"R1"
    assert "JIRAFE_SITES" in str(letter.headers)
    assert numbers(stand) == {"R0", "R2"}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_stays_within_its_bound_with_hostile_records_in_a_long_outage(stand: Stand) -> None:
    stand.api.add_fault({"action": "status", "status": 503, "times": None})
    member = stand.member(CONSUMER_BACKOFF_LONGEST="0.05")
    stand.await_assigned(member)
    images = [{"url": "x"}] * 50_000
    many = stand.codec.encode("order", to_message(order("R0", line_items=[line_item(variant={"images": images})])))
    small = stand.codec.encode("order", to_message(order("R0", "order:updated")))
    headers = [(f"h{number}", b"x" * 6_000) for number in range(10)]
    tiny = [("h", b"")] * 20_000
    hostile, large, ordinary = 40, 5_000, 5_000
    for number in range(hostile):
        stand.send_later(b"%d" % number, many)
        for _ in range(4):
            stand.send_later(b"%d" % number, small, tiny)
    topic = stand.settings.topics_by_kind["product"]
    of_product = [
        product("P0", name="x" * 400_000, variants=[{"sku": "v"}] * 4_000),  # each variant's event repeats the name
        product("P0", variants=[{"sku": "v"}] * 2_000),
    ]
    for document in of_product * 10:
        stand.send_later(b"P0", stand.codec.encode("product", to_message(document)), topic=topic)
    for number in range(large):
        stand.send_later(b"%d" % number, small, headers)
    for number in range(ordinary):
        stand.send_later(b"%d" % number, small)
    stand.flush()
    await_that("a long outage", lambda: _applied(stand) > 100, within=180.0)
    assert _most_memory(member) < MEMORY_MIB
    assert {topic for topic, _ in stand.committed()} <= {topic}  # a product that can't be sent need not wait
    stand.api.clear_faults()
    count = 5 * hostile + large + ordinary + 20
    await_that("all is committed", lambda: sum(stand.committed().values()) == count, within=180.0)
    assert _most_memory(member) < MEMORY_MIB
    assert {letter.key for letter in stand.dead_letters()} == {b"P0"}
    assert len(stand.dead_letters()) == 10


def _most_memory(member: CommandProcess) -> float:
    """Give the most memory that a member has had so far, in MiB."""
    status = Path(f"/proc/{member.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _applied(stand: Stand) -> int:
    applied = stand.api.faults()[0]["applied"]
    assert isinstance(applied, int)
    return applied


def test_a_member_waits_for_the_registry_and_an_unknown_id_is_a_dead_letter(
    stand: Stand, registry_server: RegistryServer
) -> None:
    codec = Codec(registry_server.registry())
    value = codec.encode("order", to_message(order("R1", "order:updated")))
    registry_server.page = (503, b"<html>down</html>")
    stand.produce_raw(b"R1", value)
    stand.produce_raw(b"R2", b"\x00\x00\x00\x03\xe7" + value[5:])
    member = stand.member(CONSUMER_SCHEMA_REGISTRY_URL=registry_server.url)
    await_that("it waits", lambda: member.said('"on": "schema registry"') > 0)
    assert stand.committed() == {}
    registry_server.page = None
    await_that("all is committed", lambda: sum(stand.committed().values()) == 2)
    (letter,) = stand.dead_letters()
    assert letter.key == b"R2"
    results = [codec.decode(record.value) for record in stand.records("results") if record and record.value]
    assert Counter(result["code"] for result in results) == {200: 1, 500: 1}
    assert member.said('"event": "resumed"') > 0


@pytest.mark.real_broker("static members are fenced")
def test_a_replaced_static_member_ends_with_a_clear_error(stand: Stand) -> None:
    static = {"KAFKA_GROUP_INSTANCE_ID": "consumer-0"}
    first = stand.member(**static)
    stand.await_assigned(first)
    second = stand.member(**static)
    stand.await_assigned(second)
    stand.produce(*orders(20))
    await_that("the first ends", lambda: first.status is not None)
    assert first.status == 1
    last = first.log.read_text().splitlines()[-1]
    assert '"event": "fatal"' in last
    assert "consumer-0 is in the group already: jirafe-consumer-" in last
    await_that("all is committed", lambda: sum(stand.committed().values()) == 20)


def test_all_dead_letters_are_counted_in_a_few_log_lines(stand: Stand) -> None:
    for index in range(40):
        stand.produce_raw(f"k{index}".encode(), GARBAGE)
    stand.produce(*(order(f"R{index}", totals={"order": -1}) for index in range(3)))
    member = stand.member(CONSUMER_CHUNK_RECORDS="5")
    stand.await_results(43)
    assert member.stop() == 0
    lines = [json.loads(line) for line in member.log.read_text().splitlines() if '"event": "dead_letters"' in line]
    counted: Counter[str] = Counter()
    for line in lines:
        counted[line["kind"]] += line["count"]
        assert line["place"].startswith(stand.orders_topic)
        assert line["reason"]
    assert counted == {"undecodable": 40, "rejected": 3}
    assert len(lines) <= 4  # at once, and at the stop
