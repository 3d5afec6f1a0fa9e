"""Notices a log that does not continue where it was read: a recreated topic, a deleted start, or a lost end.

A topic that is deleted and created again has the same name, but other records at the same offsets. So a place
identifies a record only within one incarnation of its topic. The broker gives each incarnation its own id.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AclOperation, TopicDescription

from consumer.engine.deadline import Clock
from consumer.engine.errors import KafkaUnusable
from consumer.engine.kafka import Logger, kafka_error
from consumer.engine.ports import Hooks
from consumer.engine.records import Output, Partition, Record

_ASK_INTERVAL = 5.0
_SAID = 20
_GONE = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED)
_ABSENT = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE)
_NOT_ALLOWED = "this client is not allowed to read it"


@dataclass(slots=True)
class Continuity:
    """What is known about the logs that a member reads. For the main thread only; never blocks.

    `topics` are the topics that are subscribed to by name. `ask` asks the brokers to describe topics. With
    `starts_at_end`, a group without a committed offset begins at the end of a log. `losses` has a sentence for each
    loss until it is acknowledged. `unreadable` says for each unreadable topic why: it is gone, or this client may
    not read it. `closing` has partitions of a recreated topic that still have records of the old topic in memory.
    They start over once those records are done.
    """

    topics: Sequence[str]
    ask: Callable[[Sequence[str]], Mapping[str, Future[TopicDescription]]]
    starts_at_end: bool
    hooks: Hooks
    clock: Clock
    log: Logger
    losses: deque[str] = field(default_factory=lambda: deque(maxlen=_SAID))
    closing: set[Partition] = field(default_factory=set)
    unreadable: dict[str, str] = field(default_factory=dict)
    _ids: dict[str, str] = field(default_factory=dict)
    _earlier: set[tuple[str, str]] = field(default_factory=set)
    # By topic, ids that may belong to an earlier or a later topic. The next answer decides.
    _doubted: dict[str, set[str]] = field(default_factory=dict)
    _reported: dict[str, str] = field(default_factory=dict)
    _asked: dict[str, Future[TopicDescription]] = field(default_factory=dict)
    # Topics without an answer. The brokers are asked again after the interval.
    _unknown: set[str] = field(default_factory=set)
    # Topics whose id the brokers refuse to tell. The topics may exist.
    _refused: set[str] = field(default_factory=set)
    _due: float = 0.0
    # Records committed before and since the last question for the topic's id: offset to fingerprint.
    _before: dict[Partition, dict[int, int]] = field(default_factory=dict)
    _since: dict[Partition, dict[int, int]] = field(default_factory=dict)
    # Logs that ended before the committed offset: that offset with its metadata, which are void, and the offset to
    # read from. Kept until something of the log is committed.
    _void: dict[Partition, tuple[int, str, int]] = field(default_factory=dict)
    # Done records that may belong to the new incarnation.
    _done: dict[Partition, dict[int, int]] = field(default_factory=dict)

    def watch(self, assigned: Iterable[str], *, lacks_ids: bool) -> None:
        """Ask for the ids of topics from time to time, and at once if `lacks_ids`.

        `assigned` are the topics with assigned partitions. Called on every turn, so most calls are cheap.
        """
        is_new = self._take_answers() if self._asked else False
        now = self.clock.monotonic()
        if is_new or self._asked or (now < self._due and not (lacks_ids or self._doubted)):
            return  # recently committed records may belong to a new topic: they are forgotten later
        named = {*assigned, *self._doubted}
        if now >= self._due:
            self._due = now + _ASK_INTERVAL
            # Forget records committed before an earlier question. Otherwise they would pile up without an answer.
            self._before, self._since = self._since, {}
            self._unknown.clear()
            wanted = {*self.topics, *named, *self._ids}
        else:
            wanted = named - self._ids.keys() - self._unknown
        if wanted:
            try:
                self._asked = dict(self.ask(sorted(wanted)))
            except KafkaUnusable:  # such as a certificate file that is just being written
                self._unknown |= wanted

    def _take_answers(self) -> bool:
        """Take the available answers. Returns whether a topic has another id than before."""
        is_new = False
        for topic, future in list(self._asked.items()):
            if not future.done():
                continue
            del self._asked[topic]
            try:
                described = future.result()
            except KafkaException as error:
                self._unknown.add(topic)
                code = kafka_error(error).code()
                if code in _GONE:  # otherwise no broker answers, which is reported elsewhere
                    self._note(topic, kafka_error(error).str())
                if code > 0 and code not in _ABSENT:
                    self._refused.add(topic)
                continue
            allowed = described.authorized_operations  # None if the broker does not say
            self._note(topic, None if allowed is None or AclOperation.READ in allowed else _NOT_ALLOWED)
            is_new |= self._learn(topic, str(described.topic_id))
        return is_new

    def _note(self, topic: str, why: str | None) -> None:
        """Note why a topic can't be read, if it can't. A topic that only matched a pattern may disappear."""
        if why and topic in self.topics:
            self.unreadable[topic] = f"the topic {topic} can't be read: {why}"
        else:
            self.unreadable.pop(topic, None)

    def _learn(self, topic: str, identity: str) -> bool:
        """Learn the id of a topic. Returns whether it differs from the one before."""
        before, self._ids[topic] = self._ids.get(topic), identity
        others = {before} if before else self._doubted.pop(topic, set())
        self._earlier.update((topic, each) for each in others - {identity})
        if before == identity:
            self._forget(topic)
        return before not in (None, identity)

    def identity(self, topic: str) -> str:
        """Return the current id of a topic, empty while it is not known."""
        return self._ids.get(topic, "")

    def is_id_settled(self, topic: str) -> bool:
        """Return whether the id of a topic is known, or the brokers refuse to tell it."""
        return topic in self._ids or topic in self._refused

    def is_earlier(self, topic: str, identity: str) -> bool:
        """Return whether an id belongs to an earlier topic of the same name.

        Also False if that is not known. Then it asks the brokers, and a later call returns the answer.
        """
        known = self._ids.get(topic)
        if known == identity:
            return False
        if known and identity and (topic, identity) not in self._earlier:
            # It may also belong to a later topic than the one we know.
            del self._ids[topic]
            self._asked.pop(topic, None)
            self._doubted.setdefault(topic, set()).update((known, identity))
        return (topic, identity) in self._earlier

    def _forget(self, topic: str) -> None:
        for partition in [each for each in self._before if each.topic == topic]:
            del self._before[partition]

    def committed(self, outputs: Iterable[Output]) -> None:
        """Note committed records: they may belong to a new incarnation that is not known yet."""
        partition, noted = None, dict[int, int]()
        for output in outputs:
            record = output.record
            if (record.topic, record.partition) != partition:  # those of one partition follow each other
                partition = Partition(record.topic, record.partition)
                self._void.pop(partition, None)
                where = self._done if partition in self.closing else self._since
                noted = where.setdefault(partition, {})
            noted[record.offset] = _fingerprint(record)

    def created_again(self, topic: str) -> None:
        """Report that a topic was created again, once for each new id."""
        if self._reported.get(topic) != self.identity(topic):
            self._reported[topic] = self.identity(topic)
            self._lost(
                topic, None, f"{topic} was deleted and created again; it is read from its beginning as a new topic"
            )

    def close(self, partitions: Iterable[Partition]) -> None:
        """Note partitions of a recreated topic. Recently committed records may belong to either topic."""
        for partition in partitions:
            self.closing.add(partition)
            self._done[partition] = self._before.pop(partition, {}) | self._since.pop(partition, {})

    def starts_over(self, partition: Partition) -> None:
        """Note that a partition is now read from its beginning. Records that are done are skipped."""
        self.closing.discard(partition)

    def is_done(self, record: Record) -> bool:
        """Return whether a record was committed before its incarnation was known."""
        if not self._done:
            return False
        done = self._done.get(Partition(record.topic, record.partition), {})
        return record.offset in done and done.pop(record.offset) == _fingerprint(record)

    def begins(self, partition: Partition, wanted: int | None, low: int, high: int, *, is_cut: bool) -> int:
        """Return the offset to read from: `wanted` if the log has it. `wanted` is None without a committed offset.

        `low` and `high` are the first offset in the log, and the one after the last. `is_cut` says that the log
        lacked `wanted` before. It may have grown beyond `wanted` since then, with other records.
        """
        if wanted is None:
            start = high if self.starts_at_end else low
            if high > low:
                self.log.warning("no_committed_offset", partition=str(partition), start=start, low=low, high=high)
            return start
        if low <= wanted <= high and not is_cut:
            return wanted
        if wanted < low:
            self._lost(
                str(partition),
                low - wanted,
                f"{partition}: the log begins at {low}, after the committed offset {wanted}: up to {low - wanted} "
                "records were deleted before they were read",
            )
            return low
        self._lost(
            str(partition),
            None,
            f"{partition}: the log ended before the committed offset {wanted}, and ends at {high} now: it was "
            "truncated or created again, and is read from its beginning",
        )
        return low

    def note_void(self, committed: TopicPartition, start: int) -> None:
        """Note that a committed offset is void: its log ended before it, and is read from `start`."""
        partition = Partition(committed.topic, committed.partition)
        self._void[partition] = committed.offset, committed.metadata or "", start

    def start_if_void(self, committed: TopicPartition) -> int | None:
        """Return the offset to read from instead of a committed one that is void; None if it is valid.

        The log may have grown beyond the committed offset since, so that nothing else shows it. If the metadata
        differs, another member has committed the same offset of a later log.
        """
        offset, metadata, start = self._void.get(Partition(committed.topic, committed.partition), (None, "", 0))
        return start if (committed.offset, committed.metadata or "") == (offset, metadata) else None

    def acknowledge(self) -> None:
        """Forget the losses: an operator has seen them."""
        if self.losses:
            self.log.warning("losses_acknowledged", losses=list(self.losses))
            self.losses.clear()

    def _lost(self, what: str, records: int | None, message: str) -> None:
        self.losses.append(message)
        self.log.error("records_lost", on=what, records=records, reason=message)
        self.hooks.lost(what.partition("/")[0], records or 0)


def _fingerprint(record: Record) -> int:
    """Return a value that differs for different records. A producer may give all records the same timestamp."""
    return hash((record.timestamp, record.key, record.value))
