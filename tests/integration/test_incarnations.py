"""Recreated topics and truncated logs: the loss is reported, and no new record is skipped."""

import signal
import time

import pytest
import requests
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from consumer.demo.processes import CommandProcess, await_that, free_port
from schemas.hub import to_message
from tests.integration.test_service import assert_one_result_each, orders
from tests.stand import Stand

pytestmark = pytest.mark.real_broker("topics are deleted, and logs cut, as Kafka does it")


def reasons(port: str) -> list[str]:
    found: list[str] = requests.get(f"http://127.0.0.1:{port}/readyz", timeout=10).json()["reasons"]
    return found


def delete_and_create_again(stand: Stand) -> None:
    admin = stand.cluster.make_admin("test")
    for deleted in admin.delete_topics([stand.orders_topic]).values():
        deleted.result(30)
    create_again(stand, admin)


def create_again(stand: Stand, admin: AdminClient) -> None:
    def is_created() -> bool:
        try:
            for created in admin.create_topics([NewTopic(stand.orders_topic, 3, 1)]).values():
                created.result(30)
        except KafkaException:
            return False  # the old one is not gone yet
        return True

    await_that("it is created again", is_created)


def started(stand: Stand) -> tuple[CommandProcess, str]:
    port = str(free_port())
    member = stand.member(CONSUMER_HTTP_ADDRESS=port)
    stand.await_assigned(member)
    return member, port


@pytest.mark.parametrize("count", [30, 500])
def test_a_topic_created_again_under_a_running_member_is_read_from_its_beginning(stand: Stand, count: int) -> None:
    member, port = started(stand)
    stand.produce(*orders(200))
    stand.await_results(200)
    delete_and_create_again(stand)
    stand.produce(*orders(count, 200))
    stand.await_results(200 + count)
    stand.produce(*orders(20, 1000))
    results = stand.await_results(220 + count)
    places = [(result["topic"], result["partition"], result["offset"], result["timestamp"]) for result in results]
    assert len(set(places)) == len(places) == 220 + count
    reason = f"{stand.orders_topic} was deleted and created again"
    await_that("it says so", lambda: reason in "".join(reasons(port)))
    member.signal(signal.SIGHUP)
    await_that("it is ready", lambda: reasons(port) == [])
    assert member.said('"event": "losses_acknowledged"') == 1
    metrics = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    assert f'jirafe_consumer_losses_total{{topic="{stand.orders_topic}"}} 1.0' in metrics


def test_an_offset_committed_for_the_deleted_topic_is_not_used_for_the_new_one(stand: Stand) -> None:
    """A member that finishes records of a deleted topic commits their offsets, and may end before it notices."""
    member, _ = started(stand)
    stand.produce(*orders(60))
    stand.await_results(60)
    await_that("all is committed", lambda: sum(stand.committed().values()) == 60)
    assert member.stop() == 0
    admin = stand.cluster.make_admin("test")
    [asked] = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(stand.cluster.group)]).values()
    late = [each for each in asked.result(30).topic_partitions or [] if each.topic == stand.orders_topic]
    assert all(each.metadata for each in late)
    delete_and_create_again(stand)
    stand.produce(*orders(90, 60))
    stand.commit(late)
    member, port = started(stand)
    stand.await_results(150)
    assert {number for _, _, number in stand.accepted()} == {f"R{number}" for number in range(150)}
    reason = f"{stand.orders_topic} was deleted and created again"
    await_that("it says so", lambda: reason in "".join(reasons(port)))


def test_records_of_a_recreated_topic_may_have_the_timestamps_of_the_old_ones(stand: Stand) -> None:
    """A producer may give all records the same timestamp: that of a day, of a file, or none at all."""
    member, _ = started(stand)
    now = int(time.time() * 1000)

    def produce(first: int, count: int) -> None:
        producer = stand.cluster.make_producer(stand.cluster.client_properties("test"))
        for document in orders(count, first):
            value = stand.codec.encode("order", to_message(document))
            producer.produce(stand.orders_topic, value, b"key", 0, timestamp=now)
        assert producer.flush(30) == 0

    produce(0, 60)
    stand.await_results(60)
    delete_and_create_again(stand)
    produce(60, 90)
    stand.await_results(150)
    assert {number for _, _, number in stand.accepted()} == {f"R{number}" for number in range(150)}
    assert member.said('"event": "records_lost"') == 1


def test_records_deleted_before_they_were_read_are_counted_and_reported(stand: Stand) -> None:
    member, _ = started(stand)
    stand.produce(*orders(60))
    stand.await_results(60)
    assert member.stop() == 0
    stand.produce(*orders(90, 60))
    admin = stand.cluster.make_admin("test")
    cut = {number: offset + 7 for (_, number), offset in stand.committed().items()}
    requests_ = [TopicPartition(stand.orders_topic, number, offset) for number, offset in cut.items()]
    for deleted in admin.delete_records(requests_).values():
        deleted.result(30)
    member, port = started(stand)
    results = stand.await_results(150 - 21)
    assert_one_result_each(results, 150 - 21)
    await_that("it says so", lambda: len(reasons(port)) == 3)
    assert all(
        "7 records were deleted before they were read; SIGHUP acknowledges it" in each for each in reasons(port)
    )
    assert member.said('"records": 7') == 3
    metrics = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    assert f'jirafe_consumer_records_lost_total{{topic="{stand.orders_topic}"}} 21.0' in metrics


def test_a_deleted_topic_is_reported_until_it_exists_again(stand: Stand) -> None:
    _, port = started(stand)
    stand.produce(*orders(30))
    stand.await_results(30)
    admin = stand.cluster.make_admin("test")
    for deleted in admin.delete_topics([stand.orders_topic]).values():
        deleted.result(30)
    await_that("it says so", lambda: f"the topic {stand.orders_topic} can't be read" in "".join(reasons(port)))
    create_again(stand, admin)
    await_that("it is read again", lambda: "can't be read" not in "".join(reasons(port)))


def test_missing_committed_offsets_are_logged_for_each_partition(stand: Stand) -> None:
    member, _ = started(stand)
    stand.produce(*orders(60))
    stand.await_results(60)
    assert member.stop() == 0
    admin = stand.cluster.make_admin("test")
    [deleted] = admin.delete_consumer_groups([stand.cluster.group]).values()
    deleted.result(30)
    member, _ = started(stand)
    await_that("all is delivered again", lambda: len(stand.results()) == 120)
    assert member.said('"event": "no_committed_offset"') == 3
