"""Commands whose reader has gone, such as `jirafe-consumer results | head -1`."""

import os
import subprocess
import sys

import pytest
from confluent_kafka import TopicPartition

from consumer.admin.topics import prepare_topics
from tests.registry import RegistryServer
from tests.stand import Stand

TAXON = (
    b'{"message": "taxon:new", "taxon": {"id": 1, "name": "Bags", "taxonomy_id": 1, "created_at": "2014-01-01"}}'
)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["dead-letters", "--help"], ["preview", "-", "--set", "jirafe.product_category_taxonomy=1"]],
)
def test_a_command_without_a_reader_ends_without_an_error(arguments: list[str]) -> None:
    assert status_without_a_reader(arguments) == (0, b"")


def test_a_table_without_a_reader_ends_without_an_error(registry_server: RegistryServer) -> None:
    environment = {"CONSUMER_SCHEMA_REGISTRY_URL": registry_server.url}
    assert status_without_a_reader(["schemas", "check"], **environment) == (0, b"")


@pytest.mark.parametrize("output", ["table", "json", "csv"])
def test_a_verdict_without_a_reader_is_still_the_exit_status(registry_server: RegistryServer, output: str) -> None:
    registry_server.incompatible = ["a field was removed"]
    registry = {"CONSUMER_SCHEMA_REGISTRY_URL": registry_server.url}
    assert status_without_a_reader(["schemas", "register", "--output", output], **registry) == (1, b"")
    assert status_without_a_reader(["check", "--output", output], JIRAFE_URL="no address") == (1, b"")


def test_an_audit_without_a_reader_still_says_whether_it_is_proven(stand: Stand) -> None:
    prepare_topics(stand.deployment, stand.deployment.output_topics)
    stand.commit([TopicPartition(stand.orders_topic, 0, 7)])  # beyond the end of the log
    assert status_without_a_reader(["audit"], **stand.environment) == (1, b"")


def status_without_a_reader(arguments: list[str], **environment: str) -> tuple[int, bytes]:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "consumer", "--env-file", os.devnull, *arguments],
            input=TAXON,
            stdout=writing,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    return done.returncode, done.stderr
