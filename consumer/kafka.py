"""Kafka beside the main loop: reach the broker, have the topics, make clients."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from consumer.log import LibraryLog
from consumer.record import Record
from consumer.settings import Settings

_REACH_TIMEOUT = 10.0


class Unusable(Exception):
    """Kafka can't be used as it is set up; the sentence says what is wrong and how to mend it."""


def make_consumer(config: Mapping[str, Any], log: LibraryLog, **callbacks: Callable[..., None]) -> Consumer:
    """Make a consumer of these properties; raises Unusable."""
    consumer: Consumer = _made(Consumer, {**config, **callbacks}, log)
    return consumer


def make_producer(config: Mapping[str, Any], log: LibraryLog, **callbacks: Callable[..., None]) -> Producer:
    """Make a producer of these properties; raises Unusable."""
    producer: Producer = _made(Producer, {**config, **callbacks}, log)
    return producer


def make_admin(config: Mapping[str, Any], log: LibraryLog) -> AdminClient:
    """Make a client that asks for and changes what is about topics and groups; raises Unusable."""
    admin: AdminClient = _made(AdminClient, config, log)
    return admin


def _made(kind: Any, config: Mapping[str, Any], log: LibraryLog) -> Any:
    try:
        return kind(dict(config), logger=log)
    except KafkaException as error:
        said = error.args[0].str()
        name = next((name for name in sorted(config, key=len, reverse=True) if f'"{name}"' in said), "")
        setting = f"KAFKA_{name.upper().replace('.', '_')}" if name else "a KAFKA_* setting"
        raise Unusable(f"{setting} is wrong: {said}.") from None


def prepare_topics(settings: Settings, topics: Iterable[str], log: LibraryLog) -> list[str]:
    """Reach the broker and create the topics that are absent; gives those created. Raises Unusable."""
    admin = make_admin(settings.common, log)
    servers = settings.kafka["bootstrap.servers"]
    try:
        present = admin.list_topics(timeout=_REACH_TIMEOUT).topics
    except KafkaException as error:
        raise Unusable(
            f"no Kafka broker answers at {servers} ({error.args[0].str()}); set KAFKA_BOOTSTRAP_SERVERS."
        ) from None
    absent = [topic for topic in topics if topic not in present]
    if not absent:
        return []
    stream = settings.stream
    if not stream.create_topics:
        raise Unusable(
            f"topics are absent at {servers}: {', '.join(absent)}; create them, or set CONSUMER_CREATE_TOPICS=true."
        )
    new = [NewTopic(topic, stream.topic_partitions, stream.topic_replication) for topic in absent]
    created = []
    for topic, future in admin.create_topics(new, operation_timeout=_REACH_TIMEOUT).items():
        try:
            future.result()
            created.append(topic)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise Unusable(
                    f"the topic {topic} is absent and can't be created: {error.args[0].str()}."
                ) from None
    return created


def to_record(message: Any) -> Record:
    """Take what Kafka handed over."""
    headers = message.headers()
    return Record(
        message.topic(),
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        tuple(headers) if headers else (),
    )
