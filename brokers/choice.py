"""Which broker the tests run on: the first of four sources that is available."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from brokers import apache, docker
from brokers.apache import ApacheKafka
from brokers.docker import DockerKafka
from consumer.demo.broker import EmbeddedBroker
from consumer.errors import BrokerUnavailable

SETTING = "TEST_BROKER"
"""The setting that chooses: auto (the default), real (any except the embedded one), or the name of a source."""


@dataclass(frozen=True, slots=True)
class Source:
    """A source of a broker. `prepare` raises BrokerUnavailable if it is not available. `is_real`: Apache Kafka."""

    name: str
    told: str
    is_real: bool
    prepare: Callable[[], object]


def _given() -> str:
    servers = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if not servers:
        raise BrokerUnavailable("KAFKA_BOOTSTRAP_SERVERS is not set.")
    return servers


_SOURCES = (
    Source("given", "the broker of KAFKA_BOOTSTRAP_SERVERS", is_real=True, prepare=_given),
    Source("docker", "Apache Kafka in a container", is_real=True, prepare=docker.pulled),
    Source(
        "apache", f"Apache Kafka {apache.VERSION} from Maven's artifacts", is_real=True, prepare=apache.resolved
    ),
    Source("embedded", "the embedded broker", is_real=False, prepare=EmbeddedBroker.binary),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen source, and why the sources before it were not available."""

    source: Source
    passed_over: tuple[str, ...]


def choose() -> Choice:
    """Choose the first available source of those allowed. Downloads it if needed. Raises BrokerUnavailable."""
    wanted = os.environ.get(SETTING, "auto")
    sources = [
        source for source in _SOURCES if wanted in ("auto", source.name) or (wanted == "real" and source.is_real)
    ]
    if not sources:
        names = ", ".join(source.name for source in _SOURCES)
        raise BrokerUnavailable(f"{SETTING} is auto, real or one of {names}, not {wanted!r}.")
    passed_over = []
    for source in sources:
        try:
            source.prepare()
        except BrokerUnavailable as error:
            passed_over.append(f"{source.name}: {error}")
        else:
            return Choice(source, tuple(passed_over))
    raise BrokerUnavailable(f"{SETTING}={wanted}: this broker is not available here. {' '.join(passed_over)}")


@contextmanager
def started(source: Source, folder: Path) -> Iterator[str]:
    """Run a broker of the source for the time of the context. Yields its bootstrap servers."""
    match source.name:
        case "given":
            yield _given()
        case "docker":
            with DockerKafka() as kafka:
                yield kafka.bootstrap_servers
        case "apache":
            with ApacheKafka(folder) as cluster:
                yield cluster.bootstrap_servers
        case _:
            with EmbeddedBroker() as broker:
                yield broker.bootstrap_servers
