"""An incident at night, and the morning after: the commands alone find the causes, repair them and prove it."""

import json
import signal
from typing import Any

import pytest

from consumer.demo.processes import await_that
from schemas.hub import to_message
from tests.command import run
from tests.integration.test_service import orders
from tests.stand import SITE, TOKEN, Stand

MESSAGES, POISON_EVERY = 20_000, 1_000
THEIRS = "their-token"
GARBAGE = b"\x07not Avro"


def asked(stand: Stand, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
    done = run(*arguments, "--json", **stand.environment)
    assert done.returncode == status, done.stdout + done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def produce(stand: Stand, numbers: range) -> None:
    """Produce orders. One in a thousand is poison: not Avro, or with a token that the API refuses."""
    brings = {"jirafe.site_id": SITE, "jirafe.access_token": THEIRS}
    for number, document in zip(numbers, orders(len(numbers), numbers.start), strict=True):
        value = stand.codec.encode("order", to_message(document))
        if number % POISON_EVERY == 0:
            theirs = stand.codec.encode("order", to_message({**document, "parameters": brings}))
            value = theirs if number % (2 * POISON_EVERY) else GARBAGE
        stand.send_later(f"R{number}".encode(), value)
    stand.flush()


@pytest.mark.timeout(300)
@pytest.mark.real_broker("what a crash leaves is hidden from readers")
def test_an_incident_is_diagnosed_repaired_and_audited_with_commands_alone(stand: Stand) -> None:
    topic, poisoned = stand.orders_topic, MESSAGES // POISON_EVERY
    quick = {"CONSUMER_CHUNK_RECORDS": "200", "CONSUMER_BACKOFF_LONGEST": "3600"}
    member = stand.member(**quick)
    stand.await_assigned(member)
    produce(stand, range(MESSAGES // 2))

    # The token expires in the middle, for so long that it would be an hour at the usual pace of tries.
    await_that("a good part is done", lambda: sum(stand.committed().values()) > MESSAGES // 4)
    stand.api.set_credentials({"another": [SITE]})
    produce(stand, range(MESSAGES // 2, MESSAGES))
    await_that("it holds", lambda: member.said('"event": "held"') > 0)
    (behind,) = asked(stand, "lag")
    assert behind["total"]["records"] > 0
    findings = {each["check"]: each for each in asked(stand, "check", status=1)[0]["checks"]}
    assert findings["token"]["verdict"] == "failed"
    assert "invalid_token" in findings["token"]["message"]
    stand.api.set_credentials({TOKEN: [SITE]})
    member.signal(signal.SIGHUP)

    # It crashes once it is at work again, and is started again.
    done = sum(stand.committed().values())
    await_that("it goes on", lambda: sum(stand.committed().values()) > done)
    member.signal(signal.SIGKILL)
    member.wait()
    stand.member(**quick)
    await_that("all is done", lambda: asked(stand, "lag")[0]["total"]["records"] == 0, 120)

    # What happened?
    letters = asked(stand, "dead-letters", "list", "--open")
    assert len(letters) == poisoned
    kinds = {
        kind: [letter for letter in letters if letter["kind"] == kind] for kind in ("forbidden", "undecodable")
    }
    assert {kind: len(found) for kind, found in kinds.items()} == dict.fromkeys(kinds, poisoned // 2)
    shown = json.loads(run("dead-letters", "show", kinds["forbidden"][0]["place"], **stand.environment).stdout)
    assert "invalid_token" in shown["reason"]

    # Their token works again: the letters of that kind are delivered, and none of them twice.
    stand.api.set_credentials({TOKEN: [SITE], THEIRS: [SITE]})
    (redriven,) = asked(stand, "dead-letters", "redrive", "--kind", "forbidden")
    assert (redriven["finished"], redriven["delivered"], redriven["failed"]) == (True, poisoned // 2, 0)
    (redriven,) = asked(stand, "dead-letters", "redrive", "--kind", "forbidden")
    assert (redriven["delivered"], redriven["left_out"]) == (0, poisoned // 2)

    # A window is replayed.
    window = ["--partition", "0", "--from-offset", "1000", "--to", "2000"]
    (replayed,) = asked(stand, "replay", "--topic", topic, *window)
    assert replayed["delivered"] + replayed["failed"] == 1000

    # And nothing was lost.
    (audit,) = asked(stand, "audit", "--topic", topic)
    total = audit["total"]
    assert audit["ok"], audit
    assert (total["records"], total["one_result"], total["waiting"]) == (MESSAGES, MESSAGES, 0)
    assert (total["failed"], total["dead_lettered"], total["redriven"]) == (poisoned, poisoned, poisoned // 2)
    assert total["replayed"] == 1000
    told = run("audit", "--topic", topic, **stand.environment).stdout
    assert f"Proven: each of {MESSAGES:,} records has exactly one result" in told
