"""Text of others can never control the terminal, however it is printed."""

import io
import json
import sys
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from consumer import log
from consumer.printing import Console, Guarded, print_json, visible
from tests.command import HOSTILE, ORDERS, obeyed
from tests.thorough import scaled


@given(st.text(alphabet=st.sampled_from(HOSTILE + 'aä"\\\n\t\U0001f45c\u200d'), max_size=40))
def test_visible_text_has_no_control_characters_and_stays_the_same_json(text: str) -> None:
    assert not set(visible(text)) & set(HOSTILE)
    assert visible(visible(text)) == visible(text)
    written = visible(json.dumps({"value": text}, ensure_ascii=False))
    assert obeyed(written) == []
    assert json.loads(written) == {"value": text}


def test_characters_that_reverse_or_hide_text_are_made_visible() -> None:
    kept = "\t\n\u200c\u200d"
    for code in (*range(scaled(0x110000)), *range(0xE0000, 0xE1000)):
        letter = chr(code)
        if unicodedata.category(letter) in {"Cc", "Zl", "Zp", "Cs"} or unicodedata.bidirectional(letter) in {
            *("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
        }:
            assert (visible(letter) == letter) == (letter in kept), hex(code)
    assert visible("grün, 価格, \U0001f469\u200d\U0001f4bb, שלום") == "grün, 価格, \U0001f469\u200d\U0001f4bb, שלום"


def test_invisible_characters_are_made_visible() -> None:
    kept = "\u200c\u200d"
    # Signs that are written above or below the numbers after them.
    seen = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
    for code in range(scaled(0x110000)):
        letter = chr(code)
        is_filler = letter in "\u115f\u1160\u3164\uffa0" or letter in "\u034f\u17b4\u17b5\u180b"
        if (unicodedata.category(letter) == "Cf" and code not in seen) or is_filler:
            assert (visible(letter) == letter) == (letter in kept), hex(code)


def test_plain_text_is_shown_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    Console().print(escape("[red] :smile: [/]"))
    assert capsys.readouterr().out == "[red] :smile: [/]\n"


def as_cell(text: str) -> Table:
    table = Table()
    table.add_column()
    table.add_row(escape(text))
    return table


@pytest.mark.parametrize("text", ORDERS)
@pytest.mark.parametrize(
    "shown", [escape, Text, as_cell, lambda text: Panel(Text(text)), lambda text: Text.assemble((text, "bold red"))]
)
@pytest.mark.parametrize("terminal", ["xterm-256color", "dumb"])
def test_a_console_prints_only_its_own_control_sequences(
    text: str, shown: Callable[[str], Any], terminal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", terminal)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", Guarded(stream))
    Console().print(shown(text), style="green")
    assert obeyed(stream.getvalue()) == []
    assert "\x1b[31m" not in stream.getvalue()


@pytest.mark.parametrize("text", ORDERS)
def test_a_guarded_stream_makes_all_text_visible(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", Guarded(stream))
    print(text, end="")  # noqa: T201 - what no command does, and a new one may
    assert stream.getvalue() == visible(text)
    assert not hasattr(sys.stdout, "buffer")  # no way around it for bytes


@pytest.mark.parametrize("indent", [True, False])
def test_printed_json_decodes_to_the_value(*, indent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    print_json({"reason": "".join(ORDERS)}, indent=indent)
    assert obeyed(stream.getvalue()) == []
    assert json.loads(stream.getvalue()) == {"reason": "".join(ORDERS)}


@pytest.mark.parametrize(("no_color", "is_colored"), [(None, True), ("1", False), ("", True)])
def test_the_log_honors_no_color(
    no_color: str | None, *, is_colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = logged(monkeypatch, no_color, reason="quite usual")
    assert ("\x1b[" in said) == is_colored


@pytest.mark.parametrize("text", ORDERS)
def test_a_log_entry_is_one_line_without_control_sequences_of_its_values(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = logged(monkeypatch, None, reason=f"{text}\n2014-03-01 [info] all is well", faults=[text])
    assert obeyed(said) == []
    assert said.count("\n") == 1


def logged(monkeypatch: pytest.MonkeyPatch, no_color: str | None, **values: Any) -> str:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", Guarded(stream))
    try:
        log.configure("info").warning("held", **values)
    finally:
        structlog.reset_defaults()
    return stream.getvalue()
