"""Every command of `docs/operations.md`, run in the situation that it is meant for."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.demo.broker import EmbeddedBroker
from consumer.demo.processes import await_that, free_port
from jirafe.sandbox import Sandbox, SandboxServer
from tests.integration.test_service import orders
from tests.messages import order
from tests.stand import SITE, TOKEN, Stand

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
SECTIONS = {
    title.lower().replace(" ", "-").replace(".", ""): re.findall(r"^\$ (.+)$", text, re.MULTILINE)
    for title, text in re.findall(r"^#{1,2} (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
}
THEIRS = "their-token"
NOBODY = f"127.0.0.1:{free_port()}"
ELSEWHERE = {
    "registry-down": {"CONSUMER_SCHEMA_REGISTRY_URL": f"http://{NOBODY}"},
    "broker-down": {"KAFKA_BOOTSTRAP_SERVERS": NOBODY},
}


class Situation:
    """A deployment with default names, some dead letters, and a running member."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        brings = {"jirafe.site_id": SITE, "jirafe.access_token": THEIRS}
        stand.produce(*orders(20), *({**each, "parameters": brings} for each in orders(3, start=100)))
        stand.produce(order("R200", totals={"order": -1}))
        self.address = f"127.0.0.1:{free_port()}"
        stand.member(CONSUMER_HTTP_ADDRESS=self.address)
        stand.await_results(24)
        await_that("all is committed", lambda: sum(stand.committed().values()) == 24)
        (self.letter,) = (result for result in stand.results() if result["message"] == "order:new")

    def begin(self, section: str) -> None:
        """Create the situation of the section."""
        if section == "api-down":
            self.stand.api.add_fault({"action": "status", "status": 503, "times": None})
            self.stand.produce(*orders(3, start=300))
        if section == "token-expired":
            self.stand.api.set_credentials({"another": [SITE]})
        if section == "redrive-after-a-fix":
            self.stand.api.set_credentials({TOKEN: [SITE], THEIRS: [SITE]})

    def end(self) -> None:
        self.stand.api.clear_faults()
        self.stand.api.set_credentials({TOKEN: [SITE]})

    def run(self, command: str, section: str) -> "subprocess.CompletedProcess[str]":
        place = f"orders/{self.letter['partition']}/{self.letter['offset']}"
        words = command.replace("orders/0/17", place).replace("127.0.0.1:8000", self.address)
        inherited = {n: v for n, v in os.environ.items() if not n.startswith(("KAFKA_", "JIRAFE_", "CONSUMER_"))}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-c", words],  # noqa: S607 - the user's shell
            env={
                **inherited,
                **self.stand.environment,
                **ELSEWHERE.get(section, {}),
                "PATH": path,
                "COLUMNS": "80",
            },
            cwd=self.stand.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )


@pytest.fixture(scope="module")
def situation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Situation]:
    with EmbeddedBroker() as broker, SandboxServer(Sandbox(credentials={TOKEN: [SITE]})) as api:
        stand = Stand(broker.bootstrap_servers, api, tmp_path_factory.mktemp("operations"), default_names=True)
        try:
            yield Situation(stand)
        finally:
            stand.close()


def test_the_page_has_a_section_for_each_situation() -> None:
    assert list(SECTIONS) == [
        "operations",
        "api-down",
        "token-expired",
        "poison-message",
        "one-shop-fails",
        "lag-grows",
        "open-transaction",
        "rebalance-storm",
        "kafka-refuses-our-credentials",
        "records-lost",
        "registry-down",
        "broker-down",
        "replay-last-night",
        "redrive-after-a-fix",
        "prove-nothing-was-lost",
    ]
    assert all(SECTIONS.values())


@pytest.mark.parametrize("section", SECTIONS)
def test_the_commands_of_the_page_exit_as_it_says(situation: Situation, section: str) -> None:
    situation.begin(section)
    try:
        for command in SECTIONS[section]:
            done = situation.run(command, section)
            expected = 1 if "# exits 1" in command else 0
            assert done.returncode == expected, f"{command}\n{done.stdout}{done.stderr}"
            assert "Traceback" not in done.stderr
            assert TOKEN not in done.stdout + done.stderr
            if not (command.startswith("curl") or done.stdout.startswith("{")):
                assert max(map(len, done.stdout.splitlines()), default=0) <= 80, done.stdout
    finally:
        situation.end()
