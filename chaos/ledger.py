"""The ledger: what was produced, what the API received, what was published, and where that breaks a guarantee.

Each key (a cart, an order, a taxon) has versions 1, 2, 3 ..., with one message and one event each. Each member
process has its own site, so the API's log shows which process sent what. The rules:

- Results: each record has exactly one committed result, 200 for a good record and 500 for a broken one. Each broken
  record has exactly one committed dead letter with its exact bytes. Others have none.
- Order: a version of a key arrives for the first time only after all earlier ones. The last arrival is the newest
  version, except for what a paused member was about to send when it was paused.
- Steps back: an arrival that is no newer than the one before it is a step back, because a redelivery starts over.
  It must have a cause. The same member sends again: it retries after a lost answer, or has the partition back. Or
  the member that sent last was killed or paused. Or this member was paused, and sends late. Or there was a storm
  or a restart of the broker when this version arrived before, and the next owner of the partition retries. Any
  other step back is a breach. After a step back, no version may be skipped that has not arrived yet, by the rule
  of order.
- Repeats: a repeat has the same bytes. If one member sent a version without a storm and another member repeats it,
  the first was killed or paused. At most two chunks of a partition are repeated for each time.

If messages name their own sites, the log does not show which process sent what. Then steps back need no cause, and
repeats are not counted by sender.

The API may accept a request late if its sender was killed or paused, or gave it up. That is not a fault of the
consumer, so the plan's slow answers are faster than both the read timeout and the group's session.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, NamedTuple

from consumer.engine.records import Place, Record
from consumer.engine.strand import MOST_SHARES
from jirafe.client import PROBE
from jirafe.sandbox.arrivals import Arrival
from schemas.codec import Codec
from schemas.hub import to_message

Key = tuple[str, str]
"""The kind of an event, and its id."""

_START = datetime(2014, 1, 1, tzinfo=UTC)
# Not the event of a message: members use it to check whether a site works.
_PROBE = json.loads(PROBE.json)
_LATE = 2.0
_AWAKE = 0.5
_MESSAGES_PER_KEY = 20
_UNDECODABLE = 0.01
_REFUSED = 0.02
_SENDER_UNKNOWN = "of a site that messages name"
_KINDS = {"carts": "cart", "orders": "order", "taxons": "category"}


class Sent(NamedTuple):
    """A message to produce: its topic, key, bytes and version, and whether it must fail."""

    topic: str
    key: str
    value: bytes
    version: int
    broken: bool

    @property
    def event(self) -> Key | None:
        """The identity of its event at the API, None if it never gets there."""
        return (_KINDS[self.topic], self.key) if self.version else None


@dataclass(slots=True)
class Process:
    """What was done to one member process. Its name is its site at the API. Times are since the epoch."""

    name: str
    killed: float | None = None
    pauses: list[tuple[float, float]] = field(default_factory=list)

    def disturbed(self, until: float) -> int:
        """Count how often it was killed or paused up to a time."""
        killed = self.killed is not None and self.killed <= until
        return killed + sum(begun <= until for begun, _ in self.pauses)

    def has_just_resumed(self, now: float) -> bool:
        """Return whether it has just resumed after a pause, or is paused."""
        return any(begun <= now <= ended + _AWAKE for begun, ended in self.pauses)


def make_messages(count: int, seed: int, codec: Codec, sites: int = 1) -> Iterator[Sent]:
    """Make messages of many keys over all topics. About one in 50 is broken.

    With more than one site, the messages of each key name its site.
    """
    chance = Random(f"messages {seed}")  # noqa: S311 - chance, not cryptography
    keys = max(10, count // _MESSAGES_PER_KEY)
    versions: Counter[str] = Counter()
    for index in range(count):
        topic = chance.choices(("carts", "orders", "taxons"), (4, 4, 1))[0]
        if chance.random() < _UNDECODABLE:
            yield Sent(topic, f"X{index}", b"\x07 no Avro " + str(index).encode(), 0, broken=True)
            continue
        number = chance.randrange(keys)
        key = f"{topic[0].upper()}{number}"
        site = f"shop-{number % sites}" if sites > 1 else None
        versions[key] += 1
        refused = topic == "carts" and chance.random() < _REFUSED
        value = _encoded(codec, topic, key, versions[key], -1 if refused else versions[key], site)
        yield Sent(topic, key, value, versions[key], refused)


def _encoded(  # noqa: PLR0913, PLR0917 - what a message is made of
    codec: Codec, topic: str, key: str, version: int, total: int, site: str | None
) -> bytes:
    kind = topic.removesuffix("s")
    dates = {"created_at": _START.isoformat(), "updated_at": (_START + timedelta(seconds=version)).isoformat()}
    if kind == "taxon":
        body: dict[str, Any] = {"id": key, "name": f"Taxon {key}", "taxonomy_id": "2", **dates}
    else:
        line = {"id": 1, "sku": "BAG-1", "name": "Bag", "product_id": 7, "quantity": 2, "price": "10.50"}
        totals = {"item": 21, "order": total, "tax": 2, "shipping": 3}
        body = {"number": key, "currency": "USD", "totals": totals, "line_items": [line], **dates}
        body["placed_on"] = _START.isoformat()
    payload: dict[str, Any] = {kind: body}
    if site:
        given = {"jirafe.site_id": site, "jirafe.access_token": "token"}
        payload["parameters"] = [{"name": name, "value": value} for name, value in given.items()]
    document = {"message": f"{kind}:updated", "message_id": f"{key}-{version}", "payload": payload}
    return codec.encode(kind, to_message(document))


class _Seen(NamedTuple):
    version: int
    site: str
    verdict: str
    digest: str
    received: float


class Ledger:
    """Collects everything. At the end, `breaches` and `rows` have the findings."""

    def __init__(self, codec: Codec, chunk_records: int) -> None:
        self.produced: dict[Place, Sent] = {}
        self.breaches: list[str] = []
        self.rows: dict[str, int] = {}
        self.storms: list[tuple[float, float]] = []
        self._codec = codec
        self._chunk_records = chunk_records
        self._arrivals: defaultdict[Key, list[_Seen]] = defaultdict(list)
        self._places: dict[tuple[Key, int], Place] = {}

    def note_produced(self, place: Place, sent: Sent) -> None:
        """Note that the broker acknowledged a message."""
        if place in self.produced:
            self.breaches.append(f"the broker gave {place} to two messages: it lost one that it had acknowledged")
        self.produced[place] = sent
        if sent.event:
            self._places[sent.event, sent.version] = place

    def note_arrival(self, arrival: Arrival) -> None:
        """Note what the API received."""
        body = arrival.body if isinstance(arrival.body, dict) else {}
        if body == _PROBE:
            return
        version = round((datetime.fromisoformat(body["change_date"]) - _START).total_seconds())
        seen = _Seen(version, arrival.site, arrival.verdict.value, arrival.digest, arrival.received)
        self._arrivals[arrival.kind, arrival.id or ""].append(seen)

    def place_of(self, result: Record) -> Place:
        """Give the place of a result's record."""
        read = self._codec.decode(result.value or b"")
        return Place(read["topic"], read["partition"], read["offset"])

    def settle(
        self,
        processes: Collection[Process],
        results: Sequence[Record],
        letters: Sequence[Record],
        hidden: tuple[set[tuple[int, int]], set[tuple[int, int]]],
    ) -> None:
        """Compare everything. `hidden` has the results and the letters that are not committed."""
        committed_results = [r for r in results if (r.partition, r.offset) not in hidden[0]]
        committed_letters = [r for r in letters if (r.partition, r.offset) not in hidden[1]]
        self.rows["messages produced"] = len(self.produced)
        self.rows["  broken on purpose"] = sum(sent.broken for sent in self.produced.values())
        self._check_results(committed_results)
        self._check_letters(committed_letters)
        self.rows["shown by the broker though not committed"] = (
            len(results) + len(letters) - len(committed_results) - len(committed_letters)
        )
        self._check_arrivals({process.name: process for process in processes})

    def _check_results(self, results: Sequence[Record]) -> None:
        codes: dict[Place, int] = {}
        times: Counter[Place] = Counter()
        for record in results:
            read = self._codec.decode(record.value or b"")
            place = Place(read["topic"], read["partition"], read["offset"])
            codes[place] = read["code"]
            times[place] += 1
        expected = {place: 500 if sent.broken else 200 for place, sent in self.produced.items()}
        self._none("records without a result", expected.keys() - codes.keys())
        self._none("results of no record", codes.keys() - expected.keys())
        self._none(
            "results of the wrong code", {p for p in expected.keys() & codes.keys() if expected[p] != codes[p]}
        )
        self._none("doubled results", {place for place, count in times.items() if count > 1})

    def _check_letters(self, letters: Sequence[Record]) -> None:
        times: Counter[Place] = Counter()
        altered = set()
        for letter in letters:
            headers = dict(letter.headers)
            topic, number, offset = (
                (headers[f"dlq.{n}"] or b"").decode() for n in ("topic", "partition", "offset")
            )
            place = Place(topic, int(number), int(offset))
            times[place] += 1
            sent = self.produced.get(place)
            if sent and (letter.key, letter.value) != (sent.key.encode(), sent.value):
                altered.add(place)
        broken = {place for place, sent in self.produced.items() if sent.broken}
        self._none("broken records without a dead letter", broken - times.keys())
        self._none("dead letters of good records", times.keys() - broken)
        self._none("dead letters with other bytes", altered)
        self._none("doubled dead letters", {place for place, count in times.items() if count > 1})

    def _check_arrivals(self, processes: dict[str, Process]) -> None:
        newest = {sent.event: sent.version for sent in self.produced.values() if sent.event}
        lost, skipped, altered, uncaused = set(), set(), set(), set()
        causes: Counter[str] = Counter()
        handed: defaultdict[tuple[str, str, int], set[Place]] = defaultdict(set)
        repeats = 0
        for key, version in newest.items():
            arrivals = self._arrivals[key]
            latest: dict[int, _Seen] = {}
            before: _Seen | None = None
            for seen in arrivals:
                if before and seen.version <= before.version:
                    stormy = self._stormed(latest[seen.version].received)
                    cause = _SENDER_UNKNOWN
                    if {before.site, seen.site} <= processes.keys():
                        cause = _cause(seen, processes[before.site], processes[seen.site], stormy=stormy)
                    causes[cause] += 1
                    if cause == "unexplained":
                        uncaused.add((*key, seen.version, before, seen))
                if seen.version > len(latest) + 1:
                    skipped.add((*key, seen.version))
                if known := latest.get(seen.version):
                    repeats += 1
                    if known.digest != seen.digest:
                        altered.add((*key, seen.version))
                    if known.site != seen.site and not self._stormed(known.received):
                        place = self._places[key, seen.version]
                        handed[known.site, place[0], place[1]].add(place)
                latest[seen.version] = before = seen
            done = {seen.version for seen in arrivals if seen.verdict != "unknown"}
            lost |= {(*key, number) for number in range(1, version + 1) if number not in done}
        self.rows["arrivals at the API"] = sum(map(len, self._arrivals.values()))
        self.rows["  of them repeats"] = repeats
        for cause, count in sorted(causes.items()):
            self.rows[f"  steps back: {cause}"] = count
        lasts = {key: arrivals[-1] for key, arrivals in self._arrivals.items() if arrivals and key in newest}
        ended = {key for key, last in lasts.items() if last.version != newest[key]}
        late = {
            key
            for key in ended
            if (site := lasts[key].site) in processes and processes[site].has_just_resumed(lasts[key].received)
        }
        unfinished = {(*key, newest[key], tuple(self._arrivals[key][-4:])) for key in ended - late}
        self.rows["keys that end with a late arrival, by a member that was paused"] = len(late)
        self._none("events that the API never accepted", lost)
        self._none("versions that arrived before an earlier one", skipped)
        self._none("keys whose last arrival is not their newest version", unfinished)
        self._none("steps back without a cause", uncaused)
        self._none("repeats with other bytes", altered)
        bound = 2 * MOST_SHARES * self._chunk_records
        over = {
            (*where, len(places))
            for where, places in handed.items()
            if len(places) > bound * processes[where[0]].disturbed(until=float("inf"))
        }
        self.rows["most that one member had repeated of a partition"] = max(map(len, handed.values()), default=0)
        self._none("partitions of which more was repeated than chunks in flight", over)

    def _stormed(self, moment: float) -> bool:
        return any(begun <= moment <= ended + _LATE for begun, ended in self.storms)

    def _none(self, name: str, found: Collection[object]) -> None:
        self.rows[name] = len(found)
        if found:
            examples = "; ".join(str(each) for each in sorted(found, key=str)[:5])
            self.breaches.append(f"{name}: {len(found)}, such as {examples}")


def _cause(seen: _Seen, last: Process, this: Process, *, stormy: bool) -> str:
    """Name the cause of a step back."""
    if last is this:
        return "the same member again"
    if this.has_just_resumed(seen.received):
        return "late, by a member that was paused"
    if last.killed is not None and last.killed <= seen.received:
        return "after a kill"
    if last.disturbed(seen.received):
        return "after a pause"
    if stormy:
        return "handed over in a storm"
    return "unexplained"
