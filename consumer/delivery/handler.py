"""Handles a chunk on a worker: decodes, maps, sends, decides, and writes the results."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from consumer.delivery import results
from consumer.delivery.calls import Start
from consumer.delivery.defaults import Defaults
from consumer.delivery.mapping import Mapper, RecordTracing
from consumer.delivery.parting import Parting
from consumer.delivery.sending import Attempt, Rules, by_site
from consumer.delivery.suspicion import Sites, Suspicion, Tally
from consumer.delivery.turns import Turns
from consumer.delivery.work import Draft, Fault, Outgoing, Work
from consumer.engine.ports import Chunk, Done, Retry, Trouble
from consumer.engine.records import FAILING, Output, Record
from jirafe.client import PROBE, Answered, Client, Site
from schemas.codec import Codec, IdUnavailable, RegistryUnavailable

REGISTRY = "schema registry"

Decided = Callable[[Mapping[tuple[str, str], int]], None]
"""Called with the number of decided events, by kind and outcome."""


class Delivery:
    """Delivers chunks to the API: the engine's handler. It may handle several at once, each on its own thread.

    `decided` is called with the outcomes of events, on the thread that handled them. `group` is the consumer group,
    which every result names. `clock` gives monotonic seconds. `start` lets another thread make a request. `tracing`
    makes spans.
    """

    def __init__(  # noqa: PLR0913 - each has its own purpose
        self,
        codec: Codec,
        client: Client,
        rules: Rules,
        defaults: Defaults,
        decided: Decided = lambda _: None,
        *,
        group: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        start: Start | None = None,
        tracing: RecordTracing | None = None,
    ) -> None:
        self._codec = codec
        self._client = client
        self._rules = rules
        self._defaults = defaults
        self._decided = decided
        self._group = group
        self._mapper = Mapper(codec, rules.max_request_bytes, tracing)
        self._clock = clock
        self._start = start
        self._turns = Turns()
        self._sites = Sites()
        self._registry_tally = Tally()
        self._is_readable: dict[str, bool] = {}  # by topic, whether one of its records could be read

    def use(self, defaults: Defaults) -> None:
        """Use other credentials and parameters from now on, also for undecided events. Any thread may call this."""
        self._defaults = defaults

    def handle(self, chunk: Chunk[Work], still_ours: Callable[[], bool]) -> Done[Work] | Retry[Work]:
        """Try the chunk once; blocks until its requests are answered."""
        chunk.attempts += 1
        defaults = self._defaults
        if chunk.work is None or (chunk.attempts == 1 and chunk.work.defaults is not defaults):
            chunk.work = Work(defaults)
        work = chunk.work
        working: set[str] = set()
        try:
            with self._turns.one():
                for record in chunk.records[len(work.drafts) :]:
                    work.drafts.append(self._with_success(self._draft(record, defaults, work, working)))
            if lacking := self._lacks_registry(work.drafts, working):
                return Retry(chunk, lacking, frozenset(working))
            attempt = self._attempt(chunk, defaults, still_ours, working)
            settled = attempt.settle()
            parting = Parting(chunk, defaults, lambda site_id: self._sites.is_slow(site_id, self._clock()))
            going = [draft for draft in work.drafts if parting.may_go(draft)]
            events = [event for draft in going for event in draft.events]
            troubles = self._send(events, attempt, settled)
            if chunk.behind is None and any(event.outcome is None for event in events):
                return Retry(chunk, next(iter(troubles.values())), frozenset(working))
            decided = [draft for draft in going if parting.is_decided(draft, troubles)]
            with self._turns.one():
                outputs = self._outputs(decided, chunk.attempts)
            self._decided(_outcomes(event for draft in decided for event in draft.events))
            if work.waits_for_registry:
                working.add(REGISTRY)
            return Done(chunk, outputs, frozenset(working), parting.apart(work, troubles))
        except RegistryUnavailable as error:
            _await_pending(work)
            work.waits_for_registry = True
            trouble = Trouble(REGISTRY, "registry", str(error), isolating=REGISTRY in working)
            return Retry(chunk, trouble, frozenset(working))
        except Exception:
            _await_pending(work)  # these records come again without their work
            raise

    def prepare(self, chunk: Chunk[Work]) -> None:
        """Make the drafts of a chunk in advance, up to one for which the registry is not available now."""
        chunk.work = work = Work(self._defaults)
        with suppress(RegistryUnavailable), self._turns.one():
            for record in chunk.records:
                work.drafts.append(self._with_success(self._mapper.draft(record, work.defaults)))

    def _with_success(self, draft: Draft) -> Draft:
        """Encode the likeliest result of a draft in advance. Raises RegistryUnavailable."""
        draft.success = results.success(draft, self._codec, self._group)
        return draft

    def _outputs(self, drafts: Sequence[Draft], attempts: int) -> list[Output]:
        return [results.output(draft, attempts, self._codec, self._group) for draft in drafts]

    def _draft(self, record: Record, defaults: Defaults, work: Work, working: set[str]) -> Draft:
        """Make a draft of a record. Raises RegistryUnavailable if its schema may be available later."""
        try:
            return self._mapper.draft(record, defaults)
        except IdUnavailable as error:
            if not self._is_at_fault(error, work, working):
                raise
        return self._mapper.draft(record, defaults)

    def _lacks_registry(self, drafts: Sequence[Draft], working: set[str]) -> Trouble | None:
        """Return the trouble if no registry is set, and no record of the topic could be read without one.

        An operator must fix that. But once one record of the topic could be read, a record that can't be read is
        itself at fault.
        """
        topic = drafts[0].record.topic
        was_readable, waits_for = self._is_readable.get(topic), f"{REGISTRY} for {topic}"
        if was_readable:
            return None
        if any(draft.is_read for draft in drafts):
            self._is_readable[topic] = True
            if was_readable is False:
                working.add(waits_for)
            return None
        needing = next((draft for draft in drafts if draft.needs_registry), None)
        if needing is None or needing.fault is None:
            return None
        self._is_readable[topic] = False
        why = f"{needing.record.place}: {needing.fault.message}"
        message = f"{topic} needs a Schema Registry; set CONSUMER_SCHEMA_REGISTRY_URL, and restart ({why})"
        return Trouble(waits_for, "registry", message, held=True)

    def _is_at_fault(self, error: IdUnavailable, work: Work, working: set[str]) -> bool:
        """Return whether the id itself is at fault. If so, give it up.

        The rule is the same as for events: the id fails again and again while other ids work. Requests
        for ids are rare, so this asks for another id to see whether the registry works.
        """
        tally, schema_id = self._registry_tally, error.schema_id
        suspicion = work.suspect_ids.setdefault(schema_id, Suspicion.of(tally))
        tally.failed += 1
        if self._codec.serves_others(schema_id):
            tally.succeeded += 1
            working.add(REGISTRY)
        else:
            tally.failed += 1
        if not suspicion.failed_again(tally, self._rules.max_attempts):
            return False
        self._codec.give_up(schema_id, f"{error}, {suspicion.alone} times for this id while other ids worked")
        return True

    def give_up(self, chunk: Chunk[Work], error: Exception) -> Output:
        """Make a dead letter of the one record of a chunk whose handling raises; raises RegistryUnavailable.

        The error's own text is left out: it may quote anything.
        """
        message = f"the message could not be handled: {type(error).__name__}"
        draft = Draft(chunk.records[0], fault=Fault("internal", message))
        return results.output(draft, chunk.attempts, self._codec, self._group)

    def brief(self, output: Output) -> Output:
        """Make a smaller result, with shorter quotes."""
        return results.brief(output, self._codec)

    def _attempt(
        self, chunk: Chunk[Work], defaults: Defaults, still_ours: Callable[[], bool], working: set[str]
    ) -> Attempt:
        work = chunk.work or Work(self._defaults)
        is_new = chunk.behind is not None and not chunk.strand  # others wait for it, and it may be split
        return Attempt(
            self._client,
            self._rules,
            defaults,
            work.limits,
            work.tallies,
            work.pending,
            still_ours,
            self._sites,
            self._clock,
            self._start if is_new else None,
            working,
        )

    def _send(
        self, events: Sequence[Outgoing], attempt: Attempt, settled: Mapping[str, Trouble]
    ) -> dict[str, Trouble]:
        """Send undecided events, those of failing sites last. Returns the trouble of each site.

        `settled` has the sites whose pending request from an earlier try failed: nothing more is sent to them now.
        """
        troubles = dict(settled)
        sites = by_site(events, attempt.defaults.site)
        attempt.send(sorted(sites, key=lambda runs: self._sites.is_failing(runs[0][0].site_id)), troubles)
        return troubles

    def give_up_suspects(self, chunk: Chunk[Work], message: str, still_wanted: Callable[[], bool]) -> bool:
        """Give up events that fail alone while their site works, or whose site fails while another works.

        It sends each of these sites one probe, because no other requests may show which of them work. Returns
        whether any event was given up. Blocks until the probes are answered, or no longer `still_wanted`.
        """
        work = chunk.work or Work(self._defaults)
        attempt = self._attempt(chunk, self._defaults, still_wanted, set())
        undecided = [event for event in work.events if event.outcome is None]
        probed: dict[Site, bool] = {}

        def works(site: Site) -> bool:
            if site not in probed:
                probed[site] = still_wanted() and isinstance(self._client.send(site, [PROBE]), Answered)
            return probed[site]

        for event in undecided:
            site = self._defaults.site(event.credentials)
            if event.suspicion and works(site):
                event.outcome = Fault(FAILING, f"{message}, again and again, only for this event")
            elif self._sites.is_failing(site.site_id) and not self._defaults.knows(site.site_id):
                other = attempt.elsewhere(site.site_id)
                if other and works(other):
                    event.outcome = Fault(FAILING, f"{message}, again and again, only for this site")
        return any(event.outcome for event in undecided)


def _await_pending(work: Work) -> None:
    """Wait for the requests that are pending. A chunk that is retried as a whole must not have any."""
    for pending in work.pending.values():
        with suppress(Exception):
            pending.call.result()


def _outcomes(events: Iterable[Outgoing]) -> Counter[tuple[str, str]]:
    """Count decided events by kind and outcome."""
    return Counter(
        (event.kind.name, event.outcome.kind if isinstance(event.outcome, Fault) else "accepted")
        for event in events
    )
