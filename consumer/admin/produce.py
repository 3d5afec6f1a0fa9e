"""Puts hub JSON into Kafka: validated, encoded, keyed by number or id."""

import codecs
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import KafkaError, Message, Producer

from consumer.errors import NotProduced
from schemas.codec import Codec
from schemas.hub import HubError, key_of, kind_of, parse_all, to_message

_FLUSH_TIMEOUT = 30.0


class Encoded(NamedTuple):
    """A message ready to be produced; `kind` names its schema: cart, order or taxon."""

    kind: str
    key: bytes | None
    value: bytes


def encode_all(source: str, text: bytes, codec: Codec) -> list[Encoded]:
    """Encode all messages of one source of hub JSON; raises HubError, which names the source and the place."""
    encoded = []
    try:
        documents = parse_all(text)
    except HubError as error:
        raise HubError(f"{source}: {error}") from None
    for index, document in enumerate(documents, 1):
        try:
            message = to_message(document)
            kind = kind_of(message["message"]) or ""
            key = key_of(message)
            encoded.append(Encoded(kind, key.encode() if key else None, codec.encode(kind, message)))
        except HubError as error:
            place = source if len(documents) == 1 else f"{source}, message {index}"
            raise HubError(f"{place}: {error}") from None
    return encoded


def read_source(name: str, standard_input: Iterable[bytes]) -> bytes:
    """Read a file, or standard input for `-`, without the byte order mark it may begin with; raises OSError."""
    text = b"".join(standard_input) if name == "-" else Path(name).read_bytes()
    return text.removeprefix(codecs.BOM_UTF8)


def produce(producer: Producer, messages: Iterable[tuple[str, Encoded]]) -> int:
    """Produce messages, each to its topic, and wait until the broker has them; raises NotProduced."""
    faults: list[KafkaError] = []

    def delivered(error: KafkaError | None, _message: Message) -> None:
        if error:
            faults.append(error)

    count = 0
    for topic, message in messages:
        while True:
            try:
                producer.produce(topic, message.value, message.key, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)  # the queue is full: let it drain
        count += 1
        producer.poll(0)
    left = producer.flush(_FLUSH_TIMEOUT)
    if left or faults:
        why = faults[0].str() if faults else "no answer from the broker"
        raise NotProduced(f"{left + len(faults)} of {count} messages were not produced: {why}.")
    return count
