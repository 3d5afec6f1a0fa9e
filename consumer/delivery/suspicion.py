"""Decides what causes a failure: the event, a site that is not in the settings, or the API."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from jirafe.client import Site

_HARDLY = 0.001
_MOST_SITES = 10_000
# A request is slow if it takes longer than this many seconds, and longer than this many times the usual time.
_QUICK = 0.5
_SLOW = 4
_WEIGHT = 0.05


@dataclass(slots=True)
class Tally:
    """How many requests succeeded and failed so far. Threads may add at once: it need not be exact."""

    succeeded: int = 0
    failed: int = 0


@dataclass(slots=True)
class Suspicion:
    """What is known about an event that fails alone, or about a site where everything fails.

    `succeeded` and `failed` are the tally's counts when the suspicion began, at time `since`. `seen` is how many
    had succeeded at the last try. `alone` counts all tries. `counted` counts a try only if others succeeded since
    the previous one. `is_probed` tells that some of those successes were only probes. Probes prove less, so
    `patience` must pass too.
    """

    succeeded: int
    failed: int
    seen: int
    alone: int = 0
    counted: int = 0
    since: float = 0.0
    is_probed: bool = False

    @classmethod
    def of(cls, tally: Tally) -> "Suspicion":
        """Begin with the current counts."""
        return cls(tally.succeeded, tally.failed, tally.succeeded)

    def failed_again(self, tally: Tally, max_attempts: int) -> bool:
        """Note a failed try, which the tally counts too. Returns whether the event or site is the cause.

        A try counts if others succeeded since the previous try. The event or site is the cause after `max_attempts`
        tries that count, if so many failures in a row are very unlikely, given how often others failed meanwhile.
        So an event is not blamed while the API fails most requests, and never while it fails all.
        """
        self.alone += 1
        self.counted += tally.succeeded > self.seen
        self.seen = tally.succeeded
        succeeded = tally.succeeded - self.succeeded
        failed = max(0, tally.failed - self.failed - self.alone)
        by_chance = (failed / (succeeded + failed)) ** self.counted if succeeded else 1.0
        return self.counted >= max_attempts and by_chance < _HARDLY


@dataclass(slots=True)
class SiteTally(Tally):
    """How one site answered its requests. `failing` is set while all its requests fail.

    `since` is the time of its first failure, `failed_at` that of its last. `seconds` is how long its last request
    took. `asked` is when the request that is not answered yet was sent.
    """

    failing: Suspicion | None = None
    since: float = 0.0
    failed_at: float = 0.0
    seconds: float = 0.0
    asked: float | None = None


@dataclass(slots=True)
class Sites:
    """What all chunks know about sites; only the most recently used are kept. Any thread may call.

    `working` counts the requests of sites that work. Failures of a site are added once it works again. So sites
    that do not exist say nothing about the API, even if many messages name one. `usual` is how many seconds a
    request usually takes.
    """

    working: Tally = field(default_factory=Tally)
    usual: float = 0.0
    last_working: Site | None = None
    _tallies: OrderedDict[str, SiteTally] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, site_id: str) -> SiteTally:
        """Return a site's tally. A forgotten site starts from zero."""
        with self._lock:
            tally = self._tallies.setdefault(site_id, SiteTally())
            self._tallies.move_to_end(site_id)
            if len(self._tallies) > _MOST_SITES:
                self._tallies.popitem(last=False)
            return tally

    def is_failing(self, site_id: str) -> bool:
        """Return whether a site fails all its requests now."""
        tally = self._tallies.get(site_id)
        return tally is not None and tally.failing is not None

    def failed_lately(self, site_id: str, since: float) -> bool:
        """Return whether a site fails all its requests, and last failed at `since` or later.

        A site to which nothing is sent may work again without anyone noticing. So an old failure proves nothing.
        """
        tally = self._tallies.get(site_id)
        return tally is not None and tally.failing is not None and tally.failed_at >= since

    def took(self, tally: SiteTally, seconds: float) -> None:
        """Note how long a request took; one slow request moves the usual time only a little."""
        tally.seconds, tally.asked = seconds, None
        self.usual += _WEIGHT * (min(seconds, 2 * self.usual + _QUICK) - self.usual)

    @property
    def are_several(self) -> bool:
        """Whether there is more than one site, so that one could delay another."""
        return len(self._tallies) > 1

    @property
    def patience(self) -> float:
        """The seconds after which a request is slow."""
        return max(_QUICK, _SLOW * self.usual)

    def is_slow(self, site_id: str, now: float) -> bool:
        """Return whether a site takes much longer than usual, so that it would delay others.

        The only site is never slow while it works.
        """
        tally = self._tallies.get(site_id)
        if tally is None or not (self.are_several or tally.failing):
            return False
        taken = tally.seconds if tally.asked is None else max(tally.seconds, now - tally.asked)
        return taken > self.patience

    def succeeded(self, site: Site, tally: SiteTally) -> None:
        """Note that a site accepted an event."""
        if tally.failing:
            self.working.failed += tally.failing.alone
        tally.failing = None
        self.working.succeeded += 1
        self.last_working = site

    def failed(self, tally: SiteTally, max_attempts: int, patience: float, now: float) -> bool:
        """Note a try in which a site accepted nothing. Returns whether the site is the cause, because others work.

        Besides the conditions for an event, `patience` seconds must have passed since its first failure. If nothing
        was tried for twice as long, and the site was not given up before, this counts as its first failure: the
        site may have worked for other members meanwhile.
        """
        untried = now - tally.seconds - tally.failed_at
        is_old = tally.failed_at - tally.since < patience and untried > 2 * patience
        if tally.failing is None or is_old:
            tally.failing, tally.since = Suspicion.of(self.working), now
        tally.failed_at = now
        # Its own failures are not counted with those of sites that work.
        among = Tally(self.working.succeeded, self.working.failed + tally.failing.alone + 1)
        return tally.failing.failed_again(among, max_attempts) and now - tally.since >= patience
