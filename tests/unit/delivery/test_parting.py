"""Which records of a chunk are set apart, in which strand, and by which names later records wait for them."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest

from consumer.delivery.calls import Callers
from consumer.delivery.defaults import Credentials, Defaults
from consumer.delivery.handler import Decided, Delivery
from consumer.delivery.sending import Rules
from consumer.delivery.work import Work
from consumer.demo.processes import await_that
from consumer.engine.ports import Apart, Behind, Chunk, Done, Retry, Trouble
from consumer.engine.records import Record
from jirafe.client import Answer, Answered, Client, Document, Failed, Forbidden, Refused, Rejected, Site
from schemas.hub import to_message
from tests.messages import order
from tests.unit.delivery.test_handler import CODEC, ORDERS, Api, FlakyCodec, Script, accepting, always, delivery

SICK, WELL = "sick", "well"


def record(offset: int, number: str, site: str, key: str | None = None) -> Record:
    document = order(number, "order:updated")
    given = {"jirafe.access_token": "theirs", "jirafe.site_id": site}
    document["parameters"] = [{"name": name, "value": value} for name, value in given.items()]
    return Record(*ORDERS, offset, 0, (key or number).encode(), CODEC.encode("order", to_message(document)), ())


def chunk_of(*records: Record, behind: Behind | None = None, **changed: object) -> Chunk[Work]:
    attempts = 1 if "work" in changed else 0
    return Chunk(ORDERS, 1, list(records), attempts=attempts, behind=behind or {}, **changed)  # type: ignore[arg-type]


def down(site: Site, names: list[str]) -> Answer:
    return Failed("503", "down") if site.site_id == SICK else accepting(site, names)


def handled(chunk: Chunk[Work], api: Api | None = None) -> Done[Work]:
    done = delivery(api or Api(down)).handle(chunk, always)
    assert isinstance(done, Done)
    return done


def decided(done: Done[Work]) -> list[int]:
    return [output.record.offset for output in done.outputs]


def told(apart: Sequence[Apart[Work]]) -> list[tuple[str, list[int], bool]]:
    """For each part set apart, give its strand, its records, and whether they were tried."""
    return [(each.strand, [record.offset for record in each.records], each.work is not None) for each in apart]


def test_records_of_a_site_in_trouble_are_set_apart_and_others_are_decided() -> None:
    done = handled(chunk_of(record(0, "S1", SICK), record(1, "W1", WELL), record(2, "S2", SICK)))
    assert decided(done) == [1]
    assert told(done.apart) == [(SICK, [0, 2], True)]
    [apart] = done.apart
    assert apart.trouble == Trouble(SICK, "503", "down")
    assert apart.names == [
        frozenset([b"S1", SICK, (SICK, "S1")]),
        frozenset([b"S2", SICK, (SICK, "S2")]),
    ]
    assert done.working == {WELL}


def test_the_whole_chunk_is_retried_if_nothing_may_be_set_apart() -> None:
    chunk = Chunk[Work](ORDERS, 1, [record(0, "S1", SICK), record(1, "W1", WELL)])
    assert isinstance(delivery(Api(down)).handle(chunk, always), Retry)


@pytest.mark.parametrize("name", [SICK, b"S1", (SICK, "S1")])
def test_a_record_waits_in_the_strand_of_an_earlier_record_with_one_of_its_names(name: object) -> None:
    api = Api()
    done = handled(chunk_of(record(3, "S1", SICK), record(4, "W1", WELL), behind={name: (1, "strand")}), api)
    assert told(done.apart) == [("strand", [3], False)]
    assert decided(done) == [4]
    assert [names for _, names in api.requests] == [["W1"]]
    later = handled(chunk_of(record(3, "S1", SICK), behind={name: (5, "strand")}), api)
    assert decided(later) == [3]


def test_a_record_waits_for_its_key_at_the_settings_site_even_if_that_changed_meanwhile() -> None:
    def of_settings(offset: int, key: str) -> Record:
        value = CODEC.encode("order", to_message(order("S1", "order:updated")))
        return Record(*ORDERS, offset, 0, key.encode(), value, ())

    [waiting] = handled(chunk_of(of_settings(0, "K1")), Api(lambda *_: Failed("503", "down"))).apart
    behind: Behind = dict.fromkeys(waiting.names[0], (0, "strand"))
    api = Api()
    subject = delivery(api)
    subject.use(Defaults(Credentials("another", "token"), {}))
    done = subject.handle(chunk_of(of_settings(1, "K2"), behind=behind), always)
    assert isinstance(done, Done)
    assert told(done.apart) == [("strand", [1], False)]
    assert not api.requests


def test_only_its_own_strand_tries_a_site_that_is_known_to_be_down() -> None:
    api = Api()
    chunk = chunk_of(record(0, "S1", SICK), record(1, "W1", WELL), closed=frozenset([SICK]))
    assert told(handled(chunk, api).apart) == [(SICK, [0], False)]
    assert [names for _, names in api.requests] == [["W1"]]
    own = chunk_of(record(0, "S1", SICK), strand=SICK)
    assert decided(handled(own, api)) == [0]


def test_a_key_of_two_sites_is_not_sent_to_the_second_before_the_first_is_decided() -> None:
    api = Api(down)
    done = handled(chunk_of(record(0, "S1", SICK, "K"), record(1, "W1", WELL, "K"), record(2, "W1", WELL)), api)
    assert [names for _, names in api.requests] == [["S1"]]
    assert (decided(done), told(done.apart)) == ([], [(SICK, [0], True), (SICK, [1, 2], False)])
    assert SICK not in done.apart[1].names[0]  # other records of the second site need not wait
    done = handled(chunk_of(record(0, "S1", SICK, "K"), record(1, "W1", WELL, "K")), Api())
    assert (decided(done), told(done.apart)) == ([0], [("", [1], False)])


def test_a_record_without_events_waits_for_its_key_too() -> None:
    tombstone = Record(*ORDERS, 1, 0, b"S1", None, ())
    other = Record(*ORDERS, 2, 0, b"S2", None, ())
    done = handled(chunk_of(record(0, "S1", SICK), tombstone, other))
    assert decided(done) == [2]
    assert told(done.apart) == [(SICK, [0, 1], True)]


def test_only_the_keys_of_suspects_wait_while_their_site_works() -> None:
    api = Api(lambda site, names: Failed("500", "oops") if "BAD" in names else accepting(site, names))
    subject = delivery(api)
    chunk = chunk_of(record(0, "BAD", WELL), record(1, "W1", WELL), record(2, "BAD", WELL))
    for _ in range(5):
        done = subject.handle(chunk, always)
        assert isinstance(done, Done)
        told_apart = told(done.apart)
        [apart] = done.apart
        if apart.trouble and apart.trouble.isolating:
            break
        chunk = chunk_of(*apart.records, strand=apart.strand, work=apart.work)
    assert told_apart == [(f"{WELL} (suspects)", [0, 2], True)]
    assert all(names == frozenset([b"BAD", (WELL, "BAD")]) for names in apart.names)


def test_a_slow_site_has_its_own_strand_if_others_are_fast() -> None:
    subject = delivery(Api())
    clock = [0.0]
    subject._clock = lambda: clock[0]

    def slow(site: Site, names: list[str]) -> Answer:
        clock[0] += 25.0 if site.site_id == SICK else 0.1
        return accepting(site, names)

    subject._client.send.__self__.script = slow  # type: ignore[attr-defined]
    first = subject.handle(chunk_of(record(0, "W1", WELL), record(1, "S1", SICK)), always)
    assert isinstance(first, Done)
    assert decided(first) == [0, 1]
    second = subject.handle(chunk_of(record(2, "W1", WELL), record(3, "S1", SICK)), always)
    assert isinstance(second, Done)
    assert (decided(second), told(second.apart)) == ([2], [(SICK, [3], True)])
    own = subject.handle(chunk_of(record(3, "S1", SICK), strand=SICK, work=second.apart[0].work), always)
    assert isinstance(own, Done)
    assert decided(own) == [3]


class SlowApi(Api):
    """Answers the site SICK only once `release` is set."""

    def __init__(self, script: Script = accepting) -> None:
        super().__init__(script)
        self.release = threading.Event()

    def send(self, site: Site, documents: Sequence[Document]) -> Answer:
        if site.site_id == SICK:
            assert self.release.wait(30)
        return super().send(site, documents)

    @property
    def sent(self) -> list[str]:
        return [name for _, names in self.requests for name in names]


def handing_over(api: Api, decided: Decided = lambda _: None) -> Delivery:
    """A delivery that knows two sites and may leave a request pending."""
    defaults, start = Defaults(Credentials("1", "ours"), {}), Callers(2).start
    subject = Delivery(CODEC, cast("Client", api), Rules(100_000, 3, 60.0), defaults, decided, start=start)
    subject._sites.of(WELL)
    return subject


def test_a_slow_request_does_not_delay_other_sites() -> None:
    api = SlowApi()
    subject = handing_over(api)
    chunk = chunk_of(record(0, "S1", SICK), record(1, "W1", WELL), record(2, "S1", SICK), record(3, "W2", WELL))
    first = subject.handle(chunk, always)
    assert isinstance(first, Done)
    assert (decided(first), told(first.apart)) == ([1, 3], [(SICK, [0, 2], True)])
    [apart] = first.apart
    assert (apart.trouble, api.sent) == (None, ["W1", "W2"])
    assert apart.is_ready
    assert not apart.is_ready()
    # Meanwhile the site counts as slow: its later records wait for it, in whatever chunk they are.
    later = subject.handle(chunk_of(record(4, "S2", SICK), record(5, "W3", WELL)), always)
    assert isinstance(later, Done)
    assert (decided(later), told(later.apart)) == ([5], [(SICK, [4], True)])
    api.release.set()
    await_that("the answer", apart.is_ready)
    own = subject.handle(chunk_of(*apart.records, strand=SICK, work=apart.work), always)
    assert isinstance(own, Done)
    assert decided(own) == [0, 2]
    assert api.sent == ["W1", "W2", "W3", "S1", "S1"]  # each once


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda _, names: Answered(tuple(Rejected("bad") for _ in names)), "rejected"),
        (lambda *_: Forbidden("authorization"), "forbidden"),
        (lambda *_: Refused("400: bad_json"), "refused"),
    ],
)
def test_a_late_answer_decides_the_events_of_a_pending_request(answer: Script, kind: str) -> None:
    api = SlowApi(lambda site, names: answer(site, names) if site.site_id == SICK else accepting(site, names))
    subject = handing_over(api)
    first = subject.handle(chunk_of(record(0, "S1", SICK), record(1, "W1", WELL)), always)
    assert isinstance(first, Done)
    api.release.set()
    own = subject.handle(chunk_of(*first.apart[0].records, strand=SICK, work=first.apart[0].work), always)
    assert isinstance(own, Done)
    [output] = own.outputs
    assert output.dead_letter
    assert output.dead_letter.kind == kind
    assert api.sent == ["W1", "S1"]


def test_a_failed_pending_request_is_retried_before_the_records_that_came_meanwhile() -> None:
    api = SlowApi(down)
    subject = handing_over(api)
    first = subject.handle(chunk_of(record(0, "S1", SICK), record(1, "W1", WELL)), always)
    assert isinstance(first, Done)
    api.release.set()
    chunk = chunk_of(*first.apart[0].records, record(2, "S2", SICK), strand=SICK, work=first.apart[0].work)
    failed = subject.handle(chunk, always)
    assert isinstance(failed, Done)
    assert (decided(failed), told(failed.apart)) == ([], [(SICK, [0, 2], True)])
    assert failed.apart[0].trouble == Trouble(SICK, "503", "down")
    assert api.sent == ["W1", "S1"]  # the second waits until the first is decided
    api.script = accepting
    again = chunk_of(*failed.apart[0].records, strand=SICK, work=failed.apart[0].work)
    mended = subject.handle(again, always)
    assert isinstance(mended, Done)
    assert decided(mended) == [0, 2]
    assert api.sent == ["W1", "S1", "S2", "S1"]  # what failed alone goes last


def test_a_pending_request_whose_old_token_is_refused_is_held() -> None:
    api = SlowApi(
        lambda site, names: Forbidden("invalid_token") if site.site_id == SICK else accepting(site, names)
    )
    subject = handing_over(api)
    subject.use(Defaults(Credentials(SICK, "theirs"), {}))
    first = subject.handle(chunk_of(record(0, "S1", SICK), record(1, "W1", WELL)), always)
    assert isinstance(first, Done)
    subject.use(Defaults(Credentials(SICK, "a new one"), {}))
    api.release.set()
    own = subject.handle(chunk_of(*first.apart[0].records, strand=SICK, work=first.apart[0].work), always)
    assert isinstance(own, Done)
    assert own.apart[0].trouble
    assert own.apart[0].trouble.held


def test_requests_run_in_parallel_across_sites_and_in_order_within_a_site() -> None:
    both = threading.Barrier(2, timeout=30)

    def meet(site: Site, names: list[str]) -> Answer:
        both.wait()
        return accepting(site, names)

    api = Api(meet)
    subject = handing_over(api)
    subject._rules = Rules(230, 3, 60.0)  # so few bytes that each event has a request of its own
    keys = [(SICK, "S1"), (SICK, "S2"), (WELL, "W1"), (WELL, "W2")]
    done = subject.handle(chunk_of(*(record(offset, key, site) for offset, (site, key) in enumerate(keys))), always)
    assert isinstance(done, Done)
    assert decided(done) == [0, 1, 2, 3]
    assert {frozenset(names[0] for _, names in api.requests[at : at + 2]) for at in (0, 2)} == {
        frozenset(["S1", "W1"]),
        frozenset(["S2", "W2"]),
    }


def test_sending_raises_only_after_requests_to_other_sites_have_ended() -> None:
    both, released = threading.Barrier(2, timeout=30), threading.Event()

    def meet(site: Site, names: list[str]) -> Answer:
        both.wait()
        if site.site_id == SICK:
            raise ValueError("unforeseen")
        assert released.wait(30)
        return accepting(site, names)

    threading.Timer(0.1, released.set).start()
    api = Api(meet)
    with pytest.raises(ValueError, match="unforeseen"):
        handing_over(api).handle(chunk_of(record(0, "S1", SICK), record(1, "W1", WELL)), always)
    assert released.is_set()


def test_records_whose_handling_raised_have_no_pending_request() -> None:
    def broken(_: object) -> None:
        raise ValueError("counting")

    api = SlowApi()
    subject = handing_over(api, broken)
    chunk = chunk_of(record(0, "S1", SICK), record(1, "W1", WELL))
    with ThreadPoolExecutor(1) as pool:
        handling = pool.submit(subject.handle, chunk, always)
        await_that("the other site", lambda: api.sent == ["W1"])
        with pytest.raises(TimeoutError):
            handling.result(0.2)
        api.release.set()
        with pytest.raises(ValueError, match="counting"):
            handling.result(30)
    assert api.sent == ["W1", "S1"]


def test_callers_start_nothing_while_no_thread_is_free() -> None:
    callers, release = Callers(1), threading.Event()
    answer = Answered(())

    def slow() -> Answer:
        assert release.wait(30)
        return answer

    busy = callers.start(slow)
    assert busy
    assert callers.start(lambda: answer) is None
    release.set()
    assert busy.result(30) is answer
    await_that("the thread", lambda: callers.start(lambda: answer) is not None)


def test_nothing_is_sent_while_its_result_cannot_be_encoded() -> None:
    codec, api = FlakyCodec(), Api()
    codec.writes = False
    chunk = chunk_of(record(0, "W1", WELL))
    assert isinstance(delivery(api, codec).handle(chunk, always), Retry)
    assert not api.requests
