"""When and how finished outputs are committed: together, lane by lane after an abort, or not at all in a flood."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Generic

from consumer.engine.backoff import Backoff
from consumer.engine.deadline import Clock, Deadline
from consumer.engine.errors import Aborted
from consumer.engine.flood import FloodGuard
from consumer.engine.kafka import GroupMetadata, Logger
from consumer.engine.lane import Lane
from consumer.engine.ports import W
from consumer.engine.writer import Writer

_ENDS_INTERVAL = 1.0


@dataclass(slots=True)
class Committer(Generic[W]):
    """Commits what lanes have finished; called on the main thread.

    `trouble` says why the last commit failed, None if it did not. `chance` gives 0 to 1.
    """

    flood: FloodGuard
    backoff: Backoff
    clock: Clock
    chance: Callable[[], float]
    log: Logger
    trouble: str | None = None
    _failures: int = 0
    _due: float = 0.0
    _ends_due: float = 0.0

    def commit(
        self, lanes: Iterable[Lane[W]], writer: Writer, group: Callable[[], GroupMetadata], within: float
    ) -> None:
        """Write all that is finished, with its offsets, in one transaction. Blocks up to `within` seconds.

        What is aborted is written again later. Until a commit succeeds each lane then has a transaction of its own,
        so that what can't be written stops only its lane. Nothing is written in a flood. Raises WriterLost.
        """
        now = self.clock.monotonic()
        if self.flood.holds or now < self._due:
            return
        ready = [lane for lane in lanes if lane.finished or (now >= self._ends_due and lane.offset is not None)]
        if not ready:
            return
        if now >= self._ends_due:
            self._ends_due = now + _ENDS_INTERVAL
        deadline = Deadline(within, self.clock.monotonic)
        trouble = None
        for part in [[lane] for lane in ready] if self._failures else [ready]:
            try:
                if not self._write(part, writer, group(), deadline):
                    break
            except Aborted as error:
                trouble = str(error)
        self._note(trouble)

    def _write(self, lanes: list[Lane[W]], writer: Writer, group: GroupMetadata, deadline: Deadline) -> bool:
        """Commit these lanes in one transaction; False if the flood guard holds it back. Raises Aborted."""
        outputs = list(chain.from_iterable(lane.finished for lane in lanes))
        letters = [output.dead_letter is not None for output in outputs]
        if not self.flood.admits(letters):
            self.log.error(
                "held",
                on="dead letters",
                cause="flood",
                reason=f"too many dead letters: {sum(letters)} of the next {len(letters)} records; fix what is "
                "upstream, or send SIGHUP to let them through",
            )
            return False
        offsets = {lane.partition: lane.offset for lane in lanes if lane.offset is not None}
        try:
            writer.write(outputs, offsets, group, deadline)
        except Aborted as error:
            self.log.warning("commit_aborted", reason=str(error), records=len(outputs))
            raise
        self.flood.note(letters)
        for lane in lanes:
            lane.committed()
        return True

    def _note(self, trouble: str | None) -> None:
        self.trouble = trouble
        self._failures = 0 if trouble is None else self._failures + 1
        if trouble is not None:
            self._due = self.clock.monotonic() + self.backoff.delay(self._failures, None, self.chance)
