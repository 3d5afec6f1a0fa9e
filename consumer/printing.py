r"""Makes output safe for terminals. Everything that is printed passes through here.

Texts of messages, keys, headers and the API's answers come from strangers. A terminal obeys some characters as
commands (move the cursor, set the title, fill the clipboard), and others reverse the text of a line. They are shown
as `\u001b`. That is visible on a terminal, and in JSON it is an escape for the same character.

The commands' streams are `Guarded`, so no command can forget this. Only `Console` bypasses the guard, to write its
own colors. It cleans each piece of text itself.
"""

import csv
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TextIO, cast

import orjson
import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

# Control characters: C0 except tab and line feed, DEL, C1. Then characters that reverse, hide or break text: bidi
# marks and overrides, line separators, zero-width characters, fillers, Unicode's tags. Joiners (U+200C, U+200D) and
# the variants of emoji stay: scripts and emoji need them.
_ORDERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def visible(text: str) -> str:
    r"""Escape the characters that a terminal would obey, as JSON does: `\u001b`."""
    return _ORDERS.sub(_written, text)


def _written(found: "re.Match[str]") -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


class Guarded(io.TextIOBase):
    """A text stream that escapes what a terminal would obey. `unguarded` is the stream that it writes to."""

    def __init__(self, unguarded: TextIO) -> None:
        self.unguarded = unguarded

    def write(self, text: str | bytes) -> int:
        """Write text, escaped. Also takes UTF-8 bytes, which click writes for shell completion."""
        if isinstance(text, bytes):
            text = text.decode(errors="replace")
        self.unguarded.write(visible(text))
        return len(text)

    def writable(self) -> bool:
        """Return True."""
        return True

    def flush(self) -> None:
        """Flush the guarded stream."""
        self.unguarded.flush()

    def fileno(self) -> int:
        """Return the file descriptor of the guarded stream."""
        return self.unguarded.fileno()

    def isatty(self) -> bool:
        """Return whether the guarded stream is a terminal."""
        return self.unguarded.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the guarded stream."""
        return self.unguarded.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """How the guarded stream handles characters that its encoding lacks."""
        return self.unguarded.errors


def guard() -> None:
    """Guard stdout and stderr of this process from now on. Opens the null device for a closed standard stream."""
    _open_closed()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # its encoding may lack some letters
            setattr(sys, name, Guarded(stream))


def _open_closed() -> None:
    # Python has None for a stream that was closed. Its descriptor must not go to a socket or file, which would then
    # get what is printed. The system gives the lowest free one, which is that of the stream.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - it ends with the process


@contextmanager
def while_read() -> Iterator[None]:
    """Print until the reader closes the pipe (`... | head`). What comes after this runs in any case.

    A command whose exit status says what it found prints in it, so that it still returns this status.
    """
    try:
        yield
    except (BrokenPipeError, SystemExit):
        # Click and rich turn a closed pipe into a SystemExit, and nothing else here raises one.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def unguarded(stream: TextIO) -> TextIO:
    """Return the stream behind a guard, and behind the proxy that rich sets up while it shows progress."""
    stream = getattr(stream, "rich_proxied_file", stream)
    return stream.unguarded if isinstance(stream, Guarded) else stream


class Console(rich.console.Console):
    """A console that escapes all control characters except its own colors and cursor moves."""

    def __init__(self, *, to_stderr: bool = False, soft_wrap: bool = False) -> None:
        stream = unguarded(sys.stderr if to_stderr else sys.stdout)
        super().__init__(file=stream, highlight=False, emoji=False, soft_wrap=soft_wrap)

    def render_str(self, text: str, **style: Any) -> Text:
        """Convert text, escaped before it is laid out."""
        return super().render_str(visible(text), **style)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Lay out, and escape each piece of text, wherever it comes from."""
        for segment in super().render(renderable, options):
            if segment.control or not _ORDERS.search(segment.text):
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)


def print_json(value: object, *, indent: bool = False) -> None:
    """Print a value as JSON: on one line, or indented for people. Raises TypeError if it can't be JSON."""
    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS | (orjson.OPT_INDENT_2 if indent else 0)
    try:
        encoded = orjson.dumps(value, option=options)
    except TypeError:
        encoded = orjson.dumps(_in_utf8(value), option=options)
    _write(str(encoded, "utf-8"))


def _in_utf8(value: object) -> object:
    """Escape what is not UTF-8, such as bytes in the name of a file, in all texts of a value."""
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case dict():
            return {_in_utf8(name): _in_utf8(each) for name, each in value.items()}
        case list() | tuple():
            return [_in_utf8(each) for each in value]
    return value


def plural(what: str, count: int) -> str:
    """Return the noun `what` in the form for this count."""
    return what if count == 1 else f"{what}s"


def clause(said: str) -> str:
    """Return a sentence without its full stop, which texts of servers may have, so that it can go on."""
    return said if said.endswith("...") else said.removesuffix(".")


class Csv:
    """Prints rows of comma-separated values as in RFC 4180, but with plain line ends. The header row comes first.

    Times and booleans are written as in JSON. None is an empty cell.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._print(columns)

    def row(self, values: Mapping[str, object]) -> None:
        """Print a row. Values without a column are left out. Raises KeyError if a column has no value."""
        self._print([_cell(values[name]) for name in self._columns])

    @staticmethod
    def _print(cells: Sequence[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        _write(line.getvalue())


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case datetime():
            return value.isoformat()
        case _:
            return str(value)


def _write(text: str) -> None:
    # While progress is shown, sys.stdout is rich's proxy, which would mix this line into its own output.
    stream = cast("TextIO", getattr(sys.stdout, "rich_proxied_file", sys.stdout))
    stream.write(visible(text))
    stream.flush()
