"""One try of a chunk's events at the API: requests packed in order, refusals bisected, suspects isolated.

Order per key holds: an event is sent only when each earlier one of its key is decided, or goes ahead of it in
the same request. Within a request the API takes one array after the other; so where a later event of a key
stands in an earlier array, it waits for the next request.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from consumer.chunk import Chunk, Credentials, Fault, Outgoing, Suspicion
from jirafe.client import (
    BATCH_OVERHEAD,
    Accepted,
    Answered,
    Client,
    Failed,
    Forbidden,
    Item,
    Passing,
    Refused,
    Rejected,
    Site,
)

_RANK = {"cart": 0, "order": 1, "category": 2}
_THROTTLED = "429"
_MOST_SUSPECTS = 10
_HARDLY = 0.001


@dataclass(frozen=True, slots=True)
class Rules:
    """Bounds of sending: a request's bytes, and the tries of an event that fails alone while others pass."""

    max_request_bytes: int
    max_attempts: int


@dataclass(slots=True)
class Tally:
    """How many requests of a site passed and failed so far. Threads may add at once: it need not be exact."""

    passed: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why events are left undecided.

    `waits_for` names what failed: a site, or the schema registry. `cause` is a short name to count by.
    `retry_after` is in seconds, where the API asked for it. `held` marks what no waiting mends, only an
    operator: credentials of our settings were refused. `isolating` marks an event under suspicion, which
    keeps to its own backoff even while the site serves others.
    """

    waits_for: str
    cause: str
    problem: str
    retry_after: float | None = None
    held: bool = False
    isolating: bool = False


@dataclass(slots=True)
class Attempt:
    """One try of one chunk, for as long as its partition `is_ours`.

    `served` collects the sites that went through a request of it. `tallies` counts, over all chunks, what each
    site passed and failed: the proof that it serves others.
    """

    client: Client
    rules: Rules
    own: Credentials
    chunk: Chunk
    is_ours: Callable[[], bool]
    tallies: dict[str, Tally]
    served: set[str] = field(default_factory=set)

    def send(self, site: Site, events: Sequence[Outgoing]) -> Trouble | None:
        """Send the events of one site, in order; blocks. Gives what stands in the way of those undecided."""
        queue = deque(events)
        suspects: list[Outgoing] = []
        trouble: Trouble | None = None
        tally = self.tallies.setdefault(site.site_id, Tally())
        before = Suspicion(tally.passed, tally.failed, tally.passed)
        while group := self._next_request(site, queue, {event.key for event in suspects}):
            if not self.is_ours():
                trouble = Trouble(site.site_id, "not-ours", "the partition was taken away meanwhile")
                break
            stop = False
            answer = self.client.send(site, [event.document for event in group])
            match answer:
                case Answered(items):
                    passing = self._decide(site, group, items)
                    if passing:
                        suspects += passing
                        trouble = Trouble(site.site_id, "item", f"the API said of an item: {_said(items)}")
                        stop = site.site_id not in self.served
                case Refused(problem) if len(group) == 1:
                    self.served.add(site.site_id)
                    group[0].outcome = Fault("refused", problem)
                case Refused():
                    queue.extendleft(reversed(group))
                    self.chunk.limits[site.site_id] = len(group) // 2
                case Forbidden(error_type):
                    trouble = self._forbidden(site, error_type, [*group, *queue]) or trouble
                    stop = True
                case Failed(_, problem, _, is_final) if is_final and len(group) == 1 and not self._is_own(site):
                    # Of a site that a message names, with a token that it brings: no operator can mend that.
                    group[0].outcome = Fault("refused", problem)
                case Failed(cause, problem, retry_after):
                    trouble = Trouble(site.site_id, cause, problem, retry_after)
                    stop = self._failed(site, group, cause, suspects)
            if stop or len(suspects) >= _MOST_SUSPECTS:
                break
        if trouble is None:
            return None
        self._suspect(suspects, trouble.problem, tally, before)
        isolating = any(event.suspicion and event.suspicion.counted for event in suspects)
        return Trouble(site.site_id, trouble.cause, trouble.problem, trouble.retry_after, trouble.held, isolating)

    def _failed(self, site: Site, group: Sequence[Outgoing], cause: str, suspects: list[Outgoing]) -> bool:
        """Note a request that failed; tells whether to stop here. An event that failed alone is a suspect."""
        if cause == _THROTTLED:
            return True
        self.tallies[site.site_id].failed += 1
        # A smaller request tells more: whether it is the API that fails, or one event in it.
        self.chunk.limits[site.site_id] = max(1, len(group) // 2)
        if len(group) > 1 or (suspects and site.site_id not in self.served):
            return True
        suspects += group
        return False

    def _next_request(self, site: Site, queue: deque[Outgoing], blocked: set[str]) -> list[Outgoing]:
        """Take from the queue what goes in one request; events of blocked keys are left undecided."""
        limit = self.chunk.limits.get(site.site_id, len(queue))
        group: list[Outgoing] = []
        ranks: dict[str, int] = {}
        size = BATCH_OVERHEAD
        while queue:
            event = queue[0]
            if event.key in blocked:
                queue.popleft()
                continue
            size += len(event.document.json) + 1
            rank = _RANK[event.document.array]
            if group and (
                event.suspicion
                or len(group) >= limit
                or size > self.rules.max_request_bytes
                or rank < ranks.get(event.key, 0)
            ):
                break
            group.append(queue.popleft())
            ranks[event.key] = rank
            if event.suspicion:
                break
        return group

    def _decide(self, site: Site, group: Sequence[Outgoing], items: Sequence[Item]) -> list[Outgoing]:
        """Note what became of each event; gives those that the API could not take now.

        Later events of their keys stay undecided, whatever became of them: they are sent again behind.
        """
        passing: list[Outgoing] = []
        blocked: set[str] = set()
        for event, item in zip(group, items, strict=True):
            if event.key in blocked:
                continue
            match item:
                case Accepted():
                    event.outcome = item
                case Rejected(problem):
                    event.outcome = Fault("rejected", problem)
                case Passing():
                    passing.append(event)
                    blocked.add(event.key)
        if any(event.outcome is not None for event in group):
            self.served.add(site.site_id)
            self.tallies[site.site_id].passed += 1
            self.chunk.limits.pop(site.site_id, None)
        if passing:
            self.tallies[site.site_id].failed += 1
        return passing

    def _forbidden(self, site: Site, error_type: str, events: Sequence[Outgoing]) -> Trouble | None:
        """Hold where the credentials are ours to mend; what a message brought itself is at fault for good."""
        ours = self._is_own(site) if error_type != "invalid_token" else site.access_token == self.own.access_token
        problem = f"the API refused the access token for site {site.site_id}: {error_type}"
        if ours:
            return Trouble(site.site_id, error_type, problem, held=True)
        for event in events:
            event.outcome = Fault("forbidden", problem)
        return None

    def _is_own(self, site: Site) -> bool:
        return site == Site(self.own.site_id or "", self.own.access_token or "")

    def _suspect(self, suspects: Sequence[Outgoing], problem: str, tally: Tally, before: Suspicion) -> None:
        """Note that events failed alone, and give up those that are at fault themselves.

        A try counts if others passed since the one before. It takes `max_attempts` that count, and that so many
        failures in a row could hardly be chance, as often as others failed meanwhile: an API that fails most of
        what it gets is not the event's fault, and one that fails all of it never is.
        """
        for event in suspects:
            suspicion = event.suspicion = event.suspicion or replace(before)
            suspicion.alone += 1
            suspicion.counted += tally.passed > suspicion.seen
            suspicion.seen = tally.passed
            passed = tally.passed - suspicion.passed
            failed = max(0, tally.failed - suspicion.failed - suspicion.alone)
            by_chance = (failed / (passed + failed)) ** suspicion.counted if passed else 1.0
            if suspicion.counted >= self.rules.max_attempts and by_chance < _HARDLY:
                event.outcome = Fault(
                    "failing", f"{problem}, {suspicion.alone} times for this event alone while others passed"
                )


def by_site(
    events: Sequence[Outgoing], resolved: Callable[[Credentials], Site]
) -> Iterable[list[tuple[Site, list[Outgoing]]]]:
    """Sort undecided events by the id of the site they go to, and there in runs of the same token.

    The runs of one site are to be sent one after the other: an event's key may be in each of them.
    """
    sites: dict[str, list[tuple[Site, list[Outgoing]]]] = {}
    for event in events:
        if event.outcome is None:
            site = resolved(event.credentials)
            runs = sites.setdefault(site.site_id, [])
            if not runs or runs[-1][0] != site:
                runs.append((site, []))
            runs[-1][1].append(event)
    return sites.values()


def _said(items: Sequence[Item]) -> str:
    return next(item.problem for item in items if isinstance(item, Passing))
