r"""`init`: settings to fill in, and messages to try."""

import os
from importlib.resources import files
from pathlib import Path

import click

from consumer.cli import PROGRAM
from consumer.errors import UsageError
from consumer.settings import GROUPS

_HEAD = """\
# Settings of jirafe-consumer. Remove the # from those that you set. Keep this file private: it contains secrets.
# A secret can also come from a file: JIRAFE_ACCESS_TOKEN_FILE=/run/secrets/token.

# Kafka. KAFKA_* sets any property of librdkafka: KAFKA_SASL_PASSWORD is sasl.password.
# the brokers
#KAFKA_BOOTSTRAP_SERVERS=localhost:9092
# the consumer group
#KAFKA_GROUP_ID=jirafe-consumer
# PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL
#KAFKA_SECURITY_PROTOCOL=PLAINTEXT
# PEM file of the CA certificates that verify the brokers; default: the system's
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
    """Write a .env file to fill in, and example messages.

    Writes to FOLDER, by default the current one. The file .env has every setting with its default, and only you
    can read it. The folder messages has one example of each type of message. If .env or messages exists, it
    changes nothing, and the exit status is 2.

    \b
    Example:
      jirafe-consumer init shop
    """
    env_file, messages = folder / ".env", folder / "messages"
    for path in (env_file, messages):
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} already exists, so nothing was written: name another folder.")
    messages.mkdir(parents=True)
    written = [each for each in files("consumer").joinpath("examples").iterdir() if each.name.endswith(".json")]
    for example in written:
        (messages / example.name).write_bytes(example.read_bytes())
    # Create the file with these permissions: if they were set later, somebody could open it before.
    with os.fdopen(os.open(env_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(env_text())
    click.echo(
        f"{env_file} has every setting. Fill in what you need. {messages} has {len(written)} example messages.\n"
        f"Next, in {folder.resolve()}:\n"
        f"  {PROGRAM} preview messages   # what they would send; needs no settings\n"
        f"  {PROGRAM} check              # whether the settings work\n"
        f"  {PROGRAM} run"
    )
    return 0


def env_text() -> str:
    """Return an env file with every setting and its default, all commented out."""
    lines = [_HEAD.rstrip()]
    for prefix, group in GROUPS.items():
        lines += ["", f"# {_TITLES[prefix]}"]
        for name, field in group.model_fields.items():
            lines += [f"# {field.description}", f"#{prefix}{name.upper()}={written(field.default)}"]
    return "\n".join(lines) + "\n"


def written(default: object) -> str:
    """Write a default as in an env file. It is empty if there is none."""
    match default:
        case None | frozenset():
            return ""
        case bool():
            return str(default).lower()
        case tuple():
            return ",".join(default)
        case _:
            return str(default)
