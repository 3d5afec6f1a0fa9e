"""What the main thread must be able to trust its workers for."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from consumer.workers import Workers


@pytest.fixture
def slow_handler() -> Iterator[None]:
    """A signal's handler that outlasts the wait that it interrupts."""
    before = signal.signal(signal.SIGUSR1, lambda _number, _frame: time.sleep(0.2))
    yield
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_does_not_make_a_wait_for_answers_endless(slow_handler: None) -> None:
    workers: Workers[str, str] = Workers(1, str.upper)
    interrupt = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    release = threading.Timer(5, workers.submit, ("late",))  # ends a wait that would not end by itself
    for timer in (interrupt, release):
        timer.start()
    try:
        assert workers.answers(0.1) == []
    finally:
        release.cancel()
        workers.stop()
