"""How far the consumer has read its logs, and where they end.

Read from librdkafka's statistics (https://github.com/confluentinc/librdkafka/blob/master/STATISTICS.md). Its own
`consumer_lag` can't be used, because librdkafka does not see the offsets that a transaction commits. It learns the
end of a log from fetches, so the end of a paused partition is as old as the pause. `LogEnds` looks those ends up.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import orjson
from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ListOffsetsResultInfo, OffsetSpec

from consumer.engine.errors import KafkaUnusable
from consumer.engine.kafka import REACHED_WITHIN
from consumer.engine.records import Partition

ANSWERS_WITHIN = 10.0
"""Seconds within which a broker answers, unless it is asked to wait for records."""


_NO_LEADER = -1


@dataclass(frozen=True, slots=True)
class Reach:
    """One partition: the next offset to hand over, and the end of the log for readers of committed records.

    Both include the control records that transactions leave in a log, so they are equal when all is read. `hidden`
    is the number of offsets after that end, which an open transaction hides.
    """

    next: int | None
    end: int | None
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class Statistics:
    """A consumer's statistics: the number of connected brokers (None while not known), and its partitions.

    A broker that keeps its connection open but has not answered for long is not counted. `leaderless` has the
    partitions that no broker leads.
    """

    brokers: int | None
    reaches: Mapping[Partition, Reach]
    leaderless: frozenset[Partition] = frozenset()


def read_statistics(text: str, fetch_wait: float) -> Statistics:
    """Read librdkafka's statistics, a JSON document. A broker may delay a fetch for `fetch_wait` seconds."""
    silent = (ANSWERS_WITHIN + fetch_wait) * 1_000_000
    told = orjson.loads(text)
    # The connection to the group's coordinator ("logical") goes to a broker that is listed too. While nothing is
    # fetched, it may be the only connection.
    up = [broker for broker in told["brokers"].values() if broker["state"] == "UP"]
    listed = [broker for broker in up if broker["source"] != "logical"]
    # The coordinator may take long for a good reason: it lets a member wait until the others have rejoined.
    # A broker whose process is frozen keeps its connections, but answers nothing.
    brokers = (
        sum(not each["waitresp_cnt"] or each["rxidle"] < silent for each in listed) if listed else min(1, len(up))
    )
    partitions = {
        Partition(topic["topic"], partition["partition"]): partition
        for topic in told["topics"].values()
        for partition in topic["partitions"].values()
    }
    reaches = {place: _reach(each) for place, each in partitions.items() if each["fetch_state"] == "active"}
    return Statistics(
        brokers, reaches, frozenset(place for place, each in partitions.items() if each["leader"] == _NO_LEADER)
    )


def _reach(partition: Mapping[str, Any]) -> Reach:
    # Fetched records that are not handed over yet come next. If there are none, the next fetch does.
    upcoming = partition["app_offset"] if partition["fetchq_cnt"] else partition["next_offset"]
    end, high = _known(partition["ls_offset"]), _known(partition["hi_offset"])
    return Reach(_known(upcoming), end, max(0, high - end) if high is not None and end is not None else 0)


def _known(offset: int) -> int | None:
    return offset if offset >= 0 else None


class LogEnds:
    """Looks up the ends of logs without waiting for the answers. For use on one thread.

    `make_admin` makes the client, which has its own connections. It is called once there is something to look up.
    """

    def __init__(self, make_admin: Callable[[], AdminClient]) -> None:
        self._make_admin = make_admin
        self._admin: AdminClient | None = None
        self._asked: dict[TopicPartition, Future[ListOffsetsResultInfo]] = {}

    def ask(self, partitions: Iterable[Partition]) -> None:
        """Request the ends of these partitions, unless an earlier request is not answered yet. Does not block."""
        latest = OffsetSpec.latest()
        requests = {TopicPartition(*partition): latest for partition in partitions}
        if requests and not self._asked:
            if self._admin is None:  # a client without anything to do is falsy
                try:
                    self._admin = self._make_admin()
                except KafkaUnusable:  # such as a certificate file that is just being written
                    return
            self._asked = self._admin.list_offsets(
                requests, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REACHED_WITHIN
            )

    def answers(self) -> dict[Partition, int]:
        """Return the answers that have come. A partition whose lookup failed is left out. Does not block."""
        ends: dict[Partition, int] = {}
        for place, future in list(self._asked.items()):
            if future.done():
                del self._asked[place]
                try:
                    ends[Partition(place.topic, place.partition)] = future.result().offset
                except KafkaException:
                    self._admin = None  # the broker is away, or wants other credentials: the consumer reports that
        return ends
