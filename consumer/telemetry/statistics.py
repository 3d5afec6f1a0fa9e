"""What the consumer's library knows of the logs it reads: how far it is, and where they end.

Read from librdkafka's statistics (https://github.com/confluentinc/librdkafka/blob/master/STATISTICS.md). Its own
`consumer_lag` does not serve: offsets that a transaction commits never reach it. And what it knows of a log's end
comes with fetched records: of a paused partition it is as old as the pause, so those are asked for.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import orjson
from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ListOffsetsResultInfo, OffsetSpec

from consumer.record import Partition

_ANSWERED_WITHIN = 10.0


@dataclass(frozen=True, slots=True)
class Reach:
    """One partition: the offset next to be handed over, and the end for readers of what is committed.

    Control records, which transactions leave in a log, count in both: at the end the two are the same.
    """

    next: int | None
    end: int | None


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is told of a consumer: the brokers it is connected to, and its partitions."""

    brokers: int
    reaches: Mapping[Partition, Reach]


def read_statistics(text: str) -> Statistics:
    """Read what librdkafka tells, a JSON document."""
    told = orjson.loads(text)
    # A group's coordinator has a connection of its own ("logical"), to a broker that has another.
    brokers = sum(b["state"] == "UP" for b in told["brokers"].values() if b["source"] != "logical")
    reaches = {
        (topic["topic"], partition["partition"]): _reach(partition)
        for topic in told["topics"].values()
        for partition in topic["partitions"].values()
        if partition["fetch_state"] == "active"
    }
    return Statistics(brokers, reaches)


def _reach(partition: Mapping[str, Any]) -> Reach:
    # What is fetched ahead is not handed over yet; only where nothing is, the next fetch is what comes next.
    upcoming = partition["app_offset"] if partition["fetchq_cnt"] else partition["next_offset"]
    return Reach(_known(upcoming), _known(partition["ls_offset"]))


def _known(offset: int) -> int | None:
    return offset if offset >= 0 else None


class LogEnds:
    """Asks where logs end; of one thread, which it never keeps waiting.

    Its client is made when there is something to ask: it has connections of its own.
    """

    def __init__(self, make_client: Callable[[], AdminClient]) -> None:
        self._make_client = make_client
        self._client: AdminClient | None = None
        self._asked: dict[TopicPartition, Future[ListOffsetsResultInfo]] = {}

    def ask(self, partitions: Iterable[Partition]) -> None:
        """Ask for the ends of these, unless the answers of before are still to come."""
        latest = OffsetSpec.latest()
        requests = {TopicPartition(*partition): latest for partition in partitions}
        if requests and not self._asked:
            self._client = self._client or self._make_client()
            self._asked = self._client.list_offsets(
                requests, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_ANSWERED_WITHIN
            )

    def answers(self) -> dict[Partition, int]:
        """Take the answers that came; a partition whose end could not be told is left out."""
        ends: dict[Partition, int] = {}
        for place, future in list(self._asked.items()):
            if future.done():
                del self._asked[place]
                try:
                    ends[place.topic, place.partition] = future.result().offset
                except KafkaException:
                    continue  # the broker is away: the consumer says so
        return ends
