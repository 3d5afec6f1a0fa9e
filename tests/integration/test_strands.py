"""Many sites share partitions, and one is in trouble: the others go on, and each record has one result."""

import json
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from consumer.demo.processes import await_that
from jirafe.sandbox import Sandbox, SandboxServer
from tests.command import run
from tests.integration.test_service import assert_one_result_each
from tests.messages import order
from tests.stand import SITE, TOKEN, Stand

SITES = [f"shop-{number}" for number in range(24)]
SICK = SITES[7]
ROUNDS = 5
TROUBLES: dict[str, dict[str, object]] = {
    "down": {"action": "status", "status": 503},
    "throttled": {"action": "status", "status": 429, "retry_after": "3"},
    "slow": {"action": "delay", "seconds": 8},
}


@pytest.fixture
def shops(bootstrap_servers: str, tmp_path: Path) -> Iterator[Stand]:
    credentials = {TOKEN: [SITE], "shops-token": SITES}
    with SandboxServer(Sandbox(credentials=credentials)) as api:
        stand = Stand(bootstrap_servers, api, tmp_path)
        # Enough attempts for the whole trouble, so that no site is given up.
        stand.environment["CONSUMER_MAX_ATTEMPTS"] = "1000"
        try:
            yield stand
        finally:
            stand.close()


def round_of(number: int) -> list[dict[str, Any]]:
    """Give one order's update for each site, each with its own total."""
    documents = []
    for site in SITES:
        document = order(f"{site}-{number % 2}", "order:updated", totals={"order": number})
        given = {"jirafe.site_id": site, "jirafe.access_token": "shops-token"}
        document["parameters"] = [{"name": name, "value": value} for name, value in given.items()]
        documents.append(document)
    return documents


def of_sites(stand: Stand, results: list[dict[str, Any]]) -> dict[str, int]:
    """Count results by site: each order names its own."""
    counts: dict[str, int] = defaultdict(int)
    keys = {
        (record.topic, record.partition, record.offset): (record.key or b"").decode()
        for record in stand.read_orders()
        if record
    }
    for result in results:
        key = keys[result["topic"], result["partition"], result["offset"]]
        counts[key.rpartition("-")[0]] += 1
    return counts


def assert_all_came_in_order(stand: Stand, rounds: int) -> None:
    results = stand.await_results(rounds * len(SITES), within=90)
    assert_one_result_each(results, rounds * len(SITES))
    assert {result["code"] for result in results} == {200}
    for site in SITES:
        for number in (0, 1):
            totals = list(dict.fromkeys(stand.totals(f"{site}-{number}")))
            assert totals == [float(each) for each in range(rounds) if each % 2 == number], site


def lag(stand: Stand) -> dict[str, Any]:
    ran = run("lag", "--json", **stand.environment)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def records_before_the_block(stand: Stand) -> int:
    """Count the records before the first of the sick site in their partition: they wait for nothing."""
    blocked, count = set(), 0
    for record in stand.read_orders():
        if record and (record.key or b"").startswith(f"{SICK}-".encode()):
            blocked.add(record.partition)
        elif record and record.partition not in blocked:
            count += 1
    return count


@pytest.mark.timeout(240)
@pytest.mark.real_broker("the embedded broker keeps nothing beside an offset: results wait")
@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_of_one_site_does_not_delay_other_sites(shops: Stand, trouble: str) -> None:
    shops.await_assigned(shops.member())
    shops.produce(*round_of(0))
    shops.await_results(len(SITES))
    shops.api.add_fault({**TROUBLES[trouble], "site": SICK, "times": None})
    begun = time.monotonic()
    for number in range(1, ROUNDS):
        shops.produce(*round_of(number))
    others = len(SITES) + (ROUNDS - 1) * (len(SITES) - 1)
    if trouble == "slow":
        await_that("the others' results", lambda: _others(shops) >= others, within=30)
    else:
        shops.await_results(others, within=30)
    assert time.monotonic() - begun < 30
    shops.api.clear_faults()
    assert_all_came_in_order(shops, ROUNDS)
    await_that("no lag", lambda: lag(shops)["total"]["records"] == 0)


def _others(stand: Stand) -> int:
    counts = of_sites(stand, stand.results())
    return sum(counts.values()) - max(0, counts[SICK] - 1)


@pytest.mark.timeout(240)
@pytest.mark.real_broker("the embedded broker keeps nothing beside an offset, and shows what was aborted")
def test_a_new_owner_does_not_repeat_records_decided_beyond_the_committed_offset(shops: Stand) -> None:
    member = shops.member()
    shops.await_assigned(member)
    shops.api.add_fault({**TROUBLES["down"], "site": SICK, "times": None})
    shops.produce(*round_of(0), *round_of(1))
    shops.await_results(2 * (len(SITES) - 1), within=60)
    told = lag(shops)
    ahead = sum(partition["ahead"] for partition in told["partitions"])
    assert 0 < ahead <= 2 * (len(SITES) - 1)
    held = [partition["held_by"] for partition in told["partitions"] if partition["held_by"]]
    assert {(each["strand"], each["cause"]) for each in held} == {(SICK, "503")}
    sent = len(shops.accepted())
    member.signal(signal.SIGKILL)
    second = shops.member()
    shops.end_transaction_of(member)
    shops.await_assigned(second)
    shops.produce(*round_of(2))
    shops.await_results(3 * (len(SITES) - 1), within=60)
    assert len(shops.accepted()) == sent + len(SITES) - 1  # nothing was sent again
    audited = run("audit", "--json", **shops.environment)
    assert audited.returncode == 0, audited.stdout
    assert f"{SICK} blocks the committed offset" in audited.stdout
    assert second.stop() == 0
    shops.api.clear_faults()
    shops.member()
    assert_all_came_in_order(shops, 3)
    await_that("no lag", lambda: lag(shops)["total"]["records"] == 0)
    assert sum(partition["ahead"] for partition in lag(shops)["partitions"]) == 0


@pytest.mark.timeout(240)
def test_no_record_gets_a_second_result_with_or_without_offset_metadata(shops: Stand) -> None:
    member = shops.member()
    shops.await_assigned(member)
    shops.api.add_fault({**TROUBLES["down"], "site": SICK, "times": None})
    shops.produce(*round_of(0), *round_of(1))
    await_that(
        "the others' events", lambda: len({number for *_, number in shops.accepted()}) >= 2 * (len(SITES) - 1)
    )
    # A transaction must not be open at the kill: the embedded broker would show readers its results.
    before = records_before_the_block(shops)
    await_that("the committed offsets", lambda: sum(shops.committed().values()) >= before)
    member.signal(signal.SIGKILL)
    second = shops.member()
    shops.end_transaction_of(member)
    shops.await_assigned(second)
    shops.produce(*round_of(2))
    shops.api.clear_faults()
    assert_all_came_in_order(shops, 3)
    await_that("no lag", lambda: lag(shops)["total"]["records"] == 0)


@pytest.mark.real_broker("the embedded broker keeps nothing beside an offset")
def test_unknown_offset_metadata_is_ignored_and_logged(shops: Stand) -> None:
    shops.produce(*round_of(0))
    consumer = shops.reader()
    places = [
        TopicPartition(place.topic, place.partition, 0, "jirafe-consumer/9 of a later version")
        for place in shops.order_places().values()
    ]
    consumer.commit(offsets=places, asynchronous=False)
    consumer.close()
    member = shops.member()
    assert_one_result_each(shops.await_results(len(SITES)), len(SITES))
    assert member.said('"event": "ahead_ignored"') == len(places)
