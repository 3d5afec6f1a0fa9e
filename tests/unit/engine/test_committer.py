"""When and how finished outputs are committed."""

import pytest
from confluent_kafka import KafkaError

from consumer.engine.ahead import Ahead, Blocker, read
from consumer.engine.backoff import Backoff
from consumer.engine.committer import Committer
from consumer.engine.errors import WriterFenced, WriterLost
from consumer.engine.flood import FloodGuard
from consumer.engine.lane import Lane
from consumer.engine.ports import Trouble
from consumer.engine.records import FAILING, DeadLetter, Output, Partition
from consumer.engine.writer import Writer
from tests.unit.engine.scripted import (
    ABORTABLE,
    BACKOFF,
    BOUNDS,
    FENCED,
    GROUP,
    LETTER,
    REFUSED,
    TRANSIENT,
    A,
    B,
    C,
    HandClock,
    RecordingHooks,
    ScriptedProducer,
    Transaction,
    brief,
    capture,
    chance,
    outputs,
    record,
)

CART = Partition("carts", 0)


class Office:
    """A committer with three lanes. Tests say which records each finishes."""

    def __init__(self, window: int = 10, backoff: Backoff = BACKOFF) -> None:
        self.clock = HandClock()
        self.producer = ScriptedProducer(self.clock)
        log, self.log = capture()
        self.noted: list[Output] = []
        self.read_back: list[Partition] = []
        self.committer = Committer[str](
            lambda: FloodGuard(window, 0.5),
            brief,
            self.noted.extend,
            self.read_back.extend,
            backoff,
            self.clock,
            chance,
            log,
        )
        self.lanes = {partition: Lane[str](partition, 1, BOUNDS) for partition in (A, B, C, CART)}
        self._writer = Writer(
            self.producer,
            ("results", "dead-letters"),
            "shop",
            RecordingHooks(),
            self.clock,
            self.producer.call_within,
        )

    def finish(self, partition: Partition, *offsets: int, letter: DeadLetter | None = None) -> None:
        lane = self.lanes[partition]
        for offset in offsets:
            lane.add(record(offset, partition))
        lane.finish(lane.main, outputs(lane.dispatch(lane.main).records, letter))

    def commit(self, within: float = 5.0) -> list[Transaction]:
        """Commit once, and return the committed transactions."""
        before = len(self.producer.committed)
        self.committer.commit(self.lanes.values(), self._writer, lambda: GROUP, within)
        return self.producer.committed[before:]


def offsets(transactions: list[Transaction]) -> list[dict[Partition, int] | None]:
    return [transaction.offsets for transaction in transactions]


@pytest.fixture
def office() -> Office:
    return Office()


def test_all_finished_outputs_go_in_one_transaction(office: Office) -> None:
    office.finish(A, 0, 1)
    office.finish(B, 4)
    [transaction] = office.commit()
    assert transaction.results == [b"result of 0", b"result of 1", b"result of 4"]
    assert transaction.offsets == {A: 2, B: 5}
    assert transaction.group == GROUP
    assert [lane.finished for lane in office.lanes.values()] == [[], [], [], []]
    assert [output.record.offset for output in office.noted] == [0, 1, 4]
    assert office.committer.trouble is None
    assert office.commit() == []


def test_no_transaction_begins_without_anything_to_commit(office: Office) -> None:
    assert office.commit() == []
    assert office.producer.calls == []


def test_results_always_go_with_their_offsets(office: Office) -> None:
    for offset in range(3):
        office.finish(A, offset)
        [transaction] = office.commit()
        assert (transaction.results, transaction.offsets) == ([b"result of %d" % offset], {A: offset + 1})


# ends


def test_ends_are_committed_at_most_once_a_second_and_only_if_they_changed(office: Office) -> None:
    office.lanes[A].at_end(3)
    assert offsets(office.commit()) == [{A: 3}]
    office.lanes[A].at_end(4)
    office.lanes[B].at_end(7)
    office.clock.now += 0.99
    assert office.commit() == []
    office.clock.now += 0.01
    assert offsets(office.commit()) == [{A: 4, B: 7}]
    office.clock.now += 100
    assert office.commit() == []


def test_an_end_goes_at_once_only_with_results_of_its_own_lane(office: Office) -> None:
    office.finish(A, 0)
    office.commit()
    office.finish(A, 1)
    office.lanes[A].at_end(3)
    office.lanes[B].at_end(7)
    assert offsets(office.commit()) == [{A: 3}]
    office.clock.now += 1
    assert offsets(office.commit()) == [{B: 7}]


def test_the_second_starts_at_the_last_commit_of_ends(office: Office) -> None:
    office.clock.now += 50
    office.finish(A, 0)
    assert offsets(office.commit()) == [{A: 1}]
    office.lanes[B].at_end(7)
    office.clock.now += 0.5
    assert office.commit() == []
    office.finish(A, 1)
    assert offsets(office.commit()) == [{A: 2}]
    office.clock.now += 0.5
    assert offsets(office.commit()) == [{B: 7}]


# aborts


def test_after_an_abort_each_lane_has_its_own_transaction_until_all_succeed(office: Office) -> None:
    office.finish(A, 0)
    office.finish(B, 0)
    office.producer.fail("produce", ABORTABLE)
    assert office.commit() == []
    assert office.committer.trouble == ABORTABLE.str()
    office.clock.now += 1
    assert offsets(office.commit()) == [{A: 1}, {B: 1}]
    assert office.committer.trouble is None
    office.finish(A, 1)
    office.finish(B, 1)
    assert offsets(office.commit()) == [{A: 2, B: 2}]


def test_an_output_that_can_not_be_written_stops_only_its_own_lane(office: Office) -> None:
    office.committer.brief = lambda output: output  # it can't be made smaller
    office.producer.largest["results"] = len(b"result of 0") + len(record(0).key or b"")
    office.finish(A, 1000)
    office.finish(B, 0)
    assert office.commit() == []
    assert offsets(office.commit()) == [{B: 1}]
    for number in range(1, 4):
        office.finish(B, number)
        assert offsets(office.commit()) == [{B: number + 1}]
        assert office.committer.trouble is not None
    office.producer.largest.clear()
    assert office.commit() == []  # its backoff is not over
    office.clock.now += 2
    assert offsets(office.commit()) == [{A: 1001}]
    assert office.committer.trouble is None


def test_the_backoff_after_aborts_grows_until_the_first_success(office: Office) -> None:
    office.finish(A, 0)
    for delay in (1, 2, 4, 8, 8):
        office.producer.fail("produce", ABORTABLE)
        office.commit()
        calls = len(office.producer.calls)
        office.clock.now += delay - 0.01
        assert office.commit() == []
        assert len(office.producer.calls) == calls
        office.clock.now += 0.01
    assert len(office.commit()) == 1
    office.finish(A, 1)
    office.producer.fail("produce", ABORTABLE)
    office.commit()
    office.clock.now += 1
    assert len(office.commit()) == 1


def test_an_abort_is_logged_with_its_reason(office: Office) -> None:
    office.finish(A, 0, 1)
    office.producer.fail("offsets", REFUSED)
    office.commit()
    assert office.log.entries == [
        {"event": "commit_aborted", "log_level": "warning", "reason": "not allowed", "records": 2}
    ]


def test_the_transactions_of_one_commit_share_its_time_limit(office: Office) -> None:
    office.finish(A, 0)
    office.finish(B, 0)
    office.producer.fail("produce", ABORTABLE)
    office.commit()
    office.clock.now += 1
    office.producer.fail("produce", BufferError("full"), times=7)
    del office.producer.timeouts[:]
    assert len(office.commit(within=2.0)) == 2
    assert office.producer.timeouts == pytest.approx([1.3, 1.0] * 2)


@pytest.mark.parametrize(("error", "kind"), [(FENCED, WriterFenced), (TRANSIENT, WriterLost)])
def test_a_lost_writer_is_raised_and_nothing_counts_as_committed(
    office: Office, error: KafkaError, kind: type[Exception]
) -> None:
    office.finish(A, 0)
    office.producer.fail("commit", error, times=None)
    with pytest.raises(kind):
        office.commit()
    assert office.lanes[A].offset == 1
    assert len(office.lanes[A].finished) == 1


def test_a_trouble_is_forgotten_with_its_lanes(office: Office) -> None:
    office.finish(A, 0)
    office.producer.fail("commit", ABORTABLE)
    office.commit()
    assert office.committer.trouble
    lanes, office.lanes = office.lanes, {B: office.lanes[B]}
    office.commit()
    assert office.committer.trouble is None
    office.lanes = lanes
    office.clock.now += 1
    office.finish(B, 0)
    assert offsets(office.commit()) == [{A: 1, B: 1}]  # together again


# floods


def test_a_flood_is_held_and_logged_once_and_none_of_it_is_written(office: Office) -> None:
    office.finish(A, 0, 1, 2, 3)
    office.finish(A, 4, 5, 6, 7, letter=LETTER)
    office.finish(B, 0, 1, letter=LETTER)
    office.finish(C, 0)
    for _ in range(3):
        assert office.commit() == []
        office.clock.now += 5
    assert office.committer.flooded == ("orders",)
    assert office.producer.calls == []
    assert office.log.entries == [
        {
            "event": "held",
            "log_level": "error",
            "on": "orders",
            "cause": "flood",
            "reason": "too many dead letters, now 6 of 11 records, so the topic is paused; "
            "find the cause, then send SIGHUP to let one window of records through",
        }
    ]
    assert office.committer.trouble is None


def test_records_of_a_site_that_was_given_up_do_not_count_as_a_flood(office: Office) -> None:
    given_up = DeadLetter(FAILING, "503, for everything sent to this site, while other sites worked", 10)
    for first in range(0, 40, 4):
        office.finish(A, *range(first, first + 4), letter=given_up)
    assert offsets(office.commit()) == [{A: 40}]
    office.finish(B, 0, 1, 2, 3, letter=LETTER)
    office.finish(A, 40, 41, letter=given_up)
    assert offsets(office.commit()) == [{A: 42, B: 4}]
    office.finish(B, 4, 5, 6, 7, letter=LETTER)
    office.finish(C, 0, 1, letter=LETTER)
    assert office.commit() == []  # nor do they hide one
    assert office.committer.flooded == ("orders",)


def test_a_released_flood_is_written(office: Office) -> None:
    office.finish(A, 0, 1, 2, 3, letter=LETTER)
    office.finish(B, 0, 1, 2, 3, letter=LETTER)
    office.finish(C, 0, 1, 2, 3, letter=LETTER)
    assert office.commit() == []
    office.committer.release()
    assert offsets(office.commit()) == [{A: 4, B: 4, C: 4}]
    assert len(office.producer.committed[0].produced) == 24


def test_only_written_records_count_towards_a_flood(office: Office) -> None:
    office.finish(A, 0, 1, 2, 3, letter=LETTER)
    for _ in range(4):  # these would be four letters each time
        office.producer.fail("produce", ABORTABLE)
        office.commit()
        office.clock.now += 8
    assert len(office.commit()) == 1
    assert not office.committer.flooded
    office.finish(B, 0, 1, 2, 3)
    assert len(office.commit()) == 1
    office.finish(B, 4, 5, letter=LETTER)
    assert office.commit() == []  # six of ten


def test_an_abort_does_not_use_up_a_release(office: Office) -> None:
    office.finish(A, *range(4), letter=LETTER)
    office.finish(A, *range(4, 8), letter=LETTER)
    office.finish(B, *range(4), letter=LETTER)
    assert office.commit() == []
    office.committer.release()
    office.producer.fail("produce", ABORTABLE)
    assert office.commit() == []
    office.clock.now += 1
    assert offsets(office.commit()) == [{A: 8}, {B: 4}]


def test_a_flood_holds_only_its_own_topic() -> None:
    office = Office(window=4)
    office.finish(A, 0, 1, 2, 3, letter=LETTER)
    office.finish(CART, 0, 1, letter=LETTER)
    assert offsets(office.commit()) == [{CART: 2}]
    office.finish(CART, 2, 3)
    office.finish(B, 0)
    assert offsets(office.commit()) == [{CART: 4}]
    assert office.committer.flooded == ("orders",)
    office.committer.release()
    assert offsets(office.commit()) == [{A: 4, B: 1}]
    assert not office.committer.flooded
    assert [line["topics"] for line in office.log.entries if line["event"] == "flood_released"] == [("orders",)]
    office.committer.release()
    assert [line["event"] for line in office.log.entries] == ["held", "flood_released"]


def test_a_release_does_not_change_the_guards_of_other_topics() -> None:
    office = Office(window=2)
    office.finish(A, 0, 1, letter=LETTER)
    office.finish(CART, 0)
    office.commit()
    office.committer.release()
    office.finish(CART, 1, 2, letter=LETTER)
    office.commit()
    assert office.committer.flooded == ("carts",)


def test_a_flood_also_holds_the_ends_of_its_topic() -> None:
    office = Office(window=2)
    office.finish(A, 0, 1, letter=LETTER)
    office.commit()
    office.lanes[B].at_end(7)
    office.lanes[CART].at_end(3)
    office.clock.now += 1
    assert offsets(office.commit()) == [{CART: 3}]


def flooded_after_an_abort() -> Office:
    """Return an office in which a transaction of A was aborted, and then the topic was flooded."""
    office = Office(window=2)
    office.finish(A, 0)
    office.producer.fail("produce", ABORTABLE)
    office.commit()
    office.finish(B, 0, 1, letter=LETTER)
    office.finish(C, 0)
    office.clock.now += 1
    assert office.commit() == []
    assert office.committer.flooded == ("orders",)
    return office


def test_an_aborted_commit_is_no_trouble_while_its_topic_is_flooded() -> None:
    office = flooded_after_an_abort()
    office.commit()
    assert office.committer.trouble is None


def test_a_flood_also_holds_its_topic_when_lanes_commit_one_by_one() -> None:
    office = flooded_after_an_abort()
    office.committer.release()
    assert offsets(office.commit()) == [{B: 2, C: 1}, {A: 1}]


# sizes


def refuse(_: Output) -> Output:
    raise ZeroDivisionError


def large(office: Office, *offsets: int, letter: DeadLetter | None = None) -> None:
    """Let lane A finish records. Some of their results are too large for the results topic."""
    lane = office.lanes[A]
    for offset in range(4):
        lane.add(record(offset))
    finished = [
        Output(each, b"L" * 100 if each.offset in offsets else b"result of %d" % each.offset, letter)
        for each in lane.dispatch(lane.main).records
    ]
    lane.finish(lane.main, finished)
    office.producer.largest["results"] = 50


def test_only_a_result_that_is_too_large_is_shortened(
    office: Office,
) -> None:
    large(office, 2)
    office.finish(B, 0)
    while any(lane.finished for lane in office.lanes.values()):
        office.commit()
    produced = [each for transaction in office.producer.committed for each in transaction.produced]
    assert sorted((value, key) for _, key, value, _ in produced if value) == [
        (b"brief", b"orders/0/2"),
        (b"result of 0", b"key"),
        (b"result of 0", b"key"),
        (b"result of 1", b"key"),
        (b"result of 3", b"key"),
    ]
    assert office.lanes[A].committed_offset == 4
    assert office.clock.now == 1000  # there was nothing to wait for
    assert office.committer.trouble is None


def test_every_result_may_be_too_large(office: Office) -> None:
    large(office, 0, 1, 2, 3)
    while office.lanes[A].finished:
        office.commit()
    results = [value for transaction in office.producer.committed for value in transaction.results]
    assert results == [b"brief"] * 4
    assert office.lanes[A].held_records == 0
    assert office.lanes[A].held_bytes == 0


@pytest.mark.parametrize("raises", [True, False])
def test_a_result_that_is_too_large_even_when_shortened_stops_its_own_lane_and_says_what_to_do(
    office: Office, *, raises: bool
) -> None:
    large(office, 1)
    office.producer.largest["results"] = 3 if not raises else 50
    if raises:
        office.committer.brief = refuse
        office.finish(B, 0)
    for _ in range(10):
        office.commit()
        office.clock.now += 8
    assert office.committer.trouble == "results: too large; raise max.message.bytes of results"
    assert office.lanes[A].committed_offset == (1 if raises else None)
    assert office.lanes[B].committed_offset == (1 if raises else None)
    assert len(office.producer.aborted) < 20
    office.producer.largest.clear()
    while office.lanes[A].finished:
        office.commit()
    assert office.lanes[A].committed_offset == 4


def test_a_dead_letter_that_is_too_large_waits_together_with_its_result(office: Office) -> None:
    large(office, letter=LETTER)
    office.producer.largest["dead-letters"] = 5
    for _ in range(5):
        office.commit()
        office.clock.now += 8
    assert office.producer.committed == []
    assert office.committer.trouble == "dead-letters: too large; raise max.message.bytes of dead-letters"


def test_transactions_grow_again_once_the_large_one_is_through(office: Office) -> None:
    large(office, 0)
    while office.lanes[A].finished:
        office.commit()
    office.finish(A, 4, 5, 6, 7)
    assert [transaction.results for transaction in office.commit()] == [[b"result of %d" % n for n in (4, 5, 6, 7)]]


# what blocks an offset

DOWN = Trouble("schema registry", "registry", "the registry is down")


def blockers(transactions: list[Transaction]) -> list[dict[Partition, Ahead]]:
    return [
        {each: read((transaction.offsets or {})[each], text) for each, text in transaction.beside.items()}
        for transaction in transactions
    ]


def blocked(office: Office, offset: int = 5) -> None:
    """Let the next record of A fail, after an offset was committed."""
    lane = office.lanes[A]
    lane.keeps_ahead, lane.topic_id = True, "id"
    lane.begin((), offset)
    lane.add(record(offset, A))
    lane.dispatch(lane.main)
    lane.main.retry(DOWN, office.clock.now, office.clock.now + 9, "schema registry")


def test_what_blocks_a_partition_is_written_with_its_last_offset_once(office: Office) -> None:
    blocked(office)
    office.clock.now += 5
    since = office.clock.epoch_ms() // 1000 - 5
    told = office.commit()
    assert offsets(told) == [{A: 5}]
    assert blockers(told) == [{A: Ahead((), "id", Blocker(since, "registry", "schema registry"))}]
    assert told[0].results == []
    office.clock.now += 50
    assert office.commit() == []


def test_what_no_longer_blocks_a_partition_is_taken_back(office: Office) -> None:
    blocked(office)
    office.commit()
    lane = office.lanes[A]
    chunk = lane.dispatch(lane.main)
    office.clock.now += 5
    lane.finish(lane.main, outputs(chunk.records))
    lane.main.go_on()
    told = office.commit()
    assert offsets(told) == [{A: 6}]
    assert blockers(told) == [{A: Ahead((), "id")}]
    office.clock.now += 5
    assert office.commit() == []


def test_a_new_owner_takes_back_what_an_earlier_one_wrote(office: Office) -> None:
    lane = office.lanes[A]
    lane.keeps_ahead, lane.topic_id = True, "id"
    lane.begin(((7, 9),), 5, Blocker(1, "503", "site"))
    assert blockers(office.commit()) == [{A: Ahead(((7, 9),), "id")}]


def test_the_runs_decided_beyond_the_offset_stay_in_its_metadata(office: Office) -> None:
    lane = office.lanes[A]
    lane.keeps_ahead, lane.topic_id = True, "id"
    lane.begin(((7, 9),), 5)
    for offset in (5, 6):
        lane.add(record(offset, A))
    lane.dispatch(lane.main)
    lane.main.retry(DOWN, office.clock.now, office.clock.now + 9, None)
    told = office.commit()
    assert offsets(told) == [{A: 5}]
    assert [ahead[A].runs for ahead in blockers(told)] == [((7, 9),)]


def test_a_flood_is_written_as_what_blocks_its_partitions(office: Office) -> None:
    lane = office.lanes[A]
    lane.keeps_ahead, lane.topic_id = True, "id"
    lane.begin((), 0)
    office.finish(A, *range(4), letter=LETTER)
    office.finish(B, *range(4), letter=LETTER)
    office.finish(C, *range(4), letter=LETTER)
    told = office.commit()
    assert offsets(told) == [{A: 0}]  # the offsets of the others are not known
    assert blockers(told)[0][A].blocker == Blocker(office.clock.epoch_ms() // 1000, "flood", "orders")


def test_nothing_is_written_without_a_known_offset_or_where_kafka_drops_metadata(office: Office) -> None:
    blocked(office)
    office.lanes[A].begin((), None)
    assert office.commit() == []
    office.lanes[A].begin((), 5)
    office.lanes[A].keeps_ahead = False
    office.clock.now += 5
    assert office.commit() == []


def test_what_blocks_a_partition_is_written_later_if_the_transaction_is_aborted(office: Office) -> None:
    blocked(office)
    office.producer.fail("offsets", ABORTABLE)
    assert office.commit() == []
    assert office.committer.trouble is None
    office.clock.now += 5
    assert offsets(office.commit()) == [{A: 5}]
