"""One try of a chunk at an API that answers by script: what goes in which request, and what is decided."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import orjson
from hypothesis import given
from hypothesis import strategies as st

from consumer.chunk import Chunk, Credentials, Fault, Outgoing
from consumer.flood import FloodGuard
from consumer.pulse import Pulse
from consumer.sending import Attempt, Rules, Tally, Trouble, by_site
from jirafe.client import (
    Accepted,
    Answer,
    Answered,
    Client,
    Document,
    Failed,
    Forbidden,
    Item,
    Passing,
    Refused,
    Site,
)
from jirafe.services import CART, ORDER_ACCEPTED, ORDER_PLACED, Kind

OURS = Credentials("1", "ours")
SITE = Site("1", "ours")
Script = Callable[[list[str]], Answer]


def event(name: str, kind: Kind = ORDER_ACCEPTED, key: str = "", credentials: Credentials = OURS) -> Outgoing:
    body = orjson.dumps({"name": name})
    return Outgoing(kind, name, key or name, credentials, Document(kind.array, body))


def accepting(names: list[str]) -> Answer:
    return Answered(tuple(Accepted() for _ in names))


class Api:
    """Answers by a script of the names in each request, and remembers them."""

    def __init__(self, script: Script = accepting) -> None:
        self.script = script
        self.requests: list[list[str]] = []

    def send(self, _site: Site, documents: Sequence[Document]) -> Answer:
        names = [orjson.loads(document.json)["name"] for document in documents]
        self.requests.append(names)
        return self.script(names)


def attempt(api: Api, chunk: Chunk | None = None, tallies: dict[str, Tally] | None = None, **rules: int) -> Attempt:
    bounds = {"max_request_bytes": 10_000, "max_attempts": 3, **rules}
    chunk = chunk or Chunk(("orders", 0), 1)
    return Attempt(
        cast("Client", api), Rules(**bounds), OURS, chunk, lambda: True, {} if tallies is None else tallies
    )


def resolved(credentials: Credentials) -> Site:
    return Site(credentials.site_id or "1", credentials.access_token or "ours")


def outcomes(events: Sequence[Outgoing]) -> list[Any]:
    return [each.outcome.kind if isinstance(each.outcome, Fault) else each.outcome for each in events]


def test_a_later_event_of_a_key_never_overtakes_in_an_earlier_array() -> None:
    api = Api()
    events = [
        event("c1", CART, "R1"),
        event("p1", ORDER_PLACED, "R1"),
        event("c2", CART, "R1"),
        event("c3", CART, "R2"),
    ]
    assert attempt(api).send(SITE, events) is None
    assert api.requests == [["c1", "p1"], ["c2", "c3"]]


def test_a_request_keeps_to_its_bound_of_bytes() -> None:
    api = Api()
    assert attempt(api, max_request_bytes=80).send(SITE, [event(f"e{n}") for n in range(7)]) is None
    assert [len(names) for names in api.requests] == [3, 3, 1]


def test_a_refused_batch_is_bisected_in_order() -> None:
    api = Api(lambda names: Refused("400: bad_json") if "e3" in names else accepting(names))
    events = [event(f"e{n}") for n in range(6)]
    assert attempt(api).send(SITE, events) is None
    assert outcomes(events) == [Accepted()] * 3 + ["refused"] + [Accepted()] * 2
    accepted = [name for names in api.requests if "e3" not in names for name in names]
    assert accepted == ["e0", "e1", "e2", "e4", "e5"]


def test_two_tokens_of_one_site_keep_the_order_and_stop_together() -> None:
    theirs = Credentials("1", "theirs")
    events = [
        event("v1", key="R1", credentials=theirs),
        event("v2", key="R1"),
        event("v3", key="R1", credentials=theirs),
    ]
    (runs,) = by_site(events, resolved)
    assert [[each.name for each in run] for _, run in runs] == [["v1"], ["v2"], ["v3"]]


def test_events_of_a_key_behind_one_that_failed_alone_wait() -> None:
    api = Api(lambda names: Failed("503", "down") if "bad" in names else accepting(names))
    chunk = Chunk(("orders", 0), 1, limits={"1": 1})
    events = [event("bad", key="R1"), event("behind", key="R1"), event("other", key="R2")]
    trouble = attempt(api, chunk).send(SITE, events)
    assert isinstance(trouble, Trouble)
    assert api.requests == [["bad"], ["other"]]
    assert outcomes(events) == [None, None, Accepted()]


def test_an_item_that_waits_has_the_later_ones_of_its_key_sent_again() -> None:
    def first_waits(names: list[str]) -> Answer:
        items: list[Item] = [Accepted() for _ in names]
        return Answered((Passing("unknown"), *items[1:]))

    events = [event("v1", key="R1"), event("v2", key="R1"), event("other", key="R2")]
    assert isinstance(attempt(Api(first_waits)).send(SITE, events), Trouble)
    assert outcomes(events) == [None, None, Accepted()]


def test_all_items_waiting_serve_nothing() -> None:
    tried = attempt(Api(lambda names: Answered(tuple(Passing("unknown") for _ in names))))
    events = [event("c", CART, "R1"), event("p", ORDER_PLACED, "R1")]
    assert isinstance(tried.send(SITE, events), Trouble)
    assert tried.served == set()


def test_a_failing_api_is_probed_with_less_and_less() -> None:
    api = Api(lambda _: Failed("503", "down"))
    chunk = Chunk(("orders", 0), 1)
    events = [event(f"e{n}") for n in range(8)]
    for _ in range(5):
        assert attempt(api, chunk).send(SITE, events) == Trouble("1", "503", "down")
    assert [len(names) for names in api.requests] == [8, 4, 2, 1, 1, 1, 1]
    api.script = accepting
    assert attempt(api, chunk).send(SITE, events) is None
    assert sum(len(names) for names in api.requests[7:]) == 8


def test_an_api_that_fails_all_is_never_an_events_fault() -> None:
    tallies = {"1": Tally(passed=10_000)}
    chunk = Chunk(("orders", 0), 1, limits={"1": 1})
    events = [event("e0")]
    for _ in range(200):
        attempt(Api(lambda _: Failed("503", "down")), chunk, tallies).send(SITE, events)
    assert outcomes(events) == [None]


def test_an_event_that_fails_while_all_others_pass_is_given_up() -> None:
    tallies = {"1": Tally()}
    chunk = Chunk(("orders", 0), 1, limits={"1": 1})
    events = [event("bad")]
    tries = 0
    while events[0].outcome is None:
        tries += 1
        attempt(Api(lambda _: Failed("500", "oops")), chunk, tallies).send(SITE, events)
        tallies["1"].passed += 1
    assert tries == 4  # the first has none before it that others could have passed since
    assert outcomes(events) == ["failing"]


def test_an_api_that_fails_most_takes_more_failures_to_make_it_an_events_fault() -> None:
    tallies = {"1": Tally()}
    chunk = Chunk(("orders", 0), 1, limits={"1": 1})
    events = [event("unlucky")]
    tries = 0
    while events[0].outcome is None:
        tries += 1
        attempt(Api(lambda _: Failed("503", "busy")), chunk, tallies).send(SITE, events)
        tallies["1"].passed += 1
        tallies["1"].failed += 9
    assert tries > 50


def test_a_final_status_is_the_fault_of_a_message_that_brings_its_own_credentials_alone() -> None:
    api = Api(lambda _: Failed("404", "the API answered 404", is_final=True))
    theirs, ours = [event("theirs")], [event("ours")]
    assert attempt(api).send(Site("2", "theirs"), theirs) is None
    assert outcomes(theirs) == ["refused"]
    assert isinstance(attempt(api).send(SITE, ours), Trouble)
    assert outcomes(ours) == [None]


def test_our_own_refused_token_holds_and_a_messages_is_final() -> None:
    api = Api(lambda _: Forbidden("invalid_token"))
    theirs, ours = [event("theirs")], [event("ours")]
    assert attempt(api).send(Site("1", "theirs"), theirs) is None
    assert outcomes(theirs) == ["forbidden"]
    held = attempt(api).send(SITE, ours)
    assert held is not None
    assert held.held
    assert outcomes(ours) == [None]


def test_a_suspect_stays_undecided_when_the_token_is_refused_behind_it() -> None:
    answers = iter([Failed("503", "down"), accepting([""]), Forbidden("invalid_token")])
    chunk = Chunk(("orders", 0), 1, limits={"1": 1})
    events = [event("bad", key="R1"), event("good", key="R2"), event("late", key="R3")]
    api = Api(lambda _: next(answers))
    tried = attempt(api, chunk, max_request_bytes=60)
    assert isinstance(tried.send(Site("1", "theirs"), events), Trouble)
    assert outcomes(events) == [None, Accepted(), "forbidden"]


def test_nothing_is_sent_once_the_partition_is_not_ours() -> None:
    api = Api()
    tried = attempt(api)
    tried.is_ours = lambda: not api.requests
    events = [event("c1", CART, "R1"), event("p1", ORDER_PLACED, "R1"), event("c2", CART, "R1")]
    assert isinstance(tried.send(SITE, events), Trouble)
    assert api.requests == [["c1", "p1"]]


def test_the_flood_guard_watches_a_window_and_lets_one_through_when_released() -> None:
    guard = FloodGuard(window=10, share=0.5)
    assert guard.admits([True] * 9)
    assert guard.admits([True, False] * 10)
    guard.note([True, False] * 5)
    assert not guard.admits([True, True])
    guard.release()
    assert guard.admits([True] * 100)
    guard.note([True] * 9)
    assert guard.admits([True])
    guard.note([True])
    assert not guard.admits([True])


def test_the_flood_guard_holds_until_it_is_released_whatever_comes_behind() -> None:
    guard = FloodGuard(window=10, share=0.5)
    assert not guard.admits([False] * 10 + [True] * 6 + [False] * 50)
    assert guard.holds
    assert not guard.admits([False])
    guard.release()
    assert not guard.holds
    assert guard.admits([False])


@given(letters=st.lists(st.booleans(), max_size=40), noted=st.lists(st.booleans(), max_size=12))
def test_the_flood_guard_looks_at_each_window(letters: list[bool], noted: list[bool]) -> None:
    guard = FloodGuard(window=5, share=0.4)
    guard.note(noted)
    row = [*noted[-5:], *letters]
    ends = range(max(len(row) - len(letters) + 1, 5), len(row) + 1)
    is_flood = any(letters) and any(sum(row[end - 5 : end]) > 2 for end in ends)
    assert guard.admits(letters) != is_flood


def test_the_pulse_tells_that_the_process_stood_still_and_does_not_forget() -> None:
    now = 0.0
    pulse = Pulse(1.0, lambda: now)
    pulse.end()
    assert not pulse.stood_still
    now = 0.9
    assert not pulse.stood_still
    now = 1.5
    assert pulse.stood_still
