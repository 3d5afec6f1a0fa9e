"""Threads take turns, and none waits long for a turn that does not end."""

import threading
import time

import pytest

from consumer.delivery.turns import Turns


def test_one_thread_at_a_time_has_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.delivery.turns._LONGEST_WAIT", 60.0)  # on a busy machine, a turn may take long
    turns, having, most = Turns(), [], []

    def work() -> None:
        for _ in range(20):
            with turns.one():
                having.append(1)
                most.append(len(having))
                time.sleep(0.0005)
                having.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 80
    assert max(most) == 1


def test_a_turn_that_does_not_end_does_not_block_other_threads() -> None:
    turns, ended = Turns(), threading.Event()

    def hang() -> None:
        with turns.one():
            ended.wait(10)

    thread = threading.Thread(target=hang)
    thread.start()
    try:
        for _ in range(2):  # a thread that goes on without a turn does not end the other's turn
            begun = time.monotonic()
            with turns.one():
                assert 0.2 < time.monotonic() - begun < 5
    finally:
        ended.set()
        thread.join()
    begun = time.monotonic()
    with turns.one():
        assert time.monotonic() - begun < 0.2


def test_an_error_ends_a_turn() -> None:
    turns = Turns()
    with pytest.raises(KeyError), turns.one():
        raise KeyError
    begun = time.monotonic()
    with turns.one():
        assert time.monotonic() - begun < 0.2
