"""The deployment that admin tools work on."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from consumer.engine.kafka import Cluster

CLOCK_TOLERANCE = timedelta(minutes=5)
"""How much the clocks of producers, brokers and members may differ. `audit` tolerates it, `check` warns of more."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A cluster and the consumer's topics on it: the consumed topics, and those of results and dead letters.

    The consumed topics are `topics`, and all whose whole name matches one of the `patterns`.
    """

    cluster: Cluster
    topics: tuple[str, ...]
    patterns: tuple[str, ...]
    results_topic: str
    dead_letters_topic: str

    def input_topics(self) -> list[str]:
        """List the topics that are consumed now: the named ones, and the existing ones that match a pattern.

        If there are patterns, it asks the broker: it may block for seconds, and raises KafkaUnusable.
        """
        if not self.patterns:
            return list(self.topics)
        _, present = self.cluster.reach()
        matching = [topic for topic in sorted(present) if self._matches(topic)]
        return list(dict.fromkeys((*self.topics, *matching)))

    def consumes(self, topic: str) -> bool:
        """Return whether a topic is one of those that are consumed."""
        return topic in self.topics or self._matches(topic)

    def unmatched(self, topics: Collection[str]) -> list[str]:
        """List the patterns that none of these topics matches."""
        return [each for each in self.patterns if not any(re.fullmatch(each, topic) for topic in topics)]

    def _matches(self, topic: str) -> bool:
        return any(re.fullmatch(pattern, topic) for pattern in self.patterns)

    @property
    def output_topics(self) -> tuple[str, str]:
        """The topics that the consumer writes to."""
        return self.results_topic, self.dead_letters_topic

    def is_ours(self, group: str | None) -> bool:
        """Return whether a result or dead letter is our group's. Old ones name no group: they count as ours."""
        return group in {None, self.cluster.group}
