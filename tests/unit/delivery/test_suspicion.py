import pytest

from consumer.delivery import suspicion
from consumer.delivery.suspicion import Sites, Suspicion, Tally


def test_only_failures_after_a_success_of_others_count() -> None:
    tally = Tally(succeeded=5)
    suspect = Suspicion.of(tally)
    assert not suspect.failed_again(tally, 1)
    assert (suspect.alone, suspect.counted) == (1, 0)
    tally.succeeded += 1
    assert suspect.failed_again(tally, 1)
    assert (suspect.alone, suspect.counted) == (2, 1)


def test_one_success_proves_nothing_about_a_later_outage() -> None:
    tally = Tally()
    suspect = Suspicion.of(tally)
    tally.succeeded += 1
    for _ in range(50):
        tally.failed += 1
        assert not suspect.failed_again(tally, 2)
    assert suspect.counted == 1


def test_the_failures_must_be_very_unlikely_by_chance() -> None:
    tally = Tally()
    suspect = Suspicion.of(tally)
    tries = 0
    while True:
        tries += 1
        tally.succeeded += 1
        tally.failed += 2  # its own, and that of one other
        if suspect.failed_again(tally, 3):
            break
    assert tries == 10  # half of the others fail: 0.5 ** 10 is the first power under 0.001


def test_earlier_failures_of_others_do_not_protect_a_suspect() -> None:
    tally = Tally(succeeded=1, failed=10_000)
    suspect = Suspicion.of(tally)
    for _ in range(3):
        tally.succeeded += 1
        tally.failed += 1
        is_at_fault = suspect.failed_again(tally, 3)
    assert is_at_fault


def test_only_the_most_recently_used_sites_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspicion, "_MOST_SITES", 3)
    sites = Sites()
    first, second = sites.of("1"), sites.of("2")
    for number in range(3, 100):
        sites.of(str(number))
        assert sites.of("1") is first
    assert sites.of("2") is not second
    assert len(sites._tallies) == 3
