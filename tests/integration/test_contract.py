"""The simulated clients and a real broker must give the same answers to the same questions.

`Side` has what a question needs. The simulated side runs it in virtual time. The real side runs it against the
broker of the tests, with our client properties. So the simulation is right about everything that is asked here.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import pytest
from confluent_kafka import OFFSET_BEGINNING, OFFSET_INVALID, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import NewTopic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brokers.choice import choose
from consumer.demo.processes import await_that
from consumer.engine.kafka import Clients, Cluster, GroupConsumer, TransactionalProducer
from consumer.engine.records import Partition
from tests.simulation.broker import Broker
from tests.simulation.clients import NOTHING, Network, SimClients
from tests.simulation.kernel import Kernel, Process
from tests.stand import _shortest_session_ms

T = TypeVar("T")
WITHIN = 30.0


def examples(count: int) -> settings:
    """Limit the examples: a real broker needs about a second for each."""
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Side(Protocol):
    """Where a question is asked: real or simulated."""

    def ask(self, question: Callable[[], T]) -> T:
        """Run blocking code, and give what it returns."""

    def now(self) -> float:
        """Give monotonic seconds."""

    def topic(self, partitions: int = 1) -> str:
        """Make a topic."""

    def create_again(self, topic: str) -> None:
        """Delete a topic of one partition, and create it again."""

    def append(self, topic: str, values: Sequence[bytes], partition: int = 0) -> None:
        """Produce outside of any transaction."""

    def clients(self, name: str) -> Clients:
        """Give a factory for the clients of one member of the question's group."""

    def committed(self, topic: str, partition: int = 0) -> int | None:
        """Give the group's committed offset."""

    def seen(self, topic: str) -> list[bytes | None]:
        """Give what a reader of committed records finds in a topic of one partition."""

    def end(self, topic: str) -> int:
        """Give the end offset of a topic of one partition, markers included."""


class Simulated:
    """The simulation, with its own cluster."""

    def __init__(self) -> None:
        self._kernel = Kernel(uuid4().hex)
        self._broker = Broker(self._kernel, lambda _: None)
        self._network = Network(self._kernel, lambda *_: NOTHING, self._kernel.kill)
        self._process = Process("contract")
        self._topics = 0
        self._made: list[SimClients] = []
        self._broker.changed = self._poke

    def _poke(self) -> None:
        for made in self._made:
            if made.current:
                made.current.poke()

    def ask(self, question: Callable[[], T]) -> T:
        answers: list[T] = []
        errors: list[BaseException | None] = []
        self._kernel.start(self._process, lambda: answers.append(question()), errors.append)
        assert self._kernel.run(self._kernel.now + 600, lambda: bool(errors)), "no answer in ten minutes"
        if errors[0]:
            raise errors[0]
        return answers[0]

    def now(self) -> float:
        return self._kernel.now

    def topic(self, partitions: int = 1) -> str:
        self._topics += 1
        name = f"topic-{self._topics}"
        self._broker.add_partitions(name, partitions)
        return name

    def create_again(self, topic: str) -> None:
        self._broker.create_again(topic)

    def append(self, topic: str, values: Sequence[bytes], partition: int = 0) -> None:
        for value in values:
            self._broker.append(self._broker.logs[Partition(topic, partition)], b"key", value)

    def clients(self, name: str) -> SimClients:
        made = SimClients(
            self._network,
            self._broker,
            self._process,
            transactional_id=name,
            transaction_timeout=30.0,
            instance=None,
            trap=lambda *_: NOTHING,
        )
        self._made.append(made)
        return made

    def committed(self, topic: str, partition: int = 0) -> int | None:
        self._kernel.sleep(1)  # for the markers to be written
        return self._broker.group.offsets.get(Partition(topic, partition))

    def seen(self, topic: str) -> list[bytes | None]:
        self._kernel.sleep(1)
        log = self._broker.logs[Partition(topic, 0)]
        return [entry.value for entry in log.read(0, log.end)[0]]

    def end(self, topic: str) -> int:
        self._kernel.sleep(1)
        return self._broker.logs[Partition(topic, 0)].end


class Real:
    """A real broker, with our client properties."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._group = f"contract-{uuid4().hex[:8]}"
        self._cluster = self._cluster_of("test")

    def _cluster_of(self, name: str) -> Cluster:
        properties = {
            "bootstrap.servers": self._servers,
            "group.id": self._group,
            "session.timeout.ms": str(max(2000, _shortest_session_ms(self._servers))),
            "heartbeat.interval.ms": "300",
        }
        return Cluster(properties, instance=name, host="here", transaction_timeout=21.0)

    def ask(self, question: Callable[[], T]) -> T:
        return question()

    def now(self) -> float:
        return time.monotonic()

    def topic(self, partitions: int = 1) -> str:
        name = f"contract-{uuid4().hex[:12]}"
        admin = self._cluster.make_admin("test")
        for created in admin.create_topics([NewTopic(name, partitions, 1)]).values():
            created.result(30)
        return name

    def create_again(self, topic: str) -> None:
        admin = self._cluster.make_admin("test")
        for deleted in admin.delete_topics([topic]).values():
            deleted.result(30)

        def is_created() -> bool:
            try:
                for created in admin.create_topics([NewTopic(topic, 1, 1)]).values():
                    created.result(30)
            except KafkaException:
                return False  # the old one is not gone yet
            return True

        await_that("it is created again", is_created)

    def append(self, topic: str, values: Sequence[bytes], partition: int = 0) -> None:
        producer = self._cluster.make_producer(self._cluster.client_properties("test"))
        for value in values:
            producer.produce(topic, value, b"key", partition)
        assert producer.flush(30) == 0

    def clients(self, name: str) -> Cluster:
        return self._cluster_of(name)

    def _reader(self) -> Consumer:
        return self._cluster.make_consumer({**self._cluster.consumer_properties, "group.id": self._group})

    def committed(self, topic: str, partition: int = 0) -> int | None:
        time.sleep(0.2)
        consumer = self._reader()
        [found] = consumer.committed([TopicPartition(topic, partition)], 30)
        consumer.close()
        return found.offset if found.offset >= 0 else None

    def seen(self, topic: str) -> list[bytes | None]:
        time.sleep(0.2)
        consumer = self._reader()
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        found: list[bytes | None] = []
        while True:
            message = consumer.poll(WITHIN)
            assert message is not None, "not even the end of the topic comes"
            if message.error():
                consumer.close()
                return found
            found.append(message.value())

    def end(self, topic: str) -> int:
        time.sleep(0.2)
        consumer = self._reader()
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), 30)
        consumer.close()
        return end


_SHOWS_ABORTED = "shows readers aborted records"
_TAKES_ANY_OFFSETS = "accepts offsets from former members"
_KEEPS_OFFSETS = "keeps the offsets of a deleted topic"
_NOT_EMBEDDED = {
    "test_a_reader_sees_only_committed_records": _SHOWS_ABORTED,
    "test_an_open_transaction_hides_the_records_after_it": _SHOWS_ABORTED,
    "test_a_replaced_writer_is_fenced": "fences with another error",
    "test_a_member_that_left_cannot_commit": _TAKES_ANY_OFFSETS,
    "test_a_member_of_an_earlier_generation_cannot_commit": _TAKES_ANY_OFFSETS,
    "test_a_member_without_a_committed_offset_is_asked_where_to_start": "reports another end of the log",
    "test_an_offset_after_the_end_is_refused": "does not report an offset after the end",
    "test_a_member_gets_the_last_stable_offset_as_the_end": "reports another end of the log",
    "test_deleting_a_topic_deletes_its_committed_offsets": _KEEPS_OFFSETS,
    "test_a_member_keeps_its_position_in_a_recreated_topic": "crashes clients when it deletes a topic",
    "test_offsets_committed_after_a_topic_is_recreated_apply_to_the_new_topic": _KEEPS_OFFSETS,
}
"""Questions that the embedded broker does not answer as Kafka does, and how it differs."""


@pytest.fixture(params=["simulated", "real"])
def make_side(request: pytest.FixtureRequest) -> Callable[[], Side]:
    """Make a new side for each question, with its own group and topics."""
    if request.param == "simulated":
        return Simulated
    why = _NOT_EMBEDDED.get(getattr(request.node, "originalname", ""))
    if why and not choose().source.is_real:
        pytest.skip(f"only a real broker can show it: the embedded one {why}")
    servers = request.getfixturevalue("bootstrap_servers")
    return lambda: Real(servers)


@pytest.fixture
def side(make_side: Callable[[], Side]) -> Side:
    return make_side()


class Following:
    """A member's consumer, and what it receives: rebalances, records, ends of partitions."""

    def __init__(self, side: Side, topic: str, name: str = "m1") -> None:
        self.heard: list[tuple[str, tuple[int, ...]]] = []
        self.values: list[bytes | None] = []
        self.ends: list[int] = []
        self.resets: list[int] = []
        self.have: set[int] = set()
        self._side = side
        self.consumer: GroupConsumer = side.clients(name).consumer(lambda _: None, lambda _: None)
        self.consumer.subscribe(
            [topic], on_assign=self._hear("assign"), on_revoke=self._hear("revoke"), on_lost=self._hear("lost")
        )

    def _hear(self, what: str) -> Callable[[Any, list[TopicPartition]], None]:
        def hear(_: object, partitions: list[TopicPartition]) -> None:
            numbers = {each.partition for each in partitions}
            self.have = self.have | numbers if what == "assign" else self.have - numbers
            if numbers:
                self.heard.append((what, tuple(sorted(numbers))))

        return hear

    def turn(self) -> None:
        for message in self.consumer.consume(1000, 0.05):
            error = message.error()
            if error is None:
                self.values.append(message.value())
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                self.from_the_beginning(message.topic() or "", message.partition() or 0)
            elif error.code() == KafkaError._PARTITION_EOF:
                self.ends.append(message.offset() or 0)

    def from_the_beginning(self, topic: str, partition: int) -> None:
        """Read from the start of the log: no offset is committed, or the log does not have it."""
        low, _ = self.consumer.get_watermark_offsets(TopicPartition(topic, partition), WITHIN)
        self.resets.append(low)
        self.read_from(topic, low, partition)

    def read_from(self, topic: str, offset: int, partition: int = 0) -> None:
        self.consumer.incremental_unassign([TopicPartition(topic, partition)])
        self.consumer.incremental_assign([TopicPartition(topic, partition, offset)])

    def until(self, is_so: Callable[[], bool], *others: "Following") -> None:
        end = self._side.now() + WITHIN
        while not is_so():
            assert self._side.now() < end, f"it does not come to it: {self.heard}, {self.values}, {self.ends}"
            for each in (self, *others):
                each.turn()

    def for_seconds(self, seconds: float) -> None:
        end = self._side.now() + seconds
        while self._side.now() < end:
            self.turn()


def writer(side: Side, name: str = "w1") -> TransactionalProducer:
    producer = side.clients(name).producer()
    producer.init_transactions(WITHIN)
    return producer


def put(producer: TransactionalProducer, topic: str, *values: bytes) -> None:
    for value in values:
        producer.produce(topic, value, b"key", headers=[], on_delivery=lambda *_: None)


def add(producer: TransactionalProducer, group: Any, topic: str, offset: int) -> None:
    producer.send_offsets_to_transaction([TopicPartition(topic, 0, offset)], group, WITHIN)


def error_of(call: Callable[[], object]) -> tuple[str, bool, bool]:
    """Give the name of the error that a call raises, whether it is fatal, and whether it requires an abort."""
    try:
        call()
    except KafkaException as raised:
        error = raised.args[0]
        return error.name(), error.fatal(), error.txn_requires_abort()
    return "none", False, False


# transactions


STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(("commit", "commit", "abort", "left open"))), max_size=5
)


@examples(12)
@given(steps=STEPS)
def test_a_reader_sees_only_committed_records(make_side: Callable[[], Side], steps: list[tuple[int, str]]) -> None:
    """Commits, aborts, and writers that are replaced in mid-transaction may come in any order."""
    side = make_side()

    def question() -> tuple[list[bytes | None], int]:
        topic = side.topic()
        producer = writer(side)
        for number, (count, how) in enumerate(steps):
            producer.begin_transaction()
            put(producer, topic, *(b"%d.%d" % (number, each) for each in range(count)))
            if how == "commit":
                producer.commit_transaction(WITHIN)
            elif how == "abort":
                producer.abort_transaction(WITHIN)
            else:
                if count:
                    let_send(producer)
                producer = writer(side)  # takes the id over, and ends what is open
        return side.seen(topic), side.end(topic)

    values = [
        b"%d.%d" % (n, each) for n, (count, how) in enumerate(steps) for each in range(count) if how == "commit"
    ]
    seen, end = side.ask(question)
    assert seen == values
    # Each transaction that wrote anything, and was sent, has a marker behind its records.
    written = sum(count + 1 for count, how in steps if count and how == "commit")
    assert end >= written


def let_send(producer: TransactionalProducer) -> None:
    """Give the library a moment to send what is queued."""
    for _ in range(5):
        producer.poll(0.05)


@examples(10)
@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_each_commit_leaves_one_marker(make_side: Callable[[], Side], counts: list[int]) -> None:
    side = make_side()

    def question() -> int:
        topic = side.topic()
        producer = writer(side)
        for count in counts:
            producer.begin_transaction()
            put(producer, topic, *[b"x"] * count)
            producer.commit_transaction(WITHIN)
        return side.end(topic)

    assert side.ask(question) == sum(counts) + len(counts)


def test_a_transaction_call_out_of_order_is_refused(side: Side) -> None:
    def question() -> list[str]:
        topic = side.topic()
        producer = writer(side)
        told = [
            error_of(lambda: producer.commit_transaction(WITHIN))[0],
            error_of(lambda: producer.abort_transaction(WITHIN))[0],
            error_of(lambda: put(producer, topic, b"x"))[0],
        ]
        producer.begin_transaction()
        told.append(error_of(producer.begin_transaction)[0])
        put(producer, topic, b"x")
        producer.commit_transaction(WITHIN)
        return told

    assert side.ask(question) == ["_STATE"] * 4


def test_a_replaced_writer_is_fenced(side: Side) -> None:
    def question() -> tuple[tuple[str, bool, bool], list[bytes | None]]:
        topic = side.topic()
        old = writer(side)
        old.begin_transaction()
        put(old, topic, b"old")
        let_send(old)
        new = writer(side)
        new.begin_transaction()
        put(new, topic, b"new")
        new.commit_transaction(WITHIN)
        put(old, topic, b"more of the old")
        return error_of(lambda: old.commit_transaction(WITHIN)), side.seen(topic)

    assert side.ask(question) == (("_FENCED", True, False), [b"new"])


def test_an_open_transaction_hides_the_records_after_it(side: Side) -> None:
    def question() -> tuple[list[bytes | None], list[bytes | None]]:
        topic = side.topic()
        producer = writer(side)
        producer.begin_transaction()
        put(producer, topic, b"open")
        let_send(producer)
        side.append(topic, [b"behind"])
        before = side.seen(topic)
        producer.abort_transaction(WITHIN)
        return before, side.seen(topic)

    assert side.ask(question) == ([], [b"behind"])


# offsets in transactions


@examples(8)
@given(commits=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=4))
def test_the_committed_offset_is_that_of_the_last_committed_transaction(
    make_side: Callable[[], Side], commits: list[tuple[int, bool]]
) -> None:
    side = make_side()

    def question() -> int | None:
        topic, results = side.topic(), side.topic()
        side.append(topic, [b"v"] * 5)
        member = Following(side, topic)
        member.until(lambda: len(member.values) == 5)
        producer = writer(side)
        for offset, is_committed in commits:
            producer.begin_transaction()
            put(producer, results, b"result")
            add(producer, member.consumer.consumer_group_metadata(), topic, offset)
            (producer.commit_transaction if is_committed else producer.abort_transaction)(WITHIN)
        member.consumer.close()
        return side.committed(topic)

    committed = [offset for offset, is_committed in commits if is_committed]
    assert side.ask(question) == (committed[-1] if committed else None)


def topic_id(side: Side, topic: str) -> str:
    clients = side.clients("ask")  # whose client ends with it
    future = clients.describe_topics([topic])[topic]
    while not future.done():
        wait(side, 0.05)
    return str(future.result().topic_id)


@pytest.mark.parametrize("when", ["before", "while a transaction has them"])
def test_deleting_a_topic_deletes_its_committed_offsets(side: Side, when: str) -> None:
    def question() -> tuple[int | None, bool, bool]:
        topic, results = side.topic(), side.topic()
        side.append(topic, [b"v"] * 3)
        member = Following(side, topic)
        member.until(lambda: len(member.values) == 3)
        group, producer, before = member.consumer.consumer_group_metadata(), writer(side), topic_id(side, topic)
        same = topic_id(side, topic) == before
        producer.begin_transaction()
        put(producer, results, b"result")
        add(producer, group, topic, 2)
        if when == "before":
            producer.commit_transaction(WITHIN)
        side.create_again(topic)
        if when != "before":
            producer.commit_transaction(WITHIN)
        member.consumer.close()
        return side.committed(topic), same, topic_id(side, topic) == before

    assert side.ask(question) == (None, True, False)


def test_offsets_committed_after_a_topic_is_recreated_apply_to_the_new_topic(side: Side) -> None:
    def question() -> tuple[int | None, list[bytes | None]]:
        topic, results = side.topic(), side.topic()
        side.append(topic, [b"old"] * 3)
        member = Following(side, topic)
        member.until(lambda: len(member.values) == 3)
        producer = writer(side)
        side.create_again(topic)
        side.append(topic, [b"0", b"1", b"2"])
        producer.begin_transaction()
        put(producer, results, b"result")
        add(producer, member.consumer.consumer_group_metadata(), topic, 2)
        producer.commit_transaction(WITHIN)
        member.consumer.close()
        committed = side.committed(topic)
        later = Following(side, topic, "m2")
        later.until(lambda: bool(later.values))
        later.consumer.close()
        return committed, later.values

    assert side.ask(question) == (2, [b"2"])


def test_a_member_keeps_its_position_in_a_recreated_topic(side: Side) -> None:
    def question() -> list[bytes | None]:
        topic = side.topic()
        side.append(topic, [b"old"] * 2)
        member = Following(side, topic)
        member.until(lambda: len(member.values) == 2)
        side.create_again(topic)
        side.append(topic, [b"0", b"1", b"2", b"3"])
        member.until(lambda: b"3" in member.values)
        member.consumer.close()
        return member.values

    assert side.ask(question) == [b"old", b"old", b"2", b"3"]


def test_a_member_that_left_cannot_commit(side: Side) -> None:
    def question() -> tuple[tuple[str, bool, bool], int | None]:
        topic, results = side.topic(), side.topic()
        side.append(topic, [b"v"])
        member = Following(side, topic)
        member.until(lambda: len(member.values) == 1)
        group = member.consumer.consumer_group_metadata()
        member.consumer.close()
        producer = writer(side)
        producer.begin_transaction()
        put(producer, results, b"result")
        told = error_of(lambda: add(producer, group, topic, 1))
        producer.abort_transaction(WITHIN)
        producer.begin_transaction()
        put(producer, results, b"the next is as any other")
        producer.commit_transaction(WITHIN)
        return told, side.committed(topic)

    assert side.ask(question) == (("UNKNOWN_MEMBER_ID", False, True), None)


def test_a_member_of_an_earlier_generation_cannot_commit(side: Side) -> None:
    def question() -> tuple[tuple[str, bool, bool], int | None]:
        topic = side.topic(2)
        first = Following(side, topic)
        first.until(lambda: first.have == {0, 1})
        group = first.consumer.consumer_group_metadata()
        second = Following(side, topic, "m2")
        first.until(lambda: len(first.have) == len(second.have) == 1, second)
        producer = writer(side)
        producer.begin_transaction()
        told = error_of(lambda: add(producer, group, topic, 1))
        producer.abort_transaction(WITHIN)
        for each in (first, second):
            each.consumer.close()
        return told, side.committed(topic)

    assert side.ask(question) == (("ILLEGAL_GENERATION", False, True), None)


# the group


def test_a_rebalance_moves_only_the_partitions_that_change_owner(side: Side) -> None:
    def question() -> list[list[tuple[str, int]]]:
        topic = side.topic(2)
        first = Following(side, topic)
        first.until(lambda: first.have == {0, 1})
        second = Following(side, topic, "m2")
        first.until(lambda: len(first.have) == len(second.have) == 1, second)
        assert first.have | second.have == {0, 1}
        second.consumer.close()
        first.until(lambda: first.have == {0, 1})
        first.consumer.close()
        return [[(what, len(partitions)) for what, partitions in each.heard] for each in (first, second)]

    assert side.ask(question) == [
        [("assign", 2), ("revoke", 1), ("assign", 1), ("revoke", 2)],
        [("assign", 1), ("revoke", 1)],
    ]


def test_the_next_owner_resumes_from_the_committed_offset(side: Side) -> None:
    def question() -> list[bytes | None]:
        topic, results = side.topic(), side.topic()
        side.append(topic, [b"%d" % number for number in range(6)])
        first = Following(side, topic)
        first.until(lambda: len(first.values) == 6)
        producer = writer(side)
        producer.begin_transaction()
        put(producer, results, b"result")
        add(producer, first.consumer.consumer_group_metadata(), topic, 4)
        producer.commit_transaction(WITHIN)
        first.consumer.close()
        second = Following(side, topic, "m2")
        second.until(lambda: bool(second.ends))
        second.consumer.close()
        return second.values

    assert side.ask(question) == [b"4", b"5"]


# reading


@examples(8)
@given(steps=STEPS)
def test_the_end_of_a_partition_is_after_markers_and_aborted_records(
    make_side: Callable[[], Side], steps: list[tuple[int, str]]
) -> None:
    side = make_side()

    def question() -> tuple[int, int]:
        topic = side.topic()
        producer = writer(side)
        for count, how in steps:
            producer.begin_transaction()
            put(producer, topic, *[b"x"] * count)
            (producer.commit_transaction if how == "commit" else producer.abort_transaction)(WITHIN)
        end = side.end(topic)
        member = Following(side, topic)
        member.until(lambda: end in member.ends)
        member.consumer.close()
        return member.ends[-1], end

    told, end = side.ask(question)
    assert told == end


def test_the_end_of_a_partition_is_reported_each_time_it_is_reached(side: Side) -> None:
    def question() -> list[int]:
        topic = side.topic()
        side.append(topic, [b"1", b"2"])
        member = Following(side, topic)
        member.until(lambda: bool(member.ends))
        member.for_seconds(1.5)
        side.append(topic, [b"3"])
        member.until(lambda: len(member.ends) == 2)
        member.consumer.close()
        return member.ends

    assert side.ask(question) == [2, 3]


def test_a_paused_partition_returns_no_records_and_loses_none(side: Side) -> None:
    def question() -> tuple[list[bytes | None], list[bytes | None]]:
        topic = side.topic()
        side.append(topic, [b"%d" % number for number in range(20)])
        member = Following(side, topic)
        take_one(side, member)
        member.consumer.pause([TopicPartition(topic, 0)])
        member.for_seconds(1.0)
        paused = list(member.values)
        member.consumer.resume([TopicPartition(topic, 0)])
        member.until(lambda: len(member.values) == 20)
        member.consumer.close()
        return paused, member.values

    assert side.ask(question) == ([b"0"], [b"%d" % number for number in range(20)])


def take_one(side: Side, member: Following) -> None:
    """Take one record, and leave what else is fetched in the library."""
    end = side.now() + WITHIN
    while not member.values:
        assert side.now() < end
        message = member.consumer.poll(0.05)
        error = None if message is None else message.error()
        if message is not None and error is None:
            member.values.append(message.value())
        elif message is not None and error is not None and error.code() == KafkaError._AUTO_OFFSET_RESET:
            member.from_the_beginning(message.topic() or "", message.partition() or 0)


def test_an_end_that_a_pause_discarded_is_reported_again(side: Side) -> None:
    def question() -> list[int]:
        topic = side.topic()
        side.append(topic, [b"1", b"2"])
        member = Following(side, topic)
        take_one(side, member)
        wait(side, 1.0)  # for the rest, and the end, to be fetched and not taken
        member.consumer.pause([TopicPartition(topic, 0)])
        member.for_seconds(0.5)
        member.consumer.resume([TopicPartition(topic, 0)])
        member.until(lambda: bool(member.ends))
        member.consumer.close()
        return member.ends

    assert side.ask(question) == [2]


def wait(side: Side, seconds: float) -> None:
    if isinstance(side, Simulated):
        side._kernel.sleep(seconds)
    else:
        time.sleep(seconds)


def test_a_reassigned_partition_is_read_from_the_given_offset(side: Side) -> None:
    def question() -> list[bytes | None]:
        topic, results = side.topic(), side.topic()
        side.append(topic, [b"%d" % number for number in range(4)])
        member = Following(side, topic)
        member.until(lambda: len(member.values) == 4)
        producer = writer(side)
        producer.begin_transaction()
        put(producer, results, b"result")
        add(producer, member.consumer.consumer_group_metadata(), topic, 3)
        producer.commit_transaction(WITHIN)
        [found] = member.consumer.committed([TopicPartition(topic, 0)], WITHIN)
        member.read_from(topic, found.offset)
        member.until(lambda: len(member.values) == 5)
        member.consumer.close()
        return member.values

    assert side.ask(question) == [b"0", b"1", b"2", b"3", b"3"]


def test_a_member_without_a_committed_offset_is_asked_where_to_start(side: Side) -> None:
    def question() -> tuple[list[int], tuple[int, int], int, list[bytes | None]]:
        topic = side.topic()
        side.append(topic, [b"1", b"2", b"3"])
        member = Following(side, topic)
        member.until(lambda: bool(member.ends))
        ends = member.consumer.get_watermark_offsets(TopicPartition(topic, 0), WITHIN)
        [found] = member.consumer.committed([TopicPartition(topic, 0)], WITHIN)
        member.consumer.close()
        return member.resets, ends, found.offset, member.values

    assert side.ask(question) == ([0], (0, 3), OFFSET_INVALID, [b"1", b"2", b"3"])


def test_an_offset_after_the_end_is_refused(side: Side) -> None:
    def question() -> tuple[list[int], list[bytes | None]]:
        topic = side.topic()
        side.append(topic, [b"1", b"2"])
        member = Following(side, topic)
        member.until(lambda: len(member.values) == 2)
        member.read_from(topic, 7)
        member.until(lambda: len(member.values) == 4)
        member.consumer.close()
        return member.resets, member.values

    assert side.ask(question) == ([0, 0], [b"1", b"2", b"1", b"2"])


@examples(6)
@given(steps=STEPS)
def test_a_member_gets_the_last_stable_offset_as_the_end(
    make_side: Callable[[], Side], steps: list[tuple[int, str]]
) -> None:
    side = make_side()

    def question() -> tuple[int, int]:
        topic = side.topic()
        side.append(topic, [b"first"])
        producer = writer(side)
        for count, how in steps:
            producer.begin_transaction()
            put(producer, topic, *[b"x"] * count)
            (producer.commit_transaction if how == "commit" else producer.abort_transaction)(WITHIN)
        stable = side.end(topic)
        producer.begin_transaction()
        put(producer, topic, b"open")
        let_send(producer)
        member = Following(side, topic)
        member.until(lambda: bool(member.ends))
        _, end = member.consumer.get_watermark_offsets(TopicPartition(topic, 0), WITHIN)
        member.consumer.close()
        producer.abort_transaction(WITHIN)
        return end, stable

    end, stable = side.ask(question)
    assert end == stable


def test_a_partition_cannot_be_assigned_or_unassigned_twice(side: Side) -> None:
    def question() -> list[str]:
        topic = side.topic(2)
        member = Following(side, topic)
        member.until(lambda: member.have == {0, 1})
        member.until(lambda: len(member.resets) == 2)
        place = [TopicPartition(topic, 0, 0)]
        told = [error_of(lambda: member.consumer.incremental_assign(place))[0]]
        member.consumer.incremental_unassign(place)
        told.append(error_of(lambda: member.consumer.incremental_unassign(place))[0])
        member.consumer.incremental_assign(place)
        member.consumer.close()
        return told

    assert side.ask(question) == ["_CONFLICT", "_INVALID_ARG"]
