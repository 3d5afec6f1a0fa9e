"""The broker under chaos: the embedded one, or a real Kafka; and which of its records count as committed.

Read_committed readers of a real Kafka see committed records only. The embedded broker shows them aborted ones
too, and nothing behind a transaction that a killed member left open, for ever. But it writes the markers that
end transactions; so there all is read uncommitted, and what is committed is told from the log itself: a record
counts if the next marker of its producer is a commit. Markers are hidden by the client library; hence the few bytes
of protocol here (https://kafka.apache.org/protocol, https://kafka.apache.org/documentation/#recordbatch).
"""

import socket
import struct
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


class Broker(Protocol):
    """Where a run's topics live. `session_ms` is the shortest session that it grants to members."""

    bootstrap_servers: str
    session_ms: int
    isolation: str
    """How its outputs are to be read."""
    regroups: bool
    """Whether a group outlives that its leader goes while the group forms."""

    def fence(self, transactional_id: str) -> None:
        """See to it that a member that was killed or stopped commits no more."""

    def uncommitted(self, topic: str) -> set[Offset]:
        """Tell which records that readers are shown belong to transactions that were not committed."""

    def restart(self, *, kindly: bool) -> None:
        """Stop a broker, by SIGKILL if not kindly, and start it again."""


class Kafka:
    """A real one: it ends what a dead member left open, fences, and keeps from readers what is not committed."""

    session_ms = 6000  # group.min.session.timeout.ms, by default
    isolation = "read_committed"
    regroups = True

    def __init__(self, bootstrap_servers: str, ours: ApacheKafka | None = None) -> None:
        self.bootstrap_servers = bootstrap_servers
        self._ours = ours
        self._restarts = 0

    def restart(self, *, kindly: bool) -> None:
        """Restart the next of its nodes if it is ours; another's is another's to restart."""
        if self._ours:
            self._ours.restart(kindly=kindly, node=self._restarts % self._ours.size)
            self._restarts += 1

    def fence(self, transactional_id: str) -> None:
        """Leave it to the broker, which goes by the group's generation (KIP-447) and transaction.timeout.ms."""

    def uncommitted(self, topic: str) -> set[Offset]:  # noqa: ARG002 - the protocol's
        """Tell that there are none."""
        return set()


class Embedded:
    """The embedded one, which must be running.

    It knows no transaction timeout: while a transaction is open on a partition of results, no offsets of later
    ones are served to the group. It takes offsets of a stale generation, too. And a leader that is killed or
    leaves while its group forms stays the group's leader for ever, so that it never forms again.
    """

    session_ms = 2000
    isolation = "read_uncommitted"
    regroups = False

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.bootstrap_servers = broker.bootstrap_servers
        self._port = broker.port

    def restart(self, *, kindly: bool) -> None:
        """Leave it: it keeps nothing on disk."""

    def fence(self, transactional_id: str) -> None:
        """Take the transactional id over, as it neither times transactions out nor looks at generations."""
        config = {"bootstrap.servers": self.bootstrap_servers, "transactional.id": transactional_id}
        Producer(config, logger=LibraryLog()).init_transactions(30)

    def uncommitted(self, topic: str) -> set[Offset]:
        """Read the whole log of a topic for it."""
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
    """Transactional records of one producer, or the marker that ends its transaction: `ends` tells how."""

    producer: int
    offsets: range
    ends: str | None


def _batches(port: int, topic: str, partition: int) -> Iterator[_Batch]:
    """Read a partition's batches from its beginning to its present end; those without transaction are left out."""
    offset = 0
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        while data := _fetch(connection, topic, partition, offset):
            at = 0
            while at + _HEADER <= len(data):
                base, length = struct.unpack_from(">qi", data, at)
                if at + 12 + length > len(data):
                    break  # the answer's end cut it; the next one begins with it
                attributes, last = struct.unpack_from(">hi", data, at + 21)
                (producer,) = struct.unpack_from(">q", data, at + 43)
                offsets = range(base, base + last + 1)
                if attributes & _CONTROL:
                    # Of the one record: length, attributes, two deltas, the key's length; the key is
                    # a version and a type, 0 to abort and 1 to commit.
                    commit = data[at + _HEADER + 5 + 3]
                    yield _Batch(producer, offsets, "commit" if commit else "abort")
                elif attributes & _TRANSACTIONAL:
                    yield _Batch(producer, offsets, None)
                at += 12 + length
                offset = offsets.stop


def _fetch(connection: socket.socket, topic: str, partition: int, offset: int) -> bytes:
    """Fetch batches from an offset on; empty at the end."""
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
        return b""  # the embedded broker's way to say that there is nothing
    # Before the records: correlation, throttle time, one topic with one partition, its error and two offsets.
    at = 4 + 4 + 4 + 2 + len(name) + 4
    (error,) = struct.unpack_from(">h", response, at + 4)
    if error:
        raise OSError(f"the broker answers the fetch of {topic}/{partition} from {offset} by error {error}")
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
