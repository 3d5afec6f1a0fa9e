"""Real brokers that are not available."""

from pathlib import Path

import pytest

from brokers.docker import DockerKafka
from consumer.errors import BrokerUnavailable


def test_a_missing_docker_engine_is_reported_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/absent.sock")
    with pytest.raises(BrokerUnavailable, match=r"\Ano Docker engine answers: .*\Z"):
        DockerKafka()
