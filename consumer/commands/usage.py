"""What all commands share: their program's name, what they take, and how they say that they were asked wrongly."""

from datetime import UTC, datetime

import click

from consumer.tools.ranges import NotAPlace, Place, parse_place, parse_time

PROGRAM = "jirafe-consumer"


class Usage(Exception):
    """What was asked for can't be done as it was asked; the sentence says why and how to mend it."""


def a_place(text: str) -> Place:
    """Take an option's value as a time or an offset: `type=a_place, metavar="TIME|OFFSET"`."""
    try:
        return parse_place(text, datetime.now(UTC))
    except NotAPlace as error:
        raise click.BadParameter(str(error)) from None


def a_time(text: str) -> datetime:
    """Take an option's value as a time: `type=a_time, metavar="TIME"`."""
    try:
        return parse_time(text, datetime.now(UTC))
    except NotAPlace as error:
        raise click.BadParameter(str(error)) from None
