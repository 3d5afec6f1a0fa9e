"""The commands of `jirafe-consumer`: the only place that prints."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn

import click
import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from consumer import kafka, log, produce, reading, settings, wiring
from consumer.demo.broker import BrokerUnavailable, EmbeddedBroker
from consumer.health import Health
from consumer.results import Refused
from consumer.service import Fatal
from jirafe import services
from jirafe.services import UnknownMessageType, Unsendable
from schemas.codec import RegistryUnavailable, Undecodable
from schemas.hub import HubError, parse, to_message

_PROGRAM = "jirafe-consumer"
_INTERRUPTED = 130
_NOTHING_SENT = {"level": "", "description": "nothing to send"}
_LEVEL_STYLES = {"info": "green", "warn": "yellow", "error": "red"}


class Usage(Exception):
    """What was asked for can't be done as it was asked; the sentence says why and how to mend it."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 it failed, 2 wrong usage or settings, 130 interrupted."""
    try:
        status = cli.main(arguments, prog_name=_PROGRAM, standalone_mode=False) or 0
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else _PROGRAM
        status = _say(f"{command}: {error.format_message().rstrip('.')}; see {command} --help.")
    except settings.SettingsError as error:
        status = max(_say(fault) for fault in error.faults)
    except BrokenPipeError:
        # The reader has gone (`... | head`): nothing more to say, nor a place to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except OSError as error:
        status = _say(f"{_PROGRAM}: {error.filename or 'input'}: {error.strerror or error}.")
    except (Usage, kafka.Unusable, BrokerUnavailable, HubError) as error:
        status = _say(f"{_PROGRAM}: {error}")
    except (click.Abort, KeyboardInterrupt):
        status = _INTERRUPTED
    sys.exit(status)


def _say(sentence: str) -> int:
    click.echo(sentence, err=True)
    return 2


@click.group(context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]})
@click.version_option(package_name="jirafe-consumer")
@click.option(
    "--env-file",
    type=click.Path(path_type=Path),
    help="A file of NAME=VALUE lines; the environment goes before it. Default: .env, if there is one.",
)
@click.pass_context
def cli(context: click.Context, env_file: Path | None) -> None:
    """Deliver cart, order and category messages from Kafka to the Jirafe Events API.

    Each message that is consumed gets exactly one result in the results topic; what can't be delivered is in
    the dead-letter topic, byte for byte. Settings come from the environment: see the README.
    """
    default = Path(".env")
    context.obj = settings.Source(env_file or (default if default.exists() else None))


@cli.command()
@click.pass_obj
def run(source: settings.Source) -> int:
    """Run the service.

    It is one member of the consumer group. It stops on SIGTERM or SIGINT once what is in flight is finished
    and committed; a second signal ends it at once, and no place is lost by it. Exit status: 0 stopped, 1
    Kafka can't go on (restart it), 2 settings. SIGHUP reads credentials and parameters again, and tries what is
    held.

    \b
    Example:
      KAFKA_BOOTSTRAP_SERVERS=localhost:9092 JIRAFE_SITE_ID=123 JIRAFE_ACCESS_TOKEN=... jirafe-consumer run
    """
    loaded = source.load()
    logger = log.configure(loaded.stream.log_level, loaded.stream.log_format)
    stream = loaded.stream
    topics = [*loaded.input_topics, stream.results_topic, stream.dead_letters_topic]
    if created := kafka.prepare_topics(loaded, topics, log.LibraryLog(logger)):
        logger.info("topics_created", topics=created)
    service = wiring.make_service(loaded, source, logger)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, _end_at_once)
        signal.signal(signal.SIGINT, _end_at_once)
        service.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGHUP, lambda _number, _frame: service.reload())
    health = None
    if stream.health_address:
        try:
            health = Health(stream.health_address, lambda: service.status)
        except OSError as error:
            why = f"can't listen at {stream.health_address}: {error.strerror or error}"
            raise Usage(f"CONSUMER_HEALTH_ADDRESS: {why}.") from None
    try:
        service.run()
    except (Fatal, Refused) as error:
        logger.error("fatal", reason=str(error))  # noqa: TRY400 - the sentence says it; a traceback would not
        return 1
    finally:
        if health:
            health.close()
    return 0


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)


@cli.command()
@click.argument("file")
@click.option("--set", "given", multiple=True, metavar="NAME=VALUE", help="Give a parameter; may be repeated.")
def preview(file: str, given: tuple[str, ...]) -> int:
    """Show what a message would send.

    Reads one hub message from FILE (- for standard input), and sends nothing. Needs neither network nor
    credentials. Prints JSON: the events and the notifications. Exit status 1 if a notification is an error.

    \b
    Example:
      jirafe-consumer preview order.json --set jirafe.product_category_taxonomy=2
    """
    parameters = dict(_parameter(text) for text in given)
    events: list[dict[str, Any]] = []
    notifications: list[dict[str, str]] = []
    message: dict[str, Any] = {"message_id": "", "message": "", "parameters": {}}
    text = produce.read_source(file, sys.stdin.buffer)
    try:
        message = to_message(parse(text))
        parameters = {**message["parameters"], **parameters}
        for event in services.make_events(message["message"], message["payload"], parameters):
            if isinstance(event, Unsendable):
                notifications.append(services.notification_of_failed(event.kind, event.problem))
            else:
                events.append({"kind": event.kind.name, "body": event.body})
                notifications.append(services.notification_of_sent(event.kind, event.name))
    except (HubError, UnknownMessageType) as error:
        notifications.append(services.notification_of_unreadable(str(error)))
    shown = {
        "message_id": message["message_id"],
        "message": message["message"],
        "events": events,
        "notifications": notifications,
    }
    click.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2))
    return int(any(notification["level"] == "error" for notification in notifications))


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.UsageError(f"--set takes NAME=VALUE, not '{text}'", click.get_current_context())
    return name, value


@cli.command("produce")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--topic", help="The topic for all of them. Default: the topic of each message's kind.")
@click.pass_obj
def produce_command(source: settings.Source, files: tuple[str, ...], topic: str | None) -> int:
    """Put hub messages into Kafka.

    They come from FILEs of JSON (- for standard input). A file holds one message, a list of messages, or one
    message a line. All are validated before the first is sent; the key is the number of the cart or order, or
    the taxon's id.

    \b
    Example:
      jirafe-consumer produce messages.jsonl
    """
    loaded = source.load()
    codec = wiring.make_codec(loaded)
    standard_input = sys.stdin.buffer
    try:
        encoded = [
            message
            for file in files
            for message in produce.encode_all(file, produce.read_source(file, standard_input), codec)
        ]
    except RegistryUnavailable as error:
        raise Usage(f"{error}; see CONSUMER_SCHEMA_REGISTRY_URL.") from None
    topics = dict(zip(("cart", "order", "taxon"), loaded.input_topics, strict=True))
    addressed = [(topic or topics[message.kind], message) for message in encoded]
    library_log = log.NoLibraryLog()
    kafka.prepare_topics(loaded, dict.fromkeys(to for to, _ in addressed), library_log)
    try:
        count = produce.produce(kafka.make_producer(loaded.common, library_log), addressed)
    except produce.NotProduced as error:
        click.echo(f"{_PROGRAM} produce: {error}", err=True)
        return 1
    click.echo(f"{count} message{'' if count == 1 else 's'} produced")
    return 0


@cli.command()
@click.option("--follow", is_flag=True, help="Go on with new results until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--from", "start", type=click.Choice(["beginning", "end"]), default="beginning", show_default=True)
@click.option("--max", "most", type=click.IntRange(min=1), metavar="N", help="Stop after N results.")
@click.pass_obj
def results(
    source: settings.Source, follow: bool, as_json: bool, start: Literal["beginning", "end"], most: int | None
) -> int:
    """Show what became of each message.

    Reads the results topic from outside the group: nothing is committed.

    \b
    Examples:
      jirafe-consumer results --follow --from end
      jirafe-consumer results --json | jq 'select(.code == 500)'
    """
    loaded = source.load()
    codec = wiring.make_codec(loaded)
    records = reading.read_topic(
        loaded, loaded.stream.results_topic, log.NoLibraryLog(), start=start, follow=follow
    )
    decoded = (codec.decode(record.value) for record in records if record and record.value)
    console = Console(soft_wrap=not sys.stdout.isatty())
    try:
        for index, result in enumerate(decoded):
            if as_json:
                click.echo(orjson.dumps(result))
            else:
                console.print(_result_rows(result, header=index == 0))
            if index + 1 == most:
                break
    except (Undecodable, RegistryUnavailable) as error:
        raise Usage(f"a result can't be read: {error}.") from None
    return 0


def _result_rows(result: dict[str, Any], *, header: bool) -> Table:
    """Lay out one result, a row for each notification."""
    table = Table(box=None, show_header=header, header_style="bold", pad_edge=False, expand=True)
    table.add_column("record", width=16, overflow="fold")
    table.add_column("message", width=14)
    table.add_column("level", width=5)
    table.add_column("notification", ratio=1)
    place, message = f"{result['topic']}/{result['partition']}/{result['offset']}", result["message"] or "-"
    for notification in result["notifications"] or [_NOTHING_SENT]:
        level = notification["level"]
        told = notification["description"]
        if level == "error":
            told = f"{notification['subject']} {told}"
        table.add_row(place, escape(message), f"[{_LEVEL_STYLES.get(level, 'dim')}]{level}[/]", escape(told))
        place = message = ""
    return table


@cli.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--site", metavar="ID", help="The only site it knows; with --token.")
@click.option("--token", help="The only token it knows; with --site.")
def sandbox(port: int, host: str, site: str | None, token: str | None) -> int:
    """Run a local stand-in of the Jirafe API.

    It validates as the real one does. Without --site and --token it accepts any. Its front page lists what it
    can show and how it is told to fail.

    \b
    Example:
      jirafe-consumer sandbox --port 8080 --site 123 --token secret
    """
    if (site is None) != (token is None):
        raise click.UsageError("--site and --token go together", click.get_current_context())
    try:
        from jirafe.sandbox import Sandbox, serve  # noqa: PLC0415 - of an extra
    except ImportError as error:
        raise Usage(f"the sandbox needs the extra: install jirafe-consumer[demo] ({error}).") from None
    api = Sandbox(credentials={token: [site]} if site and token else None)
    try:
        serve(api, host, port, lambda url: click.echo(f"Jirafe sandbox at {url}; Ctrl-C ends it."))
    except OSError as error:
        raise Usage(f"the sandbox can't listen at {host}:{port}: {error.strerror or error}.") from None
    return 0


@cli.command()
@click.option("--port", type=click.IntRange(0, 65535), default=9092, show_default=True, help="0: a free one.")
def broker(port: int) -> int:
    """Run an embedded Kafka broker.

    It keeps everything in memory: for trying things out, not for production.

    \b
    Example:
      jirafe-consumer broker --port 9092
    """
    with EmbeddedBroker(port) as embedded:
        click.echo(f"Kafka broker at {embedded.bootstrap_servers}, in memory; Ctrl-C ends it.")
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            embedded.wait()
        except KeyboardInterrupt:
            return 0
    raise Usage("the embedded broker ended by itself.")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@cli.command()
@click.option("--messages", type=click.IntRange(min=1), default=5000, show_default=True, metavar="N")
@click.option("--keep", is_flag=True, help="Leave everything running, and say what to try next.")
def demo(messages: int, keep: bool) -> int:
    """Run the main job on a simulated shop.

    Starts an embedded broker, a local Jirafe sandbox and the service. Ends with a table, and with a check
    that every message has exactly one result: exit status 1 if not.

    \b
    Example:
      jirafe-consumer demo --messages 20000
    """
    try:
        from consumer.demo.demo import run_demo  # noqa: PLC0415 - of an extra
    except ImportError as error:
        raise Usage(f"the demo needs the extra: install jirafe-consumer[demo] ({error}).") from None
    return run_demo(Console(), messages, keep=keep)
