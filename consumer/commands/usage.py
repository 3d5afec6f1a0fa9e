"""What all commands share: their program's name, what they take, and how they say that they were asked wrongly."""

import re
from datetime import UTC, datetime

import click

from consumer.settings import Settings
from consumer.tools.ranges import NotAPlace, Place, lasting, parse_place, parse_time

PROGRAM = "jirafe-consumer"
INTERRUPTED = 130
"""The exit status of a command that was told to end."""

_NOW = datetime.now(UTC)  # one for all times of a command, so that none is before another of the same words
_RECORD = re.compile(r"([^/]+)/(\d{1,10})/(\d{1,19})", re.ASCII)


of_partitions = click.option(
    "--partition", "partitions", type=click.IntRange(min=0), multiple=True, metavar="N", help="Of these only."
)
"""The option that chooses some partitions of a topic."""


class Usage(Exception):
    """What was asked for can't be done as it was asked; the sentence says why and how to mend it."""


def consumed(loaded: Settings, topic: str | None) -> list[str]:
    """Give the topic that was asked for, all that are consumed for None; raises Usage for one that is not."""
    if topic is not None and topic not in loaded.input_topics:
        raise Usage(f"the topic {topic} is none that is consumed: {', '.join(loaded.input_topics)}.")
    return loaded.input_topics if topic is None else [topic]


def a_place(text: str) -> Place:
    """Take an option's value as a time or an offset: `type=a_place, metavar="TIME|OFFSET"`."""
    try:
        return parse_place(text, _NOW)
    except NotAPlace as error:
        raise click.BadParameter(str(error)) from None


def a_lasting(text: str) -> str:
    """Take what was written for a time or an offset, how long ago as the moment that it means now."""
    try:
        return lasting(text, _NOW)
    except NotAPlace as error:
        raise click.BadParameter(str(error)) from None


def a_time(text: str) -> datetime:
    """Take an option's value as a time: `type=a_time, metavar="TIME"`."""
    try:
        return parse_time(text, _NOW)
    except NotAPlace as error:
        raise click.BadParameter(str(error)) from None


def a_record(text: str) -> str:
    """Take an option's value as the place of a record: `type=a_record, metavar="TOPIC/PARTITION/OFFSET"`."""
    place = _RECORD.fullmatch(text)
    if place is None:
        raise click.BadParameter(f"'{text}' is not TOPIC/PARTITION/OFFSET, such as orders/0/17")
    return f"{place[1]}/{int(place[2])}/{int(place[3])}"
