"""One member in scripted surroundings: what it polls, dispatches, commits and gives up, and when."""

import random
from collections.abc import Callable, Generator

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, Message, TopicPartition, Uuid

from consumer.engine.ahead import Ahead, Blocker, Runs, read, write
from consumer.engine.backoff import Backoff
from consumer.engine.deadline import Clock
from consumer.engine.errors import KafkaUnusable, MemberFailed, TransactionsRefused, WriterLost
from consumer.engine.member import Surroundings
from consumer.engine.ports import Chunk, Done, Retry, Trouble
from consumer.engine.records import Output, Partition, Record
from consumer.engine.watchdog import Watchdog
from consumer.engine.workers import Workers, call_within
from tests.unit.engine.scripted import (
    ABORTABLE,
    FATAL,
    FENCED,
    GROUP,
    LETTER,
    NEVER,
    REFUSED,
    TRANSIENT,
    A,
    B,
    C,
    NeverReturns,
    Scene,
    ScriptedConsumer,
    ScriptedProducer,
    Transaction,
    capture,
    end,
    message,
    outputs,
    record,
    reset,
)

DOWN = Trouble("site", "503", "the site is down")
HELD = Trouble("site", "401", "our token is refused", held=True)


def turns(count: int) -> Generator[None]:
    for _ in range(count):
        yield


def arriving(scene: Scene, records: list[Message], count: int, *also: Partition) -> Generator[None]:
    """Assign A, and perhaps others, and let records arrive. Then run this many turns."""
    scene.consumer.assign(A, *also)
    scene.consumer.arrived = records
    yield from turns(count)


# records in


def test_records_reach_the_handler_in_order_and_results_are_committed_with_their_offsets() -> None:
    scene = Scene()
    scene.run(arriving(scene, [message(0), message(1), message(5)], 1))
    assert scene.consumer.topics == ["orders"]
    assert scene.handler.seen == [[0, 1, 5]]
    [transaction] = scene.committed
    assert transaction.results == [b"result of 0", b"result of 1", b"result of 5"]
    assert transaction.offsets == {A: 6}
    assert transaction.group == GROUP
    assert scene.producer.timeouts == [1.0, 5.0, 1.0]  # init, offsets, commit


def test_the_handler_gets_each_record_unchanged() -> None:
    scene = Scene()
    scene.run(arriving(scene, [message(7, value=None)], 1))
    [chunk] = scene.handler.chunks
    [taken] = chunk.records
    assert (chunk.partition, chunk.attempts, chunk.work) == (A, 0, None)
    assert taken == Record("orders", 0, 7, 1007, b"key", None, ())


def test_a_record_with_an_empty_value_is_not_lost_when_an_idle_member_polls_it() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.late.append(message(0, value=b""))
        yield
        yield

    scene.run(script())
    assert scene.handler.seen == [[0]]
    assert scene.offsets == {A: 1}


def test_records_that_arrive_together_after_a_wait_are_taken_in_the_same_turn() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.late.append(message(0))
        scene.consumer.behind_late = [message(1), message(2)]
        yield
        yield

    scene.run(script())
    assert scene.handler.seen == [[0, 1, 2]]


def test_an_idle_member_waits_in_the_poll_and_a_busy_one_waits_for_its_workers() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        yield from turns(2)
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        scene.pool.takes = NEVER
        yield
        started, waits = scene.clock.now, len(scene.consumer.waits)
        yield from turns(4)
        assert len(scene.consumer.waits) == waits
        assert scene.clock.now - started == pytest.approx(4 * 0.005)
        scene.pool.finish()

    scene.run(script())
    assert scene.consumer.waits[:2] == [0.1, 0.1]


def test_an_idle_member_polls_at_most_until_a_lane_is_due() -> None:
    scene = Scene(backoff=Backoff(first=0.25, longest=8, longest_retry_after=60))
    scene.handler.answers.append(DOWN)

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        while len(scene.handler.seen) < 2:
            yield
        assert scene.consumer.waits == [0.1, 0.1, pytest.approx(0.05)]

    scene.run(script())


def test_a_member_with_a_flooded_topic_waits_in_the_poll_too() -> None:
    scene = Scene(flood_window=1)
    scene.handler.letter = LETTER

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        yield from turns(4)
        assert scene.consumer.waits == [0.1, 0.1]

    scene.run(script())
    assert scene.committed == []


def test_the_end_of_a_partition_is_committed_once_its_lane_is_empty() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0), end(3)]
        scene.pool.takes = 0.5
        yield
        while not scene.committed:
            yield
        yield from turns(30)

    scene.run(script())
    assert [transaction.offsets for transaction in scene.committed] == [{A: 3}]


def test_the_end_of_a_partition_without_new_records_is_committed_without_results() -> None:
    scene = Scene()
    scene.run(arriving(scene, [end(3, B)], 30, B))
    assert [transaction.offsets for transaction in scene.committed] == [{B: 3}]
    assert scene.results == []


def test_a_full_lane_is_paused_and_resumed_once_half_empty() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        consumer = scene.consumer
        consumer.assign(A)
        scene.pool.takes = NEVER
        yield
        # The client keeps the pause of an earlier assignment.
        assert consumer.calls == ["resume orders/0"]
        consumer.arrived = [message(offset) for offset in range(9)]
        yield
        assert consumer.calls == ["resume orders/0"]
        consumer.arrived = [message(9)]
        yield
        yield
        assert consumer.calls == ["resume orders/0", "pause orders/0"]
        scene.pool.finish()  # it has 6 of 10 then
        yield
        yield
        assert consumer.calls == ["resume orders/0", "pause orders/0"]
        scene.pool.finish()
        yield
        yield
        assert consumer.calls == ["resume orders/0", "pause orders/0", "resume orders/0"]
        scene.pool.finish()

    scene.run(script())
    assert scene.offsets == {A: 10}


def test_a_full_lane_does_not_pause_the_others() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A, B)
        scene.pool.takes = NEVER
        scene.consumer.arrived = [message(offset, B) for offset in range(10)]
        yield
        assert scene.consumer.calls == ["resume orders/0", "pause orders/1"]

    scene.run(script())


def test_an_empty_assignment_is_not_logged() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.assign()
        yield

    scene.run(script())
    assert len(scene.logged("assigned")) == 1
    assert scene.hooks.heard == [("assigned", [A]), ("revoked", [A])]


def test_a_record_of_a_partition_that_is_not_ours_is_dropped() -> None:
    scene = Scene()
    scene.run(arriving(scene, [message(0, B), end(1, B), message(0, A)], 2))
    assert scene.handler.seen == [[0]]
    assert scene.offsets == {A: 1}


# chunks that must be retried


def test_a_chunk_is_retried_after_its_backoff_with_the_work_of_the_handler() -> None:
    scene = Scene()
    scene.handler.answers.extend([DOWN, DOWN])

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        scene.handler.meanwhile = lambda: kept.append((scene.handler.chunks[-1].work, scene.clock.now))
        yield
        yield
        scene.handler.chunks[0].work = "kept"
        while not scene.committed:
            yield

    kept: list[tuple[str | None, float]] = []
    scene.run(script())
    assert [work for work, _ in kept] == [None, "kept", "kept"]
    first, second, third = (at for _, at in kept)
    assert 1.0 <= second - first < 1.2
    assert 2.0 <= third - second < 2.2
    assert scene.results == [b"result of 0"]


# revoked, lost, stopped


def test_a_chunk_in_flight_is_finished_and_committed_when_its_partition_is_revoked() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A, B)
        scene.consumer.arrived = [message(0), message(0, B)]
        scene.pool.takes = 1.9
        yield
        yield
        scene.consumer.revoke(A)
        assert scene.offsets == {A: 1, B: 1}
        assert scene.hooks.heard[-1] == ("revoked", [A])
        yield
        scene.consumer.arrived = [message(1), message(1, B)]
        yield
        scene.pool.finish()

    scene.run(script())
    assert scene.handler.seen == [[0], [0], [1]]
    assert scene.offsets == {A: 1, B: 2}
    assert scene.handler.ours == [True, True, True]


def test_a_revoke_takes_no_longer_than_its_chunks_in_flight() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A, B)
        scene.consumer.arrived = [message(0, B)]
        scene.pool.takes = NEVER
        yield
        started = scene.clock.now
        scene.consumer.revoke(A)  # none of its chunks is in flight
        assert scene.clock.now == started
        scene.pool.finish()

    scene.run(script())
    assert scene.offsets == {B: 1}


def test_a_chunk_that_finishes_too_late_after_a_revoke_is_dropped_uncommitted() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        scene.pool.takes = 2.5
        yield
        yield
        started = scene.clock.now
        scene.consumer.revoke(A)
        assert scene.clock.now - started == pytest.approx(2.0)
        scene.consumer.assign(A)  # it comes back, and so does the record; the late answer is ignored
        yield from turns(10)
        scene.pool.takes = 0
        scene.consumer.arrived = [message(0)]
        yield

    scene.run(script())
    assert scene.handler.ours == [False, True]
    assert scene.results == [b"result of 0"]


def test_a_commit_during_a_drain_gets_only_the_time_that_is_left() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        scene.pool.takes = 1.5
        yield
        scene.consumer.revoke(A)

    scene.run(script())
    assert scene.offsets == {A: 1}
    assert scene.producer.timeouts[1:] == [pytest.approx(0.5, abs=0.01)] * 2


def test_a_drain_waits_until_finished_records_are_committed() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        yield
        scene.producer.fail("produce", ABORTABLE)
        scene.consumer.arrived = [message(0)]
        yield
        assert scene.committed == []
        scene.consumer.revoke(A)
        assert scene.offsets == {A: 1}

    scene.run(script())


def test_a_drain_waits_for_a_pending_request_of_a_strand() -> None:
    scene = Scene()

    def is_over() -> bool:
        if scene.clock.now < over[0]:
            return False
        scene.handler.down.clear()
        return True

    over = [float("inf")]

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.handler.down, scene.handler.is_ready = {0}, is_over
        scene.consumer.arrived = [message(0), message(1)]
        yield
        yield
        yield
        assert scene.handler.seen == [[0, 1]]
        over[0] = scene.clock.now + 0.3
        scene.consumer.revoke(A)
        assert scene.handler.seen == [[0, 1], [0]]
        assert scene.offsets == {A: 2}

    scene.run(script())


def test_a_flood_does_not_hold_up_a_drain() -> None:
    scene = Scene(flood_window=1)
    scene.handler.letter = LETTER

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        yield
        yield
        started = scene.clock.now
        scene.consumer.revoke(A)
        assert scene.clock.now == started

    scene.run(script())
    assert scene.committed == []


def test_a_lost_partition_is_dropped_at_once_without_a_commit() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A, B)
        scene.consumer.arrived = [message(0), message(0, B)]
        scene.pool.takes = NEVER
        yield
        yield
        started = scene.clock.now
        scene.consumer.lose(A)
        assert scene.clock.now == started
        assert scene.hooks.heard[-1] == ("lost", [A])
        scene.pool.finish()
        yield

    scene.run(script())
    assert scene.handler.ours == [False, True]
    assert scene.offsets == {B: 1}
    assert scene.logged("lost") == [{"event": "lost", "log_level": "warning", "partitions": ["orders/0"]}]


def test_a_stop_finishes_chunks_in_flight_within_the_grace_time() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A, B)
        scene.consumer.arrived = [message(offset) for offset in range(5)]
        scene.pool.takes = 6.9
        yield
        yield
        scene.member.stop()
        scene.member.stop()
        yield
        raise AssertionError("a turn after the stop")

    scene.run(script())
    assert scene.offsets == {A: 4}  # the waiting record belongs to the next owner
    assert scene.consumer.is_closed
    assert scene.pool.is_stopped
    assert scene.watchdog.is_ended
    assert scene.logged("stopping") == [{"event": "stopping", "log_level": "info", "in_flight": 1}]
    assert scene.logged("stopped")


def test_a_stop_does_not_wait_longer_than_the_grace_time() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        scene.pool.takes = NEVER
        yield
        yield
        ended.append(scene.clock.now + 7.0)

    ended: list[float] = []
    scene.run(script())
    assert [scene.clock.now] == [pytest.approx(ended[0], abs=0.01)]
    assert scene.committed == []
    assert scene.consumer.is_closed


def test_a_member_that_is_stopped_before_it_runs_does_not_join() -> None:
    scene = Scene()
    scene.member.stop()
    scene.run(turns(1))
    assert scene.clients.producers == []
    assert scene.pool.is_stopped


def test_views_are_given_while_a_stop_drains() -> None:
    scene = Scene()
    scene.hooks.is_watching = True

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        scene.pool.takes = 0.1
        yield

    scene.run(script())
    assert not scene.hooks.views[0].is_stopping
    assert scene.hooks.views[-1].is_stopping


# pauses of the process


def test_a_member_that_was_paused_rejoins_and_commits_nothing_from_before() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        scene.pool.takes = NEVER
        yield
        scene.watchdog.is_still = True
        yield
        assert len(scene.clients.consumers) == 2
        scene.consumer.assign(A)
        scene.pool.finish()
        yield
        yield

    scene.run(script())
    assert scene.clients.consumers[0].is_closed
    assert scene.watchdogs[0].is_ended
    assert scene.handler.ours == [False]
    assert scene.committed == []
    [line] = scene.logged("rejoining")
    assert "was paused" in str(line["reason"])


def test_a_member_waits_if_no_client_can_be_made_when_it_rejoins() -> None:
    scene = Scene()
    scene.hooks.is_watching = True
    reason = "KAFKA_SSL_CA_LOCATION is wrong."

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        yield
        scene.clients.refusals = 3 * [KafkaUnusable(reason)]
        scene.watchdog.is_still = True
        scene.member.reload()
        yield
        assert scene.hooks.views[-1].unreadable == (reason,)
        scene.consumer.assign(A)
        yield from turns(2)

    scene.run(script())
    assert len(scene.clients.consumers) == 2
    assert [line["reason"] for line in scene.logged("rejoining")][1:] == [reason]
    assert scene.hooks.views[-1].unreadable == ()
    assert scene.hooks.heard.count("rejoining") == 2
    assert True in scene.reloads


def test_a_member_ends_if_no_client_can_be_made_at_the_start() -> None:
    scene = Scene()
    scene.clients.refusals = [KafkaUnusable("KAFKA_SSL_CA_LOCATION is wrong.")]
    with pytest.raises(KafkaUnusable):
        scene.run(turns(1))


def test_a_handler_may_not_send_after_the_process_was_paused() -> None:
    scene = Scene()

    def stand_still() -> None:
        scene.watchdog.is_still = True

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        scene.handler.meanwhile = stand_still
        yield

    scene.run(script())
    assert scene.handler.ours == [False]


# the writer


LOST: dict[str, tuple[str, KafkaError | Exception]] = {
    "fenced": ("offsets", FENCED),
    "fatal": ("produce", FATAL),
    "no answer to the commit": ("commit", REFUSED),
    "a call that never returns": ("offsets", NeverReturns()),
}


def fail_first(scene: Scene, step: str, error: KafkaError | Exception) -> None:
    """Make a step of the first producer fail."""

    def prepare(producer: ScriptedProducer) -> None:
        if len(scene.clients.producers) == 1:
            producer.fail(step, error)

    scene.clients.prepare = prepare


def lose_writer(scene: Scene) -> Generator[None]:
    """A transaction ends in the way that the scene prepares; then the record comes again, and goes through."""
    scene.consumer.assign(A)
    scene.consumer.arrived = [message(0)]
    yield
    while len(scene.started) < 2:
        yield
    scene.consumer.arrived = [message(scene.offsets.get(A, 0))]
    yield
    yield


@pytest.mark.parametrize("how", LOST)
def test_a_lost_writer_is_replaced_and_partitions_are_read_again_without_leaving_the_group(how: str) -> None:
    scene = Scene()
    fail_first(scene, *LOST[how])
    scene.run(lose_writer(scene))
    assert scene.results == [b"result of 0"]
    assert scene.offsets == {A: 1}
    assert len(scene.clients.consumers) == 1
    assert [call for call in scene.consumer.calls if "assign" in call] == [
        "unassign orders/0",
        "assign orders/0 at 0",
    ]
    assert scene.started[1].calls[0] == "init"
    assert len(scene.logged("writer_lost")) == 1
    assert scene.hooks.heard == [
        ("assigned", [A]),
        ("received", {"orders": 1}),
        ("received", {"orders": 1}),
        ("committed", [0], 0.0),
        ("revoked", [A]),
    ]


def test_records_and_answers_are_dropped_until_a_lost_writer_is_replaced() -> None:
    scene = Scene()
    fail_first(scene, "produce", FATAL)

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        yield
        scene.pool.takes = 60.0
        scene.consumer.arrived = [message(1), end(9)]
        yield
        assert scene.handler.seen == [[0]]
        assert len(scene.started) == 1
        while len(scene.started) < 2:
            yield
        scene.pool.takes = 0.0
        scene.consumer.arrived = [message(0), message(1), message(2)]
        yield
        assert scene.handler.seen == [[0]]
        while scene.offsets != {A: 3}:
            yield

    scene.run(script())
    assert starts(scene) == ["assign orders/0 at 0"]
    assert scene.handler.seen == [[0], [1], [0, 1, 2]]
    assert scene.offsets == {A: 3}


def test_a_chunk_in_flight_when_the_writer_is_lost_may_not_be_sent_any_more() -> None:
    scene = Scene()
    fail_first(scene, "produce", FATAL)

    def script() -> Generator[None]:
        scene.consumer.assign(A, B)
        scene.pool.takes = 1.0
        scene.consumer.arrived = [message(0, B)]
        yield
        scene.pool.takes = 0.0
        scene.consumer.arrived = [message(0)]
        while len(scene.started) < 2:
            yield
        scene.clock.now += 1
        yield
        yield

    scene.run(script())
    assert scene.handler.seen == [[0], [0]]
    assert scene.handler.ours == [True, False]
    assert scene.committed == []


def test_a_partition_that_is_revoked_before_the_writer_is_replaced_is_not_read_again() -> None:
    scene = Scene()
    fail_first(scene, "produce", FATAL)

    def script() -> Generator[None]:
        scene.consumer.assign(A, B, C)
        scene.consumer.arrived = [message(0)]
        yield
        scene.consumer.revoke(A)
        scene.consumer.lose(B)
        while len(scene.started) < 2:
            yield
        yield
        assert [call for call in scene.consumer.calls if "assign" in call] == [
            "unassign orders/2",
            "assign orders/2 at 0",
        ]
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        yield
        yield

    scene.run(script())
    assert scene.offsets == {A: 1}


def test_a_writer_that_is_lost_during_a_revoke_is_replaced_for_the_other_partitions() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A, B)
        yield
        scene.producer.fail("produce", FATAL)
        scene.consumer.arrived = [message(0)]
        scene.pool.takes = 0.1
        yield
        scene.consumer.revoke(A)
        while len(scene.started) < 2:
            yield
        yield
        assert [call for call in scene.consumer.calls if "assign" in call] == [
            "unassign orders/1",
            "assign orders/1 at 0",
        ]

    scene.run(script())
    assert scene.committed == []


def test_a_member_rejoins_if_its_assignment_can_not_be_changed_in_part() -> None:
    scene = Scene()
    fail_first(scene, "produce", FATAL)

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.refuses = REFUSED
        scene.consumer.arrived = [message(0)]
        while len(scene.clients.consumers) < 2:
            yield
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        yield
        yield

    scene.run(script())
    assert scene.clients.consumers[0].is_closed
    assert scene.clock.slept == [0.5]
    assert "rejoining" in scene.hooks.heard
    assert scene.offsets == {A: 1}


def test_a_commit_that_succeeded_without_an_answer_is_not_repeated() -> None:
    scene = Scene()

    def prepare(producer: ScriptedProducer) -> None:
        if len(scene.clients.producers) == 1:
            producer.fail_after("commit", REFUSED)

    scene.clients.prepare = prepare
    scene.run(lose_writer(scene))
    assert scene.results == [b"result of 0", b"result of 1"]


def test_no_writer_is_made_before_partitions_are_assigned() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        yield from turns(5)
        assert scene.started == []
        scene.consumer.assign(A)
        yield
        assert scene.producer.calls == ["init"]

    scene.run(script())


def test_a_writer_that_can_not_start_is_retried_while_the_member_polls() -> None:
    scene = Scene()
    scene.hooks.is_watching = True

    def prepare(producer: ScriptedProducer) -> None:
        if len(scene.clients.producers) <= 2:
            producer.fail("init", TRANSIENT, times=None)

    scene.clients.prepare = prepare

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        while not scene.committed:
            yield

    started = scene.clock.now
    scene.run(script())
    assert len(scene.started) == 3
    assert len(scene.clients.consumers) == 1
    assert 11 < scene.clock.now - started < 12
    assert scene.handler.seen == [[0]]
    troubles = list(dict.fromkeys(view.commit_trouble for view in scene.hooks.views))
    assert "Kafka: the transaction has been waiting for 3 s" in troubles
    assert "the broker is away" in troubles
    assert troubles[-1] is None


def test_a_stop_does_not_wait_for_a_writer_that_can_not_start() -> None:
    scene = Scene()

    def fail(producer: ScriptedProducer) -> None:
        producer.fail("init", TRANSIENT, times=None)
        start = producer.init_transactions

        def start_and_stop(timeout: float) -> None:
            scene.member.stop()
            start(timeout)

        producer.init_transactions = start_and_stop  # type: ignore[method-assign]

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        yield
        yield

    scene.clients.prepare = fail
    started = scene.clock.now
    scene.run(script())
    assert len(scene.started) == 1
    assert scene.clock.now - started < 2
    assert scene.logged("writer_lost") == []


def test_views_show_a_waiting_commit() -> None:
    scene = Scene()
    scene.hooks.is_watching = True
    scene.clients.prepare = lambda producer: producer.fail("commit", TRANSIENT, times=25)

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        while not scene.committed:
            yield

    scene.run(script())
    assert "Kafka: the transaction has been waiting for 2 s" in [view.commit_trouble for view in scene.hooks.views]


def test_partitions_are_read_again_once_their_committed_offsets_are_known() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A, B)
        scene.consumer.arrived = [message(0), message(1)]
        yield
        yield
        assert scene.offsets == {A: 2}
        scene.producer.fail("produce", FATAL)
        scene.consumer.arrived = [message(2), message(0, B)]
        scene.consumer.away = TRANSIENT
        while len(scene.started) < 2:
            yield
        scene.consumer.arrived = [message(3)]  # still from the old position: must be ignored
        yield from turns(20)
        assert starts(scene) == []
        scene.consumer.away = None
        yield from turns(7)
        assert sorted(call for call in scene.consumer.calls if "assign" in call) == [
            "assign orders/0 at 2",
            "assign orders/1 at 0",
            "unassign orders/0",
            "unassign orders/1",
        ]

    scene.run(script())
    assert [line["error"] for line in scene.logged("kafka")] == [TRANSIENT.str()]


def test_an_unknown_committed_offset_is_asked_for_again_and_does_not_count_as_none() -> None:
    scene = Scene()
    committed = ScriptedConsumer.committed
    refusals = 0

    def refuse_first(
        consumer: ScriptedConsumer, partitions: list[TopicPartition], timeout: float
    ) -> list[TopicPartition]:
        nonlocal refusals
        answer = committed(consumer, partitions, timeout)
        if refusals:
            refusals -= 1
            return [RefusedPosition(each.topic, each.partition) for each in answer]
        return answer

    def script() -> Generator[None]:
        nonlocal refusals
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0), message(1)]
        yield
        yield
        refusals = 2
        scene.producer.fail("produce", FATAL)
        scene.consumer.arrived = [message(2)]
        while not [call for call in scene.consumer.calls if call.startswith("assign")]:
            yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptedConsumer, "committed", refuse_first)
        scene.run(script())
    assert refusals == 0
    assert [call for call in scene.consumer.calls if call.startswith("assign")] == ["assign orders/0 at 2"]
    assert scene.logged("no_committed_offset") == []


class RefusedPosition(TopicPartition):
    """A partition whose committed offset the broker would not tell."""

    @property
    def error(self) -> KafkaError:  # type: ignore[override]
        return TRANSIENT


@pytest.mark.parametrize("away", [None, TRANSIENT])
def test_a_commit_that_waits_for_a_leader_names_the_partition(away: KafkaError | None) -> None:
    scene = Scene()
    scene.hooks.is_watching = True
    scene.clients.prepare = lambda producer: producer.fail("commit", TRANSIENT, times=15)

    def script() -> Generator[None]:
        scene.consumer.leaders |= {"results": [1, -1, 2], "dead-letters": [-1]}
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        yield
        scene.consumer.away = away
        while not scene.committed:
            yield

    scene.run(script())
    said = {view.commit_trouble for view in scene.hooks.views}
    leaders = "" if away else "; results/1 has no leader; dead-letters/0 has no leader"
    assert f"Kafka: the transaction has been waiting for 1 s{leaders}" in said


def test_views_show_why_a_member_can_not_join_until_it_has_joined() -> None:
    scene = Scene()
    scene.hooks.is_watching = True
    why = "JoinGroup failed: Broker: Group authorization failed"
    said = f"this member can't join the group: {why}"

    def script() -> Generator[None]:
        scene.consumer.arrived = [Message(error=KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED, why))]
        yield from turns(2)
        assert list(scene.hooks.views[-1].unreadable) == [said]
        scene.consumer.assign(A)
        yield from turns(2)
        assert list(scene.hooks.views[-1].unreadable) == []

    scene.run(script())


# recreated topics and truncated logs


def starts(scene: Scene) -> list[str]:
    return [call for call in scene.consumer.calls if call.startswith("assign")]


@pytest.mark.parametrize(("at_end", "log", "start"), [(False, (0, 7), 0), (False, (3, 7), 3), (True, (3, 7), 7)])
def test_a_partition_without_a_committed_offset_starts_at_the_beginning_of_its_log(
    *, at_end: bool, log: tuple[int, int], start: int
) -> None:
    scene = Scene(starts_at_end=at_end)

    def script() -> Generator[None]:
        scene.consumer.uncommitted = OFFSET_INVALID
        scene.consumer.assign(A)
        scene.consumer.logs[A] = log
        yield from turns(20)
        scene.consumer.arrived = [reset()]
        yield
        yield

    scene.run(script())
    assert starts(scene) == [f"assign orders/0 at {start}"]
    [line] = scene.logged("no_committed_offset")
    assert (line["partition"], line["start"], line["low"], line["high"]) == ("orders/0", start, *log)
    assert not any(heard[0] == "lost" for heard in scene.hooks.heard if isinstance(heard, tuple))


def test_a_partition_without_a_leader_does_not_keep_others_from_their_start() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.uncommitted = OFFSET_INVALID
        scene.consumer.leaderless = {A, C}
        scene.consumer.assign(A, B, C)
        scene.consumer.arrived = [reset(A), reset(B), reset(C)]
        yield from turns(200)
        assert starts(scene) == ["assign orders/1 at 0"]
        scene.consumer.leaderless = {C}
        yield from turns(200)

    scene.run(script())
    assert starts(scene)[1:] == ["assign orders/0 at 0"]


def test_a_recreated_topic_that_was_read_from_its_middle_is_read_again_from_its_beginning() -> None:
    """The topic was created again in between: the client begins in the middle of the new one."""
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.uncommitted = OFFSET_INVALID
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(2), message(3)]
        yield from turns(4)
        assert starts(scene) == ["assign orders/0 at 0"]
        scene.consumer.arrived = [message(number) for number in range(4)]
        yield from turns(4)

    scene.run(script())
    assert scene.handler.seen == [[0, 1, 2, 3]]


def test_a_recreated_topic_whose_committed_offset_is_gone_is_read_as_a_new_one() -> None:
    """The topic was created again, and its offsets are gone: what the lane knows is of the earlier one."""
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0), end(1)]
        yield from turns(30)
        assert scene.offsets == {A: 1}
        epoch = next(iter(scene.member._lanes)).epoch
        scene.consumer.offsets = dict
        scene.consumer.uncommitted = OFFSET_INVALID
        scene.consumer.arrived = [reset()]
        yield from turns(4)
        assert next(iter(scene.member._lanes)).epoch > epoch

    scene.run(script())
    assert starts(scene) == ["assign orders/0 at 0"]


def test_an_empty_log_without_a_committed_offset_is_not_logged() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.logs[A] = (0, 0)
        scene.consumer.arrived = [reset()]
        yield
        yield

    scene.run(script())
    assert starts(scene) == ["assign orders/0 at 0"]
    assert scene.logged("no_committed_offset") == []


LOSSES = {
    "cut in front": (
        (50, 90),
        48,
        "orders/0: the log begins at 50, after the committed offset 2: up to 48 records",
    ),
    "too short": (
        (0, 1),
        0,
        "orders/0: the log ended before the committed offset 2, and ends at 1 now: it was truncated or created",
    ),
    "too short, and longer again since": (
        (0, 90),
        0,
        "orders/0: the log ended before the committed offset 2, and ends at 90 now: it was truncated or created",
    ),
}


@pytest.mark.parametrize("why", [KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION])
@pytest.mark.parametrize("how", LOSSES)
def test_a_log_without_the_committed_offset_is_logged_counted_and_shown_until_acknowledged(
    how: str, why: int
) -> None:
    scene = Scene()
    scene.hooks.is_watching = True
    log, records, said = LOSSES[how]

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0), message(1)]
        yield
        yield
        scene.consumer.logs[A] = log
        scene.consumer.arrived = [reset(why=why)]
        yield from turns(4)
        [loss] = scene.hooks.views[-1].losses
        assert loss.startswith(said)
        scene.member.reload()
        yield
        yield
        assert scene.hooks.views[-1].losses == ()

    scene.run(script())
    assert starts(scene) == [f"assign orders/0 at {log[0]}"]
    assert ("lost", "orders", records) in scene.hooks.heard
    assert len(scene.logged("records_lost")) == len(scene.logged("losses_acknowledged")) == 1


def losing_writer(scene: Scene, record: Message) -> Generator[None]:
    """Have the writer lost while this record is committed, and replaced."""
    scene.producer.fail("offsets", FENCED)
    scene.consumer.arrived = [record]
    before = len(scene.started)
    while len(scene.started) == before:
        yield
    yield from turns(4)


@pytest.mark.parametrize("then", ["the writer is lost", "the partition goes and comes back"])
def test_a_log_that_was_cut_is_read_from_its_beginning_until_something_of_it_is_committed(then: str) -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.offsets = lambda: scene.offsets
        yield from arriving(scene, [message(0), message(1)], 3)
        scene.consumer.logs[A] = (0, 1)
        scene.consumer.arrived = [reset(why=KafkaError._LOG_TRUNCATION)]
        yield from turns(4)
        assert starts(scene) == ["assign orders/0 at 0"]
        scene.consumer.logs[A] = (0, 90)  # it grows beyond the committed offset
        if then == "the writer is lost":
            yield from losing_writer(scene, message(0))
        else:
            scene.consumer.revoke(A)
            yield
            scene.consumer.assign(A)
            scene.consumer.arrived = [message(2)]  # the client begins at the committed offset
        yield from turns(4)
        assert starts(scene) == ["assign orders/0 at 0"] * 2
        scene.consumer.arrived = [message(0), message(1), message(2)]
        yield from turns(4)
        yield from losing_writer(scene, message(3))  # now the committed offset is one of this log

    scene.run(script())
    assert starts(scene) == ["assign orders/0 at 0", "assign orders/0 at 0", "assign orders/0 at 3"]
    assert scene.results == [b"result of 0", b"result of 1", b"result of 0", b"result of 1", b"result of 2"]
    assert len(scene.logged("records_lost")) == 1


def test_an_offset_that_another_member_committed_after_a_log_was_cut_is_valid() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.offsets = lambda: {A: 2}
        yield from arriving(scene, [message(0), message(1)], 3)
        scene.consumer.logs[A] = (0, 1)
        scene.consumer.arrived = [reset(why=KafkaError._LOG_TRUNCATION)]
        yield from turns(4)
        scene.consumer.logs[A] = (0, 90)
        scene.consumer.revoke(A)
        yield
        scene.consumer.beside[A] = write(2, Ahead((), ""))  # the offset is the same by chance
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(2)]
        yield from turns(4)

    scene.run(script())
    assert starts(scene) == ["assign orders/0 at 0"]
    assert scene.handler.seen[-1] == [2]


@pytest.mark.parametrize(
    ("before", "base", "committed", "decided"),
    [
        (0, 0, None, [0, 1]),
        (2, 2, None, [2, 3]),
        (2, 5, None, [5, 6]),  # a transaction's marker is before it
        (3, 1, None, [3, 4]),  # the batch begins before what is to be read
        (0, 4, 6, [6, 7]),
    ],
)
def test_an_unreadable_batch_is_decided_record_by_record(
    before: int, base: int, committed: int | None, decided: list[int]
) -> None:
    scene = Scene()
    error = KafkaError(KafkaError._BAD_COMPRESSION, f"message at {base}")

    def script() -> Generator[None]:
        if committed is not None:
            scene.consumer.offsets = lambda: scene.offsets or {A: committed}
        scene.consumer.assign(A)
        yield
        scene.consumer.arrived = [message(offset) for offset in range(before)]
        yield from turns(2)
        for _ in decided:
            for _ in range(3):
                scene.consumer.arrived = [Message(*A, base, error=error)]
                yield from turns(2)
        scene.consumer.arrived = [message(decided[-1] + 1)]
        yield from turns(3)

    scene.run(script())
    assert starts(scene) == [f"assign orders/0 at {offset + 1}" for offset in decided]
    seen = [offset for chunk in scene.handler.seen for offset in chunk]
    assert seen == [*range(before), *decided, decided[-1] + 1]
    assert scene.offsets == {A: decided[-1] + 2}
    assert len(scene.logged("unreadable")) == len(decided)


def test_a_batch_that_can_be_read_later_is_delivered_with_its_content() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        yield
        for offset in range(4):
            error = KafkaError(KafkaError._BAD_COMPRESSION)
            scene.consumer.arrived = [Message(*A, offset, error=error), Message(*A, offset, error=error)]
            yield
            scene.consumer.arrived = [message(offset)]
            yield

    scene.run(script())
    assert scene.offsets == {A: 4}
    assert scene.logged("unreadable") == []


def test_records_in_memory_are_delivered_and_not_counted_as_lost_when_their_log_is_cut() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.pool.takes = 1.0
        scene.consumer.arrived = [message(0), message(1)]
        yield
        scene.consumer.logs[A] = (50, 90)
        scene.consumer.arrived = [reset()]
        yield
        scene.clock.now += 1
        scene.consumer.arrived = [message(50)]
        yield from turns(300)

    scene.run(script())
    assert scene.handler.seen == [[0, 1], [50]]
    assert ("lost", "orders", 48) in scene.hooks.heard
    assert scene.offsets == {A: 51}


# what is decided ahead of the committed offset


TOPIC_ID = str(Uuid(1, 1))


def skipping(beside: str, *, incarnation: int | KafkaError = 1) -> Scene:
    """Run a member that finds this offset metadata, for some turns with records 0 to 3."""
    scene = Scene()
    scene.clients.incarnations["orders"] = incarnation

    def script() -> Generator[None]:
        scene.consumer.beside[A] = beside
        scene.consumer.offsets = lambda: {A: 0}
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(number) for number in range(4)]
        yield from turns(20)

    scene.run(script())
    return scene


def test_records_that_an_earlier_owner_decided_ahead_are_skipped() -> None:
    scene = skipping(write(0, Ahead(((1, 3),), TOPIC_ID)))
    assert scene.handler.seen == [[0, 3]]
    assert scene.logged("ahead_ignored") == []


@pytest.mark.parametrize(
    ("beside", "why"),
    [
        ("another's", "another program wrote it"),
        ("jirafe-consumer/2 later", "another version wrote it"),
        (write(0, Ahead(((1, 3),), TOPIC_ID))[:-1], "it is damaged"),
    ],
)
def test_foreign_offset_metadata_is_ignored_and_logged_once(beside: str, why: str) -> None:
    scene = skipping(beside)
    assert scene.handler.seen == [[0, 1, 2, 3]]
    [said] = scene.logged("ahead_ignored")
    assert said["reason"] == (
        f"the metadata of the committed offset is ignored, because {why}: records may get a second result"
    )


EARLIER_ID = str(Uuid(7, 7))


@pytest.mark.parametrize("runs", [(), ((3, 4),)])
def test_reading_does_not_start_at_an_offset_of_an_earlier_topic(runs: Runs) -> None:
    scene = Scene()

    def script() -> Generator[None]:
        yield from turns(4)
        scene.consumer.beside[A] = write(2, Ahead(runs, EARLIER_ID))
        scene.consumer.offsets = lambda: {A: 2}
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(2), message(3)]
        yield from turns(4)  # the id may be of a later topic: nothing is handled before the brokers have told
        assert starts(scene) == ["assign orders/0 at -2"]
        scene.consumer.arrived = [message(number) for number in range(4)]
        yield from turns(4)

    scene.run(script())
    assert scene.handler.seen == [[0, 1, 2, 3]]
    [lost] = scene.logged("records_lost")
    assert lost["reason"] == "orders was deleted and created again; it is read from its beginning as a new topic"
    assert read(4, scene.committed[-1].beside[A]) == Ahead((), TOPIC_ID)


def test_an_offset_of_an_earlier_topic_is_noticed_once_the_brokers_answer() -> None:
    scene = Scene()
    scene.clients.incarnations["orders"] = REFUSED

    def script() -> Generator[None]:
        scene.consumer.beside[A] = write(2, Ahead((), EARLIER_ID))
        scene.consumer.offsets = lambda: {A: 2}
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(2), message(3)]
        yield from turns(4)
        assert starts(scene) == []
        yield from recreate(scene)
        yield from turns(4)
        assert starts(scene) == ["assign orders/0 at -2"]
        scene.consumer.arrived = [message(number) for number in range(5)]
        yield from turns(4)

    scene.run(script())
    assert scene.handler.seen == [[2, 3], [0, 1, 4]]


def test_records_decided_ahead_are_skipped_even_while_the_id_of_the_topic_is_unknown() -> None:
    assert skipping(write(0, Ahead(((1, 3),), TOPIC_ID)), incarnation=REFUSED).handler.seen == [[0, 3]]


@pytest.mark.parametrize("why", [TRANSIENT, KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)])
def test_no_record_is_read_before_the_id_of_its_topic_is_known(why: KafkaError) -> None:
    scene = Scene()
    found = Partition("found by a pattern", 0)
    scene.clients.incarnations[found.topic] = why

    def script() -> Generator[None]:
        scene.consumer.offsets = lambda: {found: 0}
        scene.consumer.assign(found)
        scene.consumer.arrived = [message(0, found), message(1, found)]  # they may belong to an earlier topic
        yield from turns(60)
        assert starts(scene) == []
        scene.clients.incarnations[found.topic] = 2
        while not starts(scene):
            yield
        scene.consumer.arrived = [message(number, found) for number in range(3)]
        yield from turns(4)

    scene.run(script())
    assert starts(scene) == ["assign found by a pattern/0 at 0"]
    assert scene.handler.seen == [[0, 1, 2]]
    assert read(3, scene.committed[-1].beside[found]).topic_id == str(Uuid(2, 2))


def passing(*, keeps_metadata: bool) -> Scene:
    """Run a member whose record 1 waits while others arrive, until record 1 may go on."""
    scene = Scene()
    scene.handler.down = {1}

    def some_turns() -> Generator[None]:
        for _ in range(200):
            for transaction in scene.committed if keeps_metadata else ():
                scene.consumer.beside.update(transaction.beside)
            yield

    def script() -> Generator[None]:
        scene.consumer.offsets = lambda: scene.offsets
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(number) for number in range(4)]
        yield from some_turns()
        scene.consumer.arrived = [message(4)]
        yield from some_turns()
        scene.handler.down.clear()
        yield from some_turns()

    scene.run(script())
    return scene


def test_records_beyond_a_waiting_one_are_committed_if_kafka_keeps_offset_metadata() -> None:
    scene = passing(keeps_metadata=True)
    first, *later = scene.committed
    assert (first.offsets, read(1, first.beside[A])) == ({A: 1}, Ahead((), TOPIC_ID, blocker(first)))
    assert [read(1, each.beside[A]).runs for each in later[:-1]] == [((2, 4),), ((2, 5),)]
    assert (later[-1].offsets, read(5, later[-1].beside[A])) == ({A: 5}, Ahead((), TOPIC_ID))
    assert [len(each.results) for each in scene.committed] == [1, 2, 1, 1]
    assert scene.logged("no_metadata") == []


def test_records_beyond_a_waiting_one_are_not_committed_if_kafka_drops_offset_metadata() -> None:
    scene = passing(keeps_metadata=False)
    assert [each.offsets for each in scene.committed] == [{A: 1}, {A: 5}]
    assert [len(each.results) for each in scene.committed] == [1, 4]
    assert len(scene.logged("no_metadata")) == 1


def test_deleted_offsets_do_not_show_whether_kafka_keeps_offset_metadata() -> None:
    scene = Scene()
    scene.handler.down = {1}

    def script() -> Generator[None]:
        scene.consumer.offsets = dict
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(number) for number in range(4)]
        yield from turns(200)

    scene.run(script())
    assert scene.committed[0].offsets == {A: 1}  # with test metadata
    assert scene.logged("no_metadata") == []


def blocker(transaction: Transaction) -> Blocker | None:
    return read(1, transaction.beside[A]).blocker


def recreate(scene: Scene) -> Generator[None]:
    """Recreate the topic, and let the member notice it."""
    scene.clients.incarnations["orders"] = 2
    asked = len(scene.clients.asked)
    while len(scene.clients.asked) == asked:
        yield
    yield
    yield


def test_a_recreated_topic_is_read_from_its_beginning_without_the_records_that_are_done() -> None:
    scene = Scene()
    scene.hooks.is_watching = True

    def script() -> Generator[None]:
        scene.consumer.assign(A, B)
        scene.consumer.arrived = [message(0), message(1)]
        yield from turns(100)
        scene.consumer.arrived = [message(2), message(3)]  # it may belong to the new topic, and does
        yield from recreate(scene)
        assert starts(scene) == ["assign orders/0 at -2", "assign orders/1 at -2"]
        at, time = 2, message(2).timestamp()
        other = Message(*A, at, b"key", b"another record with the old one's timestamp", timestamp=time)
        scene.consumer.arrived = [message(0), message(1), other, message(3), message(4)]
        yield
        yield

    scene.run(script())
    assert scene.handler.seen == [[0, 1], [2, 3], [0, 1, 2, 4]]
    assert scene.offsets == {A: 5}
    assert scene.hooks.views[-1].losses == (
        "orders was deleted and created again; it is read from its beginning as a new topic",
    )


def test_records_in_memory_of_the_old_topic_are_delivered_before_the_recreated_one() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        yield from turns(60)
        scene.pool.takes = 30.0
        scene.consumer.arrived = [message(7)]
        yield
        yield from recreate(scene)
        assert starts(scene) == []
        assert scene.consumer.calls == ["resume orders/0", "pause orders/0"]
        scene.clock.now += 30
        yield from turns(4)
        assert scene.offsets == {A: 8}
        assert starts(scene) == ["assign orders/0 at -2"]
        scene.pool.takes = 0.0
        scene.consumer.arrived = [message(number) for number in range(3)]
        yield from turns(4)

    scene.run(script())
    assert scene.handler.seen == [[7], [0, 1, 2]]
    assert scene.offsets == {A: 3}


def test_a_topic_that_is_missing_for_a_while_or_can_not_be_described_is_not_a_new_one() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        yield from turns(60)
        for incarnation in (REFUSED, 1, TRANSIENT, 1):
            scene.clients.incarnations["orders"] = incarnation
            yield from turns(60)

    scene.run(script())
    assert starts(scene) == []
    assert len(scene.clients.asked) > 4


def test_a_revoked_partition_of_a_recreated_topic_is_left_to_its_new_owner() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        yield from turns(60)
        scene.pool.takes = NEVER
        scene.consumer.arrived = [message(7)]
        yield
        yield from recreate(scene)
        scene.consumer.lose(A)
        scene.consumer.assign(A)
        yield from turns(4)

    scene.run(script())
    assert starts(scene) == []


def test_a_static_member_that_is_fenced_ends() -> None:
    scene = Scene(is_static=True)
    scene.clients.prepare = lambda producer: producer.fail("offsets", FENCED)
    with pytest.raises(MemberFailed, match=r"the same KAFKA_GROUP_INSTANCE_ID.*another took over"):
        scene.run(lose_writer(scene))
    assert scene.consumer.is_closed
    assert scene.clock.slept == []
    assert scene.pool.is_stopped


def test_a_static_member_that_loses_its_writer_without_being_fenced_rejoins() -> None:
    scene = Scene(is_static=True)
    fail_first(scene, "produce", FATAL)
    scene.run(lose_writer(scene))
    assert scene.offsets == {A: 1}


def test_refused_transactions_end_the_member() -> None:
    scene = Scene()
    scene.clients.prepare = lambda producer: producer.fail("init", REFUSED)

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        yield from turns(2)

    with pytest.raises(TransactionsRefused, match="not allowed"):
        scene.run(script())
    assert scene.pool.is_stopped
    assert scene.consumer.is_closed


# errors of the library


Told = Callable[[ScriptedConsumer, KafkaError], None]


def by_callback(consumer: ScriptedConsumer, error: KafkaError) -> None:
    consumer.on_error(error)


def by_message(consumer: ScriptedConsumer, error: KafkaError) -> None:
    consumer.fail_poll(error)


@pytest.mark.parametrize("told", [by_callback, by_message])
@pytest.mark.parametrize("error", [FATAL, FENCED, KafkaError(KafkaError._FATAL, "broken")])
def test_a_fatal_error_of_the_library_ends_the_member(
    told: Callable[[ScriptedConsumer, KafkaError], None], error: KafkaError
) -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        told(scene.consumer, error)
        yield
        raise AssertionError("a turn after the error")

    with pytest.raises(MemberFailed, match=rf"Kafka: {error.str()}"):
        scene.run(script())
    assert scene.consumer.is_closed
    assert scene.pool.is_stopped
    assert not scene.logged("stopped")


def test_an_exception_of_the_library_ends_the_member() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        raise KafkaException(REFUSED)
        yield

    with pytest.raises(MemberFailed, match="Kafka: not allowed"):
        scene.run(script())
    assert scene.consumer.is_closed


def test_an_error_that_repeats_is_logged_once_in_thirty_seconds() -> None:
    scene = Scene()
    other = KafkaError(KafkaError._RESOLVE, "who is that?")

    def script() -> Generator[None]:
        for error in (TRANSIENT, TRANSIENT, other):
            scene.consumer.on_error(error)
        scene.clock.now += 29.9
        scene.consumer.on_error(TRANSIENT)
        assert len(scene.logged("kafka")) == 2
        scene.clock.now += 0.1
        scene.consumer.on_error(TRANSIENT)
        yield

    scene.run(script())
    assert [line["error"] for line in scene.logged("kafka")] == [
        "the broker is away",
        "who is that?",
        "the broker is away",
    ]


# what the user's code raises


def test_a_record_that_makes_the_handler_raise_is_found_and_given_up_while_the_others_are_delivered() -> None:
    scene = Scene()
    scene.handler.raises[2] = ZeroDivisionError("a mistake")
    scene.run(arriving(scene, [message(number) for number in range(6)], 60))
    assert scene.results == [b"gave up 2" if number == 2 else b"result of %d" % number for number in range(6)]
    assert scene.offsets == {A: 6}
    assert scene.handler.seen == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [2], [2], [3], [4, 5]]
    [letter] = [
        each for transaction in scene.committed for each in transaction.produced if each[0] == "dead-letters"
    ]
    assert letter[2] == b"0123456789"
    said = scene.logged("handler_raised")
    assert [line["reason"] for line in said] == ["handling orders/0/0 to 3 raised ZeroDivisionError"]
    assert "a mistake" not in str(said)


def test_a_record_that_raises_alone_is_retried_with_backoff_before_it_is_given_up() -> None:
    scene = Scene()
    scene.handler.answers += [ZeroDivisionError("a mistake")] * 2

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        yield
        begun = scene.clock.now
        while not scene.results:
            yield
        assert scene.clock.now - begun >= 3.0

    scene.run(script())
    assert scene.results == [b"result of 0"]
    troubles = [heard[1] for heard in scene.hooks.heard if isinstance(heard, tuple) and heard[0] == "retried"]
    assert (
        troubles
        == [Trouble("orders/0", "internal", "handling orders/0/0 raised ZeroDivisionError", isolating=True)] * 2
    )


@pytest.mark.parametrize("error", [MemoryError(), OSError("the disk is full"), BlockingIOError()])
def test_an_error_of_the_process_never_makes_a_dead_letter(error: Exception) -> None:
    scene = Scene()
    scene.handler.raises[0] = error

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        yield from turns(400)
        assert scene.results == []
        assert len(scene.handler.seen) > 5
        scene.handler.raises.clear()
        yield from turns(100)

    scene.run(script())
    assert scene.results == [b"result of 0"]


def test_a_record_is_retried_if_giving_it_up_raises() -> None:
    scene = Scene()
    scene.handler.raises[0] = ZeroDivisionError("a mistake")
    give_up = scene.handler.give_up
    refusals = iter([ValueError(), ValueError()])

    def give_up_late(chunk: Chunk[str], error: Exception) -> Output:
        for refusal in refusals:
            raise refusal
        return give_up(chunk, error)

    scene.handler.give_up = give_up_late  # type: ignore[method-assign]

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        while not scene.results:
            yield

    scene.run(script())
    assert scene.results == [b"gave up 0"]
    assert len(scene.handler.seen) == 5


@pytest.mark.parametrize("wrong", [[], [1, 0], [0, 1, 2], [0, 0]])
def test_outputs_that_do_not_match_the_records_count_as_an_exception(wrong: list[int]) -> None:
    scene = Scene()
    handle = scene.handler.handle
    records = [record(number) for number in range(3)]

    def handle_wrongly(chunk: Chunk[str], still_ours: Callable[[], bool]) -> Done[str] | Retry[str]:
        answer = handle(chunk, still_ours)
        if len(chunk.records) == 2 and isinstance(answer, Done):
            return Done(chunk, outputs([records[number] for number in wrong]))
        return answer

    scene.handler.handle = handle_wrongly  # type: ignore[method-assign]
    scene.run(arriving(scene, [message(0), message(1)], 5))
    assert scene.results == [b"result of 0", b"result of 1"]
    assert scene.offsets == {A: 2}


@pytest.mark.parametrize("step", ["revoke", "stop"])
def test_a_chunk_that_raises_during_a_drain_is_left_to_the_next_owner(step: str) -> None:
    scene = Scene()
    scene.handler.raises[0] = ZeroDivisionError("a mistake")

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        scene.pool.takes = 0.5
        yield
        if step == "revoke":
            scene.consumer.revoke(A)

    scene.run(script())
    assert scene.committed == []
    assert scene.consumer.is_closed


# settings that change


def test_a_reload_is_asked_for_once() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        yield
        scene.member.reload()
        yield
        yield

    scene.run(script())
    assert scene.reloads == [False, False, True, False]


def held(scene: Scene) -> Generator[None]:
    """A held handler, and a flood of dead letters."""
    scene.consumer.assign(A, B)
    scene.consumer.arrived = [message(0)]
    yield
    scene.handler.letter = LETTER
    scene.consumer.arrived = [message(0, B)]
    yield
    yield
    assert scene.handler.seen == [[0], [0]]
    assert scene.committed == []


def test_a_requested_reload_releases_floods_and_retries_held_chunks_at_once() -> None:
    scene = Scene(flood_window=1)
    scene.handler.answers.append(HELD)

    def script() -> Generator[None]:
        yield from held(scene)
        scene.handler.letter = None
        scene.member.reload()
        yield
        yield

    scene.run(script())
    assert scene.offsets == {A: 1, B: 1}
    assert [entry["on"] for entry in scene.logged("trying_again")] == [["site"]]
    assert [entry["topics"] for entry in scene.logged("flood_released")] == [("orders",)]


def test_a_reload_without_a_flood_releases_nothing() -> None:
    scene = Scene(flood_window=1)

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.member.reload()
        yield
        scene.handler.letter = LETTER
        scene.consumer.arrived = [message(0)]
        yield from turns(3)

    scene.run(script())
    assert scene.committed == []  # it is held: the reload released nothing in advance
    assert scene.logged("flood_released") == []


@pytest.mark.parametrize("asked", [True, False])
def test_refused_or_unchanged_settings_release_nothing(*, asked: bool) -> None:
    scene = Scene(flood_window=1)
    scene.handler.answers.append(HELD)
    scene.takes_over = False

    def script() -> Generator[None]:
        yield from held(scene)
        if asked:
            scene.member.reload()
        yield from turns(5)

    scene.run(script())
    assert scene.handler.seen == [[0], [0]]
    assert scene.committed == []


def test_settings_that_change_without_a_request_retry_held_chunks_and_release_no_flood() -> None:
    scene = Scene(flood_window=1)
    scene.handler.answers.append(HELD)
    scene.takes_over = False

    def script() -> Generator[None]:
        yield from held(scene)
        scene.takes_over = True
        yield from turns(2)

    scene.run(script())
    assert scene.handler.seen == [[0], [0], [0]]
    assert scene.committed == []
    assert set(scene.reloads) == {False}


def test_changed_connection_settings_make_the_member_commit_chunks_in_flight_and_rejoin() -> None:
    scene = Scene()

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        yield
        scene.pool.takes = 1.0
        scene.consumer.arrived = [message(0)]
        yield
        scene.reconnects = True
        while len(scene.clients.consumers) < 2:
            yield
        assert scene.offsets == {A: 1}
        scene.consumer.assign(A)
        yield
        yield

    scene.run(script())
    assert scene.clients.consumers[0].is_closed
    assert len(scene.started) == 2
    assert [line["reason"] for line in scene.logged("rejoining")] == [
        "the settings of the connection to Kafka changed"
    ]


@pytest.mark.parametrize(
    "code", [KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED]
)
def test_refused_credentials_are_shown_until_records_arrive(code: int) -> None:
    scene = Scene()
    scene.hooks.is_watching = True

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        yield
        assert scene.hooks.views[-1].refusal is None
        scene.consumer.on_error(KafkaError(code, "wrong password"))
        scene.consumer.on_error(TRANSIENT)
        yield
        yield
        assert scene.hooks.views[-1].refusal == "wrong password"
        scene.consumer.arrived = [end(0)]
        yield
        yield
        assert scene.hooks.views[-1].refusal is None

    scene.run(script())


def test_a_held_chunk_is_retried_after_the_hold_interval() -> None:
    scene = Scene()
    scene.handler.answers.append(HELD)
    tried: list[float] = []

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        scene.handler.meanwhile = lambda: tried.append(scene.clock.now)
        while not scene.results:
            yield

    scene.run(script())
    assert tried[1] - tried[0] == pytest.approx(20, abs=0.2)


# surroundings


def test_the_surroundings_are_real_by_default() -> None:
    log, _ = capture()
    around = Surroundings[str](log)
    assert type(around.clock) is Clock
    assert around.chance is random.random
    assert around.workers is Workers
    assert around.watchdog is Watchdog
    assert around.call_within is call_within


# hooks


def test_the_hooks_are_called_in_order() -> None:
    scene = Scene()
    scene.handler.answers.append(DOWN)

    def script() -> Generator[None]:
        scene.consumer.assign(A, B)
        scene.clients.producers[-1].fail("produce", ABORTABLE)
        scene.consumer.arrived = [message(0), message(0, B), message(1), end(2)]
        scene.consumer.on_statistics('{"a": 1}')
        while A not in scene.offsets or B not in scene.offsets:
            yield
        scene.consumer.revoke(B)

    scene.run(script())
    assert scene.hooks.heard[:4] == [
        ("assigned", [A, B]),
        ("statistics", '{"a": 1}'),
        ("received", {"orders": 3}),
        ("retried", DOWN),
    ]
    assert scene.hooks.heard[4] == "aborted"
    assert ("committed", [0], 0.0) in scene.hooks.heard
    assert ("committed", [0, 1], 0.0) in scene.hooks.heard
    assert scene.hooks.heard[-2:] == [("revoked", [B]), ("revoked", [A])]
    assert [line["partitions"] for line in scene.logged("assigned")] == [["orders/0", "orders/1"]]
    assert [line["partitions"] for line in scene.logged("revoked")] == [["orders/1"], ["orders/0"]]


def test_a_poll_without_records_calls_no_hook() -> None:
    scene = Scene()
    scene.run(arriving(scene, [end(0)], 3))
    assert scene.hooks.heard == [("assigned", [A]), ("revoked", [A])]


def test_a_retry_of_a_dropped_lane_is_not_counted() -> None:
    scene = Scene()
    scene.handler.answers.append(DOWN)

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        scene.pool.takes = NEVER
        yield
        scene.consumer.lose(A)
        scene.pool.finish()
        yield

    scene.run(script())
    assert scene.handler.seen == [[0]]
    assert ("retried", DOWN) not in scene.hooks.heard


def test_a_view_is_given_when_it_is_due_and_shows_the_state_of_the_member() -> None:
    scene = Scene(flood_window=1)
    scene.handler.answers.append(HELD)

    def script() -> Generator[None]:
        yield
        assert scene.hooks.views == []
        scene.hooks.is_watching = True
        yield from held(scene)
        view = scene.hooks.views[-1]
        assert [(lane.partition, lane.waiting, lane.finished) for lane in view.lanes] == [(A, 1, 0), (B, 0, 1)]
        assert view.now <= scene.clock.now
        assert view.gates == {"site": "our token is refused"}
        assert view.flooded == ("orders",)
        assert view.commit_trouble is None
        assert not view.is_stopping

    scene.run(script())
    assert scene.hooks.views[-1].is_stopping


def test_a_view_says_why_the_last_commit_failed() -> None:
    scene = Scene()
    scene.hooks.is_watching = True

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        scene.clients.producers[-1].fail("produce", ABORTABLE)
        yield
        yield
        while not scene.committed:
            assert scene.hooks.views[-1].commit_trouble == ABORTABLE.str()
            yield

    scene.run(script())
    assert scene.hooks.views[-1].commit_trouble is None
    assert scene.hooks.views[-1].flooded == ()


def test_an_error_that_a_hook_raises_ends_the_member() -> None:
    scene = Scene()

    def fail(records: object) -> None:
        raise WriterLost("never") if not records else ArithmeticError("a hook's mistake")

    scene.hooks.received = fail  # type: ignore[method-assign]

    def script() -> Generator[None]:
        scene.consumer.assign(A)
        scene.consumer.arrived = [message(0)]
        yield

    with pytest.raises(ArithmeticError):
        scene.run(script())
    assert scene.consumer.is_closed
