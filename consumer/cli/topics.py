"""`topics create`: the consumer's topics, with partitions and replication of your choice."""

import click

from consumer import app
from consumer.admin.topics import BROKERS_DEFAULT, PARTITIONS, prepare_topics
from consumer.settings import SettingsSource

# The library refuses more.
_MOST_PARTITIONS = 100_000
_MOST_REPLICAS = 10_000


@click.group(no_args_is_help=False)
def topics() -> None:
    """Create the consumer's topics.

    \b
    Example:
      jirafe-consumer topics create --partitions 12 --replication 3
    """


@topics.command()
@click.option(
    "--partitions",
    type=click.IntRange(1, _MOST_PARTITIONS),
    default=PARTITIONS,
    show_default=True,
    metavar="N",
    help="Partitions of each topic.",
)
@click.option(
    "--replication",
    type=click.IntRange(1, _MOST_REPLICAS),
    metavar="N",
    help="Replicas of each partition. Default: the broker's.",
)
@click.pass_obj
def create(source: SettingsSource, partitions: int, replication: int | None) -> int:
    """Create the topics that are missing.

    Creates the consumed topics that the settings name, and the topics of results and dead letters. Existing topics
    are not changed.

    \b
    Example:
      jirafe-consumer topics create --partitions 12 --replication 3
    """
    deployment = app.make_deployment(source.load())
    names = [*deployment.topics, *deployment.output_topics]
    created = prepare_topics(deployment, names, partitions=partitions, replication=replication or BROKERS_DEFAULT)
    for name in names:
        click.echo(f"{name}: {'created' if name in created else 'exists'}")
    return 0
