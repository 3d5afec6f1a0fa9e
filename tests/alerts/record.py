"""Records what Prometheus would scrape of a real group, for the tests of the alert rules; needs a JVM and Maven.

    python -m tests.alerts.record rollout     (six minutes: writes tests/alerts/rollout.yml)
    python -m tests.alerts.record outage      (eight minutes: writes tests/alerts/outage.yml)

Members deliver orders from an Apache Kafka. In the rollout each of six is stopped and started again, one after the
other, three times. In the outage the only broker of three is killed, and comes back after five minutes. What the
rules ask for is kept, in the notation of `promtool test rules`; it happened between the samples `began` and `over`.
"""

import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from brokers.apache import ApacheKafka
from consumer.demo.processes import CommandProcess, free_port
from jirafe.sandbox import Sandbox, SandboxServer
from schemas.hub import to_message
from tests.messages import order
from tests.stand import SITE, TOKEN, Stand

INTERVAL = 5
JOB = "jirafe-consumer"
MEMBERS = {"rollout": "abcdef", "outage": "abc"}
RULES = Path("ops/prometheus/alerts.yml")
METRIC = re.compile(r"\b(?:jirafe_consumer_\w+|up\b)")

_CALM = 45
_OUTAGE = 300
_ROUNDS, _PAUSE = 3, 8
_BETWEEN_MESSAGES = 0.01


class Scraper:
    """Scrapes the members as Prometheus does, on a thread of its own, for as long as the context lasts."""

    def __init__(self, members: str) -> None:
        self.ports = {name: free_port() for name in members}
        self.samples: list[dict[str, float]] = []
        self._kept = frozenset(METRIC.findall(RULES.read_text()))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._scrape)

    def __enter__(self) -> "Scraper":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _scrape(self) -> None:
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due += INTERVAL
            self.samples.append({})
            for name, port in self.ports.items():
                self.samples[-1] |= self._samples(name, port)

    def _samples(self, instance: str, port: int) -> dict[str, float]:
        target = {"job": JOB, "instance": instance}
        try:
            text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=INTERVAL - 1).text
        except requests.RequestException:
            return {_series("up", target): 0}
        found = {
            _series(sample.name, {**sample.labels, **target}): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name in self._kept
        }
        return {_series("up", target): 1, **found}

    def series(self) -> dict[str, str]:
        names = sorted({name for sample in self.samples for name in sample})
        return {name: _notation([sample.get(name) for sample in self.samples]) for name in names}


def _series(name: str, labels: dict[str, str]) -> str:
    return name + "{" + ", ".join(f'{label}="{value}"' for label, value in sorted(labels.items())) + "}"


def _notation(values: list[float | None]) -> str:
    words = []
    for value, run in groupby(values):
        count = len(list(run))
        # Of a gap the number is all of it, of a value the repetitions.
        words.append(f"_x{count}" if value is None else f"{value:g}" + (f"x{count - 1}" if count > 1 else ""))
    return " ".join(words)


def _roll_out(start: Callable[[str], CommandProcess], members: dict[str, CommandProcess], stand: Stand) -> None:
    for name in list(members) * _ROUNDS:
        members[name].stop()
        members[name] = start(name)
        stand.await_assigned(members[name])
        time.sleep(_PAUSE)


def record(what: str, folder: Path) -> dict[str, object]:
    ended = threading.Event()
    with (
        ApacheKafka(folder) as kafka,
        SandboxServer(Sandbox(credentials={TOKEN: [SITE]})) as api,
        Scraper(MEMBERS[what]) as scraper,
    ):
        stand = Stand(kafka.bootstrap_servers, api, folder, default_names=True)

        def start(name: str) -> CommandProcess:
            # The session and the heartbeat are the defaults: what is recorded is what is deployed.
            return stand.member(
                CONSUMER_HTTP_ADDRESS=f"127.0.0.1:{scraper.ports[name]}",
                KAFKA_SESSION_TIMEOUT_MS="45000",
                KAFKA_HEARTBEAT_INTERVAL_MS="3000",
            )

        def produce() -> None:
            number = 0
            while not ended.wait(_BETWEEN_MESSAGES):
                number += 1
                value = stand.codec.encode("order", to_message(order(f"R{number}", "order:updated")))
                stand.send_later(f"R{number}".encode(), value)

        producing = threading.Thread(target=produce)
        producing.start()
        try:
            members = {name: start(name) for name in MEMBERS[what]}
            for member in members.values():
                stand.await_assigned(member)
            scraper.samples.clear()
            time.sleep(_CALM)
            began = len(scraper.samples)
            if what == "rollout":
                _roll_out(start, members, stand)
            else:
                kafka.stop_node(0, kindly=False)
                time.sleep(_OUTAGE)
                kafka.start()
            over = len(scraper.samples)
            time.sleep(_CALM if what == "rollout" else 2 * _CALM)
            return {"interval": f"{INTERVAL}s", "began": began, "over": over, "series": scraper.series()}
        finally:
            ended.set()
            producing.join()
            stand.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        recorded = record(sys.argv[1], Path(scratch))
    told = yaml.safe_dump(recorded, sort_keys=False, width=10_000)
    Path(f"tests/alerts/{sys.argv[1]}.yml").write_text(f"# Written by tests/alerts/record.py\n{told}")
