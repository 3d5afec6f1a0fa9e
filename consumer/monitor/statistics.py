"""How far the consumer has read its logs, and where they end.

Read from librdkafka's statistics (https://github.com/confluentinc/librdkafka/blob/master/STATISTICS.md). Its own
`consumer_lag` is of no use here: it never hears of offsets that a transaction commits. It learns the end of a log
from fetches, so for a paused partition its end is as old as the pause. Those ends we ask for.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import orjson
from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ListOffsetsResultInfo, OffsetSpec

from consumer.engine.kafka import REACHED_WITHIN
from consumer.engine.records import Partition


@dataclass(frozen=True, slots=True)
class Reach:
    """One partition: the offset handed over next, and the end of the log for readers of committed records.

    Both count the control records that transactions leave in a log: at the end the two are the same. `hidden` is
    the number of offsets behind that end, which wait for a transaction that is open.
    """

    next: int | None
    end: int | None
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class Statistics:
    """A consumer's statistics: the number of brokers it is connected to (None while not known), its partitions."""

    brokers: int | None
    reaches: Mapping[Partition, Reach]


def read_statistics(text: str) -> Statistics:
    """Read librdkafka's statistics, a JSON document."""
    told = orjson.loads(text)
    # The group's coordinator has a connection of its own ("logical"), to a broker that is listed anyway. While
    # nothing is fetched, it may be the only one.
    up = [broker["source"] for broker in told["brokers"].values() if broker["state"] == "UP"]
    brokers = sum(source != "logical" for source in up) or min(1, len(up))
    reaches = {
        Partition(topic["topic"], partition["partition"]): _reach(partition)
        for topic in told["topics"].values()
        for partition in topic["partitions"].values()
        if partition["fetch_state"] == "active"
    }
    return Statistics(brokers, reaches)


def _reach(partition: Mapping[str, Any]) -> Reach:
    # Records that are fetched may not be handed over yet. If there are none, the next fetch is what comes next.
    upcoming = partition["app_offset"] if partition["fetchq_cnt"] else partition["next_offset"]
    end, high = _known(partition["ls_offset"]), _known(partition["hi_offset"])
    return Reach(_known(upcoming), end, max(0, high - end) if high is not None and end is not None else 0)


def _known(offset: int) -> int | None:
    return offset if offset >= 0 else None


class LogEnds:
    """Asks the brokers where logs end, without waiting for the answers; for one thread.

    `make_admin` makes the client, which has its own connections, once there is something to ask.
    """

    def __init__(self, make_admin: Callable[[], AdminClient]) -> None:
        self._make_admin = make_admin
        self._admin: AdminClient | None = None
        self._asked: dict[TopicPartition, Future[ListOffsetsResultInfo]] = {}

    def ask(self, partitions: Iterable[Partition]) -> None:
        """Ask for the ends of these, unless earlier answers are still to come."""
        latest = OffsetSpec.latest()
        requests = {TopicPartition(*partition): latest for partition in partitions}
        if requests and not self._asked:
            self._admin = self._admin or self._make_admin()
            self._asked = self._admin.list_offsets(
                requests, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REACHED_WITHIN
            )

    def answers(self) -> dict[Partition, int]:
        """Take the answers that have come. A partition whose end could not be told is left out."""
        ends: dict[Partition, int] = {}
        for place, future in list(self._asked.items()):
            if future.done():
                del self._asked[place]
                try:
                    ends[Partition(place.topic, place.partition)] = future.result().offset
                except KafkaException:
                    self._admin = None  # the broker is away, or wants other credentials: the consumer says so
        return ends
