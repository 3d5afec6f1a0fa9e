"""What a worker does with a chunk: decode, map, send, decide, finish.

It never waits between tries and never gives up by itself: a chunk comes back either done, with one output
for each record, or to be retried, with what stood in the way.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from consumer.chunk import Chunk
from consumer.drafts import Defaults, Drafts
from consumer.record import Output
from consumer.sending import Attempt, Rules, Trouble, by_site
from jirafe.client import Client
from schemas.codec import RegistryUnavailable

REGISTRY = "schema registry"


@dataclass(frozen=True, slots=True)
class Done:
    """Every record of the chunk has its output. `served` names the sites that went through a request."""

    chunk: Chunk
    outputs: list[Output]
    served: frozenset[str]


@dataclass(frozen=True, slots=True)
class Retry:
    """The chunk is to be tried again: it has events, or records, that are not decided."""

    chunk: Chunk
    trouble: Trouble
    served: frozenset[str]


class Delivery:
    """Delivers chunks; `deliver` may run in several threads at once, each with a chunk of its own."""

    def __init__(
        self, drafts: Drafts, client: Client, rules: Rules, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._drafts = drafts
        self._client = client
        self._rules = rules
        self._clock = clock
        self._served_at: dict[str, float] = {}

    def use(self, defaults: Defaults) -> None:
        """Go by other credentials and parameters from now on; any thread may call."""
        self._drafts.defaults = defaults

    def deliver(self, chunk: Chunk, is_ours: Callable[[], bool]) -> Done | Retry:
        """Try the chunk once; blocks for the time of its requests, raises nothing.

        `is_ours` tells, before each request, whether the chunk's partition is still this member's.
        """
        chunk.attempts += 1
        own = self._drafts.defaults.credentials
        attempt = Attempt(self._client, self._rules, own, chunk, is_ours, self._clock, self._served_at)
        try:
            for record in chunk.records[len(chunk.drafts) :]:
                chunk.drafts.append(self._drafts.draft(record))
            events = [event for draft in chunk.drafts for event in draft.events]
            troubles = [attempt.send(site, group) for site, group in by_site(events, self._drafts.site).items()]
            trouble = next((trouble for trouble in troubles if trouble), None)
            if trouble is None or all(event.outcome is not None for event in events):
                outputs = [self._drafts.output(draft, chunk.attempts) for draft in chunk.drafts]
                return Done(chunk, outputs, frozenset(attempt.served))
        except RegistryUnavailable as error:
            trouble = Trouble(REGISTRY, "registry", str(error))
        return Retry(chunk, trouble, frozenset(attempt.served))
