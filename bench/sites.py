"""How much one shop's trouble slows down the others: 50 sites in the same partitions, one of them in trouble.

A member delivers messages of all sites at a steady rate, on Apache Kafka: first while all is well, then while one
site is down, throttled to one request in ten seconds, slow, or refuses one event forever, then while all is well
again. The time of a record is from its production to its result, by the timestamps of both. Compare the figures of
one run, not those of two.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import requests

from bench.throughput import Rig, answers
from brokers.apache import ApacheKafka
from chaos.ledger import Sent, make_messages
from consumer.demo.processes import CommandProcess, await_that, free_port
from consumer.demo.shop import Produced, TopicKind
from schemas.codec import Codec

_SITES = 50
_SICK = "shop-0"
_LATENCY = 0.02
_PAUSE = 10.0
Fault = dict[str, Any]
_KINDS: Mapping[str, TopicKind] = {"carts": "cart", "orders": "order", "taxons": "taxon"}
_ROUND = 20_000
_USUAL: Fault = {"action": "delay", "seconds": _LATENCY, "times": None}
TROUBLES: Mapping[str, Sequence[Fault]] = {
    "all is well": (),
    "one is down": ({"action": "status", "status": 503, "site": _SICK, "times": None},),
    "one is throttled": (
        {"action": "status", "status": 429, "retry_after": f"{_PAUSE:.0f}", "site": _SICK, "times": None},
    ),
    "one answers after 25 s": ({"action": "delay", "seconds": 25, "site": _SICK, "times": None},),
    "one refuses an event": ({"action": "status", "status": 500, "site": _SICK, "ids": ["O50"], "times": None},),
}


class Times:
    """Reads results on its own thread: when each came, and how many seconds after its record."""

    def __init__(self, rig: Rig) -> None:
        self.done = 0
        self._rig = rig
        self._of: list[tuple[float, float, str]] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        codec = Codec()
        for record in self._rig.results():
            if self._ends.is_set():
                return
            if record is None:
                continue
            result = codec.decode_result(record.value or b"")
            begun = result["timestamp"].timestamp()
            self._of.append((begun, record.timestamp / 1000 - begun, result["message_id"]))
            self.done += 1

    def has(self, count: int) -> bool:
        """Return whether this many results came."""
        return self.done >= count

    def between(self, begun: float, ended: float, sick: set[str]) -> list[float]:
        """Give the sorted seconds until the results, for records of other sites that were produced in this time."""
        return sorted(took for at, took, message in self._of if begun <= at < ended and message not in sick)

    def end(self) -> None:
        """Stop reading."""
        self._ends.set()
        self._thread.join()


def is_sick(message: Sent) -> bool:
    """Return whether a message is of the site in trouble."""
    return int(message.key[1:]) % _SITES == 0


def produce(rig: Rig, messages: Iterator[Sent], rate: float, seconds: float) -> list[Sent]:
    """Produce messages at a rate for some seconds, and give them."""
    cluster = rig.deployment.cluster
    producer = cluster.make_producer({**cluster.client_properties("sites"), "linger.ms": 5})
    begun, made = time.monotonic(), list[Sent]()
    while (now := time.monotonic()) < begun + seconds:
        for message in islice(messages, int((now - begun) * rate) - len(made)):
            rig.put(producer, Produced(_KINDS[message.topic], message.key.encode(), message.value, None))
            made.append(message)
        producer.poll(0.005)
    producer.flush()
    return made


@contextmanager
def sandbox(folder: Path) -> Iterator[str]:
    """Run a sandbox, and yield its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with CommandProcess(["sandbox", "--port", str(port)], {}, folder / "sandbox.log"):
        await_that("the sandbox", lambda: answers(f"{url}/sandbox/stats"))
        yield url


@contextmanager
def trouble(url: str, faults: Sequence[Fault]) -> Iterator[None]:
    """Let the sandbox have these faults. A throttled site works for a moment now and then."""
    ended = threading.Event()

    def say(each: Sequence[Fault]) -> None:
        requests.delete(f"{url}/sandbox/faults", timeout=10).raise_for_status()
        for fault in (*each, _USUAL):
            requests.post(f"{url}/sandbox/faults", json=fault, timeout=10).raise_for_status()

    def let_some_through() -> None:
        while not ended.wait(_PAUSE):
            say(())
            ended.wait(0.1)
            say(faults)

    say(faults)
    throttling = threading.Thread(target=let_some_through)
    is_throttled = any(fault.get("status") == 429 for fault in faults)  # noqa: PLR2004 - as HTTP has it
    if is_throttled:
        throttling.start()
    try:
        yield
    finally:
        ended.set()
        if is_throttled:
            throttling.join()
        say(())


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each trouble lasts")
    parser.add_argument("--rate", type=float, default=300.0, help="messages produced in a second")
    arguments = parser.parse_args()
    seconds, rate = arguments.seconds, arguments.rate
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(sandbox(folder))
        kafka = stack.enter_context(ApacheKafka(folder))
        rig = Rig(kafka.bootstrap_servers, url, [], 6, folder, "sites")
        rig.environment["JIRAFE_PRODUCT_CATEGORY_TAXONOMY"] = "2"
        # Sites that the settings do not name would be given up after a while.
        rig.environment["JIRAFE_SITES"] = ",".join(f"shop-{number}" for number in range(_SITES))
        messages = chain.from_iterable(make_messages(_ROUND, seed, Codec(), _SITES) for seed in count())
        stack.enter_context(rig.member())
        times, produced = Times(rig), 0
        with trouble(url, ()):
            produced += len(produce(rig, messages, rate, 10.0))
        print(f"{_SITES} sites, {rate:.0f} messages/s, {seconds:.0f} s each, one member, Apache Kafka; the others:")
        print(f"{'':<26}{'results/s':>11}{'p50, ms':>11}{'p99, ms':>11}{'all done after, s':>19}")
        for name in (*TROUBLES, "all is well"):
            begun = time.time()
            with trouble(url, TROUBLES[name]):
                made = produce(rig, messages, rate, seconds)
            produced += len(made)
            ended = time.time()
            await_that("all is done", partial(times.has, produced), within=300.0)
            sick = {f"{each.key}-{each.version}" for each in made if is_sick(each)}
            took = times.between(begun, ended, sick)
            rows = (len(took) / seconds, 1000 * took[len(took) // 2], 1000 * took[int(len(took) * 0.99)])
            print(
                f"{name:<26}{rows[0]:>11.0f}{rows[1]:>11.0f}{rows[2]:>11.0f}{time.time() - ended:>19.1f}",
                flush=True,
            )
        times.end()


if __name__ == "__main__":
    main()
