"""Notices where a log does not continue as it was read before: created again, cut off in front, or shorter.

A topic that is deleted and created again has the same name and other records at the same offsets. So a place names
a record only within one incarnation of its topic, which the broker tells apart by an id.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from confluent_kafka import KafkaException
from confluent_kafka.admin import TopicDescription

from consumer.engine.deadline import Clock
from consumer.engine.kafka import Logger
from consumer.engine.ports import Hooks
from consumer.engine.records import Output, Partition, Record

_ASK_INTERVAL = 5.0
_PAUSE = 0.5
_SAID = 20


@dataclass(slots=True)
class Continuity:
    """What is known of the logs that a member reads; for the main thread, and never blocks.

    `topics` are those that are subscribed to by name. `ask` asks the brokers to describe topics. A group without a
    committed offset begins at the end of a log if
    `starts_at_end`. `losses` has what was lost, in sentences, until it is acknowledged. `closing` has partitions of
    a topic that was created again of which records are still held: they start over once those are done.
    """

    topics: Sequence[str]
    ask: Callable[[Sequence[str]], Mapping[str, Future[TopicDescription]]]
    starts_at_end: bool
    hooks: Hooks
    clock: Clock
    log: Logger
    losses: deque[str] = field(default_factory=lambda: deque(maxlen=_SAID))
    closing: set[Partition] = field(default_factory=set)
    _ids: dict[str, str] = field(default_factory=dict)
    _asked: dict[str, Future[TopicDescription]] = field(default_factory=dict)
    _asked_at: float = float("-inf")
    _due: float = 0.0
    # Records committed before and since the last question for the topic's id: offset to fingerprint.
    _before: dict[Partition, dict[int, int]] = field(default_factory=dict)
    _since: dict[Partition, dict[int, int]] = field(default_factory=dict)
    # Records that may be of the new incarnation, and are done.
    _done: dict[Partition, dict[int, int]] = field(default_factory=dict)

    def watch(self, assigned: Collection[str]) -> None:
        """Ask for the ids of topics from time to time; `assigned` are those that partitions are assigned of."""
        found = []
        for topic, future in list(self._asked.items()):
            if not future.done():
                continue
            del self._asked[topic]
            try:
                identity = str(future.result().topic_id)
            except KafkaException:
                continue  # the topic or the broker is away: what follows tells
            before, self._ids[topic] = self._ids.get(topic), identity
            if before == identity:
                self._forget(topic)
            if before in (None, identity):
                continue
            found.append(topic)
            self._lost(
                topic, None, f"{topic} was deleted and created again; it is read from its beginning as a new topic"
            )
        now = self.clock.monotonic()
        is_new = not {*assigned} <= {*self._ids, *self._asked}
        if not (found or self._asked) and now >= (self._asked_at + _PAUSE if is_new else self._due):
            self._asked_at = now
            self._due = now + _ASK_INTERVAL
            # What was committed before an earlier question is forgotten: it would grow while none is answered.
            self._before, self._since = self._since, {}
            if watched := {*self.topics, *assigned, *self._ids}:
                self._asked = dict(self.ask(sorted(watched)))

    def identity(self, topic: str) -> str | None:
        """Give the id of a topic as it is now, None while it is not known."""
        return self._ids.get(topic)

    def _forget(self, topic: str) -> None:
        for partition in [each for each in self._before if each.topic == topic]:
            del self._before[partition]

    def committed(self, outputs: Iterable[Output]) -> None:
        """Note what was committed: it may be of a new incarnation that is not known yet."""
        for output in outputs:
            partition = Partition(output.record.topic, output.record.partition)
            noted = self._done if partition in self.closing else self._since
            noted.setdefault(partition, {})[output.record.offset] = _fingerprint(output.record)

    def replaced(self, partition: Partition, offset: int) -> None:
        """Note that a committed offset belongs to an earlier topic of the same name."""
        self._lost(
            str(partition),
            None,
            f"{partition}: the topic was deleted and created again after the offset {offset} was committed; it is "
            "read from its beginning as a new topic",
        )

    def close(self, partitions: Iterable[Partition]) -> None:
        """Note partitions of a topic that was created again. What was committed lately may be of either topic."""
        for partition in partitions:
            self.closing.add(partition)
            self._done[partition] = self._before.pop(partition, {}) | self._since.pop(partition, {})

    def begins_anew(self, partition: Partition) -> None:
        """Note that a partition is read from its beginning now: what is done is skipped."""
        self.closing.discard(partition)

    def is_done(self, record: Record) -> bool:
        """Tell whether a record was committed before its incarnation was known."""
        if not self._done:
            return False
        done = self._done.get(Partition(record.topic, record.partition), {})
        return record.offset in done and done.pop(record.offset) == _fingerprint(record)

    def begins(self, partition: Partition, wanted: int | None, low: int, high: int) -> int:
        """Give the offset to read from: `wanted`, if the log has it; None for no committed offset.

        `low` and `high` are the first offset that the log has, and the one after its last.
        """
        if wanted is None:
            start = high if self.starts_at_end else low
            if high > low:
                self.log.warning("no_committed_offset", partition=str(partition), start=start, low=low, high=high)
            return start
        if low <= wanted <= high:
            return wanted
        if wanted < low:
            self._lost(
                str(partition),
                low - wanted,
                f"{partition}: the log begins at {low}, after the committed offset {wanted}: up to {low - wanted} "
                "records were deleted before they were read",
            )
        else:
            self._lost(
                str(partition),
                None,
                f"{partition}: the log ends at {high}, before the committed offset {wanted}: it was truncated or "
                "created again, and is read from its beginning",
            )
        return low

    def acknowledge(self) -> None:
        """Forget what was lost: an operator has seen it."""
        if self.losses:
            self.log.warning("losses_acknowledged", losses=list(self.losses))
            self.losses.clear()

    def _lost(self, what: str, records: int | None, message: str) -> None:
        self.losses.append(message)
        self.log.error("records_lost", on=what, records=records, reason=message)
        self.hooks.lost(what.partition("/")[0], records or 0)


def _fingerprint(record: Record) -> int:
    """Tell records at one offset apart. A timestamp is not enough: a producer may give all records the same."""
    return hash((record.timestamp, record.key, record.value))
