"""The client and a real API over HTTP: how it reads each answer, and each failure to answer."""

import gzip
import json
import re
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jirafe.client import (
    BATCH_OVERHEAD,
    MAX_REQUEST_BYTES,
    Accepted,
    Answer,
    Answered,
    Array,
    Client,
    Document,
    Exchange,
    Failed,
    Forbidden,
    Refused,
    Rejected,
    Site,
    Transient,
    batch,
)
from jirafe.sandbox import Sandbox, SandboxServer
from tests.rawserver import answering
from transport.http import Reply

TOKEN = "tok-5ecret"
SITE = Site("77", TOKEN)
NOW = datetime(2014, 3, 1, 12, 0, 0, tzinfo=UTC)
DATES = {"create_date": "2014-03-01T08:00:00.000Z", "change_date": "2014-03-01T08:00:00.000Z"}


def placed(number: str, /, **changes: object) -> Document:
    body = {
        "order_number": number,
        "status": "placed",
        "order_date": "2014-03-01",
        "customer": {"id": "1", **DATES},
    }
    return Document("order", orjson.dumps(body | changes))


def category(name: str, /, **changes: object) -> Document:
    return Document("category", orjson.dumps({"id": name, "name": name, **DATES} | changes))


def cart(name: str, /, **changes: object) -> Document:
    money = dict.fromkeys(
        ("subtotal", "total", "total_tax", "total_shipping", "total_payment_cost", "total_discounts"), 0
    )
    body = {"id": name, **DATES, **money, "currency": "EUR", "items": [], "customer": {"id": "1", **DATES}}
    return Document("cart", orjson.dumps(body | changes))


DOCUMENTS = [placed("R1"), cart("R1"), category("9"), placed("R2")]
ALL_ACCEPTED = Answered((Accepted(),) * 4)


class ServedSandbox:
    """A sandbox that runs, and a client of it."""

    def __init__(self, sandbox: Sandbox, url: str) -> None:
        self.sandbox = sandbox
        self.url = url
        self.client = Client(url, timeout=10, now=lambda: NOW)

    def send(self, documents: list[Document] | None = None, site: Site = SITE) -> Answer:
        """Send documents (by default some good ones), and check that no answer shows the token."""
        answer = self.client.send(site, DOCUMENTS if documents is None else documents)
        assert TOKEN not in repr(answer)
        return answer

    def failing(self, action: str, **fault: Any) -> Answer:
        """Send good documents to an API that fails as told, and see that the next ones are accepted again."""
        self.sandbox.add_fault({"action": action, **fault})
        answer = self.send()
        assert self.send() == ALL_ACCEPTED
        return answer

    def arrived(self) -> list[str | None]:
        return [arrival.id for arrival in self.sandbox.events()]


@pytest.fixture
def serve() -> Iterator[Callable[[Sandbox], ServedSandbox]]:
    servers: list[SandboxServer] = []

    def served(sandbox: Sandbox) -> ServedSandbox:
        servers.append(SandboxServer(sandbox).__enter__())
        return ServedSandbox(sandbox, servers[-1].url)

    yield served
    for server in servers:
        server.__exit__()


@pytest.fixture
def api(serve: Callable[[Sandbox], ServedSandbox]) -> ServedSandbox:
    return serve(Sandbox(credentials={TOKEN: ["77"]}))


class TestBatches:
    def test_have_the_format_of_the_api(self) -> None:
        assert batch([Document("order", b"1"), Document("cart", b"2"), Document("order", b"3")]) == (
            b'{"cart":[2],"order":[1,3]}'
        )
        assert batch([Document("category", b"{}")]) == b'{"category":[{}]}'
        assert batch([]) == b"{}"

    ARRAYS = st.sampled_from(["cart", "order", "category"])

    @given(st.lists(st.tuples(ARRAYS, st.integers(0, 99))))
    def test_keep_the_order_and_stay_within_the_overhead(self, numbers: list[tuple[Array, int]]) -> None:
        documents = [Document(array, b"%d" % number) for array, number in numbers]
        composed = batch(documents)
        expected: dict[str, list[int]] = {}
        for array, number in numbers:
            expected.setdefault(array, []).append(number)
        assert orjson.loads(composed) == expected
        assert len(composed) <= BATCH_OVERHEAD + sum(len(document.json) + 1 for document in documents)


class TestRequests:
    def test_events_arrive_in_their_order(self, api: ServedSandbox) -> None:
        documents = [placed(str(number)) for number in range(50)]
        assert api.send(documents) == Answered((Accepted(),) * 50)
        arrivals = api.sandbox.events()
        assert [arrival.id for arrival in arrivals] == [str(number) for number in range(50)]
        assert {(arrival.site, arrival.request) for arrival in arrivals} == {("77", 1)}
        assert arrivals[3].body == orjson.loads(documents[3].json)

    @pytest.mark.parametrize("site_id", ["a/b", "a?b=c", "a#b", "a%2Fb", "ä €", "a b", "../x", "\n"])
    def test_site_ids_are_quoted(self, serve: Callable[[Sandbox], ServedSandbox], site_id: str) -> None:
        api = serve(Sandbox(credentials={TOKEN: [site_id]}))
        assert api.send(site=Site(site_id, TOKEN)) == ALL_ACCEPTED
        assert {arrival.site for arrival in api.sandbox.events()} == {site_id}

    def test_a_trailing_slash_in_the_url_is_ignored(self, api: ServedSandbox) -> None:
        client = Client(api.url + "/", timeout=10)
        assert client.send(SITE, DOCUMENTS) == ALL_ACCEPTED

    def test_netrc_does_not_replace_the_token(
        self, api: ServedSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login ada password other\n")
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))
        assert api.send() == ALL_ACCEPTED

    def test_site_does_not_show_its_token(self) -> None:
        assert TOKEN not in f"{SITE} {SITE!r}"


class TestItemsOfABatch:
    def test_each_event_has_its_own_verdict_in_order(self, api: ServedSandbox) -> None:
        documents = [
            placed("R1", customer=None),
            category("9"),
            cart("C1", total=None, currency=5),
            placed("R2"),
            category("8", name=None),
            placed("R3", status="new"),
        ]
        assert api.send(documents) == Answered(
            (
                Rejected("customer: None is not of type 'object'"),
                Accepted(),
                Rejected("currency: 5 is not of type 'string'; total: None is not of type 'number'"),
                Accepted(),
                Rejected("name: None is not of type 'string'"),
                Rejected("status: 'new' is not one of ['placed', 'accepted', 'cancelled']"),
            )
        )

    def test_one_item_may_have_a_transient_error(self, api: ServedSandbox) -> None:
        transient = Transient("unknown: An unexpected error occurred.")
        assert api.failing("partial", ids=["9"]) == Answered((Accepted(), Accepted(), transient, Accepted()))

    @pytest.mark.parametrize(
        ("verdict", "item"),
        [
            ({"success": True}, Accepted()),
            ({"success": False, "errors": {"id": "bad"}}, Rejected("id: bad")),
            (
                {"success": False, "errors": ["id is bad", {"total": "low"}]},
                Rejected("id is bad; {'total': 'low'}"),
            ),
            ({"success": False, "errors": "b" * 999}, Rejected("b" * 200)),
            (
                {"success": False, "error_type": "invalid_type", "message": "no such"},
                Rejected("invalid_type: no such"),
            ),
            ({"success": False, "error_type": "validation", "errors": {}}, Rejected("validation")),
            ({"success": False, "error_type": "unknown", "message": "m" * 999}, Transient("unknown: " + "m" * 191)),
            ({"success": False}, Transient("no reason given")),
        ],
    )
    def test_verdicts_may_have_several_forms(self, api: ServedSandbox, verdict: object, item: object) -> None:
        page(api, 200, {"category": [verdict]})
        assert api.send([category("9")]) == Answered((item,))  # type: ignore[arg-type]


def page(api: ServedSandbox, status: int, body: object) -> None:
    """Have the next request answered with this status and body, JSON unless it is text."""
    text = body if isinstance(body, str) else orjson.dumps(body).decode()
    content_type = "text/html" if isinstance(body, str) else "application/json"
    api.sandbox.add_fault({"action": "status", "status": status, "body": text, "content_type": content_type})


class TestUnreadable:
    @pytest.mark.parametrize(
        "body",
        [
            "",
            "<html>",
            [],
            {},
            {"success": True},
            {"category": []},
            {"category": [{"success": True}, {"success": True}]},
            {"category": {"success": True}},
            {"category": None},
            {"category": [True]},
            {"category": [{}]},
            {"category": [{"success": "true"}]},
            {"category": [{"success": 1}]},
            {"cart": [{"success": True}]},
        ],
    )
    def test_answers_that_do_not_match_the_batch(self, api: ServedSandbox, body: object) -> None:
        page(api, 200, body)
        answer = api.send([category("9")])
        assert isinstance(answer, Failed)
        assert answer.cause == "unreadable"

    def test_html(self, api: ServedSandbox) -> None:
        assert api.failing("html") == Failed("unreadable", "200 with a body that is not a JSON object")
        assert len(api.arrived()) == 4

    def test_mismatch(self, api: ServedSandbox) -> None:
        assert api.failing("mismatch") == Failed("unreadable", "200 with arrays that do not match the request")
        assert len(api.arrived()) == 8


def answered(text: bytes, documents: list[Document]) -> Answer:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    with answering(head % len(text) + text) as url:
        answer = sent_to(url, documents)
    assert TOKEN not in repr(answer)
    return answer


DEEP = b"[" * 100_000 + b"]" * 100_000


class TestUnusualJson:
    """Unusual JSON is read too, and everything that is quoted from it can be encoded."""

    @pytest.mark.parametrize(
        "text",
        [
            b'\xef\xbb\xbf{"category": [{"success": true}]}',
            '{"category": [{"success": true}]}'.encode("utf-16"),
            '{"category": [{"success": true}]}'.encode("utf-32-be"),
            b'{"category": [{"success": true, "score": NaN}], "took": -Infinity}',
            b'{"category": [{"success": true, "note": "a\tb\x01\x00\nc"}]}',
            b'{"category": [{"success": true, "note": "\\ud83d"}]}',
            b'{"category": [{"success": true, "note": "\xff\xfe"}]}',
            b'{"category": [{"success": true, "id": %b}]}' % (b"9" * 100_000),
            b'{"category": [{"success": true, "id": -%b, "x": "\\udc00"}]}' % (b"9" * 100_000),
            b'{"category": [{"success": true, "id": 1e999999}], "x": NaN}',
            b'{"category": [{"success": false, "success": true}], "category": [{"success": true}]}',
            b'{"category": [{"success": true}], "cart": [], "request_id": "7", "order": [{"success": false}]}',
            b' \r\n\t{"category" : [ {"success":true} ] } \n',
        ],
    )
    def test_unusual_json_is_read(self, text: bytes) -> None:
        assert answered(text, [category("9")]) == Answered((Accepted(),))

    @pytest.mark.parametrize(
        "text",
        [DEEP, b'{"category": [{"success": true, "x": %b}]}' % DEEP, b'{"a":' * 50_000, b"\x00", b"\xff\xfe"],
    )
    def test_an_unreadable_answer_counts_as_an_outage(self, text: bytes) -> None:
        assert answered(text, [category("9")]) == Failed("unreadable", "200 with a body that is not a JSON object")

    def test_errors_nested_too_deeply_are_still_errors(self) -> None:
        deep = b'{"category": [{"success": false, "errors": {"id": %b}}]}' % (b"[" * 1000 + b"]" * 1000)
        answer = answered(deep, [category("9")])
        assert isinstance(answer, Answered)
        assert isinstance(answer.items[0], Rejected)

    @pytest.mark.parametrize(
        ("quoted", "said"),
        [(b"\\ud83d", "\ufffd"), (b"\\ud83d\\ude00", "\U0001f600"), (b"\\ude00\\ud83d!", "\ufffd\ufffd!")],
    )
    def test_half_a_surrogate_pair_is_replaced(self, quoted: bytes, said: str) -> None:
        text = b'{"category": [{"success": false, "errors": {"%b": "%b is bad"}}]}' % (quoted, quoted)
        assert answered(text, [category("9")]) == Answered((Rejected(f"{said}: {said} is bad"),))

    TEXTS = st.text(st.characters(exclude_categories=()), max_size=30)

    @given(TEXTS, TEXTS, st.booleans())
    def test_every_quoted_text_can_be_encoded(self, path: str, problem: str, is_ascii: bool) -> None:  # noqa: FBT001
        verdict = {"success": False, "errors": {path: problem}, "error_type": "validation"}
        text = json.dumps({"category": [verdict]}, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
        client = Client("http://127.0.0.1:1", timeout=1)
        answer = client._read(Reply(200, {}, text), TOKEN, [category("9")])
        assert isinstance(answer, Answered)
        (item,) = answer.items
        assert isinstance(item, Rejected)
        item.message.encode()


class TestFailures:
    @pytest.mark.parametrize("status", [429, 500, 502, 503])
    def test_status(self, api: ServedSandbox, status: int) -> None:
        answer = api.failing("status", status=status)
        assert isinstance(answer, Failed)
        assert (answer.cause, answer.retry_after) == (str(status), None)
        assert f"the API answered {status}: unknown: " in answer.message
        assert len(api.arrived()) == 4

    @pytest.mark.parametrize("status", [429, 503])
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("120", 120),
            ("0", 0),
            ("Sat, 01 Mar 2014 12:01:30 GMT", 90),
            ("Saturday, 01-Mar-14 12:01:30 GMT", 90),
            ("Sat, 01 Mar 2014 12:01:30", 90),
            ("Sat, 01 Mar 2014 13:01:30 +0100", 90),
            ("Sat, 01 Mar 2014 11:00:00 GMT", 0),
            ("soon", None),
            ("-5", None),
            ("1.5", None),
            ("Sat, 99 Mar 2014 12:00:00 GMT", None),
        ],
    )
    def test_retry_after(self, api: ServedSandbox, status: int, text: str, seconds: float | None) -> None:
        answer = api.failing("status", status=status, retry_after=text)
        assert isinstance(answer, Failed)
        assert (answer.cause, answer.retry_after) == (str(status), seconds)

    def test_retry_after_in_digits_that_are_not_ascii(self) -> None:
        with answering(b"HTTP/1.1 503 No\r\nRetry-After: \xb2\r\nContent-Length: 0\r\n\r\n") as url:
            assert sent_to(url, DOCUMENTS) == Failed("503", "the API answered 503")

    def test_redirect_is_not_followed(self, api: ServedSandbox) -> None:
        assert api.failing("redirect") == Failed("302", "the API answered 302")
        assert len(api.arrived()) == 4

    @pytest.mark.parametrize(("after", "arrived"), [(False, 4), (True, 8)])
    def test_reset(self, api: ServedSandbox, after: bool, arrived: int) -> None:  # noqa: FBT001 - a case
        answer = api.failing("reset", after=after)
        assert isinstance(answer, Failed)
        assert answer.cause == "connection"
        assert len(api.arrived()) == arrived

    def test_truncated_answer(self, api: ServedSandbox) -> None:
        answer = api.failing("truncate")
        assert isinstance(answer, Failed)
        assert answer.cause == "connection"
        assert len(api.arrived()) == 8

    def test_answer_later_than_the_timeout(self, api: ServedSandbox) -> None:
        api.sandbox.add_fault({"action": "delay", "seconds": 60})
        impatient = Client(api.url, timeout=0.1)
        assert impatient.send(SITE, DOCUMENTS) == Failed("timeout", "no complete answer within 0.1 seconds")
        assert api.send() == ALL_ACCEPTED

    def test_unreachable_port(self) -> None:
        # Bound, so that nobody else has the port; not listening, so that it refuses.
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}/v2"
            answer = Client(url, timeout=10).send(SITE, DOCUMENTS)
        message = "the request failed (ConnectionError: Connection refused)"
        assert answer == Failed("connection", message)

    @pytest.mark.parametrize(
        "body",
        [
            f"<html>{TOKEN}</html>",
            "",
            [],
            {"message": "no"},
            {"error": "forbidden"},
            {"errors": [{"detail": "no"}]},
            {"errors": {"id": "bad"}},
            {"error_type": "waf"},
            {"success": False, "message": "no"},
            {"error_type": ["invalid_token"]},
            {"error_type": {"validation": 1}},
        ],
    )
    def test_an_error_answer_that_is_not_from_the_api_is_transient(self, api: ServedSandbox, body: object) -> None:
        for status in (400, 401, 403, 404, 405, 407, 413, 422, 451, 499, 503):
            page(api, status, body)
            answer = api.send([category("9")])
            assert isinstance(answer, Failed)
            assert answer.cause == str(status)
            assert answer.message.startswith(f"the API answered {status}")
        assert api.arrived() == []

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ({"error_type": "unknown", "message": "later"}, "unknown: later"),
            ({"message": "later"}, "later"),
            ({"errors": ["a", "b"]}, "a; b"),
            ({"errors": {}, "error_type": "", "message": None}, "no reason given"),
            ({"error_type": " "}, "no reason given"),
            ({"errors": "\t\n"}, "no reason given"),
            ({"errors": ["", " "]}, "no reason given"),
            ({"message": f"what is {TOKEN}?"}, "what is [secret]?"),
            ({"error_type": f"no {TOKEN[:4]}", "message": f"{TOKEN[4:]}!"}, "no [secret]!"),
        ],
    )
    def test_the_reason_quotes_the_api(self, api: ServedSandbox, body: dict[str, object], said: str) -> None:
        page(api, 503, body)
        assert api.send() == Failed("503", f"the API answered 503: {said}")

    @pytest.mark.parametrize("form", ["message", "errors"])
    @pytest.mark.parametrize("between", ["    ", "\u200b", "&#8203;"])
    def test_a_shortened_quote_shows_no_part_of_a_token(
        self, serve: Callable[[Sandbox], ServedSandbox], form: str, between: str
    ) -> None:
        token = "begin0" * 10 + "end"
        said = (between.join(token) + " ") * 1000 + token
        api = serve(Sandbox())
        for cut in range(0, len(token), 7):
            page(api, 503, {form: {"total": said[cut:]} if form == "errors" else said[cut:]})
            answer = api.send(site=Site("77", token))
            assert isinstance(answer, Failed)
            assert "begin0begin0begin0" not in re.sub("[^a-z0-9]", "", answer.message)

    def test_a_token_with_many_commas_does_not_slow_down_the_redaction(
        self, serve: Callable[[Sandbox], ServedSandbox]
    ) -> None:
        api = serve(Sandbox())
        page(api, 503, {"errors": [","] * 10_000})
        assert isinstance(api.send(site=Site("77", "," * 50 + "x" * 8)), Failed)

    @pytest.mark.parametrize(("token", "said"), [("unknown", "unknown"), ("unknowns", "[secret]")])
    def test_a_token_too_short_to_be_a_secret_is_not_hidden(
        self, serve: Callable[[Sandbox], ServedSandbox], token: str, said: str
    ) -> None:
        api = serve(Sandbox())
        page(api, 503, {"message": token})
        assert api.send(site=Site("77", token)) == Failed("503", f"the API answered 503: {said}")


class TestRefusedBatches:
    def test_bad_json(self, api: ServedSandbox) -> None:
        answer = api.send([Document("cart", b'{"id": ')])
        assert isinstance(answer, Refused)
        assert answer.message.startswith("400: bad_json: The body is not JSON that can be read")

    def test_invalid_type(self, api: ServedSandbox) -> None:
        page(api, 400, {"error_type": "invalid_type", "message": "There is no 'x'", "success": False})
        assert api.send() == Refused("400: invalid_type: There is no 'x'")

    def test_validation_of_the_whole(self, api: ServedSandbox) -> None:
        page(api, 400, {"error_type": "validation", "errors": {"id": "bad"}, "success": False})
        assert api.send() == Refused("400: id: bad")

    def test_too_large(self, serve: Callable[[Sandbox], ServedSandbox]) -> None:
        api = serve(Sandbox(max_body=len(batch(DOCUMENTS))))
        assert api.send() == ALL_ACCEPTED
        assert api.send([*DOCUMENTS, placed("R3")]) == Refused("413: the request is too large for the API")
        page(api, 413, "<html>too large</html>")
        assert api.send() == Refused("413: the request is too large for the API")

    def test_a_413_for_a_single_event_is_transient(self, api: ServedSandbox) -> None:
        page(api, 413, "<html>too large</html>")
        assert api.send([category("9")]) == Failed("413", "the API answered 413")

    def test_a_batch_of_the_maximum_size_is_accepted(self, api: ServedSandbox) -> None:
        room = MAX_REQUEST_BYTES - len(batch([category("9", name="")]))
        assert api.send([category("9", name="x" * room)]) == Answered((Accepted(),))
        assert isinstance(api.send([category("9", name="x" * (room + 1))]), Refused)

    @pytest.mark.parametrize(
        ("site", "error_type"),
        [
            (Site("77", "other"), "invalid_token"),
            (Site("77", ""), "invalid_token"),
            (Site("78", TOKEN), "authorization"),
        ],
    )
    def test_forbidden(self, api: ServedSandbox, site: Site, error_type: str) -> None:
        assert api.send(site=site) == Forbidden(error_type)
        assert api.arrived() == []
        assert api.send() == ALL_ACCEPTED


def sent_to(url: str, documents: list[Document], timeout: float = 10) -> Answer:
    return Client(url, timeout=timeout).send(SITE, documents)


def compressed(body: bytes) -> bytes:
    packed = gzip.compress(body, 1)
    return b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(packed), packed)


class TestBodies:
    def test_a_compressed_body_is_read(self) -> None:
        with answering(compressed(b'{"category": [{"success": true}]}')) as url:
            assert sent_to(url, [category("9")]) == Answered((Accepted(),))

    def test_a_huge_body_is_unreadable(self) -> None:
        most = 1024 * 1024 + 4 * len(batch(DOCUMENTS))
        with answering(compressed(bytes(most + 1))) as url:
            expected = Failed("unreadable", f"the answer has more than {most} bytes")
            assert sent_to(url, DOCUMENTS) == expected

    @pytest.mark.parametrize("value", [b"[]", b'""', b"1e9", b"NaN"])
    def test_a_body_of_many_values_is_unreadable(self, value: bytes) -> None:
        with answering(compressed(b'{"category": [%b]}' % b",".join([value] * 200_002))) as url:
            assert sent_to(url, DOCUMENTS) == Failed("unreadable", "the answer has more than 200000 values")


class TestRedirects:
    @pytest.mark.parametrize(
        ("location", "said"),
        [
            (
                b"https://sso.example/login?token=" + TOKEN.encode(),
                ", and redirects to sso.example; see JIRAFE_URL",
            ),
            (b"https://" + TOKEN.encode() + b"/", ", and redirects to [secret]; see JIRAFE_URL"),
            (b"http://[::1", ", and redirects to an address that can't be read"),
            (b"https://\xff\xfe/", ", and redirects to an address that can't be read"),
            (b"https://" + b"h" * 300, ", and redirects to an address that can't be read"),
            (b"http://host:99999999/", ", and redirects to host; see JIRAFE_URL"),
            (b"/v3", ""),
            (b"", ""),
        ],
    )
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_are_failures_wherever_they_point(self, location: bytes, said: str, status: int) -> None:
        head = b"HTTP/1.1 %d Moved\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % (status, location)
        with answering(head) as url:
            assert sent_to(url, DOCUMENTS) == Failed(str(status), f"the API answered {status}{said}")

    def test_have_a_limited_body(self) -> None:
        head = b"HTTP/1.1 302 Moved\r\nLocation: /\r\n\r\n"
        with answering(head, drip=b"x" * 1_000_000) as url:
            answer = sent_to(url, DOCUMENTS)
        most = 1024 * 1024 + 4 * len(batch(DOCUMENTS))
        assert answer == Failed("unreadable", f"the answer has more than {most} bytes")


class TestObserving:
    def test_every_exchange_is_reported(self, api: ServedSandbox) -> None:
        exchanges: list[Exchange] = []
        client = Client(api.url, timeout=10, observe=exchanges.append)
        api.sandbox.add_fault({"action": "status", "status": 503})
        answers = [client.send(SITE, DOCUMENTS), client.send(SITE, DOCUMENTS[:2])]
        assert [exchange.answer for exchange in exchanges] == answers
        assert [(each.site_id, each.events, each.size) for each in exchanges] == [
            ("77", 4, len(batch(DOCUMENTS))),
            ("77", 2, len(batch(DOCUMENTS[:2]))),
        ]
        assert all(0 < exchange.seconds < 60 for exchange in exchanges)
