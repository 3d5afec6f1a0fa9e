"""One lane: what it holds, hands out, and has to commit."""

from hypothesis import given
from hypothesis import strategies as st

from consumer.engine.lane import Bounds, Lane
from consumer.engine.ports import Chunk, Trouble
from consumer.engine.records import Record
from tests.unit.engine.scripted import BOUNDS, A, outputs
from tests.unit.engine.scripted import record as record_of

DOWN = Trouble("site", "503", "the site is down")
SUSPECT = Trouble("site", "500", "one of these is the cause", isolating=True)


def record(offset: int, size: int = 10) -> Record:
    return record_of(offset, value=b"x" * (size - len(b"key")))


def lane_of(*records: Record) -> Lane[str]:
    lane = Lane[str](A, 1, BOUNDS)
    for each in records:
        lane.add(each)
    return lane


def finish(lane: Lane[str]) -> None:
    lane.finish(outputs(lane.dispatch().records))


def offsets(chunk: Chunk[str]) -> list[int]:
    return [each.offset for each in chunk.records]


def held(lane: Lane[str]) -> tuple[int | None, int | None]:
    return (lane.oldest.offset if lane.oldest else None, lane.newest.offset if lane.newest else None)


def test_a_new_lane_holds_nothing() -> None:
    lane = lane_of()
    assert (lane.partition, lane.epoch, lane.failures, lane.due) == (A, 1, 0, 0.0)
    assert (lane.held_records, lane.held_bytes, lane.records_in_flight) == (0, 0, 0)
    assert not lane.has_work
    assert not lane.in_flight
    assert lane.paused is None
    assert held(lane) == (None, None)
    assert (lane.finished, lane.offset, lane.committed_offset) == ([], None, None)


def test_a_chunk_takes_all_that_waits_up_to_its_bounds() -> None:
    assert offsets(lane_of(*map(record, range(3))).dispatch()) == [0, 1, 2]
    assert offsets(lane_of(*map(record, range(9))).dispatch()) == [0, 1, 2, 3]
    assert offsets(lane_of(record(0, 60), record(1, 40), record(2, 3)).dispatch()) == [0, 1]
    assert offsets(lane_of(record(0, 60), record(1, 41)).dispatch()) == [0]
    assert offsets(lane_of(record(0, 5000), record(1)).dispatch()) == [0]


def test_a_chunk_tells_its_partition_and_the_assignment() -> None:
    chunk = lane_of(record(0)).dispatch()
    assert (chunk.partition, chunk.epoch, chunk.work, chunk.attempts) == (A, 1, None, 0)


def test_a_chunk_that_is_retried_keeps_its_records_and_takes_on_more() -> None:
    lane = lane_of(record(0, 60), record(1))
    first = lane.dispatch()
    assert not lane.has_work
    assert (lane.in_flight, lane.records_in_flight) == (True, 2)
    lane.add(record(2, 30))
    lane.add(record(3, 3))
    lane.retry(DOWN, 5.0, "site")
    assert (lane.due, lane.waits_for, lane.trouble, lane.failures) == (5.0, "site", DOWN, 1)
    assert (lane.in_flight, lane.records_in_flight) == (False, 0)
    assert lane.has_work
    again = lane.dispatch()
    assert again is first
    assert offsets(again) == [0, 1, 2]


def test_the_offset_is_the_next_to_read_also_over_gaps() -> None:
    lane = lane_of(record(3), record(7))
    assert lane.offset is None
    finish(lane)
    assert lane.offset == 8
    assert (lane.held_records, lane.held_bytes) == (2, 20)
    lane.committed()
    assert (lane.held_records, lane.held_bytes, lane.finished) == (0, 0, [])
    assert (lane.committed_offset, lane.offset) == (8, None)


def test_each_commit_of_results_has_its_offset() -> None:
    lane = lane_of(record(0))
    finish(lane)
    lane.committed()
    lane.add(record(1))
    finish(lane)
    assert lane.offset == 2
    lane.committed()
    assert lane.committed_offset == 2


def test_one_chunk_may_go_ahead_of_a_commit_and_no_second() -> None:
    lane = lane_of(*map(record, range(12)))
    finish(lane)
    assert lane.has_work
    finish(lane)
    assert not lane.has_work
    assert [output.record.offset for output in lane.finished] == list(range(8))
    assert lane.offset == 8
    lane.committed()
    assert lane.has_work
    assert lane.held_records == 4


def test_a_finished_chunk_takes_its_trouble_with_it() -> None:
    lane = lane_of(record(0), *map(record, range(1, 6)))
    lane.dispatch()
    lane.retry(SUSPECT, 5.0, "site")
    chunk = lane.dispatch()
    lane.finish(outputs(chunk.records))
    assert (lane.failures, lane.due, lane.waits_for, lane.trouble) == (0, 0.0, None, None)
    assert not lane.in_flight
    assert lane.dispatch() is not chunk


def test_the_end_is_the_offset_once_nothing_else_is_held() -> None:
    lane = lane_of(record(0), record(1))
    lane.at_end(4)
    assert lane.offset is None
    finish(lane)
    assert lane.offset == 4
    lane.committed()
    assert (lane.committed_offset, lane.offset) == (4, None)


def test_the_end_does_not_go_before_what_is_held() -> None:
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


def test_an_end_that_is_known_later_is_committed_for_itself_and_once() -> None:
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


def test_a_lane_is_full_by_records_or_by_bytes_whatever_their_state() -> None:
    lane = lane_of(*map(record, range(9)))
    lane.dispatch()
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


def test_the_oldest_and_newest_are_found_wherever_they_are() -> None:
    lane = lane_of(*map(record, range(6)))
    assert held(lane) == (0, 5)
    chunk = lane.dispatch()
    assert held(lane) == (0, 5)
    lane.finish(outputs(chunk.records))
    assert held(lane) == (0, 5)
    chunk = lane.dispatch()
    assert held(lane) == (0, 5)
    lane.committed()
    assert held(lane) == (4, 5)
    lane.finish(outputs(chunk.records))
    assert held(lane) == (4, 5)
    lane.committed()
    assert held(lane) == (None, None)


def test_resuming_forgets_the_backoff_unless_a_suspect_is_isolated() -> None:
    lane = lane_of(record(0))
    lane.dispatch()
    lane.retry(DOWN, 9.0, "site")
    lane.resume()
    assert (lane.due, lane.waits_for, lane.failures, lane.trouble) == (0.0, None, 1, DOWN)
    lane.dispatch()
    lane.retry(SUSPECT, 9.0, "site")
    lane.resume()
    assert (lane.due, lane.waits_for, lane.failures) == (9.0, None, 2)


def test_a_lane_that_has_not_failed_itself_resumes_too() -> None:
    lane = lane_of(record(0))
    lane.waits_for, lane.due = "site", 9.0
    lane.resume()
    assert lane.due == 0.0
    assert not lane.waits_for


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
            case "dispatch" if lane.has_work:
                assert chunk is None
                chunk = lane.dispatch()
                assert 1 <= len(chunk.records) <= 3
                assert len(chunk.records) == 1 or sum(each.size for each in chunk.records) <= 100
            case "finish" if chunk:
                lane.finish(outputs(chunk.records))
                chunk = None
            case "retry" if chunk:
                lane.retry(DOWN, 0.0, None)
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
