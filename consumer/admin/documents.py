"""Splits hub JSON into its documents, a block at a time: a file may be larger than memory.

A file holds one message, a list of messages, or messages one after the other, mostly one a line.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import orjson

from schemas.hub import HubError

LARGEST = 64 * 1024 * 1024
"""Bytes of the largest document: as JSON a message may be many times what it is in Kafka."""

_LINE = 64 * 1024
# A text as a whole, or what opens and closes objects and lists. A text that is cut off matches its quote alone.
_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*+"|["{}\[\]]', re.DOTALL)
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_END_OF_WORD = re.compile(rb'[\s,:\]\[{}"]')
_BLANKS = re.compile(rb"[ \t\r\n]*")


class FileDocument(NamedTuple):
    """One JSON document, the first of its file with the number 1, and the line that it begins on."""

    number: int
    line: int
    value: object


def read_documents(blocks: Iterable[bytes]) -> Iterator[FileDocument]:
    """Give the documents of a file that comes in blocks, the elements of a list as if they were alone.

    Holds one document and one block at a time. Raises HubError, which names the line, where it is no JSON, or where
    a document is larger than `LARGEST`.
    """
    return _Splitter(blocks).documents()


class _Splitter:
    """What is read and not yet handed on: `buffer` from `at` on, which begins on `line`."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._buffer = b""
        self._at = 0
        self._line = 1
        self._number = 0

    def documents(self) -> Iterator[FileDocument]:
        while len(self._buffer) < len(codecs.BOM_UTF8) and self._more():
            pass
        self._buffer = self._buffer.removeprefix(codecs.BOM_UTF8)
        if self._next() is None:
            raise HubError("not JSON: the file is empty")
        while (first := self._next()) is not None:
            if first == b"[":
                yield from self._elements()
            else:
                yield self._line_alone() or self._document()

    def _line_alone(self) -> FileDocument | None:
        """Take the line at hand if it is a document, as it mostly is: that saves looking for the document's end."""
        end = self._buffer.find(b"\n", self._at, self._at + _LINE)
        if end < 0:
            return None
        try:
            value = orjson.loads(self._buffer[self._at : end])
        except orjson.JSONDecodeError:
            return None
        self._number += 1
        document = FileDocument(self._number, self._line, value)
        self._take(end - self._at)
        return document

    def _elements(self) -> Iterator[FileDocument]:
        opened = self._line
        self._take(1)
        if self._next() == b"]":
            self._take(1)
            return
        while True:
            yield self._document()
            match self._next():
                case b",":
                    self._take(1)
                case b"]":
                    self._take(1)
                    return
                case None:
                    raise HubError(f"line {opened}: not JSON: the list has no end")
                case _:
                    raise self._wrong("between the elements of a list there must be a comma")

    def _document(self) -> FileDocument:
        self._next()
        line, length = self._line, self._length()
        text = self._buffer[self._at : self._at + length]
        self._number += 1
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise HubError(f"line {line}: not JSON: {error}") from None
        self._take(length)
        return FileDocument(self._number, line, value)

    def _length(self) -> int:
        """Find how long the document at hand is, reading what it takes."""
        if self._buffer[self._at : self._at + 1] not in (b"{", b"["):
            return self._scalar()
        depth, scanned = 0, 0
        while True:
            cut_off = False
            for mark in _MARKS.finditer(self._buffer, self._at + scanned):
                match mark[0]:
                    case b"{" | b"[":
                        depth += 1
                    case b"}" | b"]":
                        depth -= 1
                        if not depth:
                            return mark.end() - self._at
                    case b'"':
                        cut_off, scanned = True, mark.start() - self._at
                        break
            if not cut_off:
                scanned = len(self._buffer) - self._at
            if not self._more():
                return len(self._buffer) - self._at  # it has no end: the parser says what is missing

    def _scalar(self) -> int:
        """Find how long a text, number or word is."""
        is_text = self._buffer.startswith(b'"', self._at)
        while True:
            if is_text and (text := _TEXT.match(self._buffer, self._at)):
                return text.end() - self._at
            if not is_text and (end := _END_OF_WORD.search(self._buffer, self._at)):
                return max(1, end.start() - self._at)
            if not self._more():
                return len(self._buffer) - self._at

    def _next(self) -> bytes | None:
        """Pass over blanks; gives the next byte, None at the end."""
        while True:
            blanks = _BLANKS.match(self._buffer, self._at)
            self._take(blanks.end() - self._at if blanks else 0)
            if self._at < len(self._buffer):
                return self._buffer[self._at : self._at + 1]
            if not self._more():
                return None

    def _take(self, length: int) -> None:
        self._line += self._buffer.count(b"\n", self._at, self._at + length)
        self._at += length

    def _more(self) -> bool:
        """Read a block behind what is left; False at the end."""
        left = len(self._buffer) - self._at
        if left > LARGEST:
            raise self._wrong(f"a message is larger than {LARGEST // 2**20} MiB")
        # As much as there is already: what is long is not looked through again for each of its blocks.
        blocks, size = [self._buffer[self._at :]], 0
        while size <= left and (block := next(self._blocks, b"")):
            blocks.append(block)
            size += len(block)
        self._buffer, self._at = b"".join(blocks), 0
        return size > 0

    def _wrong(self, why: str) -> HubError:
        return HubError(f"line {self._line}: {why}")
