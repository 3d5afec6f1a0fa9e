"""The transactional writer: what it writes, and how each step may fail."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from confluent_kafka import KafkaError, Message

from consumer.engine.deadline import Deadline
from consumer.engine.errors import Aborted, TransactionsRefused, WriterFenced, WriterLost
from consumer.engine.records import DeadLetter, Output, Record, Redelivery
from consumer.engine.writer import Writer
from tests.unit.engine.scripted import (
    ABORTABLE,
    FATAL,
    FENCED,
    GROUP,
    LETTER,
    REFUSED,
    TRANSIENT,
    A,
    B,
    HandClock,
    NeverReturns,
    RecordingHooks,
    ScriptedProducer,
    outputs,
    record,
)

EPOCH = KafkaError(KafkaError.INVALID_PRODUCER_EPOCH, "the epoch is old")
NEWER = KafkaError(KafkaError.PRODUCER_FENCED, "there is a newer producer")
OnDelivery = Callable[[KafkaError | None, Message], None]
FULL = BufferError("Local: Queue full")
GROUP_NAME = "shop"
NOW_MS = str(HandClock().epoch_ms()).encode()


@dataclass
class Desk:
    """A writer and its surroundings."""

    clock: HandClock = field(default_factory=HandClock)
    hooks: RecordingHooks = field(default_factory=RecordingHooks)

    def __post_init__(self) -> None:
        self.producer = ScriptedProducer(self.clock)
        self.waits: list[str] = []
        self.writer = Writer(
            self.producer,
            ("results", "dead-letters"),
            GROUP_NAME,
            self.hooks,
            self.clock,
            self.producer.call_within,
            self.waits.append,
        )

    def write(self, *written: Output, seconds: float = 5.0) -> None:
        deadline = Deadline(seconds, self.clock.monotonic)
        self.writer.write(written or outputs([record(0)]), {A: 1, B: 7}, GROUP, deadline)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def written(desk: Desk, letter: DeadLetter, of: Record) -> list[tuple[str, str | bytes | None]]:
    """Return the headers of the only dead letter."""
    desk.write(Output(of, b"result", letter))
    [transaction] = desk.producer.committed
    result, dead_letter = transaction.produced
    assert result == ("results", of.key, b"result", [])
    assert dead_letter[:3] == ("dead-letters", of.key, of.value)
    return dead_letter[3]


# what is written


def test_results_and_offsets_are_written_in_one_transaction(desk: Desk) -> None:
    desk.write(*outputs([record(0), record(1)]))
    [transaction] = desk.producer.committed
    assert transaction.produced == [
        ("results", b"key", b"result of 0", []),
        ("results", b"key", b"result of 1", []),
    ]
    assert transaction.offsets == {A: 1, B: 7}
    assert transaction.group == GROUP
    assert desk.producer.calls == ["begin", "produce", "produce", "offsets", "commit"]
    assert desk.producer.timeouts == [5.0, 1.0]


def test_without_offsets_no_offsets_are_added(desk: Desk) -> None:
    desk.writer.write(outputs([record(0)]), {}, GROUP, Deadline(5, desk.clock.monotonic))
    assert desk.producer.calls == ["begin", "produce", "commit"]


def test_offsets_are_committed_without_results(desk: Desk) -> None:
    desk.writer.write([], {A: 4}, GROUP, Deadline(5, desk.clock.monotonic))
    [transaction] = desk.producer.committed
    assert (transaction.produced, transaction.offsets) == ([], {A: 4})


def test_the_hooks_are_told_of_a_commit_and_its_duration(desk: Desk) -> None:
    desk.producer.fail("produce", FULL)
    desk.write()
    assert desk.hooks.heard == [("committed", [0], 0.1)]


def test_a_dead_letter_has_the_bytes_of_its_record_and_the_reason_after_its_headers(desk: Desk) -> None:
    own = (("dlq.reason", b"of another"), ("empty", None), ("binary", b"\xff\x00"))
    letter = Record("orders", 3, 17, 1234, b"\xffkey", b"\x00\xffvalue", own)
    assert written(desk, DeadLetter("undecodable", "naïve", 2), letter) == [
        *own,
        ("dlq.reason", "naïve".encode()),
        ("dlq.kind", b"undecodable"),
        ("dlq.topic", b"orders"),
        ("dlq.partition", b"3"),
        ("dlq.offset", b"17"),
        ("dlq.timestamp", b"1234"),
        ("dlq.attempts", b"2"),
        ("dlq.time", NOW_MS),
        ("dlq.group", b"shop"),
    ]


def test_a_dead_letter_says_which_part_of_its_record_is_missing(desk: Desk) -> None:
    headers = written(desk, LETTER, record(0)._replace(missing="all headers: naïve"))
    assert dict(headers)["dlq.missing"] == "all headers: naïve".encode()


@pytest.mark.parametrize("value", [None, b""])
@pytest.mark.parametrize("key", [None, b""])
def test_null_stays_null_and_empty_stays_empty(desk: Desk, key: bytes | None, value: bytes | None) -> None:
    written(desk, LETTER, Record("orders", 0, 0, 0, key, value, ()))


def test_a_dead_letter_of_a_redelivery_says_where_it_was_before(desk: Desk) -> None:
    again = Redelivery(replay="r1", redrive="dead-letters/0/5", attempts=4, redrives=2)
    headers = dict(written(desk, DeadLetter("failing", "no", 3), record(0)._replace(redelivery=again)))
    assert headers["dlq.attempts"] == b"7"
    assert headers["dlq.replay"] == b"r1"
    assert headers["dlq.redrive"] == b"dead-letters/0/5"
    assert headers["dlq.redrives"] == b"3"


@pytest.mark.parametrize(
    ("again", "names"),
    [
        (Redelivery(replay="r1"), {"dlq.replay"}),
        (Redelivery(redrive="dead-letters/0/5"), {"dlq.redrive", "dlq.redrives"}),
        (None, set()),
    ],
)
def test_a_dead_letter_has_no_headers_that_do_not_apply(
    desk: Desk, again: Redelivery | None, names: set[str]
) -> None:
    headers = dict(written(desk, LETTER, record(0)._replace(redelivery=again)))
    assert headers.keys() & {"dlq.replay", "dlq.redrive", "dlq.redrives"} == names
    assert headers["dlq.attempts"] == b"1"


# steps that fail

STEPS = ["begin", "produce", "offsets", "commit"]


@pytest.mark.parametrize("error", [TRANSIENT, REFUSED, ABORTABLE])
@pytest.mark.parametrize("step", ["begin", "produce"])
def test_an_error_at_begin_or_produce_aborts_the_transaction(desk: Desk, step: str, error: KafkaError) -> None:
    desk.producer.fail(step, error)
    with pytest.raises(Aborted, match=f"^{error.str()}$"):
        desk.write()
    assert desk.producer.calls[-2:] == [step, "abort"]
    assert desk.producer.timeouts == [1.0]
    assert desk.hooks.heard == ["aborted"]
    desk.write()  # the same outputs may be written again
    assert [transaction.results for transaction in desk.producer.committed] == [[b"result of 0"]]


@pytest.mark.parametrize("error", [REFUSED, ABORTABLE, EPOCH])
def test_refused_offsets_abort_the_transaction(desk: Desk, error: KafkaError) -> None:
    desk.producer.fail("offsets", error)
    with pytest.raises(Aborted, match=f"^{error.str()}$"):
        desk.write()
    assert desk.producer.calls[-2:] == ["offsets", "abort"]


def test_a_commit_error_that_requires_an_abort_aborts_the_transaction(desk: Desk) -> None:
    desk.producer.fail("commit", ABORTABLE)
    with pytest.raises(Aborted, match=f"^{ABORTABLE.str()}$"):
        desk.write()
    assert desk.producer.calls[-2:] == ["commit", "abort"]
    assert desk.producer.committed == []


@pytest.mark.parametrize("step", ["offsets", "commit"])
def test_a_step_is_retried_in_the_same_transaction_after_a_transient_error(desk: Desk, step: str) -> None:
    desk.producer.fail(step, TRANSIENT, times=3)
    desk.write()
    assert desk.producer.calls.count(step) == 4
    assert desk.producer.calls.count("poll") == 3
    assert len(desk.producer.committed) == 1
    if step == "offsets":
        assert desk.producer.timeouts[:4] == pytest.approx(
            [5.0, 4.9, 4.8, 4.7]
        )  # with a wait in between, each try has less time


def test_offsets_that_are_not_added_within_the_deadline_abort_the_transaction(desk: Desk) -> None:
    desk.producer.fail("offsets", TRANSIENT, times=None)
    started = desk.clock.now
    with pytest.raises(Aborted, match="the broker is away"):
        desk.write(seconds=0.25)
    assert desk.clock.now - started == pytest.approx(0.25)
    assert desk.producer.timeouts == pytest.approx([0.25, 0.15, 0.05, 0.0, 1.0])


def test_a_commit_without_an_answer_within_the_deadline_loses_the_writer(desk: Desk) -> None:
    desk.producer.fail("commit", TRANSIENT, times=None)
    started = desk.clock.now
    with pytest.raises(WriterLost, match=r"^the transaction's outcome is unknown: the broker is away$") as lost:
        desk.write(seconds=0.25)
    assert not isinstance(lost.value, WriterFenced)
    assert desk.clock.now - started == pytest.approx(0.25)
    assert "abort" not in desk.producer.calls
    assert desk.hooks.heard == []


@pytest.mark.parametrize("step", ["offsets", "commit", "abort"])
def test_a_waiting_transaction_is_reported_every_second_with_its_duration(desk: Desk, step: str) -> None:
    desk.producer.fail(step, TRANSIENT, times=25)
    if step == "abort":
        desk.producer.fail("produce", ABORTABLE)
        with pytest.raises(Aborted):
            desk.write()
    else:
        desk.write()
    assert list(dict.fromkeys(desk.waits)) == [
        "Kafka: the transaction has been waiting for 1 s",
        "Kafka: the transaction has been waiting for 2 s",
    ]


def test_a_full_queue_and_a_hanging_call_are_reported_too(desk: Desk) -> None:
    desk.producer.fail("produce", FULL, times=20)
    desk.producer.fail("offsets", NeverReturns())
    with pytest.raises(WriterLost):
        desk.write()
    assert desk.waits[-1] == "Kafka: the transaction has been waiting for 5 s"
    assert "Kafka: the transaction has been waiting for 2 s" in desk.waits


def test_a_fast_transaction_reports_nothing(desk: Desk) -> None:
    desk.producer.fail("commit", TRANSIENT, times=5)
    desk.write()
    desk.write()
    assert desk.waits == []


def test_a_waiting_start_is_reported_too(desk: Desk) -> None:
    desk.producer.fail("init", TRANSIENT, times=25)
    desk.writer.start(10.0)
    assert desk.waits[-1] == "Kafka: the transaction has been waiting for 2 s"


def test_any_other_commit_error_loses_the_writer(desk: Desk) -> None:
    desk.producer.fail("commit", REFUSED)
    with pytest.raises(WriterLost, match=r"^the transaction's outcome is unknown: not allowed$"):
        desk.write()
    assert "abort" not in desk.producer.calls


@pytest.mark.parametrize("step", STEPS)
def test_a_fatal_error_loses_the_writer_and_nothing_is_aborted(desk: Desk, step: str) -> None:
    desk.producer.fail(step, FATAL)
    with pytest.raises(WriterLost, match=r"^the transaction's outcome is unknown: the client is broken$") as lost:
        desk.write()
    assert not isinstance(lost.value, WriterFenced)
    assert desk.producer.calls[-1] == step
    assert desk.hooks.heard == []


@pytest.mark.parametrize("step", STEPS)
def test_a_fenced_writer_has_its_own_error(desk: Desk, step: str) -> None:
    desk.producer.fail(step, FENCED)
    with pytest.raises(WriterFenced, match="another took over"):
        desk.write()
    assert desk.producer.calls[-1] == step


def test_an_old_epoch_at_the_commit_means_fenced(desk: Desk) -> None:
    desk.producer.fail("commit", EPOCH)
    with pytest.raises(WriterFenced):
        desk.write()


@pytest.mark.parametrize("code", [KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE])
def test_a_size_that_the_library_refuses_names_the_topic_and_the_fix(desk: Desk, code: int) -> None:
    desk.producer.fail("produce", KafkaError(code, "too large"))
    with pytest.raises(Aborted) as aborted:
        desk.write()
    assert str(aborted.value) == "results: too large; raise KAFKA_MESSAGE_MAX_BYTES, or remove it"
    assert aborted.value.is_refused
    desk.producer.fail("commit", ABORTABLE)
    with pytest.raises(Aborted) as aborted:
        desk.write()
    assert (str(aborted.value), aborted.value.is_refused) == (ABORTABLE.str(), False)


def test_a_size_that_a_broker_refuses_names_the_topic_too(desk: Desk) -> None:
    desk.producer.largest["dead-letters"] = 4
    with pytest.raises(Aborted, match=r"^dead-letters: too large; raise max.message.bytes of dead-letters$"):
        desk.write(Output(record(0), b"result", LETTER))
    desk.write(Output(record(0, value=b""), b"result", LETTER._replace(reason="short")))


def test_any_other_refusal_names_only_the_topic(desk: Desk) -> None:
    class Refusing(ScriptedProducer):
        def produce(self, topic: str, *_: object, on_delivery: OnDelivery, **__: object) -> None:
            for code in (
                KafkaError._PURGE_QUEUE,
                KafkaError.TOPIC_AUTHORIZATION_FAILED,
                KafkaError._PURGE_INFLIGHT,
            ):
                on_delivery(KafkaError(code, f"code {code}"), Message(topic, 0))
            self._is_refused = True

    writer = Writer(Refusing(desk.clock), ("results", "dead-letters"), GROUP_NAME, RecordingHooks(), desk.clock)
    with pytest.raises(Aborted, match=r"^results: code 29$") as aborted:
        writer.write(outputs([record(0)]), {}, GROUP, Deadline(5.0, desk.clock.monotonic))
    assert not aborted.value.is_refused


def test_a_brief_result_has_its_records_place_as_its_key(desk: Desk) -> None:
    desk.write(Output(record(0), b"result", LETTER, is_brief=True))
    [transaction] = desk.producer.committed
    assert [(topic, key) for topic, key, _, _ in transaction.produced] == [
        ("results", b"orders/0/0"),
        ("dead-letters", b"key"),
    ]


def test_the_writer_lets_a_full_queue_drain(desk: Desk) -> None:
    desk.producer.fail("produce", FULL, times=3)
    desk.write(*outputs([record(0), record(1)]))
    assert desk.producer.calls[:9] == ["begin", *["produce", "poll"] * 3, "produce", "produce"]
    assert desk.producer.committed[0].results == [b"result of 0", b"result of 1"]


def test_a_queue_that_stays_full_aborts_the_transaction_at_the_deadline(desk: Desk) -> None:
    desk.producer.fail("produce", FULL, times=None)
    started = desk.clock.now
    with pytest.raises(Aborted, match=r"^Local: Queue full$"):
        desk.write(seconds=0.25)
    assert desk.clock.now - started == pytest.approx(0.25)
    assert desk.producer.calls == ["begin", *["produce", "poll"] * 3, "produce", "abort"]
    assert desk.hooks.heard == ["aborted"]


def test_a_call_that_never_returns_loses_the_writer_within_the_deadline(desk: Desk) -> None:
    desk.producer.fail("offsets", NeverReturns())
    started = desk.clock.now
    with pytest.raises(WriterLost, match=r"^the client library hangs while it adds offsets to the"):
        desk.write(seconds=2.0)
    assert desk.clock.now - started == pytest.approx(2.1)
    assert "abort" not in desk.producer.calls  # a hanging client is not called again


def test_a_call_that_never_returns_is_abandoned_in_its_thread() -> None:
    go_on = threading.Event()

    class Stuck(ScriptedProducer):
        def send_offsets_to_transaction(self, *_: object) -> None:
            go_on.wait()

    clock = HandClock()
    writer = Writer(Stuck(clock), ("results", "dead-letters"), GROUP_NAME, RecordingHooks(), clock)
    with pytest.raises(WriterLost, match="hangs"):
        writer.write(outputs([record(0)]), {A: 1}, GROUP, Deadline(0.0, clock.monotonic))
    go_on.set()


# an abort that fails


def test_an_abort_is_retried(desk: Desk) -> None:
    desk.producer.fail("produce", ABORTABLE)
    desk.producer.fail("abort", TRANSIENT, times=2)
    with pytest.raises(Aborted):
        desk.write()
    assert desk.producer.calls[-5:] == ["abort", "poll", "abort", "poll", "abort"]


@pytest.mark.parametrize("error", [REFUSED, FATAL])
def test_an_abort_that_fails_loses_the_writer(desk: Desk, error: KafkaError) -> None:
    desk.producer.fail("produce", ABORTABLE)
    desk.producer.fail("abort", error)
    with pytest.raises(WriterLost) as lost:
        desk.write()
    said = f"{ABORTABLE.str()}; the abort failed too: {error.str()}"
    assert (type(lost.value), str(lost.value)) == (WriterLost, said)
    assert desk.hooks.heard == []


def test_an_abort_that_finds_the_writer_fenced_raises_that_error(desk: Desk) -> None:
    desk.producer.fail("produce", ABORTABLE)
    desk.producer.fail("abort", FENCED)
    with pytest.raises(WriterFenced, match="another took over"):
        desk.write()


def test_an_abort_has_its_own_ten_seconds(desk: Desk) -> None:
    desk.producer.fail("produce", FULL, times=None)
    desk.producer.fail("abort", TRANSIENT, times=None)
    started = desk.clock.now
    with pytest.raises(WriterLost, match="Queue full; the abort failed too: the broker is away"):
        desk.write(seconds=1.0)
    assert desk.clock.now - started == pytest.approx(11.0)


# the start


def test_a_start_takes_over_the_transactional_id(desk: Desk) -> None:
    desk.writer.start(3.0)
    assert (desk.producer.calls, desk.producer.timeouts) == (["init"], [1.0])


def test_a_start_is_retried_until_its_timeout(desk: Desk) -> None:
    desk.producer.fail("init", TRANSIENT, times=2)
    desk.writer.start(3.0)
    assert desk.producer.calls == ["init", "poll", "init", "poll", "init"]
    desk.producer.fail("init", TRANSIENT, times=None)
    started = desk.clock.now
    with pytest.raises(WriterLost, match=r"^the broker is away$"):
        desk.writer.start(3.0)
    assert desk.clock.now - started == pytest.approx(3.0)


@pytest.mark.parametrize("error", [FENCED, EPOCH, NEWER])
def test_a_start_that_another_writer_overtook_is_fenced(desk: Desk, error: KafkaError) -> None:
    desk.producer.fail("init", error)
    with pytest.raises(WriterFenced, match=f"^{error.str()}$"):
        desk.writer.start(3.0)


@pytest.mark.parametrize("error", [REFUSED, FATAL])
def test_a_client_that_may_not_write_in_transactions_is_refused(desk: Desk, error: KafkaError) -> None:
    desk.producer.fail("init", error)
    with pytest.raises(TransactionsRefused, match=f"^Kafka refuses transactions to this client: {error.str()}$"):
        desk.writer.start(3.0)
    assert desk.producer.calls == ["init"]
