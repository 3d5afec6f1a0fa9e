"""What a worker does with a chunk: decode, map, send, decide, finish.

It never waits between tries and never gives up by itself: a chunk comes back either done, with one output
for each record, or to be retried, with what stood in the way.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from consumer.chunk import Chunk, Fault, Outgoing
from consumer.drafts import Defaults, Drafts
from consumer.record import Output
from consumer.sending import Attempt, Rules, Tally, Trouble, by_site
from consumer.telemetry.failures import Failures
from consumer.telemetry.metrics import Metrics
from jirafe.client import PROBE, Answered, Client
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
    """Delivers chunks; `deliver` may run in several threads at once, each with a chunk of its own.

    What becomes of them is counted in `metrics`, and what can't be delivered noted in `failures`.
    """

    def __init__(self, drafts: Drafts, client: Client, rules: Rules, metrics: Metrics, failures: Failures) -> None:
        self._drafts = drafts
        self._client = client
        self._rules = rules
        self._metrics = metrics
        self._failures = failures
        self._tallies: dict[str, Tally] = {}

    def use(self, defaults: Defaults) -> None:
        """Go by other credentials and parameters from now on; any thread may call."""
        self._drafts.defaults = defaults

    def give_up_suspects(self, chunk: Chunk, problem: str) -> bool:
        """Give up the events that fail alone while their sites serve, which a probe shows; tells whether any is.

        For where nothing else is sent meanwhile that would show it. Blocks for the time of a request.
        """
        suspects = [
            event for draft in chunk.drafts for event in draft.events if event.outcome is None and event.suspicion
        ]
        for event in suspects:
            if isinstance(self._client.send(self._drafts.site(event.credentials), [PROBE]), Answered):
                event.outcome = Fault("failing", f"{problem}, again and again for this event alone")
        return any(event.outcome for event in suspects)

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
                self._metrics.decided(_outcomes(events))
                self._failures.note(outputs)
                return Done(chunk, outputs, frozenset(attempt.served))
        except RegistryUnavailable as error:
            trouble = Trouble(REGISTRY, "registry", str(error))
        self._metrics.to_be_retried(trouble.cause)
        return Retry(chunk, trouble, frozenset(attempt.served))


def _outcomes(events: Iterable[Outgoing]) -> Counter[tuple[str, str]]:
    """Count decided events by kind and outcome."""
    return Counter(
        (event.kind.name, event.outcome.kind if isinstance(event.outcome, Fault) else "accepted")
        for event in events
    )
