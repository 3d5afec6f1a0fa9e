"""The metadata of an offset: reading returns what was written, or refuses the text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.engine.ahead import (
    MOST_BYTES,
    Ahead,
    Blocker,
    NotOurs,
    Runs,
    between,
    counted,
    fits,
    joined,
    read,
    write,
)

# Short enough to be kept whole: a sign may take twelve bytes.
TEXTS = st.text(st.characters(codec="utf-8"), max_size=5).filter(lambda text: text != "-")
BLOCKERS = st.none() | st.builds(Blocker, st.integers(1, 2**37), TEXTS, TEXTS)
NUMBERS = st.one_of(st.integers(1, 3), st.integers(1, 300), st.integers(1, 2**40))


@st.composite
def offsets_and_runs(draw: st.DrawFn) -> tuple[int, Runs]:
    offset = draw(st.integers(0, 2**50))
    runs, at = [], offset
    for gap, length in draw(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=30)):
        runs.append((at + gap, at + gap + length))
        at += gap + length
    return offset, tuple(runs)


@given(offsets_and_runs(), st.sampled_from(["", "AaIjzCNDceORsHxNR7UWhw"]), BLOCKERS)
def test_reading_returns_what_was_written(given_: tuple[int, Runs], topic_id: str, blocker: Blocker | None) -> None:
    offset, runs = given_
    told = Ahead(runs, topic_id, blocker)
    text = write(offset, told)
    assert text.isascii()
    assert read(offset, text) == told


@given(offsets_and_runs(), BLOCKERS, st.data())
def test_a_changed_truncated_or_extended_text_is_refused(
    given_: tuple[int, Runs], blocker: Blocker | None, data: st.DataObject
) -> None:
    offset, runs = given_
    text = write(offset, Ahead(runs, "id", blocker))
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(exclude_characters=text[at]))
    for damaged in (text[:at] + other + text[at + 1 :], text[:at], text + other):
        with pytest.raises(NotOurs):
            read(offset, damaged)


@given(st.text())
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(NotOurs):
        read(0, text)


def test_the_refusal_says_why() -> None:
    for text, why in (
        ("kafka-streams", "another program wrote it"),
        ("jirafe-consumer/2 whatever", "another version wrote it"),
        ("jirafe-consumer/1 00000000 - x 0 - -", "it is damaged"),
    ):
        with pytest.raises(NotOurs, match=why):
            read(0, text)


def test_an_empty_list_of_runs_can_be_read_too() -> None:
    assert read(7, write(7, Ahead((), "id"))) == Ahead((), "id")


@given(st.lists(NUMBERS, min_size=2, max_size=4000), st.text(max_size=70))
def test_text_that_fits_is_no_larger_than_a_broker_accepts(numbers: list[int], strand: str) -> None:
    runs, at = [], 0
    for gap, length in zip(numbers[::2], numbers[1::2], strict=False):
        runs.append((at + gap, at + gap + length))
        at += gap + length
    text = write(0, Ahead(tuple(runs), "A" * 22, Blocker(2**37, "x" * 60, strand)))
    assert not fits(0, tuple(runs)) or len(text) <= MOST_BYTES


def test_more_than_a_thousand_waiting_records_fit() -> None:
    assert fits(0, tuple((50 * each + 1, 50 * each + 50) for each in range(1400)))


def test_causes_and_strands_are_written_as_short_printable_words() -> None:
    runs: Runs = ((5, 9),)
    text = write(4, Ahead(runs, "", Blocker(1, "", "a site\n+" + "é" * 100)))
    assert text.isascii()
    assert text.isprintable()
    told = read(4, text)
    assert told.blocker == Blocker(1, "", "a site\n+" + "é" * 8)
    assert told.count == counted(runs) == 4


def test_runs_are_the_joined_offsets_between_undecided_ones() -> None:
    assert list(between([3, 4, 7], 9)) == [(4, 4), (5, 7), (8, 9)]
    assert joined([(4, 4), (5, 7), (7, 9), (12, 13)]) == ((5, 9), (12, 13))
