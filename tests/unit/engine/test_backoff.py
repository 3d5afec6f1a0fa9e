"""When to retry."""

from hypothesis import given
from hypothesis import strategies as st

from consumer.engine.backoff import Backoff

BACKOFF = Backoff(first=1, longest=8, longest_retry_after=60)


def test_the_backoff_doubles_up_to_its_bound_with_full_jitter() -> None:
    assert [BACKOFF.delay(n, None, lambda: 1.0) for n in (1, 2, 3, 4, 5, 5000)] == [1, 2, 4, 8, 8, 8]
    assert BACKOFF.delay(3, None, lambda: 0.25) == 1
    assert BACKOFF.delay(3, None, lambda: 0.0) == 0


def test_the_bound_need_not_be_a_power_of_two() -> None:
    assert Backoff(1, 100, 60).delay(7, None, lambda: 1.0) == 64
    assert Backoff(1, 100, 60).delay(8, None, lambda: 1.0) == 100


def test_the_delay_does_not_overflow_in_an_outage_of_days() -> None:
    assert (
        Backoff(first=1e-9, longest=1e300, longest_retry_after=60).delay(10**6, None, lambda: 1.0) == 2**60 * 1e-9
    )


def test_retry_after_is_obeyed_up_to_its_bound_plus_at_most_the_first_delay() -> None:
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
def test_a_delay_is_within_its_bounds_and_not_shorter_than_retry_after(
    failures: int, retry_after: float | None, chance: float
) -> None:
    delay = BACKOFF.delay(failures, retry_after, lambda: chance)
    least = 0.0 if retry_after is None else min(retry_after, 60)
    assert least <= delay <= (8 if retry_after is None else least + 1)
    assert delay <= BACKOFF.delay(failures + 1, retry_after, lambda: chance)
