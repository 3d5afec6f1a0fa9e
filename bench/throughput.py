"""Messages per second through the whole service, against what decoding and serialising alone would cost.

Both are measured in the same run, on the same messages. The floor is one thread that decodes each message,
writes the JSON of its events and encodes its result; the service does all that, and Kafka, HTTP, mapping and
transactions besides. What its start costs is left out: a service runs for long.
"""

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import orjson
import requests
from prometheus_client.parser import text_string_to_metric_families

from consumer import app, settings
from consumer.admin.reading import read_topic
from consumer.admin.topics import prepare_topics
from consumer.demo.broker import EmbeddedBroker
from consumer.demo.processes import CommandProcess, await_that, free_port
from consumer.demo.shop import Produced, shop
from consumer.engine.records import Record
from jirafe.services import Event, make_events, notification_of_sent
from schemas.codec import Codec


def floor_seconds(messages: list[Produced]) -> float:
    """Give the seconds that decoding and serialising the messages takes, without mapping them."""
    codec = Codec()
    work = []
    for message in messages:
        decoded = codec.decode(message.value)
        events = make_events(decoded["message"], decoded["payload"], decoded["parameters"])
        bodies = [event.body for event in events if isinstance(event, Event)]
        result = {
            "message_id": decoded["message_id"],
            "message": decoded["message"],
            "code": 200,
            "notifications": [notification_of_sent(event.kind, event.name) for event in events],
            "topic": "orders",
            "partition": 0,
            "offset": 0,
            "timestamp": 0,
        }
        work.append((message.value, bodies, result))
    begun = time.process_time()
    for value, bodies, result in work:
        codec.decode(value)
        for body in bodies:
            orjson.dumps(body)
        codec.encode("result", result)
    return time.process_time() - begun


def service_seconds(messages: list[Produced], partitions: int) -> tuple[float, float]:
    """Let one member deliver the messages; gives the seconds by the clock, and of its processor time."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(EmbeddedBroker())
        port = str(free_port())
        environment = {
            "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "KAFKA_SESSION_TIMEOUT_MS": "6000",
            "CONSUMER_HTTP_ADDRESS": f"127.0.0.1:{free_port()}",
            "JIRAFE_URL": f"http://127.0.0.1:{port}/v2",
            "JIRAFE_SITE_ID": "1",
            "JIRAFE_ACCESS_TOKEN": "token",
        }
        loaded = settings.load(None, environment)
        deployment = app.make_deployment(loaded)
        cluster = deployment.cluster
        prepare_topics(deployment, [*deployment.input_topics, deployment.results_topic], partitions=partitions)
        producer = cluster.make_producer(cluster.client_properties("bench"))
        topics = loaded.topics_by_kind
        for message in messages:
            producer.produce(topics[message.topic_kind], message.value, message.key)
            producer.poll(0)
        producer.flush()
        stack.enter_context(CommandProcess(["sandbox", "--port", port], {}, folder / "sandbox.log"))
        await_that("the sandbox", lambda: _answers(f"http://127.0.0.1:{port}/sandbox/stats"))
        member = CommandProcess(["run"], environment, folder / "member.log")
        metrics = f"http://{environment['CONSUMER_HTTP_ADDRESS']}/metrics"
        await_that("the member", lambda: _answers(metrics))
        results: list[Record] = []
        before = _processor_seconds(metrics)
        for record in read_topic(cluster, deployment.results_topic, start="beginning", follow=True):
            if record:
                results.append(record)
            if len(results) == len(messages):
                break
        processor = _processor_seconds(metrics) - before
        member.stop()
    clock = (max(record.timestamp for record in results) - min(record.timestamp for record in results)) / 1000
    return clock, processor


def _processor_seconds(metrics: str) -> float:
    """Give the processor time that a member has used so far, by its own word."""
    families = text_string_to_metric_families(requests.get(metrics, timeout=10).text)
    return next(family.samples[0].value for family in families if family.name == "process_cpu_seconds")


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=1).ok
    except requests.ConnectionError:
        return False


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--partitions", type=int, default=6)
    arguments = parser.parse_args()
    messages = list(shop(arguments.messages, broken_share=0))
    floor = floor_seconds(messages)
    clock, processor = service_seconds(messages, arguments.partitions)
    count = len(messages)
    print(f"{count:,} messages, {arguments.partitions} partitions a topic, one member")
    print(f"{'':<34}{'messages/s':>12}{'of the floor':>14}")
    print(f"{'decoding and serialising alone':<34}{count / floor:>12,.0f}{1:>14.0%}")
    print(f"{'the service, by its processor time':<34}{count / processor:>12,.0f}{floor / processor:>14.0%}")
    print(f"{'the service, by the clock':<34}{count / clock:>12,.0f}{floor / clock:>14.0%}")


if __name__ == "__main__":
    main()
