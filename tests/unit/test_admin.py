"""The operators' tools on topics in memory: what they read, wait for, leave out and report."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from consumer.admin.audit import AuditReport, Count, audit
from consumer.admin.deployment import CLOCK_TOLERANCE
from consumer.admin.lag import Looker
from consumer.admin.letters import Found, Letters
from consumer.admin.offsets import Move
from consumer.admin.reading import await_visible, read_settled, read_topic
from consumer.admin.redelivery import Redeliverer
from consumer.admin.replay import Plan, Replay
from consumer.admin.selection import Selection
from consumer.cli.lag import _shown as lag_shown
from consumer.cli.lag import _status as lag_status
from consumer.engine.ahead import Ahead, write
from consumer.engine.records import Output, Partition, Range, Record, Redelivery
from consumer.errors import Hidden
from consumer.printing import Console
from tests.unit.shelf import CODEC, GROUP, LETTERS, ORDERS, RESULTS, Shelf, member

ORDER = Partition(ORDERS, 0)
START = datetime(2014, 3, 1, 10, tzinfo=UTC)
PATIENCE = 0.3


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def record(offset: int, *, topic: str = ORDERS, partition: int = 0, redelivery: Redelivery | None = None) -> Record:
    return Record(topic, partition, offset, 0, b"R1", b"no Avro", (), redelivery)


def ignored(_read: int, _total: int) -> None:
    pass


# what can't be seen yet


class Opened:
    """An open transaction that hides the end of a log, and is committed after some looks."""

    def __init__(self, shelf: Shelf, place: Partition, visible: int, looks: int) -> None:
        self._log, self.looks = shelf.logs[place], looks
        self._log.visible = visible
        shelf.on_idle = self.look

    def look(self) -> None:
        self.looks -= 1
        if self.looks == 0:
            self._log.visible = None


@pytest.mark.parametrize("looks", [1, 5])
def test_readers_wait_for_records_that_an_open_transaction_hides(looks: int) -> None:
    shelf = Shelf()
    for offset in range(4):
        shelf.result(offset)
    Opened(shelf, Partition(RESULTS, 0), 1, looks)
    cluster = shelf.deployment(patience=10).cluster
    found = [each.offset for each in read_topic(cluster, RESULTS, start="beginning", follow=False) if each]
    assert found == [0, 1, 2, 3]


def test_records_that_stay_hidden_are_reported_last_and_only_after_the_wait() -> None:
    shelf = Shelf()
    for offset in range(4):
        shelf.result(offset)
    shelf.logs[Partition(RESULTS, 0)].visible = 2
    cluster, begun = shelf.deployment(patience=PATIENCE).cluster, time.monotonic()
    found: list[Record | None] = []
    with pytest.raises(
        Hidden, match=r"^results has a transaction that does not end; records behind it are hidden\.$"
    ):
        found.extend(read_topic(cluster, RESULTS, start="beginning", follow=False))
    assert len(found) == 2
    assert PATIENCE <= time.monotonic() - begun < 100 * PATIENCE
    with pytest.raises(
        Hidden, match=r"^results/0 has a transaction .* the records from the offset 2 on are hidden"
    ):
        await_visible(cluster, {Partition(RESULTS, 0): 4})
    await_visible(cluster, {Partition(RESULTS, 0): 2})


def test_patience_applies_to_each_pause_and_not_to_the_whole_reading() -> None:
    shelf = Shelf()
    for offset in range(8):
        shelf.result(offset)
    log = shelf.logs[Partition(RESULTS, 0)]
    log.visible = 0
    due = [time.monotonic()]

    def trickle() -> None:
        if time.monotonic() > due[0] + PATIENCE / 3:
            log.visible, due[0] = min(8, (log.visible or 0) + 1), time.monotonic()

    shelf.on_idle = trickle
    cluster = shelf.deployment(patience=PATIENCE).cluster
    read = [m.offset() for batch in read_settled(cluster, [Range(RESULTS, 0, 0, 8)]) for m in batch]
    assert read == list(range(8))


def letters_of(shelf: Shelf, **options: float) -> Letters:
    return Letters(shelf.deployment(**options), CODEC)


@pytest.mark.parametrize("topic", [RESULTS, LETTERS])
def test_dead_letters_wait_for_hidden_records_in_either_topic(topic: str) -> None:
    shelf = Shelf()
    for offset in range(3):
        place = shelf.letter(record(offset))
        shelf.result(offset, redrive=f"{LETTERS}/0/{place}")
    Opened(shelf, Partition(topic, 0), 1, 5)
    found = list(letters_of(shelf, patience=10).find(Selection(), ignored))
    assert [(each.letter.of.offset, each.redriven) for each in found] == [(n, "delivered") for n in range(3)]
    shelf.logs[Partition(topic, 0)].visible = 1
    shelf.on_idle = lambda: None
    with pytest.raises(Hidden, match=rf"^{topic} has a transaction that does not end"):
        list(letters_of(shelf).find(Selection(), ignored))


def plan(**changed: Any) -> Plan:
    given = {"start": None, "end": None, "partitions": (), "message_type": None, "key": None, "site": None}
    return Plan(topic=ORDERS, written="w", **{**given, **changed})


def replay_of(shelf: Shelf, **changed: Any) -> Replay:
    return Replay(shelf.deployment(patience=PATIENCE).cluster, CODEC, plan(**changed), None)


def test_a_replay_waits_only_for_hidden_records_in_its_range() -> None:
    shelf = Shelf()
    for offset in range(6):
        shelf.add(ORDERS, b"no Avro", timestamp=offset * 1000)
    shelf.committed[ORDER] = 6
    shelf.logs[ORDER].visible = 3
    end: datetime | int | None
    for end in (3, datetime.fromtimestamp(3, UTC)):
        assert replay_of(shelf, end=end).ranges() == [Range(ORDERS, 0, 0, 3)]
    for end in (4, 100, None, datetime.fromtimestamp(4, UTC)):
        with pytest.raises(
            Hidden, match=r"^orders/0 has a transaction that does not end; the records from .* 3 on"
        ):
            replay_of(shelf, end=end).ranges()
    Opened(shelf, ORDER, 3, 3)
    assert replay_of(shelf).ranges() == [Range(ORDERS, 0, 0, 6)]


def test_an_audit_waits_only_for_hidden_records_in_its_range_and_does_not_prove_them() -> None:
    shelf = Shelf(partitions=2)
    for offset in range(6):
        shelf.add(ORDERS, b"no Avro", timestamp=offset * 1000)
        shelf.result(offset)
    shelf.committed[ORDER] = 6
    shelf.logs[ORDER].visible = 3

    def report(end: datetime | int | None) -> AuditReport:
        deployment = shelf.deployment(patience=PATIENCE)
        *_, found = audit(deployment, CODEC, {ORDERS: ()}, (None, end))
        assert isinstance(found, AuditReport)
        return found

    for end, hidden in ((3, 0), (datetime.fromtimestamp(3, UTC), 0), (4, 1), (100, 3), (None, 3)):
        found = report(end)
        assert [each.hidden for each in found.partitions] == [hidden, 0]
        assert found.is_proven is (hidden == 0)
        notes = [note for note in found.notes if note.startswith("orders/0: not proven from the offset 3 on")]
        assert len(notes) == (hidden > 0)
        assert found.total()[Count.ONE_RESULT] == 3
    Opened(shelf, ORDER, 3, 3)
    found = report(None)
    assert (found.is_proven, found.total()[Count.ONE_RESULT]) == (True, 6)


def test_lag_reports_hidden_records() -> None:
    shelf = Shelf(partitions=2)
    for _ in range(6):
        shelf.add(ORDERS, b"no Avro")
    shelf.committed[ORDER] = 2
    shelf.logs[ORDER].visible = 3
    looker = Looker(shelf.deployment(patience=PATIENCE))
    for settled in (True, False):
        look = looker.look(settled=settled)
        assert [(each.end, each.records, each.hidden) for each in look.lags] == [(3, 1, 3), (0, 0, 0)]
        shown = look.as_json(GROUP)
        assert (shown["partitions"][0]["hidden"], shown["total"]["hidden"]) == (3, 3)
    with (console := Console()).capture() as captured:
        console.print(lag_shown(GROUP, look))
    assert "Hidden: 3 offsets of orders/0 are behind an open transaction." in captured.get()
    Opened(shelf, ORDER, 3, 3)
    assert [each.hidden for each in looker.look(settled=True).lags] == [0, 0]


def test_lag_names_partitions_without_a_leader_and_shows_the_others() -> None:
    shelf = Shelf(partitions=2)
    shelf.add(ORDERS, b"no Avro", partition=1)
    shelf.leaderless = {ORDER}
    look = Looker(shelf.deployment()).look(settled=True)
    assert [(each.partition, each.records) for each in look.lags] == [(1, 1)]
    assert look.as_json(GROUP)["leaderless"] == ["orders/0"]
    assert lag_status(look) == 1
    with (console := Console()).capture() as captured:
        console.print(lag_shown(GROUP, look))
    assert "No leader: orders/0 can't be read; start the brokers that host it." in captured.get()


def test_lag_distinguishes_members_on_one_host() -> None:
    shelf = Shelf(partitions=2)
    shelf.members = [
        member("one-a", ORDER),
        member("one-b", Partition(ORDERS, 1), instance_id="b"),
        member("one-c"),
    ]
    look = Looker(shelf.deployment()).look()
    shown = json.loads(json.dumps(look.as_json(GROUP), default=str))
    same = {"client_id": "jirafe-consumer-one", "host": "10.0.0.1"}
    assert shown["members"] == [
        {"id": "one-a", "instance_id": None, **same},
        {"id": "one-b", "instance_id": "b", **same},
        {"id": "one-c", "instance_id": None, **same},
    ]
    assert [each["owner"]["id"] for each in shown["partitions"]] == ["one-a", "one-b"]
    with (console := Console()).capture() as captured:
        console.print(lag_shown(GROUP, look))
    said = captured.get()
    assert [f"member {n}: {name} at 10.0.0.1" in said for n, name in ((1, "one-a"), (2, "b"), (3, "one-c"))] == [
        True
    ] * 3


# audits


def audited(shelf: Shelf, start: datetime | int | None = None) -> AuditReport:
    (*_, report) = audit(shelf.deployment(), CODEC, {ORDERS: ()}, (start, None))
    assert isinstance(report, AuditReport)
    return report


def test_an_audit_by_time_allows_for_clock_differences_and_reads_no_further_back() -> None:
    shelf = Shelf()
    for name, before in (("long", CLOCK_TOLERANCE * 2), ("just", CLOCK_TOLERANCE - timedelta(seconds=1))):
        del name
        offset = shelf.add(ORDERS, b"no Avro", timestamp=ms(START))
        shelf.result(offset, code=500, at=ms(START - before))
        shelf.letter(record(offset), at=ms(START - before))
    shelf.committed[ORDER] = 2
    report = audited(shelf, START)
    assert report.partitions[0].first[Count.MISSING] == (0,)  # its result is too early for any clock
    assert report.total()[Count.ONE_RESULT] == report.total()[Count.DEAD_LETTERED] == 1
    begun = {each.topic: each.offset for each in shelf.read_from if each.topic != ORDERS}
    assert begun == {RESULTS: 1, LETTERS: 1}
    assert audited(shelf).is_proven  # by offsets, all is read


@pytest.mark.parametrize("topic", [RESULTS, LETTERS])
@pytest.mark.parametrize("is_shortened", [True, False])
@pytest.mark.parametrize("is_missing", [True, False])
def test_retention_is_named_if_it_may_have_deleted_missing_results(
    topic: str, *, is_shortened: bool, is_missing: bool
) -> None:
    shelf = Shelf()
    for offset in range(3):
        shelf.add(ORDERS, b"no Avro", timestamp=ms(START))
        shelf.result(offset, code=500, at=ms(START))
        shelf.letter(record(offset), at=ms(START))
    shelf.committed[ORDER] = 3
    log = shelf.logs[Partition(topic, 0)]
    if is_missing:
        del log.kept[0]
    elif is_shortened:
        log.kept = {at + 1: kept for at, kept in log.kept.items()}
        log.end += 1
    log.first = int(is_shortened)
    said = f"retention has deleted the oldest records of {topic}: missing results may be among them."
    for start in (None, START):
        report = audited(shelf, start)
        # A letter without a result is stray, but retention may have deleted the result.
        assert report.is_proven is not is_missing
        at_its_beginning = is_shortened and is_missing
        assert [note for note in report.notes if note == said] == [said] * at_its_beginning
    assert not [note for note in audited(shelf, START + timedelta(days=1)).notes if note == said]


def test_retention_that_deleted_only_older_results_is_not_named() -> None:
    shelf = Shelf()
    shelf.add(ORDERS, b"no Avro", timestamp=ms(START))
    shelf.add(ORDERS, b"no Avro", timestamp=ms(START))
    for before in (timedelta(days=2), timedelta(days=1)):
        shelf.result(7, at=ms(START - before))
    shelf.result(1, at=ms(START))
    shelf.committed[ORDER] = 2
    log = shelf.logs[Partition(RESULTS, 0)]
    del log.kept[0]
    log.first = 1
    assert audited(shelf, START).partitions[0].first[Count.MISSING] == (0,)
    assert not any("retention" in note for note in audited(shelf, START).notes)
    assert any("retention" in note for note in audited(shelf).notes)


@pytest.mark.parametrize("redelivery", [Redelivery(redrive="letters/0/7"), Redelivery(replay="a-replay")])
def test_letters_of_a_redrive_or_replay_do_not_count_for_the_group(redelivery: Redelivery) -> None:
    shelf = Shelf()
    for offset in range(2):
        shelf.add(ORDERS, b"no Avro")
        shelf.result(offset, code=200 + 300 * offset)
        shelf.result(offset, code=500, **{name: redelivery._asdict()[name] for name in ("replay", "redrive")})
        shelf.letter(record(offset, redelivery=redelivery))
    shelf.committed[ORDER] = 2
    report = audited(shelf)
    assert report.total()[Count.STRAY_LETTER] == report.total()[Count.DEAD_LETTERED] == 0
    assert report.partitions[0].first[Count.WITHOUT_LETTER] == (1,)


def test_results_of_a_deleted_topic_do_not_count_for_the_recreated_one() -> None:
    shelf = Shelf()
    for offset in range(3):
        shelf.result(offset, code=500, timestamp=77)
        shelf.letter(record(offset)._replace(timestamp=77))
    for _ in range(3):
        shelf.add(ORDERS, b"no Avro", timestamp=99)
    shelf.result(0)
    shelf.committed[ORDER] = 3
    report = audited(shelf)
    assert not report.is_proven
    assert report.total()[Count.ONE_RESULT] == 1
    assert report.partitions[0].first[Count.MISSING] == (1, 2)
    assert report.total()[Count.DEAD_LETTERED] == report.total()[Count.DOUBLED] == 0
    of_others = "6 results and dead letters belong to records that are gone"
    assert report.notes == (f"{ORDERS} was truncated, or deleted and created again: {of_others}.",)


def test_results_prove_nothing_about_records_that_the_group_will_still_deliver() -> None:
    """If a topic is deleted, so are its offsets. A new one may have the same timestamps at the same places."""
    shelf = Shelf()
    for _ in range(3):
        shelf.result(shelf.add(ORDERS, b"no Avro"))
    report = audited(shelf)
    assert (report.total()[Count.WAITING], report.total()[Count.ONE_RESULT]) == (3, 0)
    assert report.notes == (
        f"the group {GROUP} has no committed offset for {ORDER}, so these records need no results yet.",
    )


def test_an_offset_committed_for_a_deleted_topic_counts_as_none() -> None:
    """A member may commit it between the deletion and its notice. It begins the new topic at its start."""
    shelf = Shelf()
    for _ in range(3):
        shelf.result(shelf.add(ORDERS, b"no Avro"))
    shelf.committed[ORDER] = 2
    shelf.metadata[ORDER] = write(2, Ahead((), shelf.topic_id))
    assert Looker(shelf.deployment()).look().records == 1
    assert audited(shelf).total()[Count.ONE_RESULT] == 2
    shelf.topic_id = "of-the-new-topic"
    assert Looker(shelf.deployment()).look().records == 3
    assert audited(shelf).total()[Count.WAITING] == 3
    assert replay_of(shelf).ranges() == [Range(ORDERS, 0, 0, 0)]


@pytest.mark.parametrize(("committed", "is_proven"), [(3, True), (4, True), (5, False)])
def test_a_log_that_ends_before_the_committed_offset_is_not_proven(*, committed: int, is_proven: bool) -> None:
    shelf = Shelf()
    for _ in range(3):
        shelf.result(shelf.add(ORDERS, b"no Avro"))
    shelf.logs[ORDER].end = 4  # a transaction's marker
    shelf.committed[ORDER] = committed
    report = audited(shelf)
    assert report.is_proven is is_proven
    assert [f"{ORDER}: not proven: the log ends at 4, before the" in note for note in report.notes] == (
        [] if is_proven else [True]
    )


@pytest.mark.parametrize("timestamp", [-1, 0, 2**63 - 1, 253_402_300_800_000, 1_400_000_000_123])
def test_an_audit_compares_any_record_timestamp(timestamp: int) -> None:
    shelf = Shelf()
    shelf.add(ORDERS, b"no Avro", timestamp=timestamp)
    shelf.result(0)
    shelf.committed[ORDER] = 1
    assert audited(shelf).is_proven


@pytest.mark.parametrize(("delivered", "lost"), [(5, 0), (4, 1), (2, 3), (0, None)])
def test_records_that_were_deleted_before_they_had_a_result_are_lost(delivered: int, lost: int | None) -> None:
    shelf = Shelf()
    for offset in range(8):
        shelf.add(ORDERS, b"no Avro")
        if offset < delivered or offset >= 5:
            shelf.result(offset)
    log = shelf.logs[ORDER]
    log.first = 5
    log.kept = {offset: kept for offset, kept in log.kept.items() if offset >= 5}
    shelf.committed[ORDER] = 8
    report = audited(shelf)
    assert report.total()[Count.ONE_RESULT] == 3
    assert report.is_proven == (not lost)
    assert report.total()[Count.LOST] == (lost or 0)
    if lost:
        assert report.partitions[0].first[Count.LOST] == (delivered,)
    assert audited(shelf, 6).is_proven  # of what was asked for, nothing is lost


# dead letters


def test_a_selection_by_topic_finds_only_the_letters_of_that_topic() -> None:
    shelf = Shelf()
    for topic in ("orders", "carts", "orders"):
        shelf.letter(record(1, topic=topic))
    for topic in ("orders", "carts", "taxons"):
        found = letters_of(shelf).find(Selection(topic=topic), ignored)
        places = [each.letter.place.offset for each in found]
        assert places == {"orders": [0, 2], "carts": [1], "taxons": []}[topic]


def test_letters_that_arrive_while_letters_are_read_are_left_out() -> None:
    shelf = Shelf()
    shelf.letter(record(0))
    shelf.letter(record(1))

    def came() -> None:
        shelf.letter(record(9))

    shelf.on_assign = came
    letters, looks = letters_of(shelf), list[tuple[int, int]]()
    found = list(letters.find(Selection(), lambda read, total: looks.append((read, total))))
    # One came while the results were read, before the letters' own end was looked up; the next is left out.
    assert [each.letter.of.offset for each in found] == [0, 1, 9]
    assert all(read <= total for read, total in looks)


@pytest.mark.parametrize(
    ("at", "code", "timestamp", "state"),
    [(7, 200, 99, "delivered"), (7, 500, 99, ""), (3, 200, 99, ""), (7, 200, 77, "")],
    ids=["later", "failed again", "earlier", "of a deleted topic"],
)
def test_a_letter_is_delivered_once_a_later_replay_delivered_its_record(
    at: int, code: int, timestamp: int, state: str
) -> None:
    shelf = Shelf()
    offset = shelf.add(ORDERS, b"no Avro", timestamp=99)
    shelf.result(offset, code=500, at=5)
    shelf.letter(record(offset), at=5)
    shelf.result(offset, code=200, at=at)  # after a reset of offsets: it does not count
    shelf.result(offset, code=code, at=at, timestamp=timestamp, replay="a-replay")
    (found,) = letters_of(shelf).find(Selection(), ignored)
    assert found.redriven == state


def test_letters_of_all_partitions_are_sorted_by_time() -> None:
    shelf = Shelf(partitions=3)
    times = [5, 1, 9, 3, 3, 0, 8, 2]
    for index, at in enumerate(times):
        shelf.letter(record(index), at=at * 1000, partition=index % 3)
    found = letters_of(shelf).by_time(Selection(), ignored)
    assert [each.letter.failed_at for each in found] == [datetime.fromtimestamp(at, UTC) for at in sorted(times)]
    assert {each.letter.record.value for each in found} == {None}
    assert [each.contents.number for each in found] == ["R1"] * len(times)


# rates


class Recorder:
    """Delivers nothing, and notes the size of each portion and each wait."""

    def __init__(self) -> None:
        self.portions: list[int] = []
        self.waited: list[float] = []

    def deliver(self, records: Iterable[Record]) -> list[Output]:
        given = [Output(each, b"", None) for each in records]
        self.portions.append(len(given))
        return given

    def publish(self, _outputs: Sequence[Output], _offsets: Mapping[Partition, int]) -> None:
        pass

    def wait(self, seconds: float) -> None:
        if seconds:
            self.waited.append(seconds)


@pytest.mark.parametrize(
    ("rate", "portions"), [(None, [7]), (3.0, [3, 3, 1]), (0.5, [1] * 7), (2.9, [2, 2, 2, 1]), (100.0, [7])]
)
def test_the_rate_also_limits_records_within_a_batch(rate: float | None, portions: list[int]) -> None:
    shelf = Shelf()
    for offset in range(7):
        shelf.add(ORDERS, b"no Avro")
        shelf.letter(record(offset))
    shelf.committed[ORDER] = 7
    # All seven come at once: only the rate splits them.
    job, replayed = replay_of(shelf), Recorder()
    batches = [len(wanted) for _, wanted in job.select(job.ranges()) if wanted]
    steps = list(job.run(job.ranges(), cast("Redeliverer[Any]", replayed), rate))
    letters, redriven = letters_of(shelf), Recorder()
    found: list[Found] = list(letters.find(Selection(), ignored))
    list(letters.redrive(found, cast("Redeliverer[Any]", redriven), 500, rate))
    assert batches == [7]
    assert (replayed.portions, redriven.portions) == (portions, portions)
    assert sum(step.passed for step in steps) == 7
    for each in (replayed, redriven):
        expected = [count / rate for count in portions] if rate else []
        assert each.waited == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("to", "again", "skipped"),
    [(0, 99, 0), (16, 83, 0), (17, 82, 0), (18, 82, 1), (50, 50, 1), (100, 0, 1), (110, 0, 11)],
)
def test_a_move_counts_what_was_decided_beyond_the_committed_offset(to: int, again: int, skipped: int) -> None:
    move = Move("orders", 0, 0, 17, to, ((18, 100),))
    assert (move.again, move.skipped, move.changes) == (again, skipped, True)
    assert not Move("orders", 0, 0, 17, 17).changes
