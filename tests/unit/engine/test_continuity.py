"""Committed records while the brokers do not say whether the topic is still the same."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Uuid
from confluent_kafka.admin import AclOperation, TopicDescription

from consumer.engine.continuity import Continuity
from consumer.engine.ports import Hooks
from tests.unit.engine.scripted import TRANSIENT, A, HandClock, capture, outputs, record


def made(clock: HandClock, identities: list[int | None]) -> Continuity:
    """Make the brokers answer with one topic id after the other; None for no answer."""

    def ask(topics: Sequence[str]) -> Mapping[str, Future[TopicDescription]]:
        future: Future[TopicDescription] = Future()
        identity = identities.pop(0)
        if identity is None:
            future.set_exception(KafkaException(TRANSIENT))
        else:
            future.set_result(
                TopicDescription(topics[0], Uuid(identity, identity), is_internal=False, partitions=[])
            )
        return {topics[0]: future}

    log, _ = capture()
    return Continuity([A.topic], ask, False, Hooks(), clock, log)  # noqa: FBT003 - as the member makes it


def noticed(subject: Continuity) -> bool:
    """Continue to watch. Returns whether the topic was created again since the last time."""
    before = subject.identity(A.topic)
    subject.watch((), lacks_ids=False)
    return before != "" and subject.identity(A.topic) != before


def test_only_records_committed_since_the_last_answer_count_as_done_in_the_new_topic() -> None:
    clock = HandClock()
    subject = made(clock, [1, 1, 2, 2])
    for offset in range(3):
        noticed(subject)
        subject.committed(outputs([record(offset)]))
        clock.now += 5
    while not noticed(subject):
        clock.now += 5
    subject.close([A])
    subject.starts_over(A)
    assert [subject.is_done(record(offset)) for offset in range(4)] == [False, True, True, False]
    assert not subject.is_done(record(1))  # only once: then it is forgotten


def test_records_committed_while_the_old_topic_is_finished_count_as_done() -> None:
    clock = HandClock()
    subject = made(clock, [1, *[2] * 100])
    noticed(subject)
    clock.now += 5
    while not noticed(subject):
        clock.now += 5
    subject.close([A])
    for offset in range(50):
        subject.committed(outputs([record(offset)]))
        clock.now += 5
        assert not noticed(subject)
    subject.starts_over(A)
    subject.committed(outputs([record(50)]))
    assert [subject.is_done(record(offset)) for offset in range(51)] == [True] * 50 + [False]


@pytest.mark.parametrize("changed", [{"timestamp": 7}, {"key": b"other"}, {"value": b"other"}, {"value": None}])
def test_a_record_with_another_timestamp_key_or_value_is_another_record(changed: dict[str, Any]) -> None:
    clock = HandClock()
    subject = made(clock, [1, 2])
    noticed(subject)
    subject.committed(outputs([record(0)]))
    clock.now += 5
    while not noticed(subject):
        pass
    subject.close([A])
    subject.starts_over(A)
    assert not subject.is_done(record(0)._replace(**changed))


def test_an_unreadable_topic_is_named_until_it_can_be_read() -> None:
    clock, answers = HandClock(), list[TopicDescription | KafkaError]()

    def ask(topics: Sequence[str]) -> Mapping[str, Future[TopicDescription]]:
        futures: dict[str, Future[TopicDescription]] = {topic: Future() for topic in topics}
        answer = answers.pop(0)
        for future in futures.values():
            if isinstance(answer, KafkaError):
                future.set_exception(KafkaException(answer))
            else:
                future.set_result(answer)
        return futures

    def described(*allowed: AclOperation) -> TopicDescription:
        return TopicDescription(
            A.topic, Uuid(1, 1), is_internal=False, partitions=[], authorized_operations=list(allowed)
        )

    log, _ = capture()
    subject = Continuity([A.topic], ask, False, Hooks(), clock, log)  # noqa: FBT003 - as the member makes it

    def said(answer: TopicDescription | KafkaError) -> list[str]:
        answers.append(answer)
        clock.now += 5
        subject.watch([A.topic, "of-a-pattern"], lacks_ids=False)
        subject.watch([A.topic], lacks_ids=False)
        return list(subject.unreadable.values())

    readable = described(AclOperation.READ, AclOperation.DESCRIBE)
    begins = f"the topic {A.topic} can't be read: "
    for code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED):
        assert said(KafkaError(code)) == [begins + KafkaError(code).str()]
        assert said(TRANSIENT) == [begins + KafkaError(code).str()]  # nothing new is known
        assert said(readable) == []
    assert said(described(AclOperation.DESCRIBE)) == [f"{begins}this client is not allowed to read it"]
    assert said(readable) == []


def test_memory_does_not_grow_while_the_topic_is_not_described() -> None:
    clock = HandClock()
    subject = made(clock, [1, *[None] * 500])
    for offset in range(500):
        noticed(subject)
        subject.committed(outputs([record(offset)]))
        clock.now += 5
    subject.close([A])
    subject.starts_over(A)
    assert sum(subject.is_done(record(offset)) for offset in range(500)) <= 2
