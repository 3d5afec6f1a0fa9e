"""`audit`: proof from the topics that every record has exactly one result."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import click
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from consumer import app
from consumer.admin import audit
from consumer.admin.audit import Audited, AuditProgress, AuditReport, Count
from consumer.admin.ranges import Position
from consumer.cli import PROGRAM
from consumer.cli.listing import Form, in_a_form
from consumer.cli.progress import Bar, bars
from consumer.cli.usage import a_position, consumed, of_partitions
from consumer.engine.records import Place, Range
from consumer.printing import Console, Csv, print_json, while_read
from consumer.settings import SettingsSource

_COLUMNS = {
    Count.RECORDS: "records",
    Count.ONE_RESULT: "one\nresult",
    Count.MISSING: "missing",
    Count.DOUBLED: "doubled",
    Count.FAILED: "failed",
    Count.DEAD_LETTERED: "dead\nletter",
    Count.REDRIVEN: "re-\ndriven",
    Count.REPLAYED: "re-\nplayed",
    Count.WAITING: "waiting",
}
_TROUBLES = {
    Count.MISSING: ("has no result", "have no result"),
    Count.DOUBLED: ("has more than one result", "have more than one result"),
    Count.WITHOUT_LETTER: ("failed but has no dead letter", "failed but have no dead letter"),
    Count.LOST: (
        "may have been deleted from the log before it had a result",
        "may have been deleted from the log before they had results",
    ),
    Count.STRAY_LETTER: ("has a dead letter but did not fail", "have dead letters but did not fail"),
}


@click.command("audit")
@click.option("--topic", metavar="TOPIC", help="The topic of the records. Default: all consumed topics.")
@of_partitions
@click.option(
    "--from",
    "start",
    type=a_position,
    metavar="TIME|OFFSET",
    help="The start of the range. Default: the beginning of the log.",
)
@click.option(
    "--to",
    "end",
    type=a_position,
    metavar="TIME|OFFSET",
    help="The end of the range, exclusive. Default: the end of the log.",
)
@in_a_form("one object")
@click.pass_obj
def audit_command(
    source: SettingsSource,
    topic: str | None,
    partitions: tuple[int, ...],
    start: Position | None,
    end: Position | None,
    form: Form,
) -> int:
    """Prove that every record has exactly one result.

    Reads the records of the range, all results and all dead letters. Each record before the committed offset must
    have exactly one result of this group, and each that failed must be a dead letter. Exit status 1 if not. Waits
    for open transactions, because they hide records. Records that stay hidden are not proven: exit status 1. A TIME
    is ISO 8601 with a zone, a date (midnight in UTC), or 2h for 2 hours ago. With a time, results are read from 5
    minutes before it. There are no filters by type, key or reason, because a missing result has none of them.

    After a reset of offsets, records can have two results. The embedded broker also shows results of aborted
    transactions, for example after a crash.

    \b
    Examples:
      jirafe-consumer audit --topic orders --from 2h
      jirafe-consumer audit --topic orders --from 2014-03-01 --to 2014-03-02
    """
    loaded = source.load()
    deployment = app.make_deployment(loaded)
    topics = dict.fromkeys(consumed(deployment, topic), partitions)
    steps = audit.audit(deployment, app.make_codec(loaded), topics, (start, end))
    report = _with_progress(steps)
    with while_read():
        _print(report, form)
    return 0 if report.is_proven else 1


def _with_progress(steps: Iterator[AuditProgress | AuditReport]) -> AuditReport:
    """Run the audit and return its report. On a terminal, show a bar for each topic."""
    shown: dict[str, Bar] = {}
    with bars() as add_bar:
        for step in steps:
            match step:
                case AuditProgress(topic, read, total):
                    if topic not in shown:
                        shown[topic] = add_bar(f"reading {topic}", total)
                    shown[topic].at(read, total)
                case AuditReport():
                    return step
    raise AssertionError("an audit ends with its report")


def _print(report: AuditReport, form: Form) -> None:
    match form:
        case Form.JSON:
            print_json(_object(report))
        case Form.CSV:
            rows = Csv([*Range._fields, "committed", "hidden", *Count])
            for each in report.partitions:
                rows.row(_partition(each))
        case Form.TABLE:
            _show(report)


def _first(report: AuditReport, trouble: Count) -> list[str]:
    places = (
        str(Place(each.range.topic, each.range.partition, offset))
        for each in report.partitions
        for offset in each.first[trouble]
    )
    return list(islice(places, audit.MOST_PLACES))


def _object(report: AuditReport) -> dict[str, Any]:
    total = report.total()
    return {
        "ok": report.is_proven,
        "total": _counts(total),
        "partitions": [_partition(each) for each in report.partitions],
        "first": {trouble.value: _first(report, trouble) for trouble in audit.TROUBLES if total[trouble]},
        "notes": report.notes,
    }


def _partition(audited: Audited) -> dict[str, Any]:
    return {
        **audited.range._asdict(),
        "committed": audited.committed,
        "hidden": audited.hidden,
        **_counts(audited.counts),
    }


def _counts(counts: Mapping[Count, int]) -> dict[str, int]:
    return {count.value: counts.get(count, 0) for count in Count}


def _show(report: AuditReport) -> None:
    console = Console()
    for topic in dict.fromkeys(each.range.topic for each in report.partitions):
        of_topic = [each for each in report.partitions if each.range.topic == topic]
        console.print(f"[bold]{escape(topic)}[/]")
        console.print(_table(of_topic, report.total(topic)), "")
    total = report.total()
    for trouble, (of_one, of_many) in _TROUBLES.items():
        if total[trouble]:
            first = _first(report, trouble)
            records = "1 record" if total[trouble] == 1 else f"{total[trouble]:,} records"
            some = ", for example" if total[trouble] > len(first) else ""
            console.print(f"[red]{records} {of_one if total[trouble] == 1 else of_many}[/]{some}:")
            console.print(Padding(escape(" ".join(first)), (0, 2)))
            console.print(f"  for details: {PROGRAM} results --of {escape(first[0])}", soft_wrap=True)
    for note in report.notes:
        console.print(f"[yellow]Note:[/] {escape(note)}")
    console.print(_verdict(report, total))


def _table(partitions: list[Audited], total: Mapping[Count, int]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("part", no_wrap=True)
    for title in _COLUMNS.values():
        table.add_column(title, justify="right", vertical="bottom", no_wrap=True)
    rows = [(str(each.range.partition), each.counts) for each in partitions]
    for name, counts in [*rows, ("[bold]all[/]", total)]:
        table.add_row(name, *(_cell(count, counts.get(count, 0)) for count in _COLUMNS))
    return table


def _cell(count: Count, number: int) -> str:
    text = f"{number:,}" if number else "-"
    return f"[red]{text}[/]" if number and count in audit.TROUBLES else text


def _verdict(report: AuditReport, total: Mapping[Count, int]) -> str:
    waiting = f"; {total[Count.WAITING]:,} not yet committed" if total[Count.WAITING] else ""
    if not report.is_proven:
        return f"[red]Not proven:[/] see above{waiting}."
    due = total[Count.RECORDS] - total[Count.WAITING]
    if not due:
        return f"No record in the range needs a result yet{waiting}."
    return f"[green]Proven:[/] each of {due:,} records has exactly one result{waiting}."
