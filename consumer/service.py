"""The main loop of one member: poll, dispatch, commit, revoke, stop.

One thread owns the consumer, the writer and all lanes, without locks. Workers get a chunk and give it back
through a queue. This thread never waits for HTTP, so it always polls in time.
"""

import random
import time
from collections import Counter
from collections.abc import Iterable
from itertools import chain

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumer.chunk import Chunk
from consumer.delivery import Delivery, Done, Retry
from consumer.flood import FloodGuard
from consumer.kafka import make_admin, make_consumer, make_producer, to_record
from consumer.lanes import Lanes
from consumer.log import LibraryLog, Logger
from consumer.observer import Observer
from consumer.pulse import Pulse
from consumer.record import Partition
from consumer.results import Aborted, Deadline, Fenced, Lost, ResultWriter
from consumer.settings import Settings, SettingsError, Source
from consumer.telemetry.metrics import Metrics
from consumer.telemetry.statistics import LogEnds, read_statistics
from consumer.telemetry.status import Status
from consumer.workers import Workers

_IDLE_WAIT = 0.1
_BUSY_WAIT = 0.005
_POLLED_AT_ONCE = 1000
_REJOIN_PAUSE = 0.5
_QUIET_SECONDS = 30.0
_ENDS_INTERVAL = 1.0
_NOT_ASSIGNED = "no partition is assigned"


class Fatal(Exception):
    """The member can't go on; its place is kept by what is committed. The sentence says why."""


class Service:
    """One member of the consumer group. All is of one thread, but `stop` and `reload`, which any may call.

    `source` is where the settings came from: they are read again when it changed, or on `reload`. Of those
    only credentials and parameters change in place.
    """

    def __init__(
        self, settings: Settings, source: Source, delivery: Delivery, metrics: Metrics, log: Logger
    ) -> None:
        self._settings = settings
        self._source = source
        self._delivery = delivery
        self._metrics = metrics
        self._log = log
        stream = settings.stream
        self._workers: Workers[Chunk, Done | Retry] = Workers(stream.workers, self._deliver)
        self._lanes = Lanes(settings.bounds, settings.backoff, stream.hold_interval, random.random, log)
        self._flood = FloodGuard(stream.flood_window, stream.flood_share)
        self._commit_due = 0.0
        self._ends_due = 0.0
        self._commit_failures = 0
        self._commit_problem: str | None = None
        self._quiet_until: dict[int, float] = {}
        # Plain values: a signal's handler may set them while this thread is anywhere, also in a lock.
        self._stopping = False
        self._reloading = False
        self._observer = Observer()
        self._log_ends = LogEnds(lambda: make_admin(settings.client("ends"), LibraryLog(log)))
        self._status = Status(time.monotonic(), (_NOT_ASSIGNED,))
        self._pulse: Pulse
        self._consumer: Consumer
        self._writer: ResultWriter

    def stop(self) -> None:
        """Ask `run` to finish what is in flight and return; may be called from a signal handler."""
        self._stopping = True

    def reload(self) -> None:
        """Ask for the settings to be read again, and for all that is held to be tried; as `stop`."""
        self._reloading = True

    @property
    def status(self) -> Status:
        """How the member is, as of its last turn; any thread may ask."""
        return self._status

    def run(self) -> None:
        """Run until `stop`; raises Fatal, Refused, Unusable."""
        self._log.info(
            "started",
            topics=self._settings.input_topics,
            group=self._settings.kafka["group.id"],
            transactional_id=self._settings.producer["transactional.id"],
        )
        while not self._stopping:
            try:
                self._be_member()
            except Fenced as error:
                if "group.instance.id" in self._settings.kafka:
                    # To rejoin would fence the member that replaced this one, and so on for ever.
                    raise Fatal(f"another member has the same KAFKA_GROUP_INSTANCE_ID: {error}") from None
                self._rejoin(error)
            except Lost as error:
                self._rejoin(error)
            except KafkaException as error:
                raise Fatal(f"Kafka: {error.args[0].str()}") from None
        self._workers.stop()
        self._log.info("stopped")

    def _rejoin(self, reason: Lost) -> None:
        """Begin anew: what is in flight is dropped, and the committed offsets tell where to go on."""
        self._log.warning("rejoining", reason=str(reason))
        self._metrics.rejoined()
        time.sleep(_REJOIN_PAUSE)  # there is no consumer now that would have to poll

    def _be_member(self) -> None:
        settings, library_log = self._settings, LibraryLog(self._log)
        stream = settings.stream
        producer = make_producer(settings.producer, library_log)
        self._writer = ResultWriter(producer, stream.results_topic, stream.dead_letters_topic, self._metrics)
        self._writer.start(stream.commit_timeout)
        self._consumer = make_consumer(
            settings.consumer, library_log, error_cb=self._on_error, stats_cb=self._on_statistics
        )
        self._pulse = Pulse(settings.longest_silence)
        try:
            self._consumer.subscribe(
                settings.input_topics,
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
            while not self._stopping:
                self._turn()
            self._log.info("stopping", in_flight=sum(lane.in_flight for lane in self._lanes))
            self._drain([lane.partition for lane in self._lanes], Deadline(stream.grace_time))
        finally:
            # What is still in flight is nobody's now: its answers will find no lane.
            self._lanes.drop([lane.partition for lane in self._lanes])
            self._pulse.end()
            self._consumer.close()

    def _turn(self) -> None:
        """Go once round: records in, chunks back, chunks out, results and offsets committed."""
        if self._pulse.stood_still:
            raise Lost("this process stood still for longer than the session: its partitions may be another's")
        if self._reloading or self._source.has_changed():
            self._reload()
        busy = any(lane.in_flight or lane.finished for lane in self._lanes)
        self._poll(0 if busy else min(_IDLE_WAIT, self._lanes.next_due(time.monotonic())))
        self._take_answers(_BUSY_WAIT if busy else 0)
        for chunk in self._lanes.dispatch(time.monotonic()):
            self._workers.submit(chunk)
        self._commit(self._settings.stream.commit_timeout)
        self._control_flow()
        self._look()

    def _look(self) -> None:
        """Say how the member is, to those outside."""
        now = time.monotonic()
        self._observer.note_ends(self._log_ends.answers())
        lanes = self._observer.look(
            self._lanes, now, flooded=self._flood.holds, commit_problem=self._commit_problem
        )
        self._status = Status(now, self._not_ready(), lanes, self._observer.brokers, is_stopping=self._stopping)

    def _not_ready(self) -> tuple[str, ...]:
        reasons = [f"{name}: {problem}" for name, problem in self._lanes.waiting_for.items()]
        if self._flood.holds:
            reasons.append("dead letters: too many of the last records; SIGHUP lets them through")
        if self._commit_problem:
            reasons.append(f"results can't be committed: {self._commit_problem}")
        if not any(True for _ in self._lanes):
            reasons.append(_NOT_ASSIGNED)
        return tuple(reasons)

    # records in

    def _poll(self, timeout: float) -> None:
        messages = self._consumer.consume(_POLLED_AT_ONCE, 0)
        self._receive(messages)
        if timeout and not messages:
            first = self._consumer.poll(timeout)
            if first is not None:  # a message of an empty value is falsy, and is one all the same
                self._receive([first])
                self._receive(self._consumer.consume(_POLLED_AT_ONCE, 0))

    def _receive(self, messages: Iterable[Message]) -> None:
        received: Counter[str] = Counter()
        for message in messages:
            fault = message.error()
            if fault is None:
                record = to_record(message)
                self._lanes.add(record)
                received[record.topic] += 1
            elif fault.code() == KafkaError._PARTITION_EOF:
                self._lanes.at_end((message.topic() or "", message.partition() or 0), message.offset() or 0)
            else:
                self._on_error(fault)
        self._metrics.received(received)

    def _control_flow(self) -> None:
        """Pause lanes over their bounds, resume those under half of them."""
        for lane in self._lanes:
            if lane.is_full and not lane.paused:
                lane.paused = True
                self._consumer.pause([TopicPartition(*lane.partition)])
            elif lane.paused and lane.is_half_empty:
                lane.paused = False
                self._consumer.resume([TopicPartition(*lane.partition)])

    # chunks out and back

    def _deliver(self, chunk: Chunk) -> Done | Retry:
        """Deliver a chunk, in a worker's thread, for as long as its lane is ours."""
        pulse = self._pulse
        return self._delivery.deliver(chunk, lambda: self._lanes.has(chunk) and not pulse.stood_still)

    def _take_answers(self, timeout: float) -> None:
        for answer in self._workers.answers(timeout):
            self._lanes.take(answer, time.monotonic())

    # results and offsets out

    def _commit(self, within: float) -> None:
        """Write all that is finished, with its offsets, in one transaction; an aborted one is written again.

        After an abort each lane has a transaction of its own, so that what can't be written stops only its lane.
        """
        now = time.monotonic()
        if self._flood.holds:
            return
        lanes = [
            lane for lane in self._lanes if lane.finished or (now >= self._ends_due and lane.offset is not None)
        ]
        if not lanes or now < self._commit_due:
            return
        if now >= self._ends_due:
            self._ends_due = now + _ENDS_INTERVAL
        deadline = Deadline(within)
        problem = None
        for part in [[lane] for lane in lanes] if self._commit_failures else [lanes]:
            outputs = list(chain.from_iterable(lane.finished for lane in part))
            letters = [output.dead_letter is not None for output in outputs]
            if not self._flood.admits(letters):
                self._say_flood(sum(letters), len(letters))
                break
            offsets = {lane.partition: lane.offset for lane in part if lane.offset is not None}
            try:
                self._writer.write(outputs, offsets, self._consumer.consumer_group_metadata(), deadline)
            except Aborted as error:
                problem = str(error)
                self._log.warning("commit_aborted", reason=problem, records=len(outputs))
                continue
            self._flood.note(letters)
            for lane in part:
                lane.committed()
        self._commit_problem = problem
        self._commit_failures = 0 if problem is None else self._commit_failures + 1
        if problem is not None:
            delay = self._settings.backoff.delay(self._commit_failures, None, random.random)
            self._commit_due = time.monotonic() + delay

    def _say_flood(self, letters: int, records: int) -> None:
        self._log.error(
            "held",
            on="dead letters",
            cause="flood",
            reason=f"too many dead letters: {letters} of the next {records} records; mend what is upstream, "
            "or send SIGHUP to let them through",
        )

    # settings

    def _reload(self) -> None:
        """Take over mended settings in place, and try at once what was held."""
        self._reloading = False
        try:
            self._delivery.use(self._source.load().defaults)
        except SettingsError as error:
            self._log.error("settings_refused", faults=error.faults)
            return
        self._flood.release()
        self._lanes.try_again(time.monotonic())
        self._log.info("settings_reloaded")

    # the group

    def _on_assign(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._lanes.assign(_pairs(partitions))
        self._metrics.rebalanced("assigned")
        self._log.info("assigned", partitions=_names(partitions))

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._drain(_pairs(partitions), Deadline(self._settings.stream.drain_timeout))
        self._metrics.rebalanced("revoked")
        self._log.info("revoked", partitions=_names(partitions))

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._lanes.drop(_pairs(partitions))
        self._metrics.rebalanced("lost")
        self._log.warning("lost", partitions=_names(partitions))

    def _drain(self, partitions: list[Partition], deadline: Deadline) -> None:
        """Let chunks in flight finish and be committed, up to the deadline; then drop the lanes."""
        leaving = [lane for lane in self._lanes if lane.partition in partitions]
        while deadline.left and any(
            lane.in_flight or (lane.finished and not self._flood.holds) for lane in leaving
        ):
            self._take_answers(min(_BUSY_WAIT, deadline.left))
            self._commit(min(self._settings.stream.commit_timeout, deadline.left))
            self._look()
        self._lanes.drop(partitions)

    # what the library tells

    def _on_statistics(self, text: str) -> None:
        self._observer.note(read_statistics(text))
        self._log_ends.ask([lane.partition for lane in self._lanes if lane.paused])

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:
            raise Fatal(f"Kafka: {error.str()}")
        # The library goes on by itself, and may say the same at every try.
        if time.monotonic() >= self._quiet_until.get(error.code(), 0.0):
            self._quiet_until[error.code()] = time.monotonic() + _QUIET_SECONDS
            self._log.warning("kafka", error=error.str())


def _pairs(partitions: Iterable[TopicPartition]) -> list[Partition]:
    return [(partition.topic, partition.partition) for partition in partitions]


def _names(partitions: Iterable[TopicPartition]) -> list[str]:
    return [f"{topic}/{number}" for topic, number in _pairs(partitions)]
