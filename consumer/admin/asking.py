"""Asks brokers again while they can't answer yet, such as a leader or a coordinator that has just moved."""

import time
from collections.abc import Callable
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException

from consumer.engine.deadline import Deadline
from consumer.engine.kafka import REACHED_WITHIN, kafka_error

T = TypeVar("T")

TRY = REACHED_WITHIN / 2
"""Seconds for one request, so that there is time for another if it is lost."""

_PAUSE = 0.2
_TRANSIENT = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,  # a broker that leads it may not know it yet
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError._NOENT,  # none of the partitions has a leader that the client knows, as for a new topic
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
)


def answered(ask: Callable[[], T]) -> T:
    """Call `ask` until it gives an answer. Blocks for seconds; raises the KafkaException of the last try."""
    deadline = Deadline(REACHED_WITHIN)
    while True:
        try:
            return ask()
        except KafkaException as error:
            if kafka_error(error).code() not in _TRANSIENT or not deadline.left:
                raise
            time.sleep(_PAUSE)
