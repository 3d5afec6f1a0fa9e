"""`preview`, `produce` and `results`: a message before, during and after its delivery."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, islice, repeat
from typing import Any, Literal

import click
import orjson
from rich.markup import escape
from rich.table import Table

from consumer import app, settings
from consumer.admin import preview as mapping
from consumer.admin import produce
from consumer.admin.ranges import Topics, check_order
from consumer.admin.reading import Start, read_topic
from consumer.admin.selection import ALL, Selection, Told
from consumer.admin.spelling import Spelling
from consumer.cli import PROGRAM
from consumer.cli.listing import Form, in_a_form
from consumer.cli.usage import a_place, a_time, check_consumed, choosing
from consumer.delivery.mapping import ACCESS_TOKEN, SITE_ID
from consumer.engine.records import Partition, Place, Record
from consumer.errors import UsageError
from consumer.printing import Console, Csv, plural, print_json
from consumer.settings import SettingsSource
from schemas.codec import Codec, Undecodable

_NOTHING_SENT = {"level": "", "description": "nothing to send"}
_LEVEL_STYLES = {"info": "green", "warn": "yellow", "error": "red"}
_NARROWEST = 60
"""Columns that a table of results needs. In fewer, the notification would be left out silently."""

_PARAMETERS = (*settings.PARAMETERS, SITE_ID, ACCESS_TOKEN)
_LATEST_MS = 253_402_300_799_000
_COLUMNS = (
    "topic",
    "partition",
    "offset",
    "timestamp",
    "message",
    "message_id",
    "code",
    "level",
    "subject",
    "description",
    "replay",
    "redrive",
)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--set", "given", multiple=True, metavar="NAME=VALUE", help="Set a parameter; can be repeated.")
@click.option("--explain", is_flag=True, help="Show where each field comes from, and what was not used.")
@click.option(
    "--timestamp",
    type=a_time,
    metavar="TIME",
    help="The record's timestamp, used for a taxon without dates. Default: now.",
)
@click.pass_obj
def preview(
    source: SettingsSource,
    files: tuple[str, ...],
    given: tuple[str, ...],
    explain: bool,
    timestamp: datetime | None,
) -> int:
    """Show what hub messages would send, and why.

    Reads FILEs in the hub's JSON or in Avro's JSON encoding (- for standard input, a folder for all its files). A
    file has one message, a list of messages, or one message a line. Sends nothing, and needs neither network nor
    credentials. Parameters come from --set, or else from the message, or else from the settings. Prints events and
    notifications as JSON, one line for each message if there are several. With --explain it prints each field with
    its source. Exit status 1 if a notification is an error.

    \b
    Examples:
      jirafe-consumer preview order.json --set jirafe.product_category_taxonomy=2
      jirafe-consumer preview order.json --explain
      jirafe-consumer preview messages/ | jq .notifications
    """
    moment = timestamp or datetime.now(UTC)
    stamped = f"the record's timestamp ({'--timestamp' if timestamp else 'now: see --timestamp'})"
    overrides = dict(_parameter(text) for text in given)
    asked = mapping.Given(source.load().parameters, overrides, int(moment.timestamp() * 1000), stamped)
    names = list(mapping.files_of(files))
    if not names:
        raise UsageError(
            f"there are no messages in {', '.join(files)}: message files end in .json, .jsonl or .ndjson."
        )
    shown = (each for name in names for each in _previews(name, asked))
    first = [*islice(shown, 2)]
    several = len(first) > 1
    events, faulty = [], 0
    for origin, each in chain(first, shown):
        events.append(len(each.events))
        faulty += each.is_faulty
        if explain:
            click.echo("\n".join((origin, *_explanation(each), *([""] if several else []))))
        else:
            print_json({"from": origin, **each.as_json()}, indent=not several)
    if several:
        told = f"{len(events)} messages: {sum(events)} events would be sent, {faulty} messages have errors."
        click.echo(told, err=True)
    return int(faulty > 0)


def _previews(name: str, given: mapping.Given) -> Iterator[tuple[str, mapping.Preview]]:
    with produce.opened(name, sys.stdin.buffer) as blocks:
        yield from mapping.of_file(name, blocks, given)


def _explanation(shown: mapping.Preview) -> Iterator[str]:
    """Yield the lines that explain one message."""
    if shown.message:
        yield f"  {shown.message} {shown.message_id}".rstrip()
    yield from (f"  {decisive}" for decisive in shown.decisive)
    for (kind, _), fields in zip(shown.events, shown.fields, strict=True):
        yield f"  {kind} would be sent:"
        yield from (f"    {each.path} = {_value(each.value)} {each.why}" for each in fields)
    for notification in shown.notifications:
        if notification["level"] == "error":
            yield f"  {notification['subject']} {notification['description']}"
    if not shown.notifications:
        yield "  nothing would be sent"
    yield from (f"  note: {note}" for note in shown.notes)
    for title, places in (
        ("read, but not used: another field has priority, or it does not apply", shown.outdone),
        ("not used by the mapping", shown.unknown),
    ):
        if places:
            yield f"  {title}:"
            yield from (f"    {place}" for place in places)


def _value(value: object) -> str:
    """Write a value as JSON, and an amount with two decimals."""
    if isinstance(value, float) and round(value, 2) == value:
        return f"{value:.2f}"
    return str(orjson.dumps(value), "utf-8")


def _parameter(text: str) -> tuple[str, str]:
    name, _, value = (part.strip() for part in text.partition("="))
    if not (name and value):
        raise _wrong_set(f"takes NAME=VALUE, not '{text}'")
    dotted = f"jirafe.{name[7:]}" if name.startswith("jirafe_") else name
    if dotted not in _PARAMETERS:
        raise _wrong_set(f"takes one of the parameters {', '.join(_PARAMETERS)}, not '{name}'")
    if not settings.is_utf8(text):
        raise _wrong_set(f"takes UTF-8, which the value of {name} is not")
    return dotted, value


def _wrong_set(why: str) -> click.UsageError:
    return click.UsageError(f"--set {why}", click.get_current_context())


@click.command("produce")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--topic", metavar="TOPIC", help="The topic for all messages. Default: the topic for the type of each message."
)
@click.pass_obj
def produce_command(source: SettingsSource, files: tuple[str, ...], topic: str | None) -> int:
    """Put hub messages into Kafka.

    Reads FILEs of JSON (- for standard input). A file has one message, a list of messages, or one message a
    line. Checks that all messages fit their schemas before it sends the first one. Warns about types that the
    consumer does not know, and about fields that may be misspelled. The key is the number of the cart or order,
    the id of the taxon, or the sku of the product.

    \b
    Example:
      jirafe-consumer produce messages.jsonl
    """
    loaded = source.load()
    if topic is not None:
        try:
            settings.topic_name(topic)
        except ValueError as error:
            raise click.UsageError(f"--topic {error}", click.get_current_context()) from None
    if topic in (loaded.stream.results_topic, loaded.stream.dead_letters_topic):
        raise UsageError(
            f"messages can't be produced to {topic}: the consumer writes its output there; see --topic."
        )
    codec, deployment = app.make_codec(loaded), app.make_deployment(loaded)
    cluster = deployment.cluster
    largest = produce.largest_sent(cluster.properties)
    topics, spelling, unknown = loaded.topics_by_kind, Spelling(), produce.UnknownTypes()
    with produce.Spool() as spool:
        for file in files:
            with produce.opened(file, sys.stdin.buffer) as blocks:
                for message in produce.encode_all(file, blocks, codec, largest, spelling, unknown):
                    spool.add(topic or _topic_of(message, topics), message)
        _tell_strays(spelling)
        if unknown.count:
            _warn(unknown.place, unknown.count, f"{unknown.reason}. It becomes a dead letter.")
        if topic is not None and not deployment.consumes(topic):
            click.echo(f"{PROGRAM} produce: the consumer does not read the topic {topic}; see --topic.", err=True)
        app.have_topics(loaded, list(spool.topics))
        producer = cluster.make_producer({**produce.QUEUED, **cluster.client_properties("produce")})
        count = produce.produce(producer, spool)
    click.echo(f"{count} {plural('message', count)} produced")
    return 0


def _topic_of(message: produce.Encoded, topics: Mapping[str, str]) -> str:
    topic = topics.get(message.kind)
    if topic is None:
        setting = f"CONSUMER_{message.kind.upper()}S_TOPIC"
        raise UsageError(f"{message.place}: {setting} has only patterns. Name a topic to produce to: add --topic.")
    return topic


def _tell_strays(spelling: Spelling) -> None:
    for stray in spelling.strays():
        _warn(stray.place, stray.times, f"{stray.path} is not read; did you mean {stray.meant}?")


def _warn(place: str, times: int, said: str) -> None:
    others = f", and {times - 1:,} more" if times > 1 else ""
    click.echo(f"{PROGRAM} produce: {place}{others}: {said}", err=True)


def a_start(text: str) -> datetime | Literal["beginning", "end"]:
    """Parse where `results` starts: `beginning`, `end`, or a time."""
    match text:
        case "beginning" | "end":
            return text
        case _:
            return a_time(text)


@click.command()
@click.option("--follow", is_flag=True, help="Follow new results until interrupted.")
@in_a_form("one object a line")
@choosing(letters=False)
@click.option(
    "--from",
    "start",
    type=a_start,
    default="beginning",
    show_default=True,
    metavar="TIME|beginning|end",
    help="Only from this time on.",
)
@click.option("--max", "most", type=click.IntRange(min=1), metavar="N", help="Stop after N results.")
@click.option("--of", type=a_place, metavar="TOPIC/PARTITION/OFFSET", help="Only the results of this record.")
@click.pass_obj
def results(
    source: SettingsSource,
    follow: bool,
    form: Form,
    wanted: Selection,
    start: datetime | Literal["beginning", "end"],
    most: int | None,
    of: Place | None,
) -> int:
    """Show the result of each message.

    Does not join the group, and commits nothing. With --of it says which result is the original, and which came
    from a replay or a redrive. A TIME is that of the result: ISO 8601 with a zone, a date (midnight in UTC), or 2h
    for 2 hours ago. Exit status 1 if the record of --of has no result.

    \b
    Examples:
      jirafe-consumer results --follow --from end
      jirafe-consumer results --topic orders --from 2h --output csv
      jirafe-consumer results --json | jq 'select(.code == 500)'
      jirafe-consumer results --of orders/0/17
    """
    loaded = source.load()
    codec, deployment = app.make_codec(loaded), app.make_deployment(loaded)
    check_consumed(deployment, wanted.topic)
    check_consumed(deployment, of and of.topic)
    cluster, topic = deployment.cluster, deployment.results_topic
    begin: Start
    if isinstance(start, datetime):
        check_order(start, wanted.until)
        topics = Topics(cluster)
        wanted = replace(wanted, since=start)
        begin = topics.at([Partition(topic, number) for number in topics.partitions(topic)], start)
    else:
        begin = start
    records = read_topic(cluster, topic, start=begin, follow=follow, on_away=lambda: _tell_away(cluster.servers))
    decoded = (
        result
        for record, result in _readable(records, codec)
        if deployment.is_ours(result["group"])
        and of in (None, _place(result))
        and wanted.fits(_told(record, result))
    )
    show, count = _shower(form, tells_origin=of is not None), 0
    for count, result in enumerate(decoded, 1):
        show(result)
        if count == most:
            break
    if of and not count:
        click.echo(f"{PROGRAM} results: no result for {of}.", err=True)
        return 1
    if not count and form is Form.TABLE:
        said = "" if wanted == ALL and start == "beginning" else " that matches"
        click.echo(f"{PROGRAM} results: {topic} has no result of the group {cluster.group}{said}.", err=True)
    return 0


def _tell_away(servers: str) -> None:
    click.echo(f"{PROGRAM} results: no Kafka broker answers at {servers}; waiting until one does.", err=True)


def _told(record: Record, result: dict[str, Any]) -> Told:
    faults = [each for each in result["notifications"] if each["level"] == "error"]
    reason = " ".join(f"{each['subject']} {each['description']}" for each in faults)
    key = (record.key or b"").decode(errors="replace")
    # The timestamp may be any number, and a datetime ends with the year 9999.
    at = datetime.fromtimestamp(min(max(record.timestamp, 0), _LATEST_MS) / 1000, UTC)
    return Told(_place(result).of, result["message"], key, reason, at)


def _readable(records: Iterable[Record | None], codec: Codec) -> Iterator[tuple[Record, dict[str, Any]]]:
    """Yield the results that can be read, and skip the others. Prints a warning for the first that is skipped."""
    is_told = False
    for record in records:
        if record is None or not record.value:
            continue
        try:
            yield record, codec.decode_result(record.value)
        except Undecodable as error:
            if not is_told:
                said = f"skipping {record.place}, and all others that can't be read: {error}"
                click.echo(f"{PROGRAM} results: {said}.", err=True)
            is_told = True


def _shower(form: Form, *, tells_origin: bool) -> Callable[[dict[str, Any]], None]:
    """Return the function that prints a result in a form."""
    if form is Form.JSON:
        return print_json
    if form is Form.CSV:
        rows = Csv(_COLUMNS)
        return lambda result: _print_rows(rows, result)
    console, headers = Console(soft_wrap=not sys.stdout.isatty()), chain([True], repeat(object=False))
    console.width = max(console.width, _NARROWEST)
    return lambda result: console.print(_result_rows(result, header=next(headers), tells_origin=tells_origin))


def _print_rows(rows: Csv, result: dict[str, Any]) -> None:
    """Print one result, a row for each notification."""
    for notification in result["notifications"] or [dict.fromkeys(("level", "subject", "description"))]:
        rows.row({**result, **notification})


def _place(result: dict[str, Any]) -> Place:
    return Place(result["topic"], result["partition"], result["offset"])


def _origin(result: dict[str, Any]) -> str:
    """Return where a result came from. A record that was delivered again has several results."""
    if result["replay"] is not None:
        return f"replay {result['replay']}"
    return "original" if result["redrive"] is None else f"redrive of {result['redrive']}"


def _result_rows(result: dict[str, Any], *, header: bool, tells_origin: bool) -> Table:
    """Lay out one result, a row for each notification. With `tells_origin`, say where the result came from."""
    table = Table(box=None, show_header=header, header_style="bold", pad_edge=False, expand=True)
    table.add_column("origin" if tells_origin else "record", width=16, overflow="fold")
    table.add_column("message", width=14)
    table.add_column("level", width=5)
    table.add_column("notification", ratio=1)
    place, message = escape(_origin(result) if tells_origin else str(_place(result))), result["message"] or "-"
    for notification in result["notifications"] or [_NOTHING_SENT]:
        level = notification["level"]
        told = notification["description"]
        if level == "error":
            told = f"{notification['subject']} {told}"
        table.add_row(place, escape(message), f"[{_LEVEL_STYLES.get(level, 'dim')}]{level}[/]", escape(told))
        place = message = ""
    return table
