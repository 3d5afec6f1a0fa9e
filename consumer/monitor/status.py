"""The status of a member, as its main loop last saw it. Immutable, so any thread may read it."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from consumer.engine.ports import StrandView
from consumer.engine.records import Partition

State = Literal["idle", "working", "backoff", "site", "credentials", "registry", "flood", "commit", "leaderless"]
"""What a lane does, or waits for.

- `idle`: it has nothing to do.
- `working`: a chunk is in flight, or ready to go.
- `backoff`: it retries its own chunk later.
- `site`: it waits for a site for which the API does not work.
- `credentials`: it waits until an operator fixes the credentials.
- `registry`: it waits for the Schema Registry.
- `flood`: its topic is paused, because too many of its records are dead letters.
- `commit`: its results can't be committed.
- `leaderless`: no broker leads its partition, so its records can't be read.
"""

STATES: tuple[State, ...] = get_args(State)


SILENT_AFTER = 5.0
"""A member is not ready if its main loop has not reported for this many seconds. It reports every second."""

NOT_ASSIGNED = "no partition is assigned"
NOT_CONNECTED = "Kafka: no broker answers"
REFUSED = "Kafka refuses our credentials, or its certificate is not trusted: {}"
NOT_HEARD_OF = "Kafka: no broker has answered recently"


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One assigned partition. Times are in seconds of the monotonic clock.

    `position` is the offset of the next record to finish. `lag` is the number of offsets from there to the end of
    the log. Both are None while not known. `waiting`, `in_flight` and `finished` count the records in memory, and
    `held_bytes` is their size. `is_paused`: the lane is full, so no more records are fetched.

    `hidden` is the number of offsets that another writer's open transaction hides, since `hidden_since`.

    `waits_for` and `message` say what blocks the lane, and `due` when it tries again. `oldest_since` is when the
    oldest record in memory came in. `ahead` counts the offsets that are decided beyond `position`. `strands` has
    the records that are set apart while others are delivered.
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
    """The status of a member. `turned_at` is the last turn of its main loop, in seconds of the monotonic clock.

    `not_ready` has the reasons why it does not deliver all its records, and is empty if it does. `further` has the
    reasons that the state of no lane tells. `brokers` is the number of connected brokers, None while not known. It
    counts as 0 from `brokers_until` on, if no new statistics come; None means that there are never statistics.
    `refusal` is the error of a broker that refused us, None once one accepts us. `losses` counts the losses that
    are not acknowledged.
    """

    turned_at: float
    not_ready: tuple[str, ...]
    lanes: tuple[LaneStatus, ...] = ()
    brokers: int | None = None
    brokers_until: float | None = None
    is_stopping: bool = False
    refusal: str | None = None
    losses: int = 0
    further: tuple[str, ...] = ()

    def as_of(self, now: float) -> "MemberStatus":
        """Return the status at a later moment, if nothing was reported in between."""
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
        not_ready, further = (*reasons, *self.not_ready), (*reasons, *self.further)
        return replace(self, brokers=brokers, not_ready=not_ready, further=further)
