"""The monitor of a member: implements the engine's hooks, and keeps metrics, failures and the status."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from confluent_kafka.admin import AdminClient

from consumer.engine.ports import Change, Hooks, MemberView, Trouble
from consumer.engine.records import Output, Partition
from consumer.monitor.failures import Failures
from consumer.monitor.letters import LetterLog
from consumer.monitor.metrics import Metrics
from consumer.monitor.observer import Observer
from consumer.monitor.status import NOT_ASSIGNED, SILENT_AFTER, MemberStatus

REJOINING = "the member left its group and joins again"

_VIEW_INTERVAL = 1.0
_INTERVALS_MISSED = 3


class Monitor(Hooks):
    """Watches one member. The engine calls the hooks; any thread may read `metrics`, `failures` and `status`.

    `make_admin` makes the client that looks up the ends of logs that the consumer does not fetch. It is called on
    the main thread, once there is something to look up. An error that it raises ends the member. Statistics come
    every `statistics_interval` seconds; 0 means never. If three are missing, no broker counts as connected. Brokers
    may delay a fetch for `fetch_wait` seconds. `letters` logs that messages become dead letters, and `close` logs
    the rest. `committed` is also called for each transaction.
    """

    def __init__(
        self,
        make_admin: Callable[[], AdminClient],
        statistics_interval: float,
        letters: LetterLog,
        committed: Callable[[Sequence[Output], float], None] | None = None,
        *,
        fetch_wait: float = 0.5,
    ) -> None:
        patience = max(SILENT_AFTER, _INTERVALS_MISSED * statistics_interval) if statistics_interval else None
        self.metrics = Metrics(lambda: self.status)
        self.failures = Failures()
        self._letters = letters
        self._committed = committed
        self._observer = Observer(make_admin, patience, fetch_wait)
        self._turned_at = time.monotonic()
        until = None if patience is None else self._turned_at + patience
        self._status = MemberStatus(self._turned_at, (NOT_ASSIGNED,), brokers_until=until)
        self._view_due = 0.0

    @property
    def status(self) -> MemberStatus:
        """The status at the last view. Only `turned_at` is newer: the main loop's last turn or rejoin."""
        return replace(self._status, turned_at=self._turned_at)

    def received(self, records: Mapping[str, int]) -> None:
        """Count records that came from Kafka."""
        self.metrics.received(records)

    def retried(self, trouble: Trouble) -> None:
        """Count a chunk that will be retried, by its cause."""
        self.metrics.retried(trouble.cause)

    def committed(self, outputs: Sequence[Output], seconds: float) -> None:
        """Count a committed transaction, and record its dead letters."""
        kinds = [output.dead_letter.kind for output in outputs if output.dead_letter]
        self.metrics.committed(len(outputs), kinds, seconds)
        self.failures.note(outputs)
        self._letters.note(outputs)
        if self._committed:
            self._committed(outputs, seconds)

    def aborted(self) -> None:
        """Count a transaction that was aborted."""
        self.metrics.aborted()

    def rebalanced(self, change: Change, partitions: Iterable[Partition]) -> None:
        """Count a change of the assignment. A rebalance that changes no partition is not counted."""
        if any(True for _ in partitions):
            self.metrics.rebalanced(change)

    def lost(self, topic: str, records: int) -> None:
        """Count records that are lost."""
        self.metrics.lost(topic, records)

    def rejoining(self) -> None:
        """Count that the member leaves the group to join again; until then it has no partitions."""
        self.metrics.rejoined()
        self._turned_at = time.monotonic()
        self._status = replace(self._status, not_ready=(REJOINING,), further=(REJOINING,), lanes=())

    def statistics(self, text: str) -> None:
        """Read the statistics of the consumer, librdkafka's JSON."""
        self._observer.note(text)

    def is_view_due(self, now: float) -> bool:
        """Whether a second has passed since the last view. Called on every turn, and records that turn's time."""
        self._turned_at = now
        return now >= self._view_due

    def viewed(self, view: MemberView) -> None:
        """Compute the status from a view, and log the dead letters that are due."""
        self._turned_at = view.now
        self._view_due = view.now + _VIEW_INTERVAL
        self._status = self._observer.look(view)
        self._letters.tick()

    def close(self) -> None:
        """Log the remaining dead letters. Called on the main thread, once the member has ended."""
        self._letters.close()
