"""All metrics of a member, with their meaning. Prometheus collects them at /metrics.

Names and units follow https://prometheus.io/docs/practices/naming/. Every label has a bounded set of values: no
label is made from a record's key, and only the first few sites are named. Metrics are updated once per poll,
chunk, request or commit, never per record.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from consumer.engine.ports import Change
from consumer.errors import KINDS
from consumer.monitor.status import STATES, MemberStatus
from jirafe.client import Answered, Exchange, Failed, Forbidden, Refused

OTHER = "other"
MOST_SITES = 50

_PREFIX = "jirafe_consumer"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BYTES = (1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 10_485_760)
_BATCH = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)

_FAILURES = ("timeout", "connection", "unreadable", "404", "408", "429", "500", "502", "503", "504")
_CAUSES = ("registry", "item", "not-ours", "internal", "invalid_token", "authorization", "no-token", *_FAILURES)


class _Bounded:
    """The children of a counter with one label. All exist from the start, with the value 0.

    A label value that is not in `values` counts as `other`.
    """

    def __init__(self, counter: Counter, values: Iterable[str]) -> None:
        self._other = counter.labels(OTHER)
        self._children = {value: counter.labels(value) for value in values}

    def __getitem__(self, value: str) -> Counter:
        return self._children.get(value, self._other)


class _Names:
    """Bounds the values of a label: keeps the first `most` names, and maps all others to `other`. Thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: set[str] = set()
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> str:
        with self._lock:
            if name not in self._kept and len(self._kept) < self._most:
                self._kept.add(name)
            return name if name in self._kept else OTHER


@dataclass(frozen=True, slots=True)
class Totals:
    """The counts since the start.

    `latency` has pairs of an upper bound in seconds and the number of requests that took no longer. `kinds` counts
    the dead letters by kind, without the kinds that have none.
    """

    results: float
    dead_letters: float
    retries: float
    latency: tuple[tuple[float, float], ...]
    kinds: Mapping[str, float]


class Metrics:
    """The metrics of one member, collected from `registry`. Any thread may call.

    The gauges are computed from `status` at the time of collection.
    """

    def __init__(self, status: Callable[[], MemberStatus]) -> None:
        registry = CollectorRegistry()

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"{_PREFIX}_{name}", meaning, labels, registry=registry)

        def histogram(name: str, meaning: str, buckets: Iterable[float]) -> Histogram:
            return Histogram(f"{_PREFIX}_{name}", meaning, buckets=tuple(buckets), registry=registry)

        self.registry = registry
        ProcessCollector(registry=registry)
        registry.register(_Gauges(status))
        self._records = counter(
            "records_received", "Records read from Kafka; some are read again after a rebalance.", "topic"
        )
        self._events = counter("events", "Events by outcome: accepted, or the kind of fault.", "kind", "outcome")
        self._results = counter("results", "Results committed, by their code.", "code")
        self._succeeded, self._failed = self._results.labels("200"), self._results.labels("500")
        self._dead_letters = counter("dead_letters", "Dead letters committed, by their kind.", "kind")
        self._letters = _Bounded(self._dead_letters, KINDS)
        self._retries = counter("retries", "Chunks that must be tried again, by cause.", "cause")
        self._causes = _Bounded(self._retries, _CAUSES)
        self._requests = counter(
            "requests", "Requests to the API. Sites after the first 50 count as other.", "site", "answer"
        )
        self._sites = _Names(MOST_SITES)
        self._duration = histogram(
            "request_duration_seconds", "Seconds from a request to its complete answer.", _SECONDS
        )
        self._size = histogram("request_size_bytes", "Size of a request's body.", _BYTES)
        self._batch = histogram("request_events", "Events in a request.", _BATCH)
        self._commit = histogram("commit_duration_seconds", "Duration of committed transactions.", _SECONDS)
        self._aborts = counter("transaction_aborts", "Aborted transactions. Their content is written again.")
        self._rebalances = counter("rebalances", "Rebalances that added or removed partitions, by event.", "event")
        for change in get_args(Change):
            self._rebalances.labels(change)
        self._lost = counter("records_lost", "Records that were deleted before they were read.", "topic")
        self._losses = counter(
            "losses", "How often records were lost, or a log was truncated or created again.", "topic"
        )
        self._rejoins = counter("rejoins", "How often the member left its group and joined again.")

    def received(self, records: Mapping[str, int]) -> None:
        """Count records that came in, by topic."""
        for topic, count in records.items():
            self._records.labels(topic).inc(count)

    def exchanged(self, exchange: Exchange) -> None:
        """Count and measure a request with its answer."""
        match exchange.answer:
            case Answered():
                answer = "answered"
            case Refused():
                answer = "refused"
            case Forbidden():
                answer = "forbidden"
            case Failed(cause):
                answer = cause if cause in _FAILURES else OTHER
        self._requests.labels(self._sites[exchange.site_id], answer).inc()
        self._duration.observe(exchange.seconds)
        self._size.observe(exchange.size)
        self._batch.observe(exchange.events)

    def decided(self, events: Mapping[tuple[str, str], int]) -> None:
        """Count decided events, by kind and outcome."""
        for (kind, outcome), count in events.items():
            self._events.labels(kind, outcome).inc(count)

    def retried(self, cause: str) -> None:
        """Count a chunk that will be retried."""
        self._causes[cause].inc()

    def committed(self, results: int, dead_letters: Iterable[str], seconds: float) -> None:
        """Count a committed transaction: its results, and its dead letters by kind. It took `seconds`."""
        failed = 0
        for kind in dead_letters:
            self._letters[kind].inc()
            failed += 1
        self._failed.inc(failed)
        self._succeeded.inc(results - failed)
        self._commit.observe(seconds)

    def aborted(self) -> None:
        """Count a transaction that was aborted."""
        self._aborts.inc()

    def rebalanced(self, change: Change) -> None:
        """Count a change of the assignment."""
        self._rebalances.labels(change).inc()

    def lost(self, topic: str, records: int) -> None:
        """Count a loss, and the number of records that it is known to have lost."""
        self._losses.labels(topic).inc()
        self._lost.labels(topic).inc(records)

    def rejoined(self) -> None:
        """Count that the member leaves the group to join again."""
        self._rejoins.inc()

    def totals(self) -> Totals:
        """Return the counts so far."""
        kinds = {
            labels["kind"]: value for name, labels, value in _samples(self._dead_letters) if name.endswith("_total")
        }
        return Totals(
            results=_sum(self._results),
            dead_letters=sum(kinds.values()),
            retries=_sum(self._retries),
            latency=tuple(
                (float(labels["le"]), value)
                for name, labels, value in _samples(self._duration)
                if name.endswith("_bucket")
            ),
            kinds={kind: count for kind, count in kinds.items() if count},
        )


def _samples(metric: Counter | Histogram) -> Iterator[tuple[str, Mapping[str, str], float]]:
    for family in metric.collect():
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def _sum(counter: Counter) -> float:
    return sum(value for name, _, value in _samples(counter) if name.endswith("_total"))


class _Gauges(Collector):
    """The gauges of a member, computed from its status."""

    def __init__(self, status: Callable[[], MemberStatus]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        now = self._status().as_of(time.monotonic())
        lanes = now.lanes

        def gauge(name: str, meaning: str, values: Mapping[tuple[str, ...], float], *labels: str) -> Metric:
            family = GaugeMetricFamily(f"{_PREFIX}_{name}", meaning, labels=labels)
            for of, value in values.items():
                family.add_metric(of, value)
            return family

        yield gauge("ready", "1 if the member delivers, else 0. /readyz says why.", {(): not now.not_ready})
        yield gauge(
            "lanes",
            "Assigned partitions, by state.",
            {(state,): sum(lane.state == state for lane in lanes) for state in STATES},
            "state",
        )
        yield gauge(
            "paused_lanes",
            "Partitions that are paused because their lane is full, by state.",
            {(state,): sum(lane.state == state and lane.is_paused for lane in lanes) for state in STATES},
            "state",
        )
        yield gauge(
            "held_records",
            "Records in memory: waiting, in flight, or finished but not committed.",
            {
                ("waiting",): sum(lane.waiting for lane in lanes),
                ("in_flight",): sum(lane.in_flight for lane in lanes),
                ("finished",): sum(lane.finished for lane in lanes),
            },
            "stage",
        )
        yield gauge("held_bytes", "Bytes of the records in memory.", {(): sum(lane.held_bytes for lane in lanes)})
        yield gauge(
            "in_flight_chunks",
            "Partitions with a chunk in flight.",
            {(): sum(lane.in_flight > 0 for lane in lanes)},
        )
        ages = [time.monotonic() - lane.oldest_since for lane in lanes if lane.oldest_since is not None]
        yield gauge(
            "oldest_unfinished_age_seconds",
            "Seconds for which the oldest uncommitted record has been in memory; 0 if there is none.",
            {(): max(ages, default=0.0)},
        )
        yield gauge(
            "lag_records",
            "Offsets between the next record to finish and the end of the log.",
            {
                (lane.partition.topic, str(lane.partition.number)): lane.lag
                for lane in lanes
                if lane.lag is not None
            },
            "topic",
            "partition",
        )
        yield gauge(
            "hidden_records",
            "Offsets behind an open transaction of another producer. They can't be read yet.",
            {(lane.partition.topic, str(lane.partition.number)): lane.hidden for lane in lanes if lane.hidden},
            "topic",
            "partition",
        )
        yield gauge(
            "ahead_records",
            "Offsets decided beyond the committed offset, which waits for a site or a key.",
            {(lane.partition.topic, str(lane.partition.number)): lane.ahead for lane in lanes if lane.ahead},
            "topic",
            "partition",
        )
        apart: dict[str, int] = {}
        for strand in (strand for lane in lanes for strand in lane.strands):
            cause = strand.cause or "none"
            apart[cause] = apart.get(cause, 0) + strand.records
        yield gauge(
            "apart_records",
            "Records that wait for a site or a key while others of their partition go on, by cause.",
            {(cause,): count for cause, count in apart.items()},
            "cause",
        )
        yield gauge(
            "unacknowledged_losses", "Losses of records that no SIGHUP has acknowledged yet.", {(): now.losses}
        )
        if now.brokers is not None:
            yield gauge("connected_brokers", "Brokers that the consumer is connected to.", {(): now.brokers})
