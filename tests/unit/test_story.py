"""The story of a record, from topics whose logs are in memory."""

from typing import Any

import pytest

from consumer.admin.story import contents, recent_letters, tell
from consumer.engine.records import Partition, Place, Record
from schemas.codec import Codec, Headers, RegistryUnavailable
from tests.unit.shelf import CODEC, LETTERS, ORDERS, RESULTS, Shelf


class Away(Codec):
    """A codec whose registry is down."""

    def decode(self, data: bytes, headers: Headers = ()) -> dict[str, Any]:
        del data, headers
        raise RegistryUnavailable("the registry is down")


def test_a_story_has_all_results_of_one_record_and_of_no_other() -> None:
    shelf = Shelf()
    first, second = shelf.add(ORDERS, b"one", key=b"R1"), shelf.add(ORDERS, b"two", key=b"R2")
    shelf.result(first)
    shelf.result(second, code=500)
    shelf.result(second, replay="again")
    shelf.letter(Record(ORDERS, 0, second, 0, b"R2", b"two", ()))
    story = tell(shelf.deployment(), CODEC, Place(ORDERS, 0, second))
    assert story.record is not None
    assert story.record.value == b"two"
    assert [(result["code"], result["replay"]) for _, result in story.results] == [(500, None), (200, "again")]
    assert [letter.of.offset for letter in story.letters] == [second]
    assert story.is_whole
    assert [letter.of.offset for letter in recent_letters(shelf.deployment()).letters] == [second]


def test_a_story_has_nothing_of_the_record_that_a_deleted_topic_had_at_the_place() -> None:
    shelf = Shelf()
    offset = shelf.add(ORDERS, b"new", timestamp=99)
    shelf.result(offset, code=500, timestamp=77)
    shelf.letter(Record(ORDERS, 0, offset, 77, b"R1", b"old", ()))
    shelf.result(offset)
    story = tell(shelf.deployment(), CODEC, Place(ORDERS, 0, offset))
    assert [result["code"] for _, result in story.results] == [200]
    assert story.letters == []


@pytest.mark.parametrize("topic", [RESULTS, LETTERS])
def test_hidden_records_do_not_count_as_missing(topic: str) -> None:
    shelf = Shelf()
    offset = shelf.add(ORDERS, b"one")
    shelf.result(offset)
    shelf.letter(Record(ORDERS, 0, offset, 0, b"R1", b"one", ()))
    shelf.logs[Partition(topic, 0)].visible = 0
    story = tell(shelf.deployment(), CODEC, Place(ORDERS, 0, offset))
    assert not story.is_whole
    assert len(story.results) + len(story.letters) == 1


def test_a_missing_registry_does_not_count_as_no_results() -> None:
    shelf = Shelf()
    offset = shelf.add(ORDERS, b"one")
    shelf.result(offset)
    with pytest.raises(RegistryUnavailable, match="the registry is down"):
        tell(shelf.deployment(), Away(), Place(ORDERS, 0, offset))


def test_a_story_says_why_a_record_is_not_decoded() -> None:
    record = Record(ORDERS, 0, 0, 0, None, b"one", ())
    assert contents(record, Away(), {})["not_decoded"] == "the registry is down"
    assert contents(record, Codec(), {})["not_decoded"].startswith("the first bytes (6f6e65) are neither")
    assert "not_decoded" not in contents(record._replace(value=None), Codec(), {})
