"""The base of a service test: a broker, an API, its own topics and group, and real members."""

import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, Literal

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from consumer import app, settings
from consumer.admin import reading
from consumer.admin.asking import answered
from consumer.admin.produce import Encoded, produce
from consumer.admin.ranges import Topics
from consumer.admin.topics import prepare_topics
from consumer.demo.processes import CommandProcess, await_that
from consumer.engine.kafka import LibraryLog, to_record
from consumer.engine.records import Partition, Range, Record
from jirafe.sandbox import SandboxServer
from schemas.codec import Codec
from schemas.hub import key_of, kind_of, to_message

SITE, TOKEN = "123", "a-token"
NUMBER_OF_PARTITIONS = 3
_SESSION_MS = 2000
_PATIENCE = 3.0
_TRANSIENT = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._TIMED_OUT,
)


class Stand:
    """One group with its own topics at a shared broker, and its own API.

    With `default_names`, its group and topics have the default names.
    """

    def __init__(
        self, bootstrap_servers: str, api: SandboxServer, folder: Path, *, default_names: bool = False
    ) -> None:
        self.api = api.sandbox
        self.folder = folder
        self.codec = Codec()
        self._stack = ExitStack()
        self._members = 0
        name = uuid.uuid4().hex[:8]
        names = {
            "KAFKA_GROUP_ID": f"group-{name}",
            **{
                f"CONSUMER_{topic.upper()}_TOPIC": f"{name}-{topic}"
                for topic in ("carts", "orders", "taxons", "products", "results", "dead_letters")
            },
        }
        self.environment = {
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
            **({} if default_names else names),
            "KAFKA_SESSION_TIMEOUT_MS": str(max(_SESSION_MS, _shortest_session_ms(bootstrap_servers))),
            "KAFKA_HEARTBEAT_INTERVAL_MS": "500",
            "JIRAFE_URL": api.url,
            "JIRAFE_SITE_ID": SITE,
            "JIRAFE_ACCESS_TOKEN": TOKEN,
            "JIRAFE_PRODUCT_CATEGORY_TAXONOMY": "2",
            "CONSUMER_HTTP_ADDRESS": "off",
            "CONSUMER_BACKOFF_LONGEST": "0.5",
        }
        self.settings = settings.load(None, self.environment)
        self.deployment = app.make_deployment(self.settings)
        self.cluster = self.deployment.cluster
        prepare_topics(self.deployment, self.deployment.topics, partitions=NUMBER_OF_PARTITIONS)
        # The leader of a new partition may not answer at once.
        Topics(self.cluster).firsts(
            [Partition(topic, number) for topic in self.deployment.topics for number in range(NUMBER_OF_PARTITIONS)]
        )
        self._producer = self.cluster.make_producer(self.cluster.client_properties("test"))

    @property
    def orders_topic(self) -> str:
        return self.settings.topics_by_kind["order"]

    def produce(self, *documents: dict[str, Any]) -> None:
        """Produce hub messages, each to its topic, keyed by its number or id."""
        messages = [to_message(document) for document in documents]
        for message in messages:
            kind, key = kind_of(message["message"]) or "", key_of(message)
            self.produce_bytes(kind, key.encode() if key else None, self.codec.encode(kind, message))

    def produce_bytes(self, kind: str, key: bytes | None, value: bytes) -> None:
        topics = self.settings.topics_by_kind
        produce(self._producer, [(topics[kind], Encoded(kind, key, value))])

    def send_later(
        self, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = (), topic: str | None = None
    ) -> None:
        """Produce one of many records, to the orders topic or another. `flush` waits for them."""
        self._producer.produce(topic or self.orders_topic, value, key, headers=list(headers))
        self._producer.poll(0)

    def flush(self) -> None:
        assert self._producer.flush(30) == 0

    def produce_raw(self, key: bytes, value: bytes | None, headers: Iterable[tuple[str, bytes]] = ()) -> None:
        """Produce any bytes to the orders topic."""
        self._producer.produce(self.orders_topic, value, key, headers=list(headers))
        assert self._producer.flush(10) == 0

    def take_any_timestamp(self) -> None:
        """Let the orders topic accept records from the far future, which Kafka 4 refuses by default."""
        self.configure(self.orders_topic, "message.timestamp.after.max.ms", 2**63 - 1)

    def configure(self, topic: str, name: str, value: int | str) -> None:
        """Set a config of a topic."""
        entry = ConfigEntry(name, str(value), incremental_operation=AlterConfigOpType.SET)
        changed = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        admin = self.cluster.make_admin("test")
        for future in admin.incremental_alter_configs([changed]).values():
            future.result()
        asked = ConfigResource(ConfigResource.Type.TOPIC, topic)

        def has_taken() -> bool:
            (configs,) = admin.describe_configs([asked]).values()
            return name in (found := configs.result()) and found[name].value == entry.value

        # The controller has answered; the broker learns of it a little later.
        await_that("the broker knows the topic's setting", has_taken)

    def member(self, **changed: str) -> CommandProcess:
        """Start a member of the group. It is stopped with the stand."""
        return self.member_with_file(Path(os.devnull), **changed)

    def member_with_file(self, env_file: Path, **changed: str) -> CommandProcess:
        self._members += 1
        log = self.folder / f"member-{self._members}.log"
        process = CommandProcess(["run"], {**self.environment, **changed}, log, env_file)
        return self._stack.enter_context(process)

    def end_transaction_of(self, member: CommandProcess) -> None:
        """End the transaction that a member has left open, as a real broker does after its timeout."""
        started = next(line for line in member.log.read_text().splitlines() if '"event": "started"' in line)
        own = {"transactional.id": json.loads(started)["transactional_id"]}
        self.cluster.make_producer({**self.cluster.producer_properties, **own}).init_transactions(30)

    def writer(self, transactional_id: str) -> Producer:
        """Give another program's transactional producer. Its transactions may be open for a minute."""
        own = {"transactional.id": transactional_id, "transaction.timeout.ms": 60_000}
        producer = self.cluster.make_producer({**self.cluster.producer_properties, **own})
        producer.init_transactions(30)
        return producer

    def await_assigned(self, member: CommandProcess) -> None:
        await_that(f"an assignment in {member.log}", lambda: member.said('"event": "assigned"') > 0)

    def records(
        self, topic: Literal["results", "dead_letters"], *, follow: bool = False
    ) -> Iterator[Record | None]:
        name = getattr(self.settings.stream, f"{topic}_topic")
        return reading.read_topic(self.cluster, name, start="beginning", follow=follow)

    def await_results(self, count: int, within: float = 120.0) -> list[dict[str, Any]]:
        """Wait for this many results, and give all, in the order of the topic's partitions."""
        await_that("the results topic", self._has_results_topic)
        end, found = time.monotonic() + within, 0
        for record in self.records("results", follow=True):
            found += record is not None
            if found >= count:
                break
            assert time.monotonic() < end, f"{found} of {count} results; see {self.folder}\n{self.logs()}"
        return self.results()

    def _has_results_topic(self) -> bool:
        consumer = Consumer({"bootstrap.servers": self.environment["KAFKA_BOOTSTRAP_SERVERS"], "group.id": "-"})
        try:
            return self.settings.stream.results_topic in consumer.list_topics(timeout=10).topics
        finally:
            consumer.close()

    def results(self) -> list[dict[str, Any]]:
        topic = self.settings.stream.results_topic
        return [self.codec.decode(record.value) for record in self._settled(topic) if record.value]

    def dead_letters(self) -> list[Record]:
        return list(self._settled(self.settings.stream.dead_letters_topic))

    def _settled(self, topic: str) -> Iterator[Record]:
        """Read a topic. Waits a little for open transactions, so that it includes what is being committed now."""
        partitions = [Partition(topic, number) for number in reading.find_topic(self.cluster, topic).partitions]
        ends = reading.read_ends(self.cluster, partitions, committed=False)
        patience = time.monotonic() + _PATIENCE
        ranges = [Range(*partition, 0, ends[partition]) for partition in partitions]
        for batch in reading.read_ranges(self.cluster, ranges):
            yield from map(to_record, batch)
            if batch:
                patience = time.monotonic() + _PATIENCE
            elif time.monotonic() > patience:
                return

    def read_orders(self) -> Iterator[Record | None]:
        return reading.read_topic(self.cluster, self.orders_topic, start="beginning", follow=False)

    def reader(self) -> Consumer:
        """A consumer that can read and commit the group's offsets, but is not a member."""
        servers, group = self.environment["KAFKA_BOOTSTRAP_SERVERS"], self.settings.kafka["group.id"]
        return Consumer({"bootstrap.servers": servers, "group.id": group})

    def order_places(self) -> dict[int, TopicPartition]:
        return {number: TopicPartition(self.orders_topic, number) for number in range(NUMBER_OF_PARTITIONS)}

    def committed(self) -> dict[tuple[str, int], int]:
        """The group's committed offsets of the input topics, without partitions that have none."""
        consumer = self.reader()
        try:
            partitions = [
                TopicPartition(topic, number)
                for topic in self.settings.topics
                for number in range(NUMBER_OF_PARTITIONS)
            ]
            found = consumer.committed(partitions, timeout=10)
        except KafkaException as error:
            if error.args[0].code() in _TRANSIENT:
                # The group's coordinator was just found or has moved, or a dead member's open transaction still
                # hides the offsets. The caller asks again.
                return {}
            raise
        finally:
            consumer.close()
        return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}

    def commit(self, places: list[TopicPartition]) -> None:
        """Commit offsets for the group while it has no members, as soon as the broker knows the topics."""

        def commit() -> None:
            admin = self.cluster.make_admin("test")
            [done] = admin.alter_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(self.cluster.group, places)]
            ).values()
            for place in done.result(30).topic_partitions or []:
                if place.error:
                    raise KafkaException(place.error)

        answered(commit)

    def accepted(self, kind: str | None = None) -> list[tuple[str, str | None, str]]:
        """The events that the API accepted, in the order of arrival: array, status and id."""
        return [
            (event.kind, event.status, event.id or "")
            for event in self.api.events(kind=kind)
            if event.verdict == "accepted"
        ]

    def totals(self, number: str) -> list[float]:
        """The totals of an order's accepted events, in the order of arrival."""
        events = self.api.events(event_id=number)
        return [
            event.body["total"] for event in events if isinstance(event.body, dict) and event.verdict == "accepted"
        ]

    def logs(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in sorted(self.folder.glob("member-*.log")))

    def close(self) -> None:
        self._stack.close()


@cache
def _shortest_session_ms(bootstrap_servers: str) -> int:
    """Ask the broker for the shortest session that it allows members of a group. 0 if it does not say."""
    client = AdminClient({"bootstrap.servers": bootstrap_servers}, logger=LibraryLog())
    broker = ConfigResource(ConfigResource.Type.BROKER, str(client.list_topics(timeout=10).orig_broker_id))
    try:
        configs = client.describe_configs([broker], request_timeout=10)[broker].result()
    except KafkaException:
        return 0
    entry = configs.get("group.min.session.timeout.ms")
    return int(entry.value) if entry else 0
