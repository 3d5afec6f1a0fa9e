import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.demo.broker import EmbeddedBroker
from jirafe.sandbox import Sandbox, SandboxServer
from tests.stand import SITE, TOKEN, Stand


@pytest.fixture(scope="session")
def bootstrap_servers() -> Iterator[str]:
    """The broker that the tests run on: the one that KAFKA_BOOTSTRAP_SERVERS names, else an embedded one."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        yield given
        return
    with EmbeddedBroker() as broker:
        yield broker.bootstrap_servers


@pytest.fixture
def stand(bootstrap_servers: str, tmp_path: Path) -> Iterator[Stand]:
    with SandboxServer(Sandbox(credentials={TOKEN: [SITE]})) as api:
        stand = Stand(bootstrap_servers, api, tmp_path)
        try:
            yield stand
        finally:
            stand.close()
