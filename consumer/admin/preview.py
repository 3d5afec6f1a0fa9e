"""What a message would send: its events and its notifications, without sending anything."""

from collections.abc import Mapping
from typing import Any

from jirafe import services
from jirafe.services import UnknownMessageType, Unsendable


def preview(
    message: Mapping[str, Any], defaults: Mapping[str, str], overrides: Mapping[str, str]
) -> dict[str, Any]:
    """Give the message's id and type, its events (kind and body) and its notifications.

    Its parameters go before the defaults, and overrides before them. A type that is unknown is a notification.
    """
    parameters = {**defaults, **message["parameters"], **overrides}
    events, notifications = [], []
    try:
        for event in services.make_events(message["message"], message["payload"], parameters):
            if isinstance(event, Unsendable):
                notifications.append(services.notification_of_failed(event.kind, event.message))
            else:
                events.append({"kind": event.kind.name, "body": event.body})
                notifications.append(services.notification_of_sent(event.kind, event.name))
    except UnknownMessageType as error:
        notifications.append(services.notification_of_unreadable(str(error)))
    return {
        "message_id": message["message_id"],
        "message": message["message"],
        "events": events,
        "notifications": notifications,
    }
