"""`sandbox`, `broker` and `demo`: stand-ins of both ends, and all of it together."""

import signal
from types import FrameType

import click
from rich.console import Console

from consumer.commands.usage import Usage
from consumer.demo.broker import EmbeddedBroker


@click.command()
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


@click.command()
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


@click.command()
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
