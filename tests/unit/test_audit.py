"""How an audit counts an offset: all 256 combinations of what it may see, in any order."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from consumer.admin.audit import (
    DOUBLED,
    FAILED,
    LETTER,
    RECORD,
    REDRIVEN,
    REPLAYED,
    RESULT,
    TROUBLES,
    Count,
    counted_as,
    with_result,
)

SIGHTS = range(256)
FATES = {Count.ONE_RESULT, Count.DOUBLED, Count.MISSING, Count.WAITING}

results = st.builds(
    lambda code, again: {"code": code, "replay": None, "redrive": None, **again},
    st.sampled_from([200, 500]),
    st.sampled_from([{}, {"replay": "r-1"}, {"redrive": "letters/0/3"}]),
)


def seen_of(found: list[dict[str, Any]], *, has_letter: bool) -> int:
    seen = RECORD
    for result in found:
        seen = with_result(seen, result, is_ours=True)
    return seen | LETTER if has_letter else seen


def test_each_record_counts_exactly_once_and_other_offsets_never() -> None:
    for seen in SIGHTS:
        if seen & DOUBLED and not seen & RESULT:
            continue  # nothing is doubled that was not seen
        for due in (True, False):
            counts = counted_as(seen, due=due)
            assert len(counts & FATES) == (1 if seen & RECORD else 0)
            assert (Count.RECORDS in counts) == bool(seen & RECORD)
            assert bool(counts) == bool(seen & RECORD)


def test_only_a_record_that_is_due_can_be_missing() -> None:
    for seen in SIGHTS:
        assert Count.MISSING not in counted_as(seen, due=False)
        assert Count.WAITING not in counted_as(seen, due=True)


@given(found=st.lists(results, max_size=6), has_letter=st.booleans(), due=st.booleans())
def test_the_counts_match_the_results_found(*, found: list[dict[str, Any]], has_letter: bool, due: bool) -> None:
    own = [each for each in found if each["replay"] is None and each["redrive"] is None]
    own_failed = [each for each in own if each["code"] == 500]
    counts = counted_as(seen_of(found, has_letter=has_letter), due=due)
    assert (Count.ONE_RESULT in counts) == (len(own) == 1 and due)
    assert (Count.DOUBLED in counts) == (len(own) > 1)
    assert (Count.MISSING in counts) == (not own and due)
    assert (Count.WAITING in counts) == (len(own) <= 1 and not due)
    assert (Count.FAILED in counts) == bool(own_failed)
    assert (Count.REPLAYED in counts) == any(each["replay"] for each in found)
    assert (Count.REDRIVEN in counts) == any(each["redrive"] for each in found)
    assert (Count.DEAD_LETTERED in counts) == has_letter
    assert (Count.WITHOUT_LETTER in counts) == (bool(own_failed) and not has_letter)
    assert (Count.STRAY_LETTER in counts) == (has_letter and not own_failed and (due or bool(own)))


@given(found=st.lists(results, max_size=5).flatmap(lambda each: st.tuples(st.just(each), st.permutations(each))))
def test_the_order_in_which_results_come_does_not_matter(
    found: tuple[list[dict[str, Any]], list[dict[str, Any]]],
) -> None:
    one, other = found
    assert seen_of(one, has_letter=False) == seen_of(other, has_letter=False)


def test_a_correct_record_is_not_a_trouble() -> None:
    for seen in (RECORD | RESULT, RECORD | RESULT | FAILED | LETTER):
        for again in (0, REPLAYED, REDRIVEN):
            assert not counted_as(seen | again, due=True) & set(TROUBLES)


@given(found=st.lists(results, max_size=5), others=st.lists(results, max_size=5), has_letter=st.booleans())
def test_results_of_another_group_only_explain_a_stray_letter(
    *, found: list[dict[str, Any]], others: list[dict[str, Any]], has_letter: bool
) -> None:
    seen = seen_of(found, has_letter=has_letter)
    shared = seen
    for result in others:
        shared = with_result(shared, result, is_ours=False)
    others_failed = any(each["code"] == 500 for each in others)
    for due in (True, False):
        expected = counted_as(seen, due=due) - ({Count.STRAY_LETTER} if others_failed else set())
        assert counted_as(shared, due=due) == expected
