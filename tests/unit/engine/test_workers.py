"""What the main thread must be able to rely on in its workers."""

import os
import queue
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from consumer.engine.workers import CallTimeout, Workers, call_within


def collect(workers: Workers[str, str], count: int) -> list[str]:
    taken: list[str] = []
    while len(taken) < count:
        answers = workers.answers(10)
        assert answers, "no answer within 10 s"
        taken += answers
    return taken


@pytest.fixture
def slow_handler() -> Iterator[None]:
    """A signal handler that takes longer than the wait that it interrupts."""
    before = signal.signal(signal.SIGUSR1, lambda _number, _frame: time.sleep(0.05))
    yield
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_does_not_make_the_wait_for_answers_endless(slow_handler: None) -> None:
    workers: Workers[str, str] = Workers(1, str.upper)
    interrupt = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1))
    release = threading.Timer(5, workers.submit, ("late",))  # ends a wait that would otherwise be endless
    for timer in (interrupt, release):
        timer.start()
    try:
        assert workers.answers(0.03) == []
    finally:
        release.cancel()
        workers.stop()


def test_all_available_answers_are_taken_at_once_in_order() -> None:
    handled = threading.Event()

    def work(task: str) -> str:
        if task == "last":
            handled.set()
        return task.upper()

    workers = Workers(1, work)
    assert workers.answers(0) == []
    for task in ("a", "b", "last", "one more"):
        workers.submit(task)
    handled.wait()
    taken = workers.answers(10)
    assert taken[:2] == ["A", "B"]
    assert taken + collect(workers, 4 - len(taken)) == ["A", "B", "LAST", "ONE MORE"]
    workers.stop()


def test_as_many_tasks_run_at_once_as_there_are_workers() -> None:
    together = threading.Barrier(3)

    def work(task: str) -> str:
        together.wait(10)  # passes only if three threads are here
        return threading.current_thread().name

    workers = Workers(3, work)
    for task in "abc":
        workers.submit(task)
    assert sorted(collect(workers, 3)) == ["worker-0", "worker-1", "worker-2"]
    workers.stop()


def test_workers_end_once_they_are_idle_and_do_not_keep_the_process_alive() -> None:
    inside, go_on, threads = threading.Event(), threading.Event(), []

    def work(task: str) -> str:
        threads.append(threading.current_thread())
        inside.set()
        go_on.wait()
        return task

    workers = Workers(1, work)
    workers.submit("slow")
    inside.wait()
    workers.stop()
    assert threads[0].is_alive()
    assert threads[0].daemon
    go_on.set()
    threads[0].join(10)
    assert not threads[0].is_alive()
    assert workers.answers(10) == ["slow"]


@pytest.mark.parametrize("error", [ValueError("no"), queue.Empty("the task's own"), SystemExit(3)])
def test_an_exception_of_a_task_is_raised_by_answers_and_does_not_end_the_thread(error: BaseException) -> None:
    def work(task: str) -> str:
        if task == "bad":
            raise error
        return task

    workers = Workers(1, work)
    workers.submit("bad")
    with pytest.raises(type(error)) as raised:
        workers.answers(10)
    assert raised.value is error
    workers.submit("good")
    assert workers.answers(10) == ["good"]
    workers.stop()


def nothing() -> None:
    pass


def test_a_waiting_call_reports_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.engine.workers._LOOK", 0.01)
    go_on = threading.Event()
    told: list[threading.Thread] = []

    def meanwhile() -> None:
        told.append(threading.current_thread())
        if len(told) == 3:
            go_on.set()

    call_within(60, lambda: assert_set(go_on), meanwhile)
    assert len(told) >= 3
    assert set(told) == {threading.current_thread()}


def assert_set(event: threading.Event) -> None:
    assert event.wait(60)


@pytest.mark.parametrize("error", [ValueError("no"), queue.Empty("the call's own")])
def test_a_call_within_a_time_returns_or_raises_like_the_call(error: Exception) -> None:
    def fail() -> None:
        raise error

    done = threading.Event()
    call_within(10, done.set, nothing)
    assert done.is_set()
    with pytest.raises(type(error)) as raised:
        call_within(10, fail, nothing)
    assert raised.value is error


def test_a_call_that_does_not_return_in_time_is_abandoned() -> None:
    caller: list[threading.Thread] = []
    go_on = threading.Event()

    def call() -> None:
        caller.append(threading.current_thread())
        go_on.wait()

    with pytest.raises(CallTimeout):
        call_within(0.01, call, nothing)
    go_on.set()
    if caller:
        assert caller[0].daemon
        caller[0].join(10)
