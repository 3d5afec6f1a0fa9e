"""The fuzzer itself: earlier failures stay fixed, and each failure of the process is traced to its case."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import found
from tests.fuzz.__main__ import parsed, run
from tests.fuzz.hunt import Bounds, Hunt
from tests.fuzz.losable import Failure, Losable
from tests.fuzz.shrink import shrink
from tests.fuzz.targets import NAMES
from tests.fuzz.worker import drawn, target_module
from tests.processes.losing_target import WAYS

LOSING = "tests.processes.losing_target"


@pytest.fixture(scope="module")
def losable() -> Iterator[Losable]:
    with Losable() as process:
        yield process


@pytest.mark.parametrize("path", found.paths(), ids=lambda path: path.stem)
def test_failures_found_earlier_stay_fixed(path: Path, losable: Losable) -> None:
    kept = found.read(path)
    assert losable.try_case(kept.target, kept.case) is None


@pytest.mark.parametrize(
    ("way", "rule"),
    [
        ("raises", "raised ValueError at tests/processes/losing_target.py:"),
        ("breaks a rule", "a rule of the target"),
        ("crashes", "the process was lost by SIGSEGV"),
        ("spins", "no end within 0.3 s of the processor"),
        ("sleeps", "no end within 5 s"),
        ("eats memory", "took more than 64 MiB of memory"),
        ("asks for too much", "raised MemoryError at tests/processes/losing_target.py:"),
    ],
)
def test_any_failure_of_a_case_is_reported_and_the_next_case_runs(way: str, rule: str, losable: Losable) -> None:
    failure = losable.try_case(LOSING, {"chosen": [way]})
    assert failure is not None
    assert failure.rule.startswith(rule)
    assert losable.try_case(LOSING, {"chosen": ["passes"]}) is None


def test_a_hunt_saves_the_seed_and_a_small_case_of_each_kind_of_failure(tmp_path: Path) -> None:
    told: list[tuple[Failure, Path | None]] = []
    hunt = Hunt([LOSING], Bounds(seed=13, trials=30, seconds=100.0), lambda *failed: told.append(failed), tmp_path)
    hunt.run(workers=2)
    assert hunt.hunted[LOSING].trials == 30
    target = target_module(LOSING)
    assert {drawn(target, failure.seed)["chosen"][0] for failure, _ in told} == {*WAYS} - {"passes"}
    for failure, path in told:
        assert path is not None
        kept = found.read(path)
        assert (kept.rule, kept.seed) == (failure.rule, failure.seed)
        assert kept.case == {"chosen": drawn(target, failure.seed)["chosen"]}


def test_an_error_in_a_thread_of_a_hunt_is_raised(tmp_path: Path) -> None:
    def tell(failure: Failure, path: Path | None) -> None:
        raise ValueError("the telling failed")

    with pytest.raises(ValueError, match="the telling failed"):
        Hunt([LOSING], Bounds(seed=13, trials=30, seconds=100.0), tell, tmp_path).run(workers=2)


def test_the_option_replay_runs_a_saved_case_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = found.keep(Failure(LOSING, 7, "a rule of the target", ""), {"chosen": ["breaks a rule"]}, tmp_path)
    assert run(parsed(["--replay", str(path)])) == 1
    assert "a rule of the target" in capsys.readouterr().out
    path = found.keep(Failure(LOSING, 7, "a rule of the target", ""), {"chosen": ["passes"]}, tmp_path)
    assert run(parsed(["--replay", str(path)])) == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_draws_the_same_case_each_time(name: str) -> None:
    target = target_module(name)
    assert [drawn(target, seed) for seed in range(5)] == [drawn(target, seed) for seed in range(5)]


def test_a_case_is_shrunk_as_long_as_it_fails() -> None:
    random = Random(1)  # noqa: S311 - chance, not cryptography
    case = {
        "text": "".join(random.choices("abc", k=500)) + "X",
        "list": [{"n": 77}, {"n": 5}],
        "json": '{"a": [1, 2]}',
    }

    def fails(each: dict[str, object]) -> bool:
        return "X" in str(each.get("text")) and "'n'" in str(each.get("list")) and '"a"' in str(each.get("json"))

    small = shrink(case, fails, seconds=20, tries=10_000)
    assert small == {"text": "X", "list": [{"n": 0}], "json": '{"a": []}'}
