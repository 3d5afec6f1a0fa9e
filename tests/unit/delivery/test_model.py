"""Lanes, chunks and sending as a model: any sequence of arrivals, troubles, rebalances and aborted commits.

The real parts are driven, but for Kafka and HTTP: a partition is a list here, the API an object that does as
it is told, and the clock is moved by hand. What must hold is asserted at every commit and at the end.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from consumer.delivery.handler import Delivery
from consumer.delivery.mapping import Defaults
from consumer.delivery.sending import Rules
from consumer.delivery.work import Credentials, Work
from consumer.engine.backoff import Backoff
from consumer.engine.lane import Bounds
from consumer.engine.lanes import Lanes
from consumer.engine.ports import Chunk
from consumer.engine.records import Output, Partition, Record
from consumer.log import configure
from jirafe.client import (
    Accepted,
    Answer,
    Answered,
    Client,
    Document,
    Failed,
    Item,
    Refused,
    Rejected,
    Site,
    Transient,
)
from schemas.codec import Codec
from schemas.hub import to_message
from tests.messages import order

PARTITIONS: list[Partition] = [Partition("orders", 0), Partition("orders", 1)]
BUSY = Partition("orders", 9)
GARBAGE = b"garbage"
MODES = st.sampled_from(["up", "up", "down", "throttling", "answer lost", "hiccup"])
BOUNDS = Bounds(lane_records=8, lane_bytes=1_000_000, chunk_records=4, chunk_bytes=1_000_000)
POLLED_AT_ONCE = 3
POISON, REFUSED, REJECTED = 66.0, 77.0, 88.0
"""Totals of events that bring 503 always, that spoil any batch, and that the API refuses by themselves."""


class Api:
    """An API that does as it is told, and remembers what it took in: (key, version).

    In a hiccup it can't take the first item, and takes later ones of its key too early: they must come again.
    """

    def __init__(self) -> None:
        self.mode = "up"
        self.taken: list[tuple[str, int]] = []

    def send(self, _site: Site, documents: Sequence[Document]) -> Answer:
        bodies = [orjson.loads(document.json) for document in documents]
        if self.mode == "down" or any(body["total"] == POISON for body in bodies):
            return Failed("503", "down")
        if self.mode == "throttling":
            return Failed("429", "slower", retry_after=3.0)
        if any(body["total"] == REFUSED for body in bodies):
            return Refused("400: bad_json")
        if self.mode == "answer lost":
            self._take(bodies)
            return Failed("connection", "reset")
        return Answered(self._take(bodies))

    def _take(self, bodies: list[Any]) -> tuple[Item, ...]:
        items: list[Item] = []
        waits: str | None = None
        for index, body in enumerate(bodies):
            if body["total"] == REJECTED:
                items.append(Rejected("total: wrong"))
            elif self.mode == "hiccup" and index == 0:
                waits = body["order_number"]
                items.append(Transient("unknown"))
            else:
                items.append(Accepted())
                if body["order_number"] != waits:
                    self.taken.append((body["order_number"], int(body["change_date"][17:19])))
        return tuple(items)


class DeliveryModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.api = Api()
        self.codec = Codec()
        self.delivery = Delivery(
            self.codec, cast("Client", self.api), Rules(10_000_000, 3), Defaults(Credentials("1", "token"), {})
        )
        log = configure("error", "json")
        self.lanes = Lanes[Work](BOUNDS, Backoff(1.0, 4.0, 10.0), 5.0, lambda: 0.5, log)
        self.logs: dict[Partition, list[Record]] = {partition: [] for partition in (*PARTITIONS, BUSY)}
        self.ends: Counter[Partition] = Counter()
        self.positions: dict[Partition, int] = {}
        self.committed: Counter[Partition] = Counter()
        self.results: list[Output] = []
        self.in_flight: list[Chunk[Work]] = []
        self.versions: Counter[str] = Counter()

    # what comes in

    @rule(partition=st.sampled_from(PARTITIONS), key=st.integers(0, 1), kind=st.integers(0, 24))
    def produce(self, partition: Partition, key: int, kind: int) -> None:
        number = f"R{partition[1]}{key}"
        if self.versions[number] >= 59:
            return
        self.versions[number] += 1
        total = {0: POISON, 1: REFUSED, 2: REJECTED}.get(kind, 1.0)
        date = f"2014-01-01T00:00:{self.versions[number]:02d}Z"
        message = to_message(order(number, "order:updated", updated_at=date, totals={"order": total}))
        value = {3: GARBAGE, 4: None}.get(kind, self.codec.encode("order", message))
        if kind == 5:
            self.ends[partition] += 2  # a gap, as transactions and compaction leave them
        record = Record(*partition, self.ends[partition], 0, number.encode(), value, ())
        self.logs[partition].append(record)
        self.ends[partition] += 1

    @rule(partition=st.sampled_from(PARTITIONS))
    def poll(self, partition: Partition) -> None:
        lane = next((lane for lane in self.lanes if lane.partition == partition), None)
        if lane is None or lane.is_full:
            return
        ahead = [record for record in self.logs[partition] if record.offset >= self.positions[partition]]
        for record in ahead[:POLLED_AT_ONCE]:
            self.lanes.add(record)
            self.positions[partition] = record.offset + 1
        if len(ahead) <= POLLED_AT_ONCE:
            self.lanes.at_end(partition, self.ends[partition])

    @rule(partition=st.sampled_from(PARTITIONS))
    def end_a_transaction(self, partition: Partition) -> None:
        """Leave a marker at the end of a partition: an offset without a record."""
        self.ends[partition] += 1

    # what goes out and comes back

    @rule()
    def dispatch(self) -> None:
        self.in_flight += self.lanes.dispatch(self.now)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        chunk = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        answer = self.delivery.handle(chunk, partial(self.lanes.has, chunk))
        self.lanes.take(answer, self.now)

    @rule(mode=MODES, back=st.booleans())
    def turn(self, *, mode: str, back: bool) -> None:
        """Go once round as the service does, with the chunks back in either order."""
        for partition in PARTITIONS:
            self.poll(partition)
        self.dispatch()
        self.api.mode = mode
        chunks, self.in_flight = self.in_flight, []
        for chunk in reversed(chunks) if back else chunks:
            self.lanes.take(self.delivery.handle(chunk, partial(self.lanes.has, chunk)), self.now)
        self.now += 0.5

    @rule(mode=MODES)
    def tell_the_api(self, mode: str) -> None:
        self.api.mode = mode

    @rule(seconds=st.sampled_from([0.1, 1.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(aborted=st.booleans())
    def commit(self, *, aborted: bool) -> None:
        for lane in self.lanes:
            end = lane.offset
            if end is None or aborted:
                continue
            # An offset moves only over records that have their result in the same commit, in order, all of them.
            records = [output.record for output in lane.finished]
            begun = self.committed[lane.partition]
            assert end > begun or (end == begun and not records)
            assert records == [record for record in self.logs[lane.partition] if begun <= record.offset < end]
            self.committed[lane.partition] = end
            self.results += lane.finished
            lane.committed()

    # the group

    @rule(partition=st.sampled_from(PARTITIONS))
    def assign(self, partition: Partition) -> None:
        if all(lane.partition != partition for lane in self.lanes):
            self.lanes.assign([partition])
            self.positions[partition] = self.committed[partition]

    @rule(partition=st.sampled_from(PARTITIONS))
    def take_away(self, partition: Partition) -> None:
        """Revoked after a drain, or lost: to the state it is the same; what was in flight comes back late."""
        self.lanes.drop([partition])

    @rule(partition=st.sampled_from(PARTITIONS))
    def hand_back_and_forth(self, partition: Partition) -> None:
        self.take_away(partition)
        self.assign(partition)
        self.poll(partition)
        self.dispatch()

    @rule(partition=st.sampled_from(PARTITIONS), key=st.integers(0, 1), kind=st.integers(0, 5))
    def rush(self, partition: Partition, key: int, kind: int) -> None:
        """Bring several versions of one key, and perhaps a bad one, close together."""
        self.assign(partition)
        for each in (20, kind, 20):
            self.produce(partition, key, each)
        self.poll(partition)
        self.dispatch()

    # what holds

    @invariant()
    def memory_is_bounded(self) -> None:
        for lane in self.lanes:
            assert lane.held_records <= BOUNDS.lane_records + POLLED_AT_ONCE

    @invariant()
    def no_more_than_two_chunks_are_uncommitted(self) -> None:
        for lane in self.lanes:
            assert len(lane.finished) <= 2 * BOUNDS.chunk_records

    def teardown(self) -> None:
        self.api.mode = "up"
        partitions = [*PARTITIONS, BUSY]
        for partition in partitions:
            self.assign(partition)
        for round_ in range(400):
            if all(self.committed[partition] >= self.ends[partition] for partition in PARTITIONS):
                break
            # Others succeed elsewhere: the proof by which an event that fails alone is given up.
            for busy in range(5):
                self.produce(BUSY, round_ * 5 + busy, 20)
            for partition in partitions:
                self.poll(partition)
            self.dispatch()
            while self.in_flight:
                chunk = self.in_flight.pop()
                self.lanes.take(self.delivery.handle(chunk, partial(self.lanes.has, chunk)), self.now)
            self.commit(aborted=False)
            self.now += 20
        assert all(self.committed[partition] >= self.ends[partition] for partition in PARTITIONS)
        produced = [
            r for partition in partitions for r in self.logs[partition] if r.offset < self.committed[partition]
        ]
        assert Counter(output.record for output in self.results) == Counter(produced)
        self._check_order()
        self._check_outcomes()

    def _check_order(self) -> None:
        """Per key the API's last is the newest it should have, and no version comes before one it needs."""
        good: dict[str, list[int]] = defaultdict(list)
        for output in self.results:
            if output.dead_letter is None and output.record.value is not None:
                payload = self.codec.decode(output.record.value)["payload"]["order"]
                good[payload["number"]].append(int(payload["updated_at"][17:19]))
        for number, versions in good.items():
            taken = [version for key, version in self.api.taken if key == number]
            assert taken[-1] == max(versions)
            seen: set[int] = set()
            for version in taken:
                # A repeat may step back; a step forward skips none that was to come before.
                assert {earlier for earlier in versions if earlier < version} <= seen | {version}
                seen.add(version)

    def _check_outcomes(self) -> None:
        """Good records have a good result, and bad ones are dead letters of the kind that is due."""
        for output in self.results:
            result = self.codec.decode(output.result)
            letter, value = output.dead_letter, output.record.value
            assert result["code"] == (200 if letter is None else 500)
            if value is None or value == GARBAGE:
                assert (letter and letter.kind) == (None if value is None else "undecodable")
                continue
            payload = self.codec.decode(value)["payload"]["order"]
            due = {POISON: "failing", REFUSED: "refused", REJECTED: "rejected"}.get(payload["total"])
            assert (letter and letter.kind) == due
            if due is None:
                assert (payload["number"], int(payload["updated_at"][17:19])) in self.api.taken


TestDeliveryModel = DeliveryModel.TestCase
TestDeliveryModel.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
