"""The client of the Schema Registry: what it requests, how often, and how it reads the answers."""

import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from consumer.demo.processes import await_that
from schemas.codec import Codec, RegistryUnavailable, SchemaId, UnknownSchema
from schemas.own import own_schema
from schemas.registry import Access, Registered, SchemaRefused, SchemaRegistry
from schemas.writers import Schema
from tests.registry import BASIC, PASSWORD, USER, RegistryServer
from tests.unit.test_codec import LESS, LESS_READ, LESS_RECORD, TAXON, confluent, written

HOST = "127.0.0.1"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class EmptyRegistry:
    """A registry without schemas, and without HTTP."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def schema(self, schema_id: SchemaId) -> list[Schema]:
        assert isinstance(schema_id, int)
        self.asked.append(schema_id)
        raise UnknownSchema("there are none")

    def register(self, name: str, schema: Schema) -> int:
        raise RegistryUnavailable(f"there is no room for the {schema['type']} {name}")


def refused(codec: Codec, schema_id: int) -> str:
    with pytest.raises(UnknownSchema) as caught:
        codec.decode(confluent(schema_id, b""))
    return str(caught.value)


class TestRememberedAnswers:
    def test_an_unknown_id_is_remembered_for_ten_seconds(self, registry_server: RegistryServer) -> None:
        clock = Clock()
        codec = Codec(registry_server.registry(), clock=clock)
        said = [refused(codec, 1) for _ in range(100)]
        assert set(said) == {"the schema registry knows no schema with the id 1"}
        assert registry_server.asked == ["GET /schemas/ids/1"]
        # It was only late: a producer's registration may not have reached the registry that we ask.
        record = confluent(registry_server.keep(json.dumps(LESS)), written(LESS, LESS_RECORD))
        clock.now = 9
        refused(codec, 1)
        clock.now = 10
        assert codec.decode(record) == LESS_READ

    @pytest.mark.parametrize(
        "schema", ['"string"', '{"type": "record", "name": "X", "fields": [{"name": "a", "type": "Nope"}]}', "{"]
    )
    def test_an_unusable_schema_is_remembered(self, registry_server: RegistryServer, schema: str) -> None:
        codec = Codec(registry_server.registry())
        schema_id = registry_server.keep(schema)
        first = refused(codec, schema_id)
        assert first.startswith(f"the schema with the id {schema_id} ")
        assert [refused(codec, schema_id) for _ in range(10)] == [first] * 10
        assert len(registry_server.asked) == 1

    def test_a_thousand_unknown_ids_are_remembered(self) -> None:
        registry = EmptyRegistry()
        codec = Codec(registry)
        for schema_id in (1, *range(1000), 999):
            refused(codec, schema_id)
        assert registry.asked == [1, 0, *range(2, 1000)]
        registry.asked.clear()
        refused(codec, 1000)  # takes the place of the first
        refused(codec, 0)
        refused(codec, 1)
        assert registry.asked == [1000, 1]

    def test_an_id_that_is_refused_again_is_remembered_longest(self) -> None:
        registry, clock = EmptyRegistry(), Clock()
        codec = Codec(registry, clock=clock)
        for schema_id in range(1000):
            refused(codec, schema_id)
        clock.now = 10
        for schema_id in (1, 1000, 1001):
            refused(codec, schema_id)
        registry.asked.clear()
        refused(codec, 1)
        assert registry.asked == []

    def test_an_outage_is_not_remembered(self, registry_server: RegistryServer) -> None:
        codec = Codec(registry_server.registry(), clock=Clock())
        record = confluent(registry_server.keep(json.dumps(LESS)), written(LESS, LESS_RECORD))
        registry_server.page = (503, b"")
        with pytest.raises(RegistryUnavailable):
            codec.decode(record)
        registry_server.page = None
        assert codec.decode(record) == LESS_READ

    def test_the_largest_valid_id_is_requested(self) -> None:
        registry = EmptyRegistry()
        assert refused(Codec(registry), 2**31 - 1) == "there are none"
        assert registry.asked == [2**31 - 1]

    @pytest.mark.parametrize("schema_id", [2**31, 2**32 - 1])
    def test_an_id_larger_than_any_valid_one_is_not_requested(
        self, registry_server: RegistryServer, schema_id: int
    ) -> None:
        assert "larger than any" in refused(Codec(registry_server.registry()), schema_id)
        assert registry_server.asked == []


MONEY = {"type": "record", "name": "shop.Money", "fields": [{"name": "amount", "type": "double"}]}
TAG = {"type": "record", "name": "shop.Tag", "fields": [{"name": "price", "type": "Money"}]}
REFERRING = {
    **LESS,
    "fields": [{"name": "price", "type": "shop.Money"}, {"name": "tag", "type": "shop.Tag"}, *LESS["fields"]],
}
MONEY_REFERENCE = {"name": "shop.Money", "subject": "money/eur", "version": 1}
TAG_REFERENCE = {"name": "shop.Tag", "subject": "tag", "version": 1}


class TestReferences:
    def test_a_schema_is_read_with_its_references(self, registry_server: RegistryServer) -> None:
        registry_server.keep(json.dumps(MONEY), "money%2Feur")
        registry_server.keep(json.dumps(TAG), "tag", [MONEY_REFERENCE])
        schema_id = registry_server.keep(json.dumps(REFERRING), "taxons-value", [MONEY_REFERENCE, TAG_REFERENCE])
        inlined = {
            **LESS,
            "fields": [{"name": "price", "type": MONEY}, {"name": "tag", "type": TAG}, *LESS["fields"]],
        }
        record = {**LESS_RECORD, "price": {"amount": 1.5}, "tag": {"price": {"amount": 2.5}}}
        framed = confluent(schema_id, written(inlined, record))
        codec = Codec(registry_server.registry())
        assert codec.decode(framed) == LESS_READ
        assert codec.decode(framed) == LESS_READ
        assert Counter(registry_server.asked) == {
            f"GET /schemas/ids/{schema_id}": 1,
            "GET /subjects/money%2Feur/versions/1?deleted=true": 1,
            "GET /subjects/tag/versions/1?deleted=true": 1,
        }

    def test_a_repeated_reference_does_not_hide_the_next(self, registry_server: RegistryServer) -> None:
        registry_server.keep(json.dumps(MONEY), "money%2Feur")
        registry_server.keep(json.dumps(TAG), "tag", [MONEY_REFERENCE])
        schema_id = registry_server.keep(
            json.dumps(REFERRING), "taxons-value", [MONEY_REFERENCE, MONEY_REFERENCE, TAG_REFERENCE]
        )
        assert registry_server.registry().schema(schema_id) == [MONEY, TAG, REFERRING]

    def test_of_several_versions_of_a_type_the_first_counts(self, registry_server: RegistryServer) -> None:
        newer = {**MONEY, "fields": [*MONEY["fields"], {"name": "currency", "type": "string"}]}
        for version in (MONEY, newer):
            registry_server.keep(json.dumps(version), "money%2Feur")
        registry_server.keep(json.dumps(TAG), "tag", [MONEY_REFERENCE])
        references = [{**MONEY_REFERENCE, "version": 2}, TAG_REFERENCE]
        schema_id = registry_server.keep(json.dumps(REFERRING), "taxons-value", references)
        assert registry_server.registry().schema(schema_id) == [newer, TAG, REFERRING]

    def test_a_deleted_reference_is_read(self, registry_server: RegistryServer) -> None:
        registry_server.keep(json.dumps(MONEY), "money%2Feur")
        registry_server.deleted.add("money%2Feur")
        schema_id = registry_server.keep(json.dumps(TAG), "taxons-value", [MONEY_REFERENCE])
        assert registry_server.registry().schema(schema_id) == [MONEY, TAG]

    def test_a_missing_reference_is_bad_data(self, registry_server: RegistryServer) -> None:
        schema_id = registry_server.keep(json.dumps(REFERRING), "taxons-value", [MONEY_REFERENCE])
        said = refused(Codec(registry_server.registry()), schema_id)
        assert said == "the schema with the id 1 refers to version 1 of money/eur, which the registry doesn't have"

    def test_circular_references_are_bad_data(self, registry_server: RegistryServer) -> None:
        itself = {"name": "shop.Money", "subject": "taxons-value", "version": 1}
        schema_id = registry_server.keep(json.dumps(REFERRING), "taxons-value", [itself])
        assert "can't be used" in refused(Codec(registry_server.registry()), schema_id)

    def test_too_many_references_are_bad_data(self, registry_server: RegistryServer) -> None:
        many = [{**MONEY_REFERENCE, "name": f"m{version}", "version": version} for version in range(1, 102)]
        for number in range(101):
            registry_server.keep(json.dumps({**MONEY, "doc": str(number)}), "money%2Feur")
        schema_id = registry_server.keep(json.dumps(REFERRING), "taxons-value", many[:100])
        assert len(registry_server.registry().schema(schema_id) or ()) == 101
        registry_server.references[schema_id] = many
        assert "refers to more than 100 others" in refused(Codec(registry_server.registry()), schema_id)

    def test_references_that_are_too_large_together_are_bad_data(self, registry_server: RegistryServer) -> None:
        for number in range(3):
            registry_server.keep(json.dumps({**MONEY, "doc": f"{number}" * 900_000}), "money%2Feur")
        three = [{**MONEY_REFERENCE, "name": f"m{version}", "version": version} for version in (1, 2, 3)]
        schema_id = registry_server.keep(json.dumps(REFERRING), "taxons-value", three[:2])
        assert len(registry_server.registry().schema(schema_id) or ()) == 3
        registry_server.references[schema_id] = three
        assert "bytes together" in refused(Codec(registry_server.registry()), schema_id)

    def test_an_error_names_only_the_first_schema_and_the_one_that_is_wrong(
        self, registry_server: RegistryServer
    ) -> None:
        for number in range(1, 50):
            reference = {"name": f"a{number}", "subject": f"s{number - 1}", "version": 1}
            registry_server.keep(json.dumps({**MONEY, "doc": str(number)}), f"s{number}", [reference])
        said = refused(Codec(registry_server.registry()), 49)
        first = "version 1 of s1, which the schema with the id 49 refers to, refers to version 1 of s0"
        assert said == f"{first}, which the registry doesn't have"

    def test_large_answers_of_small_schemas_are_bad_data(self, registry_server: RegistryServer) -> None:
        long = {**MONEY_REFERENCE, "name": "m1", "more": "y" * 900_000}
        for number in range(3):
            registry_server.keep(json.dumps({**MONEY, "doc": str(number)}), "money%2Feur", [long])
        three = [{**MONEY_REFERENCE, "name": f"m{version}", "version": version} for version in (1, 2, 3)]
        schema_id = registry_server.keep(json.dumps(REFERRING), "taxons-value", three)
        assert "bytes together" in refused(Codec(registry_server.registry()), schema_id)

    def test_a_long_subject_is_bad_data(self, registry_server: RegistryServer) -> None:
        reference = {"name": "a", "subject": "s" * 1000, "version": 1}
        schema_id = registry_server.keep(json.dumps(REFERRING), "taxons-value", [reference])
        said = refused(Codec(registry_server.registry()), schema_id)
        assert said.startswith("the schema with the id 1 refers to version 1 of sss")
        registry_server.references[schema_id] = [{**reference, "subject": "s" * 1001}]
        said = refused(Codec(registry_server.registry()), schema_id)
        assert said == "the schema with the id 1 refers to a subject of more than 1000 characters"

    @pytest.mark.parametrize(
        "references",
        [[1], [{}], [{"subject": "a", "version": 1}], [{"name": "a", "subject": "a", "version": "latest"}], 5],
    )
    def test_references_of_an_unknown_form_are_an_outage(
        self, registry_server: RegistryServer, references: Any
    ) -> None:
        schema_id = registry_server.keep(json.dumps(REFERRING), "taxons-value", references)
        with pytest.raises(RegistryUnavailable, match="references in an unknown form"):
            Codec(registry_server.registry()).decode(confluent(schema_id, b""))


class TestRegistering:
    def test_a_registered_schema_needs_no_write_access(self, registry_server: RegistryServer) -> None:
        first = Codec(registry_server.registry()).encode("taxon", TAXON)
        registry_server.asked.clear()
        assert Codec(registry_server.registry()).encode("taxon", TAXON) == first
        assert registry_server.asked == ["POST /subjects/taxons-value"]

    def test_a_schema_that_its_subject_lacks_is_not_registered(self, registry_server: RegistryServer) -> None:
        registry = registry_server.registry()
        assert registry.registered("taxon", own_schema("taxon")) is None
        registry_server.keep(json.dumps(LESS), "taxons-value")
        assert registry.registered("taxon", own_schema("taxon")) is None
        assert registry.register("taxon", own_schema("taxon")) == 2
        assert registry.registered("taxon", own_schema("taxon")) == Registered(id=2, version=2)

    def test_the_order_of_a_schemas_keys_makes_no_new_version(self, registry_server: RegistryServer) -> None:
        registry_server.keep(json.dumps(LESS))
        registry = registry_server.registry()
        schema = own_schema("taxon")
        assert registry.registered("taxon", schema) is None
        assert registry.register("taxon", schema) == 2
        reordered = json.loads(json.dumps(schema, sort_keys=True))
        assert list(reordered) != list(schema)
        assert registry.registered("taxon", reordered) == Registered(id=2, version=1)

    def test_a_refusal_has_the_reason_of_the_registry(self, registry_server: RegistryServer) -> None:
        registry_server.incompatible = ["READER_FIELD_MISSING_DEFAULT_VALUE"]
        with pytest.raises(SchemaRefused) as caught:
            Codec(registry_server.registry()).encode("taxon", TAXON)
        assert str(caught.value) == (
            "the schema registry refuses our schema for taxons-value: "
            "taxons-value: READER_FIELD_MISSING_DEFAULT_VALUE"
        )
        assert caught.value.reason == "taxons-value: READER_FIELD_MISSING_DEFAULT_VALUE"

    def test_a_refusal_may_have_no_reason(self, registry_server: RegistryServer) -> None:
        registry_server.incompatible = [""]
        with pytest.raises(SchemaRefused) as caught:
            registry_server.registry().register("taxon", own_schema("taxon"))
        assert caught.value.reason == "the registry gives no reason"

    def test_the_registrys_error_message_is_quoted(self, registry_server: RegistryServer) -> None:
        registry_server.page = (403, b'{"error_code": 40301, "message": "not for you"}')
        with pytest.raises(RegistryUnavailable, match=r"^the schema registry answered 403: not for you$"):
            registry_server.registry().schema(1)


class TestIncompatibility:
    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ({"is_compatible": True, "messages": ["of no importance"]}, None),
            ({"is_compatible": False, "messages": ["a: missing", "b: missing"]}, "a: missing; b: missing"),
            ({"is_compatible": False, "messages": [], "reason": "code is missing"}, "code is missing"),
            ({"is_compatible": False, "messages": ["a: missing"], "reason": "of no importance"}, "a: missing"),
            ({"is_compatible": False}, "the registry gives no reason"),
            ({"is_compatible": False, "reason": "x" * 501}, "x" * 500 + " ..."),
            ({"is_compatible": False, "reason": "x" * 500}, "x" * 500),
        ],
    )
    def test_says_the_registrys_reason(
        self, registry_server: RegistryServer, answer: dict[str, object], reason: str | None
    ) -> None:
        registry_server.page = (200, json.dumps(answer).encode())
        assert registry_server.registry().incompatibility("taxon", own_schema("taxon")) == reason
        path = "/compatibility/subjects/taxons-value/versions/latest?verbose=true"
        assert registry_server.asked == [f"POST {path}"]

    @pytest.mark.parametrize("error_code", [40401, 40402])
    def test_any_schema_is_compatible_with_a_subject_without_versions(
        self, registry_server: RegistryServer, error_code: int
    ) -> None:
        registry_server.page = (404, json.dumps({"error_code": error_code}).encode())
        assert registry_server.registry().incompatibility("taxon", own_schema("taxon")) is None

    @pytest.mark.parametrize("page", [(404, b"{}"), (500, b"{}"), (200, b"{}"), (200, b'{"is_compatible": "yes"}')])
    def test_any_other_answer_is_an_outage(self, registry_server: RegistryServer, page: tuple[int, bytes]) -> None:
        registry_server.page = page
        with pytest.raises(RegistryUnavailable):
            registry_server.registry().incompatibility("taxon", own_schema("taxon"))


class TestRequests:
    def test_a_subject_may_have_any_name(self, registry_server: RegistryServer) -> None:
        registry = SchemaRegistry(registry_server.url, {"taxon": "shop/taxons ä"}, Access(), timeout=10)
        assert registry.register("taxon", own_schema("taxon")) == 1
        path = "/subjects/shop%2Ftaxons%20%C3%A4"
        assert registry_server.asked == [f"POST {path}", f"POST {path}/versions"]
        assert registry_server.authorizations == [None, None]

    def test_a_registry_may_have_a_path(self, registry_server: RegistryServer) -> None:
        registry = SchemaRegistry(f"{registry_server.url}/api/", {}, Access(), timeout=10)
        with pytest.raises(RegistryUnavailable, match="answered 404"):
            registry.schema(1)
        assert registry_server.asked == ["GET /api/schemas/ids/1"]

    def test_cookies_are_not_kept(self, registry_server: RegistryServer) -> None:
        registry = registry_server.registry()
        schema_id = registry_server.keep(json.dumps(LESS))
        assert [registry.schema(schema_id) for _ in range(2)] == [[LESS], [LESS]]
        assert registry_server.cookies == [None, None]


def test_threads_share_one_client(registry_server: RegistryServer) -> None:
    ids = [registry_server.keep(json.dumps({**LESS, "doc": str(number)})) for number in range(10)]
    codec = Codec(registry_server.registry())
    body = written(LESS, LESS_RECORD)
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(lambda schema_id: codec.decode(confluent(schema_id, body)), ids * 5))
    assert read == [LESS_READ] * 50
    assert set(registry_server.asked) == {f"GET /schemas/ids/{schema_id}" for schema_id in ids}


def at_once(server: RegistryServer, ask: Callable[[], object]) -> list[object]:
    """Ask on 8 threads at the same time, and give each one's answer or error."""

    def asked(_number: int) -> object:
        try:
            return ask()
        except RegistryUnavailable as error:
            return str(error)

    server.answering.clear()
    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(asked, range(8))
        await_that("a request", lambda: bool(server.asked))
        time.sleep(0.2)  # all are waiting now
        server.answering.set()
        return list(answers)


def test_workers_that_need_the_same_schema_ask_once(registry_server: RegistryServer) -> None:
    codec = Codec(registry_server.registry())
    (encoded,) = {*at_once(registry_server, lambda: codec.encode("taxon", TAXON))}
    assert registry_server.asked == ["POST /subjects/taxons-value", "POST /subjects/taxons-value/versions"]
    registry_server.asked.clear()
    assert isinstance(encoded, bytes)
    assert at_once(registry_server, lambda: codec.decode(encoded)) == [TAXON] * 8
    assert registry_server.asked == ["GET /schemas/ids/1"]


def test_workers_that_need_the_same_schema_share_one_failed_request(registry_server: RegistryServer) -> None:
    registry_server.page = (503, b"")
    codec = Codec(registry_server.registry())
    assert len({*at_once(registry_server, lambda: codec.encode("taxon", TAXON))}) == 1
    assert registry_server.asked == ["POST /subjects/taxons-value"]
    registry_server.page = None
    assert codec.decode(codec.encode("taxon", TAXON)) == TAXON


def test_a_schema_that_another_process_just_registered_is_found(registry_server: RegistryServer) -> None:
    registry_server.taken = True
    registry = registry_server.registry()
    assert registry.register("taxon", own_schema("taxon")) == 1
    subject = "POST /subjects/taxons-value"
    assert registry_server.asked == [subject, f"{subject}/versions", subject]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> dict[str, Path]:
    """PEM files by name: ours, the authority's certificate, and that of another authority."""
    ours, other = authority.issue_cert("member@example.com"), trustme.CA()
    blobs = {
        "ca": authority.cert_pem,
        "other_ca": other.cert_pem,
        "certificate": ours.cert_chain_pems[0],
        "key": ours.private_key_pem,
        "both": ours.private_key_and_cert_chain_pem,
    }
    for name, blob in blobs.items():
        blob.write_to_path(tmp_path / f"{name}.pem")
    return {name: tmp_path / f"{name}.pem" for name in (*blobs, "absent")}


@pytest.fixture
def strict(authority: trustme.CA) -> Iterator[RegistryServer]:
    """A registry over TLS that requires both a certificate and a password."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with RegistryServer(context, protected=True) as server:
        server.keep(json.dumps(LESS))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def first_schema(server: RegistryServer, access: Access) -> Any:
    found = SchemaRegistry(server.url, {}, access, timeout=5).schema(1)
    assert found
    (schema,) = found
    return schema


def test_access_by_certificate_and_password(
    strict: RegistryServer, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    access = Access(USER, PASSWORD, files["ca"], files["certificate"], files["key"])
    assert first_schema(strict, access) == LESS
    assert first_schema(strict, Access(USER, PASSWORD, files["ca"], files["both"])) == LESS
    # Certificates and passwords in the environment are not used.
    netrc = files["ca"].with_name("netrc")
    netrc.write_text(f"machine {HOST} login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(files["other_ca"]))
    assert first_schema(strict, access) == LESS
    with pytest.raises(RegistryUnavailable, match="401"):
        first_schema(strict, replace(access, password=None))
    assert strict.authorizations[-1] is None


def test_a_password_that_the_registry_quotes_is_hidden(registry_server: RegistryServer) -> None:
    registry = SchemaRegistry(registry_server.url, {"cart": "carts-value"}, Access(USER, PASSWORD), timeout=5)
    message = {"error_code": 401, "message": f"no {PASSWORD}, {BASIC}"}
    registry_server.page = (401, json.dumps(message).encode())
    for ask in (lambda: registry.schema(1), lambda: registry.register("cart", {})):
        with pytest.raises(RegistryUnavailable) as caught:
            ask()
        assert str(caught.value) == "the schema registry answered 401: no [secret], Basic [secret]"
    registry_server.page = (200, json.dumps({"is_compatible": False, "messages": [PASSWORD, BASIC]}).encode())
    assert registry.incompatibility("cart", {}) == "[secret]; Basic [secret]"


@pytest.mark.parametrize(
    "schema",
    [
        PASSWORD,
        {"type": "record", "name": PASSWORD, "fields": []},
        {"type": "fixed", "name": "a", "size": PASSWORD},
        [{"x": PASSWORD}],
        {**LESS, "fields": [{"name": "b", "type": BASIC}]},
    ],
)
def test_a_schema_that_contains_the_password_is_refused(registry_server: RegistryServer, schema: Any) -> None:
    registry_server.keep(json.dumps(schema), "other")
    for said in (
        refused(Codec(registry_server.registry()), 1),
        refused(
            Codec(registry_server.registry()),
            registry_server.keep('"int"', "ints", [{"name": "a", "subject": "other", "version": 1}]),
        ),
    ):
        assert said.endswith(" contains the password of the registry")
        assert "cret" not in said


def test_the_password_in_a_subject_is_hidden(registry_server: RegistryServer) -> None:
    schema_id = registry_server.keep('"int"', "ints", [{"name": "a", "subject": PASSWORD, "version": 1}])
    said = refused(Codec(registry_server.registry()), schema_id)
    assert said == "the schema with the id 1 refers to version 1 of [secret], which the registry doesn't have"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"password": "wrong"}, "the schema registry answered 401: Unauthorized"),
        ({"password": None}, "the schema registry answered 401: Unauthorized"),
        ({"ca": "other_ca"}, "certificate verify failed"),
        ({"ca": None}, "certificate verify failed"),
        ({"ca": "absent"}, "the schema registry did not answer: the certificates can't be read (OSError)"),
        ({"certificate": None, "key": None}, "the schema registry did not answer"),
    ],
)
def test_refused_access_is_an_outage_that_does_not_show_the_password(
    strict: RegistryServer, files: dict[str, Path], changed: dict[str, str | None], said: str
) -> None:
    right = Access(USER, PASSWORD, files["ca"], files["certificate"], files["key"])
    given: dict[str, Any] = {name: files.get(value or "", value) for name, value in changed.items()}
    access = replace(right, **given)
    with pytest.raises(RegistryUnavailable) as caught:
        first_schema(strict, access)
    assert said in str(caught.value)
    assert not access.password or access.password not in f"{caught.value} {access!r}"
