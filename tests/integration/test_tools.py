"""The commands audit, lag, offsets and check, as operators run them."""

import json
import os
import pty
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from consumer.admin.topics import prepare_topics
from consumer.demo.processes import CommandProcess, await_that, free_port
from consumer.engine.kafka import LibraryLog
from tests.command import obeyed, on_a_terminal, run
from tests.messages import cart, order
from tests.rawserver import answering
from tests.registry import PASSWORD, USER, RegistryServer
from tests.stand import NUMBER_OF_PARTITIONS, SITE, TOKEN, Stand

LEFT_OUT = "unreadable records, which were left out: 1."


def asked(stand: Stand, *arguments: str, status: int = 0, **environment: str) -> Any:
    """Run a command with --json and give what it said."""
    done = run(*arguments, "--json", **{**stand.environment, **environment})
    assert (done.returncode, done.stderr) == (status, "")
    return json.loads(done.stdout)


def shown(stand: Stand, *arguments: str, status: int = 0, **environment: str) -> str:
    """Run a command as on a terminal of 80 columns, and give its output."""
    done = run(*arguments, **{**stand.environment, "COLUMNS": "80", **environment})
    assert (done.returncode, done.stderr) == (status, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "…" not in done.stdout
    return done.stdout


TIMESTAMP = time.time_ns() // 1_000_000


class Ledger:
    """Writes the records, results and offsets of a group, so that a test can leave some out."""

    def __init__(self, stand: Stand) -> None:
        prepare_topics(stand.deployment, stand.deployment.output_topics)
        self._stand = stand
        self._producer = Producer(stand.cluster.client_properties("test"), logger=LibraryLog())

    def records(self, count: int, partition: int = 0) -> None:
        for number in range(count):
            self._producer.produce(
                self._stand.orders_topic, b"a record", str(number), partition, timestamp=TIMESTAMP
            )
        assert self._producer.flush(30) == 0

    def result(
        self, offset: int, partition: int = 0, code: int = 200, written: int = 0, **again: str | None
    ) -> None:
        """Write a result, `written` at a time in ms since 1970, 0 for now."""
        result: dict[str, Any] = {
            "message_id": "m-1",
            "message": "order:new",
            "code": code,
            "notifications": [],
            "topic": self._stand.orders_topic,
            "partition": partition,
            "offset": offset,
            "timestamp": TIMESTAMP,
            "replay": None,
            "redrive": None,
            "group": self._stand.environment["KAFKA_GROUP_ID"],
            **again,
        }
        encoded = self._stand.codec.encode("result", result)
        self._producer.produce(self._stand.settings.stream.results_topic, encoded, timestamp=written)
        assert self._producer.flush(30) == 0

    def letter(self, offset: int, partition: int = 0, group: str | None = None) -> None:
        """Write a dead letter of a group; without one, it names no group, as in earlier versions."""
        place = {"topic": self._stand.orders_topic, "partition": partition, "offset": offset}
        # The record had headers of that name already: the last of them are ours.
        headers: list[tuple[str, str | bytes | None]] = [("dlq.topic", b"elsewhere")]
        why = {"reason": "refused", "kind": "rejected"}
        said = {**why, **place, "timestamp": TIMESTAMP, "attempts": 1, "time": 0}
        if group is not None:
            said["group"] = group
        headers += [(f"dlq.{name}", str(value)) for name, value in said.items()]
        self._producer.produce(self._stand.settings.stream.dead_letters_topic, b"a record", headers=headers)
        assert self._producer.flush(30) == 0

    def commit(self, offset: int, partition: int = 0) -> None:
        group = self._stand.environment["KAFKA_GROUP_ID"]
        consumer = Consumer(
            {**self._stand.cluster.client_properties("test"), "group.id": group}, logger=LibraryLog()
        )
        place = TopicPartition(self._stand.orders_topic, partition, offset)

        def is_committed() -> bool:
            try:
                consumer.commit(offsets=[place], asynchronous=False)
            except KafkaException as error:
                if error.args[0].code() not in (
                    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
                    KafkaError.COORDINATOR_NOT_AVAILABLE,
                    KafkaError.NOT_COORDINATOR,
                ):
                    raise
                return False  # a broker that has just begun loads its groups first
            return True

        await_that("the broker takes it", is_committed)
        consumer.close()


@pytest.fixture
def ledger(stand: Stand) -> Ledger:
    return Ledger(stand)


class TestAudit:
    def test_the_results_of_a_member_are_proven(self, stand: Stand) -> None:
        stand.produce(*(order(f"R{number}") for number in range(20)))
        stand.produce_raw(b"R5", b"no Avro")
        member = stand.member()
        stand.await_results(21)
        assert member.stop() == 0
        stand.produce(order("R20"), order("R21"))
        report = asked(stand, "audit")
        assert (report["ok"], report["first"], report["notes"]) == (True, {}, [])
        total = report["total"]
        assert {name: total[name] for name in ("records", "one_result", "waiting", "missing", "doubled")} == {
            "records": 23,
            "one_result": 21,
            "waiting": 2,
            "missing": 0,
            "doubled": 0,
        }
        assert (total["failed"], total["dead_lettered"]) == (1, 1)
        assert len(report["partitions"]) == len(stand.settings.topics) * NUMBER_OF_PARTITIONS
        text = shown(stand, "audit", "--topic", stand.orders_topic)
        assert text.splitlines()[-1] == "Proven: each of 21 records has exactly one result; 2 not yet committed."

    def test_every_gap_is_found_and_named(self, stand: Stand, ledger: Ledger) -> None:
        topic = stand.orders_topic
        ledger.records(12)
        for offset in (0, 1, 2, 2, 4, 11):
            ledger.result(offset)
        ledger.result(5, code=500)
        ledger.letter(5)
        ledger.result(6, code=500)  # has no dead letter
        ledger.result(7)
        ledger.letter(7)  # did not fail
        ledger.result(8, code=500)
        ledger.letter(8)
        ledger.result(8, redrive="letters/0/1")
        ledger.result(9)
        ledger.result(9, replay="a-replay")
        ledger.commit(11)
        report = asked(stand, "audit", "--topic", topic, status=1)
        assert not report["ok"]
        assert report["first"] == {
            "missing": [f"{topic}/0/3", f"{topic}/0/10"],
            "doubled": [f"{topic}/0/2"],
            "without_letter": [f"{topic}/0/6"],
            "stray_letter": [f"{topic}/0/7"],
        }
        assert report["total"] == {
            "records": 12,
            "one_result": 8,
            "missing": 2,
            "doubled": 1,
            "failed": 3,
            "dead_lettered": 3,
            "redriven": 1,
            "replayed": 1,
            "waiting": 1,  # that of the offset 11 is not committed
            "without_letter": 1,
            "stray_letter": 1,
            "lost": 0,
        }
        text = shown(stand, "audit", "--topic", topic, status=1)
        assert "2 records have no result:" in text
        assert "1 record has more than one result:" in text
        assert "1 record failed but has no dead letter:" in text
        assert "1 record has a dead letter but did not fail:" in text
        assert f"for details: jirafe-consumer results --of {topic}/0/2\n" in text
        closer = asked_lines(stand, "results", "--of", f"{topic}/0/2")
        assert [result["offset"] for result in closer] == [2, 2]

    def test_results_and_dead_letters_of_another_group_are_ignored(self, stand: Stand, ledger: Ledger) -> None:
        topic = stand.orders_topic
        ledger.records(4)
        for offset in (0, 1, 2):
            ledger.result(offset)
        ledger.result(0, group="another")
        ledger.result(1, group="another", code=500)
        ledger.letter(1)
        ledger.letter(2, group="another")
        ledger.result(3, group="another")
        ledger.commit(4)
        report = asked(stand, "audit", "--topic", topic, status=1)
        assert report["first"] == {"missing": [f"{topic}/0/3"]}
        ledger.result(3, group=None)  # written before results told their group
        assert asked(stand, "audit", "--topic", topic)["total"]["one_result"] == 4
        listed = asked_lines(stand, "results")
        assert sorted(each["offset"] for each in listed) == [0, 1, 2, 3]
        assert {each["group"] for each in listed} == {stand.environment["KAFKA_GROUP_ID"], None}
        assert [each["place"] for each in asked_lines(stand, "dead-letters", "list")] == [f"{topic}/0/1"]
        assert "Records of the topic that are not dead letters of this group: 1." in shown(
            stand, "dead-letters", "list"
        )
        told = asked(stand, "dead-letters", "redrive", "--dry-run", "--json")
        assert told == {"dry_run": True, "dead_letters": {"rejected": 1}, "left_out": 0}

    def test_results_and_dead_letters_name_their_group(self, stand: Stand) -> None:
        stand.produce(order("R1"))
        stand.produce_raw(b"R2", b"no Avro")
        member = stand.member()
        stand.await_results(2)
        assert member.stop() == 0
        again = run("replay", "--topic", stand.orders_topic, **stand.environment)
        assert again.returncode == 0
        group = stand.environment["KAFKA_GROUP_ID"]
        assert len(stand.results()) == 4
        assert len(stand.dead_letters()) == 2
        assert {each["group"] for each in stand.results()} == {group}
        assert {dict(letter.headers)["dlq.group"] for letter in stand.dead_letters()} == {group.encode()}

    def test_a_gap_outside_the_range_is_not_reported(self, stand: Stand, ledger: Ledger) -> None:
        ledger.records(6)
        ledger.records(1, partition=1)
        for offset in (0, 1, 3, 4, 5):
            ledger.result(offset)
        ledger.commit(6)
        ledger.commit(1, partition=1)
        arguments = ["audit", "--topic", stand.orders_topic, "--partition", "0"]
        assert asked(stand, *arguments, status=1)["total"]["missing"] == 1
        assert asked(stand, *arguments, "--from", "3")["total"]["records"] == 3
        assert asked(stand, *arguments, "--from", "0", "--to", "2")["total"]["records"] == 2
        assert asked(stand, *arguments, "--from", "1h", status=1)["total"]["records"] == 6
        assert asked(stand, *arguments, "--to", "1h")["total"]["records"] == 0
        assert asked(stand, "audit", "--topic", stand.orders_topic, status=1)["total"]["missing"] == 2

    def test_only_the_first_ten_of_many_missing_results_are_named(self, stand: Stand, ledger: Ledger) -> None:
        ledger.records(40)
        ledger.commit(40)
        report = asked(stand, "audit", status=1)
        assert report["total"]["missing"] == 40
        assert report["first"]["missing"] == [f"{stand.orders_topic}/0/{offset}" for offset in range(10)]
        assert "40 records have no result, for example:" in shown(stand, "audit", status=1)

    def test_the_limits_of_the_proof_are_reported(self, stand: Stand, ledger: Ledger) -> None:
        ledger.records(1)
        producer = Producer(stand.cluster.client_properties("test"), logger=LibraryLog())
        producer.produce(stand.settings.stream.results_topic, b"no result")
        producer.produce(stand.settings.stream.dead_letters_topic, b"no letter of ours")
        assert producer.flush(10) == 0
        report = asked(stand, "audit", "--topic", stand.orders_topic)
        assert report["total"]["waiting"] == 1
        unreadable, others, fresh = report["notes"]
        assert unreadable == f"{stand.settings.stream.results_topic} has {LEFT_OUT}"
        assert others == f"{stand.settings.stream.dead_letters_topic} has {LEFT_OUT}"
        assert f"has no committed offset for {stand.orders_topic}/0" in fresh
        assert "No record in the range needs a result yet" in shown(stand, "audit")

    def test_a_transaction_that_does_not_end_is_reported(self, stand: Stand, ledger: Ledger) -> None:
        ledger.records(1)
        ledger.commit(1)
        results = stand.settings.stream.results_topic
        writer = stand.writer(results)
        writer.begin_transaction()
        writer.produce(results, b"a result", partition=0)
        assert writer.flush(10) == 0
        report = asked(stand, "audit", status=1, KAFKA_TRANSACTION_TIMEOUT_MS="1000")
        writer.abort_transaction()
        assert report["total"]["missing"] == 1
        assert report["notes"] == [
            f"{results} has a transaction that does not end: records behind it were not read."
        ]

    def test_records_behind_an_open_transaction_are_not_proven(self, stand: Stand, ledger: Ledger) -> None:
        ledger.records(2)
        ledger.result(0)
        ledger.result(1)
        ledger.commit(2)
        orders = stand.orders_topic
        writer = stand.writer(orders)
        writer.begin_transaction()
        writer.produce(orders, b"hidden", partition=0)
        assert writer.flush(10) == 0
        ledger.records(3)  # anybody's records behind it are hidden too
        soon = {"KAFKA_TRANSACTION_TIMEOUT_MS": "1000"}
        report = asked(stand, "audit", "--topic", orders, status=1, **soon)
        assert not report["ok"]
        assert (report["total"]["records"], report["total"]["one_result"]) == (2, 2)
        assert [each["hidden"] for each in report["partitions"]] == [4, 0, 0]
        note = (
            f"{orders}/0: not proven from the offset 2 on: 4 offsets are hidden behind a transaction that does not "
            "end."
        )
        assert report["notes"] == [note]
        # Up to there it is proven, and so are the other partitions, without a wait.
        assert asked(stand, "audit", "--topic", orders, "--to", "2")["ok"]
        assert asked(stand, "audit", "--topic", orders, "--partition", "1")["ok"]
        told = " ".join(shown(stand, "audit", "--topic", orders, status=1, **soon).split())
        assert note in told
        assert "Not proven" in told
        # One that ends meanwhile is waited for.
        threading.Timer(3.0, writer.commit_transaction).start()
        report = asked(stand, "audit", "--topic", orders)
        assert (report["ok"], report["total"]["records"], report["total"]["waiting"]) == (True, 6, 4)

    @pytest.mark.real_broker("records are deleted as Kafka does it")
    @pytest.mark.parametrize("arguments", [[], ["--from", "1h"]])
    def test_records_deleted_unread_count_as_lost_even_if_the_last_result_is_old(
        self, stand: Stand, ledger: Ledger, arguments: list[str]
    ) -> None:
        for partition in (0, 1):
            ledger.records(30, partition)
        for offset in range(10):
            ledger.result(offset, written=TIMESTAMP - 24 * 60 * 60 * 1000)
        ledger.commit(10)
        ledger.commit(10, partition=1)
        cut = [TopicPartition(stand.orders_topic, 0, 17), TopicPartition(stand.orders_topic, 1, 30)]
        admin = stand.cluster.make_admin("test")
        for deleted in admin.delete_records(cut).values():
            deleted.result(30)
        for offset in range(17, 30):
            ledger.result(offset)
        ledger.commit(30)
        report = asked(stand, "audit", "--topic", stand.orders_topic, *arguments, status=1)
        assert [each["lost"] for each in report["partitions"]] == [7, 20, 0]
        assert (report["total"]["one_result"], report["total"]["missing"]) == (13, 0)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--topic", "elsewhere"], "the topic elsewhere is not consumed"),
            (["--from", "yesterday"], "Invalid value for '--from': 'yesterday' is not a time"),
            (["--partition", "9"], "has no partition 9: its partitions are 0 to 2."),
            (
                ["--from", "2014-03-02", "--to", "2014-03-01"],
                "the range ends before it starts: it starts at 2014-03-02",
            ),
        ],
    )
    def test_wrong_usage_is_reported_in_one_sentence(self, stand: Stand, arguments: list[str], said: str) -> None:
        done = run("audit", *arguments, **stand.environment)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert said in done.stderr


def asked_lines(stand: Stand, *arguments: str) -> list[dict[str, Any]]:
    done = run(*arguments, "--json", **stand.environment)
    assert done.returncode == 0
    return [json.loads(line) for line in done.stdout.splitlines()]


class TestLag:
    def test_the_lag_is_in_records_and_in_time(self, stand: Stand, ledger: Ledger) -> None:
        ledger.records(5)
        ledger.records(3, partition=1)
        ledger.commit(2)
        look = asked(stand, "lag")
        zero, one, two = (each for each in look["partitions"] if each["topic"] == stand.orders_topic)
        assert (zero["committed"], zero["end"], zero["records"]) == (2, 5, 3)
        assert (one["committed"], one["end"], one["records"]) == (None, 3, 3)
        assert (two["records"], two["oldest"], two["seconds"], two["owner"]) == (0, None, 0, None)
        age = datetime.fromisoformat(look["at"]) - datetime.fromisoformat(zero["oldest"])
        assert zero["seconds"] == age.total_seconds() >= 0
        assert look["total"]["records"] == 6
        assert look["total"]["seconds"] == max(each["seconds"] for each in look["partitions"])
        text = shown(stand, "lag")
        assert "no members, so nothing is consumed" in text
        assert text.splitlines()[-1].split()[:2] == ["all", "6"]

    def test_there_is_no_lag_once_all_records_are_finished(self, stand: Stand) -> None:
        stand.produce(*(order(f"R{number}") for number in range(10)))
        member = stand.member()
        stand.await_results(10)
        await_that("no lag", lambda: asked(stand, "lag")["total"]["records"] == 0)
        look = asked(stand, "lag")
        assert look["state"] == "stable"
        assert "nothing is consumed" not in shown(stand, "lag")
        # The embedded broker tells no members.
        if look["members"]:
            owners = {each["owner"]["client_id"] for each in look["partitions"]}
            assert owners == {member["client_id"] for member in look["members"]}
        assert member.stop() == 0

    def test_transaction_markers_do_not_count_as_lag(self, stand: Stand, ledger: Ledger) -> None:
        writer = stand.writer(stand.orders_topic)
        writer.begin_transaction()
        writer.produce(stand.orders_topic, b"a record", partition=0)
        writer.commit_transaction()
        ledger.commit(1)
        (zero, *_) = (each for each in asked(stand, "lag")["partitions"] if each["topic"] == stand.orders_topic)
        assert (zero["committed"], zero["end"], zero["records"]) == (1, 2, 0)

    def test_watch_prints_the_lag_again_and_again(self, stand: Stand) -> None:
        log = stand.folder / "lag.log"
        with CommandProcess(["lag", "--watch", "--json"], stand.environment, log) as watch:
            await_that("three looks", lambda: watch.said("\n") >= 3)
            watch.signal(signal.SIGINT)
            assert watch.wait() == 130
        looks = [json.loads(line) for line in log.read_text().splitlines()[:3]]
        assert sorted({look["at"] for look in looks}) == [look["at"] for look in looks]

    def test_watch_writes_whole_lines_to_a_file(self, stand: Stand) -> None:
        assert shown(stand, "lag").endswith("\n")
        log = stand.folder / "lag.log"
        with CommandProcess(["lag", "--watch"], stand.environment, log) as watch:
            await_that("two looks", lambda: watch.said(f"group {stand.settings.kafka['group.id']}: ") >= 2)
            watch.signal(signal.SIGINT)
            assert watch.wait() == 130
        assert "\n\ngroup " in log.read_text()


class TestReset:
    def test_a_dry_run_shows_and_changes_nothing(self, stand: Stand, ledger: Ledger) -> None:
        ledger.records(5)
        ledger.commit(3)
        arguments = ["offsets", "reset", "--topic", stand.orders_topic, "--dry-run"]
        text = shown(stand, *arguments, "--earliest")
        assert "delivers 3 again" in text
        assert "no change" in text
        assert text.endswith("Dry run: nothing was changed.\n")
        assert "skips 2" in shown(stand, *arguments, "--latest")
        moves = asked(stand, *arguments, "--to-offset", "4", "--partition", "0")
        assert moves["partitions"] == [{"topic": stand.orders_topic, "partition": 0, "committed": 3, "to": 4}]
        assert moves["changed"] is False
        assert stand.committed() == {(stand.orders_topic, 0): 3}

    def test_the_group_resumes_where_it_was_reset_to(self, stand: Stand, ledger: Ledger) -> None:
        ledger.records(5)
        ledger.commit(5)
        reset = ["offsets", "reset", "--topic", stand.orders_topic, "--partition", "0", "--yes"]
        for target, offset in (
            (["--to-offset", "2"], 2),
            (["--earliest"], 0),
            (["--to-time", (datetime.now(UTC) + timedelta(hours=1)).isoformat()], 5),
            (["--to-time", "1h"], 0),
            (["--latest"], 5),
            (["--to-offset", "4"], 4),
        ):
            assert asked(stand, *reset, *target)["changed"] is True
            assert stand.committed() == {(stand.orders_topic, 0): offset}
        assert asked(stand, *reset, "--to-offset", "4")["changed"] is False
        stand.member()
        (result,) = stand.await_results(1)
        assert (result["partition"], result["offset"]) == (0, 4)

    def test_a_reset_is_refused_while_a_member_runs(self, stand: Stand, ledger: Ledger) -> None:
        ledger.records(5)
        stand.await_assigned(member := stand.member())
        stand.await_results(5)
        await_that("all committed", lambda: stand.committed() == {(stand.orders_topic, 0): 5})
        done = run("offsets", "reset", "--earliest", "--yes", **stand.environment)
        group = stand.environment["KAFKA_GROUP_ID"]
        assert done.returncode == 2
        assert "delivers 5 again" in done.stdout
        sentence = f"jirafe-consumer: the group {group} has members: stop them all, then reset the offsets.\n"
        assert done.stderr == sentence
        assert stand.committed() == {(stand.orders_topic, 0): 5}
        assert member.stop() == 0
        assert asked(stand, "offsets", "reset", "--earliest", "--yes")["changed"] is True

    @pytest.mark.parametrize(("answer", "offset", "status"), [("y", 0, 0), ("n", 3, 1)])
    def test_a_reset_asks_for_confirmation_on_a_terminal(
        self, stand: Stand, ledger: Ledger, answer: str, offset: int, status: int
    ) -> None:
        ledger.records(5)
        ledger.commit(3)
        ours, theirs = pty.openpty()
        os.write(ours, f"{answer}\n".encode())
        arguments = ["offsets", "reset", "--earliest", "--topic", stand.orders_topic, "--partition", "0"]
        done = subprocess.run(
            [sys.executable, "-m", "consumer", "--env-file", os.devnull, *arguments],
            stdin=theirs,
            env={**os.environ, **stand.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        os.close(ours)
        os.close(theirs)
        assert done.returncode == status
        assert "Commit these offsets? [y/N]" in done.stderr
        assert stand.committed() == {(stand.orders_topic, 0): offset}

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--yes"], "give one of --to-time, --to-offset, --earliest and --latest"),
            (["--earliest", "--latest", "--yes"], "give one of --to-time"),
            (["--to-offset", "1", "--yes"], "--to-offset needs --topic"),
            (["--to-offset", "99", "--topic", "ORDERS", "--yes"], "/0, whose log goes from 0 to 0"),
            (["--earliest"], "needs a terminal to ask for confirmation: add --yes, or --dry-run to change nothing"),
            (["--to-time", "noon", "--yes"], "'noon' is not a time"),
        ],
    )
    def test_wrong_usage_is_reported_in_one_sentence(self, stand: Stand, arguments: list[str], said: str) -> None:
        arguments = [stand.orders_topic if word == "ORDERS" else word for word in arguments]
        done = run("offsets", "reset", *arguments, **stand.environment)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert said in done.stderr


@contextmanager
def served(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """An HTTP server that gives this answer to every request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_GET  # noqa: N815 - the name is http.server's

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def verdicts(report: dict[str, Any]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for each in report["checks"]:
        found.setdefault(each["check"], set()).add(each["verdict"])
    return found


def finding(report: dict[str, Any], check: str) -> dict[str, str]:
    (found,) = (each for each in report["checks"] if each["check"] == check)
    return dict(found)


class TestCheck:
    @pytest.mark.usefixtures("ledger")
    def test_a_correct_deployment_passes(self, stand: Stand) -> None:
        report = asked(stand, "check")
        assert report["ok"]
        found = verdicts(report)
        for check in ("settings", "broker", "group", "transactions", "registry", "api", "token", "clock"):
            assert found[check] == {"ok"}, report
        assert found["permissions"] <= {"ok", "warning"}  # the embedded broker does not tell
        text = shown(stand, "check")
        assert f"{stand.orders_topic}: {NUMBER_OF_PARTITIONS} partitions, 1 replica each" in text

    def test_a_check_changes_nothing(self, stand: Stand) -> None:
        stand.produce(order("R1"))
        stand.await_assigned(stand.member())
        stand.await_results(1)
        before = stand.committed()
        assert asked(stand, "check")["ok"]
        assert (len(stand.results()), stand.dead_letters(), stand.committed()) == (1, [], before)
        assert len([record for record in stand.read_orders() if record]) == 1
        assert [event.kind for event in stand.api.events() if event.verdict == "accepted"] == [
            "cart",
            "order",
            "order",
        ]
        stand.produce(order("R2"))
        stand.await_results(2)  # the member goes on

    @pytest.mark.usefixtures("ledger")
    def test_records_behind_an_open_transaction_are_a_warning(self, stand: Stand) -> None:
        for topic in (stand.orders_topic, stand.settings.stream.dead_letters_topic):
            writer = stand.writer(topic)
            writer.begin_transaction()
            writer.produce(topic, b"hidden", partition=0)
            assert writer.flush(10) == 0
            stand.produce(order("R1"))
            found = finding(asked(stand, "check", KAFKA_TRANSACTION_TIMEOUT_MS="1000"), "hidden")
            assert found["verdict"] == "warning"
            assert found["message"].startswith(f"{topic}/0 has a transaction that does not end")
            writer.abort_transaction()
        assert "hidden" not in verdicts(asked(stand, "check"))

    @pytest.mark.parametrize(
        ("milliseconds", "warnings"),
        [
            (7_200_000, ["dead letters are deleted after 2 hours."]),
            (-1, []),
            (2**63 - 1, []),  # some write "forever" like this
        ],
    )
    def test_a_short_retention_of_dead_letters_is_a_warning(
        self, stand: Stand, milliseconds: int, warnings: list[str]
    ) -> None:
        topic = stand.settings.stream.dead_letters_topic
        prepare_topics(stand.deployment, [topic])
        stand.configure(topic, "retention.ms", milliseconds)
        found = [each["message"] for each in asked(stand, "check")["checks"] if each["verdict"] == "warning"]
        assert [message for message in found if "deleted" in message] == [f"{topic}: {each}" for each in warnings]

    @pytest.mark.real_broker("topics have this config")
    def test_a_topic_whose_records_an_election_may_lose_is_a_warning(self, stand: Stand) -> None:
        stand.configure(stand.orders_topic, "unclean.leader.election.enable", "true")
        warnings = [each for each in asked(stand, "check")["checks"] if "may become leader" in each["message"]]
        assert [each["verdict"] for each in warnings] == ["warning"]
        assert f"the last records of {stand.orders_topic} may" in warnings[0]["message"]

    def test_a_check_decodes_records_of_each_topic(self, stand: Stand) -> None:
        stand.produce(cart("R1"))
        for number in range(30):
            stand.produce_raw(
                b"%d" % number, b"\x00\x00\x00\x00\x07record" if number else b'{"message": "order:new"'
            )
        records = [each for each in asked(stand, "check", status=1)["checks"] if each["check"] == "records"]
        assert [each["verdict"] for each in records] == ["ok", "failed"]
        assert records[0]["message"].endswith(": 1 record read, all are valid")
        assert "30 of 30 records can't be read" in records[1]["message"]
        assert records[1]["fix"].startswith("set CONSUMER_SCHEMA_REGISTRY_URL: 29 of them need a Schema Registry")
        stand.produce(order("R1"))
        (found,) = [
            each
            for each in asked(stand, "check")["checks"]
            if each["verdict"] != "ok" and each["check"] == "records"
        ]
        assert found["verdict"] == "warning"
        assert "30 of 31 records can't be read" in found["message"]

    def test_a_check_reports_missing_topics_and_creates_none(self, stand: Stand) -> None:
        report = asked(stand, "check", CONSUMER_ORDERS_TOPIC=f"{stand.orders_topic}-2")
        assert {"verdict": "warning", "check": "topic"}.items() <= next(
            each for each in report["checks"] if f"{stand.orders_topic}-2 does not exist yet" in each["message"]
        ).items()
        again = asked(
            stand,
            "check",
            status=1,
            CONSUMER_ORDERS_TOPIC=f"{stand.orders_topic}-2",
            CONSUMER_CREATE_TOPICS="no",
        )
        assert "failed" in verdicts(again)["topic"]

    def test_a_refused_token_is_reported_and_not_shown(self, stand: Stand) -> None:
        wrong = "a-wrong-secret"
        report = asked(stand, "check", status=1, JIRAFE_ACCESS_TOKEN=wrong)
        refused = finding(report, "token")
        assert (refused["verdict"], refused["fix"]) == (
            "failed",
            "see JIRAFE_ACCESS_TOKEN and JIRAFE_SITE_ID; docs/errors.md explains invalid_token",
        )
        assert refused["message"] == f"the API refuses the token for the site {SITE}: invalid_token."
        assert wrong not in json.dumps(report)
        assert TOKEN not in shown(stand, "check")
        assert finding(asked(stand, "check", JIRAFE_ACCESS_TOKEN=""), "token")["verdict"] == "warning"

    @pytest.mark.parametrize(
        ("environment", "said"),
        [
            ({"HTTP_PROXY": "http://[::1"}, "through the proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names"),
            (
                {"HTTP_PROXY": "ftp://secret@127.0.0.1:1"},
                "through the proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY",
            ),
            (
                {"JIRAFE_URL": "https://127.0.0.1:1/v2", "REQUESTS_CA_BUNDLE": "/nowhere/ca.pem"},
                "the CA certificates can't be read; see REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE",
            ),
        ],
    )
    def test_an_unusable_proxy_or_certificate_file_is_reported(
        self, stand: Stand, environment: dict[str, str], said: str
    ) -> None:
        without = {"NO_PROXY": "", "no_proxy": ""}
        report = asked(stand, "check", status=1, **without, **environment)
        failed = finding(report, "api")
        assert failed["verdict"] == "failed"
        assert failed["message"].startswith("no answer from http")
        assert said in failed["message"]
        assert "secret" not in json.dumps(report)

    def test_a_malformed_redirect_is_reported_in_one_sentence(self, stand: Stand) -> None:
        head = b"HTTP/1.1 302 Found\r\nLocation: http://[\xff\r\nContent-Length: 0\r\n\r\n"
        with answering(head, head) as url:
            report = asked(stand, "check", status=1, JIRAFE_URL=url)
        message = "the API answered 302, and redirects to an address that can't be read."
        assert (finding(report, "api")["verdict"], finding(report, "token")["message"]) == ("ok", message)

    def test_a_check_continues_after_something_does_not_answer(self, stand: Stand) -> None:
        nobody = f"127.0.0.1:{free_port()}"
        environment = {
            "KAFKA_BOOTSTRAP_SERVERS": nobody,
            "JIRAFE_URL": f"http://{nobody}/v2",
            "CONSUMER_SCHEMA_REGISTRY_URL": f"http://{nobody}",
        }
        report = asked(stand, "check", status=1, **environment)
        assert [(each["check"], each["verdict"]) for each in report["checks"]] == [
            ("settings", "ok"),
            ("broker", "failed"),
            ("registry", "failed"),
            ("api", "failed"),
        ]
        assert f"no Kafka broker answers at {nobody}" in finding(report, "broker")["message"]
        shown(stand, "check", status=1, **environment)

    @pytest.mark.parametrize(
        ("setting", "value", "said"),
        [
            ("CONSUMER_WORKERS", "0", "CONSUMER_WORKERS: must be greater than 0."),
            ("KAFKA_FOO_BAR", "1", 'KAFKA_FOO_BAR is wrong: No such configuration property: "foo.bar".'),
            ("KAFKA_RETRY_BACKOFF_MS", "-1", "KAFKA_RETRY_BACKOFF_MS is wrong"),
            ("KAFKA_TRANSACTION_TIMEOUT_MS", "1", "KAFKA_TRANSACTION_TIMEOUT_MS (1) must be at least 1000"),
            ("CONSUMER_CARTS_TOPIC", "^carts", "CONSUMER_CARTS_TOPIC: must be names of topics, or patterns"),
        ],
    )
    def test_wrong_settings_are_a_finding(self, stand: Stand, setting: str, value: str, said: str) -> None:
        report = asked(stand, "check", status=1, **{setting: value})
        assert said in finding(report, "settings")["message"]

    @pytest.mark.parametrize(("hours", "said"), [(-1, "ahead of the API's"), (1, "behind the API's")])
    def test_a_clock_that_is_off_is_a_warning(self, stand: Stand, hours: int, said: str) -> None:
        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response_only(404)
            moment = datetime.now(UTC) + timedelta(hours=hours)
            request.send_header("Date", format_datetime(moment, usegmt=True))
            request.end_headers()

        with served(answer) as url:
            report = asked(stand, "check", JIRAFE_URL=f"{url}/v2", JIRAFE_ACCESS_TOKEN="")
        clock = finding(report, "clock")
        assert clock["verdict"] == "warning"
        assert said in clock["message"]

    def test_the_registry_is_checked_for_our_schemas(self, stand: Stand, registry_server: RegistryServer) -> None:
        environment = {"CONSUMER_SCHEMA_REGISTRY_URL": registry_server.url}
        new = finding(asked(stand, "check", status=0, **environment), "registry")
        assert new["verdict"] == "ok"
        assert new["message"].startswith(f"not registered yet: {stand.settings.topics_by_kind['cart']}-value, ")
        done = run("schemas", "register", **stand.environment, **environment)
        assert done.returncode == 0, done.stderr
        found = finding(asked(stand, "check", status=0, **environment), "registry")
        assert (found["verdict"], found["message"]) == ("ok", "has all our schemas")

    def test_an_incompatible_schema_fails(self, stand: Stand, registry_server: RegistryServer) -> None:
        subject = f"{stand.settings.stream.results_topic}-value"
        registry_server.keep("{}", subject)
        registry_server.incompatible = ["READER_FIELD_MISSING_DEFAULT_VALUE: code"]
        report = asked(stand, "check", status=1, CONSUMER_SCHEMA_REGISTRY_URL=registry_server.url)
        (refused,) = (each for each in report["checks"] if each["verdict"] == "failed")
        assert refused["check"] == "registry"
        assert refused["message"] == (
            f"our schema is incompatible with the latest version of {subject}: "
            "READER_FIELD_MISSING_DEFAULT_VALUE: code."
        )

    @pytest.mark.parametrize(
        ("page", "said"),
        [
            ((401, b"{}"), "the schema registry answered 401."),
            ((401, b'{"message": "Log in first."}'), "the schema registry answered 401: Log in first."),
            ((404, b"<html>"), "the schema registry answered 404."),
            ((200, b"<html>"), "the schema registry's URL leads to something that is not a schema registry."),
        ],
    )
    def test_a_registry_with_a_wrong_answer_fails(
        self, stand: Stand, registry_server: RegistryServer, page: tuple[int, bytes], said: str
    ) -> None:
        registry_server.page = page
        report = asked(stand, "check", status=1, CONSUMER_SCHEMA_REGISTRY_URL=registry_server.url)
        found = finding(report, "registry")
        assert (found["verdict"], found["message"]) == ("failed", said)

    def test_the_registry_is_asked_with_our_credentials_and_certificates(
        self, stand: Stand, tmp_path: Path
    ) -> None:
        authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        with RegistryServer(context, protected=True) as server:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
            environment = {
                "CONSUMER_SCHEMA_REGISTRY_URL": server.url,
                "CONSUMER_SCHEMA_REGISTRY_USER": USER,
                "CONSUMER_SCHEMA_REGISTRY_PASSWORD": PASSWORD,
            }
            trust = {"CONSUMER_SCHEMA_REGISTRY_CA": str(tmp_path / "ca.pem")}
            trusted = asked(stand, "check", status=0, **environment, **trust)
            untrusted = asked(stand, "check", status=1, **environment)
            server.shutdown()
        assert finding(trusted, "registry")["verdict"] == "ok"
        assert "certificate verify failed" in finding(untrusted, "registry")["message"]
        assert PASSWORD not in json.dumps([trusted, untrusted], ensure_ascii=False)

    def test_secrets_at_risk_are_warnings(self, stand: Stand, tmp_path: Path) -> None:
        env_file = tmp_path / "ours.env"
        env_file.write_text("JIRAFE_ACCESS_TOKEN=hush\n")
        env_file.chmod(0o644)
        environment = {**stand.environment, "JIRAFE_URL": "http://jirafe.invalid"}
        del environment["JIRAFE_ACCESS_TOKEN"]
        done = run("--env-file", str(env_file), "check", "--json", **environment)
        secrets = [each for each in json.loads(done.stdout)["checks"] if each["check"] == "secrets"]
        assert [each["verdict"] for each in secrets] == ["warning", "warning"]
        assert "unencrypted" in secrets[0]["message"]
        assert secrets[1]["fix"] == f"chmod 600 {env_file}"
        assert "hush" not in done.stdout

    def test_an_invalid_folder_of_schemas_is_a_finding(self, stand: Stand, tmp_path: Path) -> None:
        (tmp_path / "broken.avsc").write_text("{")
        report = asked(stand, "check", status=1, CONSUMER_SCHEMAS_FOLDER=str(tmp_path))
        assert "CONSUMER_SCHEMAS_FOLDER" in finding(report, "settings")["message"]


HOSTILE = "\x1b]0;a title\x07\x1b[2J\x9b31m\u202eback\u2066\x7f"


def test_no_listing_sends_control_characters_of_a_message_to_the_terminal(stand: Stand) -> None:
    stand.produce(order(f"R1{HOSTILE}", totals={"order": -1}), order(f"R2{HOSTILE}"))
    stand.produce_raw(HOSTILE.encode(), HOSTILE.encode(), [(HOSTILE, HOSTILE.encode())])
    member = stand.member()
    stand.await_results(3)
    assert member.stop() == 0
    place = next(f"{each['topic']}/{each['partition']}/{each['offset']}" for each in stand.results())
    failed = next(
        f"{each['topic']}/{each['partition']}/{each['offset']}" for each in stand.results() if each["code"] == 500
    )
    commands = [["results"], ["dead-letters", "list"], ["audit"], ["lag"], ["check"], ["results", "--of", place]]
    for arguments in [*commands, ["dead-letters", "show", failed]]:
        assert obeyed(on_a_terminal(*arguments, **stand.environment)) == [], arguments
    for arguments in commands:
        assert obeyed(run(*arguments, "--json", **stand.environment).stdout) == [], arguments
    told = json.loads(run("dead-letters", "list", "--json", "--key", HOSTILE, **stand.environment).stdout)
    assert told["number"] == HOSTILE
