"""`jirafe-consumer`: the main command, its subcommands, and its exit status."""

import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

import click

from consumer import printing
from consumer.cli import PROGRAM
from consumer.errors import ConsumerError, InputError, Interrupted, RegistryError, SettingsError, UsageError
from schemas.codec import RegistryUnavailable
from schemas.reading import HubError

_COMMANDS = {
    "audit": ("audit.audit_command", "Prove that every record has exactly one result."),
    "broker": ("local.broker", "Run an embedded Kafka broker."),
    "completion": ("completion.completion", "Set up completion in bash, zsh or fish."),
    "browse": ("browse.browse", "Look at the whole group, and at single records, in a browser."),
    "check": ("check.check_command", "Check a deployment, and say how to fix what is wrong."),
    "dead-letters": ("dead_letters.dead_letters", "Show undeliverable messages, and deliver them again."),
    "demo": ("local.demo", "Run the service with a simulated shop."),
    "init": ("init.init", "Write a .env file to fill in, and example messages."),
    "lag": ("lag.lag", "Show how far the group is behind."),
    "offsets": ("offsets.offsets", "Change the offsets of the group."),
    "preview": ("messages.preview", "Show what hub messages would send, and why."),
    "produce": ("messages.produce_command", "Put hub messages into Kafka."),
    "replay": ("replay.replay", "Deliver records of a topic again."),
    "results": ("messages.results", "Show the result of each message."),
    "run": ("run.run", "Run the service."),
    "sandbox": ("local.sandbox", "Run a local stand-in for the Jirafe API."),
    "schemas": ("schemas.schemas", "Check and register our schemas in the Schema Registry."),
    "shop": ("local.shop_command", "Produce the messages of a simulated shop."),
    "topics": ("topics.topics", "Create the consumer's topics."),
}
"""For each command, its module and function in this package, and its first sentence."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 failed, 2 could not start (see `consumer.errors`), 130 interrupted."""
    printing.guard()
    status = 0
    try:
        with printing.while_read():
            status = _run(arguments)
    except ConsumerError as error:
        if str(error):
            click.echo(str(error), err=True)
        status = error.exit_status
    sys.exit(status)


def _run(arguments: list[str] | None) -> int:
    """Run a command. Turns the known errors of all libraries into ConsumerError."""
    try:
        return cli.main(arguments, prog_name=PROGRAM, standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        raise UsageError(error.format_message()) from None
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else PROGRAM
        # The name of click's type for a bounded number.
        said = printing.clause(error.format_message().replace("a valid integer range", "a whole number"))
        raise UsageError(f"{command}: {said}; see {command} --help.") from None
    except SettingsError:
        raise
    except ConsumerError as error:
        error.args = (f"{PROGRAM}: {error}" if str(error) else "",)
        raise
    except HubError as error:
        raise InputError(f"{PROGRAM}: {error}") from None
    except RegistryUnavailable as error:
        raise RegistryError(
            f"{PROGRAM}: {printing.clause(str(error))}; see CONSUMER_SCHEMA_REGISTRY_URL."
        ) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        of = f"{error.filename}: " if error.filename else ""
        raise UsageError(f"{PROGRAM}: {of}{error.strerror or error}.") from None
    except (click.Abort, KeyboardInterrupt):
        raise Interrupted from None


def _end_before_start(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)  # nothing is consumed yet, so there is nothing to finish


class _Context(click.Context):
    """A command as it is called. Its usage errors name it: click leaves it out if an option has no value."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, click.UsageError):
            error.ctx = error.ctx or self
        super().__exit__(kind, error, trace)


class _Commands(click.Group):
    """The commands. Each is imported only when it is called, because some need libraries that are slow to load."""

    context_class = _Context

    def list_commands(self, _context: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if arguments[:1] == ["run"] and not context.resilient_parsing:
            # Its libraries take long to load, and the service may be told to stop in that time.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, _end_before_start)
            # A supervisor may ask for a reload just as early. By default that would end the service, and systemd
            # would not start it again. A file that changes meanwhile is noticed anyway.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return super().resolve_command(context, arguments)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, _, function = _COMMANDS[name][0].partition(".")
        command: click.Command = getattr(import_module(f"consumer.cli.{module}"), function)
        for each in (command, *getattr(command, "commands", {}).values()):
            each.context_class = _Context
        return command

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, said) in sorted(_COMMANDS.items())])


@click.group(cls=_Commands, context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]})
@click.version_option(package_name="jirafe-consumer")
@click.option(
    "--env-file",
    type=click.Path(path_type=Path),
    help="File of NAME=VALUE lines. Environment variables override it. Default: .env, if it exists.",
)
@click.pass_context
def cli(context: click.Context, env_file: Path | None) -> None:
    """Deliver cart, order, product and category messages from Kafka to the Jirafe Events API.

    Each message gets exactly one result in the results topic. A message that can't be delivered is kept, byte
    for byte, in the dead-letter topic. Settings come from the environment or from an env file: see
    docs/settings.md.
    """
    from consumer.settings import SettingsSource  # noqa: PLC0415 - it takes long to load, and help does without

    default = Path(".env")
    by_chance = env_file is None and default.exists()
    context.obj = SettingsSource(default if by_chance else env_file, by_chance=by_chance)
