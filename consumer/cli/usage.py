"""What all commands share: common options, the types of their values, and usage errors."""

import os
import signal
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache, wraps
from types import FrameType
from typing import Any, TypeVar

import click

from consumer.admin.deployment import Deployment
from consumer.admin.ranges import NotAPosition, Position, check_order, lasting, parse_position, parse_time
from consumer.admin.selection import Selection
from consumer.cli import PROGRAM
from consumer.engine.records import Place
from consumer.errors import KINDS, UsageError
from consumer.stop import Stop

T = TypeVar("T")

_SLOWEST, _FASTEST = 0.001, 1_000_000
_SHOW_CURSOR = b"\x1b[?25h"


@cache
def _now() -> datetime:
    """Return one moment for all times of a command, so that equal texts mean equal times."""
    return datetime.now(UTC)


of_partitions = click.option(
    "--partition",
    "partitions",
    type=click.IntRange(min=0),
    multiple=True,
    metavar="N",
    help="Only these partitions.",
)
"""The option that selects partitions of a topic."""


def stop_on_signal(*, has_children: bool = False) -> Stop:
    """Return a flag that the first SIGINT or SIGTERM sets. A second signal ends the process at once.

    With `has_children`, it is ignored, because the command must stop its child processes. That takes seconds.
    """
    stop = Stop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.ask()
        if has_children:
            return
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), _SHOW_CURSOR)  # a progress bar hides it
        for number in numbers:
            # The system ends the process, even inside a library. A KeyboardInterrupt would wait for the library to
            # return, and some turn it into an error of their own.
            signal.signal(number, signal.SIG_DFL)

    for number in numbers:
        signal.signal(number, on_signal)
    return stop


def choosing(*, letters: bool) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Add the options that select results or dead letters to a command, as one argument `wanted`.

    With `letters`, it also adds the option for their kind, which results don't have, and `--from`. The command
    `results` has its own `--from`, which takes more values.
    """

    def decorated(command: Callable[..., T]) -> Callable[..., T]:
        @click.option("--topic", metavar="TOPIC", help="Only records of this topic.")
        @of_partitions
        @click.option(
            "--type", "message_type", metavar="TYPE", help="Only messages of this type, such as order:new."
        )
        @click.option("--key", metavar="KEY", help="Only messages with this number, id or sku.")
        @click.option("--reason", metavar="TEXT", help="Only where the reason contains this text.")
        @click.option("--to", "until", type=a_time, metavar="TIME", help="Only before this time.")
        @wraps(command)
        def chosen(
            *arguments: Any,
            topic: str | None,
            partitions: tuple[int, ...],
            message_type: str | None,
            key: str | None,
            reason: str | None,
            until: datetime | None,
            since: datetime | None = None,
            kind: str | None = None,
            **options: Any,
        ) -> T:
            check_order(since, until)
            wanted = Selection(kind, topic, partitions, message_type, key, reason, since, until)
            return command(*arguments, wanted=wanted, **options)

        if not letters:
            return chosen
        of_kind = click.option(
            "--kind",
            type=click.Choice(KINDS),
            metavar="KIND",
            help="Only this kind, such as rejected or undecodable.",
        )
        return of_kind(
            click.option("--from", "since", type=a_time, metavar="TIME", help="Only from this time on.")(chosen)
        )

    return decorated


def check_consumed(deployment: Deployment, topic: str | None) -> None:
    """Raise UsageError if a topic is given that is not consumed."""
    if topic is not None and not deployment.consumes(topic):
        names = ", ".join((*deployment.topics, *deployment.patterns))
        raise UsageError(f"the topic {topic} is not consumed. The consumed topics are: {names}.")


def consumed(deployment: Deployment, topic: str | None) -> list[str]:
    """Return the given topic, or for None all consumed topics. Raises UsageError, KafkaUnusable.

    Prints which patterns match no topic.
    """
    check_consumed(deployment, topic)
    if topic is not None:
        return [topic]
    topics = deployment.input_topics()
    tell_unmatched(deployment, topics)
    return topics


def tell_unmatched(deployment: Deployment, topics: Collection[str]) -> None:
    """Print which patterns match none of the consumed topics. Nothing else would say that they are missing."""
    for pattern in deployment.unmatched(topics):
        click.echo(f"{PROGRAM}: no topic matches {pattern}.", err=True)


def a_position(text: str) -> Position:
    """Parse an option's value as a time or an offset: `type=a_position, metavar="TIME|OFFSET"`."""
    try:
        return parse_position(text, _now())
    except NotAPosition as error:
        raise click.BadParameter(str(error)) from None


def a_lasting(option: str, text: str | None) -> str | None:
    """Check an option's time or offset, and replace a text such as "2h" by the time that it means now."""
    try:
        return None if text is None else lasting(text, _now())
    except NotAPosition as error:
        raise click.BadParameter(str(error), param_hint=f"'{option}'") from None


def a_time(text: str) -> datetime:
    """Parse an option's value as a time: `type=a_time, metavar="TIME"`."""
    try:
        return parse_time(text, _now())
    except NotAPosition as error:
        raise click.BadParameter(str(error)) from None


def a_rate(text: str) -> float:
    """Parse an option's value as a number per second: `type=a_rate, metavar="N"`."""
    with suppress(ValueError):
        if _SLOWEST <= (rate := float(text)) <= _FASTEST:  # a text such as "nan" is a number too, but in no range
            return rate
    raise click.BadParameter(f"'{text}' is not a number from {_SLOWEST} to {_FASTEST}.")


def a_place(text: str) -> Place:
    """Parse an option's value as a record's place: `type=a_place, metavar="TOPIC/PARTITION/OFFSET"`."""
    try:
        return Place.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
