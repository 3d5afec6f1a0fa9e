"""When too many dead letters are a flood."""

from hypothesis import given
from hypothesis import strategies as st

from consumer.engine.flood import FloodGuard


def test_a_flood_is_more_than_its_share_of_a_window() -> None:
    assert FloodGuard(window=10, share=0.5).admits([True, False] * 5)
    assert not FloodGuard(window=10, share=0.5).admits([True, False] * 4 + [True, True])
    assert not FloodGuard(window=1, share=0.5).admits([True])


def test_earlier_records_count_as_long_as_they_are_in_the_window() -> None:
    guard = FloodGuard(window=10, share=0.5)
    assert guard.admits([True] * 9)  # not a window yet
    guard.note([True] * 5 + [False] * 5)
    assert guard.admits([True])
    guard.note([True] * 5)  # the first five are out of it now
    assert guard.admits([False, False, False, False, False, True])
    assert not guard.admits([True])


def test_good_records_are_never_a_flood() -> None:
    guard = FloodGuard(window=4, share=0.5)
    guard.note([True] * 4)
    assert guard.admits([False])
    assert not guard.holds


def test_the_guard_holds_until_it_is_released_even_if_good_records_follow() -> None:
    guard = FloodGuard(window=10, share=0.5)
    assert not guard.holds
    assert not guard.admits([False] * 10 + [True] * 6 + [False] * 50)
    assert guard.holds
    assert not guard.admits([False])
    guard.release()
    assert not guard.holds
    assert guard.admits([False])


def test_a_release_lets_one_window_through_and_forgets_earlier_records() -> None:
    guard = FloodGuard(window=10, share=0.5)
    guard.note([True] * 10)
    guard.release()
    assert guard.admits([True] * 100)
    guard.note([True] * 9)
    assert guard.admits([True])
    guard.note([True])
    assert not guard.admits([True])
    guard.release()
    guard.note([False] * 30)
    assert guard.admits([True] * 5)
    assert not guard.admits([True] * 6)


@given(letters=st.lists(st.booleans(), max_size=40), noted=st.lists(st.booleans(), max_size=12))
def test_the_guard_looks_at_each_window(letters: list[bool], noted: list[bool]) -> None:
    guard = FloodGuard(window=5, share=0.4)
    guard.note(noted)
    row = [*noted[-5:], *letters]
    ends = range(max(len(row) - len(letters) + 1, 5), len(row) + 1)
    is_flood = any(letters) and any(sum(row[end - 5 : end]) > 2 for end in ends)
    assert guard.admits(letters) != is_flood
    assert guard.holds == is_flood
