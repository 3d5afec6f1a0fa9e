"""What admin tools work on."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from consumer.engine.kafka import Cluster

CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far the clocks of producers, brokers and members may differ. `check` warns of more, `audit` allows for it."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A cluster with the consumer's topics: those it consumes, and those of its results and dead letters."""

    cluster: Cluster
    input_topics: tuple[str, ...]
    results_topic: str
    dead_letters_topic: str

    @property
    def output_topics(self) -> tuple[str, str]:
        """The topics that the consumer writes to."""
        return self.results_topic, self.dead_letters_topic

    def is_ours(self, result: Mapping[str, Any]) -> bool:
        """Tell whether a result is our group's; one that does not say so is from before results told it."""
        return result["group"] in {None, self.cluster.group}
