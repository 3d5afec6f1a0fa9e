"""The first half of delivery: a record becomes a draft with its events.

Pure, except that the codec may ask the Schema Registry.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from consumer.delivery.defaults import Credentials, Defaults
from consumer.delivery.work import Draft, Fault, Outgoing
from consumer.engine.records import Record
from jirafe.client import BATCH_OVERHEAD, Document, Site
from jirafe.services import Event, UnknownMessageType, Unsendable, make_events, missing_parameter
from schemas.codec import Codec, RegistryNeeded, Undecodable

SITE_ID = "jirafe.site_id"
ACCESS_TOKEN = "jirafe.access_token"  # noqa: S105 - a parameter's name
_LONGEST_CREDENTIAL = 2000
_QUOTED = 100


class DecodeSpan(Protocol):
    """The span of one record's decoding."""

    def failed(self, kind: str) -> None:
        """Note the kind of fault that the record has."""


class RecordTracing(Protocol):
    """Makes the spans of records; any thread may call."""

    def decode(self, record: Record) -> AbstractContextManager[DecodeSpan]:
        """Surround the decoding and mapping of a record."""


@dataclass(frozen=True, slots=True)
class Mapper:
    """Makes drafts of records; safe to share between threads. `max_request_bytes` limits an event's size."""

    codec: Codec
    max_request_bytes: int
    tracing: RecordTracing | None = None

    def draft(self, record: Record, defaults: Defaults) -> Draft:
        """Decode a record and make its events. Raises only IdUnavailable."""
        if self.tracing is None:
            return self._draft(record, defaults)
        with self.tracing.decode(record) as span:
            draft = self._draft(record, defaults)
            if draft.fault:
                span.failed(draft.fault.kind)
        return draft

    def _draft(self, record: Record, defaults: Defaults) -> Draft:
        if record.value is None:
            return Draft(record)  # a tombstone of a compacted topic: nothing to send, and not an error
        try:
            message = self.codec.decode_message(record.value, record.headers)
        except Undecodable as error:
            why = f"{error}; missing: {record.missing}" if record.missing else str(error)
            fault = Fault("undecodable", why)
            return Draft(record, fault=fault, needs_registry=isinstance(error, RegistryNeeded))
        draft = Draft(record, message["message_id"], message["message"])
        try:
            self._add_events(draft, message, defaults)
        except UnknownMessageType as error:
            draft.fault = Fault("unknown-type", str(error))
        except Exception as error:  # noqa: BLE001 - no message may stop the stream, not even through a bug of ours
            draft.events.clear()
            draft.fault = Fault("internal", f"the message could not be mapped: {type(error).__name__}: {error}")
        return draft

    def _add_events(self, draft: Draft, message: Mapping[str, Any], defaults: Defaults) -> None:
        parameters = {**defaults.parameters, **message["parameters"]}
        credentials = Credentials(message["parameters"].get(SITE_ID), message["parameters"].get(ACCESS_TOKEN))
        trace, has_token = draft.record.trace, bool(defaults.credentials.access_token)
        unusable = _unusable(defaults.site(credentials), has_token=has_token)
        for event in make_events(draft.message_type, message["payload"], parameters, draft.record.timestamp):
            match event:
                case Unsendable(kind, name, problem):
                    fault: Fault | None = unusable or Fault("unmappable", problem)
                    draft.events.append(Outgoing(kind, name, "", credentials, Document(kind.array, b""), fault))
                case Event(kind, key, name, body):
                    # Bytes from orjson keep a buffer of 4 KiB. A copy has only its own size.
                    document = Document(kind.array, b"%b" % orjson.dumps(body), trace)
                    fault = unusable or self._too_large(document)
                    if fault:
                        document = Document(kind.array, b"")  # never sent, and perhaps large
                    draft.events.append(Outgoing(kind, name, key, credentials, document, fault))

    def _too_large(self, document: Document) -> Fault | None:
        size, limit = len(document.json), self.max_request_bytes - BATCH_OVERHEAD
        if size <= limit:
            return None
        return Fault("too-large", f"the event has {size} bytes, and a request may have {limit}")


def _missing(name: str, site: Site, *, has_token: bool) -> str:
    if name == SITE_ID or not has_token:
        return missing_parameter(name)
    return (
        f"{ACCESS_TOKEN}: missing; the message names the site {site.site_id[:_QUOTED]}, and the setting "
        "JIRAFE_ACCESS_TOKEN is only for JIRAFE_SITE_ID and the sites that JIRAFE_SITES names"
    )


def _unusable(site: Site, *, has_token: bool) -> Fault | None:
    """Return what is wrong with an event's credentials, or None. `has_token`: the settings have a token."""
    for name, value in ((SITE_ID, site.site_id), (ACCESS_TOKEN, site.access_token)):
        if not value:
            return Fault("missing-parameter", _missing(name, site, has_token=has_token))
        if not (value.isascii() and value.isprintable()) or " " in value or value in {".", ".."}:
            return Fault("unmappable", f"{name}: contains invalid characters")
        if len(value) > _LONGEST_CREDENTIAL:
            return Fault("unmappable", f"{name}: has {len(value)} characters; the limit is {_LONGEST_CREDENTIAL}")
    return None
