"""Dead letters: finds them in their topic, decodes them, and delivers them again."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

from confluent_kafka import Message

from consumer.admin.deployment import Deployment
from consumer.admin.ranges import Topics, epoch_ms
from consumer.admin.reading import read_settled
from consumer.admin.redelivery import Redeliverer
from consumer.admin.selection import ALL, Selection, Told
from consumer.engine.kafka import to_record
from consumer.engine.ports import W
from consumer.engine.records import Output, Partition, Place, Range, Record, Redelivery
from consumer.errors import KafkaUnusable
from schemas.codec import Codec, RegistryUnavailable, Undecodable
from schemas.hub import key_of

_PREFIX = "dlq."
_OK = 200
_INT, _LONG = 2**31 - 1, 2**63 - 1

Look = Callable[[int, int], None]
"""Called with the number of records read so far, and the number in all."""


class Letter(NamedTuple):
    """One dead letter: its own `place` (TOPIC/PARTITION/OFFSET), and the record as it was when it failed.

    `kind` and `reason` say why it failed. `attempts` counts the tries, `redrives` the earlier redrives. `replay` is
    the id of the replay that wrote the letter, None if it was no replay. `group` is the consumer group, None if an
    old version wrote the letter.
    """

    place: Place
    record: Record
    kind: str
    reason: str
    attempts: int
    failed_at: datetime
    redrives: int
    replay: str | None
    group: str | None

    @property
    def of(self) -> Place:
        """The place of the record that failed."""
        return self.record.place


class Contents(NamedTuple):
    """The decoded record of a letter: its message, the type, and the number or id.

    If the record can't be decoded, `message` is None and `number` is its key.
    """

    message: Mapping[str, Any] | None
    message_type: str
    number: str


def read_letter(record: Record) -> Letter | None:
    """Parse a record of the dead-letter topic. Returns None if the consumer did not write it."""
    # Our headers come last: the original record may have had headers of the same names.
    ours: dict[str, str] = {}
    headers = list(record.headers)
    while headers and headers[-1][0].startswith(_PREFIX):
        name, value = headers.pop()
        if name in ours:
            headers.append((name, value))
            break
        ours[name] = (value or b"").decode(errors="replace")
        if name == "dlq.reason":
            break  # our headers begin with this one
    try:
        original = Record(
            ours["dlq.topic"],
            _number(ours["dlq.partition"], _INT),
            _number(ours["dlq.offset"]),
            _number(ours["dlq.timestamp"]),
            record.key,
            record.value,
            tuple(headers),
            missing=ours.get("dlq.missing", ""),
        )
        return Letter(
            record.place,
            original,
            ours["dlq.kind"],
            ours["dlq.reason"],
            _number(ours["dlq.attempts"], _INT),
            datetime.fromtimestamp(_number(ours["dlq.time"]) / 1000, UTC),
            _number(ours.get("dlq.redrives", "0"), _INT),
            ours.get("dlq.replay"),
            ours.get("dlq.group"),
        )
    except (KeyError, ValueError, OverflowError, OSError):
        return None


def _number(text: str, largest: int = _LONG) -> int:
    """Parse a number that fits into the field of a result. Raises ValueError."""
    number = int(text)
    if not -largest - 1 <= number <= largest:
        raise ValueError(text)
    return number


def contents_of(letter: Letter, codec: Codec, *, needed: bool) -> Contents:
    """Decode a letter's record if that is possible. Raises RegistryUnavailable only if `needed`."""
    number = (letter.record.key or b"").decode(errors="replace")
    try:
        message = codec.decode_message(letter.record.value or b"", letter.record.headers)
    except Undecodable:
        return Contents(None, "", number)
    except RegistryUnavailable:
        if needed:
            raise
        return Contents(None, "", number)
    return Contents(message, message["message"], number or key_of(message) or "")


def _told(letter: Letter, contents: Contents) -> Told:
    of, reason = letter.record.place.of, letter.reason
    return Told(of, contents.message_type, contents.number, reason, letter.failed_at, letter.kind)


class Found(NamedTuple):
    """A letter with its contents. `redriven` is how its redrive ended: delivered, failed, or "" for none.

    It is also delivered if a later replay delivered its record.
    """

    letter: Letter
    contents: Contents
    redriven: str


class Letters:
    """The dead-letter topic. Methods block while they read, and raise KafkaUnusable or RegistryUnavailable."""

    def __init__(self, deployment: Deployment, codec: Codec) -> None:
        self._deployment = deployment
        self._codec = codec
        self._topics = Topics(deployment.cluster)
        self.foreign = 0
        """The number of records seen so far that are not letters of this group."""

    def find(self, wanted: Selection, look: Look) -> Iterator[Found]:
        """Yield the selected letters, oldest first within each partition. `look` is called with the progress.

        Waits for open transactions, because they may hide letters or the results of redrives. Raises Hidden if one
        does not end.
        """
        redriven, replayed = self._delivered_again(look)
        for letter in self._letters(look):
            contents = contents_of(letter, self._codec, needed=wanted.message_type is not None)
            if wanted.fits(_told(letter, contents)):
                at = replayed.get((letter.of, letter.record.timestamp))
                is_delivered = at is not None and letter.failed_at.timestamp() * 1000 <= at
                ended = "delivered" if is_delivered else redriven.get(str(letter.place), "")
                yield Found(letter, contents, ended)

    def by_time(self, wanted: Selection, look: Look) -> list[Found]:
        """Return the selected letters in the order in which they failed, without their records' contents.

        Each takes little more memory than its reason. Raises what `find` raises.
        """
        found = [_without_record(each) for each in self.find(wanted, look)]
        return sorted(found, key=lambda each: (each.letter.failed_at, each.letter.place))

    def at(
        self,
        places: Collection[Place],
        wanted: Selection = ALL,
        look: Look = lambda _read, _total: None,
    ) -> list[Found]:
        """Return the letters at these places, which are letters' own places or those of the failed records.

        Raises KafkaUnusable if a place has no letter, and what `find` raises.
        """
        chosen = set(places)
        found = [each for each in self.find(wanted, look) if chosen & {each.letter.place, each.letter.of}]
        without = chosen - {place for each in found for place in (each.letter.place, each.letter.of)}
        if without:
            topic = self._deployment.dead_letters_topic
            fitting = "" if wanted == ALL else " that matches"
            raise KafkaUnusable(
                f"{topic} has no dead letter of {min(without)}{fitting}; dead-letters list shows the places."
            )
        return found

    def _letters(self, look: Look) -> Iterator[Letter]:
        topic = self._deployment.dead_letters_topic
        for message in self._messages(topic, look):
            letter = read_letter(to_record(message))
            if letter and self._deployment.is_ours(letter.group):
                yield letter
            else:
                self.foreign += 1

    def _delivered_again(self, look: Look) -> tuple[dict[str, str], dict[tuple[Place, int], int]]:
        """Read from the results what redrives and replays did.

        Returns for each redriven letter, by its place, whether it was delivered or failed. And for each record that
        a replay delivered, by its place and timestamp, when the last one did (ms).
        """
        redriven: dict[str, str] = {}
        replayed: dict[tuple[Place, int], int] = {}
        for message in self._messages(self._deployment.results_topic, look):
            try:
                result = self._codec.decode_result(message.value() or b"")
            except Undecodable:
                continue
            if not self._deployment.is_ours(result["group"]):
                continue
            if result["redrive"] is not None:
                redriven[result["redrive"]] = "delivered" if result["code"] == _OK else "failed"
            elif result["replay"] is not None and result["code"] == _OK:
                of = Place(result["topic"], result["partition"], result["offset"])
                record, at = (of, epoch_ms(result["timestamp"])), message.timestamp()[1]
                replayed[record] = max(at, replayed.get(record, at))
        return redriven, replayed

    def _messages(self, topic: str, look: Look) -> Iterator[Message]:
        """Read a topic to its present end. Waits for open transactions, and reads what they commit."""
        places = [Partition(topic, number) for number in self._topics.partitions(topic)]
        firsts, ends = self._topics.firsts(places), self._topics.ends(places, committed=False)
        ranges = [Range(*place, firsts[place], ends[place]) for place in places]
        read, total = 0, sum(each.end - each.start for each in ranges)
        for batch in read_settled(self._deployment.cluster, ranges):
            look(read, total)
            yield from batch
            read += len(batch)

    def redrive(
        self, found: Iterable[Found], redeliverer: Redeliverer[W], at_once: int, rate: float | None
    ) -> Iterator[tuple[Output, ...]]:
        """Deliver letters again, at most `at_once` per transaction and `rate` per second. Blocks.

        Each letter gets a result that names it. One that fails again becomes a new letter. Raises Interrupted,
        GaveUp.
        """
        most = max(1, min(at_once, int(rate))) if rate else at_once
        letters = iter(found)
        while records := [_again(each.letter) for each in islice(letters, most)]:
            outputs = redeliverer.deliver(records)
            redeliverer.publish(outputs, {})
            yield tuple(outputs)
            if rate:
                redeliverer.wait(len(records) / rate)


def _without_record(found: Found) -> Found:
    letter, contents = found.letter, found.contents
    record = letter.record._replace(key=None, value=None, headers=())
    return Found(letter._replace(record=record), contents._replace(message=None), found.redriven)


def _again(letter: Letter) -> Record:
    """Return the record of a letter, marked as a redrive."""
    return letter.record._replace(redelivery=Redelivery(None, str(letter.place), letter.attempts, letter.redrives))
