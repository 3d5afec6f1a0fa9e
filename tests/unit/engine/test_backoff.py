"""When to try again."""

from hypothesis import given
from hypothesis import strategies as st

from consumer.engine.backoff import Backoff

BACKOFF = Backoff(first=1, longest=8, longest_retry_after=60)


def test_the_backoff_doubles_to_its_bound_and_is_jittered_in_full() -> None:
    assert [BACKOFF.delay(n, None, lambda: 1.0) for n in (1, 2, 3, 4, 5, 5000)] == [1, 2, 4, 8, 8, 8]
    assert BACKOFF.delay(3, None, lambda: 0.25) == 1
    assert BACKOFF.delay(3, None, lambda: 0.0) == 0


def test_the_backoff_doubles_up_to_a_bound_that_is_no_power_of_two() -> None:
    assert Backoff(1, 100, 60).delay(7, None, lambda: 1.0) == 64
    assert Backoff(1, 100, 60).delay(8, None, lambda: 1.0) == 100


def test_an_outage_of_days_still_has_its_delay() -> None:
    assert (
        Backoff(first=1e-9, longest=1e300, longest_retry_after=60).delay(10**6, None, lambda: 1.0) == 2**60 * 1e-9
    )


def test_retry_after_is_obeyed_up_to_its_bound_and_spread_by_no_more_than_the_first_delay() -> None:
    assert BACKOFF.delay(1, 30, lambda: 0.0) == 30
    assert BACKOFF.delay(5, 30, lambda: 1.0) == 31
    assert BACKOFF.delay(5, 30, lambda: 0.0625) == 30.5
    assert BACKOFF.delay(1, 1e9, lambda: 0.0) == 60
    assert BACKOFF.delay(1, 0.0, lambda: 0.5) == 0.5


@given(
    failures=st.integers(1, 10**6),
    retry_after=st.none() | st.floats(0, 1e9),
    chance=st.floats(0, 1),
)
def test_no_delay_is_longer_than_its_bounds_nor_shorter_than_what_was_asked_for(
    failures: int, retry_after: float | None, chance: float
) -> None:
    delay = BACKOFF.delay(failures, retry_after, lambda: chance)
    least = 0.0 if retry_after is None else min(retry_after, 60)
    assert least <= delay <= (8 if retry_after is None else least + 1)
    assert delay <= BACKOFF.delay(failures + 1, retry_after, lambda: chance)
