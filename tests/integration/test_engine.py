"""The engine by itself, with a handler that knows nothing of Jirafe: real clients, real threads, a real broker."""

from collections.abc import Callable, Mapping, Sequence
from uuid import uuid4

from confluent_kafka import OFFSET_BEGINNING, KafkaError, Message, TopicPartition
from confluent_kafka.admin import NewTopic
from structlog import get_logger

from consumer.engine.backoff import Backoff
from consumer.engine.kafka import Cluster
from consumer.engine.member import Member, Options, Surroundings
from consumer.engine.ports import Chunk, Done, Hooks, Reloaded, Retry, Trouble
from consumer.engine.records import DeadLetter, Output, Record
from consumer.engine.strand import Bounds

PARTITIONS = 3


class Shouter:
    """Answers each record in capitals. What it needs for that does not serve a chunk's first two tries.

    It can't handle a record that is not text: its handling raises.
    """

    def handle(self, chunk: Chunk[int], still_ours: Callable[[], bool]) -> Done[int] | Retry[int]:
        chunk.work = (chunk.work or 0) + 1
        if chunk.work <= 2 or not still_ours():
            return Retry(chunk, Trouble("voice", "hoarse", "the voice is gone"))
        return Done(chunk, [self._shout(record, chunk.work) for record in chunk.records], frozenset(["voice"]))

    def _shout(self, record: Record, attempts: int) -> Output:
        letter = DeadLetter("unspeakable", "nobody can say that", attempts) if record.value == b"bad" else None
        return Output(record, (record.value or b"(silence)").decode().upper().encode(), letter)

    def prepare(self, chunk: Chunk[int]) -> None:
        pass

    def give_up(self, chunk: Chunk[int], error: Exception) -> Output:
        return Output(chunk.records[0], b"(NOISE)", DeadLetter("internal", type(error).__name__, chunk.raised))

    def brief(self, output: Output) -> Output:
        return output._replace(result=output.result[:1], is_brief=True)


class StopAfter(Hooks):
    """Stops the member once so many outputs are committed."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.stop: Callable[[], None]
        self.retries: list[Trouble] = []

    def retried(self, trouble: Trouble) -> None:
        self.retries.append(trouble)

    def committed(self, outputs: Sequence[Output], seconds: float) -> None:
        self.left -= len(outputs)
        if self.left <= 0:
            self.stop()


def unchanged(*, asked: bool) -> Reloaded:
    """Settings that never change."""
    return Reloaded()


class Place:
    """Topics of their own on the broker, and a group."""

    def __init__(self, servers: str) -> None:
        name = f"engine-{uuid4().hex[:8]}"
        self.input, self.results, self.letters = name, f"{name}-results", f"{name}-dead-letters"
        properties = {"bootstrap.servers": servers, "group.id": name, "session.timeout.ms": "6000"}
        self.cluster = Cluster(properties, instance="m1", host="here", transaction_timeout=21.0)
        topics = [NewTopic(self.input, PARTITIONS, 1), NewTopic(self.results, 1, 1), NewTopic(self.letters, 1, 1)]
        admin = self.cluster.make_admin("test")
        for created in admin.create_topics(topics).values():
            created.result(30)

    def produce(self, values: Mapping[int, Sequence[bytes | None]]) -> None:
        producer = self.cluster.make_producer(self.cluster.client_properties("test"))
        for partition, of_partition in values.items():
            for value in of_partition:
                producer.produce(self.input, value, b"key", partition, headers=[("of", b"\xff%d" % partition)])
        assert producer.flush(30) == 0

    def deliver(self, count: int) -> StopAfter:
        """Run a member until so many records are done."""
        options = Options(
            group="shop",
            topics=(self.input,),
            patterns=(),
            results_topic=self.results,
            dead_letters_topic=self.letters,
            bounds=Bounds(lane_records=100, lane_bytes=10_000, chunk_records=25, chunk_bytes=10_000),
            backoff=Backoff(first=0.01, longest=0.05, longest_retry_after=1.0),
            workers=2,
            hold_interval=1.0,
            commit_timeout=20.0,
            drain_timeout=5.0,
            grace_time=10.0,
            longest_silence=self.cluster.longest_silence,
            flood_window=1000,
        )
        hooks = StopAfter(count)
        member = Member(options, self.cluster, Shouter(), hooks, unchanged, Surroundings(get_logger()))
        hooks.stop = member.stop
        member.run()
        return hooks

    def read(self, topic: str) -> list[Message]:
        """Give all that a reader of committed records finds in a topic of one partition."""
        consumer = self.cluster.make_consumer({**self.cluster.consumer_properties, "group.id": "reader"})
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        found: list[Message] = []
        while True:
            message = consumer.poll(30)
            assert message is not None, f"nothing more comes from {topic}, not even its end"
            error = message.error()
            if error is None:
                found.append(message)
                continue
            assert error.code() == KafkaError._PARTITION_EOF
            consumer.close()
            return found

    def committed(self) -> dict[int, int]:
        consumer = self.cluster.make_consumer(self.cluster.consumer_properties)
        positions = consumer.committed([TopicPartition(self.input, number) for number in range(PARTITIONS)], 30)
        consumer.close()
        return {position.partition: position.offset for position in positions}


def test_a_handler_that_knows_nothing_of_jirafe_delivers_each_record_once_and_in_order(
    bootstrap_servers: str,
) -> None:
    place = Place(bootstrap_servers)
    values: dict[int, list[bytes | None]] = {
        partition: [b"p%d-%d" % (partition, number) for number in range(100)] for partition in range(PARTITIONS)
    }
    values[0][10], values[1][20], values[2][30], values[2][31] = b"bad", b"", None, b"bad"
    values[1][40] = b"\xff noise"
    more: dict[int, list[bytes | None]] = {0: [b"later"], 1: [], 2: [b"later", b"and later"]}

    place.produce(values)
    hooks = place.deliver(300)
    place.produce(more)
    place.deliver(3)  # a second member resumes where the first left off

    assert hooks.retries[0] == Trouble("voice", "hoarse", "the voice is gone")
    results = [message.value() for message in place.read(place.results)]
    assert len(results) == 303
    for partition in range(PARTITIONS):
        mine = [result for result in results if result and result.startswith(b"P%d-" % partition)]
        assert mine == [value.upper() for value in values[partition] if value and value.startswith(b"p")]
    assert [results.count(each) for each in (b"BAD", b"(SILENCE)", b"(NOISE)")] == [2, 2, 1]
    assert results[300:].count(b"LATER") == 2
    assert results[300:].count(b"AND LATER") == 1
    assert place.committed() == {0: 101, 1: 100, 2: 102}

    letters = {
        (_header(letter, "dlq.partition"), _header(letter, "dlq.offset")): letter
        for letter in place.read(place.letters)
    }
    noise = letters.pop((b"1", b"40"))
    assert noise.value() == b"\xff noise"
    assert _header(noise, "dlq.kind") == b"internal"
    assert _header(noise, "dlq.reason") == b"UnicodeDecodeError"
    assert sorted(letters) == [(b"0", b"10"), (b"2", b"31")]
    for letter in letters.values():
        assert (letter.key(), letter.value()) == (b"key", b"bad")
        assert _header(letter, "dlq.kind") == b"unspeakable"
        assert _header(letter, "dlq.reason") == b"nobody can say that"
        assert _header(letter, "dlq.attempts") == b"3"
        assert _header(letter, "of") == b"\xff" + _header(letter, "dlq.partition")


def _header(message: Message, name: str) -> bytes:
    value = dict(message.headers() or ())[name]
    assert isinstance(value, bytes)
    return value
