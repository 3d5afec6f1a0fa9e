"""What all commands share: their program's name, what they take, and how they say that they were asked wrongly."""

from datetime import UTC, datetime

import click

from consumer.admin.ranges import NotAPosition, Position, lasting, parse_position, parse_time
from consumer.engine.records import Place
from consumer.errors import UsageError
from consumer.settings import Settings

PROGRAM = "jirafe-consumer"
_NOW = datetime.now(UTC)  # one for all times of a command, so that none is before another of the same words


of_partitions = click.option(
    "--partition", "partitions", type=click.IntRange(min=0), multiple=True, metavar="N", help="Of these only."
)
"""The option that chooses some partitions of a topic."""


def consumed(loaded: Settings, topic: str | None) -> list[str]:
    """Give the topic that was asked for, all that are consumed for None; raises UsageError for one that is not."""
    if topic is not None and topic not in loaded.input_topics:
        raise UsageError(f"the topic {topic} is none that is consumed: {', '.join(loaded.input_topics)}.")
    return loaded.input_topics if topic is None else [topic]


def a_position(text: str) -> Position:
    """Take an option's value as a time or an offset: `type=a_position, metavar="TIME|OFFSET"`."""
    try:
        return parse_position(text, _NOW)
    except NotAPosition as error:
        raise click.BadParameter(str(error)) from None


def a_lasting(text: str) -> str:
    """Take what was written for a time or an offset, how long ago as the moment that it means now."""
    try:
        return lasting(text, _NOW)
    except NotAPosition as error:
        raise click.BadParameter(str(error)) from None


def a_time(text: str) -> datetime:
    """Take an option's value as a time: `type=a_time, metavar="TIME"`."""
    try:
        return parse_time(text, _NOW)
    except NotAPosition as error:
        raise click.BadParameter(str(error)) from None


def a_place(text: str) -> Place:
    """Take an option's value as the place of a record: `type=a_place, metavar="TOPIC/PARTITION/OFFSET"`."""
    try:
        return Place.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
