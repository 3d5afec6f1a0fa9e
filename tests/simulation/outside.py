"""The simulated outside: the Jirafe API behind the interface of its client, and the Schema Registry."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jirafe.client import (
    PROBE,
    Accepted,
    Answer,
    Answered,
    Client,
    Document,
    Failed,
    Forbidden,
    Item,
    Refused,
    Rejected,
    Site,
    Transient,
)
from schemas.codec import RegistryUnavailable, SchemaId, UnknownSchema
from schemas.writers import Schema
from tests.simulation.clients import Effect
from tests.simulation.kernel import Kernel, Killed, Process, Signal
from tests.simulation.ledger import Ledger, Request
from tests.simulation.workload import (
    GONE_SITE,
    IDS,
    OTHER_SITE,
    OTHER_TOKEN,
    SECOND_TOKEN,
    SITE,
    TOKEN,
    Event,
    Sent,
    own_schema_of,
)

READ_TIMEOUT = 1.5
_MOST_ALONE = 2
_RANKS = ("cart", "order", "category")
_TIMED_OUT = Failed("timeout", "no answer in time")
_RESET = Failed("connection", "the request failed")

DOWN = ("503", "429", "html", "reset", "hang", "hang and accept", "401")
"""What a site of the API may do for a while. `hang and accept` accepts the events but never answers."""


@dataclass(slots=True)
class Api:
    """The Jirafe API. `down` says what a site does instead of working, and until when."""

    kernel: Kernel
    ledger: Ledger
    trap: Callable[[Process, str], Effect]
    longest_silence: float
    tokens: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {SITE: (TOKEN,), OTHER_SITE: (OTHER_TOKEN, SECOND_TOKEN)}
    )
    down: dict[str, tuple[str, float]] = field(default_factory=dict)
    requests: int = 0
    _unlucky: Counter[bytes] = field(default_factory=Counter)

    def send(self, process: Process, site: Site, documents: Sequence[Document]) -> Answer:
        """Send a batch in a worker's task, and wait for its answer."""
        kernel = self.kernel
        self.requests += 1
        if list(documents) == [PROBE]:
            return self._probed(site)
        assert kernel.current is not None
        consumer, held = kernel.current.works_on
        events = [self._known(document) for document in sorted(documents, key=_rank)]
        effect = self.trap(process, "api")
        if not process.is_alive:
            kernel.sleep(0)
        request = Request(process, consumer, site.site_id, site.access_token, events, held)
        self.ledger.departs(request, self.longest_silence)
        in_order = [self._known(document) for document in documents]
        is_back = Signal()
        answers: list[Answer] = []

        def arrive() -> None:
            answer = self._taken(request, effect)
            if effect.how == "frozen after":
                kernel.freeze(process, effect.seconds)
            back = self._latency() + (effect.seconds if effect.how == "answered late" else 0.0)
            if answer is None:
                return

            def come_back() -> None:
                if not request.is_given_up:
                    answers.append(answer)
                    is_back.set()

            kernel.after(back, come_back, process)

        out = self._latency() + (effect.seconds if effect.how in ("slow", "arrives late") else 0.0)
        kernel.after(out, arrive)
        if not kernel.wait(is_back, READ_TIMEOUT):
            request.is_given_up = True
            return _TIMED_OUT
        answer = _reordered(answers[0], request.events, in_order)
        self.ledger.answered(Request(process, consumer, "", "", in_order, held), answer)
        return answer

    def _probed(self, site: Site) -> Answer:
        """Answer a probe. A site that works rejects its event as invalid."""
        self.kernel.sleep(2 * self._latency())
        _, until = self.down.get(site.site_id, ("", 0.0))
        if until > self.kernel.now:
            return Failed("503", "the API answered 503")
        if site.access_token not in self.tokens.get(site.site_id, ()):
            return Forbidden("invalid_token")
        return Answered((Rejected("name: null"),))

    def _known(self, document: Document) -> tuple[Sent, Event]:
        try:
            return self.ledger.events[document.json]
        except KeyError:
            raise self.ledger.broken("events", f"one that no record makes: {document.json[:200]!r}") from None

    def _latency(self) -> float:
        return self.kernel.random.choice((0.001, 0.002, 0.002, 0.005, 0.005, 0.01, 0.02, 0.1))

    def _taken(self, request: Request, effect: Effect) -> Answer | None:
        """Accept a batch or not, and give the answer; None for no answer at all."""
        if request.site == GONE_SITE:
            return Failed("503", "the API answered 503")
        how, until = self.down.get(request.site, ("", 0.0))
        if until > self.kernel.now:
            match how:
                case "503":
                    return Failed("503", "the API answered 503")
                case "429":
                    return Failed("429", "the API answered 429", min(3.0, until - self.kernel.now))
                case "html":
                    return Failed("unreadable", "200 with a body that is not a JSON object")
                case "reset":
                    return _RESET
                case "hang":
                    return None
                case "hang and accept":
                    self._judged(request, unlucky=False)
                    return None
        if request.token not in self.tokens.get(request.site, ()):
            return Forbidden("invalid_token")
        match effect.how:
            case "lost":
                return _RESET if self._may_spoil(request) else self._judged(request, unlucky=False)
            case "503":
                failed = Failed("503", "the API answered 503")
                return failed if self._may_spoil(request) else self._judged(request, unlucky=False)
            case "429":
                return Failed("429", "the API answered 429", effect.seconds)
            case "unanswered":
                answer = self._judged(request, unlucky=False)
                return _RESET if self._may_spoil(request) else answer
            case "mismatch":
                answer = self._judged(request, unlucky=False)
                return (
                    Failed("unreadable", "200 with arrays that do not match")
                    if self._may_spoil(request)
                    else answer
                )
            case "partial":
                return self._judged(request, unlucky=True)
        return self._judged(request, unlucky=False)

    def _may_spoil(self, request: Request) -> bool:
        """Return whether a request may fail by chance. No event fails so often that it must count as the cause."""
        return all(self._may_be_unlucky(event) for _, event in request.events)

    def _may_be_unlucky(self, event: Event) -> bool:
        self._unlucky[event.json] += 1
        return self._unlucky[event.json] <= _MOST_ALONE

    def _judged(self, request: Request, *, unlucky: bool) -> Answer:
        if any(sent.made.kind == "failing" for sent, _ in request.events):
            return Failed("503", "the API answered 503")
        if any(sent.made.kind == "refused" for sent, _ in request.events):
            return Refused("400: the batch is refused")
        items: list[Item] = []
        behind: set[str] = set()
        for sent, event in request.events:
            if sent.made.kind == "rejected":
                items.append(Rejected("total: " + "-1 is less than the minimum; " * 20))
                continue
            if unlucky and self.kernel.random.random() < 0.4 and self._may_be_unlucky(event):
                items.append(Transient("unavailable"))
                behind.add(sent.made.event_key)
                continue
            self.ledger.arrives(request, sent, event, is_behind=sent.made.event_key in behind)
            items.append(Accepted())
        return Answered(tuple(items))


def _rank(document: Document) -> int:
    return _RANKS.index(document.array)


def _reordered(answer: Answer, taken: list[tuple[Sent, Event]], asked: list[tuple[Sent, Event]]) -> Answer:
    """Give the items in the order of the documents, as the client does."""
    if not isinstance(answer, Answered):
        return answer
    items = {event.json: item for (_, event), item in zip(taken, answer.items, strict=True)}
    return Answered(tuple(items[event.json] for _, event in asked))


class SimClient(Client):
    """The API's client of one process, with the simulated API behind it."""

    def __init__(self, api: Api, process: Process) -> None:
        super().__init__("http://api", timeout=READ_TIMEOUT)
        self._api = api
        self._process = process

    def send(self, site: Site, documents: Sequence[Document]) -> Answer:
        return self._api.send(self._process, site, documents)


@dataclass(slots=True)
class SimRegistry:
    """The Schema Registry, as one process sees it. `down_until` is shared by all processes.

    It answers at once: the codec blocks whole threads that ask the same question, and a task can't wait like that.
    """

    kernel: Kernel
    process: Process
    trap: Callable[[Process, str], Effect]
    down_until: list[float]

    def schema(self, schema_id: SchemaId) -> list[Schema]:
        self._ask()
        schema = own_schema_of(schema_id)
        if schema is None:
            raise UnknownSchema(f"the schema registry knows no schema with the id {schema_id}")
        return [schema]

    def register(self, name: str, schema: Schema) -> int:
        self._ask()
        return IDS[name]

    def _ask(self) -> None:
        effect = self.trap(self.process, "registry")
        if not self.process.is_alive:
            raise Killed
        if self.down_until[0] > self.kernel.now or effect.how == "lost":
            raise RegistryUnavailable("the schema registry did not answer")
