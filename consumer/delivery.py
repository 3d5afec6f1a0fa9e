"""What a worker does with a chunk: decode, map, send, decide, finish.

It never waits between tries and never gives up by itself: a chunk comes back either done, with one output
for each record, or to be retried, with what stood in the way.
"""

from collections.abc import Callable
from dataclasses import dataclass

from consumer.chunk import Chunk
from consumer.drafts import Defaults, Drafts
from consumer.record import Output
from consumer.sending import Attempt, Rules, Tally, Trouble, by_site
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

    def __init__(self, drafts: Drafts, client: Client, rules: Rules) -> None:
        self._drafts = drafts
        self._client = client
        self._rules = rules
        self._tallies: dict[str, Tally] = {}

    def use(self, defaults: Defaults) -> None:
        """Go by other credentials and parameters from now on; any thread may call."""
        self._drafts.defaults = defaults

    def deliver(self, chunk: Chunk, is_ours: Callable[[], bool]) -> Done | Retry:
        """Try the chunk once; blocks for the time of its requests, raises nothing.

        `is_ours` tells, before each request, whether the chunk's partition is still this member's.
        """
        chunk.attempts += 1
        own = self._drafts.defaults.credentials
        attempt = Attempt(self._client, self._rules, own, chunk, is_ours, self._tallies)
        try:
            for record in chunk.records[len(chunk.drafts) :]:
                chunk.drafts.append(self._drafts.draft(record))
            events = [event for draft in chunk.drafts for event in draft.events]
            trouble = None
            for runs in by_site(events, self._drafts.site):
                for site, run in runs:
                    stopped = attempt.send(site, run)
                    if stopped:
                        trouble = trouble or stopped
                        break  # a later run may have a later event of the same key
            if trouble is None or all(event.outcome is not None for event in events):
                outputs = [self._drafts.output(draft, chunk.attempts) for draft in chunk.drafts]
                return Done(chunk, outputs, frozenset(attempt.served))
        except RegistryUnavailable as error:
            trouble = Trouble(REGISTRY, "registry", str(error))
        return Retry(chunk, trouble, frozenset(attempt.served))
