"""What must hold. Each guarantee is checked at the moment at which it would be broken.

- When a request is sent: as far as the sender can know, it still has the partition. Its process was not frozen for
  longer than its session. Earlier events of the same key are decided, or precede in the same request. No event was
  decided before.
- At each commit: each record has one result and never two, in order per Kafka key. The metadata of each offset has
  exactly the records decided beyond it. Each result has the expected code. Each failed record has a dead letter
  with its exact bytes, and others have none. No event counts as sent unless the API has it. Offsets match the
  results, and never go back.
- At each view: what a member holds is bounded, and it is not ready while it waits for something.
- A recreated topic is read from its beginning. Until a member can know of it, it may keep its position: such
  records may come before earlier ones, and twice after a crash.
- At the end: nothing is lost, the last arrival of each key is its newest version, and all members are idle.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import Uuid

from consumer.engine.ahead import read
from consumer.engine.records import Partition
from jirafe.client import Accepted, Answer, Answered, Refused, Rejected, Transient
from schemas.codec import Codec
from tests.simulation.broker import Entry, Log, Transactional
from tests.simulation.clients import Assigned, SimConsumer
from tests.simulation.kernel import Process
from tests.simulation.workload import SENT, UNORDERED, Event, Made, Sent

RESULTS, LETTERS = "results", "dead-letters"


class Breach(AssertionError):
    """A guarantee was broken. `invariant` names it, and the text says how."""

    def __init__(self, invariant: str, told: str) -> None:
        super().__init__(f"{invariant}: {told}")
        self.invariant = invariant


@dataclass(eq=False, slots=True)
class Request:
    """A batch on its way. `held` are the assignments by which its sender may send its records."""

    process: Process
    consumer: SimConsumer
    site: str
    token: str
    events: list[tuple[Sent, Event]]
    held: dict[Partition, Assigned]
    is_given_up: bool = False

    def is_late(self, owner: str | None, partition: Partition) -> bool:
        """Return whether its sender may have lost the partition, or given the request up, since it was sent."""
        consumer = self.consumer
        return (
            self.is_given_up
            or not self.process.is_alive
            or consumer.is_closed
            or consumer.assigned.get(partition) is not self.held[partition]
            or consumer.member_id != owner
        )


@dataclass(slots=True)
class _Key:
    """One key at the API: the record produced last, and the event that arrived last.

    A late event, whose sender may have lost the partition, counts only if it is newer.
    """

    last: Sent | None = None
    arrived: tuple[Sent, int] | None = None


class Ledger:
    """Knows everything that was produced, and is told what happens to it."""

    def __init__(
        self,
        codec: Codec,
        owner_of: dict[Partition, str | None],
        now: Callable[[], float] = lambda: 0.0,
        topic_id: Callable[[str], Uuid] = lambda _: Uuid(1, 1),
    ) -> None:
        self.sent: dict[Partition, dict[int, Sent]] = defaultdict(dict)
        self.events: dict[bytes, tuple[Sent, Event]] = {}
        self.committed: dict[Partition, int] = {}
        self.undecided_failing = 0
        self.breach: Breach | None = None
        self._codec = codec
        self._now = now
        self._of_key: dict[tuple[Partition, bytes], list[Sent]] = defaultdict(list)
        self._keys: dict[str, _Key] = defaultdict(_Key)
        self._owner_of = owner_of
        self._topic_id = topic_id
        # When topics were last recreated, how often, and the records of the earlier ones.
        self.created_at: dict[str, float] = {}
        # By partition, the first offset that the metadata of an earlier topic's offset says is decided ahead.
        self._skipped_from: dict[Partition, int] = {}
        self._incarnations: Counter[str] = Counter()
        self._gone: dict[tuple[Partition, int, int], Sent] = {}
        # Keys at the API of records that were sent too early.
        self._unordered: set[str] = set()

    def __len__(self) -> int:
        return sum(map(len, self.sent.values()))

    def produced(self, made: Made, partition: Partition, offset: int) -> Sent:
        """Note a record that consumers will see."""
        sent = Sent(
            made,
            partition,
            offset,
            timestamp=int(self._now() * 1000),
            incarnation=self._incarnations[partition.topic],
        )
        self.sent[partition][offset] = sent
        self._of_key[partition, made.key].append(sent)
        if made.events:
            for event in made.events:
                self.events[event.json] = (sent, event)
            self.undecided_failing += made.letter == "failing"
            if made.kind not in UNORDERED:
                key = self._keys[made.event_key]
                sent.before, key.last = key.last, sent
        return sent

    def broken(self, invariant: str, told: str) -> Breach:
        """Note a breach, and return it to be raised. The run ends even if it is caught."""
        self.breach = self.breach or Breach(invariant, told)
        return self.breach

    def expired(self, log: Log) -> None:
        """Note that retention deleted records."""
        for offset, sent in self.sent[log.partition].items():
            if offset < log.start and not sent.results:
                sent.is_expired = True

    def created_again(self, topic: str) -> None:
        """Note that a topic was deleted with all its records, and created again."""
        for partition in [each for each in self.sent if each.topic == topic]:
            for sent in self.sent.pop(partition).values():
                sent.is_expired = sent.is_expired or not sent.results
                self._gone[partition, sent.offset, sent.timestamp] = sent
                self._of_key.pop((partition, sent.made.key), None)
                key = self._keys[sent.made.event_key]
                if key.last and key.last.partition == partition:
                    key.last = None
            self.committed.pop(partition, None)
            self._skipped_from.pop(partition, None)
        self._incarnations[topic] += 1
        self.created_at[topic] = self._now()

    def _note_early(self, sent: Sent) -> None:
        sent.is_early = True
        self._unordered.add(sent.made.event_key)

    def _reads_on(self, sent: Sent, held: Assigned) -> bool:
        """Return whether a recreated partition is read from an offset of the earlier one, or with its metadata."""
        partition = sent.partition
        if not sent.incarnation or sent.incarnation != self._incarnations[partition.topic]:
            return False
        if partition in self._skipped_from and sent.offset > self._skipped_from[partition]:
            return True
        return held.since < self.created_at[partition.topic] or held.start > self.committed.get(partition, 0)

    # at the API

    def departs(self, request: Request, longest_silence: float) -> None:
        """A request is sent now."""
        process = request.process
        if any(
            until - max(since, request.consumer.made) > longest_silence + 0.001 for since, until in process.freezes
        ):
            raise self.broken(
                "sends after standing still", f"{process.name} stood still for longer than its session"
            )
        ahead: set[tuple[Sent, int]] = set()
        for sent, event in request.events:
            held = request.held.get(sent.partition)
            if held is None:
                raise self.broken(
                    "sends what is not its own", f"{process.name} sends {sent} without owning {sent.partition}"
                )
            if self._reads_on(sent, held):
                self._note_early(sent)
            if sent.results and sent.decided_at < held.granted and not sent.is_early:
                raise self.broken("sends what is decided", f"{process.name} sends {sent}, which has its result")
            if (sent, event.number) in held.decided:
                raise self.broken(
                    "sends what is decided", f"{process.name} sends {sent}, event {event.number}, again"
                )
            earlier = self._before(sent, event)
            is_first = earlier is None or earlier in ahead or earlier in held.decided or sent.is_early
            if earlier and not is_first and _is_due(earlier[0], held):
                raise self.broken(
                    "order per key", f"{process.name} sends {sent}, event {event.number}, before {earlier[0]}"
                )
            ahead.add((sent, event.number))

    def arrives(self, request: Request, sent: Sent, event: Event, *, is_behind: bool) -> None:
        """The API accepts an event. `is_behind`: it could not accept an earlier one of its key."""
        earlier = self._before(sent, event)
        is_first = earlier is None or is_behind or sent.is_early
        if earlier and not is_first and not _has_arrived(*earlier) and not earlier[0].is_expired:
            raise self.broken("order per key", f"{sent}, event {event.number}, arrives first, {earlier[0]} has not")
        sent.accepted.add(event.number)
        if is_behind:
            return  # it is sent again
        key = self._keys[sent.made.event_key]
        is_late = request.is_late(self._owner_of.get(sent.partition), sent.partition)
        if not is_late or not key.arrived or _rank(key.arrived) <= _rank((sent, event.number)):
            key.arrived = (sent, event.number)

    def answered(self, request: Request, answer: Answer) -> None:
        """The sender has read an answer."""
        if isinstance(answer, Refused) and len(request.events) == 1:
            sent, event = request.events[0]
            request.held[sent.partition].decided.add((sent, event.number))
        if not isinstance(answer, Answered):
            return
        waiting: set[str] = set()
        for (sent, event), item in zip(request.events, answer.items, strict=True):
            if isinstance(item, Transient):
                waiting.add(sent.made.event_key)
            elif isinstance(item, (Accepted, Rejected)) and sent.made.event_key not in waiting:
                request.held[sent.partition].decided.add((sent, event.number))

    def _before(self, sent: Sent, event: Event) -> tuple[Sent, int] | None:
        if event.number:
            return sent, event.number - 1
        if sent.before is None:
            return None
        return sent.before, len(sent.before.made.events) - 1

    # at commits

    def commits(self, transaction: Transactional) -> None:
        """A transaction is committed now."""
        results: dict[Partition, list[int]] = defaultdict(list)
        decided: dict[tuple[Partition, int], tuple[Sent, int]] = {}
        beside = {p: each for group in transaction.offsets.values() for p, each in group.items()}
        old = {partition for partition, (offset, told) in beside.items() if self._is_old(partition, offset, told)}
        letters: dict[tuple[Partition, int], Entry] = {}
        for log, entries in transaction.logs.items():
            for entry in entries:
                if log.partition.topic == RESULTS:
                    sent, code = self._result(entry, old)
                    results[sent.partition].append(sent.offset)
                    decided[sent.partition, sent.offset] = sent, code
                else:
                    where = _letter_of(entry)
                    if where in letters:
                        raise self.broken("dead letters", f"two of {where}")
                    letters[where] = entry
        for where, entry in letters.items():
            if where not in decided:
                raise self.broken("dead letters", f"one of {where}, without a result in the same transaction")
            self._check_letter(*decided[where], entry)
        for where, (sent, code) in decided.items():
            if code != 200 and where not in letters:
                raise self.broken("dead letters", f"{sent} has an error result and no dead letter")
        for partition in results:
            if partition not in beside:
                raise self.broken("offsets with results", f"results of {partition} go without an offset")
        for partition, (offset, told) in beside.items():
            if partition not in old:
                self._skipped_from.pop(partition, None)
            elif told and (runs := read(offset, told).runs):
                self._skipped_from.setdefault(partition, runs[0][0])
        for partition in old:
            del beside[partition]  # it says nothing about the present topic
        self._check_offsets(beside)

    def _is_old(self, partition: Partition, offset: int, told: str) -> bool:
        """Return whether a committed offset is, or may be, of an earlier topic of the same name."""
        if not self._incarnations[partition.topic]:
            return False
        return not told or read(offset, told).topic_id != str(self._topic_id(partition.topic))

    def _result(self, entry: Entry, old: set[Partition]) -> tuple[Sent, int]:
        result = self._codec.decode_result(entry.value or b"")
        partition, offset = Partition(result["topic"], result["partition"]), result["offset"]
        timestamp = round(result["timestamp"].timestamp() * 1000)
        sent = self.sent[partition].get(offset)
        if sent is None or sent.timestamp != timestamp:
            sent = self._gone.get((partition, offset, timestamp))
        elif partition in old:
            self._note_early(sent)
        if sent is None:
            raise self.broken("results", f"one of no record: {partition}/{offset}")
        sent.results += 1
        sent.decided_at = self._now()
        earlier = [] if sent.is_early else self._of_key[partition, sent.made.key]
        for each in earlier:
            is_before = each.incarnation == sent.incarnation and each.offset < sent.offset
            if is_before and not (each.results or each.is_expired):
                raise self.broken("results in order per key", f"that of {sent} comes before that of {each}")
        made, due = sent.made, 500 if sent.made.letter else 200
        if sent.results > 1 and not sent.is_early:
            raise self.broken("exactly one result", f"{sent} has two")
        # A result that was too large for its topic has its place as its key.
        if entry.key not in (made.key, f"{partition}/{sent.offset}".encode()):
            raise self.broken("results", f"that of {sent} has another key: {entry.key!r}")
        if result["code"] != due:
            told = [each["description"] for each in result["notifications"]]
            raise self.broken("results", f"{sent} has the code {result['code']}, due is {due}: {told}")
        if due == 200 and len(sent.accepted) < len(made.events):
            raise self.broken("nothing lost", f"{sent} has a result of success, but the API lacks some of it")
        if made.letter == "failing":
            self.undecided_failing -= 1
        return sent, result["code"]

    def _check_letter(self, sent: Sent, code: int, entry: Entry) -> None:
        if code != 500:
            raise self.broken("dead letters", f"{sent} has one, and its result in the same transaction is {code}")
        if (entry.key, entry.value) != (sent.made.key, sent.made.value):
            raise self.broken("dead letters", f"that of {sent} has other bytes")
        kind = dict(entry.headers or ())["dlq.kind"]
        if kind != (sent.made.letter or "").encode():
            raise self.broken("dead letters", f"that of {sent} is of kind {kind!r}, due is {sent.made.letter}")

    def _check_offsets(self, beside: dict[Partition, tuple[int, str]]) -> None:
        for partition, (offset, told) in beside.items():
            runs = read(offset, told).runs if told else ()
            listed = {number for start, end in runs for number in range(start, end)}
            ahead = {n for n, sent in self.sent[partition].items() if n >= offset and sent.results}
            # Retention may have deleted undecided records. They count as decided.
            of_partition = self.sent[partition]
            known = {
                n
                for n in listed
                if n in of_partition and (of_partition[n].results or not of_partition[n].is_expired)
            }
            early = {n for n, sent in of_partition.items() if sent.is_early}
            if ahead - early != known - early:
                raise self.broken(
                    "decided ahead", f"{partition} has results of {sorted(ahead)} beyond {offset}, says {listed}"
                )
        for partition, (offset, _) in beside.items():
            before = self.committed.get(partition, 0)
            if offset < before:
                raise self.broken("offsets with results", f"{partition} goes back from {before} to {offset}")
            for number in range(before, offset):
                sent = self.sent[partition].get(number)
                if sent and not (sent.results or sent.is_expired):
                    raise self.broken(
                        "offsets with results", f"{partition} is committed up to {offset}, without {sent}"
                    )
            self.committed[partition] = offset

    # at the end

    def settle(self) -> None:
        """Compare what was produced with the outcomes, once everything is done."""
        for of_partition in self.sent.values():
            for sent in of_partition.values():
                if not (sent.results or sent.is_expired):
                    raise self.broken("nothing lost", f"{sent} has no result")
        for name, key in self._keys.items():
            if key.arrived is None or name in self._unordered:
                continue
            last: Sent | None = key.last
            while last and last is not key.arrived[0] and _need_not_arrive(last):
                last = last.before
            if last and last is key.arrived[0] and _need_not_arrive(last):
                continue  # it arrived, and its log lost it before it had its result
            if last and key.arrived != (last, len(last.made.events) - 1):
                raise self.broken("order per key", f"the last of {name} to arrive is {key.arrived[0]}, not {last}")

    def unfinished(self) -> list[Sent]:
        """Records that have no result yet and must get one."""
        return [
            sent
            for of_partition in self.sent.values()
            for sent in of_partition.values()
            if not (sent.results or sent.is_expired)
        ]


def _need_not_arrive(sent: Sent) -> bool:
    return sent.made.kind in SENT or (sent.is_expired and not sent.results)


def _rank(arrived: tuple[Sent, int]) -> tuple[int, int, int]:
    sent, number = arrived
    return sent.incarnation, sent.offset, number


def _is_due(sent: Sent, held: Assigned) -> bool:
    """Return whether this assignment must deliver a record: it is not committed already."""
    return sent.offset >= held.start and not (sent.is_expired or sent.results)


def _has_arrived(sent: Sent, number: int) -> bool:
    return number in sent.accepted or sent.made.kind in SENT


def _letter_of(entry: Entry) -> tuple[Partition, int]:
    headers = dict(entry.headers or ())

    def said(name: str) -> str:
        value = headers[f"dlq.{name}"]
        assert isinstance(value, bytes)
        return value.decode()

    return Partition(said("topic"), int(said("partition"))), int(said("offset"))
