"""The state of the sandbox: its credentials, the events that it received, and the injected faults."""

import random
import threading
from collections import Counter
from collections.abc import Collection, Mapping
from itertools import count, islice
from types import MappingProxyType

from jirafe.sandbox.api import Answer, Call, ReceivedEvent, judge, refusal, transient_error
from jirafe.sandbox.arrivals import Arrival, ArrivalFilter, ArrivalLog, ArrivalVerdict
from jirafe.sandbox.faults import InjectedFaults, Injection, Traits, parse
from jirafe.sandbox.validation import Validator


class Sandbox:
    """The stand-in without its HTTP server. All methods may be called from any thread; none blocks for long.

    Without credentials, it accepts any token and site. The log keeps the last `keep_events` events, and the bodies
    of the last `keep_bodies`. `seed` makes faults with a probability repeatable.
    """

    def __init__(
        self,
        *,
        credentials: Mapping[str, Collection[str]] | None = None,
        keep_events: int = 1_000_000,
        keep_bodies: int = 10_000,
        max_body: int = 10 * 1024 * 1024,
        seed: int = 0,
    ) -> None:
        self.max_body = max_body
        self._validator = Validator()
        self._numbers = count(1)
        self._lock = threading.Lock()  # guards all below
        self._log = ArrivalLog(keep_events, keep_bodies)
        self._requests: Counter[str] = Counter()
        self._faults = InjectedFaults(random.Random(seed))  # noqa: S311 - chance, not cryptography
        self.set_credentials(credentials)

    def set_credentials(self, credentials: Mapping[str, Collection[str]] | None) -> None:
        """Accept only these tokens from now on, each for its sites. None: any token and site."""
        self._credentials = (
            None
            if credentials is None
            else MappingProxyType({token: frozenset(sites) for token, sites in credentials.items()})
        )

    def refuse(self, authorization: str, site: str) -> Answer | None:
        """Return the refusal of a request with this Authorization header, or None if it may pass."""
        scheme, _, token = authorization.partition(" ")
        if scheme != "Bearer" or not token or not token.isascii() or " " in token:
            return refusal(403, "invalid_token", "The request needs a header Authorization: Bearer TOKEN.")
        credentials = self._credentials
        if credentials is None:
            return None
        if token not in credentials:
            return refusal(403, "invalid_token", "The access token is not valid.")
        if site not in credentials[token]:
            return refusal(403, "authorization", f"The access token has no access to the site {site!r}.")
        return None

    def next_request(self) -> int:
        """Return the number of a request that has been read."""
        return next(self._numbers)

    def process(
        self, call: Call, *, site: str, request: int, received: float, failing: Collection[int] = ()
    ) -> Answer:
        """Judge and log the events of a request; those at the places in `failing` end in a transient error."""
        results = [
            transient_error() if place in failing else judge(self._validator, event)
            for place, event in enumerate(call.events)
        ]
        with self._lock:
            for event, result in zip(call.events, results, strict=True):
                self._log.append(self._arrival(event, result, site, request, received), event.text)
        return call.answer(results)

    def _arrival(
        self, event: ReceivedEvent, result: Mapping[str, object], site: str, request: int, received: float
    ) -> Arrival:
        if result["success"]:
            verdict = ArrivalVerdict.ACCEPTED
        else:
            verdict = ArrivalVerdict.REJECTED if result["error_type"] == "validation" else ArrivalVerdict.UNKNOWN
        return Arrival(
            sequence=self._log.next,
            request=request,
            received=received,
            site=site,
            kind=event.kind,
            status=event.status,
            id=event.id,
            digest=event.digest,
            verdict=verdict,
        )

    def count_answer(self, label: str) -> None:
        """Count a request by what became of it: a status, `reset` or `truncated`."""
        with self._lock:
            self._requests[label] += 1

    def events(
        self,
        *,
        site: str | None = None,
        kind: str | None = None,
        event_id: str | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> list[Arrival]:
        """Return the logged events that fit, in order of arrival, from the one after sequence `after` on."""
        with self._lock:
            return list(islice(self._log.find(ArrivalFilter(site, kind, event_id), after), limit))

    def stats(self) -> dict[str, object]:
        """Return counts: events by kind and verdict, requests by status, and the state of the log."""
        with self._lock:
            return {
                "events": self._log.counts(),
                "last_sequence": self._log.last,
                "logged": len(self._log),
                "requests": dict(sorted(self._requests.items())),
            }

    def forget(self) -> None:
        """Forget the logged events and all counts; sequence and request numbers go on."""
        with self._lock:
            self._log.forget()
            self._requests.clear()

    def add_fault(self, description: Mapping[str, object]) -> int:
        """Put a fault in force, described as over HTTP, and return its number. Raises FaultError."""
        fault = parse(description)
        with self._lock:
            return self._faults.add(fault)

    def faults(self) -> list[dict[str, object]]:
        """Return the faults as described, with how often each was applied, and how often it still will be."""
        with self._lock:
            return self._faults.listing()

    def clear_faults(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._faults.clear()

    def choose_fault(self, request: Traits) -> Injection:
        """Return what to do with this request, and count it."""
        with self._lock:
            return self._faults.choose(request)
