"""What travels: records in, and for each record one result out, with a dead letter where it can't be delivered."""

from typing import NamedTuple

Partition = tuple[str, int]
"""A topic's name and a partition's number."""

Headers = tuple[tuple[str, bytes | None], ...]


class Range(NamedTuple):
    """Records of one partition, from the offset `start` up to, and without, the offset `end`."""

    topic: str
    partition: int
    start: int
    end: int


class Again(NamedTuple):
    """Why a record is delivered again, beside the group: by a replay, or as a dead letter that is redriven.

    `replay` is the replay's id, `redrive` the dead letter's place (TOPIC/PARTITION/OFFSET). `attempts` and
    `redrives` count what was tried before.
    """

    replay: str | None = None
    redrive: str | None = None
    attempts: int = 0
    redrives: int = 0


class Record(NamedTuple):
    """What Kafka hands over; `timestamp` in milliseconds since 1970. `again` is None for the group's own way."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    again: Again | None = None

    @property
    def size(self) -> int:
        """Bytes of key and value."""
        return len(self.key or b"") + len(self.value or b"")


class DeadLetter(NamedTuple):
    """Why a record can't be delivered: a short kind to count and filter by, the reason, and the tries made."""

    kind: str
    reason: str
    attempts: int


class Output(NamedTuple):
    """What is published for one record: its encoded result, and its dead letter where there is one."""

    record: Record
    result: bytes
    dead_letter: DeadLetter | None
