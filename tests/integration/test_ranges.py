"""Places that users write, and the records in ranges between them, on a real broker."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest

from consumer.admin import reading
from consumer.admin.ranges import NotAPosition, Position, Topics, lasting, parse_position, parse_time
from consumer.demo.processes import await_that
from consumer.engine.records import Partition, Range
from consumer.errors import KafkaUnusable
from tests.stand import NUMBER_OF_PARTITIONS, Stand

NOW = datetime(2014, 3, 1, 12, tzinfo=UTC)
PLUS_ONE = timezone(timedelta(hours=1))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("120", 120),
        ("0", 0),
        ("2014-02-28", datetime(2014, 2, 28, tzinfo=UTC)),
        ("2014-02-28T10:30Z", datetime(2014, 2, 28, 10, 30, tzinfo=UTC)),
        ("2014-02-28T10:30:05.5+01:00", datetime(2014, 2, 28, 10, 30, 5, 500_000, tzinfo=PLUS_ONE)),
        ("2h", NOW - timedelta(hours=2)),
        ("30m ago", NOW - timedelta(minutes=30)),
        ("90 s", NOW - timedelta(seconds=90)),
        ("7d", NOW - timedelta(days=7)),
        ("30000d", datetime(1970, 1, 1, tzinfo=UTC)),
        ("0001-01-01", datetime(1970, 1, 1, tzinfo=UTC)),
        ("0001-01-01T00:00+14:00", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_place_is_an_offset_a_time_or_a_relative_time(text: str, place: Position) -> None:
    assert parse_position(text, NOW) == place


@pytest.mark.parametrize("text", ["", "yesterday", "-1", "2014-02-30", "2w", "99999999999d", "10:30Z", "1.5h", "²"])
def test_an_invalid_place_is_refused_with_the_right_format(text: str) -> None:
    with pytest.raises(NotAPosition, match="is not a time: write ISO 8601 with a zone"):
        parse_position(text, NOW)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(NotAPosition, match="has no zone: add Z for UTC"):
        parse_time("2014-02-28T10:30", NOW)


@pytest.mark.parametrize(
    ("text", "words"),
    [("120", "120"), ("2014-02-28", "2014-02-28"), ("90s", "2014-03-01T11:58:30.000Z")],
)
def test_a_relative_time_is_written_as_a_fixed_time(text: str, words: str) -> None:
    assert lasting(text, NOW) == words
    assert parse_position(words, NOW + timedelta(days=1)) == parse_position(text, NOW)


@pytest.fixture
def places(stand: Stand) -> Topics:
    return Topics(stand.cluster)


def read(stand: Stand, ranges: list[Range]) -> Iterator[tuple[int, int]]:
    for batch in reading.read_ranges(stand.cluster, ranges):
        for message in batch:
            yield message.partition() or 0, message.offset() or 0


def test_a_range_by_time_has_the_records_of_that_time(stand: Stand, places: Topics) -> None:
    moments = []
    for number in range(6):
        time.sleep(0.01)  # a later record has a later time
        moments.append(datetime.now(UTC))
        stand.produce_raw(b"one key", str(number).encode())
    ranges = places.resolve(stand.orders_topic, moments[2], moments[4])
    assert [each.end - each.start for each in ranges if each.end > each.start] == [2]
    assert [offset for _, offset in read(stand, ranges)] == [2, 3]
    later, earlier = moments[5] + timedelta(hours=1), moments[0] - timedelta(hours=1)
    assert list(read(stand, places.resolve(stand.orders_topic, later, None))) == []
    assert list(read(stand, places.resolve(stand.orders_topic, None, earlier))) == []
    assert len(list(read(stand, places.resolve(stand.orders_topic, earlier, later)))) == 6


def test_a_range_by_offsets_stays_within_the_log(stand: Stand, places: Topics) -> None:
    for number in range(30):
        stand.send_later(str(number).encode(), b"a value")
    stand.flush()
    everything = places.resolve(stand.orders_topic, None, None)
    assert [each.partition for each in everything] == list(range(NUMBER_OF_PARTITIONS))
    assert sum(each.end for each in everything) == len(list(read(stand, everything))) == 30
    (one,) = places.resolve(stand.orders_topic, 2, 5, [1])
    assert one == Range(stand.orders_topic, 1, 2, 5)
    assert list(read(stand, [one])) == [(1, 2), (1, 3), (1, 4)]
    for each in places.resolve(stand.orders_topic, 5, 5):
        assert each.start == each.end
    longest = max(each.end for each in everything)
    assert places.resolve(stand.orders_topic, longest, 2_000) == [
        each._replace(start=each.end) for each in everything
    ]


def test_an_impossible_range_is_refused(stand: Stand, places: Topics) -> None:
    stand.produce_raw(b"one key", b"a value")
    with pytest.raises(KafkaUnusable, match=r"the offset 2 is after the end of .*, which is 1; choose another\."):
        places.resolve(stand.orders_topic, 2, None)
    for start, end in ((5, 2), (NOW, NOW - timedelta(hours=1))):
        with pytest.raises(KafkaUnusable, match="the range ends before it starts: it starts at"):
            places.resolve(stand.orders_topic, start, end)
    assert sum(each.end - each.start for each in places.resolve(stand.orders_topic, NOW, NOW)) == 0


def test_a_range_that_ends_with_an_aborted_transaction_is_read_to_its_end(stand: Stand, places: Topics) -> None:
    writer = stand.writer(stand.orders_topic)
    for end in (writer.commit_transaction, writer.abort_transaction):
        writer.begin_transaction()
        writer.produce(stand.orders_topic, b"", b"", partition=0)
        assert writer.flush(10) == 0
        end()

    def first() -> Range:
        return places.resolve(stand.orders_topic, None, None)[0]

    # A marker stands behind each transaction; Kafka may write it only once it has told the writer of the end.
    await_that("both markers are written", lambda: first().end == 4)
    one = first()
    read_here = list(read(stand, [one]))
    assert read_here[0] == (0, 0)
    assert {offset for _, offset in read_here} <= {0, 2}  # the embedded broker shows what was aborted


def test_a_range_that_ends_in_an_open_transaction_waits_for_its_end(stand: Stand, places: Topics) -> None:
    writer = stand.writer(stand.orders_topic)
    writer.begin_transaction()
    writer.produce(stand.orders_topic, b"", b"", partition=0)
    assert writer.flush(10) == 0
    place = Partition(stand.orders_topic, 0)
    (end,) = places.ends([place], committed=False).values()
    assert end == 1
    batches = reading.read_ranges(stand.cluster, [Range(*place, 0, end)])
    assert next(batches) == next(batches) == []
    writer.commit_transaction()
    assert [message.offset() for batch in batches for message in batch] == [0]


def test_a_missing_topic_or_partition_is_named(stand: Stand, places: Topics) -> None:
    with pytest.raises(KafkaUnusable, match=r"has no partition 7: its partitions are 0 to 2\."):
        places.resolve(stand.orders_topic, None, None, [1, 7])
    with pytest.raises(KafkaUnusable, match=r"there is no topic absent at .*; see jirafe-consumer topics create\."):
        places.resolve("absent", None, None)
