"""The broker under chaos, embedded or a real Kafka, and which of its records count as committed.

With `read_committed`, a real Kafka shows only committed records. The embedded broker shows aborted ones too, and
never shows records after a transaction that a killed member left open. But it writes the markers that end
transactions. So everything there is read uncommitted, and a record counts if the next marker of its producer is a
commit. The client library hides markers, so this module reads them with a little of the protocol
(https://kafka.apache.org/protocol, https://kafka.apache.org/documentation/#recordbatch).
"""

import socket
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from brokers.apache import ApacheKafka
from consumer.demo.broker import EmbeddedBroker
from consumer.engine.kafka import LibraryLog

Offset = tuple[int, int]
"""A partition's number, and an offset in it."""

_FETCH, _VERSION = 1, 4
_MAX_BYTES = 8 * 1024 * 1024
_WAIT_MS = 100
_HEADER = 61
_CONTROL = 0x20
_TRANSACTIONAL = 0x10
_ENDED_WITHIN = 0.5


class Broker(Protocol):
    """The broker of a run's topics. `session_ms` is the shortest session that it allows members."""

    bootstrap_servers: str
    session_ms: int
    isolation: str
    """The isolation level for reading its outputs."""
    regroups: bool
    """Whether a group can still form if its leader leaves meanwhile."""

    def fence(self, transactional_id: str) -> None:
        """Make sure that a killed or stopped member commits nothing more."""

    def uncommitted(self, topic: str) -> set[Offset]:
        """Give the offsets of visible records whose transactions were not committed."""

    def restart(self, *, kindly: bool) -> None:
        """Stop a broker, by SIGKILL unless `kindly`, and start it again."""


class Kafka:
    """A real Kafka. It ends open transactions of dead members, fences, and hides uncommitted records."""

    session_ms = 6000  # group.min.session.timeout.ms, by default
    isolation = "read_committed"
    regroups = True

    def __init__(self, bootstrap_servers: str, ours: ApacheKafka | None = None) -> None:
        self.bootstrap_servers = bootstrap_servers
        self._ours = ours
        self._restarts = 0

    def restart(self, *, kindly: bool) -> None:
        """Restart the next of its nodes, if the cluster is ours."""
        if self._ours:
            self._ours.restart(kindly=kindly, node=self._restarts % self._ours.size)
            self._restarts += 1

    def fence(self, transactional_id: str) -> None:
        """Do nothing: the broker uses the group's generation (KIP-447) and transaction.timeout.ms."""

    def uncommitted(self, topic: str) -> set[Offset]:  # noqa: ARG002 - the protocol's
        """Return nothing: readers see only committed records."""
        return set()


class Embedded:
    """The embedded broker, which must be running.

    It has no transaction timeout: while a transaction is open on a partition of results, the group does not get
    the offsets of later ones. It also accepts offsets of a stale generation. And a leader that is killed or leaves
    while its group forms stays the leader, so the group never forms again. It also ends a transaction in steps: if
    its id is taken over between them, the results are committed without the offsets.
    """

    session_ms = 2000
    isolation = "read_uncommitted"
    regroups = False

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.bootstrap_servers = broker.bootstrap_servers
        self._port = broker.port

    def restart(self, *, kindly: bool) -> None:
        """Do nothing: it keeps nothing on disk."""

    def fence(self, transactional_id: str) -> None:
        """Take over the transactional id: the broker neither times out transactions nor checks generations.

        First let it end the transaction that the member has just asked it to commit. The protocol shows no sign
        that it is done: the markers come before the offsets.
        """
        time.sleep(_ENDED_WITHIN)
        config = {"bootstrap.servers": self.bootstrap_servers, "transactional.id": transactional_id}
        Producer(config, logger=LibraryLog()).init_transactions(30)

    def uncommitted(self, topic: str) -> set[Offset]:
        """Find them by reading the whole log of a topic."""
        client = AdminClient({"bootstrap.servers": self.bootstrap_servers}, logger=LibraryLog())
        partitions = client.list_topics(topic, timeout=10).topics[topic].partitions
        return {(number, offset) for number in partitions for offset in self._uncommitted(topic, number)}

    def _uncommitted(self, topic: str, partition: int) -> set[int]:
        aborted: set[int] = set()
        unfinished: dict[int, set[int]] = {}
        for batch in _batches(self._port, topic, partition):
            if batch.ends is None:
                unfinished.setdefault(batch.producer, set()).update(batch.offsets)
            elif (ended := unfinished.pop(batch.producer, None)) and batch.ends == "abort":
                aborted |= ended
        return aborted.union(*unfinished.values())


class _Batch(NamedTuple):
    """Transactional records of one producer, or the marker that ends its transaction. `ends` says how."""

    producer: int
    offsets: range
    ends: str | None


def _batches(port: int, topic: str, partition: int) -> Iterator[_Batch]:
    """Read a partition's batches from its beginning to its present end, without non-transactional ones."""
    offset = 0
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        while data := _fetch(connection, topic, partition, offset):
            at = 0
            while at + _HEADER <= len(data):
                base, length = struct.unpack_from(">qi", data, at)
                if at + 12 + length > len(data):
                    break  # the answer ends in this batch, and the next one begins with it
                attributes, last = struct.unpack_from(">hi", data, at + 21)
                (producer,) = struct.unpack_from(">q", data, at + 43)
                offsets = range(base, base + last + 1)
                if attributes & _CONTROL:
                    # Before the key of its only record: length, attributes, two deltas, the key's length.
                    # The key has a version and a type: 0 for abort and 1 for commit.
                    commit = data[at + _HEADER + 5 + 3]
                    yield _Batch(producer, offsets, "commit" if commit else "abort")
                elif attributes & _TRANSACTIONAL:
                    yield _Batch(producer, offsets, None)
                at += 12 + length
                offset = offsets.stop


def _fetch(connection: socket.socket, topic: str, partition: int, offset: int) -> bytes:
    """Fetch batches from an offset on. Empty at the end."""
    name = topic.encode()
    request = (
        struct.pack(">hhih", _FETCH, _VERSION, 1, -1)
        + struct.pack(">iiiib", -1, _WAIT_MS, 1, _MAX_BYTES, 0)
        + struct.pack(f">ih{len(name)}s", 1, len(name), name)
        + struct.pack(">iiqi", 1, partition, offset, _MAX_BYTES)
    )
    connection.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", _exactly(connection, 4))
    response = _exactly(connection, size)
    if struct.unpack_from(">i", response, 8) == (0,):
        return b""  # so the embedded broker says that there is nothing
    # Before the records: correlation id, throttle time, one topic with one partition, its error and two offsets.
    at = 4 + 4 + 4 + 2 + len(name) + 4
    (error,) = struct.unpack_from(">h", response, at + 4)
    if error:
        raise OSError(f"the broker answers the fetch of {topic}/{partition} from {offset} with error {error}")
    at += 4 + 2 + 8 + 8
    (aborted,) = struct.unpack_from(">i", response, at)
    at += 4 + 16 * max(0, aborted)
    (size,) = struct.unpack_from(">i", response, at)
    return response[at + 4 : at + 4 + max(0, size)]


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionError("the broker closed the connection")
        data += piece
    return bytes(data)
