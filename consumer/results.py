"""The transactional writer: results, dead letters and offsets go to Kafka together, or not at all."""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from consumer.record import Again, DeadLetter, Output, Partition, Record
from consumer.telemetry.metrics import Metrics

Group = Any
"""The group's metadata as the consumer gives it (opaque): by it the broker fences stale members (KIP-447)."""


_ABORTED_WITHIN = 10.0
_PAUSE = 0.1
_FENCED = (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH)


class Aborted(Exception):
    """Nothing was written; the same outputs may be written again. The sentence says why."""


class Lost(Exception):
    """The writer can't go on, or can't know how its transaction ended.

    A new writer with the same transactional id settles the old transaction, and the committed offsets then
    tell where to go on.
    """


class Fenced(Lost):
    """Another writer has taken our transactional id over, or the broker ended a transaction that took too long."""


class Refused(Exception):
    """The broker will not let us write as we are set up; the sentence says why."""


class Deadline:
    """One bound in time, shared by all steps of an operation."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    @property
    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - self._clock())


class ResultWriter:
    """Writes outputs; called by the thread that polls, and by no other.

    `epoch_ms` tells the time that dead letters carry.
    """

    def __init__(
        self,
        producer: Producer,
        results_topic: str,
        dead_letters_topic: str,
        metrics: Metrics,
        epoch_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._producer = producer
        self._results_topic = results_topic
        self._dead_letters_topic = dead_letters_topic
        self._metrics = metrics
        self._epoch_ms = epoch_ms

    def start(self, timeout: float) -> None:
        """Take the transactional id over: an earlier holder is fenced, its open transaction ended.

        Blocks up to the timeout, in seconds. Raises Lost where it may pass, else Refused.
        """
        try:
            self._repeated(self._producer.init_transactions, Deadline(timeout))
        except KafkaException as error:
            if _kafka_error(error).retriable():
                raise Lost(_sentence(error)) from None
            raise Refused(f"Kafka refuses transactions to this client: {_sentence(error)}") from None

    def write(
        self, outputs: Sequence[Output], offsets: Mapping[Partition, int], group: Group, deadline: Deadline
    ) -> None:
        """Write outputs and commit offsets (next to read) in one transaction; raises Aborted or Lost.

        Blocks up to the deadline, and for the abort, if there is one, some seconds more.

        1. Begin. 2. Produce every result and dead letter. 3. Add the group's offsets. 4. Commit, which waits
        until the brokers have all of it. If a step fails the transaction is aborted. Without offsets the third
        step is left out.
        """
        begun = time.monotonic()
        try:
            self._producer.begin_transaction()
            for output in outputs:
                self._fill(output, deadline)
            positions = [TopicPartition(topic, number, offset) for (topic, number), offset in offsets.items()]
            if positions:
                self._repeated(self._send_offsets, deadline, positions, group)
        except (KafkaException, BufferError) as error:
            raise self._aborted(error) from None
        try:
            self._repeated(self._producer.commit_transaction, deadline)
        except KafkaException as error:
            if _kafka_error(error).txn_requires_abort():
                raise self._aborted(error) from None
            # Without an answer to the commit it may have been done or not.
            raise _lost(error) from None
        letters = [output.dead_letter.kind for output in outputs if output.dead_letter]
        self._metrics.committed(len(outputs), letters, time.monotonic() - begun)

    def _send_offsets(self, positions: list[TopicPartition], group: Group, timeout: float) -> None:
        """Add the offsets to the transaction; raises Lost where the library does not come back.

        It does not keep to the timeout if the group's coordinator goes away (confluentinc/librdkafka#5456), and
        may never return. So it is called in a thread that can be left behind, with its producer.
        """
        # As in `workers`: a SimpleQueue's wait may become endless by a signal.
        outcome: queue.Queue[KafkaException | None] = queue.Queue()

        def call() -> None:
            try:
                self._producer.send_offsets_to_transaction(positions, group, timeout)
                outcome.put(None)
            except KafkaException as error:
                outcome.put(error)

        threading.Thread(target=call, name="send-offsets", daemon=True).start()
        try:
            error = outcome.get(timeout=timeout + _PAUSE)
        except queue.Empty:
            raise Lost("the client library does not come back from adding offsets to the transaction") from None
        if error:
            raise error

    def _fill(self, output: Output, deadline: Deadline) -> None:
        self._produce(deadline, self._results_topic, output.record.key, output.result, [])
        if output.dead_letter:
            headers = [*output.record.headers, *_headers(output.record, output.dead_letter, self._epoch_ms())]
            self._produce(deadline, self._dead_letters_topic, output.record.key, output.record.value, headers)

    def _produce(
        self,
        deadline: Deadline,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, str | bytes | None]],
    ) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, headers=headers)
            except BufferError:
                if not deadline.left:
                    raise
                self._producer.poll(min(_PAUSE, deadline.left))  # the queue is full: let it drain
            else:
                return

    def _repeated(self, step: Callable[..., object], deadline: Deadline, *args: object) -> None:
        """Call a step again as long as its error may pass and there is time."""
        while True:
            try:
                step(*args, deadline.left)
            except KafkaException as error:
                if not (_kafka_error(error).retriable() and deadline.left):
                    raise
                self._producer.poll(min(_PAUSE, deadline.left))
            else:
                return

    def _aborted(self, cause: KafkaException | BufferError) -> Aborted | Lost:
        """Abort the transaction, and give the exception to raise for it."""
        if isinstance(cause, KafkaException) and _kafka_error(cause).fatal():
            return _lost(cause)
        try:
            self._repeated(self._producer.abort_transaction, Deadline(_ABORTED_WITHIN))
        except KafkaException as error:
            return Lost(f"{_sentence(cause)}; nor could the transaction be aborted: {_sentence(error)}")
        self._metrics.aborted()
        return Aborted(_sentence(cause))


def _headers(record: Record, letter: DeadLetter, now_ms: int) -> list[tuple[str, str | bytes | None]]:
    """Give what a dead letter's headers say beside the record's own."""
    again = record.again or Again()
    said = {
        "reason": letter.reason,
        "kind": letter.kind,
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "timestamp": str(record.timestamp),
        "attempts": str(again.attempts + letter.attempts),
        "time": str(now_ms),
    }
    if again.replay:
        said["replay"] = again.replay
    if again.redrive:
        said |= {"redrive": again.redrive, "redrives": str(again.redrives + 1)}
    return [(f"dlq.{name}", value.encode()) for name, value in said.items()]


def _lost(cause: KafkaException) -> Lost:
    kind = Fenced if _kafka_error(cause).code() in _FENCED else Lost
    return kind(f"the transaction's end is not known: {_sentence(cause)}")


def _kafka_error(error: KafkaException) -> KafkaError:
    kafka_error: KafkaError = error.args[0]
    return kafka_error


def _sentence(error: KafkaException | BufferError) -> str:
    return _kafka_error(error).str() if isinstance(error, KafkaException) else str(error)
