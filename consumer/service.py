"""The main loop of one member: poll, dispatch, commit, revoke, stop.

One thread owns the consumer, the writer and all lanes, without locks. Workers get a chunk and give it back
through a queue. This thread never waits for HTTP, so it always polls in time.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable
from itertools import chain

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from consumer.backoff import Gate
from consumer.chunk import Chunk
from consumer.delivery import Delivery, Done, Retry
from consumer.kafka import make_consumer, make_producer, to_record
from consumer.lane import Lane
from consumer.log import LibraryLog, Logger
from consumer.record import Partition
from consumer.results import Aborted, Deadline, Lost, ResultWriter
from consumer.settings import Settings
from consumer.workers import Workers

_IDLE_WAIT = 0.1
_BUSY_WAIT = 0.005
_POLLED_AT_ONCE = 1000


class Fatal(Exception):
    """The member can't go on; its place is kept by what is committed. The sentence says why."""


class Service:
    """One member of the consumer group. All is of one thread, but `stop`, which any may call."""

    def __init__(
        self,
        settings: Settings,
        delivery: Delivery,
        log: Logger,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._log = log
        self._clock = clock
        self._chance = chance
        self._workers: Workers[Chunk, Done | Retry] = Workers(settings.stream.workers, delivery.deliver)
        self._lanes: dict[Partition, Lane] = {}
        self._gates: dict[str, Gate] = {}
        self._epoch = 0
        self._commit_due = 0.0
        self._commit_failures = 0
        self._stopping = threading.Event()
        self._consumer: Consumer
        self._writer: ResultWriter

    def stop(self) -> None:
        """Ask `run` to finish what is in flight and return; may be called from a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Run until `stop`; raises Fatal, Refused, Unusable."""
        self._log.info("started", topics=self._settings.input_topics, group=self._settings.kafka["group.id"])
        while not self._stopping.is_set():
            try:
                self._be_member()
            except Lost as error:
                # What is in flight is dropped: the committed offsets tell where to go on.
                self._log.warning("rejoining", reason=str(error))
                self._stopping.wait(self._settings.stream.backoff_first)
        self._workers.stop()
        self._log.info("stopped")

    def _be_member(self) -> None:
        settings, library_log = self._settings, LibraryLog(self._log)
        producer = make_producer(settings.producer, library_log)
        stream = settings.stream
        self._writer = ResultWriter(
            producer, stream.results_topic, stream.dead_letters_topic, stream.commit_timeout
        )
        self._writer.start()
        self._consumer = make_consumer(settings.consumer, library_log, error_cb=self._on_error)
        try:
            self._consumer.subscribe(
                settings.input_topics,
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
            while not self._stopping.is_set():
                self._turn()
            self._log.info("stopping", in_flight=sum(lane.in_flight for lane in self._lanes.values()))
            self._drain(list(self._lanes.values()), Deadline(stream.grace_time, self._clock))
        finally:
            # What is still in flight is nobody's now: its answers will find no lane.
            self._lanes.clear()
            self._gates.clear()
            self._consumer.close()

    def _turn(self) -> None:
        """Go once round: records in, chunks back, chunks out, results and offsets committed."""
        busy = any(lane.in_flight or lane.finished for lane in self._lanes.values())
        self._poll(0 if busy else self._idle_wait())
        self._take_answers(_BUSY_WAIT if busy else 0)
        self._dispatch()
        self._commit()
        self._control_flow()

    # records in

    def _poll(self, timeout: float) -> None:
        try:
            messages = self._consumer.consume(_POLLED_AT_ONCE, 0)
            if not messages and timeout:
                first = self._consumer.poll(timeout)
                if first is not None:  # a message of an empty value is falsy, and is one all the same
                    messages = [first, *self._consumer.consume(_POLLED_AT_ONCE, 0)]
        except KafkaException as error:
            raise Fatal(f"Kafka: {error.args[0].str()}") from None
        for message in messages:
            if fault := message.error():
                self._on_error(fault)
                continue
            record = to_record(message)
            lane = self._lanes.get((record.topic, record.partition))
            if lane:
                lane.add(record)

    def _idle_wait(self) -> float:
        now = self._clock()
        dues = [lane.due for lane in self._lanes.values() if lane.has_work]
        dues += [gate.due for gate in self._gates.values()]
        return max(0.0, min([_IDLE_WAIT, *(due - now for due in dues if due > now)]))

    def _control_flow(self) -> None:
        """Pause lanes over their bounds, resume those under half of them."""
        for lane in self._lanes.values():
            if lane.is_full and not lane.paused:
                lane.paused = True
                self._consumer.pause([TopicPartition(*lane.partition)])
            elif lane.paused and lane.is_half_empty:
                lane.paused = False
                self._consumer.resume([TopicPartition(*lane.partition)])

    # chunks out and back

    def _dispatch(self) -> None:
        now = self._clock()
        for lane in self._lanes.values():
            if lane.has_work and self._may_go(lane, now):
                self._workers.submit(lane.dispatch())

    def _may_go(self, lane: Lane, now: float) -> bool:
        if lane.waits_for is None and lane.goes_to in self._gates and self._gates[lane.goes_to].is_firm:
            # Its site is known to be down: it waits with the others, and need not find out by itself.
            lane.waits_for = lane.goes_to
            self._gates[lane.goes_to].join(lane.partition)
        gate = self._gates.get(lane.waits_for) if lane.waits_for else None
        return gate.admits(lane.partition, now) if gate else now >= lane.due

    def _take_answers(self, timeout: float) -> None:
        for answer in self._workers.answers(timeout):
            lane = self._lanes.get(answer.chunk.partition)
            if lane is None or lane.epoch != answer.chunk.epoch:
                continue  # its partition was taken away meanwhile: the next owner delivers it again
            for name in answer.served:
                self._open(name)
            match answer:
                case Done(_, outputs, served):
                    if lane.waits_for:
                        self._open(lane.waits_for)
                    lane.goes_to = next(iter(served)) if len(served) == 1 else None
                    lane.finish(outputs)
                case Retry():
                    self._retry(lane, answer)

    def _retry(self, lane: Lane, answer: Retry) -> None:
        now, trouble, backoff = self._clock(), answer.trouble, self._settings.backoff
        if lane.waits_for not in (None, trouble.waits_for):
            self._leave_gate(lane)
        if trouble.waits_for in answer.served:
            # It serves the rest: only this chunk waits, and not the longer for what it has behind it.
            if not trouble.isolating:
                lane.failures = 0
            due = now + backoff.delay(lane.failures + 1, trouble.retry_after, self._chance)
            lane.retry(due, None, isolating=trouble.isolating)
            return

        def next_due(failures: int) -> float:
            if trouble.held:
                return now + self._settings.stream.hold_interval
            return now + backoff.delay(failures, trouble.retry_after, self._chance)

        gate = self._gates.get(trouble.waits_for)
        if gate is None:
            gate = self._gates[trouble.waits_for] = Gate(now)
            self._log.warning(
                "held" if trouble.held else "waiting",
                on=trouble.waits_for,
                cause=trouble.cause,
                reason=trouble.problem,
            )
        firm = trouble.held or trouble.retry_after is not None
        gate.failed(lane.partition, next_due, firm=firm)
        own_due = now + backoff.delay(lane.failures + 1, trouble.retry_after, self._chance)
        lane.retry(own_due, trouble.waits_for, isolating=trouble.isolating)

    def _open(self, name: str) -> None:
        """Let all lanes that waited for this go on at once: it serves again."""
        gate = self._gates.pop(name, None)
        if gate is None:
            return
        self._log.info("resumed", on=name, after_seconds=round(self._clock() - gate.since, 3))
        for lane in self._lanes.values():
            if lane.waits_for == name:
                lane.resume()

    def _leave_gate(self, lane: Lane) -> None:
        name = lane.waits_for
        lane.waits_for = None
        if name in self._gates and not self._gates[name].leave(lane.partition):
            del self._gates[name]

    # results and offsets out

    def _commit(self) -> None:
        """Write all that is finished, with its offsets, in one transaction; an aborted one is written again."""
        lanes = [lane for lane in self._lanes.values() if lane.finished]
        if not lanes or self._clock() < self._commit_due:
            return
        outputs = list(chain.from_iterable(lane.finished for lane in lanes))
        offsets = {lane.partition: lane.offset for lane in lanes}
        try:
            self._writer.write(outputs, offsets, self._consumer.consumer_group_metadata())
        except Aborted as error:
            self._commit_failures += 1
            delay = self._settings.backoff.delay(self._commit_failures, None, self._chance)
            self._commit_due = self._clock() + delay
            self._log.warning("commit_aborted", reason=str(error), records=len(outputs))
            return
        self._commit_failures = 0
        for lane in lanes:
            lane.committed()

    # the group

    def _on_assign(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._epoch += 1
        for partition in _pairs(partitions):
            self._lanes[partition] = Lane(partition, self._epoch, self._settings.bounds)
        self._log.info("assigned", partitions=_names(partitions), epoch=self._epoch)

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        revoked = [self._lanes[partition] for partition in _pairs(partitions) if partition in self._lanes]
        self._drain(revoked, Deadline(self._settings.stream.drain_timeout, self._clock))
        self._log.info("revoked", partitions=_names(partitions))

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._drop([self._lanes[partition] for partition in _pairs(partitions) if partition in self._lanes])
        self._log.warning("lost", partitions=_names(partitions))

    def _drain(self, lanes: list[Lane], deadline: Deadline) -> None:
        """Let chunks in flight finish and be committed, up to the deadline; then drop the lanes."""
        while deadline.left and any(lane.in_flight or lane.finished for lane in lanes):
            self._take_answers(min(_BUSY_WAIT, deadline.left))
            self._commit()
        self._drop(lanes)

    def _drop(self, lanes: Iterable[Lane]) -> None:
        for lane in lanes:
            self._leave_gate(lane)
            del self._lanes[lane.partition]

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            raise Fatal(f"Kafka: {error.str()}")
        self._log.warning("kafka", error=error.str())  # the library goes on by itself


def _pairs(partitions: Iterable[TopicPartition]) -> list[Partition]:
    return [(partition.topic, partition.partition) for partition in partitions]


def _names(partitions: Iterable[TopicPartition]) -> list[str]:
    return [f"{topic}/{number}" for topic, number in _pairs(partitions)]
