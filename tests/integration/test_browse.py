"""The group and single records in a browser, as `browse` shows them."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from consumer.demo.processes import await_that
from tests.browser import DESKTOP, PHONE, headless, needs_browser
from tests.command import run
from tests.messages import order
from tests.stand import SITE, TOKEN, Stand


@pytest.fixture
def delivered(stand: Stand) -> Iterator[tuple[Stand, str]]:
    """A group that delivered two records and made one dead letter, and the address of `browse`."""
    own = order("R1")
    own["parameters"] = [{"name": "jirafe.access_token", "value": TOKEN}, {"name": "jirafe.site_id", "value": SITE}]
    stand.produce(own, order("R2", "order:updated"))
    stand.produce_raw(b"R3", b"<b>no message</b>")
    stand.member()
    stand.await_results(3)
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(("KAFKA_", "JIRAFE_", "CONSUMER_"))}
    command = [sys.executable, "-m", "consumer", "--env-file", os.devnull, "browse", "--port", "0"]
    with subprocess.Popen(
        command, env={**inherited, **stand.environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        found = re.match(r"Open (http://127\.0\.0\.1:\d+/) in a browser\.", process.stdout.readline())
        assert found
        try:
            yield stand, found[1]
        finally:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
            assert (process.returncode, out, err) == (0, "", "")


def test_the_group_and_its_records_are_served_as_json(delivered: tuple[Stand, str]) -> None:
    stand, url = delivered
    group = requests.get(f"{url}group.json", timeout=60).json()
    assert group["group"] == stand.settings.kafka["group.id"]
    assert group["total"]["records"] == 0
    assert {each["topic"] for each in group["partitions"]} == set(stand.settings.topics)
    (letter,) = group["letters"]
    assert letter["kind"] == "undecodable"

    places = {result["message"]: result for result in stand.results()}
    good = places["order:new"]
    place = f"{good['topic']}/{good['partition']}/{good['offset']}"
    record = requests.get(f"{url}record.json", params={"place": place}, timeout=60)
    told = record.json()
    assert told["record"]["key"] == "R1"
    assert told["content"]["payload"]["order"]["number"] == "R1"
    assert [each["kind"] for each in told["would_send"]["events"]] == ["cart", "order-placed", "order-accepted"]
    (result,) = told["results"]
    assert (result["code"], result["message"]) == (200, "order:new")
    assert (told["letters"], told["is_whole"], told["reason"]) == ([], True, "")
    assert TOKEN not in record.text

    told = requests.get(f"{url}record.json", params={"place": letter["place"]}, timeout=60).json()
    assert told["content"] is None
    assert told["not_decoded"].startswith("the first bytes")
    assert [each["letter"] for each in told["letters"]] == [letter["letter"]]
    assert [each["code"] for each in told["results"]] == [500]


def test_dead_letters_hidden_by_an_open_transaction_are_counted(delivered: tuple[Stand, str]) -> None:
    stand, url = delivered
    topic = stand.settings.stream.dead_letters_topic
    writer = stand.writer(f"{topic}-other")
    writer.begin_transaction()
    for number in range(6):
        writer.produce(topic, b"another's", partition=number)
    assert writer.flush(30) == 0
    told = requests.get(f"{url}group.json", timeout=60).json()
    assert (len(told["letters"]), told["hidden_letters"]) == (1, 6)
    writer.abort_transaction()
    told = requests.get(f"{url}group.json", timeout=60).json()
    assert (len(told["letters"]), told["hidden_letters"]) == (1, 0)


def test_a_missing_or_invalid_place_is_answered_with_the_reason(delivered: tuple[Stand, str]) -> None:
    stand, url = delivered

    def asked(place: str) -> tuple[int, str]:
        answer = requests.get(f"{url}record.json", params={"place": place}, timeout=60)
        return answer.status_code, answer.json().get("error") or answer.json()["reason"]

    assert asked(f"{stand.orders_topic}/0/999999")[1].startswith("the log ends at ")
    status, said = asked("here")
    assert (status, said) == (400, "'here' is not TOPIC/PARTITION/OFFSET, such as orders/0/17.")
    topic = stand.settings.stream.results_topic
    consumed = ", ".join(stand.settings.topics)
    said = f"the topic {topic} is not consumed. The consumed topics are: {consumed}."
    assert asked(f"{topic}/0/0") == (400, said)
    assert asked(f"{stand.orders_topic}/99/0") == (503, f"the topic {stand.orders_topic} has no partition 99.")


def test_requests_for_another_host_and_posts_are_refused(delivered: tuple[Stand, str]) -> None:
    _, url = delivered
    answer = requests.get(f"{url}group.json", headers={"Host": "evil.example"}, timeout=60)
    assert (answer.status_code, answer.text) == (421, "Open the page by its IP address, or as localhost.\n")
    assert requests.post(f"{url}group.json", timeout=60).status_code == 501


@needs_browser
def test_the_pages_in_a_browser(delivered: tuple[Stand, str], tmp_path: Path) -> None:
    stand, url = delivered
    with headless(tmp_path, url) as browser:
        browser.resize(DESKTOP)
        browser.driver.get(url)
        await_that("the group", browser.says("main", f"Group {stand.settings.kafka['group.id']}"))
        assert "lag 0" in browser.text("main")
        assert "undecodable" in browser.text("main")
        browser.run("document.querySelector('main table a').click()")
        await_that("the record", browser.says("main", "Dead letters"))
        assert "the first bytes" in browser.text("main")
        browser.resize(PHONE)
        assert not browser.overflows()
        browser.driver.get(f"{url}#")
        await_that("the group again", browser.says("main", "Partitions"))
        assert not browser.overflows()
        assert browser.complaints() == []


@pytest.mark.real_broker("the embedded broker keeps nothing beside an offset")
def test_what_blocks_a_partition_is_shown_for_the_whole_group(delivered: tuple[Stand, str]) -> None:
    stand, url = delivered
    stand.api.add_fault({"action": "status", "status": 503, "times": None})
    stand.produce(order("R1", "order:updated"))
    partitions: list[dict[str, Any]] = []

    def is_shown() -> bool:
        group = requests.get(f"{url}group.json", timeout=60).json()
        partitions[:] = [each for each in group["partitions"] if each["held_by"]]
        return bool(partitions)

    await_that("what blocks the partition", is_shown, within=60)
    (partition,) = partitions
    blocker = partition["held_by"]
    assert (blocker["strand"], blocker["cause"], partition["records"]) == (SITE, "503", 1)
    text = run("lag", **stand.environment).stdout
    assert f"Blocked: {stand.orders_topic}/{partition['partition']} by {SITE} (503) for " in " ".join(text.split())
    stand.api.clear_faults()
    stand.await_results(4)
    await_that("nothing blocks it", lambda: not is_shown(), within=60)
