"""Reads a topic from outside the group: nothing is committed, no member is disturbed."""

from collections.abc import Iterator
from typing import Literal

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, KafkaException, TopicPartition

from consumer.kafka import Unusable, make_consumer, to_record
from consumer.log import LibraryLog
from consumer.record import Record
from consumer.settings import Settings

_REACH_TIMEOUT = 10.0
_WAIT = 0.2


def read_topic(
    settings: Settings, topic: str, log: LibraryLog, *, start: Literal["beginning", "end"], follow: bool
) -> Iterator[Record | None]:
    """Give a topic's committed records, to its present end or for ever.

    While it follows, a None now and then lets the caller look at other things. Raises Unusable.
    """
    config = {**settings.consumer, **settings.client("reader"), "group.id": f"{settings.kafka['group.id']}.reader"}
    config.pop("group.instance.id", None)
    consumer = make_consumer(config, log)
    try:
        found = consumer.list_topics(topic, timeout=_REACH_TIMEOUT).topics[topic]
        if found.error:
            raise Unusable(f"the topic {topic} can't be read: {found.error.str()}.")
        offset = OFFSET_BEGINNING if start == "beginning" else OFFSET_END
        open_ends = set(found.partitions)
        consumer.assign([TopicPartition(topic, number, offset) for number in found.partitions])
        while open_ends or follow:
            messages = consumer.consume(500, _WAIT)
            if follow and not messages:
                yield None
            for message in messages:
                error = message.error()
                if error is None:
                    open_ends.add(message.partition() or 0)
                    yield to_record(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_ends.discard(message.partition() or 0)
                elif not error.retriable():
                    raise Unusable(f"the topic {topic} can't be read: {error.str()}.")
    except KafkaException as error:
        servers = settings.kafka["bootstrap.servers"]
        raise Unusable(f"no Kafka broker answers at {servers} ({error.args[0].str()}).") from None
    finally:
        consumer.close()
