"""All lanes: which go, what the others wait for, which one probes, and which resume."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import LogCapture

from consumer.engine.backoff import Backoff
from consumer.engine.defence import Raised
from consumer.engine.lane import Lane
from consumer.engine.lanes import Lanes
from consumer.engine.ports import Apart, Chunk, Done, LaneView, Prepared, Retry, Trouble
from consumer.engine.records import Partition
from consumer.engine.strand import Bounds
from tests.unit.engine.scripted import BACKOFF, BOUNDS, A, B, C, capture, chance, outputs, record
from tests.views import IDLE

SITE, OTHER = "site", "other"
DOWN = Trouble(SITE, "503", "the site is down")
TOLD = Trouble(SITE, "429", "wait", retry_after=30)
HELD = Trouble(SITE, "401", "the token is refused", held=True)
SUSPECT = Trouble(SITE, "500", "one of these is the cause", isolating=True)
HOLD_INTERVAL = 20.0


class Group:
    """Lanes, and the current time."""

    def __init__(self, *partitions: Partition, backoff: Backoff = BACKOFF, workers: int = 4) -> None:
        self.now = 100.0
        log, self._captured = capture()
        self.lanes = Lanes[str](BOUNDS, backoff, HOLD_INTERVAL, chance, log, workers)
        self.lanes.keeps_ahead = True
        self.lanes.assign(partitions)
        self.flying: dict[Partition, Chunk[str]] = {}
        self._offset = 0
        self.feed(*partitions)

    @property
    def log(self) -> LogCapture:
        return self._captured

    def feed(self, *partitions: Partition) -> None:
        """Add one more record to each."""
        for partition in partitions:
            self.lanes.add(record(self._offset, partition))
            self._offset += 1

    def at(self, now: float) -> list[Partition]:
        """Return the lanes that go at this time, or now."""
        self.now = now
        dispatched = list(self.lanes.dispatch(now))
        for chunk in dispatched:
            if chunk.is_next:
                self.lanes.take(Prepared(chunk), now)
        chunks = [chunk for chunk in dispatched if not chunk.is_next]
        self.flying |= {chunk.partition: chunk for chunk in chunks}
        return [chunk.partition for chunk in chunks]

    def fail(self, partition: Partition, trouble: Trouble, *working: str) -> None:
        retry = Retry(self.flying.pop(partition), trouble, frozenset(working))
        assert self.lanes.take(retry, self.now) == [trouble]

    def finish(self, partition: Partition, *working: str) -> None:
        chunk = self.flying.pop(partition)
        assert not self.lanes.take(Done(chunk, outputs(chunk.records), frozenset(working)), self.now)
        self.lane(partition).committed()

    def fail_all(self, trouble: Trouble, *partitions: Partition) -> None:
        for partition in partitions:
            self.fail(partition, trouble)

    def lane(self, partition: Partition) -> Lane[str]:
        [lane] = [lane for lane in self.lanes if lane.partition == partition]
        return lane

    def view(self, partition: Partition) -> LaneView:
        [view] = [view for view in self.lanes.views(self.now) if view.partition == partition]
        return view

    def waits(self, partition: Partition) -> tuple[str | None, str | None, float | None]:
        view = self.view(partition)
        return view.waits_for, view.message, view.due


def partitions(lanes: Iterable[Lane[str]]) -> list[Partition]:
    return [lane.partition for lane in lanes]


# the assignment


def test_each_assignment_makes_new_lanes() -> None:
    group = Group(A, B)
    assert partitions(group.lanes) == [A, B]
    assert group.at(0) == [A, B]
    early = group.flying[A]
    assert group.lanes.has(early)
    group.lanes.assign([A, C])
    assert partitions(group.lanes) == [B, A, C]
    assert not group.lanes.has(early)
    assert group.lanes.has(group.flying[B])
    assert group.lane(A).held_records == 0
    assert [group.lane(each).epoch for each in (A, B, C)] == [2, 1, 2]


def test_an_answer_from_an_earlier_assignment_is_ignored() -> None:
    group = Group(A)
    group.at(0)
    early = group.flying[A]
    group.lanes.drop([A, B])
    assert not group.lanes.has(early)
    assert not group.lanes.take(Retry(early, DOWN), 0)
    group.lanes.assign([A])
    assert not group.lanes.take(Done(early, outputs(early.records), frozenset([SITE])), 0)
    assert group.lane(A).finished == []
    assert group.lanes.gates == {}


def test_records_and_ends_of_unassigned_partitions_are_dropped() -> None:
    group = Group(A)
    group.feed(B)
    group.lanes.at_end(B, 5)
    group.lanes.at_end(A, 7)
    assert group.at(0) == [A]
    assert [each.offset for each in group.flying[A].records] == [0]
    chunk = group.flying[A]
    group.lanes.take(Done(chunk, outputs(chunk.records)), 0)
    assert group.lane(A).offset == 7


def test_dropped_lanes_leave_their_gate() -> None:
    group = Group(A, B)
    group.at(0)
    group.fail_all(DOWN, A, B)
    assert group.at(1.0) == [A]
    group.lanes.drop([A])  # the probe is gone
    assert group.at(1.0) == [B]
    group.lanes.drop([B])
    assert group.lanes.gates == {}
    assert list(group.lanes) == []


# backoff and gates


def test_an_unblocked_lane_goes_at_once_and_has_one_chunk_in_flight() -> None:
    group = Group(A, B)
    assert group.at(0) == [A, B]
    group.feed(A)
    assert group.at(0) == []
    group.finish(A)
    assert group.at(0) == [A]
    assert group.waits(A) == (None, None, None)


def test_only_the_failing_chunk_backs_off_while_its_site_works_for_others() -> None:
    group = Group(A, B)
    group.at(100)
    group.fail(A, DOWN, SITE)
    assert group.lanes.gates == {}
    assert group.waits(A) == (None, "the site is down", 101.0)
    assert not group.view(A).held
    assert group.at(100.9) == []
    assert group.at(101) == [A]
    assert group.view(A).message is None


def test_a_chunk_that_makes_progress_does_not_back_off_longer_each_time() -> None:
    group = Group(A)
    for _ in range(3):
        assert group.at(group.now) == [A]
        group.fail(A, DOWN, SITE)
        assert group.waits(A)[2] == group.now + 1
        group.now += 1


def test_a_chunk_that_isolates_a_suspect_waits_longer_each_time_even_if_its_site_works() -> None:
    group = Group(A)
    for delay in (1, 2, 4, 8, 8):
        assert group.at(group.now) == [A]
        group.fail(A, SUSPECT, SITE)
        assert group.waits(A)[2] == group.now + delay
        group.now += delay


def test_a_chunk_that_isolates_a_suspect_keeps_its_backoff_when_its_site_works_again() -> None:
    group = Group(A, B, C)
    group.at(100)
    group.fail(A, SUSPECT, SITE)
    group.at(101)
    group.fail(A, SUSPECT)
    group.fail(B, DOWN)
    group.now = 101.5
    group.finish(C, SITE)
    assert group.lanes.gates == {}
    assert group.at(101.5) == [B]
    assert group.waits(A) == (None, "one of these is the cause", 103.0)
    assert group.at(102.9) == []
    assert group.at(103) == [A]


def test_lanes_that_fail_together_wait_together_and_one_of_them_probes() -> None:
    group = Group(A, B, C)
    group.at(100)
    group.fail_all(DOWN, A, B, C)
    assert group.lanes.gates == {SITE: "the site is down"}
    assert group.waits(C) == (SITE, "the site is down", 101.0)
    assert group.at(100.9) == []
    assert group.at(101) == [A]
    assert group.at(150) == []
    group.fail(A, DOWN)
    assert group.waits(B)[2] == 152.0
    assert group.at(152) == [B]
    group.fail(B, DOWN)
    assert group.at(155.9) == []
    assert group.at(156) == [C]


def test_all_resume_at_once_when_the_probe_succeeds() -> None:
    group = Group(A, B, C)
    group.at(100)
    group.fail_all(DOWN, A, B, C)
    group.at(101)
    group.finish(A, SITE)
    assert group.lanes.gates == {}
    assert group.at(101) == [B, C]


def test_all_resume_when_any_lane_succeeds_even_in_part() -> None:
    group = Group(A, B, C)
    group.at(100)
    group.fail_all(DOWN, A, B)
    group.fail(C, Trouble(OTHER, "503", "the other is down"), SITE)
    assert group.at(100) == [A, B]
    assert group.lanes.gates == {OTHER: "the other is down"}


def test_a_lane_does_not_wait_for_the_gates_of_others() -> None:
    group = Group(A, B)
    group.at(100)
    group.fail(A, DOWN)
    group.fail(B, Trouble(OTHER, "503", "the other is down"))
    assert group.at(101) == [A, B]
    group.finish(B, OTHER)
    group.feed(B)
    assert group.at(101) == [B]
    group.finish(B, OTHER)
    assert group.waits(A)[0] == SITE


def test_a_lane_that_fails_at_another_gate_leaves_the_first_one() -> None:
    group = Group(A, B)
    group.at(100)
    group.fail_all(DOWN, A, B)
    assert group.at(101) == [A]
    group.fail(A, Trouble(OTHER, "503", "the other is down"))
    assert group.waits(A)[0] == OTHER
    assert group.at(101) == [B]  # the next probes at once
    group.fail(B, Trouble(OTHER, "503", "the other is down"))
    assert set(group.lanes.gates) == {OTHER}


def test_a_gate_is_removed_when_its_last_lane_finishes_without_success() -> None:
    group = Group(A)
    group.at(100)
    group.fail(A, DOWN)
    assert group.at(101) == [A]
    group.finish(A)
    assert group.lanes.gates == {}


def test_a_retry_after_or_a_hold_closes_the_gate_of_a_partly_working_site() -> None:
    for trouble, due in ((TOLD, 131.0), (HELD, 120.0)):
        group = Group(A)
        group.at(100)
        group.fail(A, trouble, SITE)
        assert group.waits(A) == (SITE, trouble.message, due)


def test_a_longer_retry_after_makes_all_wait_as_long() -> None:
    group = Group(A, B)
    group.at(100)
    group.fail(A, DOWN)
    group.fail(B, TOLD)
    assert group.waits(A) == (SITE, "wait", 131.0)
    assert group.at(130.9) == []
    assert group.at(131) == [A]


def test_a_held_chunk_is_tried_at_the_hold_interval() -> None:
    group = Group(A)
    for since in (100.0, 120.0, 140.0):
        assert group.at(since) == [A]
        group.fail(A, HELD)
        assert group.waits(A)[2] == since + 20
        assert group.view(A).held
        assert group.at(since + 19.9) == []


def test_a_held_chunk_is_tried_at_once_after_try_again() -> None:
    group = Group(A, B)
    group.at(100)
    group.fail_all(HELD, A, B)
    group.now = 105
    group.lanes.try_again(105)
    assert group.at(105) == [A]
    group.finish(A, SITE)
    assert group.at(105) == [B]


def closed(group: Group, partition: Partition) -> set[str]:
    group.feed(partition)
    assert partition in group.at(group.now)
    return set(group.flying[partition].closed)


def test_chunks_of_new_records_name_the_sites_that_are_known_to_be_down() -> None:
    group = Group(A, B)
    group.at(100)
    group.finish(B)
    group.fail(A, DOWN)
    assert closed(group, B) == set()  # one failure may be chance
    group.finish(B)
    assert group.at(101) == [A]
    group.fail(A, DOWN)
    assert closed(group, B) == {SITE}
    group.finish(B)
    for trouble in (TOLD, HELD):
        group = Group(A, B)
        group.at(100)
        group.finish(B)
        group.fail(A, trouble)
        assert closed(group, B) == {SITE}


# what is set apart


def set_apart(
    group: Group, partition: Partition, *aparts: Apart[str], working: Iterable[str] = ()
) -> list[Trouble]:
    """Take back the chunk in flight: set these records apart, and decide all others."""
    chunk = group.flying.pop(partition)
    waiting = {record.offset for apart in aparts for record in apart.records}
    decided = [record for record in chunk.records if record.offset not in waiting]
    return group.lanes.take(Done(chunk, outputs(decided), frozenset(working), aparts), group.now)


def apart(
    chunk: Chunk[str], *offsets: int, strand: str = SITE, trouble: Trouble | None = None, work: str | None = "tried"
) -> Apart[str]:
    records = [record for record in chunk.records if record.offset in offsets]
    return Apart(strand, records, [frozenset([strand])] * len(records), work, trouble)


def test_records_set_apart_wait_while_later_records_go_on() -> None:
    group = Group(A)
    group.feed(A, A)
    group.at(100)
    chunk = group.flying[A]
    assert set_apart(group, A, apart(chunk, 1, trouble=DOWN)) == [DOWN]
    lane = group.lane(A)
    assert (lane.offset, lane.ahead) == (1, ((2, 3),))
    group.feed(A)
    assert group.at(100) == [A]
    assert group.flying[A].strand == ""
    assert group.flying[A].waits_in(3, frozenset([SITE])) == SITE
    assert group.flying[A].waits_in(3, frozenset([OTHER])) is None
    group.finish(A)
    assert group.at(100.5) == []
    assert group.at(101) == [A]
    assert (group.flying[A].strand, group.flying[A].work, group.flying[A].records[0].offset) == (SITE, "tried", 1)
    assert not set_apart(group, A, working=[SITE])
    assert (lane.offset, lane.ahead) == (4, ())
    assert group.lanes.gates == {}


def test_records_that_wait_for_others_rejoin_the_main_strand_once_those_are_decided() -> None:
    group = Group(A)
    group.feed(A, A)
    group.at(100)
    chunk = group.flying[A]
    set_apart(group, A, apart(chunk, 0, trouble=DOWN), apart(chunk, 2, work=None))
    assert group.at(100) == []
    assert group.at(101) == [A]
    assert [each.offset for each in group.flying[A].records] == [0, 2]
    set_apart(group, A, apart(group.flying[A], 2, work=None), working=[SITE])
    group.feed(A)
    assert group.at(101) == [A]
    assert (group.flying[A].strand, [each.offset for each in group.flying[A].records]) == ("", [2, 3])


def test_a_tried_chunk_keeps_its_work_when_another_of_its_kind_waits() -> None:
    group = Group(A)
    group.feed(A)
    group.at(100)
    set_apart(group, A, apart(group.flying[A], 0, trouble=SUSPECT), working=[SITE])
    group.feed(A)
    group.at(100)
    set_apart(group, A, apart(group.flying[A], 2, trouble=SUSPECT, work="tried too"), working=[SITE])
    group.now = 102
    chunks = [*group.lanes.dispatch(102)]
    assert [(chunk.work, chunk.records[0].offset) for chunk in chunks] == [("tried", 0)]
    group.flying[A] = chunks[0]
    set_apart(group, A, working=[SITE])
    [chunk] = group.lanes.dispatch(102)
    assert (chunk.work, chunk.records[0].offset) == ("tried too", 2)


def full_chunks(count: int, workers: int = 4) -> tuple[Group, list[Chunk[str]]]:
    """Return a group whose only lane has this many full chunks, and its first chunks."""
    group = Group(A, workers=workers)
    group.feed(*[A] * (4 * count - 1))
    return group, list(group.lanes.dispatch(100))


def dispatched(group: Group) -> list[tuple[list[int], str | None, bool]]:
    """Return what goes now: the offsets, the work, and whether it is only prepared."""
    chunks = list(group.lanes.dispatch(group.now))
    return [([each.offset for each in chunk.records], chunk.work, chunk.is_next) for chunk in chunks]


def test_the_next_chunk_is_prepared_while_one_is_in_flight_and_goes_in_its_turn() -> None:
    group, [first, coming] = full_chunks(2)
    assert (first.is_next, coming.is_next) == (False, True)
    assert [each.offset for each in coming.records] == [4, 5, 6, 7]
    assert dispatched(group) == []
    group.lanes.take(Done(first, outputs(first.records)), 100)
    assert dispatched(group) == []  # a worker still has it
    coming.work = "prepared"
    assert group.lanes.take(Prepared(coming), 100) == []
    assert dispatched(group) == [([4, 5, 6, 7], "prepared", False)]


@pytest.mark.parametrize(("workers", "records"), [(1, 16), (2, 20), (8, 20)])
def test_chunks_grow_with_the_records_that_wait_while_few_partitions_have_records(
    workers: int, records: int
) -> None:
    group = Group(A, workers=workers)
    for offset in range(1, 40):
        group.lanes.add(record(offset, A, b"1"))
    chunks = list(group.lanes.dispatch(100))
    assert [len(chunk.records) for chunk in chunks] == [records] * len(chunks)


def test_a_larger_chunk_leaves_half_of_the_waiting_records_for_the_next() -> None:
    group = Group(A)
    group.feed(*[A] * 13)
    assert dispatched(group) == [([*range(7)], None, False), ([*range(7, 14)], None, True)]


def test_the_next_chunk_goes_while_the_outputs_of_a_larger_one_wait_for_their_commit() -> None:
    group, [first, coming] = full_chunks(4)
    assert len(first.records) > BOUNDS.chunk_records
    group.lanes.take(Prepared(coming), 100)
    group.lanes.take(Done(first, outputs(first.records)), 100)
    assert [chunk is coming for chunk in group.lanes.dispatch(100)] == [True]
    group.feed(A)
    group.lanes.take(Done(coming, outputs(coming.records)), 100)
    assert dispatched(group) == []  # two wait: none goes after them
    group.lane(A).committed()
    assert len(dispatched(group)) == 1


def test_chunks_are_as_large_as_usual_while_many_partitions_have_records() -> None:
    group = Group(A, B, C, workers=1)
    group.feed(*[A] * 40)
    assert [len(chunk.records) for chunk in group.lanes.dispatch(100)] == [4, 1, 1]


def test_a_larger_chunk_has_at_most_twice_the_usual_bytes() -> None:
    group = Group(A)
    for offset in range(1, 40):
        group.lanes.add(record(offset, A, b"x" * 25))
    assert [len(chunk.records) for chunk in group.lanes.dispatch(100)] == [7, 7]


def test_no_chunk_is_prepared_after_one_with_few_large_records() -> None:
    group = Group(A)
    for offset in range(1, 40):
        group.lanes.add(record(offset, A, b"x" * 60))
    assert [len(chunk.records) for chunk in group.lanes.dispatch(100)] == [3]


def test_a_prepared_chunk_goes_without_records_that_came_since_and_the_next_one_is_prepared() -> None:
    group, [first, coming] = full_chunks(2)
    group.lanes.take(Prepared(coming), 100)
    group.feed(*[A] * 16)
    group.lanes.take(Done(first, outputs(first.records)), 100)
    assert dispatched(group) == [([4, 5, 6, 7], None, False), ([*range(8, 23)], None, True)]


def test_only_one_chunk_is_prepared() -> None:
    group, [_, coming] = full_chunks(3)
    group.lanes.take(Prepared(coming), 100)
    assert dispatched(group) == []


def test_a_chunk_is_prepared_only_by_an_idle_worker_and_only_if_it_is_full() -> None:
    _, chunks = full_chunks(2, workers=1)
    assert [chunk.is_next for chunk in chunks] == [False]
    group = Group(A)
    group.feed(*[A] * 6)
    assert [chunk.is_next for chunk in group.lanes.dispatch(100)] == [False]


def test_a_prepared_chunk_waits_while_the_one_before_it_is_tried_again() -> None:
    group, [first, coming] = full_chunks(3)
    coming.work = "prepared"
    group.lanes.take(Prepared(coming), 100)
    group.lanes.take(Retry(first, DOWN), 100)
    group.now = 200
    assert dispatched(group) == [([0, 1, 2, 3, 4, 5], None, False)]
    group.lanes.take(Done(first, outputs(first.records), frozenset([SITE])), 200)
    assert dispatched(group)[0] == ([6, 7, 8, 9, 10, 11], "prepared", False)


def test_records_that_rejoin_go_before_prepared_ones() -> None:
    group, [first, coming] = full_chunks(2)
    coming.work = "prepared"
    rejoining = Apart[str]("", first.records[2:], [frozenset(), frozenset()])
    group.lanes.take(Done(first, outputs(first.records[:2]), apart=[rejoining]), 100)
    assert dispatched(group) == [([2, 3, 4, 5], None, False)]
    group.lanes.take(Prepared(coming), 100)  # too late: its records moved to another strand
    assert dispatched(group) == []


def test_records_whose_handling_raised_go_before_prepared_ones() -> None:
    group, [first, coming] = full_chunks(2)
    coming.work = "prepared"
    group.lanes.take(Prepared(coming), 100)
    group.lanes.take(Raised(first, ValueError()), 100)
    assert dispatched(group)[0] == ([0, 1], None, False)


def test_records_of_a_site_known_to_be_down_join_its_gate_untried() -> None:
    group = Group(A, B)
    group.at(100)
    group.fail(A, TOLD)
    set_apart(group, B, apart(group.flying[B], 1, work=None))
    assert group.at(130) == []
    assert group.waits(B)[:2] == (SITE, "wait")
    assert group.at(131) == [A]
    group.finish(A, SITE)
    assert group.at(131) == [B]
    assert group.flying[B].strand == ""


def test_records_that_wait_for_a_numbered_strand_that_is_gone_join_the_gate_of_its_site() -> None:
    group = Group(A, B)
    group.at(100)
    group.fail(A, TOLD)
    waiting = apart(group.flying[B], 1, strand=f"{SITE} #2", work=None)
    set_apart(group, B, waiting)
    [view] = [lane for lane in group.lanes.views(100) if lane.partition == B]
    assert [strand.name for strand in view.strands] == [SITE]
    assert group.at(130) == []
    assert group.at(131) == [A]


def test_strands_take_turns_and_use_only_their_share_of_the_workers() -> None:
    partitions = [Partition("orders", number) for number in range(6)]
    group = Group(*partitions, workers=8)
    group.at(100)
    for partition in partitions:
        for _ in range(5):
            group.feed(partition)
        chunk = group.flying[partition]
        set_apart(group, partition, apart(chunk, *(each.offset for each in chunk.records)))
    assert group.at(101) == [*partitions, *partitions[:2]]  # new records of all, and two slow chunks
    slow = {partition: group.flying[partition] for partition in partitions[:2]}
    assert {chunk.strand for chunk in slow.values()} == {SITE}
    group.lanes.take(Done(slow[partitions[0]], outputs(slow[partitions[0]].records)), 102)
    assert group.at(102) == [partitions[2]]


def test_a_strand_with_a_pending_request_is_in_flight_until_the_answer() -> None:
    group = Group(A)
    group.feed(A)
    group.at(100)
    answered: list[bool] = []
    [chunk] = group.flying.values()
    set_apart(group, A, replace(apart(chunk, 0), is_ready=lambda: bool(answered)))
    lane, [view] = group.lane(A), group.lanes.views(100)
    assert (lane.in_flight, view.in_flight, view.waiting) == (True, 1, 0)
    assert group.at(200) == []
    assert [*group.lanes.dispatch_pending([A])] == []
    answered.append(True)
    assert lane.in_flight
    assert [*group.lanes.dispatch_pending([B])] == []
    [chunk] = group.lanes.dispatch_pending([A])
    assert (chunk.work, chunk.strand) == ("tried", SITE)
    group.lanes.take(Done(chunk, outputs(chunk.records)), 200)
    assert not lane.in_flight


# what is told


def test_the_next_due_is_the_end_of_the_first_backoff() -> None:
    group = Group(A, B, C)
    assert group.lanes.next_due(100) == float("inf")
    group.at(100)
    assert group.lanes.next_due(100) == float("inf")
    group.fail(A, TOLD)
    assert group.lanes.next_due(100) == 31.0
    group.fail(B, Trouble(OTHER, "503", "down"), OTHER)
    assert group.lanes.next_due(100.25) == 0.75
    assert group.lanes.next_due(101) == 30.0
    group.at(101)
    assert group.lanes.next_due(101) == 30.0
    assert group.lanes.next_due(131) == float("inf")


def test_a_gate_opens_for_a_probe_even_if_the_backoff_of_its_lane_is_longer() -> None:
    group = Group(A)
    group.at(100)
    group.fail(A, HELD)
    group.lanes.try_again(103)
    assert group.lanes.next_due(102) == 1.0


def test_a_trouble_is_logged_when_it_begins_changes_or_ends() -> None:
    group = Group(A, B)
    group.at(100)
    group.fail_all(DOWN, A, B)
    group.at(101)
    group.fail(A, DOWN)
    group.at(103)
    group.fail(B, HELD)
    group.at(123)
    group.finish(A, SITE)
    assert group.log.entries == [
        {"event": "waiting", "log_level": "warning", "on": SITE, "cause": "503", "reason": "the site is down"},
        {"event": "held", "log_level": "warning", "on": SITE, "cause": "401", "reason": "the token is refused"},
        {"event": "resumed", "log_level": "info", "on": SITE, "after_seconds": 23.0},
    ]


def test_a_chunk_that_backs_off_alone_is_not_logged() -> None:
    group = Group(A)
    group.at(100)
    group.fail(A, DOWN, SITE)
    assert group.log.entries == []


def test_isolating_a_suspect_is_logged_once() -> None:
    group = Group(A)
    for now in (100, 200, 300):
        group.at(now)
        group.fail(A, SUSPECT if now < 300 else replace(SUSPECT, message="another"), SITE)
    reasons = ["one of these is the cause", "another"]
    assert group.log.entries == [
        {"event": "isolating", "log_level": "warning", "partition": str(A), "cause": "500", "reason": reason}
        for reason in reasons
    ]


def test_a_view_shows_the_state_of_a_lane() -> None:
    group = Group(A)
    group.feed(*[A] * 7)
    group.at(100)
    group.lane(A).paused = True
    chunk = group.flying[A]
    group.lanes.take(Done(chunk, outputs(chunk.records)), 100)
    group.at(100)
    group.feed(A)
    assert group.view(A) == replace(
        IDLE,
        partition=A,
        waiting=1,
        in_flight=4,
        finished=4,
        held_bytes=9 * 13,
        is_paused=True,
        oldest=0,
        newest=8,
    )
    group.lane(A).committed()
    group.fail(A, HELD)
    view = group.view(A)
    assert (view.waiting, view.in_flight, view.finished, view.oldest, view.committed) == (5, 0, 0, 4, 4)
    assert (view.waits_for, view.cause, view.message, view.held, view.due) == (SITE, "401", HELD.message, True, 120)


def test_a_view_of_an_empty_lane_shows_nothing() -> None:
    group = Group()
    group.lanes.assign([A])
    view = group.view(A)
    assert (view.waiting, view.oldest, view.newest, view.is_paused) == (0, None, None, False)


# in general

ANSWERS = st.sampled_from(
    [
        ("done", None, frozenset([SITE])),
        ("done", None, frozenset([OTHER])),
        ("done", None, frozenset([SITE, OTHER])),
        ("done", None, frozenset[str]()),
        *[
            ("retry", trouble, working)
            for trouble in (DOWN, TOLD, HELD, SUSPECT, Trouble(OTHER, "503", "down"))
            for working in (frozenset[str](), frozenset([SITE]), frozenset([OTHER]))
        ],
    ]
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["feed", "answer", "answer", "wait", "drop", "mend"]), st.integers(0, 2), ANSWERS
        ),
        max_size=40,
    )
)
def test_lanes_always_keep_their_order_and_all_resume_once_everything_works(
    steps: list[tuple[str, int, tuple[str, Trouble | None, frozenset[str]]]],
) -> None:
    everyone = (A, B, C)
    group = Group(*everyone)
    finished: dict[Partition, list[int]] = {each: [] for each in everyone}

    def answer(partition: Partition, trouble: Trouble | None, working: Iterable[str]) -> None:
        if trouble:
            group.fail(partition, trouble, *working)
        else:
            finished[partition] += [each.offset for each in group.flying[partition].records]
            group.finish(partition, *working)

    for step, number, (_, trouble, working) in steps:
        group.at(group.now)
        partition = everyone[number]
        match step:
            case "feed":
                group.feed(partition)
            case "answer" if partition in group.flying:
                answer(partition, trouble, working)
            case "wait":
                group.now += number + 0.5
            case "drop":
                group.lanes.drop([partition])
                outlived = group.flying.pop(partition, None)
                group.lanes.assign([partition])
                assert partition not in group.at(group.now) or not outlived
                if outlived:
                    group.lanes.take(Done(outlived, outputs(outlived.records)), group.now)
            case "mend":
                group.lanes.try_again(group.now)
        gates = group.lanes.gates
        waiting = [lane.main for lane in group.lanes if lane.main.waits_for]
        assert {lane.waits_for for lane in waiting} == set(gates)
        for gate in gates:
            assert sum(lane.in_flight for lane in waiting if lane.waits_for == gate) <= 1
    for _ in range(200):
        for partition in group.at(group.now) + list(group.flying):
            if partition in group.flying:
                answer(partition, None, [SITE, OTHER])
        group.now += min(1.0, group.lanes.next_due(group.now))
    assert [lane.held_records for lane in group.lanes] == [0, 0, 0]
    assert all(offsets == sorted(set(offsets)) for offsets in finished.values())


@pytest.mark.parametrize(("workers", "most"), [(1, 8), (3, 24), (8, 64)])
def test_a_partition_holds_fewer_records_while_many_have_a_backlog(workers: int, most: int) -> None:
    bounds = Bounds(lane_records=64, lane_bytes=10**6, chunk_records=4, chunk_bytes=10**6)
    log, _ = capture()
    lanes = Lanes[str](bounds, BACKOFF, 20.0, chance, log, workers)
    partitions = [Partition("orders", number) for number in range(4)]
    lanes.assign(partitions)
    for offset in range(most - 1):
        for partition in partitions:
            lanes.add(record(offset, partition))
    assert list(lanes.dispatch(100))
    assert not any(lane.is_full for lane in lanes)
    for partition in partitions:
        lanes.add(record(most, partition))
    assert all(lane.is_full for lane in lanes)


def test_a_strand_that_can_not_go_lets_the_others_probe() -> None:
    group = Group(A, B)
    group.at(100)
    group.fail_all(DOWN, A, B)
    group.lane(A).knows_ahead = False
    assert group.at(101) == [B]
    group.fail(B, DOWN)
    group.lane(A).knows_ahead = True
    assert group.at(103) == [A]


def test_a_new_lane_starts_once_the_requests_of_the_former_one_have_ended() -> None:
    group = Group(A)
    group.feed(A)
    group.at(100)
    chunk, answered = group.flying[A], list[bool]()
    group.lanes.assign([A])
    group.feed(A)
    assert group.at(101) == []
    pending = replace(apart(chunk, 0), is_ready=lambda: bool(answered))
    assert not group.lanes.take(Done(chunk, outputs(chunk.records[1:]), apart=[pending]), 101)
    assert group.at(102) == []
    answered.append(True)
    assert group.at(103) == [A]


def test_a_new_lane_waits_for_a_pending_request_of_the_former_one() -> None:
    group, answered = Group(A), list[bool]()
    group.at(100)
    set_apart(group, A, replace(apart(group.flying[A], 0), is_ready=lambda: bool(answered)))
    group.lanes.drop([A])
    group.lanes.assign([A])
    group.feed(A)
    assert group.at(101) == []
    answered.append(True)
    assert group.at(102) == [A]


def test_records_that_wait_for_a_chunk_of_the_main_strand_are_not_tried_before_it_is_finished() -> None:
    group = Group(A)
    group.feed(A)
    group.at(100)
    set_apart(group, A, apart(group.flying[A], 1, trouble=DOWN))
    group.feed(A)
    group.at(100)
    group.fail(A, Trouble("registry", "registry", "down", retry_after=20))
    assert group.at(101) == [A]
    set_apart(group, A, replace(apart(group.flying[A], 1, work=None), strand=""), working=[SITE])
    [waiting] = group.lane(A).apart
    assert not group.lane(A).has_work(waiting)
    group.lanes.try_again(102)
    assert group.at(102) == [A]
    group.finish(A, "registry")
    assert group.at(102) == [A]
    assert [each.offset for each in group.flying[A].records] == [1]


def test_records_that_rejoin_never_go_behind_a_later_chunk_that_is_tried_again() -> None:
    group = Group(A)
    group.feed(A, A)
    [chunk] = group.lanes.dispatch(group.now)
    key = frozenset(["key"])
    waiting = Apart[str](SITE, chunk.records, [key] * len(chunk.records), "tried", DOWN)
    group.lanes.take(Done(chunk, [], apart=[waiting]), group.now)
    group.feed(A)
    group.now += 1000
    later, earlier = group.lanes.dispatch(group.now)
    group.lanes.take(Retry(later, Trouble("registry", "registry", "down")), group.now)
    rejoining = Apart[str]("", earlier.records[1:], [key] * (len(earlier.records) - 1))
    group.lanes.take(Done(earlier, outputs(earlier.records[:1]), frozenset([SITE]), [rejoining]), group.now)
    group.now += 1000
    offsets = [[each.offset for each in chunk.records] for chunk in group.lanes.dispatch(group.now)]
    assert all(each == sorted(each) for each in offsets)
    assert [each.offset for each in later.records] in offsets
