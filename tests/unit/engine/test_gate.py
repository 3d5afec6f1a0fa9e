"""Which lane probes something that is down, and when."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from consumer.engine.gate import Gate
from consumer.engine.ports import Trouble
from consumer.engine.records import Partition
from tests.unit.engine.scripted import A, B, C

DOWN = Trouble("site", "503", "the site is down")
TOLD = Trouble("site", "429", "wait", retry_after=5)
HELD = Trouble("site", "401", "the token is refused", held=True)


def due(at: float) -> Callable[[int], float]:
    return lambda _: at


def test_a_new_gate_has_no_failure_and_may_be_probed() -> None:
    gate = Gate(100.0, DOWN)
    gate.join(A)
    assert (gate.since, gate.due, gate.trouble, gate.failures, gate.is_firm) == (100.0, 100.0, DOWN, 0, False)
    assert gate.admits(A, 100.0)


def test_lanes_that_fail_together_are_one_failure() -> None:
    gate = Gate(100.0, DOWN)
    for lane in (A, B, C):
        gate.failed(lane, DOWN, lambda failures: 100.0 + failures)
    assert (gate.failures, gate.due) == (1, 101.0)


def test_one_lane_probes_and_the_one_that_failed_last_probes_last() -> None:
    gate = Gate(100.0, DOWN)
    for lane in (A, B):
        gate.failed(lane, DOWN, due(101.0))
    assert not gate.admits(A, 100.5)
    assert not gate.admits(B, 101.0)
    assert gate.admits(A, 101.0)
    assert not gate.admits(A, 101.0)
    assert not gate.admits(B, 101.0)
    gate.failed(A, DOWN, lambda failures: 100.0 + 2**failures)
    assert (gate.failures, gate.due) == (2, 104.0)
    assert not gate.admits(A, 104.0)
    assert gate.admits(B, 104.0)


def test_another_lane_that_fails_ends_neither_the_probe_nor_the_wait() -> None:
    gate = Gate(100.0, DOWN)
    gate.failed(A, DOWN, due(101.0))
    assert gate.admits(A, 101.0)
    gate.failed(B, DOWN, due(150.0))
    assert (gate.failures, gate.due) == (1, 101.0)
    assert not gate.admits(B, 200.0)
    gate.failed(A, DOWN, due(102.0))
    assert (gate.failures, gate.due) == (2, 102.0)
    assert gate.admits(B, 102.0)


def test_a_probe_that_leaves_lets_another_probe() -> None:
    gate = Gate(0.0, DOWN)
    for lane in (A, B):
        gate.failed(lane, DOWN, due(1.0))
    assert gate.admits(A, 1.0)
    assert gate.leave(A)
    assert gate.admits(B, 1.0)
    assert not gate.leave(B)


def test_another_lane_that_leaves_does_not_end_the_probe() -> None:
    gate = Gate(0.0, DOWN)
    for lane in (A, B, C):
        gate.failed(lane, DOWN, due(1.0))
    assert gate.admits(A, 1.0)
    assert gate.leave(B)
    assert not gate.admits(C, 1.0)


def test_a_lane_that_joins_again_keeps_its_place() -> None:
    gate = Gate(0.0, DOWN)
    for lane in (A, B, A):
        gate.join(lane)
    assert gate.admits(A, 0.0)


def test_a_gate_is_firm_once_a_probe_failed() -> None:
    gate = Gate(0.0, DOWN)
    gate.failed(A, DOWN, due(1.0))
    gate.failed(B, DOWN, due(1.0))
    assert not gate.is_firm
    gate.admits(A, 1.0)
    gate.failed(A, DOWN, due(2.0))
    assert gate.is_firm


def test_a_gate_is_firm_at_once_after_retry_after_or_if_an_operator_is_needed() -> None:
    for trouble in (TOLD, HELD):
        gate = Gate(0.0, trouble)
        gate.failed(A, trouble, due(1.0))
        assert gate.is_firm
        gate.failed(B, DOWN, due(1.0))
        assert gate.is_firm


def test_a_retry_after_applies_to_all_lanes_and_is_never_shortened() -> None:
    gate = Gate(0.0, DOWN)
    gate.failed(A, DOWN, due(10.0))
    gate.failed(B, TOLD, due(30.0))
    assert (gate.due, gate.failures, gate.trouble) == (30.0, 1, TOLD)
    assert gate.is_firm
    gate.failed(C, TOLD, due(20.0))
    assert gate.due == 30.0
    gate.failed(C, DOWN, due(40.0))
    assert (gate.due, gate.trouble) == (30.0, DOWN)


@given(st.lists(st.tuples(st.sampled_from(["fail", "leave", "join"]), st.sampled_from([A, B, C])), max_size=20))
def test_there_is_one_probe_at_a_time_and_each_lane_that_waits_has_its_turn(
    steps: list[tuple[str, Partition]],
) -> None:
    gate = Gate(0.0, DOWN)
    waiting: list[Partition] = []
    for step, lane in [("join", A), *steps]:
        match step:
            case "fail":
                gate.failed(lane, DOWN, due(0.0))
                waiting = [other for other in waiting if other != lane] + [lane]
            case "join" if lane not in waiting:
                gate.join(lane)
                waiting.append(lane)
            case "leave":
                waiting = [other for other in waiting if other != lane]
                assert gate.leave(lane) == bool(waiting)
        if not waiting:
            return  # a gate without waiting lanes is removed
    for probe in (*waiting, *waiting):
        admitted = [lane for lane in waiting if gate.admits(lane, 0.0)]
        assert admitted == [probe]
        gate.failed(probe, DOWN, due(0.0))
