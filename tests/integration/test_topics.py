"""Topics as shops have them: one for all kinds of message, several of a kind, and those that match a pattern."""

import json
import re
from collections import Counter
from typing import Any

import orjson
import pytest

from consumer import app, settings
from consumer.admin.topics import prepare_topics
from schemas.avro_json import message_of
from schemas.codec import Codec
from tests.command import run
from tests.messages import cart, order, product, taxon
from tests.registry import RegistryServer, guid_of
from tests.stand import Stand

MESSAGES = 10_000
WITHOUT_REGISTRY = Codec()
MAKERS = (order, cart, lambda name: product(f"SKU-{name}"), lambda name: taxon(name, "Bags"))
KINDS = ("orders", "carts", "products", "taxons")


def asked(stand: Stand, *arguments: str, **environment: str) -> Any:
    """Run a command with --json, which must end well."""
    done = run(*arguments, "--json", **{**stand.environment, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def in_every_form(
    codec: Codec, json_id: int, kind: str, document: Any
) -> list[tuple[bytes, list[tuple[str, bytes]]]]:
    """Give a message in each form that the codec reads: its value and its headers.

    `codec` has a registry, which knows a JSON Schema by `json_id`.
    """
    message = message_of(document)
    framed = codec.encode(kind, message)
    named, body = framed[1:5], framed[5:]
    guid = guid_of(int.from_bytes(named)).bytes
    return [
        (framed, []),
        (WITHOUT_REGISTRY.encode(kind, message), []),
        (body, [("__value_schema_id", b"\0" + named)]),
        (body, [("__value_schema_id", b"\1" + guid)]),
        (orjson.dumps(document), []),
        (b"\0" + json_id.to_bytes(4) + orjson.dumps(document), []),
    ]


def test_each_message_of_a_topic_with_all_kinds_and_formats_has_one_result(
    stand: Stand, registry_server: RegistryServer
) -> None:
    topic = f"{stand.orders_topic}-all"
    mixed = {f"CONSUMER_{kind.upper()}_TOPIC": topic for kind in KINDS}
    mixed["CONSUMER_SCHEMA_REGISTRY_URL"] = registry_server.url
    stand.codec = Codec(registry_server.registry())
    json_id = registry_server.keep('{"type": "object"}', kind="JSON")
    prepare_topics(stand.deployment, [topic], partitions=3)
    documents = [MAKERS[number % 4](f"R{number}") for number in range(MESSAGES)]
    for number, document in enumerate(documents):
        # Each kind in each form.
        forms = in_every_form(stand.codec, json_id, document["message"].partition(":")[0], document)
        value, headers = forms[number // 4 % len(forms)]
        stand.send_later(f"R{number}".encode(), value, headers, topic)
    stand.flush()
    stand.member(**mixed)
    results = stand.await_results(MESSAGES)
    assert Counter(result["message"] for result in results) == Counter(each["message"] for each in documents)
    assert {result["code"] for result in results} == {200}
    said = {re.sub(r"R\d+", "R", json.dumps((each["message"], each["notifications"]))) for each in results}
    assert len(said) == len(MAKERS)  # whatever its form, a message of one kind has the same result
    places = Counter((result["topic"], result["partition"], result["offset"]) for result in results)
    assert len(places) == places.total() == MESSAGES
    assert asked(stand, "audit", **mixed)["total"]["one_result"] == MESSAGES
    assert list(stand.dead_letters()) == []


def test_new_topics_that_match_a_pattern_are_found_while_running(stand: Stand) -> None:
    prefix = stand.orders_topic
    names = [f"{prefix}.shop-{number}.sales" for number in (1, 2)]
    listed = f"{prefix}.shop-0"
    subscribed = {"CONSUMER_ORDERS_TOPIC": rf"{listed}, ^{prefix}[.]shop-.*\.(sales|orders)$"}
    prepare_topics(stand.deployment, [listed, names[0], f"{names[0]}.old"], partitions=2)
    stand.member(**subscribed, KAFKA_TOPIC_METADATA_REFRESH_INTERVAL_MS="500")
    for number, topic in enumerate([listed, names[0], f"{names[0]}.old"]):
        stand.send_later(b"R", stand.codec.encode("order", message_of(order(f"R{number}"))), topic=topic)
    stand.flush()
    stand.await_results(2)
    prepare_topics(stand.deployment, [names[1]], partitions=2)
    stand.send_later(b"R", orjson.dumps(order("R9")), topic=names[1])
    stand.flush()
    assert sorted(result["topic"] for result in stand.await_results(3)) == sorted([listed, *names])
    assert {topic for _, _, topic in stand.accepted("order")} == {"R0", "R1", "R9"}

    deployment = app.make_deployment(settings.load(None, {**stand.environment, **subscribed}))
    expected = {listed, *names, *(stand.settings.topics_by_kind[kind] for kind in ("cart", "product", "taxon"))}
    assert set(deployment.input_topics()) == expected
    assert {each["topic"] for each in asked(stand, "audit", **subscribed)["partitions"]} == expected
    assert {each["topic"] for each in asked(stand, "lag", **subscribed)["partitions"]} == expected
    refused = run("audit", "--topic", f"{names[0]}.old", **{**stand.environment, **subscribed})
    assert refused.returncode == 2
    assert f"the topic {names[0]}.old is not consumed. The consumed topics are: " in refused.stderr


def test_a_topic_that_is_both_named_and_matched_is_consumed_once(stand: Stand) -> None:
    topic = stand.orders_topic
    subscribed = {"CONSUMER_ORDERS_TOPIC": f"{topic},^{topic}$", "CONSUMER_CARTS_TOPIC": f"^{topic}.*$,{topic}"}
    stand.produce(*(order(f"R{number}") for number in range(20)))
    stand.member(**subscribed)
    results = stand.await_results(20)
    assert Counter(result["message"] for result in results) == {"order:new": 20}
    total = asked(stand, "audit", **subscribed)["total"]
    assert (total["records"], total["one_result"]) == (20, 20)


def test_a_pattern_that_matches_no_topic_is_a_warning(stand: Stand) -> None:
    pattern = f"^{stand.orders_topic}-none-.*$"
    done = run("check", "--json", **{**stand.environment, "CONSUMER_ORDERS_TOPIC": pattern})
    assert f"no topic matches {pattern}." in done.stdout


@pytest.mark.parametrize("command", ["check", "lag", "audit", "offsets reset --latest --dry-run"])
def test_commands_work_while_no_topic_matches_the_patterns_and_say_so(stand: Stand, command: str) -> None:
    patterns = {f"CONSUMER_{kind.upper()}_TOPIC": f"^{stand.orders_topic}-{kind}-none$" for kind in KINDS}
    prepare_topics(stand.deployment, stand.deployment.output_topics)
    done = run(*command.split(), "--json", **{**stand.environment, **patterns})
    assert done.returncode in {0, 1}
    json.loads(done.stdout)
    said = done.stdout if command == "check" else done.stderr
    assert all(f"no topic matches {pattern}." in said for pattern in patterns.values())
    assert done.stderr.count("\n") == (0 if command == "check" else len(patterns))


def test_produce_needs_a_topic_if_the_setting_has_only_patterns(stand: Stand) -> None:
    pattern = {"CONSUMER_ORDERS_TOPIC": f"^{stand.orders_topic}.*$"}
    text = json.dumps(order("R1"))
    refused = run("produce", "-", text=text, **{**stand.environment, **pattern})
    assert refused.returncode == 2
    assert "CONSUMER_ORDERS_TOPIC has only patterns" in refused.stderr
    produced = run("produce", "-", "--topic", stand.orders_topic, text=text, **{**stand.environment, **pattern})
    assert produced.returncode == 0, produced.stderr
