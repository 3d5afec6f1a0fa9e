"""Consecutive records of one partition, delivered together, and what is known of each so far.

A chunk keeps its decoded messages and its outcomes from one try to the next: what is decided stays decided.
It belongs to one thread at a time: to the worker that has it in flight, else to the main thread.
"""

from dataclasses import dataclass, field

from consumer.record import Partition, Record
from jirafe.client import Accepted, Document
from jirafe.services import Kind


@dataclass(frozen=True, slots=True)
class Fault:
    """Why something can't be delivered: a short kind to count and filter by, and a sentence."""

    kind: str
    problem: str


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a message itself says of where its events go; None where the settings are to say it."""

    site_id: str | None
    access_token: str | None = field(repr=False)


@dataclass(slots=True)
class Suspicion:
    """Whether an event that fails alone is at fault, or the API that fails it.

    `passed` and `failed` are what its site had passed and failed in all when it came under suspicion, `seen` what
    it had passed at the event's last try. `alone` counts its tries, `counted` those since whose forerunner
    others passed.
    """

    passed: int
    failed: int
    seen: int
    alone: int = 0
    counted: int = 0


@dataclass(slots=True)
class Outgoing:
    """One event of a message: `outcome` is None until it is decided; what can't be sent has one at once."""

    kind: Kind
    name: str
    key: str
    credentials: Credentials
    document: Document
    outcome: Accepted | Fault | None = None
    suspicion: Suspicion | None = None


@dataclass(slots=True)
class Draft:
    """A record's result in the making. `fault` is of the record as a whole."""

    record: Record
    message_id: str = ""
    message_type: str = ""
    events: list[Outgoing] = field(default_factory=list)
    fault: Fault | None = None


@dataclass(slots=True)
class Chunk:
    """Records in the order of their offsets; the first `len(drafts)` of them are decoded."""

    partition: Partition
    epoch: int
    records: list[Record] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    attempts: int = 0
    limits: dict[str, int] = field(default_factory=dict)
    """By site: how many events a request may have, while a smaller one may do where a larger failed."""
