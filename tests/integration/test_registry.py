"""The Confluent framing and our commands against a real Schema Registry; the commands also against a small one."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import requests

from brokers.registry import ApicurioRegistry
from consumer import app, settings
from consumer.demo.processes import await_that, free_port
from schemas.codec import Codec
from schemas.hub import to_message
from schemas.own import OWN_SCHEMAS, own_schema
from schemas.registry import Access, SchemaRegistry
from tests.command import run
from tests.messages import cart, order
from tests.registry import RegistryServer
from tests.stand import Stand
from tests.unit.test_codec import plain
from tests.unit.test_java import FIXTURES

JAVA_ORDER = (FIXTURES / "evolved-order.bin").read_bytes()
JAVA_WRITER = (FIXTURES / "evolved-order.avsc").read_text()


def put(registry: ApicurioRegistry, subject: str, schema: str, **more: Any) -> int:
    """Register any schema, as another producer does, and give its id."""
    body = {"schema": schema, **more}
    answer = requests.post(f"{registry.url}/subjects/{subject}/versions", json=body, timeout=10)
    assert answer.status_code == 200, answer.text
    schema_id: int = answer.json()["id"]
    return schema_id


def demand_compatibility(registry: ApicurioRegistry, subject: str) -> None:
    """Have the registry check new versions of a subject, as Confluent's does by default."""
    answer = requests.put(f"{registry.url}/config/{subject}", json={"compatibility": "BACKWARD"}, timeout=10)
    assert answer.status_code == 200, answer.text


def framed(schema_id: int, value: bytes) -> bytes:
    """Put a record's Avro under an id of the registry."""
    return b"\x00" + schema_id.to_bytes(4, "big") + value[5:]


def of_java(registry: ApicurioRegistry, stand: Stand) -> bytes:
    """Java's order under the id that the registry gives its writer's schema."""
    return framed(put(registry, f"{stand.orders_topic}-value", JAVA_WRITER), JAVA_ORDER)


def states(output: str) -> dict[str, str]:
    return {each["schema"]: each["state"] for each in map(json.loads, output.splitlines())}


@pytest.fixture
def with_registry(stand: Stand, registry: ApicurioRegistry) -> Stand:
    """A stand whose members and codec use the real registry."""
    stand.environment["CONSUMER_SCHEMA_REGISTRY_URL"] = registry.url
    stand.codec = app.make_codec(settings.load(None, stand.environment))
    return stand


class TestCommands:
    def test_schemas_are_registered_once(self, with_registry: Stand) -> None:
        environment = with_registry.environment
        checked = run("schemas", "check", "--json", **environment)
        assert (checked.returncode, states(checked.stdout)) == (0, dict.fromkeys(OWN_SCHEMAS, "new"))
        registered = run("schemas", "register", "--json", **environment)
        assert (registered.returncode, states(registered.stdout)) == (0, dict.fromkeys(OWN_SCHEMAS, "added"))
        again = run("schemas", "register", "--json", **environment)
        assert states(again.stdout) == dict.fromkeys(OWN_SCHEMAS, "registered")
        lines = [json.loads(line) for line in again.stdout.splitlines()]
        topics = {**with_registry.settings.topics_by_kind, "result": with_registry.settings.stream.results_topic}
        assert {line["schema"]: line["subject"] for line in lines} == {
            kind: f"{topic}-value" for kind, topic in topics.items()
        }
        assert {line["version"] for line in lines} == {1}
        assert len({line["id"] for line in lines}) == len(lines) == len(OWN_SCHEMAS)

    def test_nothing_is_registered_if_one_is_incompatible(
        self, with_registry: Stand, registry: ApicurioRegistry
    ) -> None:
        environment = with_registry.environment
        subject = f"{with_registry.settings.stream.results_topic}-value"
        other = plain(own_schema("result"))
        other["fields"] = [field for field in other["fields"] if field["name"] != "code"]
        put(registry, subject, json.dumps(other))
        demand_compatibility(registry, subject)
        expected = {**dict.fromkeys(OWN_SCHEMAS, "new"), "result": "incompatible"}
        for command in ("check", "register", "check"):
            done = run("schemas", command, "--json", **environment)
            assert (done.returncode, states(done.stdout)) == (1, expected)
        done = run("schemas", "register", **environment)
        assert done.returncode == 1
        assert f"{subject} is incompatible: Incompatible artifact: {subject}" in done.stdout
        assert "code at /fields/2" in done.stdout

    def test_a_schema_that_is_refused_only_on_registration_is_incompatible(
        self, stand: Stand, registry_server: RegistryServer
    ) -> None:
        # Like a registry that compares with all versions: the check compares only with the latest.
        registry_server.incompatible = ["READER_FIELD_MISSING_DEFAULT_VALUE"]
        environment = {**stand.environment, "CONSUMER_SCHEMA_REGISTRY_URL": registry_server.url}
        done = run("schemas", "register", "--json", **environment)
        expected = {**dict.fromkeys(OWN_SCHEMAS, "new"), "cart": "incompatible"}
        assert (done.returncode, states(done.stdout)) == (1, expected)

    def test_the_reasons_of_confluents_registry_are_shown(
        self, stand: Stand, registry_server: RegistryServer
    ) -> None:
        registry_server.keep("{}", f"{stand.settings.stream.results_topic}-value")
        registry_server.incompatible = ["READER_FIELD_MISSING_DEFAULT_VALUE: code", "{compatibility: 'BACKWARD'}"]
        environment = {**stand.environment, "CONSUMER_SCHEMA_REGISTRY_URL": registry_server.url}
        done = run("schemas", "check", **environment)
        assert done.returncode == 1
        reason = "READER_FIELD_MISSING_DEFAULT_VALUE: code; {compatibility: 'BACKWARD'}"
        subject = f"{stand.settings.stream.results_topic}-value"
        assert done.stdout.splitlines()[-1] == f"{subject} is incompatible: {reason}"

    @pytest.mark.parametrize("command", ["check", "register"])
    def test_a_missing_registry_is_reported_in_one_sentence_with_status_2(self, command: str) -> None:
        done = run("schemas", command)
        sentence = "jirafe-consumer: no Schema Registry is set; see CONSUMER_SCHEMA_REGISTRY_URL.\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence)
        done = run("schemas", command, CONSUMER_SCHEMA_REGISTRY_URL=f"http://127.0.0.1:{free_port()}")
        sentence = (
            "jirafe-consumer: the schema registry did not answer: the request failed (ConnectionError: Connection "
            "refused); see CONSUMER_SCHEMA_REGISTRY_URL.\n"
        )
        assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence)

    def test_the_full_stop_of_its_message_does_not_end_our_sentence(self, registry_server: RegistryServer) -> None:
        registry_server.page = (401, b'{"message": "Log in first."}')
        done = run("schemas", "check", CONSUMER_SCHEMA_REGISTRY_URL=registry_server.url)
        assert done.returncode == 2
        assert done.stderr == (
            "jirafe-consumer: the schema registry answered 401: Log in first; see CONSUMER_SCHEMA_REGISTRY_URL.\n"
        )

    def test_a_password_is_never_shown(self, registry_server: RegistryServer) -> None:
        registry_server.protected = True
        access = {"CONSUMER_SCHEMA_REGISTRY_USER": "ada", "CONSUMER_SCHEMA_REGISTRY_PASSWORD": "hush-hush"}
        done = run("schemas", "check", CONSUMER_SCHEMA_REGISTRY_URL=registry_server.url, **access)
        assert done.returncode == 2
        assert "the schema registry answered 401: Unauthorized" in done.stderr
        assert "hush" not in done.stdout + done.stderr

    @pytest.mark.parametrize("command", ["check", "register"])
    def test_the_help_has_an_example(self, command: str) -> None:
        done = run("schemas", command, "--help")
        assert f"jirafe-consumer schemas {command}" in done.stdout.partition("Example")[2]


class TestMember:
    def test_a_record_written_by_java_has_a_result(self, with_registry: Stand, registry: ApicurioRegistry) -> None:
        with_registry.produce_raw(b"R-java", of_java(registry, with_registry))
        with_registry.member()
        (result,) = with_registry.await_results(1)
        assert (result["code"], result["message"], result["message_id"]) == (200, "order:new", "")
        assert with_registry.accepted() == [
            ("cart", None, "R-java"),
            ("order", "placed", "R-java"),
            ("order", "accepted", "R-java"),
        ]
        (record,) = [record for record in with_registry.records("results") if record]
        assert record.value
        assert record.value[:1] == b"\x00"
        registered = SchemaRegistry(registry.url, {}, Access(), timeout=10)
        found = registered.schema(int.from_bytes(record.value[1:5], "big"))
        assert found
        (schema,) = found
        assert isinstance(schema, dict)
        assert schema["name"] == "jirafe.Result"

    def test_a_schema_may_refer_to_other_schemas(self, with_registry: Stand, registry: ApicurioRegistry) -> None:
        message, part = plain(own_schema("order")), "jirafe.hub.Order"
        (section,) = [field for field in message["fields"][-1]["type"]["fields"] if field["name"] == "order"]
        definition, section["type"][1] = section["type"][1], part
        subject = f"{with_registry.orders_topic}-part"
        put(registry, subject, json.dumps(definition))
        reference = {"name": part, "subject": subject, "version": 1}
        topic = f"{with_registry.orders_topic}-value"
        schema_id = put(registry, topic, json.dumps(message), references=[reference])
        value = Codec().encode("order", to_message(order("R1")))
        with_registry.produce_raw(b"R1", framed(schema_id, value[5:]))
        with_registry.member()
        (result,) = with_registry.await_results(1)
        assert (result["code"], result["message"]) == (200, "order:new")

    @pytest.mark.parametrize("schema_id", [2**31 - 1, 2**32 - 1])
    def test_an_unknown_id_is_a_dead_letter(
        self, with_registry: Stand, registry: ApicurioRegistry, schema_id: int
    ) -> None:
        with_registry.produce_raw(b"R-lost", framed(schema_id, JAVA_ORDER))
        with_registry.produce_raw(b"R-java", of_java(registry, with_registry))
        with_registry.member()
        results = with_registry.await_results(2)
        assert Counter(result["code"] for result in results) == {200: 1, 500: 1}
        (letter,) = with_registry.dead_letters()
        assert (letter.key, letter.value) == (b"R-lost", framed(schema_id, JAVA_ORDER))
        assert dict(letter.headers)["dlq.kind"] == b"undecodable"

    def test_a_registry_outage_affects_only_unknown_schemas(
        self, with_registry: Stand, registry: ApicurioRegistry
    ) -> None:
        known = of_java(registry, with_registry)
        other = json.dumps({**json.loads(JAVA_WRITER), "doc": "Of a later release of the writer."})
        unseen = framed(put(registry, f"{with_registry.orders_topic}-value", other), known)
        with_registry.produce_raw(b"R-java", known)
        member = with_registry.member()
        with_registry.await_results(1)
        registry.stop()
        try:
            with_registry.produce_raw(b"R-java", known)
            assert len(with_registry.await_results(2)) == 2
            with_registry.produce_raw(b"R-java", unseen)
            await_that("it waits", lambda: member.said('"on": "schema registry"') > 0)
            with_registry.produce_raw(b"R-java", known)  # follows the one that waits: the key's order holds
            assert sum(with_registry.committed().values()) == 2
        finally:
            registry.start()
        results = with_registry.await_results(4)
        assert Counter(result["code"] for result in results) == {200: 4}
        assert with_registry.dead_letters() == []
        assert member.said('"event": "resumed"') > 0


def test_the_error_for_a_missing_certificate_file_names_the_setting(tmp_path: Path) -> None:
    absent = tmp_path / "absent.pem"
    done = run(
        "schemas",
        "check",
        CONSUMER_SCHEMA_REGISTRY_URL="https://127.0.0.1:1",
        CONSUMER_SCHEMA_REGISTRY_CA=str(absent),
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"CONSUMER_SCHEMA_REGISTRY_CA: {absent} must be a PEM file of certificates")


class TestRegistryProblems:
    def test_a_topic_that_needs_a_registry_is_held_until_one_is_set(
        self, stand: Stand, registry_server: RegistryServer
    ) -> None:
        schema_id = registry_server.keep(json.dumps(plain(own_schema("order"))))
        for number in range(20):
            value = stand.codec.encode("order", to_message(order(f"R{number}")))
            stand.produce_raw(b"R%d" % number, framed(schema_id, value[5:]))
        stand.produce(cart("C1"))
        member = stand.member()
        (result,) = stand.await_results(1)  # another topic goes on
        assert result["message"] == "cart:new"
        await_that("it says so", lambda: member.said("set CONSUMER_SCHEMA_REGISTRY_URL, and restart") > 0)
        assert member.said('"event": "held"') > 0
        assert member.stop() == 0
        assert (len(stand.results()), stand.dead_letters()) == (1, [])
        url = {"CONSUMER_SCHEMA_REGISTRY_URL": registry_server.url}
        stand.codec = app.make_codec(settings.load(None, {**stand.environment, **url}))
        stand.member(**url)
        assert Counter(each["code"] for each in stand.await_results(21)) == {200: 21}

    def test_an_id_that_is_refused_alone_is_a_dead_letter(
        self, stand: Stand, registry_server: RegistryServer
    ) -> None:
        stand.environment["CONSUMER_SCHEMA_REGISTRY_URL"] = registry_server.url
        stand.codec = app.make_codec(settings.load(None, stand.environment))
        registry_server.pages["/schemas/ids/77"] = (403, b"{}")
        value = stand.codec.encode("order", to_message(order("R1")))
        stand.produce_raw(b"R1", framed(77, value))
        stand.produce_raw(b"R1", value)
        member = stand.member(CONSUMER_MAX_ATTEMPTS="3")
        assert Counter(each["code"] for each in stand.await_results(2)) == {200: 1, 500: 1}
        assert member.said("asked for the schema with the id 77") > 0
        (letter,) = stand.dead_letters()
        assert "3 times for this id while other ids worked" in (dict(letter.headers)["dlq.reason"] or b"").decode()
