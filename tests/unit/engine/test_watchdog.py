"""Noticing that the process was paused."""

import threading

import pytest

from consumer.engine.watchdog import Watchdog

TIMEOUT = 1 / 128  # seconds; a power of two, so that sums are exact


class BeatClock:
    """A clock that moves by hand, and shows when the watchdog's thread has asked."""

    def __init__(self) -> None:
        self.now = 0.0
        self._asked = 0
        self._changed = threading.Condition()

    def __call__(self) -> float:
        if threading.current_thread().name == "watchdog":
            with self._changed:
                self._asked += 1
                self._changed.notify_all()
        return self.now

    def await_beats(self, count: int) -> None:
        with self._changed:
            until = self._asked + count
            assert self._changed.wait_for(lambda: self._asked >= until, 10)


def test_the_watchdog_notices_a_pause_before_its_thread_runs_again() -> None:
    clock = BeatClock()
    watchdog = Watchdog(600.0, clock)
    for now, stood_still in ((0.0, False), (600.0, False), (600.1, True)):
        clock.now = now
        assert watchdog.stood_still == stood_still
    watchdog.end()


def test_a_running_process_was_never_paused() -> None:
    clock = BeatClock()
    watchdog = Watchdog(TIMEOUT, clock)
    for _ in range(5):
        clock.now += TIMEOUT
        clock.await_beats(2)  # the second comes after what the first set
        assert not watchdog.stood_still
    watchdog.end()


def test_a_pause_is_not_forgotten() -> None:
    clock = BeatClock()
    watchdog = Watchdog(TIMEOUT, clock)
    clock.await_beats(1)
    clock.now += TIMEOUT * 1.5
    clock.await_beats(3)
    assert watchdog.stood_still
    watchdog.end()


@pytest.fixture
def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def test_the_thread_ends_when_told_and_does_not_keep_the_process_alive(threads: set[threading.Thread]) -> None:
    watchdog = Watchdog(3600.0)
    assert not watchdog.stood_still
    [thread] = set(threading.enumerate()) - threads
    assert thread.daemon
    watchdog.end()
    thread.join(10)
    assert not thread.is_alive()
