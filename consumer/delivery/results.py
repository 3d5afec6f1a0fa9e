"""The second half of a chunk's way: a decided draft becomes the record's result, and its dead letter."""

from consumer.delivery.work import Draft, Fault
from consumer.engine.records import DeadLetter, Output
from jirafe.client import Accepted
from jirafe.services import notification_of_failed, notification_of_sent, notification_of_unreadable
from schemas.codec import Codec

_LONGEST_MESSAGE = 2000


def output(draft: Draft, attempts: int, codec: Codec) -> Output:
    """Make the result of a decided draft, and its dead letter if anything failed; raises RegistryUnavailable."""
    notifications, faults = [], []
    if draft.fault:
        notifications.append(notification_of_unreadable(shortened(draft.fault.message)))
        faults.append(draft.fault)
    for event in draft.events:
        match event.outcome:
            case Accepted():
                notifications.append(notification_of_sent(event.kind, event.name))
            case Fault(kind, message):
                notifications.append(notification_of_failed(event.kind, shortened(message)))
                faults.append(Fault(kind, f"{event.kind.name}: {message}"))
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
        "replay": record.redelivery.replay if record.redelivery else None,
        "redrive": record.redelivery.redrive if record.redelivery else None,
    }
    reason = shortened("; ".join(dict.fromkeys(fault.message for fault in faults)))
    letter = DeadLetter(faults[0].kind, reason, attempts) if faults else None
    return Output(record, codec.encode("result", result), letter)


def shortened(message: str) -> str:
    """Cut a message to a readable length: the API's errors quote whole values."""
    return message if len(message) <= _LONGEST_MESSAGE else message[:_LONGEST_MESSAGE] + " ..."
