"""The status page in a real browser, on a real member."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from consumer.demo.processes import CommandProcess, await_that, free_port
from schemas.hub import to_message
from tests.browser import PHONE, Browser, headless, needs_browser
from tests.integration.test_service import orders
from tests.stand import NUMBER_OF_PARTITIONS, SITE, TOKEN, Stand

pytestmark = needs_browser

EXPIRED = "expired-token"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with headless(tmp_path, f"http://127.0.0.1:{free_port()}/") as found:
        yield found


def start(stand: Stand, browser: Browser, **changed: str) -> CommandProcess:
    address = browser.url.removeprefix("http://").rstrip("/")
    member = stand.member(CONSUMER_HTTP_ADDRESS=address, KAFKA_STATISTICS_INTERVAL_MS="500", **changed)
    stand.await_assigned(member)
    return member


def test_the_page_updates_without_a_reload(stand: Stand, browser: Browser) -> None:
    start(stand, browser)
    browser.open()
    await_that("it is idle", browser.says("state", "Idle"))
    assert "None since the start." in browser.text("failures")
    browser.run("window.marked = true")
    stand.produce(*orders(30))
    await_that("results", browser.says("charts", "30 since the start"))
    stand.produce_raw(b"poison", b"\x07not Avro")
    await_that("the poison message", browser.says("failures", "undecodable"))
    (place,) = [line for line in browser.text("failures").splitlines() if line.startswith(stand.orders_topic)]
    assert f"jirafe-consumer dead-letters show {place}" in browser.text("failures")
    assert place.rpartition("/")[2].isdecimal()
    await_that(
        "its reason", browser.says("kinds", "the first bytes (076e6f74) are neither a framing of Avro nor JSON")
    )
    lanes = browser.driver.find_elements(By.CSS_SELECTOR, "#lanes tr")
    assert len(lanes) == 4 * NUMBER_OF_PARTITIONS
    assert browser.run("return window.marked") is True
    assert browser.complaints() == []


def test_the_page_says_what_is_held_and_how_to_fix_it(stand: Stand, browser: Browser) -> None:
    start(stand, browser, JIRAFE_ACCESS_TOKEN=EXPIRED)
    stand.produce(*orders(20))
    browser.open(PHONE)
    await_that("it is held", browser.says("state", "Needs an operator"))
    state = browser.text("state")
    assert "the API refused the access token for site 123: invalid_token" in state
    assert "Fix JIRAFE_ACCESS_TOKEN" in state
    assert "docs/operations.md#token-expired" in state
    await_that("the lanes tell", browser.says("lanes", f"site {SITE}; "))  # in how long, or now
    assert browser.driver.title.startswith("Needs an operator")
    assert not browser.overflows()
    for text in (browser.driver.page_source, browser.run("return document.documentElement.innerHTML")):
        assert EXPIRED not in text
        assert TOKEN not in text
    assert browser.complaints() == []


def test_the_page_shows_an_api_outage_and_its_end(stand: Stand, browser: Browser) -> None:
    stand.api.add_fault({"action": "status", "status": 503, "times": None})
    start(stand, browser)
    stand.produce(*orders(20))
    browser.open()
    await_that("it waits", browser.says("state", "The API does not work for site 123"))
    assert "the API answered 503" in browser.text("state")
    await_that("the lag", browser.says("lanes", "API down"))
    stand.api.clear_faults()
    await_that("it serves again", lambda: browser.text("state").splitlines()[1] in ("Working", "Idle"))
    await_that("results", browser.says("charts", "20 since the start"))


def test_the_page_escapes_html_in_messages(stand: Stand, browser: Browser) -> None:
    start(stand, browser)
    message = {**to_message(orders(1)[0]), "message": "order:<img src=x onerror=window.hit=1>"}
    stand.produce_bytes("order", b"R0", stand.codec.encode("order", message))
    browser.open()
    await_that("it is shown", browser.says("failures", "<img src=x"))
    assert browser.run("return window.hit ?? null") is None
    assert browser.driver.find_elements(By.CSS_SELECTOR, "main img") == []


def test_a_full_page_fits_a_phone_and_shows_that_the_member_is_gone(stand: Stand, browser: Browser) -> None:
    member = start(stand, browser, CONSUMER_CHUNK_RECORDS="1")
    for number in range(12):
        stand.produce_raw(f"poison-{number}".encode(), b"\x07not Avro")
    await_that("dead letters", lambda: len(stand.dead_letters()) == 12)
    stand.api.add_fault({"action": "status", "status": 503, "times": None})
    stand.produce(*orders(200))
    browser.open(PHONE)
    await_that("it waits", browser.says("lanes", "fetches no more: too many records are in memory"))
    await_that("errors", browser.says("failures-more", "Show the last 12"))
    browser.driver.find_element(By.ID, "failures-more").click()
    assert browser.text("failures").count("dead-letters show") == 12
    assert not browser.overflows()
    browser.resize((768, 900))
    assert not browser.overflows()
    stand.api.clear_faults()
    assert member.stop() == 0
    await_that("it is gone", browser.says("lost", "Connection lost: this member does not answer."))
    assert browser.text("live") == "not live"
    assert "dead-letters show" in browser.text("failures")
