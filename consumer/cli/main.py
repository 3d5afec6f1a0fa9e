"""`jirafe-consumer`: its commands together, and how each ends."""

import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from consumer import printing
from consumer.cli import (
    audit,
    check,
    completion,
    dead_letters,
    init,
    lag,
    local,
    messages,
    offsets,
    replay,
    run,
    schemas,
    topics,
)
from consumer.cli.usage import PROGRAM
from consumer.errors import ConsumerError, InputError, Interrupted, RegistryError, SettingsError, UsageError
from consumer.settings import SettingsSource
from schemas.codec import RegistryUnavailable
from schemas.hub import HubError


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 it failed, 2 wrong usage or settings, 130 interrupted."""
    printing.guard()
    try:
        status = _run(arguments)
    except (BrokenPipeError, SystemExit):
        # The reader has gone (`... | head`): nothing more to say, nor a place to say it. Click and rich make a
        # SystemExit of it, and nothing else here does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except ConsumerError as error:
        if str(error):
            click.echo(str(error), err=True)
        status = error.exit_status
    sys.exit(status)


def _run(arguments: list[str] | None) -> int:
    """Run a command; raises ConsumerError, whatever library the error comes from."""
    try:
        return cli.main(arguments, prog_name=PROGRAM, standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        raise UsageError(error.format_message()) from None
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else PROGRAM
        raise UsageError(f"{command}: {error.format_message().rstrip('.')}; see {command} --help.") from None
    except SettingsError:
        raise
    except ConsumerError as error:
        error.args = (f"{PROGRAM}: {error}" if str(error) else "",)
        raise
    except HubError as error:
        raise InputError(f"{PROGRAM}: {error}") from None
    except RegistryUnavailable as error:
        raise RegistryError(f"{PROGRAM}: {error}; see CONSUMER_SCHEMA_REGISTRY_URL.") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        of = f"{error.filename}: " if error.filename else ""
        raise UsageError(f"{PROGRAM}: {of}{error.strerror or error}.") from None
    except (click.Abort, KeyboardInterrupt):
        raise Interrupted from None


@click.group(context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]})
@click.version_option(package_name="jirafe-consumer")
@click.option(
    "--env-file",
    type=click.Path(path_type=Path),
    help="A file of NAME=VALUE lines; the environment goes before it. Default: .env, if there is one.",
)
@click.pass_context
def cli(context: click.Context, env_file: Path | None) -> None:
    """Deliver cart, order, product and category messages from Kafka to the Jirafe Events API.

    Each message that is consumed gets exactly one result in the results topic; what can't be delivered is in
    the dead-letter topic, byte for byte. Settings come from the environment: see the README.
    """
    default = Path(".env")
    by_chance = env_file is None and default.exists()
    context.obj = SettingsSource(default if by_chance else env_file, by_chance=by_chance)


for command in (
    init.init,
    run.run,
    messages.preview,
    messages.produce_command,
    messages.results,
    audit.audit_command,
    lag.lag,
    offsets.offsets,
    topics.topics,
    replay.replay,
    dead_letters.dead_letters,
    schemas.schemas,
    check.check_command,
    local.sandbox,
    local.broker,
    local.shop_command,
    local.demo,
    completion.completion,
):
    cli.add_command(command)
