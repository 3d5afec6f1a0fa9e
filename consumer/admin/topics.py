"""Creates the consumer's topics."""

from collections.abc import Iterable

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.cimpl import NewTopic

from consumer.admin.deployment import Deployment
from consumer.engine.kafka import LARGEST_DEAD_LETTER, REACHED_WITHIN, kafka_error
from consumer.errors import KafkaUnusable

PARTITIONS = 6
"""The default number of partitions of a topic that is created."""

BROKERS_DEFAULT = -1


def missing_topics(deployment: Deployment, topics: Iterable[str]) -> list[str]:
    """Return the topics that are missing. Blocks for seconds; raises KafkaUnusable."""
    _, present = deployment.cluster.reach()
    return [topic for topic in topics if topic not in present]


def prepare_topics(
    deployment: Deployment,
    topics: Iterable[str],
    *,
    partitions: int = PARTITIONS,
    replication: int = BROKERS_DEFAULT,
) -> list[str]:
    """Create the topics that are missing, and return those created. Blocks for seconds; raises KafkaUnusable.

    The topics of results and dead letters get a `max.message.bytes` that is large enough for any record: results
    carry its key, dead letters its value too. `replication` -1 means the broker's default.
    """
    admin, present = deployment.cluster.reach()
    largest = {"max.message.bytes": str(LARGEST_DEAD_LETTER)}
    configs = dict.fromkeys(deployment.output_topics, largest)
    new = [
        NewTopic(topic, partitions, replication, config=configs.get(topic, {}))
        for topic in topics
        if topic not in present
    ]
    created = []
    futures = admin.create_topics(new, operation_timeout=REACHED_WITHIN) if new else {}
    for topic, future in futures.items():
        try:
            future.result()
            created.append(topic)
        except KafkaException as error:
            if kafka_error(error).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                why = kafka_error(error).str()
                raise KafkaUnusable(f"the topic {topic} is missing and can't be created: {why}.") from None
    return created


def require_topics(deployment: Deployment, topics: Iterable[str]) -> None:
    """Raise KafkaUnusable if topics are missing. Blocks for seconds."""
    if missing := missing_topics(deployment, topics):
        raise KafkaUnusable(
            f"topics are missing at {deployment.cluster.servers}: {', '.join(missing)}; create them with "
            "jirafe-consumer topics create, or set CONSUMER_CREATE_TOPICS=true."
        )
