"""`offsets reset`: moves the committed offsets of the stopped group."""

import sys
from datetime import datetime
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from consumer import app
from consumer.admin.offsets import Move, Offsets, Target
from consumer.cli.listing import Form, in_a_form
from consumer.cli.usage import a_time, consumed, of_partitions
from consumer.errors import UsageError
from consumer.printing import Console, Csv, print_json, while_read
from consumer.settings import SettingsSource


@click.group(no_args_is_help=False)
def offsets() -> None:
    """Change the offsets of the group.

    \b
    Example:
      jirafe-consumer offsets reset --to-time 2h --dry-run
    """


@offsets.command()
@click.option("--to-time", type=a_time, metavar="TIME", help="The first record at or after this time.")
@click.option("--to-offset", type=click.IntRange(min=0), metavar="OFFSET", help="This offset; needs --topic.")
@click.option("--earliest", is_flag=True, help="The first record of the log.")
@click.option("--latest", is_flag=True, help="The end of the log.")
@click.option("--topic", metavar="TOPIC", help="Only this topic. Default: all consumed topics.")
@of_partitions
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@in_a_form("one object")
@click.pass_obj
def reset(
    source: SettingsSource,
    to_time: datetime | None,
    to_offset: int | None,
    earliest: bool,
    latest: bool,
    topic: str | None,
    partitions: tuple[int, ...],
    dry_run: bool,
    yes: bool,
    form: Form,
) -> int:
    """Move the stopped group to other offsets.

    Shows what would change, and asks before it changes anything. Records that are delivered again get another
    result. Skipped records get none. Fails while the group has members. A TIME is ISO 8601 with a zone, a date
    (midnight in UTC), or 2h for 2 hours ago; a time after the last record means the end. Exit status 1 if you
    answer no.

    \b
    Examples:
      jirafe-consumer offsets reset --to-time 2014-03-01T10:00Z --dry-run
      jirafe-consumer offsets reset --topic orders --partition 0 --to-offset 17
    """
    target = _target(to_time, to_offset, earliest=earliest, latest=latest)
    if to_offset is not None and topic is None:
        raise click.UsageError("--to-offset needs --topic", click.get_current_context())
    if not (dry_run or yes or sys.stdin.isatty()):
        raise UsageError(
            "offsets reset needs a terminal to ask for confirmation: add --yes, or --dry-run to change nothing."
        )
    loaded = source.load()
    deployment = app.make_deployment(loaded)
    topics = dict.fromkeys(consumed(deployment, topic), partitions)
    tool = Offsets(deployment.cluster)
    moves = tool.moves(topics, target)
    changes = [move for move in moves if move.changes]
    if form is Form.TABLE:
        with while_read():
            _show(tool.group.name, moves)
    if not dry_run:
        tool.group.check_empty()
    is_wanted = not dry_run and bool(changes) and (yes or click.confirm("Commit these offsets?", err=True))
    if is_wanted:
        tool.make(changes)
    with while_read():
        if form is Form.JSON:
            print_json(_object(tool.group.name, moves, changed=is_wanted))
        elif form is Form.CSV:
            rows = Csv(["topic", "partition", "committed", "to", "changed"])
            for each in moves:
                rows.row({**_partition(each), "changed": is_wanted and each in changes})
        elif is_wanted:
            click.echo("Done: the group continues at these offsets.")
        else:
            click.echo("Dry run: nothing was changed." if dry_run else "Nothing was changed.")
    return int(bool(changes) and not (is_wanted or dry_run))


def _target(to_time: datetime | None, to_offset: int | None, *, earliest: bool, latest: bool) -> Target:
    flags: dict[Target, bool] = {"earliest": earliest, "latest": latest}
    given = [flag for flag, is_given in flags.items() if is_given]
    given += [place for place in (to_time, to_offset) if place is not None]
    if len(given) != 1:
        raise click.UsageError(
            "give one of --to-time, --to-offset, --earliest and --latest", click.get_current_context()
        )
    return given[0]


def _object(group: str, moves: list[Move], *, changed: bool) -> dict[str, Any]:
    return {"group": group, "changed": changed, "partitions": [_partition(each) for each in moves]}


def _partition(move: Move) -> dict[str, Any]:
    return {"topic": move.topic, "partition": move.partition, "committed": move.committed, "to": move.to}


def _show(group: str, moves: list[Move]) -> None:
    console = Console()
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("topic", overflow="fold")
    for title in ("part", "from", "to"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("what it does", no_wrap=True)
    topic = ""
    for each in moves:
        table.add_row(
            escape(each.topic) if each.topic != topic else "",
            str(each.partition),
            "-" if each.committed is None else f"{each.committed:,}",
            f"{each.to:,}",
            _meaning(each),
        )
        topic = each.topic
    console.print(f"group {escape(group)}", table, "", sep="\n")


def _meaning(move: Move) -> str:
    skips = f"[yellow]skips {move.skipped:,}[/]" if move.skipped else ""
    again = f"delivers {move.again:,} again" if move.again else ""
    return ", ".join(filter(None, (skips, again))) or "no change"
