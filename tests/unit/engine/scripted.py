"""The engine's surroundings, scripted: no process, no thread, no Kafka, and time moves only by hand.

`Scene` puts a whole member together. A test drives it by a generator: each part up to the next `yield` runs within
one poll of the main loop, where the real library calls back too. The member stops when the generator ends.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import structlog
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, Message, TopicPartition, Uuid
from confluent_kafka.admin import ClusterMetadata, PartitionMetadata, TopicDescription, TopicMetadata
from structlog.testing import LogCapture

from consumer.engine.backoff import Backoff
from consumer.engine.deadline import Clock
from consumer.engine.defence import Answer
from consumer.engine.errors import KafkaUnusable
from consumer.engine.kafka import GroupMetadata, Logger, RebalanceCallback
from consumer.engine.member import Handle, Member, Options, Surroundings
from consumer.engine.ports import Apart, Change, Chunk, Done, Hooks, MemberView, Reloaded, Retry, Trouble
from consumer.engine.records import DeadLetter, Output, Partition, Record
from consumer.engine.strand import Bounds
from consumer.engine.watchdog import Watchdog
from consumer.engine.workers import CallTimeout

A, B, C = (Partition("orders", number) for number in range(3))
BOUNDS = Bounds(lane_records=10, lane_bytes=1000, chunk_records=4, chunk_bytes=100)
BACKOFF = Backoff(first=1.0, longest=8.0, longest_retry_after=60.0)
GROUP = "the group's metadata"
OPTIONS = Options(
    group="shop",
    topics=("orders",),
    patterns=(),
    results_topic="results",
    dead_letters_topic="dead-letters",
    bounds=BOUNDS,
    backoff=BACKOFF,
    workers=3,
    hold_interval=20.0,
    commit_timeout=5.0,
    drain_timeout=2.0,
    grace_time=7.0,
    longest_silence=42.0,
    flood_window=10,
)

TRANSIENT = KafkaError(KafkaError._TRANSPORT, "the broker is away", retriable=True)
ABORTABLE = KafkaError(KafkaError._TIMED_OUT_QUEUE, "the transaction must be aborted", txn_requires_abort=True)
REFUSED = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "not allowed")
FATAL = KafkaError(KafkaError._FATAL, "the client is broken", fatal=True)
TOO_LARGE = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "too large")
FENCED = KafkaError(KafkaError._FENCED, "another took over", fatal=True)


NEVER = float("inf")
ENDLESS = 10_000
"""Calls after which a loop counts as endless."""


def record(offset: int, of: Partition = A, value: bytes | None = b"0123456789") -> Record:
    return Record(*of, offset, 1_000 + offset, b"key", value, ())


def message(offset: int, of: Partition = A, value: bytes | None = b"0123456789") -> Message:
    return Message(*of, offset, b"key", value, timestamp=(1, 1_000 + offset))


def reset(of: Partition = A, why: int = KafkaError._NO_OFFSET) -> Message:
    said = f"where to read from is not known: {KafkaError(why).str()}"
    return Message(*of, OFFSET_INVALID, error=KafkaError(KafkaError._AUTO_OFFSET_RESET, said))


def end(offset: int, of: Partition = A) -> Message:
    return Message(*of, offset, error=KafkaError(KafkaError._PARTITION_EOF))


def outputs(records: Iterable[Record], letter: DeadLetter | None = None) -> list[Output]:
    return [Output(each, b"result of %d" % each.offset, letter) for each in records]


def brief(output: Output) -> Output:
    return output._replace(result=b"brief", is_brief=True)


LETTER = DeadLetter("undecodable", "nonsense", 1)


def chance() -> float:
    """No jitter: every delay has its maximum length."""
    return 1.0


def capture() -> tuple[Logger, LogCapture]:
    """Return a logger, and the capture of its events."""
    captured = LogCapture()
    logger: Logger = structlog.wrap_logger(
        None, processors=[captured], wrapper_class=structlog.make_filtering_bound_logger(0)
    )
    return logger, captured


class HandClock(Clock):
    """A clock that moves by hand, and when someone waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def epoch_ms(self) -> int:
        return 1_700_000_000_000

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class NeverReturns(Exception):
    """Raised by a scripted call that stands for one that never returns; see `call_within` of `ScriptedProducer`."""


@dataclass
class Transaction:
    """What one transaction wrote: (topic, key, value, headers) and the offsets to commit."""

    produced: list[tuple[str, bytes | None, bytes | None, list[tuple[str, str | bytes | None]]]] = field(
        default_factory=list
    )
    offsets: dict[Partition, int] | None = None
    beside: dict[Partition, str] = field(default_factory=dict)
    group: GroupMetadata = None

    @property
    def results(self) -> list[bytes | None]:
        return [value for topic, _, value, _ in self.produced if topic == "results"]


class ScriptedProducer:
    """A transactional producer. It fails as it is told, step by step; `calls` are the steps with their timeouts.

    `largest` has the bytes that topics take: a transaction with anything larger can't be committed.
    """

    def __init__(self, clock: HandClock) -> None:
        self.committed: list[Transaction] = []
        self.aborted: list[Transaction] = []
        self.calls: list[str] = []
        self.timeouts: list[float] = []
        self.largest: dict[str, float] = {}
        self._is_refused = False
        self._clock = clock
        self._open: Transaction | None = None
        self._failures: dict[str, deque[Exception]] = {}
        self._failures_after: dict[str, Exception] = {}
        self._always: dict[str, Exception] = {}

    def fail(self, step: str, error: KafkaError | Exception, times: int | None = 1) -> None:
        """Make the next calls of a step fail: a number of them, or all from now on."""
        raised = KafkaException(error) if isinstance(error, KafkaError) else error
        if times is None:
            self._always[step] = raised
        else:
            self._failures.setdefault(step, deque()).extend([raised] * times)

    def fail_after(self, step: str, error: KafkaError) -> None:
        """Make the next call of `commit` succeed, but lose its answer."""
        self._failures_after[step] = KafkaException(error)

    def mend(self) -> None:
        """Make all further calls succeed."""
        self._always.clear()

    def call_within(self, seconds: float, call: Callable[[], None], meanwhile: Callable[[], None]) -> None:
        try:
            call()
        except NeverReturns:
            for _ in range(int(seconds)):
                self._clock.now += 1
                meanwhile()
            self._clock.now += seconds % 1
            raise CallTimeout from None

    def init_transactions(self, timeout: float) -> None:
        self._step("init", timeout)

    def begin_transaction(self) -> None:
        self._step("begin")
        assert self._open is None
        self._open = Transaction()

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        *,
        headers: list[tuple[str, str | bytes | None]],
        on_delivery: Callable[[KafkaError | None, Message], None],
    ) -> None:
        self._step("produce")
        self._transaction.produced.append((topic, key, value, headers))
        if len(value or b"") + len(key or b"") > self.largest.get(topic, NEVER):
            on_delivery(TOO_LARGE, Message(topic, 0))
            self._is_refused = True

    def poll(self, timeout: float) -> int:
        self.calls.append("poll")
        assert len(self.calls) < ENDLESS
        self._clock.now += timeout
        return 0

    def send_offsets_to_transaction(
        self, positions: list[TopicPartition], group_metadata: GroupMetadata, timeout: float
    ) -> None:
        self._step("offsets", timeout)
        self._transaction.offsets = {Partition(each.topic, each.partition): each.offset for each in positions}
        self._transaction.beside = {
            Partition(each.topic, each.partition): each.metadata for each in positions if each.metadata
        }
        self._transaction.group = group_metadata

    def commit_transaction(self, timeout: float) -> None:
        self._step("commit", timeout)
        if self._is_refused:
            raise KafkaException(ABORTABLE)
        self.committed.append(self._transaction)
        self._open = None
        if "commit" in self._failures_after:
            raise self._failures_after.pop("commit")

    def abort_transaction(self, timeout: float) -> None:
        self._step("abort", timeout)
        self._is_refused = False
        if self._open:
            self.aborted.append(self._open)
        self._open = None

    @property
    def _transaction(self) -> Transaction:
        assert self._open
        return self._open

    def _step(self, name: str, timeout: float | None = None) -> None:
        self.calls.append(name)
        assert len(self.calls) < ENDLESS
        if timeout is not None:
            self.timeouts.append(timeout)
        if self._failures.get(name):
            raise self._failures[name].popleft()
        if name in self._always:
            raise self._always[name]


class ScriptedConsumer:
    """A group member's consumer. The first `consume` of each turn runs the next step of the script.

    `arrived` is what the next turn finds at once. `late` arrives while an idle member waits in `poll`. `calls`
    lists the calls of the engine.
    """

    def __init__(
        self,
        clock: HandClock,
        script: Generator[None],
        offsets: Callable[[], dict[Partition, int]],
        on_error: Callable[[KafkaError], None],
        on_statistics: Callable[[str], None],
    ) -> None:
        self.on_error = on_error
        self.on_statistics = on_statistics
        self.arrived: list[Message] = []
        self.late: deque[Message] = deque()
        self.behind_late: list[Message] = []
        self.calls: list[str] = []
        self.waits: list[float] = []
        self.topics: list[str] = []
        self.is_closed = False
        self.refuses: KafkaError | None = None
        self.away: KafkaError | None = None
        self.logs: dict[Partition, tuple[int, int]] = {}
        self.beside: dict[Partition, str] = {}
        self.leaders: dict[str, list[int]] = {}
        self.offsets = offsets
        self.leaderless: set[Partition] = set()
        # The offset of a partition without a committed one. Kafka says OFFSET_INVALID, and a reset arrives.
        self.uncommitted = 0
        self._clock = clock
        self._script = script
        self._in_turn = False
        self._turns = 0
        self._assigned: list[Partition] = []

    def subscribe(
        self,
        topics: list[str],
        on_assign: RebalanceCallback,
        on_revoke: RebalanceCallback,
        on_lost: RebalanceCallback,
    ) -> None:
        self.topics = topics
        self._on_assign, self._on_revoke, self._on_lost = on_assign, on_revoke, on_lost

    def fail_poll(self, error: KafkaError) -> None:
        """Make a poll return an error instead of a record."""
        self.arrived.append(Message("orders", 0, error=error))

    def assign(self, *partitions: Partition) -> None:
        """Call back as the library does in a poll: these partitions are assigned now."""
        self._assigned += partitions
        self._on_assign(self, [TopicPartition(*partition) for partition in partitions])

    def revoke(self, *partitions: Partition) -> None:
        self._on_revoke(self, [TopicPartition(*partition) for partition in partitions])
        self._assigned = [partition for partition in self._assigned if partition not in partitions]

    def lose(self, *partitions: Partition) -> None:
        self._on_lost(self, [TopicPartition(*partition) for partition in partitions])
        self._assigned = [partition for partition in self._assigned if partition not in partitions]

    def consume(self, num_messages: int, timeout: float) -> Sequence[Message]:
        assert timeout == 0
        self._turns += 1
        assert self._turns < ENDLESS
        if not self._in_turn:
            next(self._script)
        given, self.arrived = self.arrived[:num_messages], self.arrived[num_messages:]
        self._in_turn = len(given) == num_messages  # then it polls again
        return given

    def poll(self, timeout: float) -> Message | None:
        self.waits.append(timeout)
        if self.late:
            self._in_turn = True
            self.arrived = self.behind_late
            return self.late.popleft()
        self._clock.now += timeout
        return None

    def pause(self, partitions: list[TopicPartition]) -> None:
        self._note("pause", partitions)

    def resume(self, partitions: list[TopicPartition]) -> None:
        self._note("resume", partitions)

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        if self.away:
            raise KafkaException(self.away)
        given = [Partition(each.topic, each.partition) for each in partitions]
        return [
            TopicPartition(*each, self.offsets().get(each, self.uncommitted), self.beside.get(each, ""))
            for each in given
        ]

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int]:
        if self.away:
            raise KafkaException(self.away)
        if Partition(partition.topic, partition.partition) in self.leaderless:
            self._clock.now += timeout
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return self.logs.get(Partition(partition.topic, partition.partition), (0, 1000))

    def list_topics(self, topic: str, timeout: float) -> ClusterMetadata:
        self._clock.now += timeout if self.away else 0
        if self.away:
            raise KafkaException(self.away)
        metadata, described = ClusterMetadata(), TopicMetadata()
        for number, leader in enumerate(self.leaders.get(topic, [])):
            partition = PartitionMetadata()
            partition.id, partition.leader = number, leader
            described.partitions[number] = partition
        metadata.topics[topic] = described
        return metadata

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        self._note("unassign", partitions)
        if self.refuses:
            raise KafkaException(self.refuses)

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self.calls += [f"assign {each.topic}/{each.partition} at {each.offset}" for each in partitions]

    def consumer_group_metadata(self) -> GroupMetadata:
        return GROUP

    def _note(self, what: str, partitions: list[TopicPartition]) -> None:
        self.calls += [f"{what} {each.topic}/{each.partition}" for each in partitions]

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True
        if self._assigned:
            self.revoke(*self._assigned)


class InlinePool:
    """Handles each chunk on the main thread, `takes` seconds after it was submitted; infinite for never."""

    def __init__(self, clock: HandClock, handle: Handle[str]) -> None:
        self.takes = 0.0
        self.is_stopped = False
        self._waits = 0
        self._clock = clock
        self._handle = handle
        self._tasks: list[tuple[float, Chunk[str]]] = []

    def submit(self, task: Chunk[str]) -> None:
        self._tasks.append((self._clock.now + self.takes, task))

    def answers(self, timeout: float) -> list[Answer[str]]:
        self._waits += 1
        assert self._waits < ENDLESS
        if not any(due <= self._clock.now for due, _ in self._tasks):
            self._clock.now += timeout
        ready = [task for due, task in self._tasks if due <= self._clock.now]
        self._tasks = [(due, task) for due, task in self._tasks if due > self._clock.now]
        return [self._handle(task) for task in ready]

    def finish(self) -> None:
        """Finish all chunks in flight now."""
        self._tasks = [(0.0, task) for _, task in self._tasks]

    def stop(self) -> None:
        self.is_stopped = True


class ScriptedWatchdog(Watchdog):
    """Has no thread. Tests tell it that the process was paused."""

    def __init__(self) -> None:
        self.is_still = False
        self.is_ended = False

    @property
    def stood_still(self) -> bool:
        return self.is_still

    def end(self) -> None:
        self.is_ended = True


class ScriptedHandler:
    """Answers each chunk as `answers` say, one after the other; then all are done.

    `chunks` are those that came, `seen` their offsets, `prepared` the offsets of those to prepare, and `ours` what
    `still_ours` said. `meanwhile` is called while a chunk is handled. Records with the offsets in `down` are set
    apart as long as they are in it. `is_ready` is set if they have a pending request, and returns whether it is
    answered.
    """

    def __init__(self) -> None:
        self.answers: deque[Trouble | Exception] = deque()
        self.raises: dict[int, Exception] = {}
        self.letter: DeadLetter | None = None
        self.down: set[int] = set()
        self.is_ready: Callable[[], bool] | None = None
        self.working: frozenset[str] = frozenset()
        self.chunks: list[Chunk[str]] = []
        self.prepared: list[list[int]] = []
        self.seen: list[list[int]] = []
        self.ours: list[bool] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def handle(self, chunk: Chunk[str], still_ours: Callable[[], bool]) -> Done[str] | Retry[str]:
        self.chunks.append(chunk)
        self.seen.append([each.offset for each in chunk.records])
        self.meanwhile()
        self.ours.append(still_ours())
        for each in chunk.records:
            if each.offset in self.raises:
                raise self.raises[each.offset]
        answer = self.answers.popleft() if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        if answer:
            return Retry(chunk, answer)
        apart = [each for each in chunk.records if each.offset in self.down]
        decided = [each for each in chunk.records if each.offset not in self.down]
        names = [frozenset(["site"])] * len(apart)
        trouble = None if self.is_ready else Trouble("site", "503", "it is down")
        waiting = [Apart("site", apart, names, "tried", trouble, self.is_ready)] if apart else []
        return Done(chunk, outputs(decided, self.letter), self.working, waiting)

    def prepare(self, chunk: Chunk[str]) -> None:
        self.prepared.append([each.offset for each in chunk.records])

    def give_up(self, chunk: Chunk[str], error: Exception) -> Output:
        [each] = chunk.records
        return Output(each, b"gave up %d" % each.offset, DeadLetter("internal", str(error), chunk.raised))

    def brief(self, output: Output) -> Output:
        return brief(output)


class RecordingHooks(Hooks):
    """Records its calls, in order."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.views: list[MemberView] = []
        self.is_watching = False

    def received(self, records: Mapping[str, int]) -> None:
        self.heard.append(("received", dict(records)))

    def retried(self, trouble: Trouble) -> None:
        self.heard.append(("retried", trouble))

    def committed(self, outputs: Sequence[Output], seconds: float) -> None:
        self.heard.append(("committed", [each.record.offset for each in outputs], round(seconds, 6)))

    def aborted(self) -> None:
        self.heard.append("aborted")

    def lost(self, topic: str, records: int) -> None:
        self.heard.append(("lost", topic, records))

    def rebalanced(self, change: Change, partitions: Iterable[Partition]) -> None:
        self.heard.append((change, list(partitions)))

    def rejoining(self) -> None:
        self.heard.append("rejoining")

    def statistics(self, text: str) -> None:
        self.heard.append(("statistics", text))

    def is_view_due(self, now: float) -> bool:
        return self.is_watching

    def viewed(self, view: MemberView) -> None:
        self.views.append(view)


class ScriptedClients:
    """Makes the clients, and keeps all of them.

    `prepare` is called with each new producer. While there are `refusals`, each try to make a consumer raises one.
    """

    def __init__(self, clock: HandClock) -> None:
        self.script: Generator[None]
        self.consumers: list[ScriptedConsumer] = []
        self.producers: list[ScriptedProducer] = []
        self.prepare: Callable[[ScriptedProducer], None] = lambda _: None
        self.refusals: list[KafkaUnusable] = []
        self.incarnations: dict[str, int | KafkaError] = {}
        self.asked: list[tuple[Sequence[str], Future[TopicDescription]]] = []
        self._clock = clock

    @property
    def offsets(self) -> dict[Partition, int]:
        """The group's committed offsets."""
        committed = [each for producer in self.producers for each in producer.committed]
        return {key: value for each in committed for key, value in (each.offsets or {}).items()}

    def describe_topics(self, topics: Sequence[str]) -> Mapping[str, Future[TopicDescription]]:
        described = {topic: self._described(topic) for topic in topics}
        self.asked += [(topics, future) for future in described.values()]
        return described

    def _described(self, topic: str) -> Future[TopicDescription]:
        future: Future[TopicDescription] = Future()
        identity = self.incarnations.get(topic, 1)
        if isinstance(identity, KafkaError):
            future.set_exception(KafkaException(identity))
        else:
            future.set_result(TopicDescription(topic, Uuid(identity, identity), is_internal=False, partitions=[]))
        return future

    def consumer(
        self, on_error: Callable[[KafkaError], None], on_statistics: Callable[[str], None]
    ) -> ScriptedConsumer:
        assert all(earlier.is_closed for earlier in self.consumers)
        if self.refusals:
            raise self.refusals.pop()
        made = ScriptedConsumer(self._clock, self.script, lambda: self.offsets, on_error, on_statistics)
        self.consumers.append(made)
        return made

    def producer(self) -> ScriptedProducer:
        made = ScriptedProducer(self._clock)
        self.producers.append(made)
        self.prepare(made)
        return made


class Scene:
    """One member among scripted surroundings.

    `takes_over` is whether the reload asks to try again; None for yes when asked. `reconnects` has it ask once for
    new clients. `consumer` and `producer` are those of now.
    """

    def __init__(self, **options: object) -> None:
        self.clock = HandClock()
        self.clients = ScriptedClients(self.clock)
        self.handler = ScriptedHandler()
        self.hooks = RecordingHooks()
        self.watchdogs: list[ScriptedWatchdog] = []
        self.reloads: list[bool] = []
        self.takes_over: bool | None = None
        self.reconnects = False
        self.log, self._captured = capture()
        self.member = Member(
            replace(OPTIONS, **options),  # type: ignore[arg-type]
            self.clients,
            self.handler,
            self.hooks,
            self._reload,
            Surroundings(self.log, self.clock, chance, self._make_pool, self._make_watchdog, self._call_within),
        )

    def run(self, script: Generator[None]) -> None:
        """Run the member until the script ends. Then it is stopped in the middle of a turn."""

        def then_stop() -> Generator[None]:
            yield from script
            self.member.stop()
            yield

        self.clients.script = then_stop()
        self.member.run()

    @property
    def consumer(self) -> ScriptedConsumer:
        return self.clients.consumers[-1]

    @property
    def producer(self) -> ScriptedProducer:
        return self.started[-1]

    @property
    def started(self) -> list[ScriptedProducer]:
        """The producers that were started; one more is made ahead of its use."""
        return [each for each in self.clients.producers if "init" in each.calls]

    @property
    def watchdog(self) -> ScriptedWatchdog:
        return self.watchdogs[-1]

    @property
    def committed(self) -> list[Transaction]:
        return [each for producer in self.clients.producers for each in producer.committed]

    @property
    def offsets(self) -> dict[Partition, int]:
        """The group's committed offsets."""
        return self.clients.offsets

    @property
    def results(self) -> list[bytes | None]:
        """All results that a reader sees, in order."""
        return [value for each in self.committed for value in each.results]

    def logged(self, event: str) -> list[Mapping[str, object]]:
        return [entry for entry in self._captured.entries if entry["event"] == event]

    def _make_pool(self, count: int, handle: Handle[str]) -> InlinePool:
        assert count == OPTIONS.workers
        self.pool = InlinePool(self.clock, handle)
        return self.pool

    def _make_watchdog(self, timeout: float, clock: Callable[[], float]) -> ScriptedWatchdog:
        assert (timeout, clock()) == (OPTIONS.longest_silence, self.clock.now)
        self.watchdogs.append(ScriptedWatchdog())
        return self.watchdogs[-1]

    def _call_within(self, seconds: float, call: Callable[[], None], meanwhile: Callable[[], None]) -> None:
        self.producer.call_within(seconds, call, meanwhile)

    def _reload(self, *, asked: bool) -> Reloaded:
        self.reloads.append(asked)
        reconnect, self.reconnects = self.reconnects, False
        return Reloaded(asked if self.takes_over is None else self.takes_over, reconnect)
