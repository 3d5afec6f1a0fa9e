"""One try of a chunk at an API that answers by script: what goes in which request, and what is decided."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import orjson
import pytest

from consumer.delivery.defaults import Credentials, Defaults
from consumer.delivery.sending import Attempt, Rules, by_site
from consumer.delivery.suspicion import Sites, SiteTally, Suspicion
from consumer.delivery.work import Fault, Outgoing
from consumer.engine.ports import Trouble
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
from jirafe.services import CART, ORDER_ACCEPTED, ORDER_PLACED, Kind

OURS = Credentials("1", "ours")
SITE = Site("1", "ours")
THEIRS = Site("2", "theirs")
PATIENCE = 60
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
        self.probed: list[Site] = []

    def send(self, _site: Site, documents: Sequence[Document]) -> Answer:
        if documents == [PROBE]:
            self.probed.append(_site)
            return self.script(["probe"])
        names = [orjson.loads(document.json)["name"] for document in documents]
        self.requests.append(names)
        return self.script(names)


def attempt(  # noqa: PLR0913, PLR0917 - each test gives what it is about
    api: Api,
    limits: dict[str, int] | None = None,
    tallies: dict[str, SiteTally] | None = None,
    still_ours: Callable[[], bool] = lambda: True,
    sites: Sites | None = None,
    now: float = 0.0,
    **rules: int,
) -> Attempt:
    bounds = {"max_request_bytes": 10_000, "max_attempts": 3, "patience": PATIENCE, **rules}
    return Attempt(
        cast("Client", api),
        Rules(**bounds),
        Defaults(OURS, {}),
        {} if limits is None else limits,
        {} if tallies is None else tallies,
        {},
        still_ours,
        Sites() if sites is None else sites,
        lambda: now,
    )


def resolved(credentials: Credentials) -> Site:
    return Site(credentials.site_id or "1", credentials.access_token or "ours")


def outcomes(events: Sequence[Outgoing]) -> list[Any]:
    return [each.outcome.kind if isinstance(each.outcome, Fault) else each.outcome for each in events]


def sent(attempt: Attempt, site: Site, events: list[Outgoing]) -> Trouble | None:
    """Send events of one site; gives the trouble of those that stay undecided."""
    troubles: dict[str, Trouble] = {}
    attempt.send([[(site, events)]], troubles)
    return troubles.get(site.site_id)


def test_an_event_never_overtakes_an_earlier_one_of_its_key_in_another_array() -> None:
    api = Api()
    events = [
        event("c1", CART, "R1"),
        event("p1", ORDER_PLACED, "R1"),
        event("c2", CART, "R1"),
        event("c3", CART, "R2"),
    ]
    assert sent(attempt(api), SITE, events) is None
    assert api.requests == [["c1", "p1"], ["c2", "c3"]]


def test_a_request_stays_within_its_size_limit() -> None:
    api = Api()
    assert sent(attempt(api, max_request_bytes=93), SITE, [event(f"e{n}") for n in range(7)]) is None
    assert [len(names) for names in api.requests] == [3, 3, 1]


def test_a_refused_batch_is_bisected_in_order() -> None:
    api = Api(lambda names: Refused("400: bad_json") if "e3" in names else accepting(names))
    events = [event(f"e{n}") for n in range(6)]
    assert sent(attempt(api), SITE, events) is None
    assert outcomes(events) == [Accepted()] * 3 + ["refused"] + [Accepted()] * 2
    accepted = [name for names in api.requests if "e3" not in names for name in names]
    assert accepted == ["e0", "e1", "e2", "e4", "e5"]


def test_events_of_a_site_are_split_by_token_into_runs_in_order() -> None:
    theirs = Credentials("1", "theirs")
    events = [
        event("v1", key="R1", credentials=theirs),
        event("v2", key="R1"),
        event("v3", key="R1", credentials=theirs),
        event("w1", key="W1", credentials=Credentials("2", "theirs")),
    ]
    decided = event("done", credentials=theirs)
    decided.outcome = Accepted()
    first, second = by_site([decided, *events], resolved)
    assert [[each.name for each in run] for _, run in first] == [["v1"], ["v2"], ["v3"]]
    assert [(site, [each.name for each in run]) for site, run in second] == [(Site("2", "theirs"), ["w1"])]


def test_later_events_with_the_key_of_a_suspect_wait() -> None:
    api = Api(lambda names: Failed("503", "down") if "bad" in names else accepting(names))
    limits = {"1": 1}
    events = [event("bad", key="R1"), event("behind", key="R1"), event("other", key="R2")]
    trouble = sent(attempt(api, limits), SITE, events)
    assert isinstance(trouble, Trouble)
    assert api.requests == [["bad"], ["other"]]
    assert outcomes(events) == [None, None, Accepted()]


def test_later_events_of_the_key_of_a_transient_error_stay_undecided() -> None:
    def first_waits(names: list[str]) -> Answer:
        items: list[Item] = [Accepted() for _ in names]
        return Answered((Transient("unknown"), *items[1:]))

    events = [event("v1", key="R1"), event("v2", key="R1"), event("other", key="R2")]
    assert isinstance(sent(attempt(Api(first_waits)), SITE, events), Trouble)
    assert outcomes(events) == [None, None, Accepted()]


def test_a_site_does_not_count_as_working_if_all_items_have_transient_errors() -> None:
    tried = attempt(Api(lambda names: Answered(tuple(Transient("unknown") for _ in names))))
    events = [event("c", CART, "R1"), event("p", ORDER_PLACED, "R1")]
    assert isinstance(sent(tried, SITE, events), Trouble)
    assert tried.working == set()


def test_a_transient_error_stops_the_run_if_the_site_has_accepted_nothing() -> None:
    api = Api(lambda names: Answered(tuple(Transient("unknown") for _ in names)))
    events = [event("e0"), event("e1")]
    assert sent(attempt(api, {"1": 1}), SITE, events) == Trouble("1", "item", "the API says of this event: unknown")
    assert api.requests == [["e0"]]


def test_a_transient_error_does_not_stop_the_run_if_the_site_accepts_others() -> None:
    def e0_waits(names: list[str]) -> Answer:
        return Answered(tuple(Transient("unknown") if name == "e0" else Accepted() for name in names))

    api = Api(e0_waits)
    events = [event(f"e{n}") for n in range(4)]
    assert isinstance(sent(attempt(api, {"1": 2}), SITE, events), Trouble)
    assert api.requests == [["e0", "e1"], ["e2", "e3"]]
    assert outcomes(events) == [None, Accepted(), Accepted(), Accepted()]


def test_a_site_that_refuses_an_event_counts_as_working() -> None:
    tried = attempt(Api(lambda _: Refused("400: bad_json")))
    assert sent(tried, SITE, [event("bad")]) is None
    assert tried.working == {"1"}


@pytest.mark.parametrize("site", [SITE, Site("1", "theirs")])
def test_nothing_more_is_sent_with_a_token_that_was_refused(site: Site) -> None:
    api = Api(lambda _: Forbidden("invalid_token"))
    sent(attempt(api, {"1": 1}), site, [event("e0"), event("e1")])
    assert api.requests == [["e0"]]


def test_a_dead_letter_has_the_reason_of_its_own_event_even_if_later_events_fail() -> None:
    answers = {"bad": Failed("500", "oops"), "good": accepting(["good"]), "late": Failed("429", "slower")}
    tallies = {"1": SiteTally(succeeded=10_000)}
    events = [event("good"), suspect("bad"), suspect("late")]
    bad = events[1]
    api = Api(lambda names: answers[names[0]])
    trouble = sent(attempt(api, {"1": 1}, tallies, max_attempts=1), SITE, events)
    assert trouble == Trouble("1", "429", "slower", isolating=True)
    assert bad.outcome == Fault("failing", "oops, 1 times for this event alone while others succeeded")


def test_a_failing_api_gets_smaller_and_smaller_requests() -> None:
    api = Api(lambda _: Failed("503", "down"))
    limits: dict[str, int] = {}
    events = [event(f"e{n}") for n in range(8)]
    for _ in range(5):
        assert sent(attempt(api, limits), SITE, events) == Trouble("1", "503", "down")
    assert [len(names) for names in api.requests] == [8, 4, 2, 1, 1, 1, 1]
    api.script = accepting
    assert sent(attempt(api, limits), SITE, events) is None
    assert sum(len(names) for names in api.requests[7:]) == 8


def test_no_event_is_given_up_while_all_requests_fail() -> None:
    tallies = {"1": SiteTally(succeeded=10_000)}
    limits = {"1": 1}
    events = [event("e0")]
    for _ in range(200):
        sent(attempt(Api(lambda _: Failed("503", "down")), limits, tallies), SITE, events)
    assert outcomes(events) == [None]


def test_an_event_that_fails_while_all_others_succeed_is_given_up() -> None:
    tallies = {"1": SiteTally()}
    limits = {"1": 1}
    events = [event("bad")]
    tries = 0
    while events[0].outcome is None:
        tries += 1
        sent(attempt(Api(lambda _: Failed("500", "oops")), limits, tallies), SITE, events)
        tallies["1"].succeeded += 1
    assert tries == 4  # no success of others comes before the first
    assert outcomes(events) == ["failing"]


def test_an_event_is_given_up_later_if_most_other_requests_fail_too() -> None:
    tallies = {"1": SiteTally()}
    limits = {"1": 1}
    events = [event("unlucky")]
    tries = 0
    while events[0].outcome is None:
        tries += 1
        sent(attempt(Api(lambda _: Failed("503", "busy")), limits, tallies), SITE, events)
        tallies["1"].succeeded += 1
        tallies["1"].failed += 9
    assert tries > 50


class TestAnEventThatFailsAlone:
    """One event always fails, and nothing else is sent to its site meanwhile."""

    def tries(self, script: Script, moments: Sequence[float]) -> tuple[Outgoing, Api, list[Trouble | None]]:
        tallies: dict[str, SiteTally] = {}
        api, sites, suspect = Api(script), Sites(), event("bad")
        troubles = [sent(attempt(api, {}, tallies, sites=sites, now=now), SITE, [suspect]) for now in moments]
        return suspect, api, troubles

    def test_is_given_up_after_the_attempts_and_the_time_if_probes_show_that_the_site_works(self) -> None:
        suspect, api, troubles = self.tries(failing_for("bad"), [0, 10, 20, 30, 40])
        assert suspect.outcome is None
        assert len(api.probed) == 4  # not before it has failed alone twice
        assert all(trouble and trouble.isolating for trouble in troubles[1:])
        suspect, api, troubles = self.tries(failing_for("bad"), [0, 10, 20, 30, 59, 60])
        assert outcomes([suspect]) == ["failing"]
        assert api.requests == [["bad"]] * 6

    @pytest.mark.parametrize("cause", ["503", "timeout"])
    def test_is_never_given_up_while_probes_fail_too(self, cause: str) -> None:
        suspect, api, troubles = self.tries(lambda _: Failed(cause, "down", None), range(0, 10_000, 100))
        assert suspect.outcome is None
        assert len(api.probed) == 99
        assert not any(trouble and trouble.isolating for trouble in troubles)

    def test_opens_the_gate_of_its_site_for_others_once_a_probe_is_answered(self) -> None:
        tallies: dict[str, SiteTally] = {}
        api, working = Api(failing_for("bad")), []
        suspect = event("bad")
        for now in (0, 10):
            trying = attempt(api, {}, tallies, now=now)
            sent(trying, SITE, [suspect])
            working.append(trying.working)
        assert working == [set(), {"1"}]

    def test_causes_no_probe_if_others_succeed_or_the_partition_is_not_ours(self) -> None:
        tallies: dict[str, SiteTally] = {}
        api, suspect = Api(failing_for("bad")), event("bad")
        for number in range(4):
            sent(attempt(api, {}, tallies), SITE, [suspect, event(f"good{number}")])
        assert api.probed == []
        api = Api(lambda _: Failed("503", "down", None))
        ours = iter([True, True, False])
        suspect = event("bad")
        for _ in range(2):
            sent(attempt(api, {}, {}, lambda: next(ours)), SITE, [suspect])
        assert api.probed == []


def failing_for(name: str) -> Script:
    return lambda names: Failed("503", "down", None) if name in names else accepting(names)


def test_our_refused_token_is_held_and_the_refused_token_of_a_message_is_final() -> None:
    api = Api(lambda _: Forbidden("invalid_token"))
    theirs, ours = [event("theirs")], [event("ours")]
    assert sent(attempt(api), Site("1", "theirs"), theirs) is None
    assert outcomes(theirs) == ["forbidden"]
    held = sent(attempt(api), SITE, ours)
    assert held is not None
    assert held.held
    assert outcomes(ours) == [None]


def test_a_suspect_stays_undecided_when_the_token_is_refused_later() -> None:
    answers = iter([Failed("503", "down"), accepting([""]), Forbidden("invalid_token")])
    limits = {"1": 1}
    events = [event("bad", key="R1"), event("good", key="R2"), event("late", key="R3")]
    api = Api(lambda _: next(answers))
    tried = attempt(api, limits, max_request_bytes=60)
    assert isinstance(sent(tried, Site("1", "theirs"), events), Trouble)
    assert outcomes(events) == [None, Accepted(), "forbidden"]


def test_nothing_is_sent_after_the_partition_was_taken_away() -> None:
    api = Api()
    tried = attempt(api, still_ours=lambda: not api.requests)
    events = [event("c1", CART, "R1"), event("p1", ORDER_PLACED, "R1"), event("c2", CART, "R1")]
    trouble = sent(tried, SITE, events)
    assert trouble is not None
    assert trouble.cause == "not-ours"
    assert api.requests == [["c1", "p1"]]
    assert outcomes(events) == [Accepted(), Accepted(), None]


def test_our_expired_token_holds_messages_that_name_their_own_site_too() -> None:
    events = [event("named")]
    held = sent(attempt(Api(lambda _: Forbidden("invalid_token"))), Site("2", "ours"), events)
    assert held == Trouble(
        "2", "invalid_token", "the API refused the access token for site 2: invalid_token", held=True
    )
    assert outcomes(events) == [None]


def test_a_site_that_our_token_may_not_access_is_a_fault_of_the_event() -> None:
    events = [event("e0"), event("e1")]
    api = Api(lambda _: Forbidden("authorization"))
    assert sent(attempt(api), Site("2", "ours"), events) is None
    assert outcomes(events) == ["forbidden", "forbidden"]
    assert api.requests == [["e0", "e1"]]


def test_throttling_stops_the_run_and_makes_no_suspects() -> None:
    tallies = {"1": SiteTally()}
    limits = {"1": 1}
    events = [event("e0"), event("e1")]
    api = Api(lambda _: Failed("429", "slower", retry_after=7.0))
    assert sent(attempt(api, limits, tallies), SITE, events) == Trouble("1", "429", "slower", 7.0)
    assert api.requests == [["e0"]]
    assert (limits, tallies["1"]) == ({"1": 1}, SiteTally())
    assert [each.suspicion for each in events] == [None, None]


def test_a_rejected_event_has_the_reason_of_the_api() -> None:
    (bad,) = events = [event("bad")]
    assert sent(attempt(Api(lambda _: Answered((Rejected("total: wrong"),)))), SITE, events) is None
    assert bad.outcome == Fault("rejected", "total: wrong")


def test_a_successful_request_raises_the_limit_and_is_reported() -> None:
    limits = {"1": 2}
    tried = attempt(Api(), limits)
    assert sent(tried, SITE, [event(f"e{n}") for n in range(5)]) is None
    assert (limits, tried.working, tried.tallies["1"].succeeded) == ({"1": 8}, {"1"}, 2)


def test_a_proxy_that_refuses_large_requests_gets_few_of_them() -> None:
    api = Api(lambda names: Refused("413") if len(names) > 100 else accepting(names))
    events = [event(f"e{number}") for number in range(1000)]
    assert sent(attempt(api, max_request_bytes=1_000_000), SITE, events) is None
    assert outcomes(events) == [Accepted()] * 1000
    refused = sum(len(names) > 100 for names in api.requests)
    assert refused <= len(api.requests) - refused + 4


@pytest.mark.parametrize(("is_one_working", "requests"), [(False, 2), (True, 100)])
def test_sites_that_all_fail_slowly_are_not_all_tried(*, is_one_working: bool, requests: int) -> None:
    now = [0.0]

    def slow(names: list[str]) -> Answer:
        now[0] += 25
        return accepting(names) if is_one_working and names == ["e0"] else Failed("504", "late")

    tried = attempt(api := Api(slow))
    tried.clock = lambda: now[0]
    troubles: dict[str, Trouble] = {}
    tried.send([[(Site(f"s{number}", "theirs"), [event(f"e{number}")])] for number in range(100)], troubles)
    assert len(api.requests) == requests
    assert len(troubles) == requests - is_one_working


def suspect(name: str) -> Outgoing:
    suspected = event(name)
    suspected.suspicion = Suspicion(0, 0, 0)
    return suspected


def test_a_suspect_is_sent_alone_and_other_events_in_a_batch() -> None:
    api = Api()
    events = [event("e0"), event("e1"), suspect("bad"), event("e3"), event("e4")]
    assert sent(attempt(api), SITE, events) is None
    assert api.requests == [["e0", "e1", "e3", "e4"], ["bad"]]


def test_a_run_ends_at_ten_suspects() -> None:
    api = Api(lambda names: accepting(names) if names == ["good"] else Failed("500", "oops"))
    events = [event("good"), *(suspect(f"bad{n}") for n in range(30))]
    trouble = sent(attempt(api), SITE, events)
    assert trouble == Trouble("1", "500", "oops", isolating=True)
    assert len(api.requests) == 11


def test_a_single_failure_does_not_isolate_an_event_yet() -> None:
    trouble = sent(attempt(Api(lambda _: Failed("500", "oops")), {"1": 1}), SITE, [event("e0")])
    assert trouble == Trouble("1", "500", "oops", isolating=False)


def down(_names: list[str]) -> Answer:
    return Failed("503", "down")


def test_later_events_of_a_suspects_key_stay_after_it_and_all_others_go_first() -> None:
    api = Api()
    bad = event("bad", key="R1")
    bad.suspicion = Suspicion(0, 0, 0)
    events = [event("v0", key="R1"), bad, event("v2", key="R1"), event("w", key="R2")]
    assert sent(attempt(api), SITE, events) is None
    assert api.requests == [["w", "v0"], ["bad"], ["v2"]]


@pytest.mark.parametrize("cause", ["timeout", "connection"])
def test_nothing_more_is_sent_to_a_site_that_cannot_be_reached(cause: str) -> None:
    api = Api(lambda names: accepting(names) if names == ["good"] else Failed(cause, "gone"))
    events = [suspect("s0"), suspect("s1"), event("good")]
    assert isinstance(sent(attempt(api), SITE, events), Trouble)
    assert api.requests == [["good"], ["s0"]]


def answering_probes(names: list[str]) -> Answer:
    return Answered((Rejected("name"),)) if names == ["probe"] else down(names)


class TestASiteThatFailsAll:
    """A site that always fails and that only messages name, while other sites work."""

    @staticmethod
    def tries(api: Api, sites: Sites, seconds: float, others: Callable[[int], None] = lambda _: None) -> int:
        """Try at this interval in seconds until it is given up; 200 tries at most."""
        tallies: dict[str, SiteTally] = {}
        events = [event("lost", key="R1"), event("behind", key="R1"), event("other", key="R2")]
        for number in range(200):
            tried = attempt(api, {}, tallies, sites=sites, now=number * seconds)
            if sent(tried, THEIRS, events) is None:
                assert outcomes(events) == ["failing"] * 3
                return number + 1
            assert outcomes(events) == [None] * 3
            others(number)
        return 200

    def test_is_given_up_after_the_attempts_and_the_time(self) -> None:
        def serve(_: int) -> None:
            sites.succeeded(SITE, sites.of("1"))

        sites = Sites()
        assert self.tries(Api(down), sites, 30.0, serve) == 4  # no success of others comes before the first
        sites = Sites()
        assert self.tries(Api(down), sites, 6.0, serve) == 11  # not before a minute is over

    def test_is_given_up_even_if_nothing_else_is_sent(self) -> None:
        api = Api(answering_probes)
        assert self.tries(api, Sites(), 30.0) == 4
        assert set(api.probed) == {SITE}

    @pytest.mark.parametrize("cause", ["503", "timeout", "connection", "unreadable", "404"])
    def test_is_never_given_up_while_no_site_works(self, cause: str) -> None:
        api = Api(lambda _: Failed(cause, "down"))
        assert self.tries(api, Sites(), 3600.0) == 200

    def test_is_never_given_up_while_other_sites_fail_too(self) -> None:
        """A probe may be answered while no event is accepted."""

        def fail(number: int) -> None:
            sites.failed(sites.of("1"), 3, 60.0, (number + 1) * 3600.0 - 1.0)  # just before the next try

        sites = Sites()
        fail(-1)
        api = Api(answering_probes)
        assert self.tries(api, sites, 3600.0, fail) == 200
        assert api.probed == []

    def test_is_given_up_even_if_the_last_request_to_another_site_failed_long_ago(self) -> None:
        """All sites failed. Then nothing is sent that would show that they work again."""
        sites = Sites()
        sites.failed(sites.of("1"), 3, 60.0, 0.0)
        api = Api(answering_probes)
        assert self.tries(api, sites, 30.0) < 20
        assert set(api.probed) == {SITE}

    def test_its_next_events_are_given_up_at_once_even_if_it_answers_probes(self) -> None:
        tallies: dict[str, SiteTally] = {}
        sites, api, only = Sites(), Api(answering_probes), event("only")
        for number in range(8):
            sent(attempt(api, {}, tallies, sites=sites, now=number * 10.0), THEIRS, [only])
            sites.succeeded(SITE, sites.of("1"))
        assert outcomes([only]) == ["failing"]
        assert api.probed  # it answered probes, but accepted no event
        later = [event("later")]
        assert sent(attempt(api, sites=sites, now=1e6), THEIRS, later) is None
        assert outcomes(later) == ["failing"]

    def test_is_not_given_up_right_after_a_long_pause_between_tries(self) -> None:
        """It may have worked for other members meanwhile."""
        tallies: dict[str, SiteTally] = {}
        sites, only = Sites(), event("only")
        for now in (0.0, 10.0, 20.0, 1000.0, 1010.0):
            sites.succeeded(SITE, sites.of("1"))
            assert isinstance(sent(attempt(Api(down), {}, tallies, sites=sites, now=now), THEIRS, [only]), Trouble)

    def test_is_given_up_much_later_if_others_fail_often(self) -> None:
        def serve_seldom(number: int) -> None:
            for _ in range(19):
                sites.failed(sites.of("1"), 3, 60.0, number)
            sites.succeeded(SITE, sites.of("1"))

        sites = Sites()
        assert self.tries(Api(down), sites, 3600.0, serve_seldom) > 100

    def test_is_not_given_up_for_throttling(self) -> None:
        sites = Sites()
        api = Api(lambda _: Failed("429", "slower"))
        assert self.tries(api, sites, 3600.0, lambda _: sites.succeeded(SITE, sites.of("1"))) == 200

    def test_its_next_events_are_given_up_at_once_until_it_accepts_one(self) -> None:
        def serve(_: int) -> None:
            sites.succeeded(SITE, sites.of("1"))

        sites = Sites()
        self.tries(Api(down), sites, 30.0, serve)
        later = [event("later")]
        assert sent(attempt(Api(down), sites=sites, now=1e6), THEIRS, later) is None
        assert outcomes(later) == ["failing"]
        back = [event("back")]
        assert sent(attempt(Api(), sites=sites, now=1e6), THEIRS, back) is None
        assert outcomes(back) == [Accepted()]
        again = [event("again")]
        assert isinstance(sent(attempt(Api(down), sites=sites, now=1e6), THEIRS, again), Trouble)

    def test_is_given_up_even_if_many_other_such_sites_fail(self) -> None:
        """Failures of sites that do not exist do not show that the API fails."""
        sites = Sites()
        tallies: dict[str, SiteTally] = {}
        lost = {Site(f"x{number}", "theirs"): [event(f"e{number}")] for number in range(100)}
        for number in range(4):
            for site, events in lost.items():
                sent(attempt(Api(down), {}, tallies, sites=sites, now=number * 30.0), site, events)
            sites.succeeded(SITE, sites.of("1"))
        assert {tuple(outcomes(events)) for events in lost.values()} == {("failing",)}

    def test_is_never_given_up_if_the_settings_name_it(self) -> None:
        sites = Sites()
        events = [event("e0")]
        for number in range(200):
            tried = attempt(Api(down), {}, sites=sites, now=number * 3600.0)
            assert isinstance(sent(tried, SITE, events), Trouble)
            sites.succeeded(THEIRS, sites.of("2"))
        assert outcomes(events) == [None]


def test_a_token_removed_from_the_settings_holds_its_events() -> None:
    api = Api()
    held = sent(attempt(api), Site("3", ""), [event("e0")])
    assert held is not None
    assert held.held
    assert api.requests == []
