"""One try of a chunk's events at the API: requests packed in order, refusals bisected, suspects isolated.

Order per key holds: an event is sent only when each earlier one of its key is decided, or goes ahead of it in
the same request. Within a request the API takes one array after the other; so where a later event of a key
stands in an earlier array, it waits for the next request.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from consumer.chunk import Chunk, Credentials, Fault, Outgoing
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


@dataclass(frozen=True, slots=True)
class Rules:
    """Bounds of sending: a request's bytes, and the tries of an event that fails alone while others pass."""

    max_request_bytes: int
    max_attempts: int


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

    `served` collects the sites that went through a request of it.

    `served_at` tells, over all chunks, when a site last took an event in: the proof that it serves others.
    """

    client: Client
    rules: Rules
    own: Credentials
    chunk: Chunk
    is_ours: Callable[[], bool]
    clock: Callable[[], float]
    served_at: dict[str, float]
    served: set[str] = field(default_factory=set)

    def send(self, site: Site, events: Sequence[Outgoing]) -> Trouble | None:
        """Send the events of one site, in order; blocks. Gives what stands in the way of those undecided."""
        queue = deque(events)
        suspects: list[Outgoing] = []
        trouble: Trouble | None = None
        while group := self._next_request(site, queue, {event.key for event in suspects}):
            if not self.is_ours():
                trouble = Trouble(site.site_id, "not-ours", "the partition was taken away meanwhile")
                break
            answer = self.client.send(site, [event.document for event in group])
            match answer:
                case Answered(items):
                    passing = self._decide(site, group, items)
                    suspects += passing
                    if passing:
                        trouble = Trouble(site.site_id, "item", f"the API said of an item: {_said(items)}")
                    if len(passing) == len(group):
                        break
                case Refused(problem) if len(group) == 1:
                    self.served.add(site.site_id)
                    group[0].outcome = Fault("refused", problem)
                case Refused():
                    queue.extendleft(reversed(group))
                    self.chunk.limits[site.site_id] = len(group) // 2
                case Forbidden(error_type):
                    trouble = self._forbidden(site, error_type, [*group, *queue])
                    break
                case Failed():
                    trouble = Trouble(site.site_id, answer.cause, answer.problem, answer.retry_after)
                    if answer.cause == _THROTTLED:
                        break
                    # A smaller request tells more: whether it is the API that fails, or one event in it.
                    self.chunk.limits[site.site_id] = max(1, len(group) // 2)
                    if len(group) > 1 or (suspects and site.site_id not in self.served):
                        break
                    suspects += group
        if trouble is None:
            return None
        self._suspect(site, suspects, trouble.problem)
        isolating = any(event.failures for event in suspects)
        return Trouble(site.site_id, trouble.cause, trouble.problem, trouble.retry_after, trouble.held, isolating)

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
                event.failures
                or len(group) >= limit
                or size > self.rules.max_request_bytes
                or rank < ranks.get(event.key, 0)
            ):
                break
            group.append(queue.popleft())
            ranks[event.key] = rank
            if event.failures:
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
        if len(passing) < len(group):
            self.served.add(site.site_id)
            self.served_at[site.site_id] = self.clock()
            self.chunk.limits.pop(site.site_id, None)
        return passing

    def _forbidden(self, site: Site, error_type: str, events: Sequence[Outgoing]) -> Trouble | None:
        """Hold where the credentials are ours to mend; what a message brought itself is at fault for good."""
        ours = site.access_token == self.own.access_token
        if error_type != "invalid_token":
            ours = ours and site.site_id == self.own.site_id
        problem = f"the API refused the access token for site {site.site_id}: {error_type}"
        if ours:
            return Trouble(site.site_id, error_type, problem, held=True)
        self.served.add(site.site_id)
        for event in events:
            event.outcome = Fault("forbidden", problem)
        return None

    def _suspect(self, site: Site, suspects: Sequence[Outgoing], problem: str) -> None:
        """Count the failures of events that failed alone, if there is proof that others pass meanwhile."""
        for event in suspects:
            served_since = event.failed_at and self.served_at.get(site.site_id, 0.0) > event.failed_at
            if served_since or site.site_id in self.served:
                event.failures += 1
            event.failed_at = self.clock()
            if event.failures >= self.rules.max_attempts:
                event.outcome = Fault(
                    "failing", f"{problem}, {event.failures} times for this event alone while others passed"
                )


def by_site(events: Sequence[Outgoing], resolved: Callable[[Credentials], Site]) -> Mapping[Site, list[Outgoing]]:
    """Sort undecided events by the site they go to, in order."""
    sites: dict[Site, list[Outgoing]] = {}
    for event in events:
        if event.outcome is None:
            sites.setdefault(resolved(event.credentials), []).append(event)
    return sites


def _said(items: Sequence[Item]) -> str:
    return next(item.problem for item in items if isinstance(item, Passing))
