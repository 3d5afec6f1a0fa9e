"""`replay`: deliver records of a topic again, without touching the group."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import click

from consumer import app
from consumer.admin.redelivery import Redeliverer
from consumer.admin.replay import Plan, Replay
from consumer.cli import PROGRAM
from consumer.cli.redelivery import RedeliveryTally, show_counts, watched
from consumer.cli.usage import a_lasting, a_position, a_rate, check_consumed, of_partitions
from consumer.engine.records import Range
from consumer.errors import GaveUp, Interrupted, KafkaUnusable, UsageError
from consumer.printing import clause, print_json, while_read
from consumer.settings import Settings, SettingsSource, is_utf8
from schemas.codec import Codec, RegistryUnavailable, Undecodable


@click.command()
@click.option("--topic", required=True, metavar="TOPIC", help="The topic of the records.")
@click.option("--from", "start", metavar="TIME", help="Start at this time. Default: the first record.")
@click.option("--from-offset", type=click.IntRange(min=0), metavar="N", help="Start at this offset.")
@click.option(
    "--to", "end", metavar="TIME|OFFSET", help="The end of the range, exclusive. Default: the committed offset."
)
@of_partitions
@click.option("--type", "message_type", metavar="TYPE", help="Only messages of this type, such as order:new.")
@click.option("--key", metavar="KEY", help="Only records with this key: a number, a taxon's id or a product's sku.")
@click.option("--site", metavar="ID", help="Only messages for this site.")
@click.option("--rate", type=a_rate, metavar="N", help="At most N records a second.")
@click.option("--resume", is_flag=True, help="Continue the same replay after it was stopped.")
@click.option("--restart", is_flag=True, help="Start again from the beginning, even if it was stopped before.")
@click.option("--dry-run", is_flag=True, help="Show what would be delivered, and deliver nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def replay(
    source: SettingsSource,
    topic: str,
    start: str | None,
    from_offset: int | None,
    end: str | None,
    partitions: tuple[int, ...],
    message_type: str | None,
    key: str | None,
    site: str | None,
    rate: float | None,
    resume: bool,
    restart: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Deliver records of a topic again.

    Runs while the group runs, and changes neither its offsets nor its members. Replays only records that the group
    has committed. Each gets another result, with the id of the replay. A record that fails becomes a dead letter.
    The API keeps the version that arrives last. So replay up to the present, or old data may overwrite newer data.

    Ctrl-C stops the replay cleanly and prints the command that continues it. A TIME is ISO 8601 with a zone, a date
    (midnight in UTC), or 2h for 2 hours ago. Exit status 1 if it gave up, 130 if you stopped it.

    \b
    Examples:
      jirafe-consumer replay --topic orders --from 2014-03-01 --dry-run
      jirafe-consumer replay --topic orders --from 12h --rate 50
      jirafe-consumer replay --topic orders --partition 0 --from-offset 17
    """
    if start is not None and from_offset is not None:
        raise click.UsageError("give --from or --from-offset, not both", click.get_current_context())
    if resume and restart:
        raise click.UsageError("give --resume or --restart, not both", click.get_current_context())
    loaded = source.load()
    check_consumed(app.make_deployment(loaded), topic)
    # "2h" means another time at each call. Fixed times identify the replay, so that it can be resumed.
    first, after = a_lasting("--from", start), a_lasting("--to", end)
    words: dict[str, Sequence[object]] = {
        "--topic": [topic],
        "--from": [first],
        "--from-offset": [from_offset],
        "--to": [after],
        "--partition": partitions,
        "--type": [message_type],
        "--key": [key],
        "--site": [site],
    }
    if unwritable := [name for name, values in words.items() if not is_utf8("".join(map(str, values)))]:
        raise click.UsageError(f"{unwritable[0]} takes UTF-8, which its value is not", click.get_current_context())
    written = _written(words)
    plan = Plan(
        topic,
        from_offset if first is None else a_position(first),
        None if after is None else a_position(after),
        partitions,
        message_type,
        key,
        site,
        written,
    )
    codec = app.make_codec(loaded)
    job = Replay(app.make_cluster(loaded), codec, plan, loaded.api.site_id)
    ranges = job.ranges()
    stopped_at = job.resumed(ranges)
    is_relative = (first, after) != (start, end)
    if resume and stopped_at is None:
        how = "leave out --resume to start it"
        if is_relative:
            how = "give the times that it printed when it began, or leave out --resume to start one"
        raise UsageError(f"there is no stopped replay with {written}; {how}.")
    for each in ranges:
        if from_offset is not None and each.start > from_offset:
            click.echo(f"{PROGRAM} replay: the log of {each.of} begins at the offset {each.start}.", err=True)
    if not _size(ranges):
        said = f"nothing to replay: the group {job.group} has committed no record of this range"
        click.echo(f"{PROGRAM} replay: {said}.", err=True)
    if dry_run:
        return _tell(job, codec, stopped_at if resume and stopped_at else ranges, as_json=as_json)
    if not (resume or restart) and stopped_at is not None:
        raise UsageError(
            f"a replay with {written} was stopped or is still running; give --resume to continue it, or --restart "
            "to start again."
        )
    env_file = click.get_current_context().find_root().params["env_file"]
    options, rest = _written({"--env-file": [env_file]}), _written({"--rate": [rate]})
    goes_on = " ".join(filter(None, (PROGRAM, options, "replay", written, rest, "--resume")))
    if is_relative:
        click.echo(f"{PROGRAM} replay: started. If it is killed, continue with: {goes_on}", err=True)
    return _replay(loaded, job, codec, ranges, goes_on, resume=resume, rate=rate, as_json=as_json)


def _written(words: Mapping[str, Sequence[object]]) -> str:
    """Write options for a shell, without those that are None."""
    return shlex.join(f"{name}={value}" for name, values in words.items() for value in values if value is not None)


def _replay(
    loaded: Settings,
    job: Replay,
    codec: Codec,
    ranges: list[Range],
    goes_on: str,
    *,
    resume: bool,
    rate: float | None,
    as_json: bool,
) -> int:
    tally, trouble, status = RedeliveryTally(), "", 0
    with watched(_size(ranges)) as (bar, watcher):
        deployment, delivery = app.make_deployment(loaded), app.make_delivery(loaded, codec)
        redeliverer = Redeliverer(deployment, delivery, app.make_pace(loaded), job.name, watcher)
        if resume:
            # Look again: the redeliverer has fenced an earlier run, so its last commit is known now.
            ranges = job.resumed(ranges) or ranges
        else:
            job.begin(ranges, redeliverer)
        bar.at(0, _size(ranges))
        try:
            for step in job.run(ranges, redeliverer, rate):
                bar.advance(step.passed)
                tally.left_out += step.left_out
                tally.add(step.outputs)
            job.end()
        except (Interrupted, GaveUp) as error:
            trouble, status = str(error), error.exit_status
        except (KafkaUnusable, RegistryUnavailable) as error:
            if not tally.has_begun:
                raise
            trouble, status = clause(str(error)), GaveUp.exit_status
    with while_read():
        if as_json:
            print_json({"replay": job.plan.id, "finished": status == 0, **tally.as_object()})
        else:
            tally.show(f"Replay {job.plan.id} of {job.plan.topic}")
    if status:
        click.echo(f"{PROGRAM} replay: {trouble}; continue with: {goes_on}", err=True)
    return status


def _tell(job: Replay, codec: Codec, ranges: list[Range], *, as_json: bool) -> int:
    """Print what a replay would deliver, by type."""
    types: Counter[str] = Counter()
    left_out = 0
    with watched(_size(ranges)) as (bar, watcher):
        for read, wanted in job.select(ranges):
            if watcher.stop.is_asked:
                return Interrupted.exit_status
            bar.advance(read)
            left_out += read - len(wanted)
            for record in wanted:
                try:
                    types[codec.decode_message(record.value or b"", record.headers)["message"]] += 1
                except Undecodable:
                    types["(undecodable)" if record.value else "(tombstone)"] += 1
    if as_json:
        shown: dict[str, Any] = {
            "dry_run": True,
            "replay": job.plan.id,
            "ranges": [each._asdict() for each in ranges],
            "types": dict(types),
            "left_out": left_out,
        }
        print_json(shown)
        return 0
    counts = [*types.most_common(), ("in all", types.total()), ("left out", left_out)]
    show_counts("Would be delivered again", counts)
    for each in ranges:
        click.echo(f"{each.of}: offsets {each.start:,} up to {each.end:,}")
    click.echo("Dry run: nothing was delivered.")
    return 0


def _size(ranges: list[Range]) -> int:
    return sum(each.end - each.start for each in ranges)
