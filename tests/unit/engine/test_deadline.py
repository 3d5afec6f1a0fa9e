"""The engine's clock and deadlines."""

import time

from consumer.engine.deadline import Clock, Deadline


def test_a_deadline_returns_the_seconds_left_and_never_less_than_zero() -> None:
    now = 100.0
    deadline = Deadline(5.0, lambda: now)
    assert deadline.left == 5.0
    now = 104.5
    assert deadline.left == 0.5
    now = 200.0
    assert deadline.left == 0.0


def test_a_deadline_uses_the_real_clock_by_default() -> None:
    assert 0 < Deadline(1000).left <= 1000


def test_the_real_clock_is_the_clock_of_the_system() -> None:
    clock = Clock()
    before, before_ns = time.monotonic(), time.time_ns()
    clock.sleep(0.001)
    assert before + 0.001 <= clock.monotonic() <= time.monotonic()
    assert before_ns // 1_000_000 <= clock.epoch_ms() <= time.time_ns() // 1_000_000
