"""One run: members of the real engine with the real delivery, and everything that happens to them, from one seed.

Faults are injected for a while. Then everything is repaired. The members must finish all work and become idle
within a bounded time, and end when they are told to stop.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, cast

from consumer.delivery.defaults import Credentials, Defaults
from consumer.delivery.handler import Delivery
from consumer.delivery.sending import Rules
from consumer.delivery.work import Work
from consumer.engine.ahead import Ahead, write
from consumer.engine.backoff import Backoff
from consumer.engine.deadline import Clock
from consumer.engine.defence import Answer
from consumer.engine.errors import MemberFailed
from consumer.engine.kafka import Logger
from consumer.engine.member import Handle, Member, Options, Surroundings
from consumer.engine.ports import Change, Chunk, Hooks, LaneView, MemberView, Reloaded
from consumer.engine.records import Partition
from consumer.engine.strand import MOST_SHARES, Bounds
from consumer.engine.watchdog import Watchdog
from consumer.engine.workers import CallTimeout
from consumer.monitor.observer import Observer
from jirafe.client import Answer as ApiAnswer
from schemas.codec import Codec
from tests.simulation import workload
from tests.simulation.broker import Broker, Log, Transactional
from tests.simulation.clients import (
    GROUP_CALLS,
    HEARTBEAT,
    LOG_CALLS,
    NOTHING,
    SESSION,
    TRANSACTION_CALLS,
    Effect,
    Network,
    SimClients,
)
from tests.simulation.faults import Fault, draw
from tests.simulation.kernel import NEVER, Kernel, Killed, Process, Signal
from tests.simulation.ledger import LETTERS, RESULTS, Breach, Ledger
from tests.simulation.outside import DOWN, Api, SimClient, SimRegistry
from tests.simulation.workload import OTHER_SITE, SITE, TAXONOMY, TOKEN, draw_kind, make

TOPICS = ("carts", "orders")
COMMIT_TIMEOUT, DRAIN_TIMEOUT, GRACE_TIME = 3.0, 1.0, 3.0
TRANSACTION_TIMEOUT = COMMIT_TIMEOUT + 10.0
LONGEST_SILENCE = SESSION - HEARTBEAT
BACKOFF = Backoff(first=0.05, longest=1.0, longest_retry_after=5.0)
HOLD_INTERVAL = 1.0
MAX_ATTEMPTS = 4
PATIENCE = 12.0
IDLE_WITHIN = 150.0
STOPPED_WITHIN = 30.0
NOTICED_WITHIN = 12.0
HELD_BEYOND = 11
"""Records that a lane may hold over its bound: those that the library has fetched when the lane becomes full."""

_CODECS = {False: Codec()}
_MOST_SUPPORT = 400
_MOST_FAILING = 2
_BRIEF = 450
_BESIDE = 10
"""Records for others while one site is blocked."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What kind of world a seed makes."""

    members: int
    partitions: Mapping[str, int]
    records: int
    keys: int
    bad: float
    may_fail: bool
    by_registry: bool
    is_static: bool
    workers: int
    lane_records: int
    lane_bytes: int
    chunk_records: int
    chunk_bytes: int
    flood_window: int
    duration: float
    blocks: bool
    keeps_metadata: bool

    @classmethod
    def draw(cls, seed: int) -> "Shape":
        chance = Random(f"{seed} shape")  # noqa: S311 - chance, not cryptography
        may_fail = chance.random() < 0.2
        chunk = chance.choice((1, 3, 5))
        keeps_metadata = Random(f"{seed} metadata").random() < 0.8  # noqa: S311 - chance, not cryptography
        is_tight = Random(f"{seed} bytes").random() < 0.2  # noqa: S311 - chance, not cryptography
        return cls(
            members=chance.choice((1, 2, 2, 3)),
            partitions={topic: chance.choice((1, 1, 2)) for topic in TOPICS},
            records=chance.choice((20, 100, 250)),
            keys=chance.choice((1, 3, 6)),
            bad=chance.choice((0.0, 0.05, 0.15, 0.4)),
            may_fail=may_fail,
            by_registry=chance.random() < 0.4,
            is_static=chance.random() < 0.15,
            workers=chance.choice((1, 2, 4)),
            lane_records=chunk * chance.choice((2, 4)),
            lane_bytes=500 if is_tight else 1_000_000,
            chunk_records=chunk,
            chunk_bytes=300 if is_tight else 100_000,
            flood_window=chance.choice((10, 40)),
            duration=chance.choice((8.0, 16.0)),
            blocks=chance.random() < 0.5 and keeps_metadata,
            keeps_metadata=keeps_metadata,
        )


class SimClock(Clock):
    """The clock of a process. Its monotonic time is the world's; its date may be wrong."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def monotonic(self) -> float:
        return self._world.kernel.now

    def epoch_ms(self) -> int:
        return int((1_700_000_000 + self._world.kernel.now + self._world.date_jumped) * 1000)

    def sleep(self, seconds: float) -> None:
        self._world.kernel.sleep(seconds)


class SimWatchdog(Watchdog):
    """Knows without its own thread whether its process was frozen."""

    def __init__(self, kernel: Kernel, process: Process, timeout: float) -> None:
        self._kernel = kernel
        self._process = process
        self._timeout = timeout
        self._made = kernel.now

    @property
    def stood_still(self) -> bool:
        return any(
            min(until, self._kernel.now) - max(since, self._made) > self._timeout
            for since, until in self._process.freezes
        )

    def end(self) -> None:
        """Do nothing: there is no thread to end."""


class SimPool:
    """Workers as tasks: each chunk has its own task, and a limited number run at a time."""

    def __init__(self, process: "MemberProcess", count: int, handle: Handle[Work]) -> None:
        self._process = process
        self._kernel = process.world.kernel
        self._free = count
        self._handle = handle
        self._waiting: deque[tuple[Chunk[Work], Any]] = deque()
        self._answers: deque[Answer[Work] | BaseException] = deque()
        self._arrived = Signal()

    def submit(self, task: Chunk[Work]) -> None:
        shape, count = self._process.world.shape, len(task.records)
        size = sum(each.size for each in task.records)
        if count > MOST_SHARES * shape.chunk_records or (count > 1 and size > 2 * shape.chunk_bytes):
            self._process.world.ledger.broken(
                "memory", f"{self._process.name} handles too large a chunk of {count}"
            )
        consumer = self._process.clients.current
        assert consumer
        held = consumer.assigned.get(task.partition)
        self._waiting.append((task, (consumer, {task.partition: held} if held else {})))
        self._start()

    def answers(self, timeout: float) -> Sequence[Answer[Work]]:
        if not self._answers:
            self._arrived.clear()
            self._kernel.wait(self._arrived, timeout)
        taken: list[Answer[Work]] = []
        while self._answers:
            answer = self._answers.popleft()
            if isinstance(answer, BaseException):
                raise answer
            taken.append(answer)
        return taken

    def stop(self) -> None:
        """Do nothing: tasks end by themselves."""

    def _start(self) -> None:
        if not self._free or not self._waiting:
            return
        self._free -= 1
        chunk, works_on = self._waiting.popleft()

        def work() -> None:
            answer: Answer[Work] | BaseException
            try:
                answer = self._handle(chunk)
            except Killed:
                raise
            except BaseException as error:  # noqa: BLE001 - the main task raises it
                answer = error
            self._answers.append(answer)
            self._free += 1
            self._arrived.set()
            self._start()

        delay = self._kernel.random.choice((0.0, 0.0, 0.001, 0.05))
        self._kernel.start(self._process, work, lambda _: None, delay).works_on = works_on


class SimCall:
    """A request that is made by its own task, for the partitions of the worker that asked for it."""

    def __init__(self, process: "MemberProcess", request: Callable[[], ApiAnswer]) -> None:
        self._kernel = kernel = process.world.kernel
        self._is_over = Signal()
        self._answer: ApiAnswer | None = None
        self._error: BaseException | None = None
        assert kernel.current is not None

        def work() -> None:
            self._answer = request()

        kernel.start(process, work, self._ended).works_on = kernel.current.works_on

    def done(self) -> bool:
        return self._is_over.is_set

    def result(self, timeout: float | None = None) -> ApiAnswer:
        if not self._kernel.wait(self._is_over, NEVER if timeout is None else timeout):
            raise TimeoutError
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer

    def _ended(self, error: BaseException | None) -> None:
        self._error = error
        self._is_over.set()


NOT_ASSIGNED = "no partition is assigned"


class SimHooks(Hooks):
    """Looks at the member about once a second."""

    def __init__(self, process: "MemberProcess") -> None:
        self._process = process
        self._due = 0.0
        self._observer = Observer(_no_admin, None, 0.5)
        self.view: MemberView | None = None
        self.not_ready: tuple[str, ...] = (NOT_ASSIGNED,)

    def rebalanced(self, change: Change, partitions: Any) -> None:
        self._process.world.say(f"{self._process.name}: {change} {' '.join(map(str, partitions))}")

    def is_view_due(self, now: float) -> bool:
        return now >= self._due

    def viewed(self, view: MemberView) -> None:
        self._due = view.now + 1.0
        self.view = view
        self.not_ready = self._observer.look(view).not_ready
        self._process.world.viewed(self._process, view, self.not_ready)


def _no_admin() -> Any:
    raise AssertionError("the simulation gives no statistics")


class SimLog:
    """The engine's logger. Only a trace shows its lines."""

    def __init__(self, process: "MemberProcess") -> None:
        self._process = process

    def _say(self, event: str, **values: object) -> None:
        world = self._process.world
        if world.trace is not None:
            world.say(f"{self._process.name}: {event} {values or ''}")

    debug = info = warning = error = _say


class MemberProcess(Process):
    """A process of the service, with everything that dies with it."""

    def __init__(self, world: "World", slot: int, name: str) -> None:
        super().__init__(name)
        self.world = world
        self.slot = slot
        self.has_ended = False
        self.stop_asked: float | None = None
        self.token = world.token
        self.must_reconnect = False
        shape, kernel = world.shape, world.kernel
        if shape.by_registry:
            codec = Codec(SimRegistry(kernel, self, world.trap, world.registry_down), clock=lambda: kernel.now)
        else:
            codec = _CODECS[False]
        client = SimClient(world.api, self)
        rules = Rules(workload.REQUEST_BYTES, MAX_ATTEMPTS, PATIENCE)
        self._calls: list[SimCall] = []
        self._delivery = Delivery(
            codec, client, rules, self._defaults(), group="group", clock=lambda: kernel.now, start=self._call
        )
        self.clients = SimClients(
            world.network,
            world.broker,
            self,
            transactional_id=f"group-m{slot}",
            transaction_timeout=TRANSACTION_TIMEOUT,
            instance=f"m{slot}" if shape.is_static else None,
            trap=world.trap,
        )
        options = Options(
            group="shop",
            topics=TOPICS,
            patterns=(),
            results_topic=RESULTS,
            dead_letters_topic=LETTERS,
            bounds=Bounds(shape.lane_records, shape.lane_bytes, shape.chunk_records, shape.chunk_bytes),
            backoff=BACKOFF,
            workers=shape.workers,
            hold_interval=HOLD_INTERVAL,
            commit_timeout=COMMIT_TIMEOUT,
            drain_timeout=DRAIN_TIMEOUT,
            grace_time=GRACE_TIME,
            longest_silence=LONGEST_SILENCE,
            flood_window=shape.flood_window,
            is_static=shape.is_static,
        )
        self.hooks = SimHooks(self)
        around = Surroundings[Work](
            cast("Logger", SimLog(self)),
            SimClock(world),
            kernel.random.random,
            lambda count, handle: SimPool(self, count, handle),
            lambda timeout, _: SimWatchdog(kernel, self, timeout),
            self._call_within,
        )
        self.member = Member[Work](options, self.clients, self._delivery, self.hooks, self._reload, around)

    def start(self) -> None:
        self.world.kernel.start(self, self.member.run, self._ended)

    def stop(self) -> None:
        if self.stop_asked is None:
            self.stop_asked = self.world.kernel.now
        self.member.stop()

    @property
    def is_ready(self) -> bool:
        return not self.hooks.not_ready

    def _ended(self, error: BaseException | None) -> None:
        self.is_alive = False
        self.has_ended = True
        self.world.ended(self, error)

    def _defaults(self) -> Defaults:
        return Defaults(Credentials(SITE, self.token), TAXONOMY)

    def _reload(self, *, asked: bool) -> Reloaded:
        reconnect, self.must_reconnect = self.must_reconnect, False
        if self.token != self.world.token:
            self.token = self.world.token
            self._delivery.use(self._defaults())
            return Reloaded(try_again=True, reconnect=reconnect)
        return Reloaded(try_again=asked, reconnect=reconnect)

    def _call(self, request: Callable[[], ApiAnswer]) -> SimCall | None:
        self._calls = [call for call in self._calls if not call.done()]
        if len(self._calls) == self.world.shape.workers:
            return None
        self._calls.append(SimCall(self, request))
        return self._calls[-1]

    def _call_within(self, seconds: float, call: Callable[[], None], meanwhile: Callable[[], None]) -> None:
        kernel, is_over, errors = self.world.kernel, Signal(), list[BaseException | None]()

        def ended(error: BaseException | None) -> None:
            errors.append(error)
            is_over.set()

        kernel.start(self, call, ended)
        end = kernel.now + seconds
        while not kernel.wait(is_over, min(1.0, end - kernel.now)):
            if kernel.now >= end:
                raise CallTimeout
            meanwhile()
        if errors[0] is not None:
            raise errors[0]


@dataclass(slots=True)
class Outcome:
    """The outcome of a run."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    events: int = 0
    virtual: float = 0.0
    requests: int = 0
    records: int = 0
    breach: Breach | None = None
    trace: list[str] = field(default_factory=list)

    @property
    def injected(self) -> int:
        return self.faults.total()


class World:
    """All of one run. `faults` are by default those of the seed. `trace` collects what happens."""

    def __init__(self, seed: int, faults: Sequence[Fault] | None = None, trace: list[str] | None = None) -> None:
        self.seed = seed
        self.shape = shape = Shape.draw(seed)
        self.trace = trace
        self.kernel = kernel = Kernel(seed)
        self.faults = draw(seed, shape.members, shape.duration) if faults is None else list(faults)
        self.injected: Counter[str] = Counter()
        self.date_jumped = 0.0
        self.token = TOKEN
        self.registry_down = [0.0]
        self.processes: list[MemberProcess] = []
        self._chance = Random(f"{seed} world")  # noqa: S311 - chance, not cryptography
        self._armed: dict[tuple[int, str], deque[Fault]] = defaultdict(deque)
        self._is_ending = False
        self._releases_floods = True
        self._begun = kernel.now
        self._versions: Counter[str] = Counter()
        self._born: Counter[int] = Counter()
        self._produced = 0
        self._support = 0
        self._failing = 0

        self.network = Network(kernel, self.trap, self.kill)
        self.broker = Broker(kernel, self.say)
        self.broker.keeps_metadata = shape.keeps_metadata
        for topic in TOPICS:
            self.broker.add_partitions(topic, shape.partitions[topic])
        self.broker.add_partitions(RESULTS, 2)
        self.broker.add_partitions(LETTERS, 1)
        self.ledger = Ledger(
            workload.decoder(by_registry=shape.by_registry),
            _Owners(self.broker),
            lambda: kernel.now,
            self.broker.topic_id,
        )
        self.broker.commits = self._committed
        self.broker.changed = self._poke
        self.api = Api(kernel, self.ledger, self.trap, LONGEST_SILENCE)

    def run(self) -> Outcome:
        """Run the world. A breach is in the outcome."""
        outcome = Outcome(self.seed)
        try:
            self._run()
        except Breach as breach:
            outcome.breach = breach
        except AssertionError as error:
            outcome.breach = Breach("simulation", f"{type(error).__name__}: {error}")
        outcome.breach = self.ledger.breach or outcome.breach
        outcome.faults = self.injected
        outcome.events, outcome.virtual = self.kernel.events, self.kernel.now - self._begun
        outcome.requests, outcome.records = self.api.requests, len(self.ledger)
        for process in self.processes:
            process.is_alive = False
            for task in process.tasks():
                task.kill()
        return outcome

    def say(self, told: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.kernel.now - self._begun:8.3f}  {told}")

    def _run(self) -> None:
        kernel, shape = self.kernel, self.shape
        for slot in range(shape.members):
            kernel.after(self._chance.uniform(0, 2), lambda slot=slot: self._start(slot))  # type: ignore[misc]
        for _ in range(shape.records):
            kernel.after(self._chance.uniform(0, shape.duration), self._produce)
        for fault in self.faults:
            kernel.at_first(kernel.now + fault.at, lambda fault=fault: self._inject(fault))  # type: ignore[misc]
        self._until(self._begun + shape.duration)
        self._mend()
        idle = [False]

        def look() -> None:
            idle[0] = self._is_idle()
            if not idle[0]:
                self._help()
                kernel.after(0.25, look)

        look()
        if not self._until(kernel.now + IDLE_WITHIN, lambda: idle[0]):
            raise self.ledger.broken("liveness", self._stuck())
        ordeal = Random(f"{self.seed} ordeal").choice(  # noqa: S311 - chance, not cryptography
            (self._block_a_site, self._block_a_site, self._flood_a_topic, self._lose_a_leader)
        )
        if self.shape.blocks:
            ordeal()
            idle[0] = False
            look()
            if not self._until(kernel.now + IDLE_WITHIN, lambda: idle[0]):
                raise self.ledger.broken("liveness", self._stuck())
        self._is_ending = True
        living = [process for process in self.processes if process.is_alive]
        for process in living:
            process.stop()
        if not self._until(kernel.now + STOPPED_WITHIN, lambda: not any(process.is_alive for process in living)):
            names = [process.name for process in living if process.is_alive]
            raise self.ledger.broken("stops when told", f"{names} still run {STOPPED_WITHIN} s after SIGTERM")
        self.ledger.settle()

    def _block_a_site(self) -> None:
        """Let one site fail for long while members come and go: the records of others must go on."""
        kernel = self.kernel
        self._let_the_site_work()
        self.say(f"BLOCKED {OTHER_SITE}")
        how = self._chance.choice(("429", "429", "hang", "503"))
        self.api.down[OTHER_SITE] = (how, NEVER)
        for log in self._inputs():
            self._produce("other site", log=log, letter="a")
        left = _BESIDE

        def beside() -> None:
            nonlocal left
            left -= 1
            self._produce("order", letter="b")

        for _ in range(_BESIDE):
            kernel.after(self._chance.uniform(0.1, 4.0), beside)
        within = PATIENCE - 2.0
        if how == "429":  # such a site is never given up
            within = TRANSACTION_TIMEOUT + 10.0  # a killed member may leave a transaction open
            slot = self._chance.randrange(self.shape.members)
            kernel.after(self._chance.uniform(0.5, 4), lambda: self._unsettle(slot))
        self._until(kernel.now + 2.0)
        if not self._until(kernel.now + within, lambda: not left and self._others_are_done()):
            late = [sent for sent in self.ledger.unfinished() if sent.made.kind != "other site"]
            raise self.ledger.broken("others get on", f"{late[0]} waits while {OTHER_SITE} is down ({how})")
        del self.api.down[OTHER_SITE]

    def _let_the_site_work(self) -> None:
        """Wait until no earlier trouble of the other site counts, and nothing is left to do."""
        for log in self._inputs():
            # A site that worked since has not failed for long, even if this member does not know it.
            self._produce("other site", log=log, letter="a")
        if not self._until(self.kernel.now + IDLE_WITHIN, lambda: not self.ledger.unfinished()):
            raise self.ledger.broken("liveness", self._stuck())
        # A member that notices a recreated topic must first finish what it holds of the old one. And an old failure
        # at one member must no longer count, even if it was frozen then: the site may have worked for others since.
        noticed = (at + NOTICED_WITHIN for at in self.ledger.created_at.values())
        awake = (until + 1.0 for process in self.processes for _, until in process.freezes)
        self._until(max([max([self.kernel.now, *awake]) + 2 * PATIENCE, *noticed]))

    def _flood_a_topic(self) -> None:
        """Flood one topic while a site is down. Once the site works, its records in the other topic must go on."""
        self._let_the_site_work()
        flooded, other = self._chance.sample(TOPICS, 2)
        self.say(f"DOWN {OTHER_SITE}, and a flood in {flooded}")
        self._releases_floods = False
        self.api.down[OTHER_SITE] = ("429", NEVER)
        for log in self.broker.logs_of(flooded):
            self._produce("other site", log=log, letter="a")
            for _ in range(2 * self.shape.flood_window):
                self._produce("garbage", log=log, letter="b")
        self._until(self.kernel.now + self._chance.uniform(0.5, 8.0))
        for log in self.broker.logs_of(other):
            self._produce("other site", log=log, letter="a")
        self._until(self.kernel.now + self._chance.uniform(0.5, 4.0))
        del self.api.down[OTHER_SITE]
        if not self._until(self.kernel.now + PATIENCE, lambda: self._is_done(other)):
            late = next(sent for sent in self.ledger.unfinished() if sent.partition.topic == other)
            raise self.ledger.broken("others get on", f"{late} waits while {flooded} is flooded")
        self._releases_floods = True

    def _lose_a_leader(self) -> None:
        """Add partitions, one of which has no leader yet. The records of all others must go on."""
        self.say("NO LEADER of a new partition")
        topic = self._chance.choice(TOPICS)
        before = self.broker.logs_of(topic)
        self.broker.add_partitions(topic, 2)
        lost = self._chance.choice([log for log in self.broker.logs_of(topic) if log not in before])
        lost.has_leader = False
        self.kernel.after(self._chance.uniform(0, 2), self.broker.group.rebalance)
        slot = self._chance.randrange(self.shape.members)
        self.kernel.after(self._chance.uniform(0.5, 4), lambda: self._unsettle(slot))
        for log in self._inputs():
            self.kernel.after(self._chance.uniform(0, 4), partial(self._produce, "order", log=log, letter="b"))
        self._until(self.kernel.now + 4.0)
        within = TRANSACTION_TIMEOUT + 10.0  # a killed member may leave a transaction open
        if not self._until(self.kernel.now + within, lambda: self._are_done_except(lost.partition)):
            late = next(sent for sent in self.ledger.unfinished() if sent.partition != lost.partition)
            raise self.ledger.broken("others get on", f"{late} waits while {lost.partition} has no leader")
        lost.has_leader = True
        self._poke()

    def _is_done(self, topic: str) -> bool:
        return all(sent.partition.topic != topic for sent in self.ledger.unfinished())

    def _are_done_except(self, partition: Partition) -> bool:
        return all(sent.partition == partition for sent in self.ledger.unfinished())

    def _others_are_done(self) -> bool:
        return all(sent.made.kind == "other site" for sent in self.ledger.unfinished())

    def _unsettle(self, slot: int) -> None:
        process = self._living(slot)
        if process is not None:
            self._chance.choice((self.kill, MemberProcess.stop))(process)
        # A new owner may get records before it knows which are decided beyond its offsets: it waits 2 s for these.
        for member in range(self.shape.members):
            self._inject(Fault(self.kernel.now, "unanswered", member, 2.5, "committed"))

    def _until(self, moment: float, is_over: Callable[[], bool] = lambda: False) -> bool:
        self.kernel.run(moment, lambda: self.ledger.breach is not None or is_over())
        if self.ledger.breach:
            raise self.ledger.breach
        return is_over()

    # members

    def _start(self, slot: int, *, beside: bool = False) -> None:
        if self._is_ending or (self._living(slot) and not beside):
            return
        self._born[slot] += 1
        process = MemberProcess(self, slot, f"m{slot}.{self._born[slot]}")
        self.say(f"{process.name}: begins")
        self.processes.append(process)
        process.start()

    def _restart_later(self, slot: int) -> None:
        self.kernel.after(self._chance.choice((0.05, 0.2, 2.0)), lambda: self._start(slot))

    def _living(self, slot: int) -> MemberProcess | None:
        return next((p for p in reversed(self.processes) if p.slot == slot and p.is_alive), None)

    def ended(self, process: MemberProcess, error: BaseException | None) -> None:
        """A process has ended by itself."""
        self.say(f"{process.name}: ended, {error!r}")
        if error is None:
            if process.stop_asked is None:
                self.ledger.broken("ends when told", f"{process.name} ended, and nobody asked it to")
        elif isinstance(error, Breach):
            return
        elif isinstance(error, MemberFailed):
            if not self.shape.is_static:
                self.ledger.broken("goes on", f"{process.name} gave up: {error}")
        else:
            self.ledger.broken("goes on", f"{process.name} crashed: {type(error).__name__}: {error}")
        self._restart_later(process.slot)

    def kill(self, process: Process) -> None:
        """Kill a process at once. It is started again in a moment."""
        assert isinstance(process, MemberProcess)
        if not process.is_alive:
            return
        self.say(f"{process.name}: killed")
        self.kernel.kill(process)
        self._restart_later(process.slot)

    def viewed(self, process: MemberProcess, view: MemberView, not_ready: tuple[str, ...]) -> None:
        """A member has given a view of itself."""
        for lane in view.lanes:
            self._check_memory(process, lane)
            if lane.waits_for and not not_ready:
                self.ledger.broken("readiness", f"{process.name} is ready, and waits for {lane.waits_for}")
        if process.stop_asked is not None:
            still = sum(until - since for since, until in process.freezes if until > process.stop_asked)
            if view.now - process.stop_asked > STOPPED_WITHIN + still:
                self.ledger.broken("stops when told", f"{process.name} still runs long after SIGTERM")
        if self._releases_floods and (view.flooded or view.losses) and self._chance.random() < 0.3:
            process.member.reload()

    def _check_memory(self, process: MemberProcess, lane: LaneView) -> None:
        """Check that a lane stays within its bounds, and counts its bytes correctly."""
        held = lane.waiting + lane.in_flight + lane.finished
        most = self.shape.lane_records + HELD_BEYOND
        if held > most:
            self.ledger.broken("memory", f"{process.name} holds {held} records of {lane.partition}, over {most}")
        if lane.partition.topic in self.ledger.created_at:
            return  # it may hold records of the earlier topic, which can't be read any more
        first, last = lane.oldest or 0, -1 if lane.newest is None else lane.newest
        entries = self.broker.logs[lane.partition].entries[first : last + 1]
        sizes = [len(entry.key or b"") + len(entry.value or b"") for entry in entries]
        ascending = sorted(sizes)
        if not sum(ascending[:held]) <= lane.held_bytes <= sum(ascending[len(sizes) - held :]):
            self.ledger.broken("memory", f"{process.name} says that {held} records take {lane.held_bytes} bytes")
        most = self.shape.lane_bytes + sum(sizes[-HELD_BEYOND:])
        if lane.held_bytes > most:
            self.ledger.broken(
                "memory", f"{process.name} holds {lane.held_bytes} bytes of {lane.partition}, over {most}"
            )

    # what is produced

    def _inputs(self) -> list[Log]:
        return [log for log in self.broker.logs.values() if log.partition.topic in TOPICS]

    def _produce(self, kind: str | None = None, *, log: Log | None = None, letter: str | None = None) -> None:
        log = log or self._chance.choice(self._inputs())
        letter = letter or "abcdef"[self._chance.randrange(self.shape.keys)]
        may_fail = self.shape.may_fail and self._failing < _MOST_FAILING
        kind = kind or draw_kind(self._chance, self.shape.bad, may_fail=may_fail)
        self._failing += kind in ("failing", "gone site")
        self._versions[f"{log.partition}{letter}"] += 1
        version = self._versions[f"{log.partition}{letter}"]
        made = make(kind, log.partition, letter, version, by_registry=self.shape.by_registry)
        self.ledger.produced(made, log.partition, log.end)
        self.broker.append(log, made.key, made.value)

    def _help(self) -> None:
        """Produce more while an event fails alone: only the success of others shows that it is the cause."""
        if self.ledger.undecided_failing > 0 and self._support < _MOST_SUPPORT:
            self._support += 1
            self._produce("order")

    # the end

    def _is_idle(self) -> bool:
        offsets = self.broker.group.offsets
        return (
            # An empty log was never read, or its topic was just recreated, and the offset is of the earlier one.
            all(not log.end or log.stable == log.end == offsets.get(log.partition, 0) for log in self._inputs())
            and not self.ledger.unfinished()
            and all(self._living(slot) for slot in range(self.shape.members))
            and all(p.is_ready or NOT_ASSIGNED in p.hooks.not_ready for p in self.processes if p.is_alive)
        )

    def _stuck(self) -> str:
        left = self.ledger.unfinished()
        lags = {
            str(log.partition): f"{self.broker.group.offsets.get(log.partition, 0)} of {log.end}"
            for log in self._inputs()
        }
        ready = {p.name: p.hooks.not_ready for p in self.processes if p.is_alive}
        first = f", the first {left[0]}" if left else ""
        return f"after {IDLE_WITHIN} s without faults {len(left)} records are left{first}; offsets {lags}; {ready}"

    def _committed(self, transaction: Transactional) -> None:
        self.ledger.commits(transaction)

    def _poke(self) -> None:
        for process in self.processes:
            if process.is_alive and process.clients.current:
                process.clients.current.poke()

    # faults

    def trap(self, process: Process, call: str) -> Effect:
        """Say what goes wrong with a call that is made now."""
        assert isinstance(process, MemberProcess)
        armed = self._armed.get((process.slot, call))
        if not armed:
            return NOTHING
        fault = armed.popleft()
        self.injected[f"{call}: {fault.what}"] += 1
        self.say(f"FAULT {call} of {process.name}: {fault.what} {fault.seconds} s")
        match fault.what:
            case "killed before":
                self.kill(process)
            case "frozen before" if call != "api":
                self.kernel.freeze(process, fault.seconds)
        return Effect(fault.what, fault.seconds)

    def _inject(self, fault: Fault) -> None:
        if fault.call:
            self._armed[fault.member, fault.call].append(fault)
            return
        process = self._living(fault.member)
        now = self.kernel.now
        until = now + fault.seconds
        self.say(f"FAULT {fault.what} ({fault.seconds} s, {process.name if process else 'nobody'})")
        self.injected[fault.what] += 1
        match fault.what:
            case "kill" if process:
                self.kill(process)
            case "stop" if process:
                process.stop()
            case "stop twice" if process:
                process.stop()
                self.kernel.after(fault.seconds / 4, lambda: self.kill(process))
            case "freeze" if process:
                self.kernel.freeze(process, fault.seconds)
            case "replaced while frozen" if process:
                # Its machine counted as lost, so for a moment both run.
                self.kernel.freeze(process, fault.seconds)
                self._start(process.slot, beside=True)
                self.kernel.after(fault.seconds + 1.0, lambda: self.kill(process))
            case "cut" if process:
                self.network.cut_until[process] = until
            case "brokers down":
                self._down((*GROUP_CALLS, *TRANSACTION_CALLS, *LOG_CALLS), until)
            case "group moves":
                self._down(GROUP_CALLS, until)
                self.kernel.at(until, self.broker.group.moved)
            case "transactions move":
                self._down(TRANSACTION_CALLS, until)
            case "disk full":
                topic = self._chance.choice((RESULTS, LETTERS))
                self.broker.full.add(topic)
                self.kernel.at(until, lambda: self.broker.full.discard(topic))
            case "results must be small":
                self.broker.largest[RESULTS] = _BRIEF  # and so it stays
            case "site down":
                self.api.down[SITE] = (self._chance.choice(DOWN[:-1]), until)
            case "other site down" if OTHER_SITE not in self.api.down:  # once: longer, and it may be given up
                self.api.down[OTHER_SITE] = (self._chance.choice(DOWN[:-1]), until)
            case "other site throttled":
                self.api.down[OTHER_SITE] = ("429", until + 3 * fault.seconds)  # told to wait, it is never given up
            case "token changed" if self.token == TOKEN:
                self.api.tokens[SITE] = (workload.NEW_TOKEN,)
                self.kernel.at(until, self._mend_token)
            case "registry down":
                self.registry_down[0] = until
            case "clock jumps":
                self.date_jumped += self._chance.choice((-7200.0, 7200.0))
            case "reload" if process:
                process.member.reload()
            case "new credentials for Kafka" if process:
                process.must_reconnect = True
            case "retention":
                log = self._chance.choice(self._inputs())
                self.broker.delete_up_to(log, self._chance.randint(0, log.end))
                self.ledger.expired(log)
            case "partition added":
                self.broker.add_partitions(TOPICS[0], 1)
                self.kernel.after(self._chance.uniform(0, 2), self.broker.group.rebalance)
            case "transaction left open":
                self._leave_open(until)
            case "topic created again" if self.shape.keeps_metadata:
                self._create_again(self._chance.choice(TOPICS))
            case "foreign offset metadata":
                self._write_beside()
            case _:
                self.injected[fault.what] -= 1

    def _create_again(self, topic: str) -> None:
        """Recreate a topic, perhaps with as many records as it had, so that a reader notices nothing."""
        ends = {log: log.end for log in self.broker.logs_of(topic)}
        self.broker.create_again(topic)
        self.ledger.created_again(topic)
        for log, end in ends.items():
            for _ in range(self._chance.choice((0, 0, end + 3))):
                self._produce(log=log)
        if self._chance.random() < 0.5:
            self.broker.group.rebalance()
        elif process := self._living(self._chance.randrange(self.shape.members)):
            # It may just have committed offsets of the earlier topic, which the next owner finds.
            ending = partial(self._chance.choice((self.kill, MemberProcess.stop)), process)
            self.kernel.after(self._chance.uniform(0.1, 1.5), ending)

    def _down(self, calls: tuple[str, ...], until: float) -> None:
        for call in calls:
            self.network.down_until[call] = max(self.network.down_until[call], until)

    def _mend_token(self) -> None:
        [self.token] = self.api.tokens[SITE]

    def _leave_open(self, until: float) -> None:
        """Let another writer put records into a partition, and end its transaction later."""
        log = self._chance.choice(self._inputs())
        pid = 10_000 + len(log.entries)
        is_committed = self._chance.random() < 0.5
        for _ in range(self._chance.randint(1, 3)):
            letter = "abcdef"[self._chance.randrange(self.shape.keys)]
            self._versions[f"{log.partition}{letter}"] += 1
            version = self._versions[f"{log.partition}{letter}"]
            made = make("order", log.partition, letter, version, by_registry=self.shape.by_registry)
            if is_committed:
                self.ledger.produced(made, log.partition, log.end)
            self.broker.append(log, made.key, made.value, pid)

        incarnation = self.broker.incarnations[log.partition.topic]

        def end() -> None:
            if self.broker.incarnations[log.partition.topic] == incarnation:
                log.mark(self.kernel.now, pid, committed=is_committed)
            self._poke()

        self.kernel.at(until, end)

    def _write_beside(self) -> None:
        """Give an offset without metadata some that we did not write, or that is damaged."""
        group = self.broker.group
        free = [
            partition
            for partition, offset in group.offsets.items()
            if not group.ahead.get(partition)
            and not any(partition in pending for pending in group.pending.values())
        ]
        if not free:
            return
        partition = self._chance.choice(free)
        offset = group.offsets[partition]
        lie = write(offset, Ahead(((offset + 1, offset + 99),), ""))
        group.ahead[partition] = self._chance.choice((lie[:-1], lie.replace("/1", "/2"), "another program"))

    def _mend(self) -> None:
        """Inject no more faults. Frozen processes wake up in time."""
        self.say("MENDED")
        now = self.kernel.now
        self._armed.clear()
        self.network.cut_until.clear()
        for call in self.network.down_until:
            self.network.down_until[call] = min(self.network.down_until[call], now)
        self.api.down.clear()
        self.broker.full.clear()
        self.registry_down[0] = 0.0
        self._mend_token()
        for slot in range(self.shape.members):
            if not self._living(slot):
                self._restart_later(slot)


class _Owners(dict[Partition, str | None]):
    """The owner of each partition, as the group's coordinator sees it now."""

    def __init__(self, broker: Broker) -> None:
        super().__init__()
        self._broker = broker

    def get(self, partition: Partition, default: str | None = None) -> str | None:  # type: ignore[override]
        return self._broker.group.owner(partition)
