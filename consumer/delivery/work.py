"""The state of a chunk between tries: decoded messages, and the outcomes of their events."""

from dataclasses import dataclass, field

from consumer.delivery.calls import Call
from consumer.delivery.defaults import Credentials, Defaults
from consumer.delivery.suspicion import SiteTally, Suspicion
from consumer.engine.records import Record
from jirafe.client import Accepted, Document, Site
from jirafe.services import Kind
from schemas.codec import SchemaId


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a record or an event can't be delivered: a short kind to count and filter by, and a sentence."""

    kind: str
    message: str


@dataclass(slots=True)
class Outgoing:
    """One event to send. `outcome` is None until it is decided. An event that can't be sent has an outcome at once.

    Events with the same `key` must reach the API in order. `name` is for people.
    """

    kind: Kind
    name: str
    key: str
    credentials: Credentials
    document: Document
    outcome: Accepted | Fault | None = None
    suspicion: Suspicion | None = None


@dataclass(slots=True)
class Draft:
    """A record whose result is not finished. `fault` is about the record as a whole.

    `needs_registry` says that it can't be read because no Schema Registry is set. `success` is the encoded result
    that it gets if the API accepts all its events.
    """

    record: Record
    message_id: str = ""
    message_type: str = ""
    events: list[Outgoing] = field(default_factory=list)
    fault: Fault | None = None
    needs_registry: bool = False
    success: bytes | None = None

    @property
    def is_read(self) -> bool:
        """Whether the record is a message that could be decoded."""
        return self.record.value is not None and (self.fault is None or self.fault.kind != "undecodable")


@dataclass(frozen=True, slots=True)
class Pending:
    """A request to a site that was slow to answer: the events in it, and the call that another thread makes.

    `own` are the credentials that the settings had when it was sent.
    """

    site: Site
    own: Credentials
    events: list[Outgoing]
    call: Call


@dataclass(slots=True)
class Work:
    """The state of one chunk. The first `len(drafts)` of its records are decoded.

    `defaults` are those of the settings when the first record was decoded.
    `limits` has, by site, how many events a request may have: a smaller one may succeed where a larger one failed.
    `suspect_ids` has the ids of schemas that the registry could not return.
    `tallies` has what is known about the sites, so that it is not forgotten while the chunk waits for them.
    `pending` has, by site, the request whose answer the last try did not wait for.
    """

    defaults: Defaults
    drafts: list[Draft] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    suspect_ids: dict[SchemaId, Suspicion] = field(default_factory=dict)
    tallies: dict[str, SiteTally] = field(default_factory=dict)
    pending: dict[str, Pending] = field(default_factory=dict)
    waits_for_registry: bool = False

    @property
    def events(self) -> list[Outgoing]:
        """All events, in the order of their records."""
        return [event for draft in self.drafts for event in draft.events]
