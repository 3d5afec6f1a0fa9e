"""The second half of delivery: a decided draft becomes the record's result and its dead letter."""

from consumer.delivery.work import Draft, Fault, Outgoing
from consumer.engine.records import DeadLetter, Output
from jirafe.client import Accepted
from jirafe.services import notification_of_failed, notification_of_sent, notification_of_unreadable
from schemas.codec import Codec

_LONGEST_MESSAGE = 2000
_LONGEST_NAME = 500
_LONGEST_BRIEF = 60
_MOST_BRIEF = 4  # as many as an order has; a product has one for each variant


def success(draft: Draft, codec: Codec, group: str | None = None) -> bytes | None:
    """Encode the result that a draft gets if the API accepts all its events. None if one has another outcome.

    This is done before the events are sent, so that the next request need not wait for it. `group` is the consumer
    group that the result names. Raises RegistryUnavailable.
    """
    if draft.fault or any(event.outcome for event in draft.events):
        return None
    return _encoded(draft, [_of_sent(event) for event in draft.events], 200, codec, group)


def output(draft: Draft, attempts: int, codec: Codec, group: str | None = None) -> Output:
    """Make the result of a decided draft, and its dead letter if anything failed; raises RegistryUnavailable."""
    if draft.success is not None and all(isinstance(event.outcome, Accepted) for event in draft.events):
        return Output(draft.record, draft.success, None)
    notifications, faults = [], []
    if draft.fault:
        notifications.append(notification_of_unreadable(shortened(draft.fault.message)))
        faults.append(draft.fault)
    for event in draft.events:
        match event.outcome:
            case Accepted():
                notifications.append(_of_sent(event))
            case Fault(kind, message):
                notifications.append(notification_of_failed(event.kind, shortened(message)))
                faults.append(Fault(kind, f"{event.kind.name}: {message}"))
            case None:
                raise AssertionError(f"{event.kind.name} {event.name} is not decided, so it can't be in a result")
    result = _encoded(draft, notifications, 500 if faults else 200, codec, group)
    reason = shortened("; ".join(dict.fromkeys(fault.message for fault in faults)))
    letter = DeadLetter(faults[0].kind, reason, attempts) if faults else None
    return Output(draft.record, result, letter)


def _of_sent(event: Outgoing) -> dict[str, str]:
    return notification_of_sent(event.kind, shortened(event.name, _LONGEST_NAME))


def _encoded(
    draft: Draft, notifications: list[dict[str, str]], code: int, codec: Codec, group: str | None
) -> bytes:
    record = draft.record
    result = {
        "message_id": shortened(draft.message_id, _LONGEST_NAME),
        "message": shortened(draft.message_type, _LONGEST_NAME),
        "code": code,
        "notifications": notifications,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "replay": record.redelivery.replay if record.redelivery else None,
        "redrive": record.redelivery.redrive if record.redelivery else None,
        "group": group,
    }
    return codec.encode("result", result)


def brief(output: Output, codec: Codec) -> Output:
    """Shorten the quotes of a result, for a topic that takes only small records. Raises RegistryUnavailable.

    Of many notifications, a few are kept: errors first, because readers look for these.
    """
    result = codec.decode_result(output.result)
    for name in ("message_id", "message"):
        result[name] = shortened(result[name], _LONGEST_BRIEF)
    if len(result["notifications"]) > _MOST_BRIEF:
        result["notifications"].sort(key=lambda each: each["level"] != "error")
        del result["notifications"][_MOST_BRIEF:]
    for notification in result["notifications"]:
        notification["description"] = shortened(notification["description"], _LONGEST_BRIEF)
    return output._replace(result=codec.encode("result", result), is_brief=True)


def shortened(text: str, longest: int = _LONGEST_MESSAGE) -> str:
    """Cut a text to a readable length: messages and the API's errors may quote anything."""
    return text if len(text) <= longest else text[:longest] + " ..."
