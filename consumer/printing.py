r"""What may reach a terminal: everything that is printed passes here.

Texts of messages, keys, headers and the API's answers are written by strangers. A terminal takes some characters
as orders (move the cursor, set the title, fill the clipboard) or lets them turn the line around. These are shown
as `\u001b`: to be seen on a terminal, and in JSON an escape that is read as the same value.

The commands' streams are `Guarded`, so no command can forget it. Only `Console`, which cleans each piece of text by
itself, writes its own colours past the guard.
"""

import csv
import io
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TextIO, cast

import orjson
import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

# C0 but tab and line end, DEL, C1; then what turns, hides or breaks text: the bidi marks and overrides, separators
# of lines, what has no width, and Unicode's tags. Joiners (U+200C, U+200D) stay: scripts and emoji need them.
_ORDERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)


def visible(text: str) -> str:
    r"""Write what a terminal would obey in a form that it shows, as JSON does: `\u001b`."""
    return _ORDERS.sub(_written, text)


def _written(found: "re.Match[str]") -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


class Guarded(io.TextIOBase):
    """A stream of text that shows what a terminal would obey. What it guards is `unguarded`."""

    def __init__(self, unguarded: TextIO) -> None:
        self.unguarded = unguarded

    def write(self, text: str | bytes) -> int:
        """Write text, made visible; also as UTF-8, as click has it for shells that complete a command."""
        if isinstance(text, bytes):
            text = text.decode(errors="replace")
        self.unguarded.write(visible(text))
        return len(text)

    def writable(self) -> bool:
        """Tell that it is written to."""
        return True

    def flush(self) -> None:
        """Have what was written reach its reader."""
        self.unguarded.flush()

    def fileno(self) -> int:
        """Give the descriptor of what is guarded."""
        return self.unguarded.fileno()

    def isatty(self) -> bool:
        """Tell whether it is a terminal."""
        return self.unguarded.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of what is guarded."""
        return self.unguarded.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """What is done with a character that the encoding lacks."""
        return self.unguarded.errors


def guard() -> None:
    """Have all that this process prints made visible, from now on."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may lack letters that a message has
            setattr(sys, name, Guarded(stream))


def unguarded(stream: TextIO) -> TextIO:
    """Give the stream behind a guard, and behind the stand-in that rich puts up while it shows progress."""
    stream = getattr(stream, "rich_proxied_file", stream)
    return stream.unguarded if isinstance(stream, Guarded) else stream


class Console(rich.console.Console):
    """A console whose own colours and moves reach the terminal, and no other's."""

    def __init__(self, *, to_stderr: bool = False, soft_wrap: bool = False) -> None:
        stream = unguarded(sys.stderr if to_stderr else sys.stdout)
        super().__init__(file=stream, highlight=False, soft_wrap=soft_wrap)

    def render_str(self, text: str, **style: Any) -> Text:
        """Take a text, made visible before it is laid out."""
        return super().render_str(visible(text), **style)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Lay out; the last look at each piece of text, wherever it comes from."""
        for segment in super().render(renderable, options):
            if segment.control or not _ORDERS.search(segment.text):
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)


def print_json(value: object, *, indent: bool = False) -> None:
    """Print a value as JSON: on one line, or indented for people. Raises TypeError for what JSON can't hold."""
    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS | (orjson.OPT_INDENT_2 if indent else 0)
    _write(str(orjson.dumps(value, option=options), "utf-8"))


class Csv:
    """Rows of comma-separated values, as RFC 4180 has them but for plain line ends; the names come first.

    Times are as in JSON, true and false too, and what is None is empty.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._print(columns)

    def row(self, values: Mapping[str, object]) -> None:
        """Print a row: of these values those that have a column; raises KeyError where one is missing."""
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
    # While progress is shown, sys.stdout is rich's, which would show the line among its own.
    stream = cast("TextIO", getattr(sys.stdout, "rich_proxied_file", sys.stdout))
    stream.write(visible(text))
    stream.flush()
