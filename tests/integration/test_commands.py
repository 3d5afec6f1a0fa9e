"""The commands as a user runs them: arguments in, output and exit status out."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import requests
from confluent_kafka import Consumer, Producer, TopicPartition
from fastavro import json_writer

from consumer.admin.produce import Encoded, produce
from consumer.admin.reading import read_topic
from consumer.demo.broker import EmbeddedBroker
from consumer.demo.processes import CommandProcess, await_that, free_port
from consumer.demo.shop import FAULTS
from consumer.engine.kafka import LibraryLog
from consumer.printing import visible
from consumer.settings import PARAMETERS
from schemas.codec import Codec, Undecodable
from schemas.hub import to_message
from schemas.own import own_schema
from tests.command import obeyed, run
from tests.messages import cart, order, taxon
from tests.registry import RegistryServer
from tests.stand import SITE, TOKEN, Stand


def preview(document: Any, *arguments: str, **environment: str) -> tuple[int, dict[str, Any]]:
    text = document if isinstance(document, str) else json.dumps(document)
    done = run("preview", "-", *arguments, text=text, **environment)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def test_preview_shows_events_and_notifications_without_credentials() -> None:
    status, shown = preview(order("R1"))
    assert status == 0
    assert (shown["message_id"], shown["message"]) == ("m-1", "order:new")
    assert [event["kind"] for event in shown["events"]] == ["cart", "order-placed", "order-accepted"]
    assert shown["events"][0]["body"]["total"] == 26
    assert [notification["level"] for notification in shown["notifications"]] == ["info"] * 3


def test_a_byte_order_mark_is_ignored() -> None:
    status, shown = preview("\ufeff" + json.dumps(order("R1")))
    assert (status, len(shown["events"])) == (0, 3)


def test_preview_accepts_parameters() -> None:
    status, shown = preview(taxon("9", "Bags"))
    assert (status, shown["events"]) == (1, [])
    assert "jirafe.product_category_taxonomy: missing" in shown["notifications"][0]["description"]
    status, shown = preview(taxon("9", "Bags"), "--set", "jirafe.product_category_taxonomy=2")
    assert (status, [event["kind"] for event in shown["events"]]) == (0, ["category"])


def test_preview_prefers_options_to_the_message_and_the_message_to_the_settings() -> None:
    def kinds(document: dict[str, Any], *arguments: str) -> list[str]:
        status, shown = preview(document, *arguments, JIRAFE_PRODUCT_CATEGORY_TAXONOMY="2")
        assert status == 0
        return [event["kind"] for event in shown["events"]]

    bags = taxon("9", "Bags")
    other = {**bags, "parameters": {"jirafe.product_category_taxonomy": "3"}}
    assert (kinds(bags), kinds(other)) == (["category"], [])
    assert kinds(other, "--set", "jirafe_product_category_taxonomy = 2 ") == ["category"]


def test_preview_prints_one_line_for_each_of_several_messages(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    lines = [json.dumps(cart("C1")), json.dumps(order("R1", currency=None))]
    (tmp_path / "shop" / "b.jsonl").write_text("\n".join(lines))
    (tmp_path / "shop" / "c.json").write_text("{")
    (tmp_path / "shop" / "notes.txt").write_text("none of ours")
    (tmp_path / "a.json").write_text(json.dumps(order("R2")))
    done = run("preview", str(tmp_path / "a.json"), str(tmp_path / "shop"))
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(each["from"].removeprefix(f"{tmp_path}/"), len(each["events"])) for each in shown] == [
        ("a.json", 3),
        ("shop/b.jsonl, message 1", 1),
        ("shop/b.jsonl, message 2", 1),
        ("shop/c.json", 0),
    ]
    assert done.stderr == "4 messages: 5 events would be sent, 2 messages have errors.\n"
    assert done.returncode == 1


def test_preview_refuses_a_folder_without_messages(tmp_path: Path) -> None:
    done = run("preview", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    said = f"there are no messages in {tmp_path}: message files end in .json, .jsonl or .ndjson."
    assert done.stderr == f"jirafe-consumer: {said}\n"


def test_preview_explains_the_source_of_each_value() -> None:
    adjustments = [{"name": "Discounts", "value": "6.00"}]
    document = order("R1", totals={"item": 21, "order": 20, "tax": 2, "shipping": 3}, adjustments=adjustments)
    done = run("preview", "-", "--explain", text=json.dumps(document))
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.strip() for line in done.stdout.splitlines()]
    why = '"Discounts", since the totals only add up so'
    assert f"total_discounts = 6.00 from payload.order.adjustments[0].value {why}" in lines
    assert 'id = "R1" from payload.order.number' in lines
    assert "order-accepted would be sent:" in lines


@pytest.mark.parametrize(
    ("arguments", "date", "note"),
    [
        (["--timestamp", "2014-03-01"], "2014-03-01T00:00:00.000Z", "(--timestamp)"),
        ([], "", "(now: see --timestamp)"),
    ],
)
def test_preview_of_a_taxon_without_dates_says_which_timestamp_it_uses(
    arguments: list[str], date: str, note: str
) -> None:
    given = ("--set", "jirafe.product_category_taxonomy=2", *arguments)
    status, shown = preview(taxon("9", "Bags", created_at=None), *given)
    assert status == 0
    assert shown["events"][0]["body"]["create_date"].startswith(date)
    assert shown["notes"] == [f"the message has no dates, so its event has the record's timestamp {note}"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("jirafe.store_url= ", "NAME=VALUE, not 'jirafe.store_url= '"),
        *(
            (
                f"{name}=2",
                f"one of the parameters {', '.join(PARAMETERS)}, jirafe.site_id, jirafe.access_token, not '{name}'",
            )
            for name in ("store_url", "jirafe.product_taxonomy", "jirafe_product_taxonomy")
        ),
        ("jirafe.store_url=http://x/\udcff", "UTF-8, which the value of jirafe.store_url is not"),
    ],
)
def test_preview_refuses_an_invalid_parameter(given: str, said: str) -> None:
    done = run("preview", "-", "--set", given)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"jirafe-consumer preview: --set takes {said}; see jirafe-consumer preview --help.\n"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "not JSON"),
        ("[]", "there is no message in it"),
        ("[[]]", "the message: must be an object"),
        ({"message": "shipment:ready", "payload": {}}, "unknown type 'shipment:ready'"),
        (order("R1", totals={"order": "lots"}), "payload"),
        (order("R1", "order:updated", placed_on="yesterday"), "placed_on: 'yesterday' is not a date"),
    ],
)
def test_preview_of_an_invalid_message_shows_its_error_notification(document: Any, said: str) -> None:
    status, shown = preview(document)
    assert status == 1
    assert [notification["level"] for notification in shown["notifications"]] == ["error"]
    assert (
        said.replace("payload", "order.totals.order: must be a number") in shown["notifications"][0]["description"]
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (["run", "--foo"], {}, "jirafe-consumer run: No such option '--foo'; see jirafe-consumer run --help."),
        (["fly"], {}, "jirafe-consumer: No such command 'fly'; see jirafe-consumer --help."),
        (
            ["preview", "-", "--set", "x"],
            {},
            "jirafe-consumer preview: --set takes NAME=VALUE, not 'x'; see jirafe-consumer preview --help.",
        ),
        (["run"], {"JIRAFE_STORE_URL": "http://x/\udcff"}, "JIRAFE_STORE_URL: must be UTF-8."),
        (["preview", "absent.json"], {}, "jirafe-consumer: absent.json: No such file or directory."),
        (["produce", "absent.json"], {}, "jirafe-consumer: absent.json: No such file or directory."),
        (
            ["produce", "absent.json", "--topic", ""],
            {},
            (
                "jirafe-consumer produce: --topic must be a topic's name: up to 249 letters, digits, dots, "
                "underscores and hyphens; see jirafe-consumer produce --help."
            ),
        ),
        (["run"], {"CONSUMER_WORKERS": "0"}, "CONSUMER_WORKERS: must be greater than 0."),
        (
            ["run"],
            {"KAFKA_FOO_BAR": "1"},
            'jirafe-consumer: KAFKA_FOO_BAR is wrong: No such configuration property: "foo.bar".',
        ),
        (
            ["sandbox", "--site", "", "--token", ""],
            {},
            "jirafe-consumer sandbox: --site and --token must not be empty; see jirafe-consumer sandbox --help.",
        ),
        (
            ["sandbox", "--site", "1"],
            {},
            "jirafe-consumer sandbox: --site needs --token; see jirafe-consumer sandbox --help.",
        ),
        (
            ["replay", "--topic", "orders", "--to", "2026-11-30T10:00"],
            {},
            (
                "jirafe-consumer replay: Invalid value for '--to': '2026-11-30T10:00' has no zone: add Z for UTC, "
                "or an offset like +01:00; see jirafe-consumer replay --help."
            ),
        ),
        *(
            (
                ["replay", "--topic", "orders", option, "\udcff"],
                {},
                (
                    f"jirafe-consumer replay: {option} takes UTF-8, which its value is not; "
                    "see jirafe-consumer replay --help."
                ),
            )
            for option in ("--key", "--type", "--site")
        ),
        (
            ["topics", "create", "--partitions", "many"],
            {},
            (
                "jirafe-consumer topics create: Invalid value for '--partitions': 'many' is not a whole number; "
                "see jirafe-consumer topics create --help."
            ),
        ),
        (
            ["topics", "create", "--partitions", "100001"],
            {},
            (
                "jirafe-consumer topics create: Invalid value for '--partitions': 100001 is not in the range "
                "1<=x<=100000; see jirafe-consumer topics create --help."
            ),
        ),
        (
            ["topics", "create", "--replication", "10001"],
            {},
            (
                "jirafe-consumer topics create: Invalid value for '--replication': 10001 is not in the range "
                "1<=x<=10000; see jirafe-consumer topics create --help."
            ),
        ),
    ],
)
def test_wrong_usage_is_reported_in_one_sentence_with_status_2(
    arguments: list[str], environment: dict[str, str], sentence: str
) -> None:
    done = run(*arguments, **environment)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence + "\n")


@pytest.mark.parametrize("place", ["foo", "orders/0", "orders/0/x", "/0/1", "orders/0/1/2", "orders/0/²", ""])
def test_results_of_an_invalid_place_are_refused(place: str) -> None:
    done = run("results", "--of", place)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"'--of': '{place}' is not TOPIC/PARTITION/OFFSET, such as orders/0/17; see" in done.stderr


@pytest.mark.parametrize("topic", ["what-became", "jirafe.dead-letters"])
def test_messages_are_not_produced_to_topics_that_the_consumer_publishes_to(topic: str) -> None:
    done = run("produce", "absent.json", "--topic", topic, CONSUMER_RESULTS_TOPIC="what-became")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"jirafe-consumer: messages can't be produced to {topic}: the consumer writes")


@pytest.mark.parametrize("command", ["run", "produce"])
def test_an_unreachable_broker_is_reported_in_one_sentence_with_status_2(command: str, tmp_path: Path) -> None:
    file = tmp_path / "message.json"
    file.write_text(json.dumps(order("R1")))
    servers = f"127.0.0.1:{free_port()}"
    arguments = [command, str(file)] if command == "produce" else [command]
    done = run(*arguments, KAFKA_BOOTSTRAP_SERVERS=servers)
    assert done.returncode == 2
    assert f"no Kafka broker answers at {servers}" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "preview",
        "produce",
        "results",
        "audit",
        "lag",
        "offsets",
        "offsets reset",
        "replay",
        "dead-letters",
        "dead-letters list",
        "dead-letters show",
        "dead-letters redrive",
        "schemas",
        "schemas check",
        "schemas register",
        "check",
        "sandbox",
        "broker",
        "shop",
        "demo",
    ],
)
def test_the_help_of_a_command_has_an_example_and_fits_a_terminal(command: str) -> None:
    done = run(*command.split(), "--help", COLUMNS="80")
    assert done.returncode == 0
    assert f"jirafe-consumer {command}" in done.stdout.partition("Example")[2]
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("group", ["offsets", "dead-letters", "schemas"])
def test_a_command_group_without_a_command_is_refused_in_one_sentence(group: str) -> None:
    done = run(group)
    sentence = f"jirafe-consumer {group}: Missing command; see jirafe-consumer {group} --help.\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence)


def test_without_a_command_the_whole_help_is_shown() -> None:
    done = subprocess.run([sys.executable, "-m", "consumer"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == run("--help").stdout


def test_characters_outside_the_output_encoding_are_escaped() -> None:
    wrong = {"KAFKA_F\xd6\xd6": "1", "JIRAFE_URL": f"http://127.0.0.1:{free_port()}/v2"}
    done = run("check", PYTHONIOENCODING="ascii", **wrong)
    assert done.returncode == 1
    assert r"KAFKA_F\xd6\xd6 is wrong" in done.stdout
    assert "Traceback" not in done.stderr


def test_results_of_produced_messages_can_be_listed_and_filtered(stand: Stand, tmp_path: Path) -> None:
    one, many = tmp_path / "one.json", tmp_path / "many.jsonl"
    one.write_text(json.dumps(taxon("9", "Bags")), encoding="utf-8-sig")
    many.write_text(
        "\n".join(json.dumps(each) for each in (cart("R1"), order("R2"), order("R3", totals={"order": -1})))
    )
    done = run("produce", str(one), str(many), **stand.environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "4 messages produced\n", "")
    stand.member()
    stand.await_results(4)

    as_json = run("results", "--json", **stand.environment)
    shown = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert as_json.returncode == 0
    assert sorted(result["message"] for result in shown) == ["cart:new", "order:new", "order:new", "taxon:new"]
    first = run("results", "--json", "--max", "1", "--follow", **stand.environment)
    assert len(first.stdout.splitlines()) == 1

    one, *_ = shown
    place = f"{one['topic']}/{one['partition']}"
    of_one = run("results", "--json", "--of", f"{place}/0{one['offset']}", **stand.environment)
    assert [json.loads(line) for line in of_one.stdout.splitlines()] == [one]
    of_none = run("results", "--of", f"{place}/999", **stand.environment)
    assert (of_none.returncode, of_none.stdout) == (1, "")
    assert of_none.stderr == f"jirafe-consumer results: no result for {place}/999.\n"

    for options, wanted in (
        (["--type", "taxon:new"], ["taxon:new"]),
        (["--topic", one["topic"], "--partition", str(one["partition"]), "--key", "none"], []),
        (["--key", "R2"], ["order:new"]),
        (["--reason", "LESS THAN the minimum"], ["order:new"]),
        (["--from", "1h", "--type", "cart:new"], ["cart:new"]),
        (["--from", "9999-12-31"], []),
        (["--to", "1h"], []),
        (["--from", "end"], []),
    ):
        done = run("results", "--json", *options, **stand.environment)
        assert [json.loads(line)["message"] for line in done.stdout.splitlines()] == wanted, options
    wrong = run("results", "--topic", "other", **stand.environment)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "the topic other is not consumed" in wrong.stderr

    table = run("results", COLUMNS="300", **stand.environment).stdout
    assert "A cart event for R1 was sent to Jirafe." in table
    assert "total: -1.0 is less than the minimum of 0" in table
    # A terminal breaks lines that are too long for it, but can't show what was left out.
    narrow = run("results", "--key", "R1", COLUMNS="40", **stand.environment).stdout
    assert "R1" in narrow
    assert "Jirafe." in narrow


LISTINGS: dict[str, Callable[[Any], list[dict[str, Any]]]] = {
    "results": lambda lines: [{**each, **note} for each in lines for note in each["notifications"]],
    "dead-letters list": lambda lines: lines,
    "lag": lambda lines: [{**each, "at": lines[0]["at"]} for each in lines[0]["partitions"]],
    "audit": lambda lines: lines[0]["partitions"],
    "offsets reset --earliest --dry-run": lambda lines: lines[0]["partitions"],
    "check": lambda lines: lines[0]["checks"],
}


def test_every_listing_has_the_same_values_in_json_and_csv(stand: Stand, tmp_path: Path) -> None:
    file = tmp_path / "messages.json"
    faulty = (order(number, totals={"order": -1}) for number in ("R2", 'a "quoted", \r\n\x1b[31m comma'))
    file.write_text(json.dumps([order("R1"), *faulty]))
    run("produce", str(file), **stand.environment)
    stand.member()
    stand.await_results(3)
    for words, rows_of in LISTINGS.items():
        as_json, as_csv = (run(*words.split(), "--output", form, **stand.environment) for form in ("json", "csv"))
        assert as_json.returncode == as_csv.returncode, words
        rows = rows_of([json.loads(line) for line in as_json.stdout.splitlines()])
        printed = list(csv.DictReader(StringIO(as_csv.stdout)))
        assert len(printed) == len(rows) > 0, words
        assert obeyed(as_csv.stdout) == [], words
        for row, wanted in zip(printed, rows, strict=True):
            for name in row.keys() & wanted.keys() - {"at", "seconds", "owner", "oldest", "timestamp", "failed_at"}:
                value = "" if wanted[name] is None else str(wanted[name])
                assert row[name] == visible(value), (words, name)


def test_results_say_why_there_is_nothing_to_show(stand: Stand) -> None:
    stand.member()
    stand.produce(order("R1"))
    stand.await_results(1)
    topic, group = stand.settings.stream.results_topic, stand.settings.kafka["group.id"]
    said = f"jirafe-consumer results: {topic} has no result of the group"
    for arguments, changed, sentence in (
        ([], {"KAFKA_GROUP_ID": "another"}, f"{said} another.\n"),
        (["--type", "ordre:new"], {}, f"{said} {group} that matches.\n"),
        (["--from", "end"], {}, f"{said} {group} that matches.\n"),
        (["--from", "end", "--json"], {}, ""),  # for a program, no line says the same
    ):
        done = run("results", *arguments, **{**stand.environment, **changed})
        assert (done.returncode, done.stdout, done.stderr) == (0, "", sentence), arguments


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["results", "--of", "order/0/17"], "the topic order is not consumed"),
        (["results", "--from", "2h", "--to", "3h"], "the range ends before it starts"),
        (["dead-letters", "list", "--from", "2h", "--to", "3h"], "the range ends before it starts"),
        (["dead-letters", "redrive", "--from", "2h", "--to", "3h"], "the range ends before it starts"),
        (["dead-letters", "list", "--kind", "reject"], "'reject' is not one of 'undecodable', 'unknown-type',"),
    ],
)
def test_a_selection_that_nothing_can_match_is_refused(arguments: list[str], said: str) -> None:
    done = run(*arguments, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr


def test_following_results_says_once_that_no_broker_answers(stand: Stand, tmp_path: Path) -> None:
    with EmbeddedBroker() as broker:
        environment = {**stand.environment, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers}
        assert run("topics", "create", **environment).returncode == 0
        producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
        producer.produce(stand.settings.stream.results_topic, b"{}")
        assert producer.flush(10) == 0
        with CommandProcess(["results", "--follow"], environment, tmp_path / "log") as results:
            await_that("it follows", lambda: results.said("skipping ") == 1)
            broker.stop()
            said = f"jirafe-consumer results: no Kafka broker answers at {broker.bootstrap_servers}; waiting until"
            await_that("it says so", lambda: results.said(said) == 1)
            time.sleep(9)  # it asks again after 5 seconds
            assert results.said(said) == 1
            results.signal(signal.SIGINT)
            assert results.wait() == 130


def test_produce_warns_of_unknown_types_and_topics_that_nobody_reads(stand: Stand, tmp_path: Path) -> None:
    file = tmp_path / "messages.json"
    odd = [order("R1"), order("R2", "order:exploded"), order("R3", "order:lost")]
    file.write_text(json.dumps(odd))
    other = f"{stand.orders_topic}-typo"
    done = run("produce", str(file), "--topic", other, **stand.environment)
    assert (done.returncode, done.stdout) == (0, "3 messages produced\n")
    of_types, of_topic = done.stderr.splitlines()
    assert of_types.startswith(
        f"jirafe-consumer produce: {file}, message 2, and 1 more: message: unknown type 'order:exploded'; known"
    )
    assert of_types.endswith(". It becomes a dead letter.")
    assert of_topic == f"jirafe-consumer produce: the consumer does not read the topic {other}; see --topic."


def test_produce_warns_of_misspelled_fields_and_refuses_large_messages(stand: Stand, tmp_path: Path) -> None:
    file = tmp_path / "messages.json"
    file.write_text(json.dumps([order("R1", totl=1), order("R2", totl=1), order("R3")]))
    done = run("produce", str(file), **stand.environment)
    assert (done.returncode, done.stdout) == (0, "3 messages produced\n")
    said = "message 1, and 1 more: payload.order.totl is not read; did you mean total?\n"
    assert done.stderr == f"jirafe-consumer produce: {file}, {said}"
    file.write_text(json.dumps(order("R4")) + "\n" + json.dumps(order("R5", email="x" * 2_000_000)))
    done = run("produce", str(file), **stand.environment)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"{file}, message 2: too large: 2,000," in done.stderr
    done = run("produce", "-", text=file.read_text(), KAFKA_MESSAGE_MAX_BYTES="1000", **stand.environment)
    assert "jirafe-consumer: -, message 2: too large: 2,000," in done.stderr
    assert sum(record is not None for record in stand.read_orders()) == 3


def test_preview_reads_the_json_encoding_of_avro() -> None:
    hub = to_message(order("R1"))
    status, expected = preview(order("R1"))
    schema = own_schema("order")
    text = StringIO()
    json_writer(text, schema, [hub])
    assert preview(text.getvalue()) == (status, expected) == (0, expected)
    status, shown = preview(text.getvalue().replace('{"double": 26.0}', '{"double": "lots"}'))
    assert status == 1
    assert "this is Avro's JSON encoding, but no valid order message" in shown["notifications"][0]["description"]


def test_the_results_command_skips_and_reports_records_that_are_not_results(stand: Stand) -> None:
    stand.member()
    stand.produce(order("R1"))
    stand.await_results(1)
    topic = stand.settings.stream.results_topic
    message = stand.codec.encode(
        "order", to_message({**order("R2"), "parameters": {"jirafe.access_token": "their-token"}})
    )
    foreign = [(topic, Encoded("order", b"R1", value)) for value in (message, b"{}", message[:11])]
    produce(stand.cluster.make_producer(stand.cluster.client_properties("test")), foreign)
    stand.produce(order("R1", "order:updated"))
    await_that("the second result", lambda: sum(record is not None for record in stand.records("results")) == 5)
    done = run("results", "--json", **stand.environment)
    assert done.returncode == 0
    assert [json.loads(line)["message"] for line in done.stdout.splitlines()] == ["order:new", "order:updated"]
    assert "their-token" not in done.stdout + done.stderr
    (told,) = done.stderr.splitlines()
    place = rf"jirafe-consumer results: skipping {re.escape(topic)}/\d+/\d+, and all others that can't be read: "
    assert re.fullmatch(place + "the record is a message of the hub, not a result\\.", told)
    with pytest.raises(Undecodable, match=r"the bytes are not a [\w.]+: \w"):
        stand.codec.decode_result(message[:11])


def test_nothing_is_produced_if_one_message_is_invalid(stand: Stand, tmp_path: Path) -> None:
    file = tmp_path / "messages.json"
    file.write_text(json.dumps([order("R1"), order("R2", totals={"order": []})]))
    done = run("produce", str(file), **stand.environment)
    assert done.returncode == 2
    assert done.stderr == (
        f"jirafe-consumer: {file}, message 2: order.totals.order: must be a number, but is a list\n"
    )
    assert [record for record in stand.read_orders() if record] == []


def test_run_names_missing_topics_that_it_may_not_create(stand: Stand) -> None:
    done = run("run", **{**stand.environment, "CONSUMER_CREATE_TOPICS": "no"})
    assert done.returncode == 2
    assert stand.settings.stream.results_topic in done.stderr
    assert "CONSUMER_CREATE_TOPICS=true" in done.stderr


def test_the_sandbox_as_a_command(tmp_path: Path) -> None:
    port = free_port()
    arguments = ["sandbox", "--port", str(port), "--site", SITE, "--token", TOKEN]
    with CommandProcess(arguments, {}, tmp_path / "log") as sandbox:
        await_that("the sandbox", lambda: sandbox.said(f"http://127.0.0.1:{port}/v2") == 1)
        url = f"http://127.0.0.1:{port}/v2/{SITE}/category"
        assert requests.post(url, json={}, timeout=5).status_code == 403
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert requests.post(url, json={"id": "1"}, headers=right, timeout=5).json()["error_type"] == "validation"
        taken = run("sandbox", "--port", str(port))
        assert taken.returncode == 2
        why = f"can't listen on 127.0.0.1:{port}: Address already in use; see --host and --port.\n"
        assert taken.stderr.endswith(why)
        assert sandbox.stop() == 0


def test_the_broker_as_a_command(tmp_path: Path) -> None:
    port = free_port()
    with CommandProcess(["broker", "--port", str(port)], {}, tmp_path / "log") as broker:
        await_that("the broker", lambda: broker.said(f"127.0.0.1:{port}") == 1)
        assert run("broker", "--port", str(port)).stderr.endswith("is taken; choose another with --port.\n")
        broker.signal(signal.SIGINT)
        assert broker.wait() == 0


def test_the_shop_produces_the_requested_number_of_messages(stand: Stand, registry_server: RegistryServer) -> None:
    environment = {**stand.environment, "CONSUMER_SCHEMA_REGISTRY_URL": registry_server.url}
    done = run("shop", "--messages", "100", "--rate", "1000", **environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "100 messages produced\n", "")
    stand.member(CONSUMER_SCHEMA_REGISTRY_URL=registry_server.url, JIRAFE_PRODUCT_CATEGORY_TAXONOMY="")
    stand.codec = Codec(registry_server.registry())
    results = stand.await_results(100)
    assert Counter(result["code"] for result in results) == {200: 100 - len(FAULTS), 500: len(FAULTS)}
    assert any("knows no schema with the id" in str(result["notifications"]) for result in results)


def test_the_shop_produces_until_it_is_stopped(stand: Stand, tmp_path: Path) -> None:
    with CommandProcess(["shop", "--rate", "200"], stand.environment, tmp_path / "log") as shop:
        await_that("an order", lambda: any(stand.read_orders()))
        assert shop.stop() == 0
    topics = stand.settings.topics
    kept = sum(1 for topic in topics for _ in read_topic(stand.cluster, topic, start="beginning", follow=False))
    assert shop.log.read_text() == f"{kept} messages produced\n"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not show handlers of signals")
def test_a_second_signal_ends_a_shop_that_waits_for_its_broker(stand: Stand, tmp_path: Path) -> None:
    with EmbeddedBroker() as broker:
        environment = {**stand.environment, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers}
        with CommandProcess(["shop", "--rate", "100000"], environment, tmp_path / "log") as shop:
            await_that("its messages", lambda: _count(broker.bootstrap_servers, stand.orders_topic) > 0)
            broker.signal(signal.SIGSTOP)
            time.sleep(1)  # what it produces meanwhile waits in its queue
            shop.signal(signal.SIGINT)
            # The system delivers two signals at once as one.
            await_that("it has handled the signal", lambda: not _handles(shop.pid, signal.SIGTERM))
            assert shop.status is None  # it waits for the broker
            shop.signal(signal.SIGINT)
            await_that("it ends", lambda: shop.status is not None)
            assert shop.wait() == -signal.SIGINT
            assert shop.log.read_text() == ""
        broker.signal(signal.SIGCONT)


def _handles(pid: int, number: signal.Signals) -> bool:
    """Return whether a process has its own handler for a signal. After the first signal, the shop has none."""
    found = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)


def _count(servers: str, topic: str) -> int:
    """Count the records of a topic, 0 if it does not exist."""
    with closing(Consumer({"bootstrap.servers": servers, "group.id": "count"}, logger=LibraryLog())) as reader:
        found = reader.list_topics(timeout=10).topics.get(topic)
        places = [TopicPartition(topic, number) for number in found.partitions] if found else []
        return sum(reader.get_watermark_offsets(place, timeout=10)[1] for place in places)


@pytest.mark.parametrize("command", ["broker", "demo"])
def test_a_missing_embedded_broker_is_reported_with_the_alternative(command: str) -> None:
    done = run(command, CALF_TANSU_BIN="/absent")
    assert done.returncode == 2
    assert "jirafe-consumer: the embedded broker is not installed, or not made for this platform" in done.stderr
    assert "KAFKA_BOOTSTRAP_SERVERS" in done.stderr


def test_the_demo_gives_each_message_exactly_one_result() -> None:
    done = run("demo", "--messages", "300")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every message has exactly one result" in done.stdout
    assert "messages produced" in done.stdout


def children(pid: int) -> dict[int, int]:
    """The processes that a process has started and not yet waited for, and how many threads each has."""
    table = ["ps", "-A", "-o", "ppid=,pid=,nlwp="]
    lines = subprocess.run(table, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [[int(number) for number in line.split()] for line in lines]
    return {child: threads for parent, child, threads in rows if parent == pid}


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("arguments", "status"), [(["--messages", "1000000"], 130), (["--messages", "20", "--keep"], 0)]
)
def test_a_demo_that_is_stopped_leaves_nothing_running(arguments: list[str], status: int, tmp_path: Path) -> None:
    with CommandProcess(["demo", *arguments], {}, tmp_path / "log") as demo:

        def all_run() -> bool:
            """Tell whether broker, sandbox and consumer run, the last so far that it has a client of Kafka."""
            found = children(demo.pid)
            return len(found) == 3 and found[max(found)] > 1

        await_that("broker, sandbox and consumer", all_run)
        if "--keep" in arguments:
            await_that("what to try", lambda: demo.said("Press Ctrl-C to stop.") == 1)
            assert demo.said(f"{shlex.quote(sys.executable)} -m consumer results --follow") == 1
        started = children(demo.pid)
        demo.signal(signal.SIGINT)
        assert demo.stop() == status  # by a second signal
    assert [pid for pid in started if lives(pid)] == []
    assert "Traceback" not in demo.log.read_text()
