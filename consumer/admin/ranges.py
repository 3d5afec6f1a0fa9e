"""Positions in topics: parses what a user writes for one, and finds the offsets between two of them."""

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from consumer.admin.asking import TRY, answered
from consumer.admin.reading import find_topic, read_ends
from consumer.engine.kafka import Cluster, kafka_error
from consumer.engine.records import Partition, Range
from consumer.errors import KafkaUnusable

Position = datetime | int
"""A moment, always with its zone, or an offset."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OFFSET = re.compile(r"\d{1,18}", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_AGO = re.compile(r"(\d+)\s*([smhd])(\s*ago)?")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class NotAPosition(ValueError):
    """The text is neither a time nor an offset. The message, without a full stop, says what to write."""


def parse_time(text: str, now: datetime) -> datetime:
    """Parse a time: ISO 8601 with a zone, a date (midnight in UTC), or how long ago. Raises NotAPosition.

    A time before 1970 becomes the start of 1970: no record is older.
    """
    text = text.strip()
    try:
        if ago := _AGO.fullmatch(text):
            moment = now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        elif _DATE.fullmatch(text):
            moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
        else:
            moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise NotAPosition(
            f"'{text}' is not a time: write ISO 8601 with a zone (2014-03-01T10:00Z), a date, or 2h for 2 hours ago"
        ) from None
    if moment.tzinfo is None:
        raise NotAPosition(f"'{text}' has no zone: add Z for UTC, or an offset like +01:00")
    return max(moment, _EPOCH)


def parse_position(text: str, now: datetime) -> Position:
    """Parse a position: an offset if there are only digits, else a time. Raises NotAPosition."""
    return int(text) if _OFFSET.fullmatch(text) else parse_time(text, now)


def lasting(text: str, now: datetime) -> str:
    """Write a position so that it means the same later: "2h" becomes a fixed time. Raises NotAPosition."""
    place = parse_position(text, now)
    if isinstance(place, int) or not _AGO.fullmatch(text.strip()):
        return text
    return place.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment_of(timestamp: int) -> datetime | None:
    """Convert a record's timestamp (ms) to a time. Returns None if it has none, or one that is out of range.

    Some producers write micro- or nanoseconds.
    """
    try:
        return datetime.fromtimestamp(timestamp / 1000, UTC) if timestamp >= 0 else None
    except (ValueError, OverflowError, OSError):
        return None


def epoch_ms(timestamp: datetime | int) -> int:
    """Convert a record's timestamp in a result to ms. It is a number already if no time could express it."""
    return timestamp if isinstance(timestamp, int) else (timestamp - _EPOCH) // timedelta(milliseconds=1)


class Topics:
    """Looks up the offsets of topics. Every method may block for seconds, and raises KafkaUnusable."""

    def __init__(self, cluster: Cluster) -> None:
        self.admin, _ = cluster.reach()
        self._cluster = cluster

    def resolve(
        self, topic: str, start: Position | None, end: Position | None, partitions: Collection[int] = ()
    ) -> list[Range]:
        """Return the ranges of a topic's partitions between two positions, by default all of each partition.

        A time means the first record at or after it. A range is cut to the records that exist, up to the end of
        those that are committed, and may be empty. If no partitions are given, it returns all. Raises KafkaUnusable
        also if the range is reversed, or starts after the end of every partition.
        """
        check_order(start, end)
        places = [Partition(topic, number) for number in self.chosen(topic, partitions)]
        firsts, ends = self.firsts(places), self.ends(places)
        if isinstance(start, int) and start > (last := max(ends.values())):
            raise KafkaUnusable(f"the offset {start} is after the end of {topic}, which is {last}; choose another.")
        lows, highs = self._at(start, firsts, ends), self._at(end, ends, ends)
        ranges = []
        for place in places:
            low, high = (min(max(each[place], firsts[place]), ends[place]) for each in (lows, highs))
            ranges.append(Range(*place, low, max(low, high)))
        return ranges

    def written(
        self, topic: str, end: Position | None, partitions: Collection[int] = ()
    ) -> Mapping[Partition, int]:
        """Return where the records before a position end, in each partition, including uncommitted ones."""
        places = [Partition(topic, number) for number in self.chosen(topic, partitions)]
        ends = self.ends(places, committed=False)
        asked = self._at(end, ends, ends)
        return {place: min(asked[place], ends[place]) for place in places}

    def _at(
        self, at: Position | None, default: Mapping[Partition, int], ends: Mapping[Partition, int]
    ) -> Mapping[Partition, int]:
        match at:
            case None:
                return default
            case int():
                return dict.fromkeys(ends, at)
            case datetime():
                return {
                    place: ends[place] if offset is None else offset for place, offset in self.at(ends, at).items()
                }

    def partitions(self, topic: str) -> list[int]:
        """Return the numbers of a topic's partitions."""
        return sorted(find_topic(self._cluster, topic).partitions)

    def leaderless(self, topic: str) -> list[Partition]:
        """Return a topic's partitions that can't be read now, because no broker leads them."""
        found = find_topic(self._cluster, topic).partitions
        return [Partition(topic, number) for number in sorted(found) if found[number].leader < 0]

    def chosen(self, topic: str, partitions: Collection[int]) -> list[int]:
        """Return the given partitions, or all if none are given. Raises KafkaUnusable if one does not exist."""
        numbers = self.partitions(topic)
        if unknown := sorted(set(partitions) - set(numbers)):
            raise KafkaUnusable(
                f"the topic {topic} has no partition {unknown[0]}: its partitions are 0 to {len(numbers) - 1}."
            )
        return sorted(set(partitions)) or numbers

    def firsts(self, places: Collection[Partition]) -> dict[Partition, int]:
        """Return the offset of each partition's first record, or of the next one if it is empty."""
        return {place: offset for place, (offset, _) in self._listed(places, OffsetSpec.earliest()).items()}

    def ends(self, places: Collection[Partition], *, committed: bool = True) -> dict[Partition, int]:
        """Return the offset after each partition's last record: the last committed, or else the last written."""
        return read_ends(self._cluster, places, committed=committed)

    def at(self, places: Collection[Partition], moment: datetime) -> dict[Partition, int | None]:
        """Return the offset of each partition's first record at or after a time, None if there is none."""
        asked = max(0, int(moment.timestamp() * 1000))  # negative times mean something else to Kafka
        # If there is none, Kafka answers with the offset -1 and the embedded broker with 0, both without a time.
        return {
            place: offset if timestamp >= asked else None
            for place, (offset, timestamp) in self._listed(places, OffsetSpec.for_timestamp(asked)).items()
        }

    def _listed(self, places: Collection[Partition], spec: OffsetSpec) -> dict[Partition, tuple[int, int]]:
        """Look up offsets, each with the timestamp of its record, or -1 if it is not the offset of one."""
        if not places:
            return {}
        found: dict[Partition, tuple[int, int]] = {}

        def ask() -> None:
            left = {TopicPartition(*place): spec for place in places if place not in found}
            for place, future in self.admin.list_offsets(left, request_timeout=TRY).items():
                listed = future.result()
                found[Partition(place.topic, place.partition)] = (listed.offset, listed.timestamp)

        try:
            answered(ask)
        except KafkaException as error:
            at = next(place for place in places if place not in found)
            raise KafkaUnusable(f"the offsets of {at} can't be read: {kafka_error(error).str()}.") from None
        return found


def check_order(start: Position | None, end: Position | None) -> None:
    """Raise KafkaUnusable if a range ends before it starts."""
    # A time and an offset can't be compared: a time is at another offset in each partition.
    both_offsets = isinstance(start, int) and isinstance(end, int) and start > end
    both_moments = isinstance(start, datetime) and isinstance(end, datetime) and start > end
    if both_offsets or both_moments:
        raise KafkaUnusable(f"the range ends before it starts: it starts at {start} and ends at {end}.")
