"""Commands whose reader has gone, such as `jirafe-consumer results | head -1`."""

import os
import subprocess
import sys

import pytest

from tests.registry import RegistryServer

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
