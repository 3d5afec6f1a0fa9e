"""The engine's only interface: what it needs from its user, and what the user may rely on.

To deliver records somewhere, write a `Handler`. To watch the engine, override methods of `Hooks`. The data types
are in `records.py`: `Record`, `Output` and `DeadLetter`. `tests/integration/test_engine.py` has a small handler,
and shows how to make a `Member` that runs it.

There are two kinds of thread. The main thread is the one that calls `Member.run`: it polls, commits, and calls the
hooks. Worker threads call the handler, and nothing else.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

from consumer.engine.records import Output, Partition, Record

W = TypeVar("W")
"""The work that a handler keeps on a chunk between tries."""

Names = frozenset[Hashable]
"""Names by which records wait for each other. The handler chooses them, such as a site, or a key at a site."""

Behind = dict[Hashable, tuple[int, str]]
"""For each name, the offset and the strand of the first record with it that waits outside the chunk."""


@dataclass(slots=True)
class Chunk(Generic[W]):
    """Records of one partition that are delivered together. Records that share a name are in order.

    It has at least one record. A retried chunk is the same object: it keeps its records, and may get more records
    after them. So `work` may cover only its first records. `work` and `attempts` belong to the handler, which may
    keep data in them between tries. The engine does not read them. A new chunk, even one made after an exception,
    starts with `work` None and `attempts` 0. The handler must not change anything else. `epoch` tells this
    assignment of the partition from earlier and later ones. `raised` counts the tries that ended in an exception.

    `strand` names the strand in which the records were set apart; it is empty for new records. `behind` says which
    records wait outside of the chunk. It is None if the handler must not set records apart. `closed` names what is
    known to be down. `is_next` says that the chunk before it is still in flight, so this one is only prepared.

    A chunk belongs to one thread at a time: to the worker that handles it, otherwise to the main thread. After
    `handle` has returned, the handler must not use it.
    """

    partition: Partition
    epoch: int
    records: list[Record] = field(default_factory=list)
    work: W | None = None
    attempts: int = 0
    raised: int = 0
    strand: str = ""
    behind: Behind | None = None
    closed: frozenset[str] = frozenset()
    is_next: bool = False

    def waits_in(self, offset: int, names: Names) -> str | None:
        """Return the strand outside of this chunk with the first earlier record that has one of these names."""
        found = [self.behind[name] for name in names if name in self.behind] if self.behind else []
        earlier = [each for each in found if each[0] < offset]
        return min(earlier)[1] if earlier else None


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a chunk must be retried.

    `waits_for` names what is down, and is not empty. Chunks that wait for the same thing share one backoff, and one
    of them probes at a time. `cause` is a short name for metrics, `message` a sentence for people.

    `retry_after` is in seconds, if a server asked for it. It is obeyed up to `Backoff.longest_retry_after`. `held`
    marks a trouble that only an operator can end. The chunk is tried again after `Options.hold_interval`, or as
    soon as `Reload` says so. If `retry_after` or `held` is set, all chunks that wait for the same thing wait as
    long, even if this try named it in `working`.

    `isolating` marks a chunk with a record that is suspected to be the cause. Such a chunk waits longer with each
    try, even while `waits_for` works for others.
    """

    waits_for: str
    cause: str
    message: str
    retry_after: float | None = None
    held: bool = False
    isolating: bool = False


# Without slots: in Python 3.11 a frozen class that has them can't be made as `Done[int](...)`.
@dataclass(frozen=True)
class Apart(Generic[W]):
    """Records of a chunk that wait in one strand, while later records go on.

    `names` has the names of each record, in the order of `records`. A later record that has one of them must wait
    for it, in the same strand or another. `work` is the work done for these records. If it is None, they may be
    handed over again together with new ones. `trouble` is why they wait. Without one, they go on as soon as no
    earlier record is in their way, and `strand` is not known to be down. If `strand` is empty, they go on with new
    records.

    `is_ready` is set if something is still pending for these records, such as a request. Until it returns true, the
    records are not handed over again and count as in flight. The main thread calls it, so it must not block.
    """

    strand: str
    records: Sequence[Record]
    names: Sequence[Names]
    work: W | None = None
    trouble: Trouble | None = None
    is_ready: Callable[[], bool] | None = None


@dataclass(frozen=True)
class Done(Generic[W]):
    """Every record of the chunk is decided, or set apart.

    `chunk` is the one that was handed over. `outputs` has one output for each decided record, in their order, and
    `apart` has all other records. Any other answer counts as if `handle` had raised. `working` names what worked in
    this try, by the names that `Trouble.waits_for` uses. All strands that wait for one of them go on at once.
    """

    chunk: Chunk[W]
    outputs: Sequence[Output]
    working: frozenset[str] = frozenset()
    apart: Sequence[Apart[W]] = ()


@dataclass(frozen=True)
class Prepared(Generic[W]):
    """The chunk is prepared, and waits until it may be handled."""

    chunk: Chunk[W]


@dataclass(frozen=True)
class Retry(Generic[W]):
    """The whole chunk must be tried again; `trouble` says why.

    `chunk` and `working` are as in `Done`. If `working` also names what the trouble waits for, only this
    chunk backs off, and no other chunk waits.
    """

    chunk: Chunk[W]
    trouble: Trouble
    working: frozenset[str] = frozenset()


class Handler(Protocol[W]):
    """Decides the result of each record.

    A handler that copies values, and makes a dead letter of each record without one::

        def handle(self, chunk: Chunk[None], still_ours: Callable[[], bool]) -> Done[None]:
            outputs = [
                Output(record, record.value or b"", None if record.value else DeadLetter("empty", "no value", 1))
                for record in chunk.records
            ]
            return Done(chunk, outputs)

        def prepare(self, chunk: Chunk[None]) -> None:
            pass

    The engine writes a dead letter with the record's own key, value and headers; the handler says only why.

    What the engine guarantees:

    - New chunks of a partition come one at a time, in order. The next comes once this one is `Done`; it may come
      before this one is committed. The same applies to each strand. Chunks of different partitions, or strands, are
      handled at the same time, on different threads.
    - A chunk that comes back as `Retry` is handed over again, once its backoff is over, until it comes back as
      `Done`.
    - The outputs of a `Done` are published, and the offsets behind them committed, in one transaction. If it is
      aborted, the engine writes the same outputs again, and does not call `handle` for them.
    - Records that are not committed when the partition moves to another member, or when this member rejoins or
      ends, are delivered again to the next owner, in new chunks without `work`. So each record has exactly one
      published result, but `handle` may see a record more than once.

    What a handler must do:

    - Block as long as it takes to deliver, but not to wait between tries: return `Retry`, and the engine waits.
      While a worker is blocked, its strand makes no progress, and one chunk fewer is handled at the same time.
    - Call `still_ours()` before each request or other effect. Once it is false, it stays false: the partition was
      taken away, or this process was paused for so long that it can't know. Then return any `Retry`: the engine
      drops the chunk. The partition may have come back, and another worker may have the same records.
    - Set records apart that would make others wait, if the chunk allows it. A record must also be set apart if
      `Chunk.waits_in` names a strand for it, or if an earlier record set apart from the chunk has one of its names.
    - Decide each record, whatever it contains. The engine is the last line of defence: if `handle` raises, the
      records are handed over again in smaller and smaller chunks, without `work`, until one record is found that
      raises alone. The engine passes that record to `give_up` after a few tries. A chunk whose handling raises
      MemoryError or OSError is retried until it succeeds: those are faults of this process, not of a record.
    """

    def handle(self, chunk: Chunk[W], still_ours: Callable[[], bool]) -> Done[W] | Retry[W]:
        """Try the chunk once; called on worker threads.

        `still_ours` may be called from any thread until `handle` returns. It neither blocks nor raises.
        """

    def prepare(self, chunk: Chunk[W]) -> None:
        """Do work for a chunk before it may be handled, such as decoding, and keep it in `Chunk.work`.

        Called on worker threads while an earlier chunk of the partition is handled, if a worker is idle. It must
        have no external effects. If it raises, its work is dropped. It may do nothing, and `handle` must not rely
        on it.
        """

    def give_up(self, chunk: Chunk[W], error: Exception) -> Output:
        """Decide the only record of a chunk on which `handle` raises again and again; called on worker threads.

        `error` is what it raised last. If this raises too, the record is tried again later.
        """

    def brief(self, output: Output) -> Output:
        """Return a smaller output for the same record, with `is_brief`. Called on the main thread; must not block.

        Called if the results topic refuses an output because of its size. If this raises, the output stays as it
        is. If the brief output is refused too, its partition can't be committed until the topic's limit is raised.
        """


@dataclass(frozen=True, slots=True)
class StrandView:
    """Records of a lane that were set apart: how many, since when (in monotonic seconds), and why.

    `cause` and `message` are those of the trouble they wait for, None if they wait for other records or are in
    flight.
    """

    name: str
    records: int
    since: float
    cause: str | None
    message: str | None


Change = Literal["assigned", "revoked", "lost"]
"""What happened to the assignment of partitions.

Assigned to this member, revoked after it could finish, or lost: other members may already own them.
"""


@dataclass(frozen=True, slots=True)
class LaneView:
    """One assigned partition, as the engine sees it.

    The records in memory are `waiting` (new, or to be tried again), `in_flight` (with the handler), or `finished`
    (decided but not committed). `held_bytes` is the size of their keys, values and headers. `is_paused` says that
    the lane is full and fetches no more records. `oldest` and `newest` are the offsets of the first and the last of
    them, None if there are none. `committed` is the last offset (next to read) committed in this assignment, None
    if there is none yet.

    `waits_for`, `cause` and `message` are those of the trouble that the oldest undecided record waits for. `held`
    says that it needs an operator. `due` is when it is tried again, in monotonic seconds. If there is no trouble,
    `held` is false and the others are None. `ahead` counts the offsets decided beyond the one to commit. `strands`
    has the strands set apart.
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
    ahead: int = 0
    strands: tuple[StrandView, ...] = ()


@dataclass(frozen=True, slots=True)
class MemberView:
    """The whole member at one moment of its main loop; `now` is in monotonic seconds.

    `gates` names what is down, each with its trouble's message. `flooded` names the topics that are paused, because
    too many of their records are dead letters. `commit_trouble` says why the last transaction was
    aborted, None once a commit succeeded. `losses` has a sentence for each loss, until an operator acknowledges
    them by a reload. `unreadable` has a sentence for each reason why the member can't read: a topic is gone or
    refused, or the member can't join its group. `refusal` says why brokers refuse this member, None once one
    accepts it. `is_stopping` says that `Member.stop` was called.
    """

    now: float
    lanes: tuple[LaneView, ...]
    gates: Mapping[str, str]
    flooded: tuple[str, ...]
    commit_trouble: str | None
    losses: tuple[str, ...]
    refusal: str | None
    is_stopping: bool
    unreadable: tuple[str, ...] = ()


class Hooks:
    """The engine calls these methods to report. Override what you need; the methods here do nothing.

    All are called on the main thread, one at a time. They must not block: the member polls only after them. They
    must not raise: otherwise the member leaves the group, and `Member.run` raises the same error.
    """

    def received(self, records: Mapping[str, int]) -> None:
        """Note records that came from Kafka: how many, by topic."""

    def retried(self, trouble: Trouble) -> None:
        """Note a chunk that is to be tried again."""

    def committed(self, outputs: Sequence[Output], seconds: float) -> None:
        """Note a transaction that was committed: its outputs, and the seconds it took.

        The outputs of one partition are in order. There may be no outputs: then only the ends of partitions were
        committed, or metadata that says why a partition waits.
        """

    def aborted(self) -> None:
        """Note a transaction that was aborted; its outputs are written again."""

    def rebalanced(self, change: Change, partitions: Iterable[Partition]) -> None:
        """Note a change of the assignment. There may be no partitions: then only other members' partitions changed.

        After `revoked` and `lost` the partitions are no longer ours, and none of their records are in memory. A
        member that leaves the group gives up all its partitions.
        """

    def lost(self, topic: str, records: int) -> None:
        """Note records of a topic that were lost before they were read; 0 if their number is not known."""

    def rejoining(self) -> None:
        """Note that the member has left the group, to join again in a moment."""

    def statistics(self, text: str) -> None:
        """Take librdkafka's statistics of the consumer: a JSON document, every few seconds."""

    def is_view_due(self, now: float) -> bool:  # noqa: ARG002 - for overriding methods
        """Return whether `viewed` should be called now (monotonic seconds): a view costs more than this call.

        Called on every turn of the main loop, normally at least several times a second.
        """
        return False

    def viewed(self, view: MemberView) -> None:
        """Take a view of the member. It does not change afterwards, so other threads may have it."""


class Reloaded(NamedTuple):
    """The result of a check for changed settings.

    `try_again` says to retry at once everything that waits. `reconnect` says that the connection settings changed:
    the member leaves the group and joins it again with new clients.
    """

    try_again: bool = False
    reconnect: bool = False


class Reload(Protocol):
    """Applies changed settings.

    Called on the main thread, on every turn of its loop. It must not block or raise, as `Hooks`.
    """

    def __call__(self, *, asked: bool) -> Reloaded:
        """Apply changed settings.

        `asked` says that `Member.reload` was called since the last time. If so, `try_again` also releases paused
        topics and acknowledges losses.
        """
