r"""`init`: settings to fill in, and messages to try."""

import os
from importlib.resources import files
from pathlib import Path

import click

from consumer.cli import PROGRAM
from consumer.errors import UsageError
from consumer.settings import GROUPS

_HEAD = """\
# Settings of jirafe-consumer: take the # away from those that you set. Keep this file to yourself.
# A secret may be in a file of its own instead: JIRAFE_ACCESS_TOKEN_FILE=/run/secrets/token.

# Kafka. KAFKA_* reaches every property of librdkafka: KAFKA_SASL_PASSWORD is sasl.password.
# the brokers
#KAFKA_BOOTSTRAP_SERVERS=localhost:9092
# the consumer group
#KAFKA_GROUP_ID=jirafe-consumer
# PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL
#KAFKA_SECURITY_PROTOCOL=PLAINTEXT
# CA certificates to verify the brokers with, a PEM file; unset: the system's
#KAFKA_SSL_CA_LOCATION=
# PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER
#KAFKA_SASL_MECHANISM=
#KAFKA_SASL_USERNAME=
#KAFKA_SASL_PASSWORD=
"""
_TITLES = {"JIRAFE_": "The Jirafe Events API.", "CONSUMER_": "The consumer itself."}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path())
def init(folder: Path) -> int:
    """Write settings to fill in, and a message of each type to try.

    FOLDER, by default this one, gets a .env with every setting, its default and what it is, which you alone may
    read; and a folder messages with one hub message a file. Nothing that is there already is touched: exit status
    2 if any of it is.

    \b
    Example:
      jirafe-consumer init shop
    """
    env_file, messages = folder / ".env", folder / "messages"
    for path in (env_file, messages):
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} is there already, and nothing was written: name another folder.")
    messages.mkdir(parents=True)
    written = [each for each in files("consumer").joinpath("examples").iterdir() if each.name.endswith(".json")]
    for example in written:
        (messages / example.name).write_bytes(example.read_bytes())
    # Made with these rights, and not given them: nobody else can open it in between.
    with os.fdopen(os.open(env_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(env_text())
    click.echo(
        f"{env_file} has every setting, to be filled in; {messages} has {len(written)} messages.\n"
        f"Next, in {folder.resolve()}:\n"
        f"  {PROGRAM} preview messages   # what they would send; needs no settings\n"
        f"  {PROGRAM} check              # whether the settings do\n"
        f"  {PROGRAM} run"
    )
    return 0


def env_text() -> str:
    """Give an env file with every setting, each commented out: as it is, it says nothing."""
    lines = [_HEAD.rstrip()]
    for prefix, group in GROUPS.items():
        lines += ["", f"# {_TITLES[prefix]}"]
        for name, field in group.model_fields.items():
            lines += [f"# {field.description}", f"#{prefix}{name.upper()}={written(field.default)}"]
    return "\n".join(lines) + "\n"


def written(default: object) -> str:
    """Give a default as an env file has it; empty where there is none."""
    match default:
        case None | frozenset():
            return ""
        case bool():
            return str(default).lower()
        case tuple():
            return ",".join(default)
        case _:
            return str(default)
