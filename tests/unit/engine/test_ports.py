"""What the interface itself gives to a user of the engine."""

from consumer.engine.ports import Chunk, Done, Hooks, MemberView, Retry, Trouble
from tests.unit.engine.scripted import A, outputs, record


def test_answers_may_be_made_with_the_type_of_the_handlers_work() -> None:
    chunk = Chunk[int](A, 1, [record(0)])
    done = Done[int](chunk, outputs(chunk.records))
    retry = Retry[int](chunk, Trouble("site", "503", "the site is down"))
    assert done.working == retry.working == frozenset()
    assert chunk.work is None


def test_default_hooks_do_nothing_and_request_no_view() -> None:
    hooks = Hooks()
    hooks.received({"orders": 1})
    hooks.retried(Trouble("site", "503", "the site is down"))
    hooks.committed([], 0.1)
    hooks.aborted()
    hooks.rebalanced("assigned", [A])
    hooks.rejoining()
    hooks.statistics("{}")
    hooks.viewed(
        MemberView(0.0, (), {}, flooded=(), commit_trouble=None, losses=(), refusal=None, is_stopping=False)
    )
    assert hooks.is_view_due(0.0) is False
