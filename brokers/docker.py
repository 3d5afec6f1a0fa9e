"""A real Apache Kafka of one node in KRaft mode, in a container. Needs a Docker engine and access to the image."""

import gc
import os
import warnings
from types import TracebackType

from docker.errors import DockerException, ImageNotFound
from testcontainers.core.container import DockerContainer

from consumer.demo.broker import answers
from consumer.demo.processes import NotInTime, await_that, free_port
from consumer.errors import BrokerUnavailable

# Not KAFKA_IMAGE: every KAFKA_* is a property of librdkafka.
_IMAGE = os.environ.get("DOCKER_KAFKA_IMAGE", "apache/kafka:4.1.0")
_STARTED_WITHIN = 90.0
_STOPPED_WITHIN = 30


class DockerKafka:
    """A broker in its own container, on a free port. Its data is lost with the container.

    Its image is `apache/kafka`, or the one that DOCKER_KAFKA_IMAGE names. Raises BrokerUnavailable if no Docker
    engine answers, or the image is not available or does not start.
    """

    def __init__(self) -> None:
        self._container = _made()
        # We choose the port, because the broker must know it at its start to advertise it to clients.
        port = free_port()
        self.bootstrap_servers = f"{self._container.get_docker_client().host()}:{port}"
        self._container.with_bind_ports(9092, port).with_envs(
            KAFKA_PROCESS_ROLES="broker,controller",
            KAFKA_NODE_ID="1",
            KAFKA_CONTROLLER_QUORUM_VOTERS="1@localhost:9093",
            # To end transactions, it must reach itself. In its container, it can't use the clients' address.
            KAFKA_LISTENERS="CLIENTS://:9092,ITSELF://localhost:19092,CONTROLLER://localhost:9093",
            KAFKA_ADVERTISED_LISTENERS=f"CLIENTS://{self.bootstrap_servers},ITSELF://localhost:19092",
            KAFKA_LISTENER_SECURITY_PROTOCOL_MAP="CLIENTS:PLAINTEXT,ITSELF:PLAINTEXT,CONTROLLER:PLAINTEXT",
            KAFKA_CONTROLLER_LISTENER_NAMES="CONTROLLER",
            KAFKA_INTER_BROKER_LISTENER_NAME="ITSELF",
            KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR="1",
            KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR="1",
            KAFKA_TRANSACTION_STATE_LOG_MIN_ISR="1",
            KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS="0",
            KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS="1000",
        )
        try:
            self._container.start()
            self._await_answer()
        except (DockerException, RuntimeError, NotInTime) as error:  # its own errors are RuntimeErrors
            self._container.stop()
            raise BrokerUnavailable(f"the image {_IMAGE} can't be had or does not start: {error}") from None

    def restart(self, *, kindly: bool) -> None:
        """Stop it, kindly or by SIGKILL, and start it again on the same data."""
        container = self._container.get_wrapped_container()
        if kindly:
            container.stop(timeout=_STOPPED_WITHIN)
        else:
            container.kill()
            container.wait()
        container.start()
        self._await_answer()

    def _await_answer(self) -> None:
        await_that("the broker in its container answers", lambda: answers(self.bootstrap_servers), _STARTED_WITHIN)

    def __enter__(self) -> "DockerKafka":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.stop()


def pulled() -> str:
    """Make the image available here, and give its name. Raises BrokerUnavailable as `DockerKafka` does."""
    images = _made().get_docker_client().client.images
    try:
        try:
            images.get(_IMAGE)
        except ImageNotFound:
            images.pull(_IMAGE)
    except DockerException as error:
        raise BrokerUnavailable(f"the image {_IMAGE} can't be read: {error}") from None
    return _IMAGE


def _made() -> DockerContainer:
    try:
        return DockerContainer(_IMAGE)
    except DockerException as error:
        why = str(error)
    with warnings.catch_warnings():
        # The library leaves a socket open. Collect it here, so that no later test gets the warning.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    raise BrokerUnavailable(f"no Docker engine answers: {why}")
