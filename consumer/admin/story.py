"""The story of a record: its content, the events it would send, and its results. Also the last dead letters.

All of this is read from the topics. No member is asked, and nothing is changed.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from consumer.admin import preview
from consumer.admin.deployment import CLOCK_TOLERANCE, Deployment
from consumer.admin.letters import Letter, read_letter
from consumer.admin.ranges import Topics, epoch_ms, moment_of
from consumer.admin.reading import read_firsts, read_ranges
from consumer.engine.deadline import Deadline
from consumer.engine.kafka import to_record
from consumer.engine.records import Partition, Place, Range, Record
from consumer.errors import KafkaUnusable
from schemas.codec import Codec, RegistryUnavailable, Undecodable

LOOKED_WITHIN = 30.0
"""The time limit of the search for a record's results and dead letters, in seconds."""

_RECENT = 20
_STAMPED = "the record's timestamp"


@dataclass(slots=True)
class Story:
    """What the topics say about a place.

    `record` is None if there is none at the place, and `reason` says why. `results` and `letters` are in the order
    in which they were written, without those of another record that was at the place before the topic was created
    again. `is_whole` is False if the time limit ended the search, or an open transaction hides the end of a topic
    that was searched.
    """

    place: Place
    record: Record | None
    reason: str
    results: list[tuple[datetime | None, Mapping[str, Any]]] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    is_whole: bool = True

    def is_about(self, of: Place, timestamp: int) -> bool:
        """Return whether a result or letter of this place and timestamp is about the record."""
        return of == self.place and (self.record is None or self.record.timestamp == timestamp)


def tell(deployment: Deployment, codec: Codec, place: Place) -> Story:
    """Read all that the topics have about a place. Blocks for up to `LOOKED_WITHIN` seconds and a few more.

    Raises KafkaUnusable, RegistryUnavailable.
    """
    topics = Topics(deployment.cluster)
    if place.partition not in topics.partitions(place.topic):
        raise KafkaUnusable(f"the topic {place.topic} has no partition {place.partition}.")
    record, reason = _record(deployment, topics, place)
    story = Story(place, record, reason)
    since = moment_of(record.timestamp) if record else None
    if since and since > datetime.now(UTC):
        since = None  # the producer's clock is wrong, so it does not bound the time of the result
    deadline = Deadline(LOOKED_WITHIN)
    for written in _written(deployment, topics, deployment.results_topic, since, deadline, story):
        try:
            result = codec.decode_result(written.value or b"")
        except Undecodable:
            continue  # another program wrote it
        of = Place(result["topic"], result["partition"], result["offset"])
        if story.is_about(of, epoch_ms(result["timestamp"])) and deployment.is_ours(result["group"]):
            story.results.append((moment_of(written.timestamp), result))
    for written in _written(deployment, topics, deployment.dead_letters_topic, since, deadline, story):
        letter = read_letter(written)
        if letter and story.is_about(letter.of, letter.record.timestamp) and deployment.is_ours(letter.group):
            story.letters.append(letter)
    return story


class RecentLetters(NamedTuple):
    """The last dead letters, newest first. `hidden` counts the offsets after them that open transactions hide."""

    letters: list[Letter]
    hidden: int


def recent_letters(deployment: Deployment) -> RecentLetters:
    """Read the group's last dead letters. Blocks for seconds; raises KafkaUnusable."""
    topics, topic = Topics(deployment.cluster), deployment.dead_letters_topic
    places = [Partition(topic, number) for number in topics.partitions(topic)]
    written = topics.ends(places, committed=False)
    firsts, ends = topics.firsts(places), topics.ends(places)
    ranges = [Range(*each, max(firsts[each], ends[each] - _RECENT), ends[each]) for each in places]
    records = _records(deployment, ranges, Deadline(LOOKED_WITHIN))
    letters = filter(None, map(read_letter, records))
    found = [letter for letter in letters if deployment.is_ours(letter.group)]
    newest = sorted(found, key=lambda letter: letter.failed_at, reverse=True)[:_RECENT]
    return RecentLetters(newest, sum(max(0, written[each] - ends[each]) for each in places))


def contents(record: Record, codec: Codec, parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return what a record contains and what it would send now, as a JSON object without access tokens.

    `parameters` are those of the settings.
    """
    value = record.value or b""
    shown: dict[str, Any] = {
        "record": {
            "timestamp": record.timestamp,
            "key": (record.key or b"").decode(errors="replace"),
            "headers": [[name, (each or b"").decode(errors="replace")] for name, each in record.headers],
            "bytes": len(value),
            "begins": value[:32].hex(" "),
        },
        "content": None,
        "would_send": None,
    }
    try:
        message = codec.decode_message(value, record.headers)
    except (Undecodable, RegistryUnavailable) as error:
        return shown if record.value is None else {**shown, "not_decoded": str(error)}
    given = preview.Given(parameters, {}, record.timestamp, _STAMPED)
    known = {name: "***" if name.endswith("access_token") else each for name, each in message["parameters"].items()}
    return {
        **shown,
        "content": {**message, "parameters": known},
        "would_send": preview.of_message(message, given).as_json(),
    }


def _record(deployment: Deployment, topics: Topics, place: Place) -> tuple[Record | None, str]:
    """Return the record at a place, or None and the reason."""
    first, end = topics.firsts([place.of])[place.of], topics.ends([place.of])[place.of]
    if place.offset < first:
        return None, f"the log begins at {first}: the record was deleted, usually by retention"
    if place.offset >= end:
        return None, f"the log ends at {end}: no record was written here yet, or it is behind an open transaction"
    record = read_firsts(deployment.cluster, [Range(*place.of, place.offset, place.offset + 1)]).get(place.of)
    return (
        record,
        "" if record else "no record is at this offset: a transaction ends here, or it was compacted away",
    )


def _written(  # noqa: PLR0913, PLR0917 - each has its own purpose
    deployment: Deployment, topics: Topics, topic: str, since: datetime | None, deadline: Deadline, story: Story
) -> Iterator[Record]:
    """Yield a topic's records from a time on, until the deadline."""
    places = [Partition(topic, number) for number in topics.partitions(topic)]
    written, ends = topics.ends(places, committed=False), topics.ends(places)
    starts: Mapping[Partition, int | None] = (
        topics.at(places, since - CLOCK_TOLERANCE) if since else topics.firsts(places)
    )
    ranges = []
    for each in places:
        start = starts[each]
        if start is not None and start < ends[each]:
            ranges.append(Range(*each, start, ends[each]))
    yield from _records(deployment, ranges, deadline)
    story.is_whole = story.is_whole and bool(deadline.left) and all(ends[each] >= written[each] for each in places)


def _records(deployment: Deployment, ranges: Iterable[Range], deadline: Deadline) -> Iterator[Record]:
    for batch in read_ranges(deployment.cluster, list(ranges)):
        yield from map(to_record, batch)
        if not deadline.left:
            return
