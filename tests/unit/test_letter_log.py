"""Dead letters in the log: at once, then rarely, and every one is counted in some line."""

from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import structlog
from hypothesis import given
from hypothesis import strategies as st

from consumer.engine.records import DeadLetter, Output, Record
from consumer.monitor.letters import QUIET_SECONDS, LetterLog

KINDS = ["rejected", "undecodable", "forbidden"]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0


def output(kind: str | None, offset: int = 0, reason: str = "why") -> Output:
    record = Record("orders", 0, offset, 0, None, None, ())
    return Output(record, b"", DeadLetter(kind, reason, 1) if kind else None)


def log_at(clock: Clock, lines: list[dict[str, Any]]) -> LetterLog:
    def keep(_logger: object, _method: str, event: Any) -> str:
        lines.append({**event, "at": clock.now})
        raise structlog.DropEvent

    return LetterLog(structlog.wrap_logger(None, processors=[keep]), lambda: clock.now)


def test_the_first_letter_is_logged_at_once_and_the_rest_at_the_end_of_the_window() -> None:
    clock, lines = Clock(), list[dict[str, Any]]()
    log = log_at(clock, lines)
    log.note([output(None), output("rejected", 5, "total: wrong"), output("rejected", 6), output("forbidden", 7)])
    assert lines == [
        {
            "event": "dead_letters",
            "kind": "rejected",
            "count": 2,
            "place": "orders/0/5",
            "reason": "total: wrong",
            "at": 0.0,
        },
        {
            "event": "dead_letters",
            "kind": "forbidden",
            "count": 1,
            "place": "orders/0/7",
            "reason": "why",
            "at": 0.0,
        },
    ]
    clock.now = 10.0
    log.note([output("rejected", 8)])
    clock.now = QUIET_SECONDS - 0.1
    log.tick()
    assert len(lines) == 2
    clock.now = QUIET_SECONDS
    log.tick()
    assert [(line["kind"], line["count"], line["place"]) for line in lines[2:]] == [("rejected", 1, "orders/0/8")]
    log.close()
    assert len(lines) == 3


steps = st.lists(
    st.one_of(
        st.lists(st.sampled_from([None, *KINDS]), max_size=4),  # a commit
        st.floats(0, 2 * QUIET_SECONDS),  # time passes
    ),
    max_size=30,
)


@given(steps=steps)
def test_each_letter_is_counted_once_and_no_kind_is_logged_too_often(steps: list[Any]) -> None:
    clock, lines = Clock(), list[dict[str, Any]]()
    log = log_at(clock, lines)
    came: Counter[str] = Counter()
    last: dict[str, float] = {}
    for step in steps:
        if isinstance(step, list):
            log.note([output(kind) for kind in step])
            came.update(kind for kind in step if kind)
            last.update({kind: clock.now for kind in step if kind})
        else:
            clock.now += step
            log.tick()
        told: Counter[str] = Counter()
        for line in lines:
            told[line["kind"]] += line["count"]
        held = [kind for kind in KINDS if told[kind] < came[kind]]
        assert all(clock.now - last[kind] < QUIET_SECONDS for kind in held)
    before = len(lines)
    log.close()
    told = Counter()
    times = defaultdict(list)
    for number, line in enumerate(lines):
        told[line["kind"]] += line["count"]
        if number < before:
            times[line["kind"]].append(line["at"])
    assert told == came
    for each in times.values():
        assert all(b - a >= QUIET_SECONDS for a, b in pairwise(each))


def test_a_log_line_has_the_trace_of_its_record() -> None:
    clock, lines = Clock(), list[dict[str, Any]]()
    log = log_at(clock, lines)
    parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    record = Record("orders", 0, 5, 0, None, None, (("traceparent", parent),))
    log.note([Output(record, b"", DeadLetter("rejected", "why", 1)), output("forbidden")])
    assert [(line.get("trace_id"), line.get("span_id")) for line in lines] == [
        ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"),
        (None, None),
    ]
