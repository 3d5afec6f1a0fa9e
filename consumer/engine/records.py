"""The data types: records in, and for each record one result out, with a dead letter if delivery failed."""

import re
from typing import NamedTuple

A_HEADER = 200
"""Bytes of memory for a header in addition to its name and value, in the client library's form and ours."""

_PLACE = re.compile(r"([^/]+)/(\d{1,9})/(\d{1,18})", re.ASCII)  # fits in the 31 and 63 bits of Kafka

# https://www.w3.org/TR/trace-context/
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(rb"[!-~][ -~]{0,511}")

Headers = tuple[tuple[str, bytes | None], ...]

Trace = tuple[tuple[str, str], ...]
"""The headers of W3C Trace Context, which name the trace of a record. Empty if there are none."""


class Partition(NamedTuple):
    """One partition of a topic; as text `TOPIC/NUMBER`."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.number}"


class Place(NamedTuple):
    """Where one record is; as text `TOPIC/PARTITION/OFFSET`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Read a place from its text; raises ValueError, whose sentence says what to write."""
        found = _PLACE.fullmatch(text)
        if found is None:
            raise ValueError(f"'{text}' is not TOPIC/PARTITION/OFFSET, such as orders/0/17")
        return cls(found[1], int(found[2]), int(found[3]))

    @property
    def of(self) -> Partition:
        """The partition that the record is in."""
        return Partition(self.topic, self.partition)


class Range(NamedTuple):
    """Records of one partition, from the offset `start` up to, but not including, the offset `end`."""

    topic: str
    partition: int
    start: int
    end: int

    @property
    def of(self) -> Partition:
        """The partition that the records are in."""
        return Partition(self.topic, self.partition)


class Redelivery(NamedTuple):
    """Why a record is delivered again outside of the group: by a replay, or as a redriven dead letter.

    `replay` is the replay's id, `redrive` the dead letter's place (TOPIC/PARTITION/OFFSET). `attempts` and
    `redrives` count earlier tries.
    """

    replay: str | None = None
    redrive: str | None = None
    attempts: int = 0
    redrives: int = 0


class Record(NamedTuple):
    """A record from Kafka. `timestamp` is in milliseconds since 1970.

    `redelivery` is None for a record that the group consumes in the ordinary way. `missing` says which part of the
    record the client library can't return, and why. It is empty if nothing is missing.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    redelivery: Redelivery | None = None
    missing: str = ""

    @property
    def place(self) -> Place:
        """Where the record is."""
        return Place(self.topic, self.partition, self.offset)

    @property
    def trace(self) -> Trace:
        """The trace that the record belongs to. Malformed headers are left out."""
        if not self.headers:
            return ()
        given = dict(self.headers)
        parent, state = given.get("traceparent") or b"", given.get("tracestate") or b""
        if not _TRACEPARENT.fullmatch(parent):
            return ()
        told = (("traceparent", parent.decode()),)
        return (*told, ("tracestate", state.decode())) if _TRACESTATE.fullmatch(state) else told

    @property
    def size(self) -> int:
        """Bytes of key, value and headers in memory. A small header takes far more there than in Kafka."""
        size = len(self.key or b"") + len(self.value or b"")
        for name, value in self.headers:
            size += A_HEADER + len(name) + len(value or b"")
        return size


FAILING = "failing"
"""The kind of a dead letter whose event or site kept failing while others worked."""


class DeadLetter(NamedTuple):
    """Why a record can't be delivered: a short kind to count and filter by, the reason, and the tries made."""

    kind: str
    reason: str
    attempts: int


class Output(NamedTuple):
    """What is published for one record: its encoded result, and its dead letter if there is one.

    `is_brief` says that the result was too large for its topic: its quotes are shortened, and it has another key.
    """

    record: Record
    result: bytes
    dead_letter: DeadLetter | None
    is_brief: bool = False

    @property
    def result_key(self) -> bytes | None:
        """The key of the result: that of the record, so that both are in partitions of the same number.

        A brief one has the record's place as its key: the record's own may be large, or none.
        """
        return str(self.record.place).encode() if self.is_brief else self.record.key

    @property
    def result_headers(self) -> Trace:
        """The headers of the result: the trace of its record."""
        return () if self.is_brief else self.record.trace
