"""The cost of the service: by stages, as a whole, with one partition, at its start, and after it was killed.

Everything is measured in the same run, on the same messages. Compare the figures of one run, not those of two. The
floor is one thread that decodes each message with fastavro, writes the JSON of its events and encodes its result.
The plain loop is a typical consumer (`bench/plain.py`). Processor time is that of the whole process, with
librdkafka's threads. The API is a sink that accepts every event (`bench/sink.py`). The start, joining the group and
the first 1,000 messages, in which decoders and connections are made, are left out.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import requests
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from bench.stages import floor_seconds, stage_seconds
from brokers.apache import ApacheKafka
from consumer import app, settings
from consumer.admin.reading import read_topic
from consumer.admin.topics import prepare_topics
from consumer.demo.broker import EmbeddedBroker
from consumer.demo.processes import CommandProcess, await_that, free_port
from consumer.demo.shop import Produced, shop
from consumer.engine.records import Record
from consumer.errors import BrokerUnavailable

_TOPICS = ("carts", "orders", "taxons", "products", "results", "dead_letters")
_WARM_UP = 1000
_KILLS = 3
_KILLED_AFTER = 500
_OF_KILLED = 4000
_LATENCY = 0.2
_MORE = 3
"""How many times the messages go through a slow API: it takes a while until chunks have their full size."""


class Rig:
    """A broker with the messages in its topics, and an API, for one member."""

    def __init__(  # noqa: PLR0913, PLR0917 - each is a part of it
        self, servers: str, api: str, messages: Sequence[Produced], partitions: int, folder: Path, name: str
    ) -> None:
        self.folder = folder
        self.environment = {
            # An installed package has its bytecode.
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
            "KAFKA_BOOTSTRAP_SERVERS": servers,
            "KAFKA_GROUP_ID": name,
            **{f"CONSUMER_{each.upper()}_TOPIC": f"{name}.{each}" for each in _TOPICS},
            "CONSUMER_HTTP_ADDRESS": f"127.0.0.1:{free_port()}",
            "JIRAFE_URL": f"{api}/v2",
            "JIRAFE_SITE_ID": "1",
            "JIRAFE_ACCESS_TOKEN": "token",
        }
        self.api = api
        self.messages = messages
        loaded = settings.load(None, self.environment)
        self.deployment = app.make_deployment(loaded)
        topics = [*self.deployment.topics, *self.deployment.output_topics, "plain.results"]
        prepare_topics(self.deployment, topics, partitions=partitions)
        self._topics = loaded.topics_by_kind

    def produce(self, messages: Sequence[Produced] | None = None) -> None:
        """Produce these messages, by default all, to their topics."""
        cluster = self.deployment.cluster
        producer = cluster.make_producer(cluster.client_properties("bench"))
        for message in self.messages if messages is None else messages:
            self.put(producer, message)
            producer.poll(0)
        producer.flush()

    def put(self, producer: Producer, message: Produced) -> None:
        """Give a producer a message for its topic."""
        producer.produce(self._topics[message.topic_kind], message.value, message.key)

    def member(self) -> CommandProcess:
        """Start a member."""
        return CommandProcess(["run"], self.environment, self.folder / "member.log")

    def metrics(self) -> Mapping[str, float]:
        """Give the metrics of a member's process."""
        text = requests.get(f"http://{self.environment['CONSUMER_HTTP_ADDRESS']}/metrics", timeout=10).text
        families = text_string_to_metric_families(text)
        return {each.name: each.samples[0].value for each in families if each.name.startswith("process_")}

    def results(self) -> Iterator[Record | None]:
        """Give results as they become visible, a None now and then."""
        return read_topic(self.deployment.cluster, self.deployment.results_topic, start="beginning", follow=True)


def answers(url: str) -> bool:
    """Return whether anything answers at an address."""
    try:
        return requests.get(url, timeout=1).ok
    except requests.ConnectionError:
        return False


@contextmanager
def sink(latency: float = 0.0) -> Iterator[str]:
    """Run a sink that answers each request after `latency` seconds, and yield its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "bench.sink", str(port), str(latency)]
    with subprocess.Popen(command) as process:  # noqa: S603 - our own command line
        try:
            await_that("the sink", lambda: answers(url))
            yield url
        finally:
            process.kill()


class Whole(NamedTuple):
    """What the service needed: elapsed and processor seconds per message, and memory in MiB."""

    clock: float
    processor: float
    memory: float


def service(rig: Rig) -> Whole:
    """Let one member deliver the messages: first those of the warm-up, then all others at once."""
    rig.produce(rig.messages[:_WARM_UP])
    with rig.member():
        results = filter(None, rig.results())
        list(islice(results, _WARM_UP))
        before = rig.metrics()["process_cpu_seconds"]
        rig.produce(rig.messages[_WARM_UP:])
        times = [next(results).timestamp for _ in rig.messages[_WARM_UP:]]
        after = rig.metrics()
    clock, processor = (max(times) - min(times)) / 1000, after["process_cpu_seconds"] - before
    return Whole(clock / len(times), processor / len(times), after["process_resident_memory_bytes"] / 2**20)


def plain_seconds(rig: Rig) -> float:
    """Let the plain loop deliver the messages. Gives its processor seconds per message after the warm-up."""
    own = {
        "BENCH_MESSAGES": str(len(rig.messages)),
        "BENCH_WARM_UP": str(_WARM_UP),
        "BENCH_TOPICS": ",".join(rig.deployment.topics),
    }
    done = subprocess.run(
        [sys.executable, "-m", "bench.plain"],
        env={**os.environ, **rig.environment, **own},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
    )
    return float(done.stdout)


def start_seconds(rig: Rig) -> tuple[float, float]:
    """Give the seconds of `--help`, and those from the start of a member to its first event at the API."""
    begun = time.monotonic()
    CommandProcess(["--help"], rig.environment, rig.folder / "help.log").wait()
    helped = time.monotonic() - begun
    before = _events(rig.api)
    begun = time.monotonic()
    with rig.member():
        await_that("the first event", lambda: _events(rig.api) > before)
        return helped, time.monotonic() - begun


def recovery_seconds(rig: Rig) -> float:
    """Kill a member during its work, and start it again. Gives the seconds until all results are visible."""
    rig.produce()
    member = rig.member()
    results = 0
    restarted = 0.0
    for record in rig.results():
        results += record is not None
        if results >= _KILLED_AFTER and not restarted:
            member.signal(signal.SIGKILL)
            member.wait()
            restarted = time.monotonic()
            member = rig.member()
        if results == len(rig.messages):
            break
    member.stop()
    return time.monotonic() - restarted


def _events(url: str) -> int:
    return int(requests.get(url, timeout=10).json())


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--partitions", type=int, default=6)
    arguments = parser.parse_args()
    messages = list(shop(arguments.messages, broken_share=0))
    count, partitions = len(messages), arguments.partitions
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(sink())
        floor = floor_seconds(messages)
        stages = stage_seconds(messages, f"{url}/v2")
        with EmbeddedBroker() as broker:
            rig = Rig(broker.bootstrap_servers, url, messages, partitions, folder, "bench")
            whole = service(rig)
            plain = plain_seconds(rig)
        print(f"{count:,} messages, {partitions} partitions a topic, one member, the embedded broker")
        print(f"{'processor time':<36}{'us/message':>11}{'of the plain loop':>19}")
        rows = {
            **{f"  {name}": seconds / count for name, seconds in stages.items()},
            "  poll, commit, threads": whole.processor - sum(stages.values()) / count,
            "the service": whole.processor,
            "the plain loop": plain,
            "lower bound: fastavro and JSON only": floor / count,
        }
        for name, seconds in rows.items():
            print(f"{name:<36}{seconds * 1e6:>11.1f}{seconds / plain:>19.0%}")
        print(f"{'throughput, messages/s':<36}{1 / whole.clock:>11,.0f}")
        print(f"{'memory at the end, MiB':<36}{whole.memory:>11.0f}")
        try:
            kafka = stack.enter_context(ApacheKafka(folder))
        except BrokerUnavailable as error:
            print(f"recovery after kill -9 needs a real Kafka, start too: {error}")
            return
        rates = {}
        with sink(_LATENCY) as slow:
            for each in (partitions, 1):
                rig = Rig(kafka.bootstrap_servers, slow, _MORE * messages, each, folder, f"slow-{each}")
                rates[each] = 1 / service(rig).clock
        taken = []
        for number in range(_KILLS):
            rig = Rig(kafka.bootstrap_servers, url, messages[:_OF_KILLED], partitions, folder, f"kill-{number}")
            taken.append(recovery_seconds(rig))
        rig = Rig(kafka.bootstrap_servers, url, messages[:100], partitions, folder, "start")
        rig.produce()
        helped, started = start_seconds(rig)
        print(f"on Apache Kafka, while the API takes {1000 * _LATENCY:.0f} ms to answer, messages/s:")
        print(f"{f'  {partitions} partitions a topic':<36}{rates[partitions]:>11,.0f}")
        print(f"{'  one partition a topic':<36}{rates[1]:>11,.0f}{rates[1] / rates[partitions]:>19.0%}")
        print("on Apache Kafka, by default settings, seconds:")
        print(f"{'  --help':<36}{helped:>11.2f}")
        print(f"{'  start to first event':<36}{started:>11.2f}")
        told = ", ".join(f"{each:.1f}" for each in taken)
        print(f"  restart after kill -9 to the last of {_OF_KILLED:,} results: {told}")


if __name__ == "__main__":
    main()
