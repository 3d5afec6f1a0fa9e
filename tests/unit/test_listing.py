"""The formats of listings: the same options everywhere, and CSV that any CSV reader can read."""

import csv
import io
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.cli.main import cli
from consumer.printing import Csv, visible


def commands(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command
        yield (*words, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))


def options(command: click.Command) -> dict[str, click.Parameter]:
    return {name: each for each in command.params for name in each.opts}


LISTINGS = {
    ("results",),
    ("dead-letters", "list"),
    ("lag",),
    ("audit",),
    ("offsets", "reset"),
    ("schemas", "check"),
    ("schemas", "register"),
    ("check",),
}


def test_every_listing_has_all_output_formats() -> None:
    found = {words: options(command) for words, command in commands(cli)}
    assert {words for words, has in found.items() if "--output" in has} == LISTINGS
    for words in LISTINGS:
        choice = found[words]["--output"].type
        assert isinstance(choice, click.Choice)
        assert list(choice.choices) == ["table", "json", "csv"]
        assert "--json" in found[words]


@pytest.mark.parametrize("words", sorted(LISTINGS))
def test_two_output_formats_at_once_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError, match="--json and --output csv contradict"):
        cli.main([*words, "--json", "--output", "csv"], standalone_mode=False)


def test_the_same_filters_have_the_same_names() -> None:
    found = {words: options(command) for words, command in commands(cli)}
    of_records = {"--topic", "--partition", "--from", "--to"}
    of_messages = of_records | {"--type", "--key", "--reason"}
    assert of_records <= found["audit",].keys()
    assert of_messages <= found["results",].keys()
    assert of_messages | {"--kind"} <= found["dead-letters", "list"].keys()
    assert of_messages | {"--kind"} <= found["dead-letters", "redrive"].keys()


def printed(columns: list[str], *rows: Mapping[str, object]) -> str:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        table = Csv(columns)
        for row in rows:
            table.row(row)
    return out.getvalue()


@given(st.lists(st.lists(st.text(), min_size=2, max_size=2)))
def test_written_values_can_be_read_back_except_for_terminal_control_characters(rows: list[list[str]]) -> None:
    text = printed(["one", "other"], *({"one": one, "other": other} for one, other in rows))
    assert text == visible(text)
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read == [["one", "other"], *[[visible(cell) for cell in row] for row in rows]]


def test_csv_values_are_written_as_in_json() -> None:
    row = {"none": None, "true": True, "number": 1.5, "time": datetime(2014, 3, 1, 10, tzinfo=UTC), "left": "out"}
    assert printed(["none", "true", "number", "time"], row) == (
        "none,true,number,time\n,true,1.5,2014-03-01T10:00:00+00:00\n"
    )
    assert printed(["none"]) == "none\n"
    with pytest.raises(KeyError):
        printed(["absent"], row)
