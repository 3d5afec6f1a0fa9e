"""`lag`: how far the group is behind."""

import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from consumer import app
from consumer.admin.deployment import Deployment
from consumer.admin.lag import Look, Looker
from consumer.cli import PROGRAM
from consumer.cli.listing import Form, in_a_form
from consumer.cli.usage import tell_unmatched
from consumer.engine.ahead import Blocker
from consumer.errors import KafkaUnusable
from consumer.printing import Console, Csv, plural, print_json, while_read
from consumer.settings import SettingsSource

_COLUMNS = (
    "at",
    "topic",
    "partition",
    "committed",
    "end",
    "records",
    "oldest",
    "seconds",
    "lost",
    "hidden",
    "ahead",
    "owner",
)
_INTERVAL = 2.0
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


@click.command()
@click.option("--watch", is_flag=True, help="Repeat every 2 seconds until interrupted.")
@in_a_form("one object; with --watch one a line")
@click.pass_obj
def lag(source: SettingsSource, watch: bool, form: Form) -> int:
    """Show how far the group is behind.

    Shows for each partition the committed offset, the end of the log, how many records are left, how old the oldest
    of them is, and which member owns the partition. Does not join the group.

    Waits for open transactions, because they hide records. With --watch it does not wait. Exit status 1 if one does
    not end, or a partition has no leader, so that its lag is not known.

    \b
    Examples:
      jirafe-consumer lag --watch
      jirafe-consumer lag --json | jq .total.seconds
    """
    loaded, status = source.load(), 0
    deployment = app.make_deployment(loaded)
    name, looks = loaded.kafka["group.id"], _looks(deployment, watch=watch)
    reading = nullcontext if watch else while_read  # a reader that goes ends --watch
    if form is not Form.TABLE:
        rows = Csv(_COLUMNS) if form is Form.CSV else None
        for look in looks:
            status = _status(look)
            with reading():
                if rows is None:
                    print_json({"error": look} if isinstance(look, str) else look.as_json(name))
                elif isinstance(look, str):
                    click.echo(look, err=True)
                else:
                    _print_rows(rows, look)
        return status
    console = Console()
    with Live(console=console, auto_refresh=False) if sys.stdout.isatty() else nullcontext() as live:
        for look in looks:
            shown = escape(look) if isinstance(look, str) else _shown(name, look)
            status = _status(look)
            if live:
                live.update(shown, refresh=True)
            else:
                # A pipe keeps every look, so an empty line separates them.
                with reading():
                    console.print(shown, *([""] if watch else []), sep="\n")
    return status


def _status(look: Look | str) -> int:
    return 1 if isinstance(look, str) or look.hidden or look.leaderless else 0


def _looks(deployment: Deployment, *, watch: bool) -> Iterator[Look | str]:
    """Yield one look, or with `watch` one after the other. After the first, a failed look is its error text."""
    looker = Looker(deployment)
    first = looker.look(settled=not watch)
    seen = {each.topic for each in first.lags} | {each.topic for each in first.leaderless}
    tell_unmatched(deployment, seen)
    yield first
    while watch:
        time.sleep(_INTERVAL)
        try:
            look: Look | str = looker.look()
        except KafkaUnusable as error:
            look = str(error)
        yield look


def _print_rows(rows: Csv, look: Look) -> None:
    for place in look.leaderless:
        click.echo(f"{PROGRAM} lag: {place} has no leader, so its lag is not known.", err=True)
    for each in look.lags:
        owner = (each.owner.instance_id or each.owner.id) if each.owner else None
        row = look.partition_as_json(each)
        del row["held_by"]
        rows.row({"at": look.at, **row, "owner": owner})


def _shown(name: str, look: Look) -> RenderableType:
    members = {member: str(number) for number, member in enumerate(look.group.members, 1)}
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("topic", overflow="fold")
    for title in ("part", "committed", "end", "lag", "behind", "member"):
        table.add_column(title, justify="right", no_wrap=True)
    topic = ""
    for each in look.lags:
        table.add_row(
            escape(each.topic) if each.topic != topic else "",
            str(each.partition),
            "-" if each.committed is None else f"{each.committed:,}",
            f"{each.end:,}",
            f"{each.records:,}",
            _duration(look.behind(each.oldest)) if each.oldest else "-",
            members[each.owner] if each.owner else "-",
        )
        topic = each.topic
    table.add_row("[bold]all[/]", "", "", "", f"{look.records:,}", _duration(look.behind(look.oldest)), "")
    lines = [
        f"member {number}: {escape(each.instance_id or each.id)} at {escape(each.host)}"
        for each, number in members.items()
    ]
    lines += [
        f"[red]No leader:[/] {escape(str(each))} can't be read; start the brokers that host it."
        for each in look.leaderless
    ]
    lines += [f"[red]Lost:[/] {escape(text)}" for text in _lost(look)]
    lines += [
        f"[yellow]Blocked:[/] {escape(each.topic)}/{each.partition} {_blocked(look, each.blocker)}; {each.ahead:,} "
        "later offsets are decided."
        for each in look.lags
        if each.blocker
    ]
    lines += [
        f"[yellow]Hidden:[/] {each.hidden:,} offsets of {escape(each.topic)}/{each.partition} are behind an open "
        "transaction."
        for each in look.lags
        if each.hidden
    ]
    behind = f"lag {look.records:,}, {_duration(look.behind(look.oldest))} behind"
    # The most important lines come first: a terminal may have fewer lines than there are partitions.
    return Group(f"group {escape(name)}: {_state(look)}; {behind}", "", table, *(["", *lines] if lines else []))


def _state(look: Look) -> str:
    count = len(look.group.members)
    if look.group.is_empty:
        return "[yellow]no members[/], so nothing is consumed"
    if not count:
        return f"{look.group.state}; this broker does not show its members"
    return f"{look.group.state}, {count} {plural('member', count)}"


def _blocked(look: Look, blocker: Blocker) -> str:
    cause = f" ({escape(blocker.cause)})" if blocker.cause else ""
    span = max(look.at - datetime.fromtimestamp(blocker.since, UTC), timedelta(0))
    return f"by {escape(blocker.strand)}{cause} for {_duration(span)}"


def _lost(look: Look) -> Iterator[str]:
    for each in look.lags:
        if each.lost:
            yield (
                f"the topic's retention deleted {each.lost:,} offsets of {each.topic}/{each.partition} before they "
                "were consumed."
            )
        if each.committed is not None and each.committed > each.end:
            yield (
                f"the log of {each.topic}/{each.partition} ends at {each.end:,}, before the committed offset "
                f"{each.committed:,}: it was truncated or created again."
            )


def _duration(span: timedelta) -> str:
    """Write a duration in its two largest units."""
    seconds = int(span.total_seconds())
    if seconds < _MINUTE:
        return f"{seconds}s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE}m {seconds % _MINUTE:02}s"
    if seconds < _DAY:
        return f"{seconds // _HOUR}h {seconds % _HOUR // _MINUTE:02}m"
    return f"{seconds // _DAY}d {seconds % _DAY // _HOUR:02}h"
