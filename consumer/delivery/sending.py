"""One try of a chunk's events at the API: requests packed in order, refusals bisected, suspects isolated.

The order per key is kept: an event is sent only if each earlier event of its key is decided, or comes before it in
the same request. The API processes the arrays of a request one after the other. So if an event belongs in an array
before that of an earlier event of its key, it waits for the next request.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

from consumer.delivery.calls import Call, Start
from consumer.delivery.defaults import Credentials, Defaults
from consumer.delivery.suspicion import Sites, SiteTally, Suspicion
from consumer.delivery.work import Fault, Outgoing, Pending
from consumer.engine.ports import Trouble
from consumer.engine.records import FAILING
from jirafe.client import (
    BATCH_OVERHEAD,
    PROBE,
    Accepted,
    Answer,
    Answered,
    Client,
    Failed,
    Forbidden,
    Item,
    Refused,
    Rejected,
    Site,
    Transient,
)

_RANK = {"cart": 0, "order": 1, "category": 2, "product": 3}
_THROTTLED = "429"
UNREACHED = ("timeout", "connection")
"""Causes of trouble after which nothing more is sent for a while: the API is unreachable or hangs."""
_LONGEST_IN_VAIN = 30.0
"""Seconds of failed requests after which a try sends nothing more, unless one succeeded."""
_MOST_SUSPECTS = 10
SIDE_BY_SIDE = 4
"""How many requests of one chunk run in parallel, each to another site."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits of sending: the bytes of a request, and the tries of an event that fails alone while others succeed.

    A site that is not in the settings is given up only if it also fails for `patience` seconds while others work.
    """

    max_request_bytes: int
    max_attempts: int
    patience: float


class _NotOurs(Exception):
    """The partition is no longer ours, so nothing is sent for it."""


SiteRuns = list[tuple[Site, list[Outgoing]]]
"""The events of one site, in runs with the same token."""


def _not_ours(site: Site) -> Trouble:
    return Trouble(site.site_id, "not-ours", "the partition was revoked in the middle of a chunk")


@dataclass(slots=True)
class _Run:
    """The events of one site that are being sent. `queue` has those not sent yet in this try.

    `own` are the credentials of the settings. `before` has the site's totals from before the run. `suspects` has
    the events that failed alone, with messages.
    """

    site: Site
    own: Credentials
    queue: deque[Outgoing]
    tally: SiteTally
    before: Suspicion
    suspects: list[tuple[Outgoing, str]] = field(default_factory=list)
    trouble: Trouble | None = None
    is_stopped: bool = False

    def met(self, cause: str, message: str, retry_after: float | None = None) -> None:
        """Note a trouble of this run."""
        self.trouble = Trouble(self.site.site_id, cause, message, retry_after)


@dataclass(slots=True)
class Attempt:
    """One try of one chunk, for as long as its partition is `still_ours`.

    `limits`, `tallies` and `pending` are the chunk's (see `Work`), by site. `start` lets another thread make a
    request, so that a slow one can be left pending; None if this try waits for all answers. `sites` counts
    successes and failures over all chunks, to tell whether other sites work. `clock` gives monotonic seconds.
    `working` collects the sites that processed a request. `flying` has the calls that this try waits for.
    `in_vain` sums the seconds of requests that failed.
    """

    client: Client
    rules: Rules
    defaults: Defaults
    limits: dict[str, int]
    tallies: dict[str, SiteTally]
    pending: dict[str, Pending]
    still_ours: Callable[[], bool]
    sites: Sites
    clock: Callable[[], float]
    start: Start | None = None
    working: set[str] = field(default_factory=set)
    flying: list[Call] = field(default_factory=list)
    in_vain: float = 0.0

    def settle(self) -> dict[str, Trouble]:
        """Read the answers to the requests that an earlier try left pending. Blocks until they arrive.

        Returns the trouble of each site whose events stay undecided.
        """
        troubles: dict[str, Trouble] = {}
        for site_id in list(self.pending):
            pending = self.pending.pop(site_id)
            run = self._begin(pending.site, pending.own, ())
            try:
                answer = pending.call.result()
            except _NotOurs:
                troubles[site_id] = _not_ours(pending.site)
                continue
            self._read(run, pending.events, answer)
            if trouble := self._end(run, pending.events):
                troubles[site_id] = trouble
        return troubles

    def send(self, sites: Iterable[SiteRuns], troubles: dict[str, Trouble]) -> None:
        """Send events: those of one site in order, those of different sites in parallel. Blocks.

        Adds the trouble of each site whose events stay undecided to `troubles`. There is none if they stay
        undecided because a request is pending, or none was sent. Nothing is sent to sites that are in `troubles`
        already. Once the API can't be reached, or seems to fail slowly for all sites, no further request begins:
        otherwise each would take as long.
        """
        waiting = (self._course(runs, troubles) for runs in sites)
        going: list[Generator[Literal[True]]] = []
        try:
            while going := [*going, *islice(waiting, SIDE_BY_SIDE - len(going))]:
                going = [course for course in going if next(course, False)]
        finally:
            for call in self.flying:  # there are none, unless an exception ends this
                with suppress(Exception):
                    call.result()

    def _course(self, runs: SiteRuns, troubles: dict[str, Trouble]) -> Generator[Literal[True]]:
        """Send the events of one site. Yields while it waits for an answer, so that other sites can send theirs."""
        for site, events in runs:
            if site.site_id in troubles or site.site_id in self.pending:
                return  # a later run may have a later event of the same key
            if trouble := (yield from self._send(site, events, troubles)):
                troubles[site.site_id] = trouble

    def _send(
        self, site: Site, events: Sequence[Outgoing], troubles: Mapping[str, Trouble]
    ) -> Generator[Literal[True], None, Trouble | None]:
        """Send one run of events. Returns the trouble of those that stay undecided.

        Suspects, and later events of their keys, go last, so they can't keep the other events from being sent.
        """
        if not site.access_token:  # there was a token when the events were made
            message = (
                f"no access token is set any more for site {site.site_id}; see JIRAFE_ACCESS_TOKEN, JIRAFE_SITES"
            )
            return Trouble(site.site_id, "no-token", message, held=True)
        suspected = {event.key for event in events if event.suspicion}
        in_turn = sorted(events, key=lambda event: event.key in suspected)
        run = self._begin(site, self.defaults.credentials, in_turn)
        while not (run.is_stopped or self._is_over(troubles)) and (group := self._next_request(run)):
            begun, request = self.clock(), self._request(run, group)
            call = self.start(request) if self.start and self.sites.are_several and not run.suspects else None
            if call:
                self.flying.append(call)
                yield True
            try:
                answer = self._wait(run, group, call, begun) if call else request()
            except _NotOurs:
                return _not_ours(site)
            if answer is None:
                break
            if isinstance(answer, Failed):
                self.in_vain += self.clock() - begun
            self._read(run, group, answer)
            run.is_stopped = run.is_stopped or len(run.suspects) >= _MOST_SUSPECTS
        return self._end(run, events)

    def _is_over(self, troubles: Mapping[str, Trouble]) -> bool:
        """Return whether no further request of this try may begin."""
        if any(trouble.cause in UNREACHED for trouble in troubles.values()):
            return True
        return bool(troubles) and not self.working and self.in_vain > _LONGEST_IN_VAIN

    def _begin(self, site: Site, own: Credentials, events: Iterable[Outgoing]) -> _Run:
        tally = self.tallies.setdefault(site.site_id, self.sites.of(site.site_id))
        return _Run(site, own, deque(events), tally, Suspicion.of(tally))

    def _request(self, run: _Run, group: Sequence[Outgoing]) -> Callable[[], Answer]:
        """Note that a request begins, and make the function that sends it, which raises _NotOurs.

        Whether the partition is still ours is asked by the thread that sends, right before.
        """
        tally, documents = run.tally, [event.document for event in group]
        tally.asked = begun = self.clock()  # set now, so that a request that is left pending counts as slow at once

        def request() -> Answer:
            if not self.still_ours():
                tally.asked = None
                raise _NotOurs
            try:
                return self.client.send(run.site, documents)
            finally:
                self.sites.took(tally, self.clock() - begun)

        return request

    def _wait(self, run: _Run, group: list[Outgoing], call: Call, begun: float) -> Answer | None:
        """Wait for the answer to a request. Returns None if it is slow, and leaves it pending. Raises _NotOurs."""
        try:
            return call.result(max(0.0, begun + self.sites.patience - self.clock()))
        except TimeoutError:
            if call.done():
                return call.result()
            self.pending[run.site.site_id] = Pending(run.site, run.own, group, call)
            return None
        finally:
            self.flying.remove(call)

    def _end(self, run: _Run, events: Sequence[Outgoing]) -> Trouble | None:
        """Finish a run after its last request. Returns the trouble of the events that stay undecided."""
        site, tally = run.site, run.tally
        took_something = site.site_id in self.working
        if took_something:
            tally.failing = None
        if run.trouble is None:
            return None
        self._suspect(run)
        # `_suspect` may have sent a probe. An answer to it does not mean that the site accepted an event.
        if not took_something and self._is_site_at_fault(run):
            message = f"{run.trouble.message}, for everything sent to this site, while other sites worked"
            for event in events:
                event.outcome = event.outcome or Fault(FAILING, message)
            return None
        isolating = any(event.suspicion and event.suspicion.counted for event, _ in run.suspects)
        return replace(run.trouble, isolating=isolating)

    def _is_site_at_fault(self, run: _Run) -> bool:
        """Return whether to give up a site that accepted nothing. Sites in the settings are never given up."""
        site_id, trouble = run.site.site_id, run.trouble
        if trouble is None or trouble.held or trouble.cause == _THROTTLED:
            return False
        is_silent = run.tally.failing is not None and run.tally.failing.seen == self.sites.working.succeeded
        if is_silent and not self.defaults.knows(site_id):
            # No other site worked since the last try, perhaps because everything waits for this one: ask
            # another.
            self._ask_elsewhere(site_id)
        is_at_fault = self.sites.failed(run.tally, self.rules.max_attempts, self.rules.patience, self.clock())
        return is_at_fault and not self.defaults.knows(site_id)

    def elsewhere(self, site_id: str) -> Site | None:
        """Return another site, one that did not fail recently; None if there is none."""
        own = self.defaults.site(Credentials(None, None))
        for site in (own, self.sites.last_working):
            if site is None or not (site.site_id and site.access_token) or site.site_id == site_id:
                continue
            if not self.sites.failed_lately(site.site_id, self.clock() - self.rules.patience):
                return site
        return None

    def _ask_elsewhere(self, site_id: str) -> None:
        """Probe another site, and count it if it works. Blocks."""
        site = self.elsewhere(site_id)
        if site and self.still_ours():
            self.sites.working.succeeded += isinstance(self.client.send(site, [PROBE]), Answered)

    def _read(self, run: _Run, group: list[Outgoing], answer: Answer) -> None:
        """Note what an answer says about the events of its request."""
        match answer:
            case Answered(items):
                self._decide(run, group, items)
            case Refused(message) if len(group) == 1:
                self.working.add(run.site.site_id)
                group[0].outcome = Fault("refused", message)
            case Refused():
                run.queue.extendleft(reversed(group))
                self.limits[run.site.site_id] = len(group) // 2
            case Forbidden(error_type):
                self._forbidden(run, error_type, group)
            case Failed(cause, message, retry_after):
                run.met(cause, message, retry_after)
                self._failed(run, group, cause, message)

    def _failed(self, run: _Run, group: list[Outgoing], cause: str, message: str) -> None:
        """Note a request that failed. An event that failed alone is a suspect; otherwise the run stops."""
        run.is_stopped = True
        if cause == _THROTTLED:
            return
        run.tally.failed += 1
        # A smaller request shows whether the API fails, or one event.
        self.limits[run.site.site_id] = max(1, len(group) // 2)
        if len(group) == 1 and (not run.suspects or run.site.site_id in self.working):
            run.suspects.append((group[0], message))
            run.is_stopped = cause in UNREACHED

    def _next_request(self, run: _Run) -> list[Outgoing]:
        """Take the events of the next request from the queue; later events of a suspect's key stay undecided."""
        limit = self.limits.get(run.site.site_id, len(run.queue))
        blocked = {event.key for event, _ in run.suspects}
        group: list[Outgoing] = []
        ranks: dict[str, int] = {}
        size = BATCH_OVERHEAD
        while run.queue and len(group) < limit:
            event = run.queue[0]
            if event.key in blocked:
                run.queue.popleft()
                continue
            size += len(event.document.json) + 1
            rank = _RANK[event.document.array]
            is_full = size > self.rules.max_request_bytes or rank < ranks.get(event.key, 0)
            if group and (is_full or event.suspicion):
                break
            group.append(run.queue.popleft())
            ranks[event.key] = rank
            if event.suspicion:
                break  # a suspect is sent alone
        return group

    def _decide(self, run: _Run, group: Sequence[Outgoing], items: Sequence[Item]) -> None:
        """Note the outcome of each event of a batch that the API processed.

        An event that the API could not take for now is a suspect. Later events of its key stay undecided, even if
        the API took them: they are sent again after it.
        """
        site_id = run.site.site_id
        waiting: list[tuple[Outgoing, str]] = []
        blocked: set[str] = set()
        for event, item in zip(group, items, strict=True):
            if event.key in blocked:
                continue
            match item:
                case Accepted():
                    event.outcome = item
                case Rejected(why):
                    event.outcome = Fault("rejected", why)
                case Transient(why):
                    waiting.append((event, f"the API says of this event: {why}"))
                    blocked.add(event.key)
        if any(event.outcome is not None for event in group):
            self.working.add(site_id)
            run.tally.succeeded += 1
            if site_id in self.limits:
                # Not at once to the full size: perhaps it was a proxy that refused larger requests.
                self.limits[site_id] *= 2
        if any(isinstance(event.outcome, Accepted) for event in group):
            self.sites.succeeded(run.site, run.tally)
        if waiting:
            run.tally.failed += 1
            run.suspects += waiting
            run.met("item", waiting[0][1])
            run.is_stopped = site_id not in self.working

    def _forbidden(self, run: _Run, error_type: str, group: Sequence[Outgoing]) -> None:
        """Wait for an operator if the refused credentials come from the settings. Otherwise the messages fail."""
        site, run.is_stopped = run.site, True
        is_our_token = site.access_token == run.own.access_token
        ours = is_our_token and (error_type == "invalid_token" or self.defaults.knows(site.site_id))
        message = f"the API refused the access token for site {site.site_id}: {error_type}"
        if ours:
            run.trouble = Trouble(site.site_id, error_type, message, held=True)
            return
        for event in (*group, *run.queue):
            event.outcome = Fault("forbidden", message)

    def _suspect(self, run: _Run) -> None:
        """Note that events failed alone, and give up those that are at fault themselves."""
        suspicions = [event.suspicion or replace(run.before, since=self.clock()) for event, _ in run.suspects]
        silent = [each for each in suspicions if each.alone and each.seen == run.tally.succeeded]
        # Nothing succeeded at this site since the last try, perhaps because only suspects are left: send a probe.
        if silent and self.still_ours() and isinstance(self.client.send(run.site, [PROBE]), Answered):
            run.tally.succeeded += 1
            self.working.add(run.site.site_id)
            for suspicion in silent:
                suspicion.is_probed = True
        for (event, message), suspicion in zip(run.suspects, suspicions, strict=True):
            event.suspicion = suspicion
            is_at_fault = suspicion.failed_again(run.tally, self.rules.max_attempts)
            if is_at_fault and (not suspicion.is_probed or self.clock() - suspicion.since >= self.rules.patience):
                tries = event.suspicion.alone
                event.outcome = Fault(
                    FAILING, f"{message}, {tries} times for this event alone while others succeeded"
                )


def by_site(events: Sequence[Outgoing], resolved: Callable[[Credentials], Site]) -> Iterable[SiteRuns]:
    """Group undecided events by the id of their site, and within a site in runs with the same token.

    The runs of one site must be sent one after the other: several may have events of the same key.
    """
    sites: dict[str, SiteRuns] = {}
    for event in events:
        if event.outcome is None:
            site = resolved(event.credentials)
            runs = sites.setdefault(site.site_id, [])
            if not runs or runs[-1][0] != site:
                runs.append((site, []))
            runs[-1][1].append(event)
    return sites.values()
