"""Commits finished outputs: all lanes together, lane by lane after an abort, and nothing of a paused topic."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic, NamedTuple

from consumer.engine.ahead import Ahead, Blocker, write
from consumer.engine.backoff import Backoff
from consumer.engine.deadline import Clock, Deadline
from consumer.engine.errors import Aborted
from consumer.engine.flood import FloodGuard
from consumer.engine.kafka import GroupMetadata, Logger
from consumer.engine.lane import Lane
from consumer.engine.ports import W
from consumer.engine.records import FAILING, Output, Partition
from consumer.engine.writer import Writer

_ENDS_INTERVAL = 1.0
_TELL_INTERVAL = 5.0


class _Failed(NamedTuple):
    """Aborted transactions of a lane in a row: how many, why the last one, and when the next may begin."""

    times: int
    why: str
    due: float


@dataclass(slots=True)
class Committer(Generic[W]):
    """Commits the outputs that lanes have finished; called on the main thread.

    `make_guard` makes the flood guard of one topic. `brief` makes a smaller output from one that is too large.
    `committed` is called with the committed outputs, and `read_back` with partitions whose metadata must be read
    back, to see whether Kafka keeps it. `chance` gives 0 to 1.
    """

    make_guard: Callable[[], FloodGuard]
    brief: Callable[[Output], Output]
    committed: Callable[[Sequence[Output]], None]
    read_back: Callable[[Sequence[Partition]], None]
    backoff: Backoff
    clock: Clock
    chance: Callable[[], float]
    log: Logger
    _guards: dict[str, FloodGuard] = field(default_factory=dict)
    # By paused topic, when the guard paused it.
    _flooded_since: dict[str, float] = field(default_factory=dict)
    # The partitions whose last transaction was aborted.
    _failed: dict[Partition, _Failed] = field(default_factory=dict)
    _ends_due: float = 0.0
    _tell_due: float = 0.0

    @property
    def flooded(self) -> tuple[str, ...]:
        """The topics that are paused: nothing is committed, because too many of their records are dead letters."""
        return tuple(topic for topic, guard in self._guards.items() if guard.holds)

    @property
    def trouble(self) -> str | None:
        """Why the last transaction of some lane was aborted, None if all succeeded."""
        return next((failed.why for failed in self._failed.values()), None)

    def release(self) -> None:
        """Let the paused topics go on: an operator released them."""
        if self.flooded:
            self.log.warning("flood_released", topics=self.flooded)
        for guard in self._guards.values():
            if guard.holds:
                guard.release()

    def commit(
        self, lanes: Iterable[Lane[W]], writer: Writer, group: Callable[[], GroupMetadata], within: float
    ) -> None:
        """Commit all finished outputs and their offsets in one transaction. Blocks up to `within` seconds.

        An aborted transaction is written again later. From then on each of its lanes has its own transactions, with
        its own backoff, until one succeeds. So an output that can't be written stops only its own lane. Flooded
        topics are left out. If a lane has nothing to commit, its last offset is committed again from time to time,
        and its metadata says what blocks the lane. Raises WriterLost.
        """
        now = self.clock.monotonic()
        lanes = list(lanes)
        if self._failed:
            self._forget_failed(lanes)
        able = [lane for lane in lanes if not self._waits(lane, now)]
        ready = [
            lane
            for lane in able
            if lane.finished or lane.wants_ahead or (now >= self._ends_due and lane.offset is not None)
        ]
        if now >= self._ends_due and ready:
            self._ends_due = now + _ENDS_INTERVAL
        ready = self._admitted(ready)
        deadline = Deadline(within, self.clock.monotonic)
        if now >= self._tell_due:
            self._tell_due = now + _TELL_INTERVAL
            rest = [lane for lane in able if lane not in ready and lane.partition not in self._failed]
            self._tell(rest, writer, group, deadline)
        together = [lane for lane in ready if lane.partition not in self._failed]
        alone = [[lane] for lane in ready if lane.partition in self._failed]
        chance = self.chance()  # lanes that fail together try again together
        for part in [together, *alone] if together else alone:
            try:
                self._write(part, writer, group(), deadline)
            except Aborted as error:
                self._note(part, error, chance)
            else:
                for lane in part:
                    self._failed.pop(lane.partition, None)

    def _forget_failed(self, lanes: Iterable[Lane[W]]) -> None:
        """Forget failed lanes that have nothing to write again: they are gone, have started over, or are paused."""
        flooded = self.flooded
        having = {
            lane.partition for lane in lanes if lane.offset is not None and lane.partition.topic not in flooded
        }
        self._failed = {partition: failed for partition, failed in self._failed.items() if partition in having}

    def _waits(self, lane: Lane[W], now: float) -> bool:
        """Return whether a lane's backoff after an aborted transaction is not over."""
        failed = self._failed.get(lane.partition)
        return failed is not None and now < failed.due

    def _is_smaller(self, lanes: list[Lane[W]], error: Aborted) -> bool:
        """Make the next try smaller if a topic refused the size. Returns whether that may help."""
        if not error.is_refused:
            return False
        return len(lanes) > 1 or lanes[0].too_large(self._briefly)

    def _briefly(self, output: Output) -> Output:
        try:
            return self.brief(output)
        except Exception as error:  # noqa: BLE001 - the other lanes must go on
            self.log.warning("handler_raised", reason=f"shortening the result raised {type(error).__name__}")
            return output

    def _admitted(self, lanes: list[Lane[W]]) -> list[Lane[W]]:
        """Leave out the lanes of flooded topics."""
        for topic, letters in _letters(lanes).items():
            guard = self._guard(topic)
            if not guard.holds and not guard.admits(letters):
                self._flooded_since[topic] = self.clock.monotonic()
                self.log.error(
                    "held",
                    on=topic,
                    cause="flood",
                    reason=f"too many dead letters, now {sum(letters)} of {len(letters)} records, so the topic is "
                    "paused; find the cause, then send SIGHUP to let one window of records through",
                )
        flooded = self.flooded
        return [lane for lane in lanes if lane.partition.topic not in flooded] if flooded else lanes

    def _guard(self, topic: str) -> FloodGuard:
        if topic not in self._guards:
            self._guards[topic] = self.make_guard()
        return self._guards[topic]

    def _write(self, lanes: list[Lane[W]], writer: Writer, group: GroupMetadata, deadline: Deadline) -> None:
        """Commit these lanes in one transaction; raises Aborted."""
        outputs = list(chain.from_iterable(lane.finished for lane in lanes))
        offsets = {lane.partition: lane.offset for lane in lanes if lane.offset is not None}
        try:
            writer.write(outputs, offsets, group, deadline, {lane.partition: self._ahead(lane) for lane in lanes})
        except Aborted as error:
            self.log.warning("commit_aborted", reason=str(error), records=len(outputs))
            raise
        self.committed(outputs)
        for topic, letters in _letters(lanes).items():
            self._guard(topic).note(letters)
        trying = [lane.partition for lane in lanes if lane.wants_ahead]
        for lane in lanes:
            lane.told = self._blocker(lane) if lane.ahead else None
            lane.committed()
        if trying:
            self.read_back(trying)

    def _ahead(self, lane: Lane[W]) -> str:
        """Encode the id of a lane's topic, the runs decided beyond its offset, and what blocks the offset."""
        if not (lane.ahead or lane.wants_ahead):
            is_kept = lane.keeps_ahead is not False
            return write(lane.offset or 0, Ahead((), lane.topic_id)) if lane.topic_id and is_kept else ""
        return write(lane.offset or 0, Ahead(lane.ahead, lane.topic_id, self._blocker(lane)))

    def _blocker(self, lane: Lane[W]) -> Blocker | None:
        """Return what blocks a lane's oldest undecided record, or its outputs; None if nothing does."""
        topic, holder = lane.partition.topic, lane.holder
        trouble = holder.trouble
        if topic in self.flooded:
            since, cause, name = self._flooded_since[topic], "flood", topic
        elif trouble or holder.kind:
            since, cause = holder.since, trouble.cause if trouble else ""
            name = holder.kind or (trouble.waits_for if trouble else "")
        else:
            return None
        age = int(self.clock.monotonic() - since)
        return Blocker(max(1, self.clock.epoch_ms() // 1000 - age), cause, name)

    def _tell(
        self, lanes: list[Lane[W]], writer: Writer, group: Callable[[], GroupMetadata], deadline: Deadline
    ) -> None:
        """Commit the last offset of each lane again if something else blocks it now: the metadata says what.

        So tools can show it, whichever member has the partition. Raises WriterLost.
        """
        news: dict[Lane[W], Blocker | None] = {}
        offsets: dict[Partition, int] = {}
        texts: dict[Partition, str] = {}
        for lane in lanes:
            blocker, last = self._blocker(lane), lane.last_commit
            is_kept = lane.keeps_ahead is not False and lane.knows_ahead
            if last is None or not is_kept or _is_same(blocker, lane.told):
                continue
            offset, runs = last
            news[lane], offsets[lane.partition] = blocker, offset
            texts[lane.partition] = write(offset, Ahead(runs, lane.topic_id, blocker))
        if not news:
            return
        try:
            writer.write([], offsets, group(), deadline, texts)
        except Aborted as error:
            self.log.warning("commit_aborted", reason=str(error), records=0)
            return
        for lane, blocker in news.items():
            lane.told = blocker

    def _note(self, lanes: list[Lane[W]], error: Aborted, chance: float) -> None:
        """Note that the transaction of these lanes was aborted."""
        before = self._failed.get(lanes[0].partition)
        times = before.times + 1 if before else 1
        due = self.clock.monotonic()
        if not self._is_smaller(lanes, error):
            due += self.backoff.delay(times, None, lambda: chance)
        self._failed |= dict.fromkeys((lane.partition for lane in lanes), _Failed(times, str(error), due))


def _is_same(blocker: Blocker | None, told: Blocker | None) -> bool:
    return (blocker and blocker[1:]) == (told and told[1:])


def _letters(lanes: Iterable[Lane[W]]) -> dict[str, list[bool]]:
    """Return for each topic which outputs have a dead letter, in the order of the outputs.

    Dead letters of kind FAILING are left out: when a site is given up, all its waiting records become dead letters
    at once. That must not stop the topic for other sites.
    """
    letters: dict[str, list[bool]] = {}
    for lane in lanes:
        of_topic = letters.setdefault(lane.partition.topic, [])
        of_topic += [
            output.dead_letter is not None
            for output in lane.finished
            if output.dead_letter is None or output.dead_letter.kind != FAILING
        ]
    return letters
