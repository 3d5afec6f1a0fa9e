import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck

from brokers import choice
from brokers.choice import Choice
from brokers.registry import ApicurioRegistry
from consumer.errors import BrokerUnavailable
from jirafe.sandbox import Sandbox, SandboxServer
from tests.registry import RegistryServer
from tests.stand import SITE, TOKEN, Stand

# `make test` asks for the profile "thorough".
for profile, examples in (("fast", 10), ("thorough", 100)):
    hypothesis.settings.register_profile(
        profile,
        max_examples=examples,
        # A test of generated input is slow on a busy machine, which is not a fault of the code.
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
hypothesis.settings.load_profile("fast")

_CHOICE = pytest.StashKey[Choice]()


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts background jobs that ignore this signal, and commands that tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        config.stash[_CHOICE] = choice.choose()
    except BrokerUnavailable as error:
        raise pytest.UsageError(str(error)) from None


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what the tests run on, and why not on another."""
    chosen = config.stash[_CHOICE]
    return [f"broker: {chosen.source.told}", *(f"  not {why}" for why in chosen.passed_over)]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not item.config.stash[_CHOICE].source.is_real:
        for mark in item.iter_markers("real_broker"):
            pytest.skip(f"only a real broker can show it: {mark.args[0]}")


@pytest.fixture(scope="session")
def bootstrap_servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The broker that the tests run on: see `brokers/choice.py`."""
    with choice.started(request.config.stash[_CHOICE].source, tmp_path_factory.mktemp("broker")) as servers:
        yield servers


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApicurioRegistry]:
    """A real Schema Registry. A test that stops it must start it again."""
    try:
        registry = ApicurioRegistry(tmp_path_factory.mktemp("registry"))
    except BrokerUnavailable as error:
        pytest.skip(f"there is no real Schema Registry here: {error}")
    with registry:
        yield registry


@pytest.fixture
def registry_server() -> Iterator[RegistryServer]:
    """A small Schema Registry that can be told to fail."""
    with RegistryServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.answering.set()
        server.hanging = ""
        server.shutdown()
        thread.join()


@pytest.fixture
def stand(bootstrap_servers: str, tmp_path: Path) -> Iterator[Stand]:
    with SandboxServer(Sandbox(credentials={TOKEN: [SITE]})) as api:
        stand = Stand(bootstrap_servers, api, tmp_path)
        try:
            yield stand
        finally:
            stand.close()
