"""The Kafka clients: what the engine calls, how the clients are configured and made, and what they return."""

import re
import time
from collections import deque
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
"""Time limit in seconds for requests outside the main loop."""

LARGEST_DEAD_LETTER = 20 * 1024 * 1024
"""Bytes of the largest dead letter: the size of its record plus its additional headers."""

_REACH_TRY = 1.0
_MOST_FAULTS = 100
_QUIET_SECONDS = 30.0
_REFUSALS = (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED)
_CUT = (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION)

# How long the group waits for a member's heartbeat. A member that was killed and restarted waits as long for its
# old partitions. A static member gets them back at once, so it can use the library's default.
_SESSION_MS = 10_000
_LONG_SESSION_MS = 45_000

_HEADERS = methodcaller("headers")
# The library reads no headers of a record with more than 100,000, and a dead letter adds some.
_MOST_HEADERS = 99_900

Client = TypeVar("Client")
RebalanceCallback = Callable[[Any, list[TopicPartition]], None]


class GroupConsumer(Protocol):
    """The methods of `confluent_kafka.Consumer` that the engine calls, always on the main thread."""

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
        """Read partitions from the given offsets. Without an offset, the library continues at its own position."""

    def consumer_group_metadata(self) -> GroupMetadata:
        """Return the metadata that fences this member's transactions."""

    def close(self) -> None:
        """Leave the group."""


class TransactionalProducer(Protocol):
    """The methods of `confluent_kafka.Producer` that the engine calls. A failed step raises KafkaException."""

    def init_transactions(self, timeout: float) -> None:
        """Take over the transactional id."""

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
        """Ask the brokers to describe topics. Does not block."""


class LibraryLog:
    """Takes librdkafka's log lines: the interface of `logging.Logger` that confluent-kafka calls.

    A repeated line is dropped for a while, because the library logs each failed attempt to reach a broker. Without
    a logger all lines are dropped, for commands that say in their own words what is wrong. `clock` is in seconds.
    """

    def __init__(self, logger: Logger | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._quiet_until: dict[tuple[str, str], float] = {}

    def log(self, level: int, _format: str, facility: str, client: str, message: str) -> None:
        """Pass one line on; `level` as in `logging`."""
        if self._logger is None or (facility == "CONFWARN" and "property and will be ignored" in message):
            return  # all clients get all properties, and each uses its own
        # The names of the thread and the broker come first. The numbers after them vary.
        said, now = (facility, message.partition("]")[0]), self._clock()
        if now >= self._quiet_until.get(said, 0.0):
            self._quiet_until[said] = now + _QUIET_SECONDS
            self._logger.log(level, "librdkafka", facility=facility, client=client, message=message)


class Cluster:
    """How to reach Kafka, and with which credentials. Makes all clients, also those of the member.

    `properties` are the given properties of librdkafka. `instance` names this process, or the static member. `host`
    is shown to brokers and their tools. `transaction_timeout` is in seconds.
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
        self._log = log
        self._admin: AdminClient | None = None

    def use(self, properties: Mapping[str, str]) -> None:
        """Make clients with other properties from now on. Existing clients keep theirs.

        Raises KafkaUnusable if no client can be made with them. Then nothing has changed.
        """
        before, self.properties = self.properties, properties
        try:
            self.make_consumer(self.consumer_properties).close()
        except KafkaUnusable:
            self.properties = before
            raise
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
        """Whether the member keeps its name, and its partitions, across a restart."""
        return "group.instance.id" in self.properties

    @property
    def transactional_id(self) -> str:
        """The member's own transactional id."""
        return f"{self.group}-{self.instance}"

    @property
    def transaction_timeout(self) -> float:
        """Seconds after which the broker aborts a transaction that its producer left open."""
        return int(self.producer_properties["transaction.timeout.ms"]) / 1000

    @property
    def longest_silence(self) -> float:
        """Seconds that a member may be paused before the group can have removed it.

        The session runs from the last heartbeat, which may have been an interval ago (its default is librdkafka's).
        """
        session = int(self.properties.get("session.timeout.ms", self._session_ms))
        return max(1, session - int(self.properties.get("heartbeat.interval.ms", 3_000))) / 1000

    @property
    def _session_ms(self) -> int:
        return _LONG_SESSION_MS if self.is_static or self._is_of_new_protocol else _SESSION_MS

    @property
    def _is_of_new_protocol(self) -> bool:
        """Whether the group uses KIP-848. Then the broker sets the timeouts that members set before."""
        return self.properties.get("group.protocol") == "consumer"

    def client_properties(self, purpose: str) -> dict[str, Any]:
        """Properties of every client. Brokers and their tools show the client's purpose and host."""
        return {"client.id": f"jirafe-{purpose}-{self._host}", **self.properties}

    @property
    def consumer_properties(self) -> dict[str, Any]:
        """Properties of the group member's consumer."""
        classic = {
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": self._session_ms,
        }
        return {
            # A new group starts at the beginning and loses nothing. Only committed records are read.
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            # Prefetched records need memory in addition to the lanes' limits.
            "queued.max.messages.kbytes": 16_384,
            # New partitions are found within this time.
            "topic.metadata.refresh.interval.ms": 30_000,
            # How long a broker may delay a fetch until there are records. This is the library's own default.
            "fetch.wait.max.ms": 500,
            # How often the library reports its positions and the ends of the logs.
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
            # The library checks this limit before compression. The broker checks its own limit after compression.
            "message.max.bytes": 1_000_000_000,
            "delivery.report.only.error": True,
            "compression.type": "lz4",
            "linger.ms": 5,
            **self.client_properties("results"),
        }

    def consumer(self, on_error: Callable[[KafkaError], None], on_statistics: Callable[[str], None]) -> Consumer:
        """Make the group member's consumer; raises KafkaUnusable."""
        callbacks = {"error_cb": on_error, "stats_cb": on_statistics}
        # If a log lacks the expected offset, the member decides where to read, and logs it.
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
        """Ask the brokers to describe topics, over a separate connection. Does not block. Raises KafkaUnusable."""
        if self._admin is None:  # a client without anything to do is falsy
            self._admin = self.make_admin("topics")
        self._admin.poll(0)  # takes its errors, which would pile up otherwise
        asked: Mapping[str, Future[TopicDescription]] = self._admin.describe_topics(
            TopicCollection(list(topics)), include_authorized_operations=True, request_timeout=REACHED_WITHIN
        )
        return asked

    def _made(self, kind: Callable[..., Client], properties: Mapping[str, Any]) -> Client:
        # Without a log, the library passes no line on: an interrupt meanwhile would end in a SystemError.
        quiet = {} if self._log else {"log_level": 0}
        try:
            return kind({**quiet, **properties}, logger=self._log or LibraryLog())
        except KafkaException as error:
            said = kafka_error(error).str().strip()  # some texts end with a line break
            name = next(
                (name for name in properties if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", said)), ""
            )
            setting = f"KAFKA_{name.upper().replace('.', '_')}" if name else "a KAFKA_* setting"
            raise KafkaUnusable(f"{setting} is wrong: {said}.") from None

    def reach(self) -> tuple[AdminClient, dict[str, TopicMetadata]]:
        """Reach the broker: returns an admin client, and all topics. Blocks for seconds; raises KafkaUnusable.

        It asks for all topics, since asking for an absent one may create it. `describe_topics` uses the first
        client again, because it is connected.
        """
        faults: deque[KafkaError] = deque(maxlen=_MOST_FAULTS)
        admin = self._made(AdminClient, {**self.client_properties("admin"), "error_cb": faults.append})
        deadline = Deadline(REACHED_WITHIN)
        while True:
            try:
                topics = admin.list_topics(timeout=_REACH_TRY).topics
            except KafkaException as error:
                admin.poll(0)  # the library calls the callback only now
                last = kafka_error(error)
            else:
                if self._admin is None:
                    self._admin = admin
                return admin, topics
            refusal = next((fault for fault in faults if fault.code() in _REFUSALS), None)
            if refusal or not deadline.left:
                told = [fault for fault in faults if fault.code() != KafkaError._ALL_BROKERS_DOWN]
                raise self.unreachable(refusal or (told[-1] if told else last))

    def unreachable(self, error: KafkaError) -> KafkaUnusable:
        """Return a sentence that says why no broker answers, and which settings to check."""
        match error.code():
            case KafkaError._AUTHENTICATION:
                trouble = f"the Kafka broker at {self.servers} refuses our credentials"
                fix = "check KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
            case KafkaError._SSL:
                trouble = f"no TLS connection to the Kafka broker at {self.servers}"
                fix = "check KAFKA_SECURITY_PROTOCOL and KAFKA_SSL_CA_LOCATION"
            case _:
                trouble = f"no Kafka broker answers at {self.servers}"
                fix = "set KAFKA_BOOTSTRAP_SERVERS, and KAFKA_SECURITY_PROTOCOL if the broker requires TLS or SASL"
        # The library's sentence may begin with the broker's address, and end with remarks.
        said = re.sub(r"^\S+:\d+\S*: ", "", error.str()).partition(" (")[0]
        return KafkaUnusable(f"{trouble} ({said}); {fix}.")


class _GroupConsumer(Consumer):
    """The member's consumer, and a second one, `asking`, that never joins the group.

    A broker answers the requests of one connection one after the other, and delays a fetch until there are records.
    So each request about a log or a topic would wait half a second behind a fetch, once for each partition. The
    other client has its own connections for such requests.
    """

    def __init__(self, asking: Consumer, properties: Mapping[str, Any], **further: Any) -> None:
        super().__init__(dict(properties), **further)
        self._asking = asking

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int]:  # type: ignore[override]
        try:
            found: tuple[int, int] = self._asking.get_watermark_offsets(partition, timeout)
        except KafkaException:
            # This client may know an old leader of the partition. It fetches nothing, so it would notice that late.
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
    """Return whether the broker refuses our credentials, or we don't trust its certificate."""
    return error.code() in _REFUSALS


def says_cut(error: KafkaError) -> bool:
    """Return whether the log lacks the committed offset, rather than that no offset is committed.

    Both have the same error code; only the text differs.
    """
    return any(KafkaError(code).str() in error.str() for code in _CUT)


def kafka_error(error: KafkaException) -> KafkaError:
    """Return the library's error that an exception carries."""
    found: KafkaError = error.args[0]
    return found


def to_partition(message: Message) -> Partition:
    """Return the partition of a record or an error."""
    return Partition(message.topic() or "", message.partition() or 0)


def to_place(message: Message) -> Place:
    """Return the place of a record, or of the end of a partition."""
    return Place(message.topic(), message.partition(), message.offset())  # type: ignore[arg-type] # never None here


def to_record(message: Message) -> Record:
    """Convert any message from Kafka. The record says which part the library could not return."""
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
    """Return a message's headers, or say why the library can't return them: names may be any bytes.

    They are requested only once: after a failure, the library returns an object that crashes the process when it is
    used. The library does not raise the error itself. A direct call that the interpreter has optimized would miss
    it, and the error would appear later, anywhere.
    """
    try:
        headers = _HEADERS(message)
    except Exception as error:  # noqa: BLE001 - the library fails in different ways
        return (), f"all headers: the client library can't read them ({type(error).__name__}: {error})"
    if headers and len(headers) > _MOST_HEADERS:
        return (), f"all headers: there are {len(headers)}, and a dead letter may have {_MOST_HEADERS} of them"
    return tuple(headers) if headers else (), ""
