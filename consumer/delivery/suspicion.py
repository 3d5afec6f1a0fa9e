"""Whether an event that fails alone is itself at fault, or a site that only messages name, or the API."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from jirafe.client import Site

_HARDLY = 0.001
_MOST_SITES = 10_000
# A request is slow that takes longer than this, in seconds, and so many times what is usual.
_QUICK = 1.0
_SLOW = 4
_WEIGHT = 0.05


@dataclass(slots=True)
class Tally:
    """How many requests succeeded and failed so far. Threads may add at once: it need not be exact."""

    succeeded: int = 0
    failed: int = 0


@dataclass(slots=True)
class Suspicion:
    """What is known of an event that fails alone, or of a site that fails all.

    `succeeded` and `failed` are a tally's counts when it came under suspicion, at the moment `since`, and `seen`
    how many had succeeded at its last try. `alone` counts its tries, `counted` those before which others had
    succeeded meanwhile. `is_probed` tells that some of those were only probes, which show less: they ask for time,
    too.
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
        """Begin with the counts as they are now."""
        return cls(tally.succeeded, tally.failed, tally.succeeded)

    def failed_again(self, tally: Tally, max_attempts: int) -> bool:
        """Note a failed try, which the tally has too; tells whether it is itself at fault.

        A try counts if others succeeded since the one before. It takes `max_attempts` that count, and as many
        failures in a row must be hardly possible by chance, given how often others failed meanwhile: an API that
        fails most of what it gets is not the event's fault, and one that fails all of it never is.
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
    """What one site made of its requests. `failing` is set while it fails all.

    `since` is the moment of its first failure, and `failed_at` that of its last. `seconds` is what its last request
    took, `asked` the moment at which one went out that is not answered yet.
    """

    failing: Suspicion | None = None
    since: float = 0.0
    failed_at: float = 0.0
    seconds: float = 0.0
    asked: float | None = None


@dataclass(slots=True)
class Sites:
    """What all chunks know of sites: of a limited number, those that were asked for last. Any thread may call.

    `serving` counts, over all sites, what those made of their requests that serve: failures count once their site
    has served again. So sites that do not exist say nothing of the API, however many messages name one. `usual` is
    what requests take in general, in seconds.
    """

    serving: Tally = field(default_factory=Tally)
    usual: float = 0.0
    last_served: Site | None = None
    _tallies: OrderedDict[str, SiteTally] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, site_id: str) -> SiteTally:
        """Give a site's tally; one that was forgotten starts from zero."""
        with self._lock:
            tally = self._tallies.setdefault(site_id, SiteTally())
            self._tallies.move_to_end(site_id)
            if len(self._tallies) > _MOST_SITES:
                self._tallies.popitem(last=False)
            return tally

    def is_failing(self, site_id: str) -> bool:
        """Tell whether a site has failed all that it got lately."""
        tally = self._tallies.get(site_id)
        return tally is not None and tally.failing is not None

    def failed_lately(self, site_id: str, since: float) -> bool:
        """Tell whether a site has failed all that it got, and something since a moment of the clock.

        A site with events to send is retried more often than that. A site without any may work again, and nothing
        would show it.
        """
        tally = self._tallies.get(site_id)
        return tally is not None and tally.failing is not None and tally.failed_at >= since

    def took(self, tally: SiteTally, seconds: float) -> None:
        """Note what a request took; one site that is slow does not make it usual."""
        tally.seconds, tally.asked = seconds, None
        self.usual += _WEIGHT * (min(seconds, 2 * self.usual + _QUICK) - self.usual)

    def is_slow(self, site_id: str, now: float) -> bool:
        """Tell whether a site keeps others waiting: it took much longer than is usual.

        Not of one that is alone, and serves.
        """
        tally = self._tallies.get(site_id)
        if tally is None or (len(self._tallies) == 1 and tally.failing is None):
            return False
        taken = tally.seconds if tally.asked is None else max(tally.seconds, now - tally.asked)
        return taken > max(_QUICK, _SLOW * self.usual)

    def served(self, site: Site, tally: SiteTally) -> None:
        """Note that a site took an event in."""
        if tally.failing:
            self.serving.failed += tally.failing.alone
        tally.failing = None
        self.serving.succeeded += 1
        self.last_served = site

    def failed(self, tally: SiteTally, max_attempts: int, patience: float, now: float) -> bool:
        """Note a try in which a site took nothing in; tells whether the site is at fault, while others serve.

        That takes `patience` seconds since its first failure, beside what it takes for an event.
        """
        if tally.failing is None:
            tally.failing, tally.since = Suspicion.of(self.serving), now
        tally.failed_at = now
        # Its own failures are not among those of sites that serve.
        among = Tally(self.serving.succeeded, self.serving.failed + tally.failing.alone + 1)
        return tally.failing.failed_again(among, max_attempts) and now - tally.since >= patience
