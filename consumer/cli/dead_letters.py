"""`dead-letters`: show what could not be delivered, and deliver it again."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from rich.markup import escape
from rich.padding import Padding

from consumer import app
from consumer.admin.letters import Found, Letters, Look
from consumer.admin.redelivery import Redeliverer
from consumer.admin.selection import Selection
from consumer.admin.story import contents
from consumer.cli import PROGRAM
from consumer.cli.listing import Form, in_a_form
from consumer.cli.progress import bars
from consumer.cli.redelivery import RedeliveryTally, watched
from consumer.cli.usage import a_place, a_rate, check_consumed, choosing
from consumer.engine.records import Place
from consumer.errors import ERRORS_PAGE, GaveUp, Interrupted, KafkaUnusable
from consumer.printing import Console, Csv, clause, plural, print_json, while_read
from consumer.settings import Settings, SettingsSource
from schemas.codec import RegistryUnavailable

_MOST_REDRIVES = 3
_STATES = {
    "": ("open", "red"),
    "delivered": ("delivered since", "green"),
    "failed": ("redriven, failed again", "yellow"),
}

_COLUMNS = (
    "place",
    "dead_letter",
    "failed_at",
    "kind",
    "reason",
    "attempts",
    "message",
    "number",
    "redrives",
    "redriven",
)

T = TypeVar("T")

Choose = Callable[[Look], Iterator[Found]]
"""Yields the selected letters, and reports its progress to a `Look`."""


@click.group("dead-letters", no_args_is_help=False)
def dead_letters() -> None:
    """Show undeliverable messages, and deliver them again.

    \b
    Example:
      jirafe-consumer dead-letters list --open
    """


@dead_letters.command("list")
@choosing(letters=True)
@click.option(
    "--open",
    "only_open",
    is_flag=True,
    help="Only letters that were not redriven, and whose records were not delivered by a later replay.",
)
@in_a_form("one object a line")
@click.pass_obj
def list_command(source: SettingsSource, wanted: Selection, only_open: bool, form: Form) -> int:
    """List dead letters, and count them by kind.

    Oldest first. Shows when each record failed, its place, the reason, its type and number, and how its redrive or
    a later replay ended. Waits for open transactions, because they hide letters. Exit status 2 if one does not end.
    A TIME is ISO 8601 with a zone, a date (midnight in UTC), or 2h for 2 hours ago.

    \b
    Examples:
      jirafe-consumer dead-letters list --open --from 2h
      jirafe-consumer dead-letters list --json | jq -r .reason | sort | uniq -c
    """
    letters = _letters(source.load(), wanted.topic)
    console = Console()
    rows = Csv(_COLUMNS) if form is Form.CSV else None
    kinds: Counter[str] = Counter()
    states: Counter[str] = Counter()
    with _reading() as look:
        listed = letters.by_time(wanted, look)
    for found in listed:
        if only_open and found.redriven:
            continue
        kinds[found.letter.kind] += 1
        states[found.redriven] += 1
        if rows:
            rows.row(_object(found))
        elif form is Form.JSON:
            print_json(_object(found))
        else:
            _row(console, found)
    if form is Form.TABLE:
        counted = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        said = f"{kinds.total():,} {plural('dead letter', kinds.total())}"
        console.print(said + (f": {counted}" if counted else ""))
        if states["delivered"]:
            console.print(f"{states['delivered']:,} of them were delivered since.")
        if letters.foreign:
            console.print(f"Records of the topic that are not dead letters of this group: {letters.foreign:,}.")
    return 0


@contextmanager
def _reading() -> Iterator[Look]:
    """Show the progress of reading, on a terminal."""
    with bars() as add_bar:
        yield add_bar("reading", None).at


def _row(console: Console, found: Found) -> None:
    letter, contents = found.letter, found.contents
    state, style = _STATES[found.redriven]
    told = " ".join(filter(None, (contents.message_type, contents.number)))
    at = f"{letter.failed_at:%Y-%m-%d %H:%M:%S}"
    console.print(
        f"[dim]{at}[/]  [bold]{escape(str(letter.of))}[/]  {escape(letter.kind)}  [{style}]{state}[/]",
        soft_wrap=True,
    )
    console.print(Padding(escape(": ".join(filter(None, (told, letter.reason)))), (0, 0, 0, 2)))


def _object(found: Found) -> dict[str, Any]:
    letter, contents = found.letter, found.contents
    return {
        "place": str(letter.of),
        "dead_letter": str(letter.place),
        "failed_at": letter.failed_at,
        "kind": letter.kind,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "message": contents.message_type,
        "number": contents.number,
        "redrives": letter.redrives,
        "redriven": found.redriven or None,
    }


@dead_letters.command()
@click.argument("place", type=a_place)
@click.pass_obj
def show(source: SettingsSource, place: Place) -> int:
    """Show everything about a dead letter, as JSON.

    PLACE is TOPIC/PARTITION/OFFSET of the record that failed, or of the dead letter itself. Shows the reason,
    the headers, the decoded message, and the events that it would send now.

    \b
    Example:
      jirafe-consumer dead-letters show orders/0/17
    """
    loaded = source.load()
    codec = app.make_codec(loaded)
    for found in _letters(loaded).at([place]):
        told = contents(found.letter.record, codec, loaded.parameters)
        print_json({**_object(found), "explained_in": ERRORS_PAGE, **told}, indent=True)
    return 0


@dead_letters.command()
@click.argument("places", nargs=-1, type=a_place, metavar="[PLACE]...")
@choosing(letters=True)
@click.option("--again", is_flag=True, help="Include letters that were redriven or replayed before.")
@click.option("--rate", type=a_rate, metavar="N", help="At most N letters a second.")
@click.option("--dry-run", is_flag=True, help="Show what would be delivered, and deliver nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def redrive(
    source: SettingsSource,
    places: tuple[Place, ...],
    wanted: Selection,
    again: bool,
    rate: float | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Deliver dead letters again.

    Delivers all dead letters, those at PLACEs (TOPIC/PARTITION/OFFSET), or those that match the options. Each gets
    another result. One that fails again becomes a new dead letter. Without --again, it skips letters that were
    redriven before, whose records a later replay delivered, or whose records failed three redrives. So you can stop
    it with Ctrl-C and run it again. Exit status 1 if it gave up, 130 if you stopped it.

    \b
    Examples:
      jirafe-consumer dead-letters redrive --kind rejected --from 2h --dry-run
      jirafe-consumer dead-letters redrive orders/0/17 --again
    """
    loaded = source.load()
    letters = _letters(loaded, wanted.topic)
    tally = RedeliveryTally()

    def chosen(look: Look) -> Iterator[Found]:
        meant = letters.at(places, wanted, look) if places else letters.find(wanted, look)
        for found in meant:
            if again or (not found.redriven and found.letter.redrives < _MOST_REDRIVES):
                yield found
            else:
                tally.left_out += 1

    if dry_run:
        return _tell(chosen, tally, as_json=as_json)
    return _redrive(loaded, letters, chosen, tally, rate, as_json=as_json)


def _tell(chosen: Choose, tally: RedeliveryTally, *, as_json: bool) -> int:
    """Print what a redrive would deliver, by kind."""
    console = Console()
    with _reading() as look:
        would = Counter(_told(found, console, as_json=as_json) for found in chosen(look))
    if as_json:
        print_json({"dry_run": True, "dead_letters": dict(would), "left_out": tally.left_out})
    else:
        console.print(f"{would.total():,} would be delivered again, {tally.left_out:,} left out.")
    return 0


def _redrive(
    loaded: Settings,
    letters: Letters,
    chosen: Choose,
    tally: RedeliveryTally,
    rate: float | None,
    *,
    as_json: bool,
) -> int:
    """Deliver the chosen letters, and print a summary."""
    trouble, status = "", 0
    with watched(None) as (bar, watcher):
        deployment, delivery = app.make_deployment(loaded), app.make_delivery(loaded, app.make_codec(loaded))
        redeliverer = Redeliverer(deployment, delivery, app.make_pace(loaded), "redrive", watcher)

        def look_and_stop(read: int, total: int) -> None:
            redeliverer.wait(0)
            bar.at(read, total)

        try:
            for outputs in letters.redrive(chosen(look_and_stop), redeliverer, loaded.stream.chunk_records, rate):
                tally.add(outputs)
        except (Interrupted, GaveUp) as error:
            trouble, status = str(error), error.exit_status
        except (KafkaUnusable, RegistryUnavailable) as error:
            if not tally.has_begun:
                raise
            trouble, status = clause(str(error)), GaveUp.exit_status
    with while_read():
        if as_json:
            print_json({"finished": status == 0, **tally.as_object()})
        else:
            tally.show("Redrive of dead letters")
    if status:
        click.echo(f"{PROGRAM} dead-letters redrive: {trouble}; run the same command to continue.", err=True)
    return status


def _told(found: Found, console: Console, *, as_json: bool) -> str:
    if not as_json:
        _row(console, found)
    return found.letter.kind


def _letters(loaded: Settings, topic: str | None = None) -> Letters:
    """Open the dead-letter topic. Raises UsageError if `topic` is given and not consumed."""
    deployment = app.make_deployment(loaded)
    check_consumed(deployment, topic)
    return Letters(deployment, app.make_codec(loaded))
