"""Proof from the topics themselves that every record of a range has exactly one result.

Only the topics count as evidence. The records are read, because offsets have gaps and can't be used to count. The
results and dead letters are then compared with the records. A result or dead letter whose timestamp differs from
that of the record at its place belongs to a record that is gone, of a truncated log or a deleted topic. An audit
takes about nine bytes of memory for each offset of the range, and reads no topic twice.
"""

import re
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Any

from confluent_kafka import Message

from consumer.admin.deployment import CLOCK_TOLERANCE, Deployment
from consumer.admin.group import Group, Progress
from consumer.admin.letters import read_letter
from consumer.admin.ranges import Position, Topics, epoch_ms
from consumer.admin.reading import await_visible, read_settled
from consumer.engine.ahead import Ahead
from consumer.engine.kafka import to_record
from consumer.engine.records import Partition, Range
from consumer.errors import Hidden
from schemas.codec import Codec, Undecodable

MOST_PLACES = 10
"""How many places are listed for each trouble."""

# One byte for each offset: what the topics have for it.
RECORD, RESULT, DOUBLED, FAILED, LETTER, REPLAYED, REDRIVEN, OTHERS_FAILED = (1 << bit for bit in range(8))
_KINDS = range(256)


_OK = 200


class Count(StrEnum):
    """The counts of each partition."""

    RECORDS = "records"
    ONE_RESULT = "one_result"
    MISSING = "missing"
    DOUBLED = "doubled"
    FAILED = "failed"
    DEAD_LETTERED = "dead_lettered"
    REDRIVEN = "redriven"
    REPLAYED = "replayed"
    WAITING = "waiting"
    WITHOUT_LETTER = "without_letter"
    STRAY_LETTER = "stray_letter"
    LOST = "lost"


TROUBLES = (Count.MISSING, Count.DOUBLED, Count.WITHOUT_LETTER, Count.STRAY_LETTER, Count.LOST)


@dataclass(frozen=True, slots=True)
class AuditProgress:
    """How much of a topic has been read. `total` counts offsets, so there may be fewer records."""

    topic: str
    read: int
    total: int


@dataclass(frozen=True, slots=True)
class Audited:
    """What was found in one partition's range.

    `committed` is the group's committed offset, None if there is none. Records from there on need no result yet,
    except those in `ahead`, which are decided beyond it. They count as waiting even if they have one: the group
    will deliver them, and their results may be those of a deleted topic. `first` has the first offsets of each
    trouble. `hidden` counts the offsets after the range that were asked for too, and that an open transaction
    hides. `log_end` is the end of the log after `committed` was read, including uncommitted records.
    """

    range: Range
    committed: int | None
    counts: Mapping[Count, int]
    first: Mapping[Count, tuple[int, ...]]
    hidden: int
    ahead: Ahead | None
    log_end: int

    @property
    def is_cut(self) -> bool:
        """Whether the log has lost its end, with records that the group has read."""
        return self.committed is not None and self.committed > self.log_end


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What was found in each partition. `notes` has sentences about the limits of the proof.

    `is_complete` is False if a transaction that does not end hides part of a topic that was read, or a log ends
    before the committed offset.
    """

    partitions: tuple[Audited, ...]
    is_complete: bool
    notes: tuple[str, ...]

    def total(self, topic: str | None = None) -> Mapping[Count, int]:
        """Return the counts, summed over one topic or over all."""
        counts: Counter[Count] = Counter()
        for audited in self.partitions:
            if topic in (None, audited.range.topic):
                counts.update(audited.counts)
        return counts

    @property
    def is_proven(self) -> bool:
        """Whether there is no trouble, and none can be hidden."""
        total = self.total()
        return self.is_complete and not any(total[trouble] for trouble in TROUBLES)


def with_result(seen: int, result: Mapping[str, Any], *, is_ours: bool) -> int:
    """Add a result to the byte of its offset. Another group's result only explains a dead letter."""
    failed = result["code"] != _OK
    if not is_ours:
        return seen | (OTHERS_FAILED if failed else 0)
    if result["replay"] is not None or result["redrive"] is not None:
        return seen | (REPLAYED if result["replay"] is not None else REDRIVEN)
    return seen | RESULT | (DOUBLED if seen & RESULT else 0) | (FAILED if failed else 0)


def counted_as(seen: int, *, due: bool) -> frozenset[Count]:
    """Return what an offset counts as, given what was seen of it. `due`: its result must exist."""
    if not seen & RECORD:
        return frozenset()  # a transaction's marker, aborted, or compacted away
    has_result, has_letter = bool(seen & RESULT), bool(seen & LETTER)
    holds = {
        Count.RECORDS: True,
        Count.ONE_RESULT: has_result and due and not seen & DOUBLED,
        Count.MISSING: not has_result and due,
        Count.WAITING: not due and not seen & DOUBLED,
        Count.DOUBLED: bool(seen & DOUBLED),
        Count.FAILED: bool(seen & FAILED),
        Count.DEAD_LETTERED: has_letter,
        Count.REDRIVEN: bool(seen & REDRIVEN),
        Count.REPLAYED: bool(seen & REPLAYED),
        Count.WITHOUT_LETTER: bool(seen & FAILED) and not has_letter,
        # If the record is not due, its letter may have been read although its result was not there yet.
        # Groups may share a dead-letter topic, and a letter of an old version does not name its group.
        Count.STRAY_LETTER: has_letter and not seen & (FAILED | OTHERS_FAILED) and (due or has_result),
    }
    return frozenset(count for count, is_so in holds.items() if is_so)


def audit(
    deployment: Deployment,
    codec: Codec,
    topics: Mapping[str, Collection[int]],
    between: tuple[Position | None, Position | None],
) -> Iterator[AuditProgress | AuditReport]:
    """Audit the records between two positions, in the given partitions of each topic (none given: in all).

    Yields its progress, and the report last. First waits for open transactions that hide a part of the range, at
    most as long as one may last. Blocks while it reads. Raises KafkaUnusable, RegistryUnavailable.
    """
    topics_seen = Topics(deployment.cluster)
    written: dict[Partition, int] = {}
    for topic, numbers in topics.items():
        written |= topics_seen.written(topic, between[1], numbers)
    with suppress(Hidden):  # what is still hidden is reported as not proven
        await_visible(deployment.cluster, written)
    ranges = [each for topic, numbers in topics.items() for each in topics_seen.resolve(topic, *between, numbers)]
    # Read the committed offsets first. Their results were written before the ends that are looked up next.
    group = Group(topics_seen.admin, deployment.cluster.group)
    progress = group.progress([each.of for each in ranges])
    auditor = _Auditor(deployment, codec, topics_seen, ranges)
    yield from auditor.read_all(between[0])
    yield auditor.report(progress, written)


class _Auditor:
    """Reads the topics, and keeps one byte for each offset of the ranges: what was seen of it."""

    def __init__(self, deployment: Deployment, codec: Codec, topics: Topics, ranges: Collection[Range]) -> None:
        self._deployment = deployment
        self._codec = codec
        self._topics = topics
        self._ranges = ranges
        self._starts = {each.of: each.start for each in ranges}
        self._log_starts = topics.firsts([each.of for each in ranges])
        self._log_ends = topics.ends([each.of for each in ranges], committed=False)
        self._seen = {each.of: bytearray(each.end - each.start) for each in ranges}
        self._timestamps = {each.of: array("q", bytes(8 * (each.end - each.start))) for each in ranges}
        self._last_before: dict[Partition, int] = {}  # the last offset before the range that has a result
        self._earlier: Counter[str] = Counter()
        self._unreadable: Counter[str] = Counter()
        self._not_to_the_end: list[str] = []
        self._shortened: list[str] = []

    def read_all(self, start: Position | None) -> Iterator[AuditProgress]:
        """Read records, results and dead letters; the last two from where those of records at `start` may begin."""
        for topic in dict.fromkeys(each.topic for each in self._ranges):
            yield from self._read(topic, [each for each in self._ranges if each.topic == topic], self._add_record)
        # A result is later than its record, but another clock gave its time. If a log begins after the start, its
        # records may have been deleted unread. The last result before the log shows that, and may be of any time.
        is_cut = any(0 < each.start == self._log_starts[each.of] and each.start < each.end for each in self._ranges)
        since = start - CLOCK_TOLERANCE if isinstance(start, datetime) and not is_cut else None
        results, dead_letters = self._deployment.output_topics
        for topic, add in ((results, self._add_result), (dead_letters, self._add_letter)):
            yield from self._read(topic, self._written(topic, since), add)

    def _written(self, topic: str, since: datetime | None) -> list[Range]:
        """Return all that was written to a topic, including transactions that are still open."""
        places = [Partition(topic, number) for number in self._topics.partitions(topic)]
        firsts, ends = self._topics.firsts(places), self._topics.ends(places, committed=False)
        starts: Mapping[Partition, int | None] = self._topics.at(places, since) if since else firsts
        ranges = []
        for place in places:
            start = starts[place]
            ranges.append(Range(*place, ends[place] if start is None else start, ends[place]))
        if any(0 < firsts[place] == starts[place] for place in places):
            self._shortened.append(topic)
        return ranges

    def _read(
        self, topic: str, ranges: Collection[Range], add: Callable[[Message], None]
    ) -> Iterator[AuditProgress]:
        read, total = 0, sum(each.end - each.start for each in ranges)
        yield AuditProgress(topic, read, total)
        try:
            for batch in read_settled(self._deployment.cluster, ranges):
                for message in batch:
                    add(message)
                if batch:
                    read += len(batch)
                    yield AuditProgress(topic, read, total)
        except Hidden:
            self._not_to_the_end.append(topic)
        yield AuditProgress(topic, total, total)

    def _add_record(self, message: Message) -> None:
        place = Partition(message.topic() or "", message.partition() or 0)
        at = (message.offset() or 0) - self._starts[place]
        self._seen[place][at] |= RECORD
        self._timestamps[place][at] = message.timestamp()[1]

    def _add_result(self, message: Message) -> None:
        try:
            result = self._codec.decode_result(message.value() or b"")
        except Undecodable:
            self._unreadable[message.topic() or ""] += 1
            return
        place = Partition(result["topic"], result["partition"])
        if (seen := self._seen.get(place)) is None:
            return
        is_ours, at = self._deployment.is_ours(result["group"]), result["offset"] - self._starts[place]
        if at < 0 and is_ours:
            self._last_before[place] = max(self._last_before.get(place, 0), result["offset"])
        if 0 <= at < len(seen) and self._is_of(place, at, epoch_ms(result["timestamp"])):
            seen[at] = with_result(seen[at], result, is_ours=is_ours)

    def _is_of(self, place: Partition, at: int, timestamp: int) -> bool:
        """Whether a result or letter is for the record that is at the place now; counts those that are not."""
        is_so = not self._seen[place][at] & RECORD or self._timestamps[place][at] == timestamp
        self._earlier[place.topic] += not is_so
        return is_so

    def _add_letter(self, message: Message) -> None:
        letter = read_letter(to_record(message))
        if letter is None:
            self._unreadable[message.topic() or ""] += 1
        elif self._deployment.is_ours(letter.group) and letter.replay is None and not letter.redrives:
            record = letter.record
            seen = self._seen.get(record.place.of, bytearray())
            at = record.offset - self._starts.get(record.place.of, 0)
            if 0 <= at < len(seen) and self._is_of(record.place.of, at, record.timestamp):
                seen[at] |= LETTER

    def report(self, progress: Mapping[Partition, Progress], written: Mapping[Partition, int]) -> AuditReport:
        """Return what was found. `written` has where the ranges would end if nothing were hidden."""
        found = tuple(
            self._audited(each, progress[each.of], max(0, written[each.of] - each.end)) for each in self._ranges
        )
        total: Counter[Count] = Counter()
        for audited in found:
            total.update(audited.counts)
        is_complete = not self._not_to_the_end and not any(each.hidden or each.is_cut for each in found)
        return AuditReport(found, is_complete, tuple(self._notes(found, total)))

    def _audited(self, of: Range, progress: Progress, hidden: int) -> Audited:
        seen, committed, log_start = self._seen[of.of], progress.offset, self._log_starts[of.of]
        counts: Counter[Count] = Counter()
        first: dict[Count, list[int]] = {trouble: [] for trouble in TROUBLES}
        for low, high, is_due in _due(of, progress):
            kinds = {kind: counted_as(kind, due=is_due) for kind in _KINDS}
            for kind, times in Counter(memoryview(seen)[low:high]).items():
                counts.update(dict.fromkeys(kinds[kind], times))
            for trouble, offsets in first.items():
                sought = b"".join(re.escape(bytes([kind])) for kind in _KINDS if trouble in kinds[kind])
                if counts[trouble] and sought:
                    matches = re.compile(b"[%b]" % sought).finditer(seen, low, high)
                    offsets += [of.start + match.start() for match in islice(matches, MOST_PLACES - len(offsets))]
        last = self._last_before.get(of.of)
        reached = committed if last is None else last + 1
        if reached is not None and of.start == log_start and reached < log_start:
            # The results, or the group, end before the log begins. In between were records that nobody read, or
            # only aborted ones and transaction markers, which get no result. The log can't tell any more.
            counts[Count.LOST], first[Count.LOST] = log_start - reached, [reached]
        said = {trouble: tuple(sorted(offsets)) for trouble, offsets in first.items()}
        return Audited(of, committed, counts, said, hidden, progress.ahead, self._log_ends[of.of])

    def _notes(self, found: Collection[Audited], total: Mapping[Count, int]) -> Iterator[str]:
        deployment, group = self._deployment, self._deployment.cluster.group
        for topic, trouble in (
            (deployment.results_topic, Count.MISSING),
            (deployment.dead_letters_topic, Count.WITHOUT_LETTER),
        ):
            if topic in self._shortened and total[trouble]:
                yield f"retention has deleted the oldest records of {topic}: missing results may be among them."
        for each in found:
            if each.hidden:
                yield (
                    f"{each.range.of}: not proven from the offset {each.range.end} on: {each.hidden} offsets are "
                    "hidden behind a transaction that does not end."
                )
            if each.is_cut:
                yield (
                    f"{each.range.of}: not proven: the log ends at {each.log_end}, before the committed offset "
                    f"{each.committed}: it was truncated, or the topic was created again."
                )
        for topic in self._not_to_the_end:
            yield f"{topic} has a transaction that does not end: records behind it were not read."
        for topic, count in self._earlier.items():
            if count:
                of_others = f"{count} results and dead letters belong to records that are gone"
                yield f"{topic} was truncated, or deleted and created again: {of_others}."
        for topic, count in self._unreadable.items():
            yield f"{topic} has unreadable records, which were left out: {count}."
        for each in found:
            if each.ahead and (blocker := each.ahead.blocker):
                cause = f" ({blocker.cause})" if blocker.cause else ""
                yield (
                    f"{each.range.of}: {blocker.strand} blocks the committed offset{cause}; {each.ahead.count} "
                    "later offsets are decided."
                )
        fresh = [each.range for each in found if each.committed is None and each.counts.get(Count.WAITING)]
        if fresh:
            names = ", ".join(str(each.of) for each in fresh)
            yield f"the group {group} has no committed offset for {names}, so these records need no results yet."


def _due(of: Range, progress: Progress) -> Iterator[tuple[int, int, bool]]:
    """Split a range, counted from its start, by whether records must have their result."""
    size, at = of.end - of.start, 0
    runs = progress.ahead.runs if progress.ahead else ()
    for start, end in ((of.start, progress.offset or 0), *runs):
        low, high = (min(max(offset - of.start, at), size) for offset in (start, end))
        yield at, low, False
        yield low, high, True
        at = high
    yield at, size, False
