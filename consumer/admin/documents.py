"""Splits hub JSON into its documents, one block at a time: a file may be larger than memory.

A file contains one message, a list of messages, or a sequence of messages, usually one per line.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import orjson

from schemas.hub import HubError
from schemas.reading import document_of

LARGEST = 64 * 1024 * 1024
"""The size limit of a document, in bytes. A message in JSON may be many times larger than in Kafka."""

_LINE = 64 * 1024
# A whole string, or a bracket of an object or list. If a string is cut off, only its opening quote matches.
_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*+"|["{}\[\]]', re.DOTALL)
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_END_OF_WORD = re.compile(rb'[\s,:\]\[{}"]')
_BLANKS = re.compile(rb"[ \t\r\n]*")


class FileDocument(NamedTuple):
    """One JSON document, its number in the file (from 1), and the line that it begins on."""

    number: int
    line: int
    value: object


def read_documents(blocks: Iterable[bytes]) -> Iterator[FileDocument]:
    """Yield the documents of a file that comes in blocks. Each element of a list is a document of its own.

    Keeps one document and one block in memory at a time. Raises HubError with the line if the text is not JSON, or
    if a document is too deep, or larger than `LARGEST`.
    """
    return _Splitter(blocks).documents()


class _Splitter:
    """Splits a file. What is read but not yet returned is the buffer from `_at` on, at `_line` and `_column`."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._buffer = b""
        self._at = 0
        self._line = self._column = 1
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
        """Take the current line if it is one whole document. Usually it is, and the search for its end is saved."""
        end = self._buffer.find(b"\n", self._at, self._at + _LINE)
        if end < 0:
            return None
        try:
            value = self._parsed(end - self._at)
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
                    raise HubError(f"line {opened}: not JSON: the list is not closed")
                case _:
                    raise self._wrong("not JSON: a comma is missing between two elements of a list")

    def _document(self) -> FileDocument:
        self._next()
        line, length = self._line, self._length()
        self._number += 1
        try:
            value = self._parsed(length)
        except orjson.JSONDecodeError as error:
            # The parser counts from the document's beginning.
            line = self._line + error.lineno - 1
            column = error.colno + (self._column - 1 if error.lineno == 1 else 0)
            raise HubError(f"line {line}: not JSON: {error.msg}, at column {column}") from None
        self._take(length)
        return FileDocument(self._number, line, value)

    def _parsed(self, length: int) -> object:
        try:
            return document_of(self._buffer[self._at : self._at + length])
        except HubError as error:
            raise self._wrong(str(error)) from None

    def _length(self) -> int:
        """Return the length of the current document. Reads as many blocks as that needs."""
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
        """Return the length of a string, number or word."""
        is_text = self._buffer.startswith(b'"', self._at)
        while True:
            if is_text and (text := _TEXT.match(self._buffer, self._at)):
                return text.end() - self._at
            if not is_text and (end := _END_OF_WORD.search(self._buffer, self._at)):
                return max(1, end.start() - self._at)
            if not self._more():
                return len(self._buffer) - self._at

    def _next(self) -> bytes | None:
        """Skip blanks and return the next byte, None at the end."""
        while True:
            blanks = _BLANKS.match(self._buffer, self._at)
            self._take(blanks.end() - self._at if blanks else 0)
            if self._at < len(self._buffer):
                return self._buffer[self._at : self._at + 1]
            if not self._more():
                return None

    def _take(self, length: int) -> None:
        self._line += self._buffer.count(b"\n", self._at, self._at + length)
        end = self._buffer.rfind(b"\n", self._at, self._at + length)
        self._column = self._column + length if end < 0 else self._at + length - end
        self._at += length

    def _more(self) -> bool:
        """Append the next blocks to what is left. Returns False at the end of the file."""
        left = len(self._buffer) - self._at
        if left > LARGEST:
            raise self._wrong(f"a message is larger than {LARGEST // 2**20} MiB")
        # Read at least as much as is left, so that a long document is not scanned again for each of its blocks.
        blocks, size = [self._buffer[self._at :]], 0
        while size <= left and (block := next(self._blocks, b"")):
            blocks.append(block)
            size += len(block)
        self._buffer, self._at = b"".join(blocks), 0
        return size > 0

    def _wrong(self, why: str) -> HubError:
        return HubError(f"line {self._line}: {why}")
