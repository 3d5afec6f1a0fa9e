import json

from consumer.backoff import Backoff
from consumer.delivery import REGISTRY, Done, Retry
from consumer.lane import Bounds
from consumer.lanes import Lanes
from consumer.log import configure
from consumer.observer import Observer
from consumer.record import Output, Record
from consumer.sending import Trouble
from consumer.telemetry.statistics import Reach, Statistics, read_statistics
from consumer.telemetry.status import LaneStatus

PLACE = ("orders", 0)


def record(offset: int) -> Record:
    return Record(*PLACE, offset, 0, b"k", b"value", ())


class World:
    """Lanes of one partition, and who looks at them; the clock is moved by hand."""

    def __init__(self, hold_interval: float = 30.0) -> None:
        bounds = Bounds(lane_records=4, lane_bytes=1000, chunk_records=2, chunk_bytes=1000)
        self.lanes = Lanes(bounds, Backoff(8, 8, 60), hold_interval, lambda: 1.0, configure("error", "json"))
        self.lanes.assign([PLACE])
        self.observer = Observer()
        self.now = 100.0

    def look(self, *, flooded: bool = False, commit_problem: str | None = None, after: float = 1.0) -> LaneStatus:
        self.now += after
        (lane,) = self.observer.look(self.lanes, self.now, flooded=flooded, commit_problem=commit_problem)
        return lane

    def tell(self, following: int | None, end: int | None) -> None:
        self.observer.note(Statistics(1, {PLACE: Reach(following, end)}))

    def finish(self) -> None:
        (chunk,) = self.lanes.dispatch(self.now)
        outputs = [Output(record, b"", None) for record in chunk.records]
        self.lanes.take(Done(chunk, outputs, frozenset({"site"})), self.now)

    def fail(self, trouble: Trouble, served: str = "") -> None:
        (chunk,) = self.lanes.dispatch(self.now)
        self.lanes.take(Retry(chunk, trouble, frozenset({served} if served else ())), self.now)

    def commit(self) -> None:
        for lane in self.lanes:
            lane.committed()


def test_lag_is_from_what_is_next_to_be_finished_to_the_end_of_the_log() -> None:
    world = World()
    assert (world.look().position, world.look().lag) == (None, None)
    world.tell(following=7, end=20)
    assert (world.look().position, world.look().lag) == (7, 13)
    for offset in (7, 9):  # 8 is a transaction's mark
        world.lanes.add(record(offset))
    world.tell(following=10, end=20)
    assert (world.look().position, world.look().lag) == (7, 13)
    world.finish()
    assert (world.look().position, world.look().lag) == (7, 13)
    world.commit()
    assert (world.look().position, world.look().lag) == (10, 10)
    world.tell(following=20, end=20)  # past the marks that only transactions see
    assert (world.look().position, world.look().lag) == (20, 0)


def test_the_end_that_was_asked_for_counts_while_a_lane_is_paused() -> None:
    world = World()
    (lane,) = world.lanes
    world.lanes.add(record(0))
    lane.paused = True
    world.tell(following=1, end=20)
    world.observer.note_ends({PLACE: 500})
    assert world.look().lag == 500
    lane.paused = False
    world.tell(following=1, end=490)  # the log was cut meanwhile: what is fetched knows better
    assert world.look().lag == 490


def test_the_oldest_record_is_here_since_it_was_first_seen() -> None:
    world = World()
    assert world.look().oldest_since is None
    world.lanes.add(record(0))
    first = world.look().oldest_since
    assert first == world.now
    world.lanes.add(record(1))
    assert world.look(after=5).oldest_since == first
    world.finish()  # both
    world.lanes.add(record(2))
    assert world.look(after=3).oldest_since == first
    third_came = world.now
    world.commit()
    assert world.look(after=9).oldest_since == third_came
    world.lanes.assign([PLACE])  # anew, from the same offset
    world.lanes.add(record(2))
    assert world.look(after=2).oldest_since == world.now


def test_records_are_counted_where_they_are() -> None:
    world = World()
    for offset in range(4):
        world.lanes.add(record(offset))
    world.finish()
    assert len(list(world.lanes.dispatch(world.now))) == 1
    world.lanes.add(record(4))
    lane = world.look()
    assert (lane.waiting, lane.in_flight, lane.finished, lane.held_bytes) == (1, 2, 2, 5 * 6)


def test_what_a_lane_does_or_waits_for() -> None:
    world = World()
    assert world.look().state == "idle"
    world.lanes.add(record(0))
    assert world.look().state == "working"
    world.fail(Trouble("site", "500", "one event fails", isolating=True), served="site")
    lane = world.look(after=1)
    assert (lane.state, lane.due, lane.reason) == ("backoff", world.now + 7, "one event fails")
    world.now += 10
    world.fail(Trouble("site", "503", "down"))
    lane = world.look(after=1)
    assert (lane.state, lane.waits_for, lane.reason, lane.due) == ("site", "site", "down", world.now + 7)
    world.now += 10
    world.fail(Trouble("site", "invalid_token", "refused", held=True))
    lane = world.look()
    assert (lane.state, lane.reason) == ("credentials", "refused")
    world.now += 40
    world.fail(Trouble(REGISTRY, "registry", "away"))
    assert world.look().state == "registry"
    world.now += 40
    world.finish()
    assert world.look(flooded=True).state == "flood"
    lane = world.look(commit_problem="too large")
    assert (lane.state, lane.reason) == ("commit", "too large")
    world.commit()
    assert world.look(flooded=True).state == "idle"


def test_it_looks_once_a_second_at_most() -> None:
    world = World()
    before = world.look()
    world.lanes.add(record(0))
    assert world.look(after=0.5) is before
    assert world.look(after=0.5) is not before


def test_statistics_of_librdkafka_are_read() -> None:
    known = {"fetch_state": "active", "fetchq_cnt": 0, "next_offset": 12, "app_offset": 11, "ls_offset": 12}
    told = {
        "brokers": {
            "b1": {"state": "UP", "source": "learned"},
            "b2": {"state": "DOWN", "source": "learned"},
            "coordinator": {"state": "UP", "source": "logical"},
        },
        "topics": {
            "orders": {
                "topic": "orders",
                "partitions": {
                    "0": {"partition": 0, **known},
                    "1": {"partition": 1, **known, "fetchq_cnt": 3},
                    "2": {"partition": 2, **known, "ls_offset": -1001, "next_offset": -1001},
                    "-1": {"partition": -1, **known, "fetch_state": "none"},
                },
            }
        },
    }
    statistics = read_statistics(json.dumps(told))
    assert statistics.brokers == 1
    assert statistics.reaches == {
        ("orders", 0): Reach(12, 12),
        ("orders", 1): Reach(11, 12),  # some are fetched, and not handed over
        ("orders", 2): Reach(None, None),
    }
