"""`sandbox`, `broker`, `shop` and `demo`: stand-ins for the API, Kafka and a shop, and a demo of all together."""

import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import click

from consumer import app
from consumer.admin import produce
from consumer.cli import PROGRAM
from consumer.cli.usage import a_rate, stop_on_signal
from consumer.demo.broker import EmbeddedBroker
from consumer.demo.shop import Produced, shop
from consumer.errors import UsageError
from consumer.printing import Console, plural
from consumer.settings import SettingsSource
from consumer.stop import Stop
from schemas.hub import KINDS

_LOOK = 0.2


@contextmanager
def _extra(what: str) -> Iterator[None]:
    """Turn a failed import into a UsageError that names the missing extra."""
    try:
        yield
    except ImportError as error:
        raise UsageError(f"the {what} needs an extra: install '{PROGRAM}[demo]' ({error}).") from None


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    metavar="PORT",
    help="The port to listen on; 0 for any free one.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--site", metavar="ID", help="The only site that it accepts; needs --token.")
@click.option("--token", help="The only token that it accepts; needs --site.")
def sandbox(port: int, host: str, site: str | None, token: str | None) -> int:
    """Run a local stand-in for the Jirafe API.

    Validates events as the real API does. Without --site and --token it accepts any site and token. Its front page
    says what it can show, and how to make it fail.

    \b
    Example:
      jirafe-consumer sandbox --port 8080 --site 123 --token secret
    """
    if (site is None) != (token is None):
        one, other = ("--site", "--token") if token is None else ("--token", "--site")
        raise click.UsageError(f"{one} needs {other}", click.get_current_context())
    if not host:  # it would mean all addresses of this machine
        raise click.UsageError("--host must not be empty", click.get_current_context())
    if "" in (site, token):
        raise click.UsageError("--site and --token must not be empty", click.get_current_context())
    with _extra("sandbox"):
        from jirafe.sandbox import Sandbox, serve  # noqa: PLC0415 - of an extra
    api = Sandbox(credentials={token: [site]} if site is not None and token is not None else None)
    try:
        serve(api, host, port, lambda url: click.echo(f"Jirafe sandbox at {url}. Press Ctrl-C to stop."))
    except UnicodeError:  # a label that is empty or too long, or a letter that no name may have
        raise click.UsageError(f"--host {host} is not the name of a host", click.get_current_context()) from None
    except BrokenPipeError:  # nobody reads what it prints
        raise
    except OSError as error:
        # The event loop wraps the system's reason in a sentence of its own, but not that of an unknown host.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        raise UsageError(f"the sandbox can't listen on {host}:{port}: {why}; see --host and --port.") from None
    return 0


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9092,
    show_default=True,
    metavar="PORT",
    help="The port to listen on; 0 for any free one.",
)
def broker(port: int) -> int:
    """Run an embedded Kafka broker.

    Keeps everything in memory. Use it to try things out, not in production.

    \b
    Example:
      jirafe-consumer broker --port 9092
    """
    stop = stop_on_signal(has_children=True)
    with EmbeddedBroker(port) as embedded:
        click.echo(f"Kafka broker at {embedded.bootstrap_servers}, in memory. Press Ctrl-C to stop.")
        while embedded.is_running:
            if stop.wait(_LOOK):
                return 0
    raise UsageError("the embedded broker ended unexpectedly.")


@click.command("shop")
@click.option(
    "--rate",
    type=a_rate,
    default=10,
    show_default=True,
    metavar="N",
    help="Messages per second.",
)
@click.option("--messages", type=click.IntRange(min=1), metavar="N", help="Stop after N messages.")
@click.pass_obj
def shop_command(source: SettingsSource, rate: float, messages: int | None) -> int:
    """Produce the messages of a simulated shop.

    Runs until SIGTERM or SIGINT; a second signal ends it at once. One message in a hundred is broken on purpose.
    Each run produces different messages. Uses the same topics and keys as produce.

    \b
    Example:
      jirafe-consumer shop --rate 50
    """
    loaded = source.load()
    topics = loaded.topics_by_kind
    if lacking := [kind for kind in KINDS if kind not in topics]:
        raise UsageError(f"CONSUMER_{lacking[0].upper()}S_TOPIC has only patterns: add a topic name for the shop.")
    app.have_topics(loaded, list(dict.fromkeys(topics.values())))
    stop = stop_on_signal()
    story = shop(messages or sys.maxsize, seed=secrets.randbits(32), codec=app.make_codec(loaded))
    addressed = (
        (topics[message.topic_kind], produce.Encoded(message.topic_kind, message.key, message.value))
        for message in _paced(story, rate, stop)
    )
    cluster = app.make_cluster(loaded)
    producer = cluster.make_producer({**produce.QUEUED, **cluster.client_properties("shop")})
    count = produce.produce(producer, addressed)
    click.echo(f"{count} {plural('message', count)} produced")
    return 0


def _paced(story: Iterable[Produced], rate: float, stop: Stop) -> Iterator[Produced]:
    """Yield messages, `rate` per second, until asked to stop."""
    begun = time.monotonic()
    for index, message in enumerate(story):
        if stop.wait(begun + index / rate - time.monotonic()):
            return
        yield message


@click.command()
@click.option(
    "--messages",
    type=click.IntRange(min=1),
    default=5000,
    show_default=True,
    metavar="N",
    help="How many messages the shop produces.",
)
@click.option("--keep", is_flag=True, help="Leave everything running, and show what to try next.")
def demo(messages: int, keep: bool) -> int:
    """Run the service with a simulated shop.

    Starts an embedded broker, a local Jirafe sandbox and the service. At the end it prints a table, and checks that
    every message has exactly one result. Exit status 1 if not.

    \b
    Example:
      jirafe-consumer demo --messages 20000
    """
    with _extra("demo"):
        import jirafe.sandbox  # noqa: F401, PLC0415 - of an extra, and the demo starts it as another process
    from consumer.demo.demo import run_demo  # noqa: PLC0415 - slow to load, and for this command alone

    return run_demo(Console(), messages, keep=keep, stop=stop_on_signal(has_children=True))
