"""How a member is, as its main loop last saw it: immutable, so that any thread may read it."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from consumer.engine.ports import StrandView
from consumer.engine.records import Partition

State = Literal["idle", "working", "backoff", "site", "credentials", "registry", "flood", "commit"]
"""What a lane does, or waits for.

`idle` has nothing to do. `working` has a chunk in flight, or one that may go. `backoff` retries its own chunk
later. `site` waits for a site for which the API does not work, `credentials` for an operator to fix them,
`registry` for the Schema Registry. `flood` has results that are held back, `commit` has results that can't be
written.
"""

STATES: tuple[State, ...] = get_args(State)


SILENT_AFTER = 5.0
"""Seconds without a word of the main loop after which a member is not called ready. It reports every second."""

NOT_ASSIGNED = "no partition is assigned"
NOT_CONNECTED = "Kafka: no broker is connected"
REFUSED = "Kafka refuses our credentials, or its certificate is not trusted: {}"
NOT_HEARD_OF = "Kafka: no broker has answered lately"


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One assigned partition. Times are in seconds of the monotonic clock.

    `position` is the offset of the next record to finish. `lag` is the number of offsets from there to the end of
    the log. Both are None while not known. `waiting`, `in_flight` and `finished` count the records held, and
    `held_bytes` is their size. `is_paused` tells that no more are fetched, since the lane is full.

    `hidden` is the number of offsets behind another writer's open transaction, which nobody can read yet, since the
    moment `hidden_since`.

    `waits_for` and `message` say what stands in the way, and `due` when it is tried again. `oldest_since` is when
    the oldest record held came in. `ahead` counts the offsets that are decided beyond `position`, `strands` has the
    records that wait apart while others go on.
    """

    partition: Partition
    state: State
    position: int | None
    lag: int | None
    waiting: int
    in_flight: int
    finished: int
    held_bytes: int
    is_paused: bool
    waits_for: str | None
    message: str | None
    due: float | None
    oldest_since: float | None
    hidden: int = 0
    hidden_since: float | None = None
    ahead: int = 0
    strands: tuple[StrandView, ...] = ()


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """A member. `turned_at` is when its main loop was last heard of, in seconds of the monotonic clock.

    `not_ready` has the reasons why it does not deliver all it is given; it is empty if it does. `brokers` is the
    number of brokers it is connected to, None while not known. It holds until `brokers_until`: a connection that
    nothing has been heard of since is none. None there: it is never told. `refusal` is what a broker said last that
    refused to talk to us.
    """

    turned_at: float
    not_ready: tuple[str, ...]
    lanes: tuple[LaneStatus, ...] = ()
    brokers: int | None = None
    brokers_until: float | None = None
    is_stopping: bool = False
    refusal: str | None = None

    def as_of(self, now: float) -> "MemberStatus":
        """Tell what it comes to at a later moment, if nothing was heard meanwhile."""
        brokers, silence = self.brokers, now - self.turned_at
        reasons = []
        if silence > SILENT_AFTER:
            reasons.append(f"the main loop has not reported for {silence:.0f} s")
        is_silent = self.brokers_until is not None and now > self.brokers_until
        if is_silent:
            brokers = 0
        if self.refusal and not brokers:
            reasons.append(REFUSED.format(self.refusal))
        elif brokers == 0:
            reasons.append(NOT_HEARD_OF if is_silent else NOT_CONNECTED)
        return replace(self, brokers=brokers, not_ready=(*reasons, *self.not_ready))
