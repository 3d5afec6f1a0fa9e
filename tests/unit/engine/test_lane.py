"""One lane: its records, its chunks, and what it has to commit."""

from hypothesis import given
from hypothesis import strategies as st

from consumer.engine.ahead import Runs
from consumer.engine.lane import Lane
from consumer.engine.ports import Apart, Chunk, Trouble
from consumer.engine.records import Record
from consumer.engine.strand import Bounds
from tests.unit.engine.scripted import BOUNDS, A, outputs
from tests.unit.engine.scripted import record as record_of

DOWN = Trouble("site", "503", "the site is down")
SUSPECT = Trouble("site", "500", "one of these is the cause", isolating=True)


def record(offset: int, size: int = 10) -> Record:
    return record_of(offset, value=b"x" * (size - len(b"key")))


def lane_of(*records: Record) -> Lane[str]:
    lane = Lane[str](A, 1, BOUNDS, keeps_ahead=True)
    for each in records:
        lane.add(each)
    return lane


def dispatched(lane: Lane[str]) -> Chunk[str]:
    return lane.dispatch(lane.main)


def finish(lane: Lane[str]) -> None:
    lane.finish(lane.main, outputs(dispatched(lane).records))


def offsets(chunk: Chunk[str]) -> list[int]:
    return [each.offset for each in chunk.records]


def held(lane: Lane[str]) -> tuple[int | None, int | None]:
    return lane.oldest, lane.newest


def test_a_new_lane_holds_nothing() -> None:
    lane = lane_of()
    assert (lane.partition, lane.epoch, lane.main.failures, lane.main.due) == (A, 1, 0, 0.0)
    assert (lane.held_records, lane.held_bytes, lane.records_in_flight) == (0, 0, 0)
    assert not lane.has_work(lane.main)
    assert not lane.in_flight
    assert lane.paused is None
    assert held(lane) == (None, None)
    assert (lane.finished, lane.offset, lane.committed_offset) == ([], None, None)


def test_a_chunk_takes_all_waiting_records_up_to_its_bounds() -> None:
    assert offsets(dispatched(lane_of(*map(record, range(3))))) == [0, 1, 2]
    assert offsets(dispatched(lane_of(*map(record, range(9))))) == [0, 1, 2, 3]
    assert offsets(dispatched(lane_of(record(0, 60), record(1, 40), record(2, 3)))) == [0, 1]
    assert offsets(dispatched(lane_of(record(0, 60), record(1, 41)))) == [0]
    assert offsets(dispatched(lane_of(record(0, 5000), record(1)))) == [0]


def test_a_chunk_has_its_partition_and_epoch() -> None:
    chunk = dispatched(lane_of(record(0)))
    assert (chunk.partition, chunk.epoch, chunk.work, chunk.attempts) == (A, 1, None, 0)


def test_a_retried_chunk_keeps_its_records_and_takes_more() -> None:
    lane = lane_of(record(0, 60), record(1))
    first = dispatched(lane)
    assert not lane.has_work(lane.main)
    assert (lane.in_flight, lane.records_in_flight) == (True, 2)
    lane.add(record(2, 30))
    lane.add(record(3, 3))
    lane.main.retry(DOWN, 0.0, 5.0, "site")
    assert (lane.main.due, lane.main.waits_for, lane.main.trouble, lane.main.failures) == (5.0, "site", DOWN, 1)
    assert (lane.in_flight, lane.records_in_flight) == (False, 0)
    assert lane.has_work(lane.main)
    again = dispatched(lane)
    assert again is first
    assert offsets(again) == [0, 1, 2]


def test_the_offset_is_the_next_one_to_read_even_after_gaps() -> None:
    lane = lane_of(record(3), record(7))
    assert lane.offset is None
    finish(lane)
    assert lane.offset == 8
    assert (lane.held_records, lane.held_bytes) == (2, 20)
    lane.committed()
    assert (lane.held_records, lane.held_bytes, lane.finished) == (0, 0, [])
    assert (lane.committed_offset, lane.offset) == (8, None)


def test_each_commit_of_results_has_an_offset() -> None:
    lane = lane_of(record(0))
    finish(lane)
    lane.committed()
    lane.add(record(1))
    finish(lane)
    assert lane.offset == 2
    lane.committed()
    assert lane.committed_offset == 2


def test_only_one_more_chunk_may_go_while_outputs_wait_for_their_commit() -> None:
    lane = lane_of(*map(record, range(12)))
    finish(lane)
    assert lane.has_work(lane.main)
    finish(lane)
    assert not lane.has_work(lane.main)
    assert [output.record.offset for output in lane.finished] == list(range(8))
    assert lane.offset == 8
    lane.committed()
    assert lane.has_work(lane.main)
    assert lane.held_records == 4


def test_a_finished_chunk_clears_the_trouble() -> None:
    lane = lane_of(record(0), *map(record, range(1, 6)))
    dispatched(lane)
    lane.main.retry(SUSPECT, 0.0, 5.0, "site")
    chunk = dispatched(lane)
    lane.finish(lane.main, outputs(chunk.records))
    lane.main.go_on()
    assert (lane.main.failures, lane.main.due, lane.main.waits_for, lane.main.trouble) == (0, 0.0, None, None)
    assert not lane.in_flight
    assert dispatched(lane) is not chunk


def test_an_empty_lane_commits_the_end_of_its_partition() -> None:
    lane = lane_of(record(0), record(1))
    lane.at_end(4)
    assert lane.offset is None
    finish(lane)
    assert lane.offset == 4
    lane.committed()
    assert (lane.committed_offset, lane.offset) == (4, None)


def test_the_end_is_not_committed_while_the_lane_has_records() -> None:
    lane = lane_of(*map(record, range(5)))
    lane.at_end(9)
    finish(lane)
    assert lane.offset == 4
    lane.committed()
    assert lane.offset is None
    finish(lane)
    assert lane.offset == 9


def test_a_later_record_makes_the_end_unknown_again() -> None:
    lane = lane_of(record(0))
    lane.at_end(3)
    lane.add(record(4))
    finish(lane)
    assert lane.offset == 5
    lane.committed()
    assert lane.offset is None


def test_outputs_always_have_an_offset_even_if_it_was_committed_before() -> None:
    lane = lane_of(record(0))
    finish(lane)
    lane.at_end(1)
    lane.committed()
    lane.add(record(0))  # the log was truncated, or its topic created again
    finish(lane)
    lane.at_end(1)
    assert (len(lane.finished), lane.offset) == (1, 1)


def test_a_later_end_is_committed_once_without_outputs() -> None:
    lane = lane_of(record(0))
    finish(lane)
    lane.committed()
    lane.at_end(1)
    assert lane.offset is None  # it is committed already
    lane.at_end(2)
    assert lane.offset == 2
    lane.committed()
    assert (lane.committed_offset, lane.offset) == (2, None)


def test_a_partition_that_never_had_a_record_has_nothing_to_commit() -> None:
    lane = lane_of()
    lane.at_end(0)
    assert lane.offset is None


def test_a_lane_is_full_by_records_or_bytes_in_any_state() -> None:
    lane = lane_of(*map(record, range(9)))
    dispatched(lane)
    assert not lane.is_full
    lane.add(record(9))
    assert lane.is_full
    assert lane_of(record(0, 1000)).is_full
    assert not lane_of(record(0, 999)).is_full


def test_a_lane_is_half_empty_by_records_and_by_bytes() -> None:
    assert lane_of(*map(record, range(5))).is_half_empty
    assert not lane_of(*map(record, range(6))).is_half_empty
    assert lane_of(record(0, 500)).is_half_empty
    assert not lane_of(record(0, 501)).is_half_empty


def test_the_oldest_and_newest_record_may_be_in_any_state() -> None:
    lane = lane_of(*map(record, range(6)))
    assert held(lane) == (0, 5)
    chunk = dispatched(lane)
    assert held(lane) == (0, 5)
    lane.finish(lane.main, outputs(chunk.records))
    assert held(lane) == (0, 5)
    chunk = dispatched(lane)
    assert held(lane) == (0, 5)
    lane.committed()
    assert held(lane) == (4, 5)
    lane.finish(lane.main, outputs(chunk.records))
    assert held(lane) == (4, 5)
    lane.committed()
    assert held(lane) == (None, None)


def test_resuming_forgets_the_backoff_unless_a_suspect_is_isolated() -> None:
    lane = lane_of(record(0))
    dispatched(lane)
    lane.main.retry(DOWN, 0.0, 9.0, "site")
    lane.main.resume()
    assert (lane.main.due, lane.main.waits_for, lane.main.failures, lane.main.trouble) == (0.0, None, 1, DOWN)
    dispatched(lane)
    lane.main.retry(SUSPECT, 0.0, 9.0, "site")
    lane.main.resume()
    assert (lane.main.due, lane.main.waits_for, lane.main.failures) == (9.0, None, 2)


def test_a_lane_without_a_failure_of_its_own_resumes_too() -> None:
    lane = lane_of(record(0))
    lane.main.waits_for, lane.main.due = "site", 9.0
    lane.main.resume()
    assert lane.main.due == 0.0
    assert not lane.main.waits_for


STEPS = st.lists(
    st.sampled_from(["add", "add", "add", "gap", "end", "dispatch", "finish", "retry", "commit"]), max_size=60
)


@given(steps=STEPS, size=st.integers(3, 60))
def test_every_record_is_finished_once_in_order_and_counted_until_it_is_committed(
    steps: list[str], size: int
) -> None:
    lane = Lane[str](A, 1, Bounds(lane_records=10, lane_bytes=300, chunk_records=3, chunk_bytes=100))
    position, added, committed = 0, list[int](), list[int]()
    end: int | None = None
    chunk: Chunk[str] | None = None
    for step in steps:
        match step:
            case "add":
                lane.add(record(position, size))
                added.append(position)
                position, end = position + 1, None
            case "gap":
                position += 1
            case "end":
                lane.at_end(position)
                end = position
            case "dispatch" if lane.has_work(lane.main):
                assert chunk is None
                chunk = dispatched(lane)
                assert 1 <= len(chunk.records) <= 3
                assert len(chunk.records) == 1 or sum(each.size for each in chunk.records) <= 100
            case "finish" if chunk:
                lane.finish(lane.main, outputs(chunk.records))
                chunk = None
            case "retry" if chunk:
                lane.main.retry(DOWN, 0.0, 0.0, None)
                chunk = None
            case "commit" if lane.offset is not None:
                finished = [output.record.offset for output in lane.finished]
                is_all = len(committed) + len(finished) == len(added)
                assert lane.offset == (end if is_all and end else finished[-1] + 1)
                committed += finished
                lane.committed()
                assert lane.finished == []
                assert lane.offset is None
        left = added[len(committed) :]
        assert committed == added[: len(committed)]
        assert (lane.held_records, lane.held_bytes) == (len(left), len(left) * size)
        assert held(lane) == ((left[0], left[-1]) if left else (None, None))
        assert lane.in_flight == (chunk is not None)
        assert lane.records_in_flight == (len(chunk.records) if chunk else 0)


# strands


def apart(lane: Lane[str], strand: str, *offsets: int, now: float = 0.0) -> None:
    """Take back the main chunk: set these records apart, and decide all others."""
    chunk = lane.dispatch(lane.main)
    waiting = [each for each in chunk.records if each.offset in offsets]
    lane.finish(lane.main, outputs(each for each in chunk.records if each.offset not in offsets))
    names = [frozenset([strand])] * len(waiting)
    lane.set_apart(lane.main, Apart(strand, waiting, names, "tried"), 1, now)


def go_on(lane: Lane[str]) -> None:
    """Decide a chunk of each strand set apart."""
    for strand in lane.apart:
        lane.finish(strand, outputs(lane.dispatch(strand).records))
    lane.tidy()


def test_the_offset_stays_at_the_first_waiting_record_and_ahead_has_the_later_runs() -> None:
    lane = lane_of(*map(record, (0, 1, 2, 5)))
    apart(lane, "site", 1, 5)
    assert ([each.record.offset for each in lane.finished], lane.offset, lane.ahead) == ([0, 2], 1, ((2, 3),))
    lane.committed()
    assert (lane.held_records, lane.decided_ahead, lane.offset) == (2, 1, None)
    go_on(lane)
    assert (lane.offset, lane.ahead) == (6, ())
    lane.committed()
    assert (lane.held_records, lane.decided_ahead) == (0, 0)


def committable(lane: Lane[str]) -> tuple[list[int], int | None, Runs, bool]:
    return [each.record.offset for each in lane.finished], lane.offset, lane.ahead, lane.wants_ahead


def test_nothing_beyond_a_waiting_record_is_committed_before_kafka_is_known_to_keep_metadata() -> None:
    lane = lane_of(*map(record, (0, 1, 2, 5)))
    lane.keeps_ahead = None
    apart(lane, "site", 1, 5)
    assert committable(lane) == ([0], 1, (), True)
    lane.committed()
    assert committable(lane) == ([], 1, (), True)
    lane.learn(keeps_ahead=True)
    assert committable(lane) == ([2], 1, ((2, 3),), False)


def test_if_kafka_keeps_no_metadata_outputs_wait_for_earlier_records() -> None:
    lane = lane_of(*map(record, range(3)))
    lane.keeps_ahead = None
    apart(lane, "site", 0)
    assert committable(lane) == ([], 0, (), True)
    lane.learn(keeps_ahead=False)
    assert committable(lane) == ([], None, (), False)
    while lane.has_work(lane.main):  # bounded, and the strand may still go
        lane.add(record(lane.newest + 1 if lane.newest is not None else 0))
        finish(lane)
    assert len(lane._finished) <= 2 * BOUNDS.chunk_records
    assert lane.has_work(lane.apart[0])
    go_on(lane)
    count = len(lane._finished)
    assert committable(lane) == (list(range(count)), count, (), False)


def test_an_old_record_in_the_main_strand_goes_even_if_the_limit_of_outputs_waits_for_it() -> None:
    lane = lane_of(*map(record, range(7)))
    lane.keeps_ahead = False
    apart(lane, "site", 0)
    finish(lane)
    assert not lane.has_work(lane.main)
    strand = lane.apart[0]
    lane.dispatch(strand)
    strand.finish()
    lane.set_apart(strand, Apart("", [record(0)], [frozenset(["site"])]), 1, 0.0)
    lane.tidy()
    assert lane.has_work(lane.main)


def test_a_new_owner_skips_decided_records_and_commits_them_as_ahead_again() -> None:
    lane = lane_of(record(1), record(2), record(3))
    lane.begin(((2, 3), (4, 9)))
    lane.add(record(4))
    assert lane.held_records == 2
    apart(lane, "site", 1)
    assert ([each.record.offset for each in lane.finished], lane.offset, lane.ahead) == ([3], 1, ((2, 9),))
    lane.committed()
    for each in (5, 8, 9):
        lane.add(record(each))
    assert lane.held_records == 2
    go_on(lane)
    assert (lane.offset, lane.ahead) == (9, ())
    finish(lane)
    assert lane.offset == 10


def test_a_decided_record_is_skipped_even_if_the_offset_passed_it_before_it_came() -> None:
    lane = lane_of(record(0))
    lane.begin(((1, 10),))
    finish(lane)
    assert lane.offset == 10
    lane.committed()
    lane.add(record(3))
    assert lane.held_records == 0
    lane.add(record(10))
    assert lane.held_records == 1


def test_no_chunk_goes_before_the_runs_decided_ahead_are_known() -> None:
    lane = lane_of(record(0))
    lane.knows_ahead = False
    lane.at_end(1)
    assert not lane.has_work(lane.main)
    assert lane.offset is None
    lane.begin(())
    assert lane.has_work(lane.main)


def test_outputs_that_do_not_fit_in_the_metadata_wait_but_do_not_stop_the_strand() -> None:
    bounds = Bounds(lane_records=10_000, lane_bytes=10**9, chunk_records=4, chunk_bytes=10**6)
    lane = Lane[str](A, 1, bounds, keeps_ahead=True)
    offset, undecided = 0, []
    while len(lane.finished) == len(lane._finished) and offset < 40_000:
        for each in (offset, offset + 1, offset + 2, offset + 3):
            lane.add(record(each))
        apart(lane, "site", offset, offset + 2)
        undecided += [offset, offset + 2]
        offset += 4
        if lane.finished:
            lane.committed()
    assert 1400 < len(undecided) < 1500
    lane.add(record(offset))
    while lane.has_work(lane.main):
        finish(lane)
        lane.add(record(offset := offset + 1))
    assert len(lane._finished) <= 2 * 4
    for strand in lane.apart:
        if lane.has_work(strand):
            lane.finish(strand, outputs(lane.dispatch(strand).records))
        lane.committed()
    lane.tidy()
    assert lane.ahead == ()
    assert len(lane.finished) == len(lane._finished)


def test_a_lane_is_paused_only_if_waiting_records_leave_no_room() -> None:
    lane = lane_of(*map(record, range(4)))
    apart(lane, "site", 0, 1, 2)
    lane.committed()
    for each in range(4, 7):
        lane.add(record(each))
    assert lane.is_half_empty  # three of the seven that are left
    lane.add(record(7))
    assert not lane.is_half_empty
    for each in range(8, 11):
        lane.add(record(each))
    assert lane.is_full


def test_untried_records_rejoin_the_main_strand_once_nothing_blocks_them() -> None:
    lane = lane_of(*map(record, range(4)))
    chunk = lane.dispatch(lane.main)
    lane.finish(lane.main, outputs(chunk.records[:2]))
    lane.set_apart(lane.main, Apart("site", chunk.records[2:], [frozenset("k")] * 2), 1, 0.0)
    lane.add(record(4))
    lane.reunite(0.0)
    assert offsets(lane.dispatch(lane.main)) == [2, 3, 4]
