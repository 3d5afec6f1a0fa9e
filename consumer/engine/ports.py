"""The engine's one port: what it needs from its user, and what its user may rely on.

To deliver records somewhere, write a `Handler`. To watch the engine, override methods of `Hooks`. Nothing else of
the engine has to be read for either.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from consumer.engine.records import Output, Partition, Record

W = TypeVar("W")
"""What a handler keeps on a chunk from one try to the next."""


@dataclass(slots=True)
class Chunk(Generic[W]):
    """Consecutive records of one partition, in the order of their offsets, delivered together.

    A chunk that is retried keeps all it has: `work` is the handler's own, None on the first try, and `attempts`
    counts the tries so far. It may come back with further records behind those it had. `epoch` tells this
    assignment of the partition from earlier and later ones.

    It belongs to one thread at a time: to the worker that handles it, else to the main thread.
    """

    partition: Partition
    epoch: int
    records: list[Record] = field(default_factory=list)
    work: W | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a chunk must be retried.

    `waits_for` names what does not serve; chunks that wait for the same thing share one probe. `cause` is a short
    name to count by, `message` a sentence for people. `retry_after` is in seconds, where a server asked for it.

    `held` marks what no waiting mends, only an operator: it is retried slowly, and at once on a reload.
    `isolating` marks a chunk that keeps to its own backoff even while others are served: one of its records is
    suspected to be the cause.
    """

    waits_for: str
    cause: str
    message: str
    retry_after: float | None = None
    held: bool = False
    isolating: bool = False


@dataclass(frozen=True, slots=True)
class Done(Generic[W]):
    """Every record of the chunk is decided: one output for each, in their order.

    `served` names what went through on this try; whoever waits for one of them goes on at once.
    """

    chunk: Chunk[W]
    outputs: Sequence[Output]
    served: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Retry(Generic[W]):
    """The chunk has records that are not decided, for the reason that `trouble` gives. `served` as in `Done`."""

    chunk: Chunk[W]
    trouble: Trouble
    served: frozenset[str] = frozenset()


class Handler(Protocol[W]):
    """Decides what becomes of records. One method, called on worker threads.

    What the engine guarantees:

    - One chunk of a partition is handled at a time, and chunks of a partition come in order. Chunks of different
      partitions are handled at the same time, on different threads.
    - A chunk that comes back as `Retry` is handed over again, with its `work`, until it comes back as `Done`. The
      next chunk of the partition waits for it.
    - The outputs of a `Done` are published, and the offsets behind them committed, in one transaction. If that
      fails they are written again; `handle` is not called again for them, except after a crash or a rebalance.

    What a handler must keep to:

    - Block as long as it takes to deliver, never to wait between tries: return `Retry`, and the engine waits.
    - Ask `still_ours()` before each thing it does outside, and return `Retry` once the answer is no: the partition
      was taken away, or this process stood still and can't know. The engine then drops the chunk.
    - Decide each record, whatever it holds. An exception ends the member.
    """

    def handle(self, chunk: Chunk[W], still_ours: Callable[[], bool]) -> Done[W] | Retry[W]:
        """Try the chunk once. `still_ours` may be called from the handler's thread at any time."""


Change = Literal["assigned", "revoked", "lost"]
"""What happened to the assignment of partitions."""


@dataclass(frozen=True, slots=True)
class LaneView:
    """One assigned partition, as the engine sees it.

    `waiting`, `in_flight` and `finished` count records held: not yet handed to the handler, with it, and decided
    but not committed. `held_bytes` is the size of all three. `oldest` and `newest` are offsets of held records,
    None when nothing is held. `committed` is the offset committed last on this assignment.

    `waits_for`, `cause` and `message` say what stands in the way, `held` that an operator must mend it, and `due`
    when it is tried again (monotonic seconds); None for nothing.
    """

    partition: Partition
    epoch: int
    waiting: int
    in_flight: int
    finished: int
    held_bytes: int
    is_paused: bool
    oldest: int | None
    newest: int | None
    committed: int | None
    waits_for: str | None
    cause: str | None
    message: str | None
    held: bool
    due: float | None


@dataclass(frozen=True, slots=True)
class MemberView:
    """The whole member at one moment of its main loop; `now` is in monotonic seconds.

    `gates` names what does not serve, each with the reason. `is_flooded` tells that results are held back because
    too many records are dead letters, `commit_trouble` why the last commit failed.
    """

    now: float
    lanes: tuple[LaneView, ...]
    gates: Mapping[str, str]
    is_flooded: bool
    commit_trouble: str | None
    is_stopping: bool


class Hooks:
    """What the engine tells its user. Override what you need; the methods here do nothing.

    All are called on the main thread. They must return soon, since the member polls only after them, and must
    not raise: an exception ends the member.
    """

    def received(self, records: Mapping[str, int]) -> None:
        """Note records that came from Kafka: how many, by topic."""

    def retried(self, trouble: Trouble) -> None:
        """Note that a chunk is to be retried."""

    def committed(self, outputs: Sequence[Output], seconds: float) -> None:
        """Note a transaction that was committed: its outputs, and the seconds it took."""

    def aborted(self) -> None:
        """Note a transaction that was aborted; its outputs are written again."""

    def rebalanced(self, change: Change, partitions: Iterable[Partition]) -> None:
        """Note a change of the assignment. After `revoked` and `lost` the partitions are no longer ours."""

    def rejoining(self) -> None:
        """Note that the member leaves the group to begin anew."""

    def statistics(self, text: str) -> None:
        """Take librdkafka's statistics of the consumer: a JSON document, every few seconds."""

    def is_view_due(self, now: float) -> bool:  # noqa: ARG002 - for those who override it
        """Tell whether `viewed` should be called now. Asked on every turn: a view costs more than the question."""
        return False

    def viewed(self, view: MemberView) -> None:
        """Take a view of the member."""


class Reload(Protocol):
    """Takes over changed settings; called on the main thread, on every turn, so it must return soon."""

    def __call__(self, *, asked: bool) -> bool:
        """Tell whether what is held should be tried at once.

        `asked` tells that `Member.reload` was called since the last time.
        """
