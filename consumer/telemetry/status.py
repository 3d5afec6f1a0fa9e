"""How a member is, as its main loop last saw it: immutable, so that any thread may read it."""

from dataclasses import dataclass
from typing import Literal, get_args

from consumer.record import Partition

State = Literal["idle", "working", "backoff", "site", "credentials", "registry", "flood", "commit"]
"""What a lane does, or waits for.

`idle` has nothing to do. `working` has a chunk in flight, or may have. `backoff` tries its own chunk again later.
`site` waits for a site of the API that does not serve, `credentials` for an operator to mend them, `registry` for
the Schema Registry. `flood` and `commit` have results that are held back, or can't be written.
"""

STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One assigned partition.

    `position` is the offset next to be finished, and `lag` how many offsets are from there to the log's end, None
    while not known. `waiting`, `in_flight` and `finished` count the records held, `held_bytes` is their size.
    `is_paused` tells that no more are fetched, as it holds all it may. `waits_for` and `reason` say what stands in
    the way, `due` when it is tried again, `oldest_since` since when it has its oldest record (both monotonic).
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
    reason: str | None
    due: float | None
    oldest_since: float | None


@dataclass(frozen=True, slots=True)
class Status:
    """A member: `turned_at` is when its main loop last went round, by the monotonic clock.

    `not_ready` has the reasons why it does not deliver all it is given; empty if it does. `brokers` is the number
    of brokers it is connected to, None while not known.
    """

    turned_at: float
    not_ready: tuple[str, ...]
    lanes: tuple[LaneStatus, ...] = ()
    brokers: int | None = None
    is_stopping: bool = False
