"""Runs members with a broker and a sandbox, carries out the plan, and settles the ledger.

The sandbox is a thread of this process. At this rate it needs a small part of a core. Its log of arrivals is read
from memory, and keeps far more bodies than arrive while a broker restarts.
"""

import argparse
import heapq
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count, islice
from pathlib import Path
from random import SystemRandom

import orjson
from confluent_kafka import KafkaError, Message, TopicPartition

from brokers.apache import ApacheKafka
from chaos.broker import Broker, Embedded, Kafka
from chaos.ledger import Ledger, Process, Sent, make_messages
from chaos.plan import PlanStep, StormFault, make_plan, make_troubles
from consumer import app, settings
from consumer.admin.reading import read_topic
from consumer.admin.topics import prepare_topics
from consumer.demo.broker import EmbeddedBroker
from consumer.demo.processes import CommandProcess, await_that
from consumer.engine.records import Partition, Place, Record
from jirafe.sandbox import Sandbox, SandboxServer
from schemas.codec import Codec

_TICK = 0.02
_RATE = 250.0
_PARTITIONS = 4
_SETTLED_WITHIN = 60.0
_LATENCY = 0.1
_SECONDS_PER_KILL = 4.0
_STALLED_AFTER = 60.0
_TOLD_EVERY = 10.0
_LAST_WORDS = 2000
_MOST_DEAD = 5
_KINDLY = 0.5
_UNCOMMITTED = 10.0
_UNREAD = 200_000


class Stalled(Exception):
    """There is no more progress, although nothing prevents it. The sentence says where."""


class MemberProcess:
    """One member process, and what was done to it."""

    def __init__(self, name: str, environment: dict[str, str], folder: Path) -> None:
        self.record = Process(name)
        self.log = folder / f"{name}.log"
        self.transactional_id: str | None = None
        own = {
            "JIRAFE_SITE_ID": name,
        }
        self.process = CommandProcess(["run"], {**environment, **own}, self.log)
        self.expected: int | None = None
        self.paused_since: float | None = None
        self._held: set[str] = set()
        self._read_to = 0

    @property
    def runs(self) -> bool:
        """Whether it runs, and is neither ending nor paused."""
        return self.process.status is None and self.expected is None and self.paused_since is None

    def holds(self) -> set[str]:
        """Read from its log which partitions it has."""
        with self.log.open("rb") as lines:
            lines.seek(self._read_to)
            for line in lines:
                if line.endswith(b"\n"):
                    self._read_to += len(line)
                    self._take(line)
        return self._held

    def _take(self, line: bytes) -> None:
        said = orjson.loads(line) if line.startswith(b"{") else {}
        match said.get("event"):
            case "started":
                self.transactional_id = said["transactional_id"]
            case "assigned":
                self._held |= set(said["partitions"])
            case "revoked" | "lost":
                self._held -= set(said["partitions"])

    def end(self, number: signal.Signals) -> None:
        """Kill it, or ask it to leave, and note which exit status it must have."""
        self.expected = -number if number == signal.SIGKILL else 0
        if number == signal.SIGKILL:
            self.record.killed = time.time()
        self.process.signal(number)

    def has_started(self) -> bool:
        """Return whether it has started, so that it ends cleanly at a signal."""
        self.holds()
        return self.transactional_id is not None

    def pause(self) -> None:
        """Suspend it."""
        self.paused_since = time.time()
        self.record.pauses.append((self.paused_since, float("inf")))
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it continue."""
        if self.paused_since is not None:
            self.record.pauses[-1] = (self.paused_since, time.time())
            self.paused_since = None
            self.process.signal(signal.SIGCONT)

    def last_words(self) -> str:
        """Give the end of its log."""
        return f"--- {self.log}\n{self.log.read_text(errors='replace')[-_LAST_WORDS:]}"


class Run:
    """One run. `flow` produces and disturbs. `finish` waits for the results and settles the ledger."""

    def __init__(self, broker: Broker, arguments: argparse.Namespace, server: SandboxServer, folder: Path) -> None:
        self._broker = broker
        self._arguments = arguments
        self._sandbox = server.sandbox
        self._folder = folder
        name = f"chaos-{uuid.uuid4().hex[:8]}"
        self._environment = {
            "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "KAFKA_GROUP_ID": name,
            "KAFKA_SESSION_TIMEOUT_MS": str(broker.session_ms),
            "KAFKA_HEARTBEAT_INTERVAL_MS": "400",
            # Readers and the next member wait this long for a killed member's open transaction.
            "KAFKA_TRANSACTION_TIMEOUT_MS": "10000",
            "JIRAFE_URL": server.url,
            "JIRAFE_ACCESS_TOKEN": "token",
            "JIRAFE_PRODUCT_CATEGORY_TAXONOMY": "2",
            "JIRAFE_READ_TIMEOUT": "10",
            "CONSUMER_CHUNK_RECORDS": str(arguments.chunk_records),
            "CONSUMER_HTTP_ADDRESS": "off",
            "CONSUMER_BACKOFF_LONGEST": "0.5",
            # No event is given up: storms may well hit the same one ten times.
            "CONSUMER_MAX_ATTEMPTS": "1000",
            **{
                f"CONSUMER_{topic.upper()}_TOPIC": f"{name}.{topic}"
                for topic in ("carts", "orders", "taxons", "products", "results", "dead_letters")
            },
        }
        self._settings = settings.load(None, self._environment)
        stream = self._settings.stream
        self._cluster = app.make_cluster(self._settings)
        isolation = {"isolation.level": broker.isolation}  # members don't allow this setting
        reading = settings.Settings(self._settings.api, stream, {**self._settings.kafka, **isolation})
        self._reading = app.make_cluster(reading)
        self._outputs = (stream.results_topic, stream.dead_letters_topic)
        topics = [*self._settings.topics, *self._outputs]
        prepare_topics(app.make_deployment(self._settings), topics, partitions=_PARTITIONS)
        config = {**self._cluster.client_properties("chaos"), "enable.idempotence": True, "linger.ms": 5}
        self._producer = self._cluster.make_producer(config)
        self._codec = Codec()
        self.ledger = Ledger(self._codec, arguments.chunk_records)
        self.breaches: list[str] = []
        self.done: dict[str, int] = {}
        self._trouble: list[StormFault] = []
        self._members: list[MemberProcess] = []
        self._numbers, self._turns = count(1), count()
        self._follow_ups: list[tuple[float, int, Callable[[], None]]] = []
        self._calm()
        self._arrived = 0
        self._begun = time.monotonic()
        self._disturbed = 0.0

    # members

    def start_member(self) -> None:
        """Add a member to the group."""
        name = f"member-{next(self._numbers)}"
        self._members.append(MemberProcess(name, self._environment, self._folder))

    def _running(self) -> list[MemberProcess]:
        return [member for member in self._members if member.runs]

    def _is_settled(self) -> bool:
        """Return whether the running members, and no others, share all partitions evenly."""
        shares = [len(member.holds()) for member in self._running()]
        partitions = _PARTITIONS * len(self._settings.topics)
        return bool(shares) and sum(shares) == partitions and max(shares) - min(shares) <= 1

    def _may(self, step: PlanStep, elapsed: float) -> bool:
        """Return whether it is time for a step, and the broker can take it."""
        if step.at > elapsed:
            return False
        # If the group must settle between steps, one late step makes all later ones late. Each must still wait.
        since = step.at if self._broker.regroups else max(step.at, self._disturbed)
        waited = elapsed - since > _SETTLED_WITHIN
        # A member that starts while the broker is away ends, as it says: its supervisor would start it again.
        is_free = step.action in {"storm", "trouble"} or (self._broker.regroups and step.action != "restart")
        return is_free or waited or self._is_settled()

    def _do(self, step: PlanStep) -> None:
        """Do a step. Leave it out if no member would be left, or there would be too many."""
        running = self._running()
        member = running[int(step.pick * len(running))] if running else None
        after = time.monotonic() + step.lasts
        match step.action:
            case "kill" if member:
                member.end(signal.SIGKILL)
                member.process.wait()
                self._fence(member)
                self.start_member()
            case "pause" if member and len(running) > 1:
                member.pause()
                self._fence(member)
                after = time.monotonic() + step.lasts * self._broker.session_ms / 1000
                heapq.heappush(self._follow_ups, (after, next(self._turns), member.resume))
            case "leave" if member and len(running) > 1 and member.has_started():
                member.end(signal.SIGTERM)
            case "join" if len(running) < self._arguments.members:
                self.start_member()
            case "restart":
                begun = time.time()
                self._broker.restart(kindly=step.pick < _KINDLY)
                # As after a storm, events that the API has but whose results are not committed are sent again.
                self.ledger.storms.append((begun - _UNCOMMITTED, time.time() + _UNCOMMITTED))
            case "storm":
                self.ledger.storms.append((time.time(), time.time() + step.lasts))
                for fault in step.faults:
                    self._sandbox.add_fault(fault)
                heapq.heappush(self._follow_ups, (after, next(self._turns), self._calm))
            case "trouble":
                self._trouble = step.faults
                self._calm()
            case _:
                return
        if step.action not in {"storm", "trouble"}:
            self._disturbed = time.monotonic() - self._begun
        self.done[step.action] = self.done.get(step.action, 0) + 1
        is_of_member = member and step.action in {"kill", "pause", "leave"}
        self._tell(f"{step} {member.record.name}" if member and is_of_member else str(step))

    def _fence(self, member: MemberProcess) -> None:
        member.holds()
        if member.transactional_id:
            self._broker.fence(member.transactional_id)

    def _calm(self) -> None:
        """Let the API work, but with a delay, so that there is always something in flight."""
        self._sandbox.clear_faults()
        for fault in self._trouble:
            self._sandbox.add_fault(fault)
        self._sandbox.add_fault({"action": "delay", "seconds": _LATENCY, "times": None})

    def _watch(self) -> None:
        """Note arrivals, do what is due, and replace members that ended by themselves."""
        for arrival in self._sandbox.events(after=self._arrived):
            self.ledger.note_arrival(arrival)
            self._arrived = arrival.sequence
        while self._follow_ups and self._follow_ups[0][0] <= time.monotonic():
            heapq.heappop(self._follow_ups)[2]()
        for member in list(self._members):
            status = member.process.status
            if status is not None and status != member.expected:
                self.breaches.append(f"{member.record.name} ended by itself, status {status}")
                print(member.last_words())
                if len(self.breaches) > _MOST_DEAD:
                    raise Stalled("members end by themselves, one after the other")
                self.start_member()
            if status is not None:
                member.expected = status

    def _tell(self, what: str) -> None:
        print(f"{time.monotonic() - self._begun:7.1f} s  {what}", flush=True)

    # the run

    def flow(self) -> None:
        """Produce at a steady rate, and carry out the plan meanwhile."""
        arguments = self._arguments
        whole = max(arguments.messages / _RATE, arguments.kills * _SECONDS_PER_KILL)
        seconds = min(whole, arguments.minutes * 60)
        pauses = arguments.kills // 3 if arguments.pauses is None else arguments.pauses
        plan = make_plan(arguments.seed, seconds, arguments.kills, pauses, arguments.restarts)
        if arguments.sites > 1:
            plan = sorted((*plan, *make_troubles(seconds)), key=lambda step: step.at)
        messages = make_messages(arguments.messages, arguments.seed, self._codec, arguments.sites)
        topics = {f"{kind}s": topic for kind, topic in self._settings.topics_by_kind.items()}
        produced, told = 0, self._begun
        elapsed = 0.0
        while elapsed < seconds or plan:
            elapsed = time.monotonic() - self._begun
            for step in [step for step in plan if step.at <= elapsed]:
                if self._may(step, elapsed):
                    plan.remove(step)
                    self._do(step)
            due = round(arguments.messages * min(elapsed, seconds) / whole)
            for sent in islice(messages, due - produced):
                delivered = partial(self._delivered, sent)
                self._producer.produce(topics[sent.topic], sent.value, sent.key.encode(), on_delivery=delivered)
            produced = due
            self._producer.poll(0)
            self._watch()
            if time.monotonic() > told + _TOLD_EVERY:
                told = time.monotonic()
                self._tell(f"{produced:,} produced, {self._arrived:,} arrived, {len(self._running())} members run")
            time.sleep(_TICK)

    def _delivered(self, sent: Sent, error: KafkaError | None, message: Message) -> None:
        if error:
            self.breaches.append(f"the harness could not produce: {error.str()}")
            return
        place = Place(message.topic() or "", message.partition() or 0, message.offset() or 0)
        self.ledger.note_produced(place, sent)

    def finish(self) -> None:
        """End the faults, wait for a result of each record, stop the members and settle. Raises Stalled."""
        self._producer.flush()
        while self._follow_ups:
            heapq.heappop(self._follow_ups)[2]()
        if not self._running():
            self.start_member()
        self._tell(f"calm; {len(self.ledger.produced):,} produced, {len(self._running())} members run")
        results = self._all_results()
        for member in self._running():
            # Before the program is loaded, Python can't handle a signal.
            await_that("the member has started", member.has_started)
            member.end(signal.SIGTERM)
        for member in self._members:
            member.process.wait()
        self._watch()
        letters = [record for record in self._read(self._outputs[1], follow=False) if record]
        hidden = (self._broker.uncommitted(self._outputs[0]), self._broker.uncommitted(self._outputs[1]))
        self.ledger.settle([member.record for member in self._members], results, letters, hidden)

    def _all_results(self) -> list[Record]:
        """Follow the results until each produced record has a committed one."""
        results: list[Record] = []
        missing, progressed = set(self.ledger.produced), time.monotonic()
        for record in self._read(self._outputs[0], follow=True):
            self._watch()
            if record:
                results.append(record)
                missing.discard(self.ledger.place_of(record))
                progressed = time.monotonic()
            elif not missing:
                hidden = self._broker.uncommitted(self._outputs[0])
                places = {self.ledger.place_of(r) for r in results if (r.partition, r.offset) not in hidden}
                if places >= self.ledger.produced.keys():
                    break
            if time.monotonic() > progressed + _STALLED_AFTER:
                raise Stalled(f"no further result for {_STALLED_AFTER:.0f} s; missing are {self._said(missing)}")
        return results

    def _said(self, missing: set[Place]) -> str:
        """Say for each partition how many records have no result, from which offset on, and what is committed."""
        consumer = self._cluster.make_consumer(self._cluster.consumer_properties)
        partitions = Counter(place.of for place in missing)
        try:
            found = consumer.committed([TopicPartition(*partition) for partition in partitions], timeout=10)
        finally:
            consumer.close()
        committed = {Partition(each.topic, each.partition): each.offset for each in found}
        lines = []
        for partition, records in sorted(partitions.items()):
            first = min(place.offset for place in missing if place.of == partition)
            lines.append(f"{records} of {partition} from {first} on, committed {committed[partition]}")
        return "; ".join(lines)

    def _read(self, topic: str, *, follow: bool) -> Iterator[Record | None]:
        return read_topic(self._reading, topic, start="beginning", follow=follow)

    def last_words(self) -> str:
        """Give the end of the log of each running member."""
        return "\n".join(member.last_words() for member in self._members if member.process.status is None)

    def close(self) -> None:
        """End all members at once."""
        for member in self._members:
            if member.process.status is None:
                member.process.signal(signal.SIGKILL)
                member.process.wait()


def run(arguments: argparse.Namespace) -> int:
    """Run, print one table, and give the exit status: 0 if no guarantee broke, else 1."""
    folder = Path(tempfile.mkdtemp(prefix="jirafe-chaos-"))
    print(f"seed {arguments.seed}; logs in {folder}")
    with ExitStack() as stack:
        if arguments.kafka:
            kafka_folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            ours = stack.enter_context(ApacheKafka(kafka_folder, arguments.brokers))
            broker: Broker = Kafka(ours.bootstrap_servers, ours)
        elif arguments.bootstrap_servers:
            broker = Kafka(arguments.bootstrap_servers)
        else:
            broker = Embedded(stack.enter_context(EmbeddedBroker()))
        server = stack.enter_context(SandboxServer(Sandbox(seed=arguments.seed, keep_bodies=_UNREAD)))
        chaos = Run(broker, arguments, server, folder)
        stack.callback(chaos.close)
        for _ in range(arguments.members):
            chaos.start_member()
        try:
            chaos.flow()
            chaos.finish()
        except Stalled as stalled:
            chaos.breaches.append(str(stalled))
            print(chaos.last_words())
    for name, value in {**chaos.ledger.rows, **{f"done: {name}": n for name, n in chaos.done.items()}}.items():
        print(f"{name:<72}{value:>10,}")
    breaches = chaos.breaches + chaos.ledger.breaches
    for breach in breaches:
        print(f"BREACH  {breach}")
    print(f"{len(breaches)} breaches; seed {arguments.seed}" if breaches else f"clean; seed {arguments.seed}")
    if breaches:
        print(f"the logs are in {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if breaches else 0


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20, help="at least this many, spread over the run")
    parser.add_argument(
        "--pauses", type=int, help="stops of a member past its session; default: a third of the kills"
    )
    parser.add_argument("--minutes", type=float, default=10, help="produce and disturb no longer than that")
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10**6))
    parser.add_argument(
        "--sites",
        type=int,
        default=1,
        help="that messages name; of several, one is in trouble",
    )
    parser.add_argument("--members", type=int, default=3, help="most at a time")
    parser.add_argument("--chunk-records", type=int, default=50)
    parser.add_argument("--bootstrap-servers", help="use a real Kafka instead of the embedded broker")
    parser.add_argument("--kafka", action="store_true", help="start an Apache Kafka; needs java and mvn")
    parser.add_argument("--brokers", type=int, default=1, help="how many brokers that Apache Kafka has")
    parser.add_argument("--restarts", type=int, default=0, help="of its brokers in turn, about half by SIGKILL")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(run(parsed()))
