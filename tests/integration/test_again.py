"""The commands `replay` and `dead-letters`, run as a user runs them."""

import json
import shlex
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from consumer.demo.processes import CommandProcess, await_that
from consumer.engine.records import Place
from schemas.hub import to_message
from tests import command
from tests.integration.test_service import orders
from tests.messages import cart, order
from tests.stand import SITE, TOKEN, Stand

GARBAGE = b"\x07not Avro"


def run(stand: Stand, *arguments: str, **changed: str) -> "subprocess.CompletedProcess[str]":
    done = command.run(*arguments, **{"COLUMNS": "80", **stand.environment, **changed})
    assert "Traceback" not in done.stderr, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done


def delivered(stand: Stand, count: int) -> None:
    """Have a member deliver so many records, and stop it."""
    member = stand.member()
    await_that("all is committed", lambda: sum(stand.committed().values()) == count)
    assert member.stop() == 0


def replays(stand: Stand) -> Counter[tuple[int, int]]:
    """The places of the orders topic that were replayed, with how often."""
    return Counter((result["partition"], result["offset"]) for result in stand.results() if result["replay"])


def test_a_replay_delivers_records_again_without_changing_committed_offsets(stand: Stand) -> None:
    stand.produce(*[order(f"R{n % 7}", "order:updated", totals={"order": n}) for n in range(40)])
    delivered(stand, 40)
    committed = stand.committed()
    stand.produce(*orders(10, start=100))  # what the group has not done yet is not replayed
    done = run(stand, "replay", "--topic", stand.orders_topic)
    assert done.returncode == 0, done.stderr
    assert "delivered again" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    assert stand.committed() == committed
    assert set(replays(stand).values()) == {1}
    assert len(replays(stand)) == 40
    assert len({result["replay"] for result in stand.results()} - {None}) == 1
    for key in range(7):
        versions = [float(n) for n in range(40) if n % 7 == key]
        assert stand.totals(f"R{key}") == versions * 2
    # It is finished: the same command starts a new replay.
    assert run(stand, "replay", "--topic", stand.orders_topic).returncode == 0
    assert set(replays(stand).values()) == {2}


def test_a_replay_says_that_the_group_has_committed_nothing_of_its_range(stand: Stand) -> None:
    stand.produce(*orders(3))
    for arguments in (["--json"], ["--json", "--dry-run"]):
        done = run(stand, "replay", "--topic", stand.orders_topic, *arguments)
        assert (done.returncode, json.loads(done.stdout)["left_out"]) == (0, 0)
        group = stand.settings.kafka["group.id"]
        said = f"nothing to replay: the group {group} has committed no record of this range."
        assert done.stderr == f"jirafe-consumer replay: {said}\n"


@pytest.mark.real_broker("records are deleted as Kafka does it")
def test_a_replay_says_that_the_log_begins_after_its_first_offset(stand: Stand) -> None:
    stand.produce(*orders(12))
    delivered(stand, 12)
    admin = stand.cluster.make_admin("test")
    for deleted in admin.delete_records([TopicPartition(stand.orders_topic, 1, 2)]).values():
        deleted.result(30)
    told = [
        run(stand, "replay", "--topic", stand.orders_topic, "--from-offset", offset, "--dry-run").stderr
        for offset in ("1", "2")
    ]
    assert told == [f"jirafe-consumer replay: the log of {stand.orders_topic}/1 begins at the offset 2.\n", ""]


@pytest.mark.real_broker("records are deleted as Kafka does it")
@pytest.mark.parametrize("reset", ["latest", "error"])
def test_results_after_deleted_ones_are_found_whatever_the_settings_of_the_member(stand: Stand, reset: str) -> None:
    """Settings that suit the member must not make records seem absent or hidden to commands."""
    stand.produce(*orders(12))
    delivered(stand, 12)
    results = stand.settings.stream.results_topic
    admin = stand.cluster.make_admin("test")
    for deleted in admin.delete_records([TopicPartition(results, 1, 1)]).values():
        deleted.result(30)
    own = {"KAFKA_AUTO_OFFSET_RESET": reset, "KAFKA_FETCH_WAIT_MAX_MS": "30000", "KAFKA_FETCH_MIN_BYTES": "100000"}
    own |= {"KAFKA_FETCH_QUEUE_BACKOFF_MS": "60000", "KAFKA_FETCH_ERROR_BACKOFF_MS": "60000"}
    done = run(stand, "results", "--output", "json", **own)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 11), done.stderr


def test_a_replay_shortens_results_that_are_too_large_for_their_topic(stand: Stand) -> None:
    stand.produce(order("R" * 900, "order:updated"), *orders(5))
    delivered(stand, 6)
    stand.environment["KAFKA_MESSAGE_MAX_BYTES"] = "1100"
    done = run(stand, "replay", "--topic", stand.orders_topic)
    assert done.returncode == 0, done.stderr
    assert len(replays(stand)) == 6


def test_a_replay_can_be_limited_to_keys_types_sites_and_ranges(stand: Stand) -> None:
    stand.produce(*orders(12), order("R3", "order:new"), cart("R3"))
    delivered(stand, 14)
    records = [record for record in stand.read_orders() if record]
    types = {record.place: stand.codec.decode(record.value or b"")["message"] for record in records}
    of_r3 = [record.place for record in records if record.key == b"R3"]
    (new,) = (place for place, each in types.items() if each == "order:new")
    assert (len(records), len(of_r3)) == (13, 2)
    replayed: Counter[tuple[int, int]] = Counter()

    def replay(*words: str) -> tuple[dict[str, Any], list[tuple[int, int]]]:
        """Replay, and give the output and the places that it replayed."""
        done = run(stand, "replay", "--topic", stand.orders_topic, "--json", *words)
        assert done.returncode == 0, done.stderr
        now = replays(stand)
        more = sorted((now - replayed).elements())
        replayed.clear()
        replayed.update(now)
        return json.loads(done.stdout), more

    def at(*places: Place) -> list[tuple[int, int]]:
        return sorted((place.partition, place.offset) for place in places)

    said, places = replay("--key", "R3", "--dry-run")
    assert (said["types"], said["left_out"], places) == ({"order:updated": 1, "order:new": 1}, 11, [])
    said, places = replay("--key", "R3")
    assert (said["delivered"], said["left_out"], places) == (2, 11, at(*of_r3))
    said, places = replay("--type", "order:new", "--site", SITE)
    assert said == {
        "replay": said["replay"],
        "finished": True,
        "delivered": 1,
        "failed": 0,
        "left_out": 12,
        "dead_letters": {},
    }
    assert places == at(new)
    said, places = replay("--site", "another")
    assert (said["delivered"], said["left_out"], places) == (0, 13, [])
    last = max(record.place for record in records if record.partition == new.partition)
    said, places = replay("--partition", str(last.partition), "--from-offset", str(last.offset))
    assert (said["delivered"], said["left_out"], places) == (1, 0, at(last))
    said, places = replay("--partition", str(last.partition), "--to", str(last.offset))
    before = [place for place in types if place.partition == last.partition and place != last]
    assert (said["delivered"], places) == (len(before), at(*before))
    said, places = replay("--from", "0s")
    assert (said["delivered"], said["left_out"], places) == (0, 0, [])


def test_a_stopped_replay_resumes_after_its_last_result(stand: Stand, tmp_path: Path) -> None:
    stand.produce(*orders(60))
    delivered(stand, 60)
    words = ["replay", "--topic", stand.orders_topic, "--rate", "4"]
    with CommandProcess(words, stand.environment, tmp_path / "replay.log") as process:
        await_that("some results", lambda: len(replays(stand)) >= 4)
        process.signal(signal.SIGINT)
        assert process.wait() == 130
        assert process.said("--resume") == 1
    begun = len(replays(stand))
    assert 4 <= begun < 60
    again = run(stand, "replay", "--topic", stand.orders_topic)
    assert again.returncode == 2
    assert "--resume to continue it, or --restart" in again.stderr
    done = run(stand, "replay", "--topic", stand.orders_topic, "--resume", "--json")
    assert json.loads(done.stdout)["delivered"] == 60 - begun
    assert len(replays(stand)) == 60
    assert set(replays(stand).values()) == {1}
    assert run(stand, "replay", "--topic", stand.orders_topic, "--resume").returncode == 2


def test_a_replay_of_relative_times_resumes_with_the_times_that_it_printed(stand: Stand, tmp_path: Path) -> None:
    stand.produce(*orders(30))
    delivered(stand, 30)
    words = ["replay", "--topic", stand.orders_topic, "--from", "1h", "--to", "0s", "--rate", "4"]
    log = tmp_path / "replay.log"
    with CommandProcess(words, stand.environment, log) as process:
        await_that("some results", lambda: len(replays(stand)) >= 4)
        process.signal(signal.SIGINT)
        assert process.wait() == 130
    stand.produce(*orders(10, start=100))  # after the end: not asked for
    delivered(stand, 40)
    again = run(stand, *words, "--resume")
    assert (again.returncode, len(again.stderr.splitlines())) == (2, 1)
    assert "; give the times that it printed when it began" in again.stderr
    at_once, at_the_end = (line for line in log.read_text().splitlines() if "--resume" in line)
    told = shlex.split(at_the_end.partition("continue with: jirafe-consumer ")[2])
    assert told == shlex.split(at_once.partition("continue with: jirafe-consumer ")[2])
    assert "--rate=4.0" in told
    assert run(stand, *told).returncode == 0
    assert len(replays(stand)) == 30
    assert set(replays(stand).values()) == {1}


def test_a_killed_replay_writes_no_result_twice(stand: Stand, tmp_path: Path) -> None:
    stand.produce(*orders(60))
    delivered(stand, 60)
    words = ["replay", "--topic", stand.orders_topic, "--rate", "4"]
    with CommandProcess(words, stand.environment, tmp_path / "replay.log") as process:
        await_that("some results", lambda: len(replays(stand)) >= 4)
        process.signal(signal.SIGKILL)
        process.wait()
    assert run(stand, "replay", "--topic", stand.orders_topic, "--resume").returncode == 0
    assert len(replays(stand)) == 60
    assert set(replays(stand).values()) == {1}


def test_a_replay_waits_while_the_api_is_down_and_ends_if_its_token_is_refused(stand: Stand) -> None:
    stand.produce(*orders(5))
    delivered(stand, 5)
    down = json.dumps({"error_type": "internal", "message": "pool [/pool/a] is down"})
    stand.api.add_fault({"action": "status", "status": 503, "times": 3, "body": down})
    assert run(stand, "replay", "--topic", stand.orders_topic).returncode == 0
    assert len(replays(stand)) == 5
    stand.api.add_fault({"action": "status", "status": 503, "times": None})
    gave_up = run(stand, "replay", "--topic", stand.orders_topic, CONSUMER_MAX_ATTEMPTS="2")
    assert gave_up.returncode == 1
    assert "An unexpected error occurred, 2 times in a row; continue with: " in gave_up.stderr
    stand.api.clear_faults()
    stand.api.set_credentials({"another": [SITE]})
    refused = run(stand, "replay", "--topic", stand.orders_topic, "--restart")
    assert refused.returncode == 1
    told = f"continue with: jirafe-consumer --env-file=/dev/null replay --topic={stand.orders_topic} --resume"
    assert f"invalid_token; {told}" in refused.stderr
    stand.api.set_credentials({TOKEN: [SITE]})
    assert run(stand, "replay", "--topic", stand.orders_topic, "--resume").returncode == 0
    assert set(replays(stand).values()) == {2}


def test_resuming_a_running_replay_ends_the_first_process(stand: Stand, tmp_path: Path) -> None:
    stand.produce(*orders(60))
    delivered(stand, 60)
    words = ["replay", "--topic", stand.orders_topic, "--rate", "1"]
    with CommandProcess(words, stand.environment, tmp_path / "replay.log") as first:
        await_that("some results", lambda: len(replays(stand)) >= 2)
        assert run(stand, *words[:3]).returncode == 2  # it still runs: that alone does not end it
        assert first.status is None
        assert run(stand, *words[:3], "--resume").returncode == 0
        assert first.wait() == 1
    assert len(replays(stand)) == 60
    assert set(replays(stand).values()) == {1}


def test_a_replay_gives_up_an_event_that_fails_alone(stand: Stand) -> None:
    stand.produce(*orders(7))
    delivered(stand, 7)
    stand.api.add_fault({"action": "status", "status": 500, "times": None, "ids": ["R3"]})
    done = run(stand, "replay", "--topic", stand.orders_topic, "--json", CONSUMER_MAX_ATTEMPTS="3")
    shown = json.loads(done.stdout)
    assert (done.returncode, shown["delivered"], shown["dead_letters"]) == (0, 6, {"failing": 1})
    (letter,) = stand.dead_letters()
    assert letter.key == b"R3"
    assert "dlq.replay" in dict(letter.headers)


def test_a_replay_without_matching_records_can_be_stopped_while_it_reads(stand: Stand, tmp_path: Path) -> None:
    value = stand.codec.encode("order", to_message(order("R1", "order:updated")))
    for number in range(60_000):
        stand.send_later(f"R{number % 100}".encode(), value)
    stand.flush()
    consumer = stand.reader()
    ends = [consumer.get_watermark_offsets(place, 10)[1] for place in stand.order_places().values()]
    places = zip(stand.order_places().values(), ends, strict=True)
    committed = [TopicPartition(place.topic, place.partition, end) for place, end in places]
    consumer.commit(offsets=committed, asynchronous=False)
    consumer.close()
    words = ["replay", "--topic", stand.orders_topic, "--site", "none", "--dry-run"]
    with CommandProcess(words, stand.environment, tmp_path / "replay.log") as process:
        await_that("it reads", lambda: _listens(process))
        process.signal(signal.SIGINT)
        assert process.wait() == 130


def _listens(process: CommandProcess) -> bool:
    """Tell whether a process handles SIGTERM."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1], 16)
    return bool(caught & 1 << signal.SIGTERM - 1)


def test_commands_work_with_foreign_records_in_our_topics(stand: Stand) -> None:
    failed(stand)
    producer = stand.cluster.make_producer(stand.cluster.client_properties("test"))
    message = stand.codec.encode("order", to_message(order("R1")))
    producer.produce(stand.settings.stream.results_topic, message)
    producer.produce(stand.settings.stream.dead_letters_topic, b"whatever", headers=[("dlq.topic", b"x")])
    producer.flush(10)
    assert len(listed(stand)) == 3
    assert run(stand, "dead-letters", "redrive", "--dry-run").returncode == 0
    assert run(stand, "audit").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--topic", "other"], "the topic other is not consumed"),
        (["--from", "yesterday"], "'yesterday' is not a time"),
        (["--from", "2h", "--from-offset", "1"], "give --from or --from-offset, not both"),
        (["--rate", "0"], "--rate"),
        (["--from", "2h", "--to", "3h"], "the range ends before it starts: it starts at"),
        (["--from-offset", "99999999"], "the offset 99999999 is after the end of"),
    ],
)
def test_wrong_usage_of_replay_is_reported_in_one_sentence(
    stand: Stand, arguments: list[str], sentence: str
) -> None:
    topic = [] if "--topic" in arguments else ["--topic", stand.orders_topic]
    done = run(stand, "replay", *topic, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


# dead letters


def failed(stand: Stand) -> None:
    """Leave three dead letters: a rejected event, a refused token, and bytes that are not Avro."""
    brings = {"jirafe.site_id": SITE, "jirafe.access_token": "their-token"}
    stand.produce(*orders(3), order("R8", totals={"order": -1}))
    stand.produce({**order("R9", "order:updated"), "parameters": brings})
    stand.produce_raw(b"bad", GARBAGE, headers=[("trace", b"17")])
    delivered(stand, 6)
    assert len(stand.dead_letters()) == 3


def listed(stand: Stand, *arguments: str) -> list[dict[str, Any]]:
    done = run(stand, "dead-letters", "list", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_results_of_a_record_show_the_original_the_replay_and_the_redrive(stand: Stand) -> None:
    stand.produce(order("R1", totals={"order": -1}))
    delivered(stand, 1)
    (letter,) = listed(stand)
    place = letter["place"]
    assert run(stand, "replay", "--topic", stand.orders_topic).returncode == 0
    assert run(stand, "dead-letters", "redrive", letter["dead_letter"]).returncode == 0
    text = run(stand, "results", "--of", place, COLUMNS="200").stdout
    (replayed,) = {each["replay"] for each in stand.results()} - {None}
    by = ["original", f"replay {replayed}", f"redrive of {letter['dead_letter']}"]
    # What is long is folded: the words are looked for in the column without its breaks.
    column = "".join(line[:16].rstrip() + " " * line[:16].endswith(" ") for line in text.splitlines()[1:])
    assert [each.replace(" ", "") in column.replace(" ", "") for each in by] == [True] * 3
    assert "original" not in run(stand, "results", COLUMNS="200").stdout
    assert {each["replay"] for each in asked_of(stand, place)} == {None, replayed}


def asked_of(stand: Stand, place: str) -> list[dict[str, Any]]:
    done = run(stand, "results", "--of", place, "--json")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_dead_letters_are_listed_and_shown(stand: Stand) -> None:
    failed(stand)
    by_kind = {letter["kind"]: letter for letter in listed(stand)}
    assert by_kind.keys() == {"rejected", "forbidden", "undecodable"}
    assert (by_kind["rejected"]["message"], by_kind["rejected"]["number"]) == ("order:new", "R8")
    assert by_kind["undecodable"]["number"] == "bad"
    by_partition: dict[int, set[str]] = {}
    for kind, letter in by_kind.items():
        by_partition.setdefault(Place.parse(letter["place"]).partition, set()).add(kind)
    table = run(stand, "dead-letters", "list", KAFKA_TRANSACTION_TIMEOUT_MS="50000").stdout
    assert "3 dead letters" in table
    assert "\n1 dead letter: 1 forbidden\n" in run(stand, "dead-letters", "list", "--kind", "forbidden").stdout
    assert "total: -1.0 is less than the minimum of 0" in " ".join(table.split())
    for options, kinds in (
        (["--kind", "forbidden"], {"forbidden"}),
        (["--type", "order:new"], {"rejected"}),
        (["--key", "bad"], {"undecodable"}),
        (["--reason", "LESS THAN"], {"rejected"}),
        (["--from", "1h"], {"rejected", "forbidden", "undecodable"}),
        (["--to", "1h"], set()),
        *((["--partition", str(number)], kinds) for number, kinds in by_partition.items()),
        (["--partition", "7"], set()),
    ):
        assert {letter["kind"] for letter in listed(stand, *options)} == kinds, options

    shown = json.loads(run(stand, "dead-letters", "show", by_kind["rejected"]["place"]).stdout)
    assert shown["content"]["payload"]["order"]["number"] == "R8"
    assert -1 in [event["body"].get("total") for event in shown["would_send"]["events"]]
    assert shown["explained_in"] == "docs/errors.md"
    assert "their-token" not in run(stand, "dead-letters", "show", by_kind["forbidden"]["place"]).stdout
    raw = json.loads(run(stand, "dead-letters", "show", by_kind["undecodable"]["dead_letter"]).stdout)
    assert (raw["content"], raw["record"]["headers"]) == (None, [["trace", "17"]])
    assert raw["record"]["begins"] == GARBAGE.hex(" ")
    absent = run(stand, "dead-letters", "show", f"{stand.orders_topic}/0/999")
    assert (absent.returncode, absent.stdout) == (2, "")
    assert "has no dead letter of" in absent.stderr
    for words, sentence in (
        (["list", "--topic", "other"], "the topic other is not consumed"),
        (["redrive", "nonsense"], "is not TOPIC/PARTITION/OFFSET, such as orders/0/17"),
        (["redrive", by_kind["rejected"]["place"], f"{stand.orders_topic}/0/999"], "/0/999; dead-letters list"),
        (
            ["redrive", by_kind["rejected"]["place"], "--kind", "forbidden", "--dry-run"],
            "that matches; dead-letters",
        ),
    ):
        done = run(stand, "dead-letters", *words)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
        assert sentence in done.stderr
    assert not any(result["redrive"] for result in stand.results())


def test_a_redrive_delivers_a_fixed_record_only_once(stand: Stand) -> None:
    failed(stand)
    stand.api.set_credentials({TOKEN: [SITE], "their-token": [SITE]})
    dry = run(stand, "dead-letters", "redrive", "--kind", "forbidden", "--dry-run")
    assert "1 would be delivered again, 0 left out." in dry.stdout
    assert not any(result["redrive"] for result in stand.results())
    (letter,) = listed(stand, "--kind", "forbidden")
    done = run(stand, "dead-letters", "redrive", letter["place"], "--json")
    assert json.loads(done.stdout)["delivered"] == 1
    (result,) = [result for result in stand.results() if result["redrive"]]
    assert (result["code"], result["redrive"]) == (200, letter["dead_letter"])
    assert f"{result['topic']}/{result['partition']}/{result['offset']}" == letter["place"]
    assert "R9" in {number for _, _, number in stand.accepted()}
    assert len(stand.dead_letters()) == 3
    assert {each["kind"] for each in listed(stand, "--open")} == {"rejected", "undecodable"}
    # Never twice the same letter, unless asked.
    done = run(stand, "dead-letters", "redrive", "--kind", "forbidden", "--json")
    assert (json.loads(done.stdout)["delivered"], json.loads(done.stdout)["left_out"]) == (0, 1)
    done = run(stand, "dead-letters", "redrive", "--kind", "forbidden", "--again", "--json")
    assert json.loads(done.stdout)["delivered"] == 1


def test_commands_work_with_extreme_record_timestamps(stand: Stand) -> None:
    timestamps = [1_700_000_000_000_000, 1_700_000_000_000_000_000, 253_402_300_800_000, 2**63 - 1]
    stand.take_any_timestamp()
    producer = stand.cluster.make_producer(stand.cluster.client_properties("test"))
    refused: list[KafkaError | None] = []
    for timestamp in timestamps:
        producer.produce(
            stand.orders_topic,
            GARBAGE,
            b"R1",
            partition=0,
            timestamp=timestamp,
            on_delivery=lambda error, _: refused.append(error),
        )
    assert producer.flush(10) == 0
    assert refused == [None] * len(timestamps)
    assert '"seconds":0.0' in run(stand, "lag", "--json").stdout
    delivered(stand, len(timestamps))
    shown = run(stand, "results", "--json")
    assert [json.loads(line)["timestamp"] for line in shown.stdout.splitlines()] == timestamps
    assert shown.stderr == ""
    assert run(stand, "audit").returncode == 0
    assert len(listed(stand, "--open")) == len(timestamps)
    assert json.loads(run(stand, "dead-letters", "show", listed(stand)[3]["place"]).stdout)["record"]["timestamp"]
    redrive = ("dead-letters", "redrive", "--json")
    assert json.loads(run(stand, *redrive).stdout)["failed"] == len(timestamps)
    assert [letter["redriven"] for letter in listed(stand)] == ["failed"] * 4 + [None] * 4
    assert run(stand, "audit").returncode == 0


def test_a_failed_redrive_makes_a_new_dead_letter_at_most_three_times(stand: Stand) -> None:
    failed(stand)
    for redrives in range(1, 4):
        done = run(stand, "dead-letters", "redrive", "--kind", "undecodable", "--json")
        assert json.loads(done.stdout)["dead_letters"] == {"undecodable": 1}
        newest = max(listed(stand, "--kind", "undecodable"), key=lambda letter: letter["redrives"])
        assert (newest["redrives"], newest["attempts"]) == (redrives, redrives + 1)
    letters = [letter for letter in stand.dead_letters() if letter.key == b"bad"]
    assert {letter.value for letter in letters} == {GARBAGE}
    assert {letter.headers[0] for letter in letters} == {("trace", b"17")}
    assert all(sum(name == "dlq.topic" for name, _ in each.headers) == 1 for each in letters)
    done = run(stand, "dead-letters", "redrive", "--kind", "undecodable", "--json")
    assert (json.loads(done.stdout)["failed"], json.loads(done.stdout)["left_out"]) == (0, 4)
    assert listed(stand, "--kind", "undecodable", "--open") == [newest]


def test_only_the_last_dead_letter_of_a_record_is_open_until_it_is_delivered(stand: Stand) -> None:
    failed(stand)
    assert json.loads(run(stand, "dead-letters", "redrive", "--kind", "forbidden", "--json").stdout)["failed"] == 1
    (letter,) = listed(stand, "--kind", "forbidden", "--open")
    assert letter["redrives"] == 1
    stand.api.set_credentials({TOKEN: [SITE], "their-token": [SITE]})
    done = run(stand, "dead-letters", "redrive", "--kind", "forbidden", "--json")
    assert json.loads(done.stdout)["delivered"] == 1
    assert listed(stand, "--kind", "forbidden", "--open") == []
    states = {each["redrives"]: each["redriven"] for each in listed(stand, "--kind", "forbidden")}
    assert states == {0: "failed", 1: "delivered"}


def test_a_second_redrive_delivers_what_a_stopped_one_left(stand: Stand, tmp_path: Path) -> None:
    brings = {"jirafe.site_id": SITE, "jirafe.access_token": "their-token"}
    stand.produce(*({**each, "parameters": brings} for each in orders(30)))
    delivered(stand, 30)
    stand.api.set_credentials({TOKEN: [SITE], "their-token": [SITE]})
    words = ["dead-letters", "redrive", "--rate", "2"]
    with CommandProcess(words, stand.environment, tmp_path / "redrive.log") as process:
        await_that("some", lambda: any(result["redrive"] for result in stand.results()))
        process.signal(signal.SIGINT)
        assert process.wait() == 130
    assert run(stand, "dead-letters", "redrive").returncode == 0
    redriven = Counter(result["redrive"] for result in stand.results() if result["redrive"])
    assert len(redriven) == 30
    assert set(redriven.values()) == {1}
