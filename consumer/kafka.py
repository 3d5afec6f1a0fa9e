"""Kafka beside the main loop: reach the broker, have the topics, make clients."""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, TopicMetadata
from confluent_kafka.cimpl import NewTopic

from consumer.log import LibraryLog
from consumer.record import Record
from consumer.settings import LARGEST_LETTER, Settings

_REACH_TIMEOUT = 10.0
_REACH_TRY = 1.0
_REFUSALS = (KafkaError._AUTHENTICATION, KafkaError._SSL)


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
    """Make an admin client of these properties; raises Unusable."""
    admin: AdminClient = _made(AdminClient, config, log)
    return admin


def _made(kind: Any, config: Mapping[str, Any], log: LibraryLog) -> Any:
    try:
        return kind(dict(config), logger=log)
    except KafkaException as error:
        said = error.args[0].str()
        name = next((name for name in config if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", said)), "")
        setting = f"KAFKA_{name.upper().replace('.', '_')}" if name else "a KAFKA_* setting"
        raise Unusable(f"{setting} is wrong: {said}.") from None


def reach(settings: Settings, log: LibraryLog) -> tuple[AdminClient, dict[str, TopicMetadata]]:
    """Reach the broker: gives a client for what is about topics and groups, and all topics; raises Unusable.

    All topics, since to ask for one that is absent may create it. Blocks up to some seconds.
    """
    faults: list[KafkaError] = []
    admin: AdminClient = _made(AdminClient, {**settings.client("admin"), "error_cb": faults.append}, log)
    end = time.monotonic() + _REACH_TIMEOUT
    while True:
        try:
            return admin, admin.list_topics(timeout=_REACH_TRY).topics
        except KafkaException as error:
            admin.poll(0)  # only now is the callback told what the library found
            last = error.args[0]
        refusal = next((fault for fault in faults if fault.code() in _REFUSALS), None)
        if refusal or time.monotonic() > end:
            told = [fault for fault in faults if fault.code() != KafkaError._ALL_BROKERS_DOWN]
            raise unreachable(settings, refusal or (told[-1] if told else last))


def unreachable(settings: Settings, error: KafkaError) -> Unusable:
    """Say why no broker answers, and what to look at."""
    servers = settings.kafka["bootstrap.servers"]
    match error.code():
        case KafkaError._AUTHENTICATION:
            trouble = f"the Kafka broker at {servers} refuses our credentials"
            mend = "check KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
        case KafkaError._SSL:
            trouble = f"no TLS connection to the Kafka broker at {servers}"
            mend = "check KAFKA_SECURITY_PROTOCOL and KAFKA_SSL_CA_LOCATION"
        case _:
            trouble = f"no Kafka broker answers at {servers}"
            mend = "set KAFKA_BOOTSTRAP_SERVERS, and KAFKA_SECURITY_PROTOCOL if it wants TLS or SASL"
    # The library's sentence may begin with the broker's address, and end with remarks.
    said = re.sub(r"^\S+:\d+\S*: ", "", error.str()).partition(" (")[0]
    return Unusable(f"{trouble} ({said}); {mend}.")


def prepare_topics(settings: Settings, topics: Iterable[str], log: LibraryLog) -> list[str]:
    """Reach the broker and create the topics that are absent; gives those created. Raises Unusable."""
    admin, present = reach(settings, log)
    absent = [topic for topic in topics if topic not in present]
    if not absent:
        return []
    stream = settings.stream
    if not stream.create_topics:
        raise Unusable(
            f"topics are absent at {settings.kafka['bootstrap.servers']}: {', '.join(absent)}; create them, or set "
            "CONSUMER_CREATE_TOPICS=true."
        )
    configs = {stream.dead_letters_topic: {"max.message.bytes": str(LARGEST_LETTER)}}
    new = [
        NewTopic(topic, stream.topic_partitions, stream.topic_replication, config=configs.get(topic, {}))
        for topic in absent
    ]
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
