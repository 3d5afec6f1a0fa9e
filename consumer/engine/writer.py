"""The transactional writer: results, dead letters and offsets go to Kafka together, or not at all."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from consumer.engine.deadline import Clock, Deadline
from consumer.engine.errors import Aborted, TransactionsRefused, WriterFenced, WriterLost
from consumer.engine.kafka import GroupMetadata, TransactionalProducer, kafka_error
from consumer.engine.ports import Hooks
from consumer.engine.records import DeadLetter, Output, Partition, Record, Redelivery
from consumer.engine.workers import CallTimeout, call_within

CallWithin = Callable[[float, Callable[[], None], Callable[[], None]], None]

_ABORTED_WITHIN = 10.0
_PAUSE = 0.1
# Calls of the library are repeated every second, so that the member can report what it waits for.
_SLICE = 1.0
_TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.RECORD_LIST_TOO_LARGE)
_PURGED = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)
_FENCED = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)


class _Refusal(NamedTuple):
    """Why an output was refused, its topic, and what to do about it (empty if nothing helps)."""

    error: KafkaError
    topic: str
    fix: str


class Writer:
    """Writes outputs to the two `topics`, of results and of dead letters. Only the polling thread may call it.

    `group` is the name of the consumer group, for the headers of dead letters. `call` limits the seconds of a call
    that may never return. `waiting` is called about once a second while Kafka does not answer, with a sentence that
    says what the writer waits for, and how long it has waited.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - each has its own purpose
        self,
        producer: TransactionalProducer,
        topics: tuple[str, str],
        group: str,
        hooks: Hooks,
        clock: Clock,
        call: CallWithin = call_within,
        waiting: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._producer = producer
        self._results_topic, self._dead_letters_topic = topics
        self._group = group
        self._hooks = hooks
        self._clock = clock
        self._call = call
        self._waiting = waiting
        self._begun = 0.0
        self._refusal: _Refusal | None = None

    def start(self, timeout: float) -> None:
        """Take over the transactional id: an earlier holder is fenced, and its open transaction ends.

        Blocks up to the timeout, in seconds. Raises WriterLost if a retry may help, WriterFenced if another writer
        took over meanwhile, else TransactionsRefused.
        """
        self._begun = self._clock.monotonic()
        try:
            self._repeated(self._producer.init_transactions, self._deadline(timeout))
        except KafkaException as error:
            if kafka_error(error).retriable() or _is_fenced(error):
                raise _lost(error, _sentence(error)) from None
            raise TransactionsRefused(f"Kafka refuses transactions to this client: {_sentence(error)}") from None

    def _deadline(self, seconds: float) -> Deadline:
        return Deadline(seconds, self._clock.monotonic)

    def write(
        self,
        outputs: Sequence[Output],
        offsets: Mapping[Partition, int],
        group: GroupMetadata,
        deadline: Deadline,
        ahead: Mapping[Partition, str] | None = None,
    ) -> None:
        """Write outputs and commit offsets (next to read) in one transaction; raises Aborted or WriterLost.

        `ahead` has the metadata of the offsets. Blocks up to the deadline; an abort may take some seconds more.

        1. Begin. 2. Produce every result and dead letter. 3. Add the group's offsets. 4. Commit, which waits
        until the brokers have all of it. If a step fails the transaction is aborted. Without offsets the third
        step is left out.
        """
        self._begun = self._clock.monotonic()
        self._refusal = None
        try:
            self._producer.begin_transaction()
            for output in outputs:
                self._fill(output, deadline)
            positions = [
                TopicPartition(*partition, offset, (ahead or {}).get(partition, ""))
                for partition, offset in offsets.items()
            ]
            if positions:
                self._send_offsets(positions, group, deadline)
        except (KafkaException, BufferError) as error:
            raise self._aborted(error) from None
        try:
            self._repeated(self._producer.commit_transaction, deadline)
        except KafkaException as error:
            if kafka_error(error).txn_requires_abort():
                raise self._aborted(error) from None
            # A commit without an answer may or may not have succeeded.
            raise _end_unknown(error) from None
        self._hooks.committed(outputs, self._clock.monotonic() - self._begun)

    def _send_offsets(self, positions: list[TopicPartition], group: GroupMetadata, deadline: Deadline) -> None:
        """Add the offsets to the transaction. Raises WriterLost if the library does not return.

        The library ignores the timeout if the group's coordinator goes away (confluentinc/librdkafka#5456), and may
        never return. So the call runs in a thread that can be abandoned together with its producer.
        """
        while True:
            seconds = deadline.left
            send = partial(self._producer.send_offsets_to_transaction, positions, group, seconds)
            try:
                self._call(seconds + _PAUSE, send, self._tell)
            except CallTimeout:
                raise WriterLost("the client library hangs while it adds offsets to the transaction") from None
            except KafkaException as error:
                self._go_on_after(error, deadline)
            else:
                return

    def _fill(self, output: Output, deadline: Deadline) -> None:
        self._produce(deadline, self._results_topic, output.result_key, output.result, list(output.result_headers))
        if output.dead_letter:
            record, now_ms = output.record, self._clock.epoch_ms()
            headers = [*record.headers, *_headers(record, output.dead_letter, self._group, now_ms)]
            self._produce(deadline, self._dead_letters_topic, record.key, record.value, headers)

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
                self._producer.produce(topic, value, key, headers=headers, on_delivery=self._delivered)
            except KafkaException as error:
                if kafka_error(error).code() in _TOO_LARGE:  # the library itself refuses it
                    self._refusal = _Refusal(
                        kafka_error(error), topic, "raise KAFKA_MESSAGE_MAX_BYTES, or remove it"
                    )
                raise
            except BufferError:
                if not deadline.left:
                    raise
                self._producer.poll(min(_PAUSE, deadline.left))  # the queue is full: let it drain
                self._tell()
            else:
                return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        """Note the first refusal in a transaction: the library's error for the transaction does not contain it."""
        if error and not self._refusal and error.code() not in _PURGED:
            topic, fix = message.topic() or "", ""
            if error.code() in _TOO_LARGE:
                fix = f"raise max.message.bytes of {topic}"
            elif error.code() == KafkaError.INVALID_RECORD:  # a compacted topic refuses records without a key
                fix = f"set cleanup.policy=delete for {topic}"
            self._refusal = _Refusal(error, topic, fix)

    def _repeated(self, step: Callable[[float], object], deadline: Deadline) -> None:
        """Repeat a step as long as its error is transient and there is time."""
        while True:
            try:
                step(min(_SLICE, deadline.left))
            except KafkaException as error:
                self._go_on_after(error, deadline)
            else:
                return

    def _go_on_after(self, error: KafkaException, deadline: Deadline) -> None:
        """Wait a moment before a step is repeated. Raises the error if a repetition can't help."""
        if not (kafka_error(error).retriable() and deadline.left):
            raise error
        self._producer.poll(min(_PAUSE, deadline.left))
        self._tell()

    def _tell(self) -> None:
        seconds = int(self._clock.monotonic() - self._begun)
        if seconds:
            self._waiting(f"Kafka: the transaction has been waiting for {seconds} s")

    def _aborted(self, cause: KafkaException | BufferError) -> Aborted | WriterLost:
        """Abort the transaction, and return the exception to raise."""
        if isinstance(cause, KafkaException) and kafka_error(cause).fatal():
            return _end_unknown(cause)
        try:
            self._repeated(self._producer.abort_transaction, self._deadline(_ABORTED_WITHIN))
        except KafkaException as error:
            return _lost(error, f"{_sentence(cause)}; the abort failed too: {_sentence(error)}")
        self._hooks.aborted()
        if self._refusal is None:
            return Aborted(_sentence(cause))
        refusal, topic, fix = self._refusal
        return Aborted("; ".join(filter(None, (f"{topic}: {refusal.str()}", fix))), is_refused=bool(fix))


def _headers(record: Record, letter: DeadLetter, group: str, now_ms: int) -> list[tuple[str, str | bytes | None]]:
    """Return the headers of a dead letter that are added to the record's own."""
    again = record.redelivery or Redelivery()
    said = {
        "reason": letter.reason,
        "kind": letter.kind,
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "timestamp": str(record.timestamp),
        "attempts": str(again.attempts + letter.attempts),
        "time": str(now_ms),
        "group": group,
    }
    if record.missing:
        said["missing"] = record.missing
    if again.replay:
        said["replay"] = again.replay
    if again.redrive:
        said |= {"redrive": again.redrive, "redrives": str(again.redrives + 1)}
    return [(f"dlq.{name}", value.encode()) for name, value in said.items()]


def _is_fenced(error: KafkaException) -> bool:
    return kafka_error(error).code() in _FENCED


def _lost(error: KafkaException, sentence: str) -> WriterLost:
    return WriterFenced(sentence) if _is_fenced(error) else WriterLost(sentence)


def _end_unknown(error: KafkaException) -> WriterLost:
    return _lost(error, f"the transaction's outcome is unknown: {_sentence(error)}")


def _sentence(error: KafkaException | BufferError) -> str:
    return kafka_error(error).str() if isinstance(error, KafkaException) else str(error)
