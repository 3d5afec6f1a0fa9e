"""A simulated Kafka: logs with transactions and markers, producer epochs, and groups. Pure state and timers.

Clients see the behavior of Apache Kafka. Each step here happens at one moment, as on the broker that leads a
partition or coordinates a group. The network between broker and clients is in `clients.py`. The contract tests
(`tests/integration/test_contract.py`) compare it with a real broker.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, Uuid

from consumer.engine.records import Partition
from tests.simulation.kernel import Kernel

REBALANCE_TIMEOUT = 12.0
"""Seconds that members have to rejoin a rebalance: `max.poll.interval.ms`."""

_MOST_BESIDE = 4096
"""Bytes of metadata that an offset may have: `offset.metadata.max.bytes`."""

Headers = list[tuple[str, str | bytes | None]]


class Refused(Exception):
    """The broker refuses a request. `code` is that of a KafkaError.

    `topics` are those of records that are too large.
    """

    def __init__(self, code: int, topics: tuple[str, ...] = ()) -> None:
        super().__init__(KafkaError(code).name())
        self.code = code
        self.topics = topics


@dataclass(slots=True)
class Entry:
    """What is at one offset: a record, or the marker that ends a transaction. `pid` is that of its transaction."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers | None
    pid: int | None
    is_marker: bool = False
    is_aborted: bool = False


class Log:
    """One partition. `start` is the first offset that retention has not deleted."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.has_leader = True
        self.entries: list[Entry] = []
        self.start = 0
        self.open: dict[int, int] = {}

    @property
    def end(self) -> int:
        return len(self.entries)

    @property
    def stable(self) -> int:
        """The last stable offset: where readers of committed records stop."""
        return min(self.open.values(), default=self.end)

    def append(
        self, now: float, key: bytes | None, value: bytes | None, headers: Headers | None, pid: int | None
    ) -> Entry:
        entry = Entry(self.end, int(now * 1000), key, value, headers, pid)
        if pid is not None:
            self.open.setdefault(pid, entry.offset)
        self.entries.append(entry)
        return entry

    def mark(self, now: float, pid: int, *, committed: bool) -> None:
        """End a transaction's part in this partition."""
        first = self.open.pop(pid, None)
        if first is not None and not committed:
            for entry in self.entries[first:]:
                if entry.pid == pid and not entry.is_marker:
                    entry.is_aborted = True
        self.entries.append(Entry(self.end, int(now * 1000), None, None, None, pid, is_marker=True))

    def read(self, position: int, most: int) -> tuple[list[Entry], int]:
        """Read committed records. Gives them, and the position after them. Raises Refused if out of range."""
        if not self.start <= position <= self.end:
            raise Refused(KafkaError.OFFSET_OUT_OF_RANGE)
        found: list[Entry] = []
        stable = self.stable
        while position < stable and len(found) < most:
            entry = self.entries[position]
            position += 1
            if not (entry.is_marker or entry.is_aborted):
                found.append(entry)
        while position < stable and (self.entries[position].is_marker or self.entries[position].is_aborted):
            position += 1
        return found, position


@dataclass(slots=True)
class Transactional:
    """What the transaction coordinator knows about one transactional id.

    `ending` counts markers that are not written yet; until then no new transaction begins.
    """

    pid: int
    epoch: int = -1
    timeout: float = 0.0
    is_open: bool = False
    number: int = 0
    ending: int = 0
    logs: dict[Log, list[Entry]] = field(default_factory=dict)
    offsets: dict["Group", dict[Partition, tuple[int, str]]] = field(default_factory=dict)


@dataclass(slots=True)
class Membership:
    """One member, as the group's coordinator sees it. `respond` answers its waiting join."""

    member_id: str
    instance: str | None
    session: float
    topics: tuple[str, ...] = ()
    claims: tuple[Partition, ...] = ()
    claimed_in: int = -1
    assignment: tuple[Partition, ...] = ()
    respond: Callable[[object], None] | None = None
    expires: float = 0.0


@dataclass(frozen=True, slots=True)
class Joined:
    """The answer to a join: the member id, the generation and the partitions."""

    member_id: str
    generation: int
    assignment: tuple[Partition, ...]


class Group:
    """A consumer group's coordinator: members, generations, committed offsets."""

    def __init__(self, kernel: Kernel, logs: Mapping[Partition, Log], said: Callable[[str], None]) -> None:
        self.members: dict[str, Membership] = {}
        self.generation = 0
        self.offsets: dict[Partition, int] = {}
        self.ahead: dict[Partition, str] = {}
        self.pending: dict[int, dict[Partition, tuple[int, str]]] = {}
        self.is_joining = False
        self._kernel = kernel
        self._logs = logs
        self._said = said
        self._round = 0
        self._names = 0

    def owner(self, partition: Partition) -> str | None:
        """Give the member that has a partition by the last assignment."""
        return next((m.member_id for m in self.members.values() if partition in m.assignment), None)

    # requests of members

    def join(
        self,
        member_id: str,
        instance: str | None,
        session: float,
        topics: tuple[str, ...],
        claims: tuple[Partition, ...],
        claimed_in: int,
        respond: Callable[[object], None],
    ) -> None:
        if not member_id:
            member_id = self._new_member(instance, session)
        elif member_id not in self.members:
            known = instance is not None and any(m.instance == instance for m in self.members.values())
            raise Refused(KafkaError.FENCED_INSTANCE_ID if known else KafkaError.UNKNOWN_MEMBER_ID)
        member = self.members[member_id]
        member.topics, member.claims, member.claimed_in, member.respond = topics, claims, claimed_in, respond
        is_all_assigned = all(self.owner(p) for p in self._logs if p.topic in topics)
        if (
            instance is not None
            and not self.is_joining
            and claimed_in < 0
            and member.assignment
            and is_all_assigned
        ):
            # A static member that comes back gets its partitions without a rebalance (KIP-345). Here, but not on a
            # real broker, one follows if a partition that it was about to give up waits for it.
            self._touch(member)
            member.respond = None
            respond(Joined(member_id, self.generation, member.assignment))
            return
        self.rebalance()
        self._complete_if_all()

    def heartbeat(self, member_id: str, instance: str | None, generation: int) -> None:
        member = self._member(member_id, instance)
        self._touch(member)
        if self.is_joining:
            raise Refused(KafkaError.REBALANCE_IN_PROGRESS)
        if generation != self.generation:
            raise Refused(KafkaError.ILLEGAL_GENERATION)

    def leave(self, member_id: str) -> None:
        if member_id in self.members:
            self._remove(member_id, "left")

    def committed(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Give committed offsets. Raises Refused while a transaction is about to change one (KIP-447)."""
        wanted = list(partitions)
        if any(partition in pending for pending in self.pending.values() for partition in wanted):
            raise Refused(KafkaError.UNSTABLE_OFFSET_COMMIT)
        return {partition: self.offsets[partition] for partition in wanted if partition in self.offsets}

    def check(self, member_id: str, instance: str | None, generation: int) -> None:
        """Refuse a transaction's offsets from a former member (KIP-447)."""
        self._member(member_id, instance)
        if generation != self.generation:
            raise Refused(KafkaError.ILLEGAL_GENERATION)

    # rebalances

    def rebalance(self) -> None:
        """Ask all members to rejoin."""
        if self.is_joining:
            return
        self.is_joining = True
        self._round += 1
        number = self._round
        self._kernel.after(REBALANCE_TIMEOUT, lambda: self._complete(number))

    def moved(self) -> None:
        """Move to another broker: waiting joins are lost, and sessions start again."""
        for member in list(self.members.values()):
            respond, member.respond = member.respond, None
            if respond:
                respond(Refused(KafkaError.NOT_COORDINATOR))
            self._touch(member)
        if self.is_joining:
            self.is_joining = False
            self.rebalance()

    def _new_member(self, instance: str | None, session: float) -> str:
        self._names += 1
        member = Membership(f"{instance or 'member'}-{self._names}", instance, session)
        old = next((m for m in self.members.values() if instance is not None and m.instance == instance), None)
        if old:
            member.assignment = old.assignment
            del self.members[old.member_id]
            if old.respond:
                old.respond(Refused(KafkaError.FENCED_INSTANCE_ID))
        self.members[member.member_id] = member
        self._touch(member)
        return member.member_id

    def _member(self, member_id: str, instance: str | None) -> Membership:
        if member_id in self.members:
            return self.members[member_id]
        known = instance is not None and any(m.instance == instance for m in self.members.values())
        raise Refused(KafkaError.FENCED_INSTANCE_ID if known else KafkaError.UNKNOWN_MEMBER_ID)

    def _touch(self, member: Membership) -> None:
        is_watched = member.expires > self._kernel.now
        member.expires = self._kernel.now + member.session
        if not is_watched:
            self._kernel.at(member.expires, lambda: self._expire(member))

    def _expire(self, member: Membership) -> None:
        if self.members.get(member.member_id) is not member:
            return
        if member.respond is not None:
            member.expires = self._kernel.now + member.session  # a member that waits for its join is not silent
        if member.expires > self._kernel.now:
            self._kernel.at(member.expires, lambda: self._expire(member))
        else:
            self._remove(member.member_id, "was silent for its session")

    def _remove(self, member_id: str, why: str) -> None:
        self._said(f"group: {member_id} {why}")
        del self.members[member_id]
        self.rebalance()
        self._complete_if_all()

    def _complete_if_all(self) -> None:
        if all(member.respond for member in self.members.values()):
            # Wait a moment, because others may be about to join too.
            number = self._round
            self._kernel.after(0.05, lambda: self._complete(number, only_if_all=True))

    def _complete(self, number: int, *, only_if_all: bool = False) -> None:
        if not self.is_joining or number != self._round:
            return
        if only_if_all and not all(member.respond for member in self.members.values()):
            return
        for member in [m for m in self.members.values() if not m.respond and m.instance is None]:
            self._said(f"group: {member.member_id} did not rejoin in time")
            del self.members[member.member_id]
        self.is_joining = False
        self.generation += 1
        self._assign()
        told = ", ".join(f"{m.member_id}: {' '.join(map(str, m.assignment))}" for m in self.members.values())
        self._said(f"group: generation {self.generation}, {told}")
        for member in self.members.values():
            respond, member.respond = member.respond, None
            self._touch(member)
            if respond:
                respond(Joined(member.member_id, self.generation, member.assignment))

    def _assign(self) -> None:
        """Share the partitions evenly. A partition that moves is first given up by its owner (KIP-429)."""
        members = sorted(self.members.values(), key=lambda member: member.member_id)
        topics = {topic for member in members for topic in member.topics}
        partitions = [partition for partition in self._logs if partition.topic in topics]
        claimed: dict[Partition, Membership] = {}
        for member in sorted(members, key=lambda each: each.claimed_in):
            mine = member.claims if member.respond else member.assignment
            claimed |= dict.fromkeys(mine, member)  # the later generation is right
        shares: dict[str, list[Partition]] = {member.member_id: [] for member in members}
        most = -(-len(partitions) // len(members)) if members else 0
        rest: list[Partition] = []
        for partition in partitions:
            owner = claimed.get(partition)
            if owner and len(shares[owner.member_id]) < most:
                shares[owner.member_id].append(partition)
            else:
                rest.append(partition)
        while members:
            poorest = min(shares.values(), key=len)
            richest = max(shares.values(), key=len)
            if rest:
                poorest.append(rest.pop(0))
            elif len(richest) - len(poorest) > 1:
                poorest.append(richest.pop())
            else:
                break
        for member in members:
            share = shares[member.member_id]
            member.assignment = tuple(each for each in share if claimed.get(each, member) is member)


class Broker:
    """The whole cluster: topics, transactional ids, one group. `commits` is called at each transaction's commit."""

    def __init__(self, kernel: Kernel, said: Callable[[str], None]) -> None:
        self.kernel = kernel
        self.logs: dict[Partition, Log] = {}
        self.group = Group(kernel, self.logs, said)
        self.full: set[str] = set()
        self.largest: dict[str, int] = {}
        self.incarnations: Counter[str] = Counter()
        self.keeps_metadata = True
        self.commits: Callable[[Transactional], None] = lambda _: None
        self.changed: Callable[[], None] = lambda: None
        self._said = said
        self._ids: dict[str, Transactional] = {}

    def add_partitions(self, topic: str, count: int) -> None:
        there = sum(partition.topic == topic for partition in self.logs)
        for number in range(there, there + count):
            partition = Partition(topic, number)
            self.logs[partition] = Log(partition)

    def logs_of(self, topic: str) -> list[Log]:
        return [log for partition, log in self.logs.items() if partition.topic == topic]

    def delete_up_to(self, log: Log, offset: int) -> None:
        """Let retention delete the records before an offset."""
        log.start = max(log.start, min(offset, log.end))
        self.changed()

    def create_again(self, topic: str) -> None:
        """Delete a topic and create it again. The group's offsets of it are deleted, even in open transactions."""
        self.incarnations[topic] += 1
        for log in self.logs_of(topic):
            log.entries, log.start, log.open = [], 0, {}
            for offsets in (self.group.offsets, self.group.ahead, *self.group.pending.values()):
                offsets.pop(log.partition, None)  # type: ignore[attr-defined]
        self.changed()

    def topic_id(self, topic: str) -> Uuid:
        """Give the current id of a topic."""
        return Uuid(1, 1 + self.incarnations[topic])

    def append(self, log: Log, key: bytes | None, value: bytes | None, pid: int | None = None) -> Entry:
        entry = log.append(self.kernel.now, key, value, None, pid)
        self.changed()
        return entry

    # transactions

    def init_producer(self, name: str, timeout: float) -> tuple[int, int]:
        """Give pid and epoch. The previous owner of the id is fenced, and its open transaction aborted."""
        state = self._ids.setdefault(name, Transactional(len(self._ids) + 1))
        if state.ending:
            raise Refused(KafkaError.CONCURRENT_TRANSACTIONS)
        state.epoch += 1
        if state.is_open:
            self._end(state, committed=False)
            raise Refused(KafkaError.CONCURRENT_TRANSACTIONS)
        state.timeout = timeout
        return state.pid, state.epoch

    def produce(
        self, name: str, epoch: int, records: Iterable[tuple[Log, bytes | None, bytes | None, Headers]]
    ) -> None:
        """Append records to a transaction. The first one begins it."""
        wanted = list(records)
        state = self._opened(name, epoch)
        if any(log.partition.topic in self.full for log, *_ in wanted):
            raise Refused(KafkaError.KAFKA_STORAGE_ERROR)
        too_large = tuple(log.partition.topic for log, _, value, _ in wanted if self._is_too_large(log, value))
        if too_large:
            raise Refused(KafkaError.MSG_SIZE_TOO_LARGE, too_large)
        for log, key, value, headers in wanted:
            entry = log.append(self.kernel.now, key, value, headers, state.pid)
            state.logs.setdefault(log, []).append(entry)

    def _is_too_large(self, log: Log, value: bytes | None) -> bool:
        largest = self.largest.get(log.partition.topic)
        return largest is not None and len(value or b"") > largest

    def add_offsets(
        self,
        name: str,
        epoch: int,
        offsets: Mapping[Partition, tuple[int, str]],
        member: tuple[str, str | None, int],
    ) -> None:
        """Add the group's offsets and their metadata to a transaction."""
        if any(len(beside.encode()) > _MOST_BESIDE for _, beside in offsets.values()):
            raise Refused(KafkaError.OFFSET_METADATA_TOO_LARGE)
        state = self._opened(name, epoch)
        self.group.check(*member)
        state.offsets.setdefault(self.group, {}).update(offsets)
        self.group.pending.setdefault(state.pid, {}).update(offsets)

    def end_transaction(self, name: str, epoch: int, *, committed: bool) -> None:
        state = self._known(name, epoch)
        if state.is_open:
            self._end(state, committed=committed)

    def _known(self, name: str, epoch: int) -> Transactional:
        state = self._ids[name]
        if epoch != state.epoch:
            raise Refused(KafkaError.INVALID_PRODUCER_EPOCH)
        return state

    def _opened(self, name: str, epoch: int) -> Transactional:
        state = self._known(name, epoch)
        if state.ending:
            raise Refused(KafkaError.CONCURRENT_TRANSACTIONS)
        if not state.is_open:
            state.is_open = True
            state.number += 1
            state.logs, state.offsets = {}, {}
            number = state.number
            self.kernel.after(state.timeout, lambda: self._time_out(name, state, number))
        return state

    def _time_out(self, name: str, state: Transactional, number: int) -> None:
        if state.is_open and state.number == number:
            self._said(f"broker: the transaction of {name} timed out")
            state.epoch += 1
            self._end(state, committed=False)

    def _end(self, state: Transactional, *, committed: bool) -> None:
        """Decide a transaction. Its markers follow, each after its own delay."""
        state.is_open = False
        if committed:
            self.commits(state)
        self._said(f"broker: transaction of {state.pid} {'committed' if committed else 'aborted'}")
        for log in state.logs:
            state.ending += 1
            self._later(lambda log=log: self._mark(state, log, committed=committed))  # type: ignore[misc]
        for group in state.offsets:
            state.ending += 1
            self._later(lambda g=group: self._mark_group(state, g, committed=committed))  # type: ignore[misc]

    def _later(self, call: Callable[[], None]) -> None:
        self.kernel.after(self.kernel.random.choice((0.0, 0.0, 0.001, 0.02, 0.3)), call)

    def _mark(self, state: Transactional, log: Log, *, committed: bool) -> None:
        log.mark(self.kernel.now, state.pid, committed=committed)
        state.ending -= 1
        self.changed()

    def _mark_group(self, state: Transactional, group: Group, *, committed: bool) -> None:
        offsets = group.pending.pop(state.pid)  # without those of topics deleted meanwhile
        if committed:
            for partition, (offset, beside) in offsets.items():
                group.offsets[partition] = offset
                group.ahead[partition] = beside if self.keeps_metadata else ""
        state.ending -= 1
