"""One member of the consumer group: poll, dispatch, commit, revoke, stop.

One thread, the main thread, owns the consumer, the writer and all lanes, without locks. Workers get a chunk and
give it back through a queue. The main thread never waits for a handler, so it always polls in time.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from consumer.engine.backoff import Backoff
from consumer.engine.committer import Committer
from consumer.engine.continuity import Continuity
from consumer.engine.deadline import Clock, Deadline
from consumer.engine.defence import Answer, Defence, Raised
from consumer.engine.errors import KafkaUnusable, MemberFailed, Rejoin, WriterLost
from consumer.engine.flood import FloodGuard
from consumer.engine.kafka import (
    Clients,
    GroupConsumer,
    Logger,
    is_refusal,
    kafka_error,
    says_cut,
    to_partition,
    to_place,
    to_record,
)
from consumer.engine.keeper import Keeper, leaderless
from consumer.engine.lanes import Lanes
from consumer.engine.places import Places
from consumer.engine.ports import Chunk, Handler, Hooks, MemberView, Reload, W
from consumer.engine.records import Partition
from consumer.engine.strand import Bounds
from consumer.engine.watchdog import Watchdog
from consumer.engine.workers import Pool, Workers, call_within
from consumer.engine.writer import CallWithin, Writer

_IDLE_WAIT = 0.1
_BUSY_WAIT = 0.005
_MOST_TAKEN = 1000
_TAKEN_AT_ONCE = 10
_PAUSE = 0.5
_QUIET_SECONDS = 30.0


Handle = Callable[[Chunk[W]], Answer[W]]


@dataclass(frozen=True, slots=True)
class Options:
    """How one member works. Times are in seconds.

    `group` is the name of the consumer group. `topics` are consumed by name. Topics that match one of the
    `patterns`, which begin with ^, are consumed too. `workers` is the number of chunks handled at once. The flood
    guard pauses a topic once more than `flood_share` of `flood_window` records in a row are dead letters.
    `commit_timeout` limits one transaction, `drain_timeout` the wait for chunks in flight of a revoked partition,
    `grace_time` the same when the member stops. `hold_interval` is the time between tries while an operator is
    needed. After `longest_silence` the group may have removed a paused member. `is_static` says that the member
    keeps its name across restarts, `starts_at_end` that a group without committed offsets begins at the end of the
    logs.
    """

    group: str
    topics: Sequence[str]
    patterns: Sequence[str]
    results_topic: str
    dead_letters_topic: str
    bounds: Bounds
    backoff: Backoff
    workers: int
    hold_interval: float
    commit_timeout: float
    drain_timeout: float
    grace_time: float
    longest_silence: float
    flood_window: int
    flood_share: float = 0.5
    is_static: bool = False
    starts_at_end: bool = False


@dataclass(frozen=True)
class Surroundings(Generic[W]):
    """What the engine needs from the process around it. A simulation passes its own.

    `chance` returns random numbers from 0 to 1.
    """

    log: Logger
    clock: Clock = field(default_factory=Clock)
    chance: Callable[[], float] = random.random
    workers: Callable[[int, Handle[W]], Pool[Chunk[W], Answer[W]]] = Workers
    watchdog: Callable[[float, Callable[[], float]], Watchdog] = Watchdog
    call_within: CallWithin = call_within


class Member(Generic[W]):
    """One member of the group. Everything runs on the thread that calls `run`.

    Any thread may call `stop` and `reload`. `handler` delivers records, `hooks` is told what happens, and `reload`
    applies changed settings.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - each has its own purpose
        self,
        options: Options,
        clients: Clients,
        handler: Handler[W],
        hooks: Hooks,
        reload: Reload,
        around: Surroundings[W],
    ) -> None:
        self._options = options
        self._clients = clients
        self._defence = Defence(handler)
        self._hooks = hooks
        self._reload_settings = reload
        self._around = around
        self._log = around.log
        self._clock = around.clock
        self._workers = around.workers(options.workers, self._handle)
        self._lanes = Lanes[W](
            options.bounds, options.backoff, options.hold_interval, around.chance, around.log, options.workers
        )
        self._continuity = Continuity(
            options.topics,
            clients.describe_topics,
            options.starts_at_end,
            hooks,
            around.clock,
            around.log,
        )
        self._committer = Committer[W](
            lambda: FloodGuard(options.flood_window, options.flood_share),
            handler.brief,
            self._continuity.committed,
            lambda partitions: self._places.ask_ahead(partitions, tried=True),
            options.backoff,
            around.clock,
            around.chance,
            around.log,
        )
        self._refusal: str | None = None
        # Why this member can't join the group.
        self._kept_out: str | None = None
        self._has_joined = False
        self._quiet_until: dict[object, float] = {}
        # Plain values, because a signal handler may set them at any time, even while this thread has a lock.
        self._stopping = False
        self._reloading = False
        # Ask for the ids of the topics now, so that they are known when partitions come.
        self._continuity.watch((), lacks_ids=False)
        self._watchdog: Watchdog
        self._consumer: GroupConsumer
        self._keeper: Keeper
        self._places: Places[W]

    def stop(self) -> None:
        """Ask `run` to finish what is in flight and return; may be called from a signal handler."""
        self._stopping = True

    def reload(self) -> None:
        """Ask to apply changed settings, to retry all that waits, and to release paused topics.

        May be called like `stop`.
        """
        self._reloading = True

    def run(self) -> None:
        """Run until `stop`, once. Raises MemberFailed, TransactionsRefused, and KafkaUnusable at the start.

        Also raises what a hook or the reload raised. In any case the group is left, nothing more is committed, and
        what is committed is safe.
        """
        try:
            while not self._stopping:
                self._join_or_rejoin()
        finally:
            self._workers.stop()
        self._log.info("stopped")

    def _join_or_rejoin(self) -> None:
        try:
            if self._kept_out and self._has_joined:
                self._reload()
            self._join_and_work()
        except Rejoin as reason:
            self._log.warning("rejoining", reason=str(reason))
            self._hooks.rejoining()
            self._clock.sleep(_PAUSE)  # there is no consumer now, so nothing has to poll
        except KafkaUnusable as error:
            if not self._has_joined:
                raise
            # Clients could be made before, so a file may just be written, such as a certificate.
            if self._kept_out != str(error):
                self._kept_out = str(error)
                self._log.warning("rejoining", reason=str(error))
                self._hooks.rejoining()
            self._show()
            self._clock.sleep(_PAUSE)
        except KafkaException as error:
            raise MemberFailed(f"Kafka: {kafka_error(error).str()}") from None

    def _join_and_work(self) -> None:
        options, around = self._options, self._around
        self._refusal = None
        self._consumer = self._clients.consumer(self._on_error, self._hooks.statistics)
        self._keeper = Keeper(self._make_writer, around.clock, around.log, is_static=options.is_static)
        self._places = Places(
            self._consumer, self._lanes, self._continuity, around.clock, self._on_error, around.log
        )
        self._watchdog = around.watchdog(options.longest_silence, around.clock.monotonic)
        self._has_joined = True
        try:
            self._consumer.subscribe(
                [*options.topics, *options.patterns],
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
            while not self._stopping:
                self._turn()
            self._log.info("stopping", in_flight=sum(lane.in_flight for lane in self._lanes))
            self._drain([lane.partition for lane in self._lanes], options.grace_time)
        finally:
            # Chunks still in flight belong to no lane now, so their answers are ignored.
            self._lanes.drop([lane.partition for lane in self._lanes])
            self._watchdog.end()
            self._consumer.close()

    def _turn(self) -> None:
        """Make one turn: records in, chunks back, chunks out, results and offsets committed."""
        if self._watchdog.stood_still:
            raise Rejoin("this process was paused for too long: its partitions may belong to another member now")
        self._reload()
        busy = any(lane.in_flight for lane in self._lanes)
        self._places.watch()
        self._poll(0 if busy else min(_IDLE_WAIT, self._lanes.next_due(self._clock.monotonic())))
        self._have_writer()
        if self._keeper.writer:
            # Only then is the last transaction of our earlier writer settled.
            self._places.find()
        self._take_answers(_BUSY_WAIT if busy else 0)
        for chunk in self._lanes.dispatch(self._clock.monotonic()):
            self._workers.submit(chunk)
        self._commit(self._options.commit_timeout)
        self._control_flow()
        self._show()

    # the writer

    def _make_writer(self) -> Writer:
        around = self._around
        return Writer(
            self._clients.producer(),
            (self._options.results_topic, self._options.dead_letters_topic),
            self._options.group,
            self._hooks,
            around.clock,
            around.call_within,
            self._wait,
        )

    def _have_writer(self) -> None:
        """Start a writer if there is none, once partitions are assigned. Blocks up to the commit timeout.

        The member joins the group first: if another process has its name and the group refuses this one, it must
        not fence the other's writer. Losing a writer does not change the group.
        """
        if not list(self._lanes):
            return
        try:
            self._keeper.have(self._options.commit_timeout)
        except WriterLost as error:
            if not self._stopping:
                self._lose_writer(error)

    def _wait(self, reason: str) -> None:
        """Report what the member waits for in Kafka. A stopping member no longer waits for a writer."""
        topics = (self._options.results_topic, self._options.dead_letters_topic)
        self._show("; ".join((reason, *leaderless(self._consumer, topics))))
        if self._stopping and self._keeper.writer is None:
            raise WriterLost("stopped")

    def _lose_writer(self, error: WriterLost) -> None:
        """Drop all records in memory, and read no more until there is a new writer.

        All partitions are then read again from their committed offsets.
        """
        if self._keeper.lose(error):
            partitions = [lane.partition for lane in self._lanes]
            self._lanes.assign(partitions)
            self._places.read_again(partitions)

    def _reload(self) -> None:
        asked = self._reloading
        if asked:
            self._reloading = False  # only now: a signal may have arrived since `asked` was read
        reloaded = self._reload_settings(asked=asked)
        if reloaded.try_again:
            if waiting := list(self._lanes.gates):
                self._log.info("trying_again", on=waiting)
            self._lanes.try_again(self._clock.monotonic())
            if asked:
                self._committer.release()
                self._continuity.acknowledge()
        if reloaded.reconnect:
            self._drain([lane.partition for lane in self._lanes], self._options.drain_timeout)
            raise Rejoin("the settings of the connection to Kafka changed")

    def _show(self, waiting: str | None = None) -> None:
        """Give the hooks a view of the member. `waiting` says what it waits for in Kafka."""
        now = self._clock.monotonic()
        if self._hooks.is_view_due(now):
            self._hooks.viewed(
                MemberView(
                    now,
                    self._lanes.views(now),
                    self._lanes.gates,
                    self._committer.flooded,
                    waiting or self._keeper.trouble or self._committer.trouble,
                    tuple(self._continuity.losses),
                    self._refusal,
                    self._stopping,
                    (*self._continuity.unreadable.values(), *filter(None, [self._kept_out])),
                )
            )

    # records in

    def _poll(self, timeout: float) -> None:
        if self._take() or not timeout:
            return
        first = self._consumer.poll(timeout)
        if first is not None:  # a message with an empty value is falsy
            self._receive([first])
            self._take()

    def _take(self) -> bool:
        """Take the available records, ten at a time. Returns whether there were any.

        A record with many headers takes much memory, so a lane must be paused soon after it is full.
        """
        for taken in range(0, _MOST_TAKEN, _TAKEN_AT_ONCE):
            messages = self._consumer.consume(_TAKEN_AT_ONCE, 0)
            self._receive(messages)
            if len(messages) < _TAKEN_AT_ONCE:
                return taken > 0 or bool(messages)
            self._control_flow()
        return True

    def _receive(self, messages: Iterable[Message]) -> None:
        received: Counter[str] = Counter()
        for message in messages:
            error = message.error()
            if self._places.unread and to_partition(message) in self._places.unread:
                continue
            if error is None:
                self._refusal = None
                record = to_record(message)
                if not self._continuity.is_done(record):
                    self._lanes.add(record)
                    received[record.topic] += 1
            elif error.code() == KafkaError._PARTITION_EOF:
                self._refusal = None
                end = to_place(message)
                self._lanes.at_end(end.of, end.offset)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                self._places.lacks_offset(to_partition(message), is_cut=says_cut(error))
            elif error.code() == KafkaError._BAD_COMPRESSION:
                self._places.cant_read(to_partition(message), to_place(message).offset, error.str())
            else:
                if not message.topic():
                    self._kept_out = f"this member can't join the group: {error.str()}"
                self._on_error(error)
        if received:
            self._hooks.received(received)

    def _control_flow(self) -> None:
        """Pause lanes that are full, resume those that are half empty."""
        for lane in self._lanes:
            if lane.partition in self._continuity.closing:
                continue
            if lane.is_full and not lane.paused:
                lane.paused = True
                self._consumer.pause([TopicPartition(*lane.partition)])
            elif lane.paused is not False and lane.is_half_empty:
                lane.paused = False
                self._consumer.resume([TopicPartition(*lane.partition)])

    # chunks out and back

    def _handle(self, chunk: Chunk[W]) -> Answer[W]:
        """Let a worker thread handle or prepare a chunk, as long as its lane is ours."""
        if chunk.is_next:
            return self._defence.prepare(chunk)
        watchdog = self._watchdog
        return self._defence.handle(chunk, lambda: self._lanes.has(chunk) and not watchdog.stood_still)

    def _take_answers(self, timeout: float) -> None:
        for answer in self._workers.answers(timeout):
            if isinstance(answer, Raised) and self._is_news((type(answer.error), *answer.at[-1:])):
                self._log.error("handler_raised", reason=answer.trouble.message, at=answer.at)
            for trouble in self._lanes.take(answer, self._clock.monotonic()):
                self._hooks.retried(trouble)

    # results and offsets out

    def _commit(self, within: float) -> None:
        writer = self._keeper.writer
        if writer is None:
            return
        try:
            self._committer.commit(self._lanes, writer, self._consumer.consumer_group_metadata, within)
        except WriterLost as error:
            self._lose_writer(error)

    # the group

    def _on_assign(self, _consumer: object, partitions: list[TopicPartition]) -> None:
        assigned = _partitions(partitions)
        self._kept_out = None
        if not assigned:
            return  # a cooperative rebalance may report no partitions
        self._lanes.assign(assigned)
        self._places.assigned(assigned)
        self._hooks.rebalanced("assigned", assigned)
        self._log.info("assigned", partitions=list(map(str, assigned)))

    def _on_revoke(self, _consumer: object, partitions: list[TopicPartition]) -> None:
        revoked = _partitions(partitions)
        self._drain(revoked, self._options.drain_timeout)
        self._places.forget(revoked)
        self._hooks.rebalanced("revoked", revoked)
        self._log.info("revoked", partitions=list(map(str, revoked)))

    def _on_lost(self, _consumer: object, partitions: list[TopicPartition]) -> None:
        lost = _partitions(partitions)
        self._lanes.drop(lost)
        self._places.forget(lost)
        self._hooks.rebalanced("lost", lost)
        self._log.warning("lost", partitions=list(map(str, lost)))

    def _drain(self, partitions: list[Partition], seconds: float) -> None:
        """Let chunks in flight finish and be committed, within `seconds`; then drop the lanes."""
        deadline = Deadline(seconds, self._clock.monotonic)
        leaving = [lane for lane in self._lanes if lane.partition in partitions]
        while (
            deadline.left
            and self._keeper.writer
            and any(
                lane.in_flight or (lane.finished and lane.partition.topic not in self._committer.flooded)
                for lane in leaving
            )
        ):
            self._take_answers(min(_BUSY_WAIT, deadline.left))
            for chunk in self._lanes.dispatch_pending(partitions):
                self._workers.submit(chunk)
            self._commit(min(self._options.commit_timeout, deadline.left))
            self._show()
        self._lanes.drop(partitions)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:
            raise MemberFailed(f"Kafka: {error.str()}")
        if is_refusal(error):
            self._refusal = error.str()
        # The library continues by itself, and may report the same error at every attempt.
        if self._is_news(error.code()):
            self._log.warning("kafka", error=error.str())

    def _is_news(self, what: object) -> bool:
        """Return whether this was not logged in the last half minute."""
        now = self._clock.monotonic()
        if now < self._quiet_until.get(what, 0.0):
            return False
        self._quiet_until[what] = now + _QUIET_SECONDS
        return True


def _partitions(partitions: Iterable[TopicPartition]) -> list[Partition]:
    return [Partition(partition.topic, partition.partition) for partition in partitions]
