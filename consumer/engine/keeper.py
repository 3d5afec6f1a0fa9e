"""Keeps the transactional writer: starts it when it is needed, and replaces it when it is lost."""

from collections.abc import Callable, Sequence

from confluent_kafka import KafkaException

from consumer.engine.deadline import Clock
from consumer.engine.errors import MemberFailed, WriterFenced, WriterLost
from consumer.engine.kafka import GroupConsumer, Logger
from consumer.engine.writer import Writer

_PAUSE = 0.5
_LOOK_WITHIN = 0.5


class Keeper:
    """Keeps one member's writer; called on the main thread.

    `make` makes a writer that is not started yet. `writer` is the current one, None while there is none. `trouble`
    says why there is none. `is_static` says that the member keeps its name over a restart.
    """

    def __init__(self, make: Callable[[], Writer], clock: Clock, log: Logger, *, is_static: bool) -> None:
        self.writer: Writer | None = None
        self.trouble: str | None = None
        self._make = make
        # Made early, because a client that is not connected yet takes half a second longer to start.
        self._next = make()
        self._clock = clock
        self._log = log
        self._is_static = is_static
        self._due = 0.0

    def have(self, timeout: float) -> None:
        """Start a writer if there is none and it is time. Raises WriterLost, TransactionsRefused.

        The result of a lost writer's last transaction is unknown until the new writer has settled it. Blocks up to
        the timeout, in seconds.
        """
        if self.writer or self._clock.monotonic() < self._due:
            return
        self._next.start(timeout)
        self.writer, self.trouble = self._next, None

    def lose(self, error: WriterLost) -> bool:
        """Drop the writer; no new one starts for a moment. Returns whether there was one. Raises MemberFailed."""
        if isinstance(error, WriterFenced) and self._is_static:
            # A new writer would fence the member that replaced this one, and so on forever.
            raise MemberFailed(f"another member has the same KAFKA_GROUP_INSTANCE_ID: {error}")
        self._log.warning("writer_lost", reason=str(error))
        had_one = self.writer is not None
        self.writer, self.trouble, self._next = None, str(error), self._make()
        self._due = self._clock.monotonic() + _PAUSE
        return had_one


def leaderless(consumer: GroupConsumer, topics: Sequence[str]) -> list[str]:
    """Say which partitions of topics have no leader; blocks for a moment."""
    found = []
    for name in topics:
        try:
            known = consumer.list_topics(name, _LOOK_WITHIN).topics
        except KafkaException:
            return []  # no broker answers, which is reported elsewhere
        partitions = known[name].partitions.values() if name in known else ()
        found += [f"{name}/{each.id} has no leader" for each in partitions if each.leader < 0]
    return found
