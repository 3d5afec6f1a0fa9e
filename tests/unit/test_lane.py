from consumer.backoff import Backoff, Gate
from consumer.chunk import Chunk
from consumer.lane import Bounds, Lane
from consumer.record import Output, Record

BOUNDS = Bounds(lane_records=10, lane_bytes=1000, chunk_records=4, chunk_bytes=100)


def record(offset: int, size: int = 10) -> Record:
    return Record("orders", 0, offset, 0, None, b"x" * size, ())


def lane_of(*records: Record) -> Lane:
    lane = Lane(("orders", 0), 1, BOUNDS)
    for each in records:
        lane.add(each)
    return lane


def outputs(chunk: Chunk) -> list[Output]:
    return [Output(each, b"", None) for each in chunk.records]


def offsets(chunk: Chunk) -> list[int]:
    return [each.offset for each in chunk.records]


def test_a_chunk_takes_all_that_waits_up_to_its_bounds() -> None:
    assert offsets(lane_of(*map(record, range(3))).dispatch()) == [0, 1, 2]
    assert offsets(lane_of(*map(record, range(9))).dispatch()) == [0, 1, 2, 3]
    assert offsets(lane_of(record(0, 60), record(1, 40), record(2, 1)).dispatch()) == [0, 1]
    assert offsets(lane_of(record(0, 5000), record(1)).dispatch()) == [0]


def test_a_chunk_that_is_retried_keeps_its_records_and_takes_on_more() -> None:
    lane = lane_of(record(0), record(1))
    first = lane.dispatch()
    assert not lane.has_work
    lane.add(record(2))
    lane.retry(5.0, "site", isolating=False)
    assert lane.has_work
    again = lane.dispatch()
    assert again is first
    assert offsets(again) == [0, 1, 2]


def test_the_offset_is_the_next_to_read_also_over_gaps() -> None:
    lane = lane_of(record(3), record(7))
    lane.finish(outputs(lane.dispatch()))
    assert lane.offset == 8
    assert lane.held_records == 2
    lane.committed()
    assert (lane.held_records, lane.held_bytes, lane.finished) == (0, 0, [])


def test_one_chunk_may_go_ahead_of_a_commit_and_no_second() -> None:
    lane = lane_of(*map(record, range(12)))
    lane.finish(outputs(lane.dispatch()))
    assert lane.has_work
    lane.finish(outputs(lane.dispatch()))
    assert not lane.has_work
    assert lane.offset == 8
    lane.committed()
    assert lane.has_work


def test_a_lane_is_full_by_records_or_by_bytes_whatever_their_state() -> None:
    lane = lane_of(*map(record, range(9)))
    lane.dispatch()
    assert not lane.is_full
    lane.add(record(9))
    assert lane.is_full
    assert not lane.is_half_empty
    assert lane_of(record(0, 1000)).is_full
    assert lane_of(*map(record, range(5))).is_half_empty


def test_resuming_forgets_the_backoff_unless_a_suspect_is_isolated() -> None:
    lane = lane_of(record(0))
    lane.dispatch()
    lane.retry(9.0, "site", isolating=False)
    lane.resume()
    assert (lane.due, lane.waits_for, lane.failures) == (0.0, None, 1)
    lane.dispatch()
    lane.retry(9.0, "site", isolating=True)
    lane.resume()
    assert (lane.due, lane.waits_for, lane.failures) == (9.0, None, 2)


def test_backoff_doubles_to_its_bound_and_is_jittered_in_full() -> None:
    backoff = Backoff(first=1, longest=8, longest_retry_after=60)
    assert [backoff.delay(n, None, lambda: 1.0) for n in (1, 2, 3, 4, 5, 5000)] == [1, 2, 4, 8, 8, 8]
    assert backoff.delay(3, None, lambda: 0.25) == 1


def test_retry_after_is_obeyed_up_to_its_bound() -> None:
    backoff = Backoff(first=1, longest=8, longest_retry_after=60)
    assert backoff.delay(1, 30, lambda: 0.0) == 30
    assert backoff.delay(5, 30, lambda: 1.0) == 31
    assert backoff.delay(1, 1e9, lambda: 0.0) == 60


A, B, C = ("t", 0), ("t", 1), ("t", 2)


def test_lanes_that_fail_together_are_one_failure() -> None:
    gate = Gate(since=100.0)
    for lane in (A, B, C):
        gate.failed(lane, "503", lambda failures: 100.0 + failures, firm=False)
    assert (gate.failures, gate.due) == (1, 101.0)


def test_one_lane_probes_and_the_one_that_failed_last_probes_last() -> None:
    gate = Gate(since=100.0)
    for lane in (A, B):
        gate.failed(lane, "503", lambda _: 101.0, firm=False)
    assert not gate.admits(A, 100.5)
    assert not gate.admits(B, 101.0)
    assert gate.admits(A, 101.0)
    assert not gate.admits(B, 101.0)
    gate.failed(A, "503", lambda failures: 100.0 + 2**failures, firm=False)
    assert (gate.failures, gate.due) == (2, 104.0)
    assert not gate.admits(A, 104.0)
    assert gate.admits(B, 104.0)


def test_a_probe_that_leaves_lets_another_probe() -> None:
    gate = Gate(since=0.0)
    for lane in (A, B):
        gate.failed(lane, "503", lambda _: 1.0, firm=False)
    assert gate.admits(A, 1.0)
    assert gate.leave(A)
    assert gate.admits(B, 1.0)
    assert not gate.leave(B)


def test_a_gate_is_firm_once_a_probe_failed_or_we_were_told_to_wait() -> None:
    gate = Gate(since=0.0)
    gate.failed(A, "503", lambda _: 1.0, firm=False)
    assert not gate.is_firm
    gate.admits(A, 1.0)
    gate.failed(A, "503", lambda _: 2.0, firm=False)
    assert gate.is_firm
    told = Gate(since=0.0)
    told.failed(A, "429", lambda _: 1.0, firm=True)
    assert told.is_firm
