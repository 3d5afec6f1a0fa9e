"""Encodes a topic's id, and the records decided beyond a committed offset, as the offset's metadata. Pure.

The text is `jirafe-consumer/1 CRC TOPIC-ID RUNS SINCE CAUSE STRAND`. RUNS is a sequence of variable-length numbers:
from the committed offset on, how many offsets are undecided, how many are decided, and so on in turn. CRC covers
everything after it. The last three tell operators what blocks the offset: since when (in seconds since 1970), why,
and which strand. They are `0 - -` if nothing does.
"""

import base64
import string
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from urllib.parse import quote_plus, unquote_plus

MOST_BYTES = 3900
"""The most bytes of the text: brokers accept 4,096 by default (`offset.metadata.max.bytes`)."""

_MAGIC = "jirafe-consumer/1"
_UNKNOWN = "-"
_PLAIN = string.punctuation.replace("%", "").replace("+", "")
_LONGEST_WORD = 60
# Base 85 makes five characters of four bytes; the rest of the text has far less than this.
_MOST_PACKED = (MOST_BYTES - 300) * 4 // 5
_MOST_OFFSET = 2**63 - 1
_LATEST = 2**37

Runs = tuple[tuple[int, int], ...]
"""Runs of decided offsets, in order, with gaps between them: the first offset, and the one after the last."""


class Blocker(NamedTuple):
    """What blocks an offset: what the first undecided record waits for, why, and since when.

    `strand` is the name of its strand. A record that was not set apart has none: then it is what the trouble waits
    for, or the flooded topic. `since` is in seconds since 1970.
    """

    since: int
    cause: str
    strand: str


class Ahead(NamedTuple):
    """The runs decided beyond an offset, and what blocks the offset, None if nothing does.

    `topic_id` is empty if it was not known.
    """

    runs: Runs
    topic_id: str
    blocker: Blocker | None = None

    @property
    def count(self) -> int:  # type: ignore[override] # nobody looks for an item in it
        """Offsets that are decided."""
        return counted(self.runs)


class NotOurs(ValueError):
    """The metadata can't be used; the error's text says why."""


def counted(runs: Runs) -> int:
    """Count the offsets of runs."""
    return sum(end - start for start, end in runs)


def fits(offset: int, runs: Runs) -> bool:
    """Return whether these runs fit into the metadata of an offset."""
    return len(_packed(offset, runs)) <= _MOST_PACKED


def write(offset: int, ahead: Ahead) -> str:
    """Write what is decided beyond an offset, and what blocks it."""
    runs = base64.b85encode(_packed(offset, ahead.runs)).decode()
    since, *words = ahead.blocker or (0, "", "")
    body = " ".join((ahead.topic_id or _UNKNOWN, runs, str(since), *map(_word, words)))
    return f"{_MAGIC} {zlib.crc32(body.encode()):08x} {body}"


def read(offset: int, text: str) -> Ahead:
    """Read what `write` wrote; raises NotOurs."""
    magic, _, rest = text.partition(" ")
    if magic != _MAGIC:
        is_later = magic.startswith("jirafe-consumer/")
        raise NotOurs("another version wrote it" if is_later else "another program wrote it")
    crc, _, body = rest.partition(" ")
    parts = body.split(" ")
    if len(parts) != 5 or crc != f"{zlib.crc32(body.encode(errors='surrogatepass')):08x}":  # noqa: PLR2004
        raise NotOurs("it is damaged")
    topic_id, packed, since, cause, strand = parts
    try:
        runs = _unpacked(offset, base64.b85decode(packed))
        blocker = Blocker(min(abs(int(since)), _LATEST), _unworded(cause), _unworded(strand))
    except ValueError:
        raise NotOurs("it is damaged") from None
    return Ahead(runs, "" if topic_id == _UNKNOWN else topic_id, blocker if any(blocker) else None)


def joined(runs: Iterable[tuple[int, int]]) -> Runs:
    """Join adjacent runs, given in order, and leave out empty ones."""
    found: list[tuple[int, int]] = []
    for start, end in runs:
        if start >= end:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return tuple(found)


def between(undecided: Sequence[int], end: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of decided offsets between undecided ones, given in order, up to an end."""
    for index, offset in enumerate(undecided):
        yield offset + 1, undecided[index + 1] if index + 1 < len(undecided) else end


def _packed(offset: int, runs: Runs) -> bytes:
    packed = bytearray()
    for start, end in runs:
        for number in (start - offset, end - start):
            left = number
            while left > 0x7F:  # noqa: PLR2004 - seven bits a byte
                packed.append(left & 0x7F | 0x80)
                left >>= 7
            packed.append(left)
        offset = end
    return bytes(packed)


def _unpacked(offset: int, packed: bytes) -> Runs:
    """Read runs; raises ValueError for bytes that `_packed` never makes."""
    numbers, number, shift = list[int](), 0, 0
    for byte in packed:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte <= 0x7F:  # noqa: PLR2004
            numbers.append(number)
            number = shift = 0
    if shift or len(numbers) % 2 or min(numbers, default=1) < 1 or offset + sum(numbers) > _MOST_OFFSET:
        raise ValueError("no runs")
    runs = []
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        runs.append((offset + gap, offset + gap + length))
        offset += gap + length
    return tuple(runs)


def _word(text: str) -> str:
    """Turn a text into one printable word, cut to a short length. A site's id may be any text."""
    return quote_plus(text, safe=_PLAIN, errors="replace")[:_LONGEST_WORD] or _UNKNOWN


def _unworded(word: str) -> str:
    return "" if word == _UNKNOWN else unquote_plus(word)
