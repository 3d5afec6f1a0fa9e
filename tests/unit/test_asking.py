"""Brokers that can't answer yet are asked again, and only those."""

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from consumer.admin import asking
from consumer.admin.asking import answered
from consumer.admin.lag import Looker
from consumer.errors import KafkaUnusable
from tests.unit.shelf import ORDERS, Shelf, ShelfAdmin

PASSING = [
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._NOENT,
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
]
LASTING = [KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED]


class Broker:
    """Answers with an error this many times."""

    def __init__(self, code: int, times: int) -> None:
        self.error, self.left, self.asked = KafkaException(KafkaError(code)), times, 0

    def __call__(self) -> str:
        self.asked += 1
        if self.asked <= self.left:
            raise self.error
        return "here"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_PAUSE", 0.001)


@pytest.mark.parametrize("code", PASSING)
def test_a_transient_error_is_retried(code: int) -> None:
    broker = Broker(code, 3)
    assert (answered(broker), broker.asked) == ("here", 4)


@pytest.mark.parametrize("code", LASTING)
def test_a_permanent_error_is_raised_at_once(code: int) -> None:
    broker = Broker(code, 3)
    with pytest.raises(KafkaException):
        answered(broker)
    assert broker.asked == 1


def test_a_transient_error_is_raised_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "REACHED_WITHIN", 0.05)
    broker = Broker(KafkaError.NOT_LEADER_FOR_PARTITION, 10_000)
    with pytest.raises(KafkaException):
        answered(broker)
    assert broker.asked > 1


class Failed:
    """The answer of a broker that does not lead the partition."""

    def __init__(self, code: int) -> None:
        self.code = code

    def result(self) -> SimpleNamespace:
        raise KafkaException(KafkaError(self.code))


def looker(monkeypatch: pytest.MonkeyPatch, code: int, times: int) -> Looker:
    """Look at two partitions. The leader of the second answers with this error this many times."""
    given, left = ShelfAdmin.list_offsets, [times]

    def list_offsets(self: ShelfAdmin, asked: Any, **further: Any) -> dict[Any, Any]:
        answers = given(self, asked, **further)
        for place in answers:
            if place.partition == 1 and left[0]:
                left[0] -= 1
                answers[place] = Failed(code)
        return answers

    monkeypatch.setattr(ShelfAdmin, "list_offsets", list_offsets)
    shelf = Shelf(partitions=2)
    for _ in range(3):
        shelf.add(ORDERS, b"no Avro")
    return Looker(shelf.deployment())


def test_offsets_are_looked_up_even_if_a_leader_has_just_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    look = looker(monkeypatch, KafkaError.NOT_LEADER_FOR_PARTITION, 3).look()
    assert [(each.partition, each.end) for each in look.lags] == [(0, 3), (1, 0)]


def test_a_partition_whose_offsets_cant_be_looked_up_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        KafkaUnusable, match=r"the offsets of orders/1 can't be read: Broker: Topic authorization failed"
    ):
        looker(monkeypatch, KafkaError.TOPIC_AUTHORIZATION_FAILED, 1).look()
