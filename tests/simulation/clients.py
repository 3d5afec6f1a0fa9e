"""The simulated clients: what the engine calls of confluent-kafka's, with librdkafka's work in the background.

What the library does on its own threads (heartbeats, fetching, sending, retries) happens in events of the process,
so a call may time out and still be carried out. What the application must do (callbacks, taking records) happens
in its calls, as with the library.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_INVALID,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import ClusterMetadata, TopicDescription

from consumer.engine.kafka import GroupMetadata, RebalanceCallback
from consumer.engine.records import Partition
from tests.simulation.broker import Broker, Entry, Headers, Joined, Log, Refused
from tests.simulation.kernel import NEVER, Kernel, Killed, Process, Signal, Stuck

SESSION = 3.0
HEARTBEAT = 0.5
_FETCHED_AT_ONCE = 5
_MOST_QUEUED = 5
_LINGER = 0.005
_QUEUE_FULL = 200
_CLOSED_WITHIN = 1.0
_DESCRIBED_WITHIN = 10.0
_CALLS_AT_ONE_MOMENT = 2000

_RETRIED_BY_LIBRARY = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    }
)
GROUP_CALLS = ("join", "heartbeat", "committed", "leave", "offsets", "position")
TRANSACTION_CALLS = ("init", "end")
LOG_CALLS = ("produce", "fetch", "ends", "describe")
CALLS = GROUP_CALLS + TRANSACTION_CALLS + LOG_CALLS


@dataclass(frozen=True, slots=True)
class Effect:
    """What goes wrong with one call, and for how many seconds."""

    how: str
    seconds: float = 0.0


NOTHING = Effect("nothing")


class Network:
    """Carries requests between processes and the cluster, and loses or delays them.

    For each request, `trap` says what goes wrong with it.
    """

    def __init__(
        self, kernel: Kernel, trap: Callable[[Process, str], Effect], kill: Callable[[Process], None]
    ) -> None:
        self.kernel = kernel
        self._kill = kill
        self.cut_until: dict[Process, float] = {}
        self.down_until = dict.fromkeys(CALLS, 0.0)
        self._trap = trap

    def latency(self) -> float:
        return self.kernel.random.choice((0.0005, 0.001, 0.001, 0.002, 0.003, 0.005, 0.02))

    def is_cut(self, process: Process) -> bool:
        return self.cut_until.get(process, 0.0) > self.kernel.now

    def request(
        self,
        process: Process,
        call: str,
        execute: Callable[[Callable[[object], None]], None],
        then: Callable[[object], None],
        is_wanted: Callable[[], bool] = lambda: True,
        *,
        once: bool = False,
    ) -> None:
        """Ask the cluster repeatedly, until there is an answer or it is not wanted any more.

        `execute` runs in the cluster, twice if an answer was lost. With `once`, the broker recognizes a repeated
        request, and gives the same answer. `then` gets the answer, which may be Refused, in the process.
        """
        kernel = self.kernel
        answers: list[object] = []

        def again(seconds: float | None = None) -> None:
            kernel.after(seconds or kernel.random.choice((0.05, 0.1, 0.1, 0.5)), attempt, process)

        def attempt() -> None:
            if not is_wanted() or not process.is_alive:
                return
            effect = self._trap(process, call)
            if not process.is_alive:
                return
            if effect.how == "lost" or self.is_cut(process):
                again(effect.seconds)
                return
            out = self.latency() + (effect.seconds if effect.how == "slow" else 0.0)
            kernel.after(out, lambda: arrive(effect))

        def arrive(effect: Effect) -> None:
            if self.down_until[call] > kernel.now or effect.how == "refused":
                respond(effect, Refused(KafkaError.NOT_COORDINATOR))
            elif once and answers:
                respond(effect, answers[0])
            else:
                try:
                    execute(lambda answer: respond(effect, answer))
                except Refused as refusal:
                    respond(effect, refusal)

        def respond(effect: Effect, answer: object) -> None:
            if once and not _is_passing(answer):
                answers.append(answer)
            if effect.how == "killed after":
                self._kill(process)
            elif effect.how == "frozen after":
                kernel.freeze(process, effect.seconds)
            if effect.how == "unanswered" or self.is_cut(process):
                again(effect.seconds)
            else:
                back = self.latency() + (effect.seconds if effect.how == "answered late" else 0.0)
                kernel.after(back, lambda: receive(answer), process)

        def receive(answer: object) -> None:
            if _is_passing(answer):
                again(0.1)
            elif is_wanted():
                then(answer)

        attempt()


def _is_passing(answer: object) -> bool:
    return isinstance(answer, Refused) and answer.code in _RETRIED_BY_LIBRARY


# the consumer


@dataclass(eq=False, slots=True)
class Assigned:
    """One assigned partition. `position` is fetched next, and `delivered` goes to the application next.

    `since` is when it was last assigned, `granted` when the group gave it: the application may assign it again.
    """

    partition: Partition
    log: Log
    position: int | None = None
    delivered: int = 0
    start: int = 0
    eof: int | None = None
    queued: int = 0
    since: float = 0.0
    granted: float = 0.0
    decided: set[object] = field(default_factory=set)


_Fetched = list[tuple[Assigned, int, list[Entry], int | None, bool]]
"""For each partition: the requested position, its entries, the position after them, and whether that is the end."""


class SimConsumer:
    """A group member's consumer."""

    def __init__(
        self,
        network: Network,
        broker: Broker,
        process: Process,
        instance: str | None,
        on_error: Callable[[KafkaError], None],
    ) -> None:
        self.assigned: dict[Partition, Assigned] = {}
        self._granted: dict[Partition, float] = {}
        self.member_id = ""
        self.is_closed = False
        self.made = network.kernel.now
        self._network = network
        self._kernel = network.kernel
        self._broker = broker
        self._process = process
        self._instance = instance
        self._on_error = on_error
        self._topics: tuple[str, ...] = ()
        self._callbacks: dict[str, RebalanceCallback] = {}
        self._generation = -1
        self._ops: deque[tuple[str, tuple[Partition, ...]]] = deque()
        self._errors: deque[KafkaError] = deque()
        self._queue: deque[tuple[Assigned, Message]] = deque()
        self._paused: set[Partition] = set()
        self._ready = Signal()
        self._is_joining = False
        self._must_join = False
        self._is_lost = False
        self._in_callback = False
        self._is_fetching = False
        self._is_poked = False
        self._is_beating = False
        self._last_beat = 0.0
        self._calls_now = (0.0, 0)

    # what the application calls

    def subscribe(
        self,
        topics: list[str],
        on_assign: RebalanceCallback,
        on_revoke: RebalanceCallback,
        on_lost: RebalanceCallback,
    ) -> None:
        self._check()
        self._topics = tuple(topics)
        self._callbacks = {"assign": on_assign, "revoke": on_revoke, "lost": on_lost}
        self._join()
        self._kernel.after(HEARTBEAT, self._beat, self._process)

    def consume(self, num_messages: int, timeout: float) -> Sequence[Message]:
        self._check()
        self._serve()
        found: list[Message] = []
        while self._queue and len(found) < num_messages:
            found.append(self._pop())
        if not found and timeout > 0:
            one = self.poll(timeout)
            found += [one] if one is not None else []
        self._poke()
        return found

    def poll(self, timeout: float) -> Message | None:
        self._check()
        end = self._kernel.now + timeout
        while True:
            self._serve()
            if self._queue:
                return self._pop()
            if self._kernel.now >= end:
                return None
            self._ready.clear()
            self._kernel.wait(self._ready, end - self._kernel.now)

    def pause(self, partitions: list[TopicPartition]) -> None:
        self._check()
        for each in partitions:
            partition = Partition(each.topic, each.partition)
            self._paused.add(partition)
            if state := self.assigned.get(partition):
                # Records that are fetched but not taken are fetched again later. An error about the offset stays.
                self._queue = deque(
                    (of, message) for of, message in self._queue if of is not state or _is_reset(message)
                )
                state.queued, state.eof = 0, None
                if state.position is not None:
                    state.position = state.delivered

    def resume(self, partitions: list[TopicPartition]) -> None:
        self._check()
        self._paused -= {Partition(each.topic, each.partition) for each in partitions}
        self._poke()

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        self._check()
        wanted = [Partition(each.topic, each.partition) for each in partitions]
        group = self._broker.group
        # One answer has both, even if it comes after the topic was created again.
        offsets, beside = self._await("committed", lambda: (group.committed(wanted), dict(group.ahead)), timeout)
        return [
            TopicPartition(*partition, offsets.get(partition, OFFSET_INVALID), beside.get(partition, ""))
            for partition in wanted
        ]

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int]:
        self._check()
        log = self._broker.logs[Partition(partition.topic, partition.partition)]

        def read() -> tuple[int, int]:
            if not log.has_leader:
                raise Refused(KafkaError.NOT_LEADER_FOR_PARTITION)
            return log.start, log.stable

        ends: tuple[int, int] = self._await("ends", read, timeout)
        return ends

    def list_topics(self, topic: str, timeout: float) -> ClusterMetadata:
        """Do nothing: requests here find a new leader by themselves."""
        self._check()
        self._await("describe", lambda: None, timeout)
        return ClusterMetadata()

    def _await(self, call: str, execute: Callable[[], object], timeout: float) -> Any:
        """Ask the cluster, and wait for the answer."""
        is_back, answers = Signal(), list[object]()

        def answered(answer: object) -> None:
            answers.append(answer)
            is_back.set()

        end = self._kernel.now + timeout
        self._ask(call, execute, answered, lambda: not self.is_closed and self._kernel.now < end)
        if not self._kernel.wait(is_back, timeout):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{call} timed out"))
        return answers[0]

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        self._check()
        for each in partitions:
            partition = Partition(each.topic, each.partition)
            if partition not in self.assigned:
                raise KafkaException(KafkaError(KafkaError._INVALID_ARG, f"{partition} is not assigned"))
            self._granted[partition] = self.assigned[partition].granted
            self._unassign(partition)

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self._check()
        for each in partitions:
            partition = Partition(each.topic, each.partition)
            if partition in self.assigned:
                raise KafkaException(KafkaError(KafkaError._CONFLICT, f"{partition} is assigned already"))
            self._assign(partition, each.offset)

    def consumer_group_metadata(self) -> GroupMetadata:
        self._check()
        return (self.member_id, self._instance, self._generation)

    def close(self) -> None:
        self._check()
        if self.is_closed:
            return
        self._ops.clear()
        if self.assigned:
            self._call_back("revoke", tuple(self.assigned))
        self.is_closed = True
        self._queue.clear()
        if self._instance is None and self.member_id:
            left, member_id = Signal(), self.member_id
            group = self._broker.group
            self._ask("leave", lambda: group.leave(member_id), lambda _: left.set(), lambda: True)
            self._kernel.wait(left, _CLOSED_WITHIN)

    def _check(self) -> None:
        if not self._process.is_alive:
            raise Killed
        moment, calls = self._calls_now
        self._calls_now = (self._kernel.now, calls + 1 if moment == self._kernel.now else 0)
        if calls > _CALLS_AT_ONE_MOMENT:
            raise Stuck("the consumer is called again and again, and no time passes")

    def _pop(self) -> Message:
        state, message = self._queue.popleft()
        if message.error() is None:
            state.queued -= 1
            state.delivered = message.offset() + 1  # type: ignore[operator] # it has one
        return message

    # callbacks

    def _serve(self) -> None:
        while self._errors:
            self._on_error(self._errors.popleft())
        while self._ops and not self._in_callback:
            what, partitions = self._ops.popleft()
            if what == "assign":
                self._call_back(what, partitions)
            else:
                still = tuple(partition for partition in partitions if partition in self.assigned)
                if still:
                    self._call_back(what, still)
        if self._must_join and not (self._ops or self._in_callback or self._is_joining):
            self._join()

    def _call_back(self, what: str, partitions: tuple[Partition, ...]) -> None:
        what = "lost" if what == "revoke" and self._is_lost else what
        self._in_callback = True
        try:
            self._callbacks[what](self, [TopicPartition(*partition) for partition in partitions])
        finally:
            self._in_callback = False
        if what == "assign":
            for partition in partitions:
                self._assign(partition)
        else:
            for partition in partitions:
                self._unassign(partition)
            if not self.assigned:
                self._is_lost = False

    def _unassign(self, partition: Partition) -> None:
        gone = self.assigned.pop(partition, None)
        self._queue = deque((of, message) for of, message in self._queue if of is not gone)

    def _reset(self, state: Assigned) -> None:
        """Report that there is no offset to read from: `auto.offset.reset=error`."""
        state.position = None
        error = KafkaError(KafkaError._AUTO_OFFSET_RESET, "no offset to read from")
        self._queue.append((state, Message(*state.partition, error=error)))
        self._ready.set()

    def _assign(self, partition: Partition, offset: int = OFFSET_INVALID) -> None:
        now = self._kernel.now
        granted = self._granted.pop(partition, now) if offset != OFFSET_INVALID else now
        state = self.assigned[partition] = Assigned(
            partition, self._broker.logs[partition], since=now, granted=granted
        )
        if offset == OFFSET_BEGINNING:
            offset = state.log.start
        if offset >= 0:
            state.position = state.delivered = state.start = offset
            self._poke()
            return

        def found(offsets: dict[Partition, int]) -> None:
            if partition not in offsets:
                self._reset(state)
                return
            state.position = state.delivered = state.start = offsets[partition]
            self._poke()

        group = self._broker.group
        self._ask(
            "position",
            lambda: group.committed([partition]),
            found,
            lambda: self.assigned.get(partition) is state,
        )

    # the group, in the background

    def _ask(
        self,
        call: str,
        execute: Callable[[], object],
        then: Callable[[Any], None],
        is_wanted: Callable[[], bool] | None = None,
    ) -> None:
        self._network.request(
            self._process,
            call,
            lambda respond: respond(execute()),
            then,
            is_wanted or (lambda: not self.is_closed),
        )

    def _join(self) -> None:
        if self._is_joining or self.is_closed:
            return
        self._is_joining, self._must_join = True, False
        group, member_id, generation = self._broker.group, self.member_id, self._generation
        claims = tuple(self.assigned)
        self._network.request(
            self._process,
            "join",
            lambda respond: group.join(
                member_id, self._instance, SESSION, self._topics, claims, generation, respond
            ),
            self._joined,
            lambda: not self.is_closed and self._is_joining and self.member_id == member_id,
        )

    def _joined(self, answer: object) -> None:
        self._is_joining = False
        if isinstance(answer, Refused):
            self._refused(answer)
            return
        assert isinstance(answer, Joined)
        self.member_id, self._generation = answer.member_id, answer.generation
        self._last_beat = self._kernel.now
        now, before = set(answer.assignment), set(self.assigned)
        if gone := tuple(sorted(before - now)):
            self._ops.append(("revoke", gone))
            self._must_join = True
        if (new := tuple(sorted(now - before))) or not gone:
            self._ops.append(("assign", new))
        self._ready.set()

    def _refused(self, answer: Refused) -> None:
        if answer.code == KafkaError.FENCED_INSTANCE_ID:
            self._errors.append(KafkaError(KafkaError._FATAL, "the instance id is another's", fatal=True))
        elif answer.code == KafkaError.REBALANCE_IN_PROGRESS:
            self._must_join = True
        else:
            self._lose()
        self._ready.set()
        self._go_on()

    def _go_on(self) -> None:
        if self._must_join and not (self._ops or self._in_callback or self.assigned):
            self._join()

    def _lose(self) -> None:
        """Note that the group has removed this member. It rejoins once the application has been told."""
        self.member_id, self._generation = "", -1
        self._is_joining, self._must_join = False, True
        self._ops.clear()
        if self.assigned:
            self._is_lost = True
            self._ops.append(("lost", tuple(self.assigned)))
        self._ready.set()

    def _beat(self) -> None:
        if self.is_closed:
            return
        self._kernel.after(HEARTBEAT, self._beat, self._process)
        if not self.member_id or self._is_joining:
            return
        if self._kernel.now - self._last_beat > SESSION:
            self._lose()
            self._go_on()
            return
        if self._is_beating:
            return
        self._is_beating = True
        group, mine = self._broker.group, (self.member_id, self._instance, self._generation)

        def answered(answer: object) -> None:
            self._is_beating = False
            if self.is_closed or mine != (self.member_id, self._instance, self._generation):
                return
            if isinstance(answer, Refused):
                if answer.code == KafkaError.REBALANCE_IN_PROGRESS:
                    self._last_beat = self._kernel.now
                if not self._is_joining:
                    self._refused(answer)
            else:
                self._last_beat = self._kernel.now

        self._ask("heartbeat", lambda: group.heartbeat(*mine), answered)

    # fetching, in the background

    def poke(self) -> None:
        """Check whether there is something to fetch. The broker calls this when a log changes."""
        self._poke()

    def _poke(self) -> None:
        if (
            not (self._is_poked or self._is_fetching or self.is_closed)
            and self._process.is_alive
            and self._wanted()
        ):
            self._is_poked = True
            self._kernel.after(0.0, self._fetch, self._process)

    def _wanted(self) -> list[tuple[Assigned, int]]:
        return [
            (state, state.position)
            for partition, state in self.assigned.items()
            if state.position is not None
            and state.log.has_leader
            and partition not in self._paused
            and state.queued < _MOST_QUEUED
            and (
                state.position < state.log.stable or state.eof != state.position or state.position < state.log.start
            )
        ]

    def _fetch(self) -> None:
        self._is_poked = False
        wanted = self._wanted()
        if self._is_fetching or self.is_closed or not wanted:
            return
        self._is_fetching = True

        def read() -> _Fetched:
            found: _Fetched = []
            for state, position in wanted:
                try:
                    entries, behind = state.log.read(position, _FETCHED_AT_ONCE)
                except Refused:
                    found.append((state, position, [], None, False))
                else:
                    found.append((state, position, entries, behind, behind >= state.log.stable))
            return found

        self._ask("fetch", read, self._fetched)

    def _fetched(self, answer: "_Fetched") -> None:
        self._is_fetching = False
        for state, asked, entries, behind, is_end in answer:
            if self.assigned.get(state.partition) is not state or state.position != asked:
                continue
            if state.partition in self._paused:
                continue
            if behind is None:
                self._reset(state)
                continue
            state.position = behind
            for entry in entries:
                state.queued += 1
                self._queue.append((state, _message(state.partition, entry)))
            if is_end and state.eof != behind:
                state.eof = behind
                end = Message(*state.partition, behind, error=KafkaError(KafkaError._PARTITION_EOF))
                self._queue.append((state, end))
        if self._queue:
            self._ready.set()
        self._poke()


def _is_reset(message: Message) -> bool:
    error = message.error()
    return error is not None and error.code() == KafkaError._AUTO_OFFSET_RESET


def _message(partition: Partition, entry: Entry) -> Message:
    headers = [(name, value) for name, value in entry.headers] if entry.headers else None
    return Message(
        *partition, entry.offset, entry.key, entry.value, headers=headers, timestamp=(1, entry.timestamp)
    )


# the producer


@dataclass(slots=True)
class _Operation:
    """A call that the library continues after the application has stopped waiting for it."""

    name: str
    is_done: Signal = field(default_factory=Signal)
    answer: object = None

    def finish(self, answer: object) -> None:
        self.answer = answer
        self.is_done.set()


class SimProducer:
    """A transactional producer."""

    def __init__(
        self,
        network: Network,
        broker: Broker,
        process: Process,
        transactional_id: str,
        transaction_timeout: float,
        trap: Callable[[Process, str], Effect],
    ) -> None:
        self._network = network
        self._kernel = network.kernel
        self._broker = broker
        self._process = process
        self._id = transactional_id
        self._timeout = transaction_timeout
        self._trap = trap
        self._epoch = -1
        self._state = "fresh"
        self._operation: _Operation | None = None
        self._queue: list[tuple[Log, bytes | None, bytes | None, Headers]] = []
        self._sending = 0
        self._number = 0
        self._error: KafkaError | None = None
        self._flushed: list[Callable[[], None]] = []
        self._refused: list[tuple[KafkaError, str]] = []
        self._on_delivery: Callable[[KafkaError | None, Message], None]
        self._is_destroyed = False
        self._calls_now = (0.0, 0)

    # what the application calls

    def init_transactions(self, timeout: float) -> None:
        def begin(finish: Callable[[object], None]) -> None:
            self._ask("init", lambda: self._broker.init_producer(self._id, self._timeout), finish)

        self._check("fresh")
        answer = self._operate("init", begin, timeout)
        self._epoch = answer[1]
        self._state = "ready"

    def begin_transaction(self) -> None:
        self._check("ready")
        self._state = "open"
        self._number += 1
        self._error = None

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        *,
        headers: list[tuple[str, str | bytes | None]],
        on_delivery: Callable[[KafkaError | None, Message], None],
    ) -> None:
        self._check("open")
        self._on_delivery = on_delivery
        if len(self._queue) >= _QUEUE_FULL or self._trap(self._process, "queue").how == "full":
            raise BufferError("Local: Queue full")
        logs = self._broker.logs_of(topic)
        self._queue.append((logs[sum(key or b"") % len(logs)], key, value, headers))
        self._kernel.after(_LINGER, self._send, self._process)

    def poll(self, timeout: float) -> int:
        self._check()
        self._kernel.sleep(timeout)
        return 0

    def send_offsets_to_transaction(
        self, positions: list[TopicPartition], group_metadata: GroupMetadata, timeout: float
    ) -> None:
        self._check("open")
        if self._trap(self._process, "adding").how == "never":
            self._kernel.wait(Signal(), NEVER)  # confluentinc/librdkafka#5456
        offsets = {Partition(each.topic, each.partition): (each.offset, each.metadata or "") for each in positions}
        epoch, is_same = self._epoch, self._is_same()

        def add() -> None:
            if is_same():
                self._broker.add_offsets(self._id, epoch, offsets, group_metadata)

        def begin(finish: Callable[[object], None]) -> None:
            self._ask("offsets", add, finish, is_same)

        try:
            self._operate("offsets", begin, timeout)
        except KafkaException as error:
            if error.args[0].code() == KafkaError._TIMED_OUT:
                self._operation = None  # this call can't be resumed: it starts again
            raise

    def commit_transaction(self, timeout: float) -> None:
        self._check("open")

        def begin(finish: Callable[[object], None]) -> None:
            self._when_flushed(lambda: self._error_or_end(finish))

        self._operate("commit", begin, timeout)
        self._state = "ready"

    def abort_transaction(self, timeout: float) -> None:
        self._check("open")
        self._queue.clear()
        if self._operation is None:
            self._number += 1  # answers that are still on their way are ignored

        def begin(finish: Callable[[object], None]) -> None:
            self._when_flushed(lambda: self._end(finish, committed=False))

        self._operate("abort", begin, timeout)
        self._state = "ready"

    def destroy(self) -> None:
        """Stop all requests: the application has dropped the client."""
        self._is_destroyed = True

    # in the background

    def _check(self, state: str | None = None) -> None:
        if not self._process.is_alive:
            raise Killed
        moment, calls = self._calls_now
        self._calls_now = (self._kernel.now, calls + 1 if moment == self._kernel.now else 0)
        if calls > _CALLS_AT_ONE_MOMENT:
            raise Stuck("the producer is called again and again, and no time passes")
        self._report()
        if state is None:
            return
        if self._state == "fatal":
            raise KafkaException(_FENCED)
        if self._state != state:
            raise KafkaException(KafkaError(KafkaError._STATE, f"the producer is {self._state}, not {state}"))

    def _operate(self, name: str, begin: Callable[[Callable[[object], None]], None], timeout: float) -> Any:
        operation = self._operation
        if operation is None:
            operation = self._operation = _Operation(name)
            begin(operation.finish)
        elif operation.name != name:
            raise KafkaException(KafkaError(KafkaError._CONFLICT, f"{operation.name} is still going on"))
        is_done = self._kernel.wait(operation.is_done, timeout)
        self._report()
        if not is_done:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{name} timed out", retriable=True))
        self._operation = None
        if isinstance(operation.answer, Refused):
            raise KafkaException(self._failed(operation.answer))
        if isinstance(operation.answer, KafkaError):
            raise KafkaException(operation.answer)
        return operation.answer

    def _report(self) -> None:
        refused, self._refused = self._refused, []
        for error, topic in refused:
            self._on_delivery(error, Message(topic, 0))

    def _failed(self, refusal: Refused) -> KafkaError:
        if refusal.code == KafkaError.INVALID_PRODUCER_EPOCH:
            self._state = "fatal"
            return _FENCED
        return KafkaError(refusal.code, str(refusal), txn_requires_abort=True)

    def _is_same(self) -> Callable[[], bool]:
        number = self._number
        return lambda: self._number == number and self._state != "fatal"

    def _ask(
        self,
        call: str,
        execute: Callable[[], object],
        then: Callable[[object], None],
        is_wanted: Callable[[], bool] = lambda: True,
        *,
        once: bool = False,
    ) -> None:
        self._network.request(
            self._process,
            call,
            lambda respond: respond(execute()),
            then,
            lambda: is_wanted() and not self._is_destroyed,
            once=once,
        )

    def _send(self) -> None:
        if self._sending or not self._queue or self._state != "open":
            return
        batch, self._queue = self._queue, []
        self._sending += 1
        epoch, is_same = self._epoch, self._is_same()
        is_over = Signal()

        def sent(answer: object) -> None:
            if is_over.is_set:
                return
            is_over.set()
            self._sending -= 1
            if is_same() and isinstance(answer, Refused) and answer.code == KafkaError.MSG_SIZE_TOO_LARGE:
                self._refused += [(KafkaError(answer.code), topic) for topic in answer.topics]
            if is_same() and isinstance(answer, (Refused, KafkaError)):
                self._error = self._failed(answer) if isinstance(answer, Refused) else answer
            if self._queue:
                self._send()
            elif not self._sending:
                flushed, self._flushed = self._flushed, []
                for call in flushed:
                    call()

        def timed_out() -> None:
            sent(KafkaError(KafkaError._MSG_TIMED_OUT, "records timed out", txn_requires_abort=True))

        def append() -> None:
            if not is_over.is_set and is_same():
                self._broker.produce(self._id, epoch, batch)

        self._ask("produce", append, sent, lambda: not is_over.is_set, once=True)
        self._kernel.after(self._timeout, timed_out, self._process)

    def _when_flushed(self, call: Callable[[], None]) -> None:
        self._send()
        if self._sending or self._queue:
            self._flushed.append(call)
        else:
            call()

    def _error_or_end(self, finish: Callable[[object], None]) -> None:
        if self._error:
            finish(self._error)
        else:
            self._end(finish, committed=True)

    def _end(self, finish: Callable[[object], None], *, committed: bool) -> None:
        epoch = self._epoch
        self._ask(
            "end",
            lambda: self._broker.end_transaction(self._id, epoch, committed=committed),
            finish,
            once=True,
        )


_FENCED = KafkaError(KafkaError._FENCED, "another producer has taken the transactional id over", fatal=True)


class SimClients:
    """Makes the clients of one process."""

    def __init__(
        self,
        network: Network,
        broker: Broker,
        process: Process,
        *,
        transactional_id: str,
        transaction_timeout: float,
        instance: str | None,
        trap: Callable[[Process, str], Effect],
    ) -> None:
        self.current: SimConsumer | None = None
        self._producer: SimProducer | None = None
        self._network = network
        self._broker = broker
        self._process = process
        self._transactional_id = transactional_id
        self._transaction_timeout = transaction_timeout
        self._instance = instance
        self._trap = trap

    def consumer(self, on_error: Callable[[KafkaError], None], on_statistics: Callable[[str], None]) -> SimConsumer:
        self.current = SimConsumer(self._network, self._broker, self._process, self._instance, on_error)
        return self.current

    def producer(self) -> SimProducer:
        if self._producer:
            self._producer.destroy()
        self._producer = SimProducer(
            self._network,
            self._broker,
            self._process,
            self._transactional_id,
            self._transaction_timeout,
            self._trap,
        )
        return self._producer

    def describe_topics(self, topics: Sequence[str]) -> Mapping[str, Future[TopicDescription]]:
        futures: dict[str, Future[TopicDescription]] = {topic: Future() for topic in topics}
        end = self._network.kernel.now + _DESCRIBED_WITHIN

        def answered(ids: object) -> None:
            assert isinstance(ids, dict)
            for topic, future in futures.items():
                if not future.done():
                    future.set_result(TopicDescription(topic, ids[topic], is_internal=False, partitions=[]))

        def give_up() -> None:
            for future in futures.values():
                if not future.done():
                    future.set_exception(KafkaException(KafkaError(KafkaError._TIMED_OUT)))

        network = self._network
        network.request(
            self._process,
            "describe",
            lambda respond: respond({topic: self._broker.topic_id(topic) for topic in topics}),
            answered,
            lambda: network.kernel.now < end,
        )
        network.kernel.at(end, give_up, self._process)
        return futures
