"""What only a real Kafka can show: transactions, fencing, brokers that go away, and its own command-line tools."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from brokers.apache import ApacheKafka, java_command
from consumer.demo.processes import await_that, free_port
from consumer.engine.kafka import LibraryLog
from consumer.errors import BrokerUnavailable
from jirafe.sandbox import Sandbox, SandboxServer
from schemas.hub import to_message
from tests.command import run
from tests.integration.test_service import assert_one_result_each, orders
from tests.messages import cart, order
from tests.stand import SITE, TOKEN, Stand

pytestmark = pytest.mark.real_broker("transactions, fencing, its own tools")

_GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """Three brokers of our own, which may be restarted."""
    try:
        kafka = ApacheKafka(tmp_path_factory.mktemp("cluster"), nodes=3)
    except BrokerUnavailable as error:
        pytest.skip(str(error))
    with kafka:
        yield kafka


@pytest.fixture
def on_three(cluster: ApacheKafka, tmp_path: Path) -> Iterator[Stand]:
    with SandboxServer(Sandbox(credentials={TOKEN: [SITE]})) as api:
        stand = Stand(cluster.bootstrap_servers, api, tmp_path)
        try:
            yield stand
        finally:
            stand.close()


@pytest.fixture
def groups_tool(stand: Stand) -> Callable[..., str]:
    """Kafka's own `kafka-consumer-groups`, for the stand's group."""
    group = stand.environment["KAFKA_GROUP_ID"]

    def run(*arguments: str, of_group: bool = True) -> str:
        servers = stand.environment["KAFKA_BOOTSTRAP_SERVERS"]
        try:
            command = java_command(_GROUPS, "--bootstrap-server", servers, *arguments)
        except BrokerUnavailable as error:
            pytest.skip(f"kafka-consumer-groups can't be read: {error}")
        done = subprocess.run(
            [*command, *(["--group", group] if of_group else [])], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def in_transaction(stand: Stand, numbers: range, *, commit: bool) -> None:
    """Produce orders as a transactional producer does."""
    producer = Producer(
        {"bootstrap.servers": stand.environment["KAFKA_BOOTSTRAP_SERVERS"], "transactional.id": stand.orders_topic},
        logger=LibraryLog(),
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    for number in numbers:
        message = to_message(order(f"R{number}", "order:updated"))
        producer.produce(stand.orders_topic, stand.codec.encode("order", message), f"R{number}".encode())
    if commit:
        producer.commit_transaction(30)
    else:
        producer.flush(30)
        producer.abort_transaction(30)


def ends(stand: Stand) -> dict[int, int]:
    """The end offsets of the orders topic, the markers of transactions counted."""
    client = stand.reader()
    try:
        return {
            number: client.get_watermark_offsets(place, 10)[1] for number, place in stand.order_places().items()
        }
    finally:
        client.close()


def test_aborted_records_are_not_delivered_and_markers_leave_no_lag(stand: Stand) -> None:
    in_transaction(stand, range(10), commit=False)
    in_transaction(stand, range(10, 20), commit=True)
    stand.member()
    assert_one_result_each(stand.await_results(10), 10)
    assert {number for _, _, number in stand.accepted()} == {f"R{number}" for number in range(10, 20)}

    def lag_free() -> bool:
        committed = {number: offset for (topic, number), offset in stand.committed().items() if "orders" in topic}
        return committed == ends(stand)

    await_that("the group has no lag", lag_free)
    in_transaction(stand, range(20, 30), commit=False)
    carts = 0

    def lag_free_beside_others() -> bool:
        nonlocal carts
        stand.produce(cart(f"C{carts}"))
        carts += 1
        return lag_free()

    await_that("nor after an aborted transaction, while others are busy", lag_free_beside_others)
    assert_one_result_each(stand.await_results(10 + carts), 10 + carts)


def test_a_killed_member_writes_no_result_twice(stand: Stand) -> None:
    stand.produce(*orders(400))
    quick = {"CONSUMER_CHUNK_RECORDS": "1", "KAFKA_TRANSACTION_TIMEOUT_MS": "2500"}
    for results in (30, 60, 90):
        member = stand.member(**quick)
        await_that("it commits", lambda least=results: sum(stand.committed().values()) >= least)  # type: ignore[misc]
        member.signal(signal.SIGKILL)
        member.wait()
    stand.member(**quick)
    assert_one_result_each(stand.await_results(400), 400)
    assert {number for _, _, number in stand.accepted()} == {f"R{number}" for number in range(400)}


def test_a_zombie_cannot_commit(stand: Stand) -> None:
    stand.produce(*orders(60))
    # Its answers come when it is a zombie: it has results in hand then, and may not publish them.
    stand.api.add_fault({"action": "delay", "seconds": 2, "times": 3})
    zombie = stand.member()
    await_that("requests at the API", lambda: stand.api.faults()[0]["applied"] == 3)
    zombie.signal(signal.SIGSTOP)
    stand.member()
    assert_one_result_each(stand.await_results(60), 60)
    zombie.signal(signal.SIGCONT)
    await_that("it notices", lambda: zombie.said('"event": "rejoining"') > 0 or zombie.said('"event": "lost"') > 0)
    stand.produce(*orders(30, start=60))
    await_that("all is committed", lambda: sum(stand.committed().values()) == 90)
    assert_one_result_each(stand.await_results(90), 90)


def test_no_record_is_lost_while_each_of_three_brokers_restarts(cluster: ApacheKafka, on_three: Stand) -> None:
    stand = on_three
    members = [stand.member(CONSUMER_CHUNK_RECORDS="5", KAFKA_TRANSACTION_TIMEOUT_MS="12000") for _ in range(2)]
    stand.await_assigned(members[0])
    produced = 0

    def flow(count: int) -> None:
        nonlocal produced
        stand.produce(*orders(count, start=produced))
        produced += count

    for node in range(3):
        flow(100)
        await_that("it is at work", lambda: sum(stand.committed().values()) > produced - 100)
        # Each node is in turn the coordinator of the group, of transactions, and the leader of partitions.
        cluster.restart(kindly=node == 1, node=node)
        flow(100)
    assert_one_result_each(stand.await_results(produced), produced)
    assert {number for _, _, number in stand.accepted()} == {f"R{number}" for number in range(produced)}
    assert stand.dead_letters() == []
    for key in range(0, produced, 50):
        assert stand.totals(f"R{key}")


def test_nothing_is_committed_while_too_few_replicas_are_in_sync(cluster: ApacheKafka, on_three: Stand) -> None:
    stand = on_three
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers}, logger=LibraryLog())
    results = NewTopic(stand.settings.stream.results_topic, 3, 3, config={"min.insync.replicas": "3"})
    admin.create_topics([results])[results.topic].result()
    cluster.stop_node(2, kindly=False)
    try:
        stand.produce(*orders(20))
        member = stand.member(KAFKA_TRANSACTION_TIMEOUT_MS="6000", KAFKA_MESSAGE_TIMEOUT_MS="4000")
        await_that("events are delivered", lambda: bool(stand.accepted()))
        # The broker can't even abort then: the member stays in its group, and tries with new writers until it can.
        await_that("no result can be written", lambda: member.said('"event": "writer_lost"') > 1)
        assert member.said('"event": "rejoining"') == 0
        assert sum(stand.committed().values()) == len(stand.results()) == 0
    finally:
        cluster.start()
    assert_one_result_each(stand.await_results(20), 20)
    await_that("all is committed", lambda: sum(stand.committed().values()) == 20)
    assert {number for _, _, number in stand.accepted()} == {f"R{number}" for number in range(20)}


def test_a_partition_without_a_leader_is_named_by_its_member_and_by_commands(
    cluster: ApacheKafka, on_three: Stand
) -> None:
    stand = on_three
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers}, logger=LibraryLog())
    topic = NewTopic(f"{stand.orders_topic}-few", 3, replica_assignment=[[1], [2], [3]])
    # All results go to a partition that has no leader once the second broker is stopped.
    results = NewTopic(stand.settings.stream.results_topic, 1, replica_assignment=[[2]])
    for created in admin.create_topics([topic, results]).values():
        created.result()
    port = str(free_port())
    environment = {**stand.environment, "CONSUMER_ORDERS_TOPIC": topic.topic}
    member = stand.member(CONSUMER_ORDERS_TOPIC=topic.topic, CONSUMER_HTTP_ADDRESS=port)
    stand.await_assigned(member)

    def reasons() -> list[str]:
        found: list[str] = requests.get(f"http://127.0.0.1:{port}/readyz", timeout=10).json()["reasons"]
        return found

    await_that("it is ready", lambda: reasons() == [])
    cluster.stop_node(1, kindly=False)
    try:
        await_that("it names the partition", lambda: f"{topic.topic}/1 has no leader" in reasons())
        # A little later than it is named: the lane may be working on records that it has.
        await_that(
            "it is counted",
            lambda: (
                'jirafe_consumer_lanes{state="leaderless"} 1.0'
                in requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
            ),
        )
        for number in range(30):
            value = stand.codec.encode("order", to_message(order(f"R{number}", "order:updated")))
            stand.send_later(b"%d" % number, value, topic=topic.topic)
        await_that("it names that of results", lambda: f"{results.topic}/0 has no leader" in "".join(reasons()))
        lag = run("lag", "--json", **environment)
        assert lag.returncode == 1
        assert json.loads(lag.stdout)["leaderless"] == [f"{topic.topic}/1"]
        partitions = {f"{each['topic']}/{each['partition']}" for each in json.loads(lag.stdout)["partitions"]}
        assert {f"{topic.topic}/0", f"{topic.topic}/2"} <= partitions
        audit = run("audit", "--topic", topic.topic, **environment)
        assert audit.returncode == 2
        assert f"{topic.topic}/1 has no leader" in audit.stderr
        assert "no Kafka broker answers" not in audit.stderr
    finally:
        cluster.start()
    await_that("it is ready again", lambda: reasons() == [])


@pytest.mark.timeout(240)
def test_a_log_truncated_by_an_unclean_election_is_noticed_after_it_has_grown_again(
    cluster: ApacheKafka, on_three: Stand
) -> None:
    """The next offset exists again, with another record. The offset alone does not show the loss."""
    stand = on_three
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers}, logger=LibraryLog())
    admin.delete_topics([stand.orders_topic])[stand.orders_topic].result()
    config = {"min.insync.replicas": "1", "unclean.leader.election.enable": "true"}
    topic = NewTopic(stand.orders_topic, 1, replica_assignment=[[1, 2]], config=config)

    def is_created() -> bool:
        try:
            admin.create_topics([topic])[topic.topic].result()
        except KafkaException:
            return False  # the old one is not gone yet
        return True

    def produce(numbers: range) -> None:
        # A new client each time: one that knows the stopped brokers would wait for them.
        producer = Producer({"bootstrap.servers": cluster.bootstrap_servers}, logger=LibraryLog())
        refused: list[KafkaError] = []
        for number in numbers:
            message = to_message(order(f"R{number}", "order:updated"))
            producer.produce(
                topic.topic,
                stand.codec.encode("order", message),
                partition=0,
                on_delivery=lambda error, _message: refused.append(error) if error else None,
            )
        assert producer.flush(60) == 0
        assert refused == []

    def in_sync() -> list[int]:
        try:
            return admin.list_topics(topic.topic, 10).topics[topic.topic].partitions[0].isrs
        except KafkaException:
            return []  # the broker that was asked is gone

    await_that("the topic is created", is_created)
    # It keeps its partitions meanwhile: the library compares epochs only of a position that it has read up to.
    member = stand.member(KAFKA_SESSION_TIMEOUT_MS="60000")
    produce(range(20))
    stand.await_results(20)
    try:
        cluster.stop_node(1, kindly=False)
        await_that("one replica is in sync", lambda: in_sync() == [1])
        produce(range(20, 50))
        stand.await_results(50)
        cluster.stop_node(0, kindly=False)
        cluster.start_node(1)
        await_that("the other replica leads", lambda: in_sync() == [2], within=120)
        produce(range(50, 110))
        await_that("it says so", lambda: member.said("it was truncated or created again") > 0)
    finally:
        cluster.start()
    stand.await_results(50 + 80)
    assert {number for _, _, number in stand.accepted()} == {f"R{number}" for number in range(110)}


def test_kafka_consumer_groups_lists_describes_and_resets_the_group(
    stand: Stand, groups_tool: Callable[..., str]
) -> None:
    stand.produce(*orders(30))
    member = stand.member()
    stand.await_results(30)
    before = datetime.now(UTC)
    time.sleep(0.01)  # so that no record has the very millisecond
    stand.produce(*orders(30, start=30))
    stand.await_results(60)
    await_that("all is committed", lambda: sum(stand.committed().values()) == 60)
    assert stand.environment["KAFKA_GROUP_ID"] in groups_tool("--list", of_group=False).split()
    described = groups_tool("--describe")
    rows = [row.split() for row in described.splitlines() if stand.orders_topic in row]
    assert {row[5] for row in rows} == {"0"}, described  # LAG
    assert all(re.match(r"jirafe-consumer-", row[8]) for row in rows), described  # CLIENT-ID
    assert member.stop() == 0

    when = before.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
    groups_tool("--reset-offsets", "--topic", stand.orders_topic, "--to-datetime", when, "--execute")
    member = stand.member()
    await_that("the second half again", lambda: sum(stand.committed().values()) == 60)
    await_that("its results", lambda: len(stand.results()) == 90)
    assert len(stand.totals("R10")) == 1
    assert {len(stand.totals(f"R{number}")) for number in range(30, 60)} == {2}
    assert member.stop() == 0

    groups_tool("--reset-offsets", "--topic", f"{stand.orders_topic}:0", "--to-offset", "5", "--execute")
    stand.member()
    await_that("all is committed", lambda: sum(stand.committed().values()) == 60)
    again = [result for result in stand.await_results(91) if result["partition"] == 0]
    most = max(result["offset"] for result in again)
    assert sum(result["offset"] == most for result in again) >= 2
    assert sum(result["offset"] == 4 for result in again) < sum(result["offset"] == 5 for result in again)
