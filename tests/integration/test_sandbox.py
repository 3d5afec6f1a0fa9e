"""The sandbox over real HTTP: answers as the API gave them, memory of what came, and failure on demand."""

import hashlib
import json
import math
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft4Validator
from referencing import Registry
from referencing.jsonschema import DRAFT4

from jirafe.sandbox import Sandbox, SandboxServer, serve
from jirafe.sandbox.acceptance import compile_checks
from jirafe.sandbox.faults import FaultError
from jirafe.sandbox.validation import load_schemas
from tests.messages import CHARACTERS

DATES = {"create_date": "2013-12-23T16:13:11.000Z", "change_date": "2013-12-23T16:13:11.000Z"}
VISIT = {"visit_id": "1", "visitor_id": "2", "pageview_id": "", "last_pageview_id": ""}
CUSTOMER = {"id": "123", **DATES, "email": "spree@example.com", "active_flag": True}
EMPLOYEE = {"id": "7", **DATES, "email": "clerk@example.com"}
CATEGORY = {"id": "9", "name": "Bags", **DATES, "parent_categories": [{"id": "1"}]}
PRODUCT = {
    "id": "2",
    **DATES,
    "is_product": True,
    "is_sku": True,
    "code": "ROR-00012",
    "rating": 4.5,
    "categories": [{"id": "123", "name": "Bags"}, {"id": "456", "name": "Totes"}],
    "images": [{"url": "http://example.com/bag.png"}],
    "ancestors": ["1"],
    "catalog": {"id": "1"},
}
ITEM = {"id": "2", **DATES, "quantity": 1, "price": 22.99, "discount_price": 0, "product": PRODUCT}
MONEY = {
    "subtotal": 22.99,
    "total": 27.99,
    "total_tax": 5.0,
    "total_shipping": 0,
    "total_payment_cost": 0.0,
    "total_discounts": 0,
    "currency": "USD",
}
CART = {
    "id": "C1",
    **DATES,
    **MONEY,
    "items": [{**ITEM, "cart_item_number": "1"}, {**ITEM, "cart_item_number": "2"}],
    "customer": CUSTOMER,
    "visit": VISIT,
}
PLACED = {
    "order_number": "R1",
    "status": "placed",
    "order_date": "2013-12-23",
    "customer": CUSTOMER,
    "visit": VISIT,
}
ACCEPTED = {
    "order_number": "R1",
    "status": "accepted",
    "order_date": "2013-12-23",
    **DATES,
    **MONEY,
    "total_discounts": -5,
    "customer": CUSTOMER,
    "delivery_address": {"city": "Bethesda"},
    "items": [{**ITEM, "order_item_number": "1", "status": "accepted"}],
}
CANCELLED = {"order_number": "R1", "status": "cancelled", "cancel_date": "2013-12-24"}
EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("cart", CART),
    ("order", PLACED),
    ("order", ACCEPTED),
    ("order", CANCELLED),
    ("category", CATEGORY),
    ("product", PRODUCT),
    ("customer", CUSTOMER),
    ("employee", EMPLOYEE),
]
SUCCESS = {"success": True}


def invalid(**errors: str) -> dict[str, object]:
    return {"error_type": "validation", "errors": errors, "success": False}


def changed(event: Mapping[str, Any], path: str, value: object) -> dict[str, Any]:
    """Return a copy of the event with another value at the path; `...` takes it away."""
    copied: Any = json.loads(json.dumps(event))  # unlike deepcopy, parts that were one object become several
    *way, last = path.split(".")
    part = copied
    for step in way:
        part = part[int(step) if isinstance(part, list) else step]
    place = int(last) if isinstance(part, list) else last
    if value is ...:
        del part[place]
    else:
        part[place] = value
    return dict(copied)


def cart(cart_id: str) -> dict[str, Any]:
    return {**CART, "id": cart_id}


@dataclass(frozen=True)
class ApiClient:
    """A client of a sandbox, over one session."""

    server: SandboxServer
    session: requests.Session

    @property
    def sandbox(self) -> Sandbox:
        return self.server.sandbox

    @property
    def port(self) -> int:
        return urlsplit(self.server.url).port or 0

    def post(self, path: str, body: object, **options: Any) -> requests.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        options.setdefault("headers", {"Authorization": "Bearer secret"})
        return self.session.post(f"{self.server.url}{path}", data=data, timeout=10, **options)

    def control(self, method: str, path: str, **options: Any) -> requests.Response:
        return self.session.request(method, self.server.url.removesuffix("/v2") + path, timeout=10, **options)


@pytest.fixture
def client() -> Iterator[ApiClient]:
    with SandboxServer(Sandbox()) as server, requests.Session() as session:
        yield ApiClient(server, session)


@pytest.fixture(scope="module")
def shared() -> Iterator[ApiClient]:
    """A client of a sandbox that tests share if they do not need a fresh one."""
    with SandboxServer(Sandbox()) as server, requests.Session() as session:
        yield ApiClient(server, session)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "the condition was never met"
        time.sleep(0.01)


class TestVerdicts:
    @pytest.mark.parametrize(("kind", "event"), EVENTS)
    def test_accepts_a_valid_event(self, shared: ApiClient, kind: str, event: dict[str, Any]) -> None:
        answer = shared.post(f"/1/{kind}", event)
        assert (answer.status_code, answer.text) == (200, '{\n  "success": true\n}')
        assert answer.headers["Content-Type"] == "application/json"

    @pytest.mark.parametrize(
        ("event", "path", "value", "message"),
        [
            (CART, "total", None, "None is not of type 'number'"),
            (CART, "total", "27.99", "'27.99' is not of type 'number'"),
            (CART, "total", True, "True is not of type 'number'"),
            (CART, "total", -1, "-1 is less than the minimum of 0"),
            (CART, "total", ..., "'total' is a required property"),
            (CART, "id", 1, "1 is not of type 'string'"),
            (CART, "visit.visit_id", None, "None is not of type 'string'"),
            (CART, "items", {}, "{} is not of type 'array'"),
            (CART, "items.1.price", ..., "'price' is a required property"),
            (CART, "items.0.quantity", 1.0, "1.0 is not of type 'integer'"),
            (
                CART,
                "items.0.quantity",
                9007199254740993,
                "9007199254740993 is greater than the maximum of 9007199254740992",
            ),
            (CART, "items.0.product.code", None, "None is not of type 'string'"),
            (CART, "items.1.product.categories.0.name", ..., "'name' is a required property"),
            (PRODUCT, "is_sku", 1, "1 is not of type 'boolean'"),
            (PRODUCT, "categories", [{"id": "1", "name": "a"}] * 2, None),
            (CUSTOMER, "id", ..., "'id' is a required property"),
            (EMPLOYEE, "email", ..., "'email' is a required property"),
            (CATEGORY, "parent_categories.0.id", 1, "1 is not of type 'string'"),
            (PLACED, "customer", None, "None is not of type 'object'"),
            (ACCEPTED, "items.0.status", "new", "'new' is not one of ['accepted', 'cancelled']"),
            (CANCELLED, "cancel_date", ..., "'cancel_date' is a required property"),
            (PLACED, "status", "canceled", "'canceled' is not one of ['placed', 'accepted', 'cancelled']"),
            (PLACED, "status", None, "None is not one of ['placed', 'accepted', 'cancelled']"),
            (PLACED, "status", ..., "'status' is a required property"),
        ],
    )
    def test_names_what_is_wrong(
        self, shared: ApiClient, event: dict[str, Any], path: str, value: object, message: str | None
    ) -> None:
        kind = next(kind for kind, known in EVENTS if known is event)
        answer = shared.post(f"/1/{kind}", changed(event, path, value))
        body = invalid(**{path: message or f"{value!r} has non-unique elements"})
        assert answer.status_code == 400
        assert answer.text == json.dumps(body, indent=2, sort_keys=True)

    @pytest.mark.parametrize(
        ("kind", "event"),
        [
            ("cart", {**CART, "surprise": None}),
            ("cart", {**CART, "create_date": "2013-07-30T19 =>19 =>05Z"}),
            ("cart", changed(CART, "items", [])),
            (
                "product",
                changed(
                    PRODUCT, "categories", [{"id": "1", "name": "a", "n": 1}, {"id": "1", "name": "a", "n": True}]
                ),
            ),
        ],
    )
    def test_accepts_what_the_api_does_not_validate(
        self, shared: ApiClient, kind: str, event: dict[str, Any]
    ) -> None:
        assert shared.post(f"/1/{kind}", event).json() == SUCCESS

    def test_lists_all_errors_of_an_event(self, shared: ApiClient) -> None:
        event = changed(changed(CART, "currency", ...), "customer.email", 5)
        assert shared.post("/1/cart", event).json() == invalid(
            **{"currency": "'currency' is a required property", "customer.email": "5 is not of type 'string'"}
        )

    def test_judges_each_item_of_a_batch(self, shared: ApiClient) -> None:
        batch = {
            "order": [PLACED, changed(ACCEPTED, "total", None), CANCELLED],
            "cart": [changed(CART, "id", ...), CART, 5],
            "product": [],
        }
        answer = shared.post("/1/batch", batch)
        assert answer.status_code == 200
        assert answer.json() == {
            "order": [SUCCESS, invalid(total="None is not of type 'number'"), SUCCESS],
            "cart": [
                invalid(id="'id' is a required property"),
                SUCCESS,
                invalid(**{"": "5 is not of type 'object'"}),
            ],
            "product": [],
        }


class TestRefusals:
    @pytest.mark.parametrize(
        ("path", "body", "error_type"),
        [
            ("/1/cart", b'{"id": ', "bad_json"),
            ("/1/cart", b"", "bad_json"),
            ("/1/cart", b"\xff\xfe", "bad_json"),
            ("/1/cart", b'{"total": NaN}', "bad_json"),
            ("/1/cart", b'{"total": 1e999}', "bad_json"),
            ("/1/cart", b'{"id": ' + b"[" * 100_000, "bad_json"),
            ("/1/cart", b"[]", "bad_json"),
            ("/1/batch", b"null", "bad_json"),
            ("/1/batch", b'{"cart": {}}', "bad_json"),
            ("/1/batch", b'{"cart": [], "carts": []}', "invalid_type"),
            ("/1/carts", b"{}", "invalid_type"),
        ],
    )
    def test_refuses_what_it_cannot_read(self, shared: ApiClient, path: str, body: bytes, error_type: str) -> None:
        answer = shared.post(path, body)
        assert answer.status_code == 400
        assert answer.json() == {"error_type": error_type, "message": answer.json()["message"], "success": False}

    def test_refuses_a_body_over_the_limit_and_keeps_working(self) -> None:
        body = json.dumps(CART).encode()
        with SandboxServer(Sandbox(max_body=len(body))) as server, requests.Session() as session:
            client = ApiClient(server, session)
            assert client.post("/1/cart", body).status_code == 200
            for too_large in (body + b" ", body.ljust(3_000_000)):
                answer = client.post("/1/cart", too_large)
                assert (answer.status_code, answer.json()["error_type"]) == (413, "too_large")
            assert client.post("/1/cart", body).status_code == 200

    def test_accepts_only_post(self, shared: ApiClient) -> None:
        answer = shared.control("GET", "/v2/1/cart")
        assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
        assert answer.json()["error_type"] == "method_not_allowed"
        assert shared.control("GET", "/v2/1").json()["error_type"] == "not_found"

    @pytest.mark.parametrize(
        "authorization", [None, "", "Bearer", "Bearer ", "Basic c2VjcmV0", "secret", "Bearer a b"]
    )
    def test_requires_a_token(self, shared: ApiClient, authorization: str | None) -> None:
        answer = shared.post("/1/cart", CART, headers={"Authorization": authorization} if authorization else {})
        assert (answer.status_code, answer.json()["error_type"]) == (403, "invalid_token")

    def test_checks_tokens_by_site_and_accepts_new_ones(self) -> None:
        sandbox = Sandbox(credentials={"secret": {"1", "2"}, "other": {"3"}})
        with SandboxServer(sandbox) as server, requests.Session() as session:
            client = ApiClient(server, session)

            def error(site: str, token: str) -> str | None:
                answer = client.post(f"/{site}/cart", CART, headers={"Authorization": f"Bearer {token}"})
                assert answer.status_code == (200 if answer.json()["success"] else 403)
                error_type: str | None = answer.json().get("error_type")
                return error_type

            assert [error("1", "secret"), error("2", "secret"), error("3", "other")] == [None, None, None]
            assert error("3", "secret") == "authorization"
            assert error("1", "expired") == "invalid_token"
            sandbox.set_credentials({"renewed": {"1"}})
            assert [error("1", "secret"), error("1", "renewed")] == ["invalid_token", None]
            sandbox.set_credentials({})
            assert error("1", "renewed") == "invalid_token"
            sandbox.set_credentials(None)
            assert error("1", "secret") is None


class TestMemory:
    def test_remembers_events_in_order_of_arrival(self, client: ApiClient) -> None:
        client.post("/1/cart", CART)
        client.post("/2/batch", {"order": [PLACED, changed(CANCELLED, "cancel_date", ...)], "category": [CATEGORY]})
        client.post("/1/cart", b"nonsense")
        events = client.control("GET", "/sandbox/events").json()
        assert [
            (e["sequence"], e["request"], e["site"], e["kind"], e["status"], e["id"], e["verdict"]) for e in events
        ] == [
            (1, 1, "1", "cart", None, "C1", "accepted"),
            (2, 2, "2", "order", "placed", "R1", "accepted"),
            (3, 2, "2", "order", "cancelled", "R1", "rejected"),
            (4, 2, "2", "category", None, "9", "accepted"),
        ]
        assert [e["body"] for e in events] == [CART, PLACED, changed(CANCELLED, "cancel_date", ...), CATEGORY]
        canonical = json.dumps(CART, sort_keys=True, separators=(",", ":"))
        assert events[0]["digest"] == hashlib.sha256(canonical.encode()).hexdigest()
        assert events[0]["received"] <= events[1]["received"] == events[2]["received"]

    def test_finds_events(self, client: ApiClient) -> None:
        client.post("/1/batch", {"cart": [cart("a"), cart("b")], "category": [{**CATEGORY, "id": "a"}]})
        client.post("/2/cart", cart("a"))

        def found(query: str) -> list[int]:
            return [event["sequence"] for event in client.control("GET", f"/sandbox/events?{query}").json()]

        assert found("site=1") == [1, 2, 3]
        assert found("kind=cart") == [1, 2, 4]
        assert found("id=a") == [1, 3, 4]
        assert found("site=1&kind=cart&id=a") == [1]
        assert found("after=2") == [3, 4]
        assert found("after=1&limit=2") == [2, 3]
        assert found("after=99") == []
        most = 10**20 - 1
        assert (found(f"limit={most}"), found(f"after={most}")) == ([1, 2, 3, 4], [])
        assert [event.sequence for event in client.sandbox.events(event_id="a", after=1)] == [3, 4]

    @pytest.mark.parametrize("query", ["after=x", "limit=-1", "ids=a"])
    def test_refuses_a_query_it_does_not_understand(self, shared: ApiClient, query: str) -> None:
        answer = shared.control("GET", f"/sandbox/events?{query}")
        assert (answer.status_code, answer.json()["error_type"]) == (400, "bad_request")

    def test_counts_events_and_requests(self, client: ApiClient) -> None:
        client.post("/1/batch", {"cart": [CART, {}], "category": [CATEGORY]})
        client.post("/1/cart", {})
        client.post("/1/cart", CART, headers={})
        assert client.control("GET", "/sandbox/stats").json() == {
            "events": {"cart": {"accepted": 1, "rejected": 2}, "category": {"accepted": 1}},
            "last_sequence": 4,
            "logged": 4,
            "requests": {"200": 1, "400": 1, "403": 1},
        }

    def test_forgets_but_never_reuses_a_sequence_number(self, client: ApiClient) -> None:
        client.post("/1/cart", CART)
        assert client.control("DELETE", "/sandbox/events").ok
        assert client.control("GET", "/sandbox/events").json() == []
        assert client.sandbox.stats() == {"events": {}, "last_sequence": 1, "logged": 0, "requests": {}}
        client.post("/1/cart", CART)
        assert [event.sequence for event in client.sandbox.events()] == [2]

    def test_its_memory_is_bounded(self) -> None:
        with SandboxServer(Sandbox(keep_events=3, keep_bodies=2)) as server, requests.Session() as session:
            ApiClient(server, session).post("/1/batch", {"cart": [cart(name) for name in "abcde"]})
            kept = server.sandbox.events()
            assert [(e.sequence, e.id) for e in kept] == [(3, "c"), (4, "d"), (5, "e")]
            assert [e.body for e in kept] == [None, cart("d"), cart("e")]
            assert server.sandbox.stats()["events"] == {"cart": {"accepted": 5}}

    def test_shows_no_token(self, client: ApiClient) -> None:
        client.sandbox.set_credentials({"secret": {"1"}})
        client.post("/1/cart", CART)
        client.post("/2/cart", CART)
        shown = [
            client.control("GET", path).text
            for path in ("/", "/sandbox/events", "/sandbox/stats", "/sandbox/faults")
        ]
        assert "secret" not in "".join(shown)

    def test_says_what_it_is(self, shared: ApiClient) -> None:
        about = shared.control("GET", "/").json()
        assert "stand-in" in about["about"]
        assert "GET /sandbox/stats" in about["endpoints"]


class TestFaults:
    def test_fails_as_often_as_requested(self, client: ApiClient) -> None:
        told = client.control("POST", "/sandbox/faults", json={"action": "status", "times": 2})
        assert (told.status_code, told.json()) == (201, {"action": "status", "number": 1, "times": 2})
        answers = [client.post("/1/cart", CART) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [503, 503, 200]
        assert answers[0].json() == {
            "error_type": "unknown",
            "message": "An unexpected error occurred.",
            "success": False,
        }
        assert len(client.sandbox.events()) == 1

    def test_fails_until_cleared(self, client: ApiClient) -> None:
        client.sandbox.add_fault({"action": "status", "status": 500, "times": None})
        assert [client.post("/1/cart", CART).status_code for _ in range(3)] == [500] * 3
        assert client.control("GET", "/sandbox/faults").json() == [
            {"action": "status", "status": 500, "times": None, "number": 1, "remaining": None, "applied": 3}
        ]
        client.control("DELETE", "/sandbox/faults")
        assert client.sandbox.faults() == []
        assert client.post("/1/cart", CART).status_code == 200

    def test_answers_with_a_given_body_and_retry_after(self, client: ApiClient) -> None:
        client.sandbox.add_fault({"action": "status", "status": 429, "retry_after": "7"})
        client.sandbox.add_fault(
            {"action": "status", "status": 502, "body": "<h1>Bad Gateway</h1>", "content_type": "text/html"}
        )
        limited, page = client.post("/1/cart", CART), client.post("/1/cart", CART)
        assert (limited.status_code, limited.headers["Retry-After"]) == (429, "7")
        assert limited.json()["success"] is False
        assert (page.status_code, page.text, page.headers["Content-Type"]) == (
            502,
            "<h1>Bad Gateway</h1>",
            "text/html",
        )

    def test_the_first_fault_that_matches_wins_after_the_delays(self, client: ApiClient) -> None:
        for description in (
            {"action": "status", "status": 500, "site": "2"},
            {"action": "delay", "seconds": 0.01, "times": None},
            {"action": "status", "status": 502},
            {"action": "status", "status": 504},
        ):
            client.sandbox.add_fault(description)
        assert [client.post("/1/cart", CART).status_code for _ in range(3)] == [502, 504, 200]
        assert client.post("/2/cart", CART).status_code == 500
        assert [fault["applied"] for fault in client.sandbox.faults()] == [1, 3, 1, 1]

    def test_a_delayed_event_is_accepted_after_the_client_has_gone(self, client: ApiClient) -> None:
        client.sandbox.add_fault({"action": "delay", "seconds": 0.3})
        with pytest.raises(requests.ReadTimeout):
            client.session.post(
                f"{client.server.url}/1/cart", json=CART, headers={"Authorization": "Bearer 1"}, timeout=0.1
            )
        eventually(lambda: len(client.sandbox.events()) == 1)

    @pytest.mark.parametrize("after", [False, True])
    def test_resets_the_connection(self, client: ApiClient, after: bool) -> None:  # noqa: FBT001 - a case, not a switch
        client.sandbox.add_fault({"action": "reset", "after": after})
        with pytest.raises(requests.ConnectionError, match="Connection reset by peer"):
            client.post("/1/cart", CART)
        assert len(client.sandbox.events()) == after
        assert client.post("/1/cart", CART).status_code == 200
        assert client.sandbox.stats()["requests"] == {"200": 1, "reset": 1}

    def test_cuts_the_answer_in_the_middle(self, client: ApiClient) -> None:
        client.sandbox.add_fault({"action": "truncate"})
        with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
            client.post("/1/cart", CART)
        assert len(client.sandbox.events()) == 1
        assert client.post("/1/cart", CART).status_code == 200

    def test_answers_with_a_web_page(self, client: ApiClient) -> None:
        client.sandbox.add_fault({"action": "html"})
        answer = client.post("/1/cart", CART)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/html")
        assert client.sandbox.events() == []

    def test_redirects(self, client: ApiClient) -> None:
        client.sandbox.add_fault({"action": "redirect"})
        answer = client.post("/1/cart", CART, allow_redirects=False)
        assert (answer.status_code, answer.headers["Location"]) == (302, "/")
        assert client.sandbox.events() == []

    def test_gives_some_items_a_transient_error(self, client: ApiClient) -> None:
        client.sandbox.add_fault({"action": "partial", "ids": ["b", "R1"], "times": None})
        transient = {"error_type": "unknown", "message": "An unexpected error occurred.", "success": False}
        batch = {"cart": [cart("a"), cart("b"), {**cart("c"), "total": None}], "order": [PLACED]}
        assert client.post("/1/batch", batch).json() == {
            "cart": [SUCCESS, transient, invalid(total="None is not of type 'number'")],
            "order": [transient],
        }
        assert [event.verdict for event in client.sandbox.events()] == [
            "accepted",
            "unknown",
            "rejected",
            "unknown",
        ]
        assert client.post("/1/batch", {"cart": [cart("a")]}).json() == {"cart": [SUCCESS]}
        alone = client.post("/1/cart", cart("b"))
        assert (alone.status_code, alone.json()) == (503, transient)

    def test_gives_the_first_item_a_transient_error_by_default(self, client: ApiClient) -> None:
        client.sandbox.add_fault({"action": "partial"})
        assert client.post("/1/batch", {"cart": []}).json() == {"cart": []}
        answer = client.post("/1/batch", {"cart": [CART, CART]}).json()
        assert [item["success"] for item in answer["cart"]] == [False, True]

    def test_leaves_out_the_result_of_an_item(self, client: ApiClient) -> None:
        client.sandbox.add_fault({"action": "mismatch"})
        assert client.post("/1/cart", CART).json() == SUCCESS
        answer = client.post("/1/batch", {"order": [PLACED], "cart": [CART, CART], "category": [CATEGORY]})
        assert answer.json() == {"cart": [SUCCESS], "category": [SUCCESS], "order": [SUCCESS]}
        assert len(client.sandbox.events()) == 5

    def test_a_fault_may_be_for_some_ids_only(self, client: ApiClient) -> None:
        client.sandbox.add_fault({"action": "status", "ids": ["b"], "times": None})
        batches = [["a"], ["a", "b"], ["c"], ["b"]]
        statuses = [
            client.post("/1/batch", {"cart": [cart(name) for name in batch]}).status_code for batch in batches
        ]
        assert statuses == [200, 503, 200, 503]

    def test_a_fault_applies_before_the_token_is_checked(self, client: ApiClient) -> None:
        client.sandbox.set_credentials({})
        client.sandbox.add_fault({"action": "status"})
        assert [client.post("/1/cart", CART).status_code for _ in range(2)] == [503, 403]

    def test_a_seed_makes_random_faults_repeatable(self) -> None:
        def statuses() -> list[int]:
            sandbox = Sandbox(seed=7)
            sandbox.add_fault({"action": "status", "times": None, "probability": 0.5})
            with SandboxServer(sandbox) as server, requests.Session() as session:
                return [ApiClient(server, session).post("/1/category", CATEGORY).status_code for _ in range(30)]

        first = statuses()
        assert set(first) == {200, 503}
        assert statuses() == first

    @pytest.mark.parametrize(
        ("description", "sentence"),
        [
            ([], "A fault is described by one JSON object."),
            (
                {},
                "An action is one of status, delay, reset, truncate, html, partial, mismatch, redirect.",
            ),
            ({"action": "delay"}, "A delay needs seconds."),
            ({"action": "delay", "seconds": -1}, "seconds must be a number from 0 to 86400, not -1."),
            ({"action": "delay", "seconds": 1e5}, "seconds must be a number from 0 to 86400, not 100000.0."),
            ({"action": "html", "times": 0}, "times must be a positive integer or null, not 0."),
            ({"action": "html", "times": True}, "times must be a positive integer or null, not True."),
            ({"action": "html", "ids": []}, "ids must be a list of at least one string, not []."),
            ({"action": "html", "site": 1}, "site must be a string, not 1."),
            ({"action": "html", "probability": 2}, "probability must be a number from 0 to 1, not 2."),
            ({"action": "status", "status": 99}, "status must be an integer from 200 to 599, not 99."),
            (
                {"action": "status", "retry_after": 5},
                "retry_after must be a string that can stand in a header, not 5.",
            ),
            ({"action": "reset", "after": "no"}, "after must be true or false, not 'no'."),
            ({"action": "html", "tiems": 1}, "The action html takes no tiems."),
        ],
    )
    def test_refuses_a_bad_description(self, shared: ApiClient, description: Any, sentence: str) -> None:
        answer = shared.control("POST", "/sandbox/faults", json=description)
        assert (answer.status_code, answer.json()["message"]) == (400, sentence)
        with pytest.raises(FaultError):
            shared.sandbox.add_fault(description)
        assert shared.sandbox.faults() == []

    @pytest.mark.parametrize("seconds", ["1e400", "1" + "0" * 400])
    def test_refuses_an_infinite_delay(self, shared: ApiClient, seconds: str) -> None:
        description = f'{{"action": "delay", "seconds": {seconds}}}'
        answer = shared.control("POST", "/sandbox/faults", data=description)
        assert answer.status_code == 400
        assert answer.json()["message"].startswith("seconds must be a number from 0 to 86400, not ")
        with pytest.raises(FaultError):
            shared.sandbox.add_fault({"action": "delay", "seconds": math.nan})
        assert shared.sandbox.faults() == []


class TestServer:
    def test_serves_many_requests_over_one_connection(self, shared: ApiClient) -> None:
        headers = {"Authorization": "Bearer secret"}
        with closing(HTTPConnection("127.0.0.1", shared.port, timeout=10)) as connection:
            connection.connect()
            connected = connection.sock
            for body, status in [(json.dumps(CATEGORY), 200), ("{}", 400), ("nonsense", 400)] * 20:
                connection.request("POST", "/v2/1/category", body, headers)
                with connection.getresponse() as answer:
                    assert (answer.status, bool(answer.read())) == (status, True)
                assert connection.sock is connected

    def test_ignores_a_client_that_disconnects(self, client: ApiClient, caplog: pytest.LogCaptureFixture) -> None:
        head = b"POST /v2/1/cart HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
        with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
            connection.sendall(head + b"half a body")
        assert client.post("/1/cart", CART).status_code == 200
        assert client.sandbox.stats()["requests"] == {"200": 1}
        assert caplog.records == []

    def test_can_start_again_on_the_same_port(self) -> None:
        sandbox = Sandbox()
        with SandboxServer(sandbox) as server, requests.Session() as session:
            client = ApiClient(server, session)
            client.post("/1/cart", CART)
        with pytest.raises(requests.ConnectionError):
            requests.get(server.url, timeout=10)
        with SandboxServer(sandbox, client.port) as server, requests.Session() as session:
            ApiClient(server, session).post("/1/cart", CART)
        assert len(sandbox.events()) == 2

    def test_raises_if_its_port_is_in_use(self, shared: ApiClient) -> None:
        with pytest.raises(OSError, match="in use"), SandboxServer(Sandbox(), shared.port):
            pass
        with pytest.raises(OSError, match="in use"):
            serve(Sandbox(), "127.0.0.1", shared.port, ready=print)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_serves_until_it_gets_a_signal(self, number: signal.Signals) -> None:
        program = (
            "from jirafe.sandbox import Sandbox, serve\n"
            "serve(Sandbox(), '127.0.0.1', 0, lambda url: print(url, flush=True))\n"
            "print('stopped')\n"
        )
        with subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            with requests.Session() as session:  # keeps its connection open over the end of the server
                headers = {"Authorization": "Bearer 1"}
                assert session.post(f"{url}/1/cart", json=CART, headers=headers, timeout=10).json() == SUCCESS
                process.send_signal(number)
                out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "stopped\n", "")


SCHEMAS = load_schemas()
QUICK = compile_checks(SCHEMAS)
REGISTRY: Registry[Any] = Registry().with_resources(
    (name, DRAFT4.create_resource(schema)) for name, schema in SCHEMAS.items()
)
JUDGES = {name: Draft4Validator(schema, registry=REGISTRY) for name, schema in SCHEMAS.items()}
DOCUMENTS: list[tuple[str, dict[str, Any]]] = [
    (f"order-{event['status']}.json" if kind == "order" else f"{kind}.json", event) for kind, event in EVENTS
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(CHARACTERS, max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(CHARACTERS, max_size=5), inner, max_size=3),
    max_leaves=5,
)
BOUNDS: st.SearchStrategy[Any] = st.sampled_from(
    [0, -1, 1.0, -0.5, 2**53, 2**53 + 1, -(2**53) - 1, True, None, "accepted", "", [], {}]
)


def paths(value: object, path: str = "") -> Iterator[str]:
    """Yield the path of everything within a JSON value that a dotted path can name."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, part in parts:
        if "." not in str(step):
            yield f"{path}{step}"
            yield from paths(part, f"{path}{step}.")


class TestQuickCheck:
    @pytest.mark.parametrize(("name", "event"), DOCUMENTS)
    def test_passes_a_valid_event(self, name: str, event: dict[str, Any]) -> None:
        assert QUICK[name](event)

    @settings(max_examples=500, deadline=None)
    @given(st.data())
    def test_agrees_with_jsonschema(self, data: st.DataObject) -> None:
        name, event = data.draw(st.sampled_from(DOCUMENTS))
        for _ in range(data.draw(st.integers(0, 3))):
            if there := list(paths(event)):
                event = changed(event, data.draw(st.sampled_from(there)), data.draw(st.just(...) | BOUNDS | JSON))
        assert QUICK[name](event) == JUDGES[name].is_valid(event)

    @given(st.sampled_from(sorted(SCHEMAS)), JSON)
    def test_agrees_with_jsonschema_on_any_json(self, name: str, value: object) -> None:
        assert QUICK[name](value) == JUDGES[name].is_valid(value)

    def test_leaves_items_that_only_python_considers_equal_to_jsonschema(self) -> None:
        categories = [{"id": "1", "name": "a", "n": 1}, {"id": "1", "name": "a", "n": True}]
        event = changed(PRODUCT, "categories", categories)
        assert not QUICK["product.json"](event)
        assert JUDGES["product.json"].is_valid(event)

    @pytest.mark.parametrize("schema", [{"type": "string", "pattern": "x"}, {"type": "null"}])
    def test_refuses_a_schema_that_it_does_not_support(self, schema: dict[str, str]) -> None:
        with pytest.raises(ValueError, match="no check is written"):
            compile_checks({"other.json": schema})
