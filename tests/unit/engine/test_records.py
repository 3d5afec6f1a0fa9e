"""The data types, and the text form of places."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.engine.records import A_HEADER, Partition, Place, Range, Record
from tests.unit.engine.scripted import record

TOPICS = st.text(st.characters(blacklist_characters="/", blacklist_categories=["Cs"]), min_size=1)


@given(TOPICS, st.integers(0, 10**9 - 1), st.integers(0, 10**18 - 1))
def test_a_place_can_be_read_from_its_text(topic: str, partition: int, offset: int) -> None:
    place = Place(topic, partition, offset)
    assert str(place) == f"{topic}/{partition}/{offset}"
    assert Place.parse(str(place)) == place


NO_PLACES = [
    "",
    "orders",
    "orders/0",
    "orders/0/1/2",
    "/0/1",
    "orders/-1/1",
    "orders/0/x",
    "orders/0/1 ",
    "orders/٣/1",
    f"orders/0/{2**63}",
    f"orders/{2**31}/0",
]


@pytest.mark.parametrize("text", NO_PLACES)
def test_a_text_that_is_not_a_place_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"' is not TOPIC/PARTITION/OFFSET, such as orders/0/17$") as refused:
        Place.parse(text)
    assert str(refused.value).startswith(f"'{text}'")


def test_a_place_and_a_range_know_their_partition() -> None:
    assert str(Partition("orders", 3)) == "orders/3"
    assert Place("orders", 3, 17).of == Partition("orders", 3)
    assert Range("orders", 3, 17, 20).of == Partition("orders", 3)


def test_a_record_knows_its_place() -> None:
    assert record(17, Partition("orders", 3)).place == Place("orders", 3, 17)


@pytest.mark.parametrize(
    ("key", "value", "size"), [(b"k", b"value", 6), (None, b"v", 1), (b"key", None, 3), (None, None, 0)]
)
def test_the_size_of_a_record_is_of_its_key_value_and_headers(
    key: bytes | None, value: bytes | None, size: int
) -> None:
    small = Record("orders", 0, 1, 0, key, value, ())
    assert small.size == size
    assert small._replace(headers=(("name", b"header"), ("none", None))).size == size + 14 + 2 * A_HEADER
