from consumer.delivery.suspicion import SiteTally, Suspicion


def test_only_tries_that_others_succeeded_before_count() -> None:
    tally = SiteTally(succeeded=5)
    suspicion = Suspicion.of(tally)
    assert not suspicion.failed_again(tally, 1)
    assert (suspicion.alone, suspicion.counted) == (1, 0)
    tally.succeeded += 1
    assert suspicion.failed_again(tally, 1)
    assert (suspicion.alone, suspicion.counted) == (2, 1)


def test_one_success_is_no_proof_for_an_outage_that_follows_it() -> None:
    tally = SiteTally()
    suspicion = Suspicion.of(tally)
    tally.succeeded += 1
    for _ in range(50):
        tally.failed += 1
        assert not suspicion.failed_again(tally, 2)
    assert suspicion.counted == 1


def test_the_tries_must_be_hardly_possible_by_chance() -> None:
    tally = SiteTally()
    suspicion = Suspicion.of(tally)
    tries = 0
    while True:
        tries += 1
        tally.succeeded += 1
        tally.failed += 2  # its own, and that of one other
        if suspicion.failed_again(tally, 3):
            break
    assert tries == 10  # half of the others fail: 0.5 ** 10 is the first power under 0.001


def test_what_failed_before_it_came_under_suspicion_does_not_speak_for_it() -> None:
    tally = SiteTally(succeeded=1, failed=10_000)
    suspicion = Suspicion.of(tally)
    for _ in range(3):
        tally.succeeded += 1
        tally.failed += 1
        is_at_fault = suspicion.failed_again(tally, 3)
    assert is_at_fault
