"""Produces hub JSON to Kafka: validates it, encodes it, and sets the number or id as the key.

All messages are validated before the first is sent. Encoded messages wait in a temporary file, so that few are in
memory at a time.
"""

import marshal
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from consumer.admin.documents import FileDocument, read_documents
from consumer.admin.spelling import Spelling
from consumer.engine.kafka import kafka_error
from consumer.errors import NotProduced
from consumer.printing import clause
from jirafe.services import UnknownMessageType, make_events
from schemas.avro_json import message_of
from schemas.codec import Codec
from schemas.hub import HubError, key_of, kind_of

_FLUSH_TIMEOUT = 30.0
_BLOCK = 256 * 1024

_LARGEST = 1_000_000  # librdkafka's default

QUEUED: dict[str, object] = {"queue.buffering.max.kbytes": 32 * 1024}
"""Limits the messages that wait in the producer. Its default is a gigabyte."""


class Encoded(NamedTuple):
    """A message ready to be produced; `kind` names its schema: cart, order, product or taxon.

    `place` says where it comes from, for people; it is empty if it does not come from a file.
    """

    kind: str
    key: bytes | None
    value: bytes
    place: str = ""


def largest_sent(properties: Mapping[str, str]) -> int:
    """Return how many bytes of key and value a producer with these properties can send in one message."""
    given = properties.get("message.max.bytes", "")
    return int(given) if given.isdecimal() else _LARGEST


class UnknownTypes:
    """Counts the messages of a type that no service knows. The consumer makes each a dead letter."""

    def __init__(self) -> None:
        self.count = 0
        self.place = ""
        """The place of the first one."""
        self.reason = ""
        """The type of the first one, and which types are known."""
        self._known = set[str]()

    def note(self, place: str, message: Mapping[str, Any]) -> None:
        """Count a message, which must fit its schema, if its type is unknown."""
        message_type = message["message"]
        if message_type in self._known:
            return
        try:
            make_events(message_type, message["payload"], {})
        except UnknownMessageType as error:
            if not self.count:
                self.place, self.reason = place, str(error)
            self.count += 1
        else:
            self._known.add(message_type)


def encode_all(  # noqa: PLR0913, PLR0917 - each has its own purpose
    source: str,
    blocks: Iterable[bytes],
    codec: Codec,
    largest: int,
    spelling: Spelling,
    unknown: UnknownTypes,
) -> Iterator[Encoded]:
    """Encode all messages of one source of hub JSON, in order.

    `largest` is the limit of a message's key and value, in bytes. `spelling` watches which fields are read, and
    `unknown` which types are unknown. Raises HubError, which names the source and the place.
    """
    documents = read_documents(blocks)
    try:
        for document in documents:
            place = f"{source}, message {document.number}"
            try:
                message = message_of(spelling.watched(document.value))
                spelling.note(place)
                encoded = _encoded(place, message, codec, largest)
                unknown.note(place, message)
                yield encoded
            except HubError as error:
                alone = document.number == 1 and _is_last(documents)
                raise _Placed(f"{source if alone else place}: {error}") from None
    except _Placed:
        raise
    except HubError as error:
        raise HubError(f"{source}: {error}") from None


class _Placed(HubError):
    """A HubError whose sentence already names the place."""


def _is_last(documents: Iterator[FileDocument]) -> bool:
    try:
        return next(documents, None) is None
    except HubError:
        return False


def _encoded(place: str, message: dict[str, Any], codec: Codec, largest: int) -> Encoded:
    kind = kind_of(message["message"]) or ""
    key = key_of(message)
    encoded = Encoded(kind, key.encode() if key else None, codec.encode(kind, message), place)
    if (size := len(encoded.key or b"") + len(encoded.value)) > largest:
        raise HubError(
            f"too large: {size:,} bytes in Kafka, and the limit is {largest:,}. Raise KAFKA_MESSAGE_MAX_BYTES, and "
            "max.message.bytes of the topic"
        )
    return encoded


@contextmanager
def opened(name: str, standard_input: IO[bytes]) -> Iterator[Iterator[bytes]]:
    """Open a file, or standard input for `-`, and yield its blocks. Raises OSError."""
    if name == "-":
        yield iter(lambda: standard_input.read(_BLOCK), b"")
        return
    with Path(name).open("rb") as file:
        yield iter(lambda: file.read(_BLOCK), b"")


class Spool:
    """Messages with their topics, kept in a temporary file until all of them are validated."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it ends with the spool
        self.topics: dict[str, None] = {}
        """The topics of what was added."""

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, topic: str, message: Encoded) -> None:
        """Keep a message; raises OSError."""
        self.topics.setdefault(topic)
        marshal.dump((topic, *message), self._file)

    def __iter__(self) -> Iterator[tuple[str, Encoded]]:
        self._file.seek(0)
        while True:
            try:
                topic, *message = marshal.load(self._file)  # noqa: S302 - it is our own file, and has no name
            except EOFError:
                return
            yield topic, Encoded(*message)


def produce(producer: Producer, messages: Iterable[tuple[str, Encoded]]) -> int:
    """Produce each message to its topic, and return their number. Blocks until the broker has them.

    Raises NotProduced.
    """
    why, failed, count = "no answer from the broker", 0, 0

    def fail(error: KafkaError, place: str) -> None:
        nonlocal failed, why
        if not failed:
            why = _why(error, place)
        failed += 1

    for topic, message in messages:

        def delivered(error: KafkaError | None, _message: Message, place: str = message.place) -> None:
            if error:
                fail(error, place)

        while True:
            try:
                producer.produce(topic, message.value, message.key, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)  # the queue is full: let it drain
            except KafkaException as error:
                fail(kafka_error(error), message.place)
                break
        count += 1
        producer.poll(0)
    left = producer.flush(_FLUSH_TIMEOUT)
    if left or failed:
        raise NotProduced(f"{left + failed} of {count} messages were not produced: {why}.")
    return count


def _why(error: KafkaError, place: str) -> str:
    why = clause(error.str())
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        why = f"too large for its topic; raise max.message.bytes of the topic ({why})"
    return f"{place}: {why}" if place else why
