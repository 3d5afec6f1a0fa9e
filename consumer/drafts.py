"""Both ends of a chunk's way: a record becomes a draft with its events, a decided draft becomes an output.

Pure but for the schema registry that the codec may ask.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from consumer.chunk import Credentials, Draft, Fault, Outgoing
from consumer.record import DeadLetter, Output, Record
from jirafe.client import BATCH_OVERHEAD, Accepted, Document, Site
from jirafe.services import (
    Event,
    Parameters,
    UnknownMessageType,
    Unsendable,
    make_events,
    missing_parameter,
    notification_of_failed,
    notification_of_sent,
    notification_of_unreadable,
)
from schemas.codec import Codec, Undecodable

SITE_ID = "jirafe.site_id"
ACCESS_TOKEN = "jirafe.access_token"  # noqa: S105 - a parameter's name
_LONGEST_PROBLEM = 2000
_LONGEST_CREDENTIAL = 2000


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the settings give where a message says nothing: credentials, and parameters by dotted name."""

    credentials: Credentials
    parameters: Parameters


class Drafts:
    """Makes drafts of records and outputs of drafts; safe to share between threads.

    `defaults` may be replaced at any time; events not yet decided then go by the new credentials.
    """

    def __init__(self, codec: Codec, defaults: Defaults, max_request_bytes: int) -> None:
        self.defaults = defaults
        self._codec = codec
        self._max_event_bytes = max_request_bytes - BATCH_OVERHEAD

    def draft(self, record: Record) -> Draft:
        """Decode a record and make its events; raises RegistryUnavailable, nothing else."""
        if record.value is None:
            return Draft(record)  # the tombstone of a compacted topic: nothing to send, nothing wrong
        try:
            message = self._codec.decode_message(record.value)
        except Undecodable as error:
            return Draft(record, fault=Fault("undecodable", str(error)))
        draft = Draft(record, message["message_id"], message["message"])
        try:
            self._add_events(draft, message)
        except UnknownMessageType as error:
            draft.fault = Fault("unknown-type", str(error))
        except Exception as error:  # noqa: BLE001 - no message may stop the stream, not even by a mistake of ours
            draft.events.clear()
            draft.fault = Fault("internal", f"the message could not be mapped: {type(error).__name__}: {error}")
        return draft

    def _add_events(self, draft: Draft, message: Mapping[str, Any]) -> None:
        parameters = {**self.defaults.parameters, **message["parameters"]}
        credentials = Credentials(message["parameters"].get(SITE_ID), message["parameters"].get(ACCESS_TOKEN))
        unusable = self._unusable(credentials)
        for event in make_events(draft.message_type, message["payload"], parameters):
            match event:
                case Unsendable(kind, name, problem):
                    fault: Fault | None = unusable or Fault("unmappable", problem)
                    draft.events.append(Outgoing(kind, name, "", credentials, Document(kind.array, b""), fault))
                case Event(kind, key, name, body):
                    document = Document(kind.array, orjson.dumps(body))
                    fault = unusable or self._too_large(document)
                    draft.events.append(Outgoing(kind, name, key, credentials, document, fault))

    def site(self, credentials: Credentials) -> Site:
        """Resolve where an event goes: by its message, else by the settings."""
        own = self.defaults.credentials
        return Site(credentials.site_id or own.site_id or "", credentials.access_token or own.access_token or "")

    def _unusable(self, credentials: Credentials) -> Fault | None:
        site = self.site(credentials)
        for name, value in ((SITE_ID, site.site_id), (ACCESS_TOKEN, site.access_token)):
            if not value:
                return Fault("missing-parameter", missing_parameter(name))
            if not (value.isascii() and value.isprintable()) or " " in value or value in {".", ".."}:
                return Fault("unmappable", f"{name}: has characters that cannot be in one")
            if len(value) > _LONGEST_CREDENTIAL:
                return Fault(
                    "unmappable", f"{name}: has {len(value)} characters, and may have {_LONGEST_CREDENTIAL}"
                )
        return None

    def _too_large(self, document: Document) -> Fault | None:
        size = len(document.json)
        if size <= self._max_event_bytes:
            return None
        return Fault("too-large", f"the event has {size} bytes, and a request may have {self._max_event_bytes}")

    def output(self, draft: Draft, attempts: int) -> Output:
        """Make the result of a decided draft, and its dead letter where it failed; raises RegistryUnavailable."""
        notifications, faults = [], []
        if draft.fault:
            notifications.append(notification_of_unreadable(_shortened(draft.fault.problem)))
            faults.append(draft.fault)
        for event in draft.events:
            match event.outcome:
                case Accepted():
                    notifications.append(notification_of_sent(event.kind, event.name))
                case Fault(kind, problem):
                    notifications.append(notification_of_failed(event.kind, _shortened(problem)))
                    faults.append(Fault(kind, f"{event.kind.name}: {problem}"))
                case None:
                    raise AssertionError(f"{event.kind.name} {event.name} is not decided: no result may say it is")
        record = draft.record
        result = {
            "message_id": draft.message_id,
            "message": draft.message_type,
            "code": 500 if faults else 200,
            "notifications": notifications,
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": record.timestamp,
            "replay": record.again.replay if record.again else None,
            "redrive": record.again.redrive if record.again else None,
        }
        reason = _shortened("; ".join(dict.fromkeys(fault.problem for fault in faults)))
        letter = DeadLetter(faults[0].kind, reason, attempts) if faults else None
        return Output(record, self._codec.encode("result", result), letter)


def _shortened(problem: str) -> str:
    """Keep a problem to a readable length: the API's errors quote whole values."""
    return problem if len(problem) <= _LONGEST_PROBLEM else problem[:_LONGEST_PROBLEM] + " ..."
