"""Kafka's clients: what the engine needs of them, how they are configured and made, and what they hand over."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from operator import methodcaller
from typing import Any, Protocol, TypeVar

import structlog
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ClusterMetadata, TopicDescription, TopicMetadata

from consumer.engine.deadline import Deadline
from consumer.engine.errors import KafkaUnusable
from consumer.engine.records import Headers, Partition, Place, Record

Logger = structlog.typing.FilteringBoundLogger

GroupMetadata = Any
"""The group's metadata as the consumer gives it (opaque). The broker fences stale members by it (KIP-447)."""

REACHED_WITHIN = 10.0
"""Seconds that the broker has to answer what we ask beside the main loop."""

LARGEST_DEAD_LETTER = 20 * 1024 * 1024
"""Bytes of the largest dead letter: it is as large as its record, and its headers come on top."""

_REACH_TRY = 1.0
_QUIET_SECONDS = 30.0
_REFUSALS = (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED)
_CUT = (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION)

# How long the group waits for a sign of life of a member. One that was killed and is started again waits as long
# for the partitions that it had. One that keeps its name has them back at once: for it the library's time is good.
_SESSION_MS = 10_000
_LONG_SESSION_MS = 45_000

_HEADERS = methodcaller("headers")
# The library reads none of a record that has more than 100,000, and a dead letter has some of its own.
_MOST_HEADERS = 99_900

Client = TypeVar("Client")
RebalanceCallback = Callable[[Any, list[TopicPartition]], None]


class GroupConsumer(Protocol):
    """What the engine calls of a `confluent_kafka.Consumer`; always on the main thread."""

    def subscribe(
        self,
        topics: list[str],
        on_assign: RebalanceCallback,
        on_revoke: RebalanceCallback,
        on_lost: RebalanceCallback,
    ) -> None:
        """Join the group; the callbacks are called within `poll`, `consume` and `close`."""

    def consume(self, num_messages: int, timeout: float) -> Sequence[Message]:
        """Return up to `num_messages` records, waiting for them up to `timeout` seconds."""

    def poll(self, timeout: float) -> Message | None:
        """Return one record, waiting for it up to `timeout` seconds."""

    def pause(self, partitions: list[TopicPartition]) -> None:
        """Stop fetching from partitions."""

    def resume(self, partitions: list[TopicPartition]) -> None:
        """Fetch from partitions again."""

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        """Return the group's committed offsets; negative for none. Blocks up to `timeout` seconds."""

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int]:
        """Return the first offset of a log, and the one after its last. Blocks up to `timeout` seconds."""

    def list_topics(self, topic: str, timeout: float) -> ClusterMetadata:
        """Describe a topic. Blocks up to `timeout` seconds."""

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        """Stop reading partitions, and drop their fetched records. The group still assigns them to this member."""

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        """Read partitions from the offsets given. Without one the library goes on where it was, uncommitted too."""

    def consumer_group_metadata(self) -> GroupMetadata:
        """Return what fences this member's transactions."""

    def close(self) -> None:
        """Leave the group."""


class TransactionalProducer(Protocol):
    """What the engine calls of a `confluent_kafka.Producer`. A failed step raises KafkaException."""

    def init_transactions(self, timeout: float) -> None:
        """Take the transactional id over."""

    def begin_transaction(self) -> None:
        """Begin."""

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        *,
        headers: list[tuple[str, str | bytes | None]],
        on_delivery: Callable[[KafkaError | None, Message], None],
    ) -> None:
        """Queue one record; raises BufferError while the queue is full.

        `on_delivery` is called, in any later call on the same thread, if the broker refuses the record.
        """

    def poll(self, timeout: float) -> int:
        """Let the queue drain."""

    def send_offsets_to_transaction(
        self, positions: list[TopicPartition], group_metadata: GroupMetadata, timeout: float
    ) -> None:
        """Add the group's offsets."""

    def commit_transaction(self, timeout: float) -> None:
        """Commit, and wait until the brokers have all of it."""

    def abort_transaction(self, timeout: float) -> None:
        """Abort."""


class Clients(Protocol):
    """Makes the clients of one member; each call makes a new one. Raises KafkaUnusable."""

    def consumer(
        self, on_error: Callable[[KafkaError], None], on_statistics: Callable[[str], None]
    ) -> GroupConsumer:
        """Make the consumer. Its callbacks are called on the main thread, within its `poll` and `consume`."""

    def producer(self) -> TransactionalProducer:
        """Make the producer."""

    def describe_topics(self, topics: Sequence[str]) -> Mapping[str, Future[TopicDescription]]:
        """Ask what topics there are; does not block."""


class LibraryLog:
    """Takes librdkafka's log lines: the interface of `logging.Logger` that confluent-kafka calls.

    A line that repeats an earlier one is dropped for a while: the library complains of a broker that is away at
    every attempt to reach it. Without a logger all lines are dropped, for commands that say in a sentence of
    their own what is wrong. `clock` is in seconds.
    """

    def __init__(self, logger: Logger | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._quiet_until: dict[tuple[str, str], float] = {}

    def log(self, level: int, _format: str, facility: str, client: str, message: str) -> None:
        """Pass one line on; `level` as in `logging`."""
        if self._logger is None or (facility == "CONFWARN" and "property and will be ignored" in message):
            return  # all clients get all properties, and each takes its own
        # The thread's name, with the broker's, comes first; the figures after it vary.
        said, now = (facility, message.partition("]")[0]), self._clock()
        if now >= self._quiet_until.get(said, 0.0):
            self._quiet_until[said] = now + _QUIET_SECONDS
            self._logger.log(level, "librdkafka", facility=facility, client=client, message=message)


class Cluster:
    """How Kafka is reached, and as whom: makes every client, the member's own among them.

    `properties` are librdkafka's, as they were given. `instance` names this process, or the static member that
    it is. `host` is shown to brokers and their tools. `transaction_timeout` is in seconds.
    """

    def __init__(
        self,
        properties: Mapping[str, str],
        *,
        instance: str,
        host: str,
        transaction_timeout: float,
        log: LibraryLog | None = None,
    ) -> None:
        self.properties = properties
        self.instance = instance
        self._host = host
        self._transaction_timeout = transaction_timeout
        self._log = log or LibraryLog()
        self._admin: AdminClient | None = None

    def use(self, properties: Mapping[str, str]) -> None:
        """Make clients with other properties from now on; those that are made already keep theirs."""
        self.properties = properties
        self._admin = None

    @property
    def starts_at_end(self) -> bool:
        """Whether a group without a committed offset begins at the end of a log."""
        return self.consumer_properties["auto.offset.reset"] in ("latest", "end", "largest")

    @property
    def group(self) -> str:
        """The consumer group's name."""
        return self.properties["group.id"]

    @property
    def servers(self) -> str:
        """The addresses of the brokers."""
        return self.properties["bootstrap.servers"]

    @property
    def is_static(self) -> bool:
        """Whether the member keeps its name, and its partitions, over a restart."""
        return "group.instance.id" in self.properties

    @property
    def transactional_id(self) -> str:
        """The member's own transactional id."""
        return f"{self.group}-{self.instance}"

    @property
    def transaction_timeout(self) -> float:
        """Seconds after which the broker ends a transaction that its producer left open."""
        return int(self.producer_properties["transaction.timeout.ms"]) / 1000

    @property
    def longest_silence(self) -> float:
        """Seconds that a member may stand still and be sure that the group has not given it up.

        The session runs from the last heartbeat, which may have been an interval ago (its default is librdkafka's).
        """
        session = int(self.properties.get("session.timeout.ms", self._session_ms))
        return max(1, session - int(self.properties.get("heartbeat.interval.ms", 3_000))) / 1000

    @property
    def _session_ms(self) -> int:
        return _LONG_SESSION_MS if self.is_static or self._is_of_new_protocol else _SESSION_MS

    @property
    def _is_of_new_protocol(self) -> bool:
        """Whether the group uses KIP-848: what the protocol before it leaves to members is the broker's there."""
        return self.properties.get("group.protocol") == "consumer"

    def client_properties(self, purpose: str) -> dict[str, Any]:
        """Properties of every client; brokers and their tools see it under its purpose and its host."""
        return {"client.id": f"jirafe-{purpose}-{self._host}", **self.properties}

    @property
    def consumer_properties(self) -> dict[str, Any]:
        """Properties of the group member's consumer."""
        classic = {
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": self._session_ms,
        }
        return {
            # A new group loses nothing; a reader sees only what is committed.
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            # What is fetched ahead is memory beside the lanes' own limits.
            "queued.max.messages.kbytes": 16_384,
            # Partitions that are added are found as soon.
            "topic.metadata.refresh.interval.ms": 30_000,
            # How long a broker may hold a fetch back until there is something to give; the library's own default.
            "fetch.wait.max.ms": 500,
            # How often the library tells its position, and where the logs end.
            "statistics.interval.ms": 5000,
            **({} if self._is_of_new_protocol else classic),
            **self.client_properties("consumer"),
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }

    @property
    def producer_properties(self) -> dict[str, Any]:
        """Properties of the transactional writer's producer."""
        return {
            "transactional.id": self.transactional_id,
            "transaction.timeout.ms": round(self._transaction_timeout * 1000),
            # The library counts before it compresses. A broker counts what it gets, as it did with the records.
            "message.max.bytes": 1_000_000_000,
            "delivery.report.only.error": True,
            "compression.type": "lz4",
            "linger.ms": 5,
            **self.client_properties("results"),
        }

    def consumer(self, on_error: Callable[[KafkaError], None], on_statistics: Callable[[str], None]) -> Consumer:
        """Make the group member's consumer; raises KafkaUnusable."""
        callbacks = {"error_cb": on_error, "stats_cb": on_statistics}
        # Where a log does not have the offset that it should, the member decides, and says so.
        own = {"auto.offset.reset": "error"}
        asking = self._made(Consumer, {**self.consumer_properties, "statistics.interval.ms": 0})
        return self._made(partial(_GroupConsumer, asking), {**self.consumer_properties, **own, **callbacks})

    def producer(self) -> Producer:
        """Make the transactional writer's producer; raises KafkaUnusable."""
        return self._made(Producer, self.producer_properties)

    def make_consumer(self, properties: Mapping[str, Any]) -> Consumer:
        """Make a consumer of other properties; raises KafkaUnusable."""
        return self._made(Consumer, properties)

    def make_producer(self, properties: Mapping[str, Any]) -> Producer:
        """Make a producer of other properties; raises KafkaUnusable."""
        return self._made(Producer, properties)

    def make_admin(self, purpose: str) -> AdminClient:
        """Make an admin client; raises KafkaUnusable."""
        return self._made(AdminClient, self.client_properties(purpose))

    def describe_topics(self, topics: Sequence[str]) -> Mapping[str, Future[TopicDescription]]:
        """Ask what topics there are, over a separate connection; does not block. Raises KafkaUnusable."""
        self._admin = self._admin or self.make_admin("topics")
        asked: Mapping[str, Future[TopicDescription]] = self._admin.describe_topics(
            TopicCollection(list(topics)), include_authorized_operations=True, request_timeout=REACHED_WITHIN
        )
        return asked

    def _made(self, kind: Callable[..., Client], properties: Mapping[str, Any]) -> Client:
        try:
            return kind(dict(properties), logger=self._log)
        except KafkaException as error:
            said = kafka_error(error).str()
            name = next(
                (name for name in properties if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", said)), ""
            )
            setting = f"KAFKA_{name.upper().replace('.', '_')}" if name else "a KAFKA_* setting"
            raise KafkaUnusable(f"{setting} is wrong: {said}.") from None

    def reach(self) -> tuple[AdminClient, dict[str, TopicMetadata]]:
        """Reach the broker: returns an admin client, and all topics. Blocks for seconds; raises KafkaUnusable.

        All topics are asked for, since asking for one that is absent may create it.
        """
        faults: list[KafkaError] = []
        admin = self._made(AdminClient, {**self.client_properties("admin"), "error_cb": faults.append})
        deadline = Deadline(REACHED_WITHIN)
        while True:
            try:
                return admin, admin.list_topics(timeout=_REACH_TRY).topics
            except KafkaException as error:
                admin.poll(0)  # only now does the library call the callback
                last = kafka_error(error)
            refusal = next((fault for fault in faults if fault.code() in _REFUSALS), None)
            if refusal or not deadline.left:
                told = [fault for fault in faults if fault.code() != KafkaError._ALL_BROKERS_DOWN]
                raise self.unreachable(refusal or (told[-1] if told else last))

    def unreachable(self, error: KafkaError) -> KafkaUnusable:
        """Say why no broker answers, and which settings to look at."""
        match error.code():
            case KafkaError._AUTHENTICATION:
                trouble = f"the Kafka broker at {self.servers} refuses our credentials"
                fix = "check KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
            case KafkaError._SSL:
                trouble = f"no TLS connection to the Kafka broker at {self.servers}"
                fix = "check KAFKA_SECURITY_PROTOCOL and KAFKA_SSL_CA_LOCATION"
            case _:
                trouble = f"no Kafka broker answers at {self.servers}"
                fix = "set KAFKA_BOOTSTRAP_SERVERS, and KAFKA_SECURITY_PROTOCOL if it wants TLS or SASL"
        # The library's sentence may begin with the broker's address, and end with remarks.
        said = re.sub(r"^\S+:\d+\S*: ", "", error.str()).partition(" (")[0]
        return KafkaUnusable(f"{trouble} ({said}); {fix}.")


class _GroupConsumer(Consumer):
    """The member's consumer, and another one, `asking`, that never joins the group.

    A broker answers the requests of one connection in turn, and holds a fetch back until it has something to give.
    Behind a fetch, each question about a log or a topic waits half a second, and there is one for each partition.
    So they go through the other client, which has its own connections.
    """

    def __init__(self, asking: Consumer, properties: Mapping[str, Any], **further: Any) -> None:
        super().__init__(dict(properties), **further)
        self._asking = asking

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int]:  # type: ignore[override]
        try:
            found: tuple[int, int] = self._asking.get_watermark_offsets(partition, timeout)
        except KafkaException:
            # It may know an earlier leader of the partition. It fetches nothing, so it would not notice for long.
            self._asking.list_topics(partition.topic, timeout)
            raise
        return found

    def list_topics(self, topic: str, timeout: float) -> ClusterMetadata:  # type: ignore[override]
        found: ClusterMetadata = self._asking.list_topics(topic, timeout)
        return found

    def close(self) -> None:
        super().close()
        self._asking.close()


def is_refusal(error: KafkaError) -> bool:
    """Tell whether an error says that the broker does not take our credentials, or we not its certificate."""
    return error.code() in _REFUSALS


def says_cut(error: KafkaError) -> bool:
    """Tell whether there is no offset to read from because the log lacks it, and not because none is committed.

    The code of the error is the same for both; only its text differs.
    """
    return any(KafkaError(code).str() in error.str() for code in _CUT)


def kafka_error(error: KafkaException) -> KafkaError:
    """Return the library's error that an exception carries."""
    found: KafkaError = error.args[0]
    return found


def to_partition(message: Message) -> Partition:
    """Tell which partition a record, or an error, is of."""
    return Partition(message.topic() or "", message.partition() or 0)


def to_place(message: Message) -> Place:
    """Tell where a record is, or the end of a partition."""
    return Place(message.topic(), message.partition(), message.offset())  # type: ignore[arg-type] # never None here


def to_record(message: Message) -> Record:
    """Take what Kafka handed over, whatever it is: what the library can't give is named in the record."""
    headers, missing = _headers(message)
    return Record(
        *to_place(message),
        message.timestamp()[1],
        message.key(),
        message.value(),
        headers,
        missing=missing,
    )


def _headers(message: Message) -> tuple[Headers, str]:
    """Take a message's headers, and say why, where the library can't give them: names may be any bytes.

    They are asked for once only: once it has failed, the library gives what ends the process when it is touched. It
    fails without saying so. A direct call that was made often would not notice, and the error would come up later,
    anywhere.
    """
    try:
        headers = _HEADERS(message)
    except Exception as error:  # noqa: BLE001 - how it fails is the library's, and varies
        return (), f"all headers: the client library can't read them ({type(error).__name__}: {error})"
    if headers and len(headers) > _MOST_HEADERS:
        return (), f"all headers: there are {len(headers)}, and a dead letter may have {_MOST_HEADERS} of them"
    return tuple(headers) if headers else (), ""
