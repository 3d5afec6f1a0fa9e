"""A real Apache Kafka of one or more nodes in KRaft mode, from its published artifacts. Needs a JVM and Maven."""

import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType

from brokers import java
from consumer.demo.broker import answers
from consumer.demo.processes import await_that, free_port
from consumer.errors import BrokerUnavailable

VERSION = "4.1.0"
_POM = Path(__file__).with_name("pom.xml")
_CLUSTER_ID = "jirafe-consumer-tests0"
_STARTED_WITHIN = 180.0
_JVM = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

# Groups form, and remove a silent member, as fast as tests need.
GROUP_SETTINGS = {
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "3000",
    "group.consumer.min.heartbeat.interval.ms": "500",
    "group.consumer.heartbeat.interval.ms": "500",
}


class Node:
    """One broker and controller on 127.0.0.1. Its data is in `folder`, so it can be restarted."""

    def __init__(self, folder: Path, settings: Mapping[str, str], format_arguments: tuple[str, ...]) -> None:
        folder.mkdir()
        self.log = folder / "kafka.log"
        self._properties = folder / "server.properties"
        self._process: subprocess.Popen[bytes] | None = None
        lines = {**settings, "log.dirs": str(folder / "data")}
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        formatted = self._java(
            "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(self._properties), *format_arguments
        )
        if formatted.wait():
            raise BrokerUnavailable(f"Apache Kafka's storage could not be formatted; see {self.log}.")

    def start(self) -> None:
        """Start it if it is stopped. Does not wait."""
        self._process = self._process or self._java("kafka.Kafka", str(self._properties))

    def stop(self, *, kindly: bool) -> None:
        """Stop it, by SIGKILL if not kindly, and wait until it is gone."""
        if self._process:
            java.stop(self._process, kindly=kindly)
        self._process = None

    def _java(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own command line
                java_command(*arguments), stdout=log, stderr=log, start_new_session=True
            )


class ApacheKafka:
    """A cluster of `nodes` brokers on 127.0.0.1, with their data in `folder`.

    `settings` are further broker properties of each node. `sasl_ssl` has the PEM text of a key with its
    certificate, and the users' passwords. It adds a TLS listener with SCRAM-SHA-512 at `secure_servers`, and one
    that requires a client certificate at `mutual_servers`.

    Raises BrokerUnavailable if there is no JVM or Maven, or it does not start.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 1,
        settings: Mapping[str, str] | None = None,
        sasl_ssl: tuple[str, Mapping[str, str]] | None = None,
    ) -> None:
        ports = [free_port() for _ in range(nodes)]
        controllers = [free_port() for _ in range(nodes)]
        secure_ports = [free_port() if sasl_ssl else 0 for _ in range(nodes)]
        mutual_ports = [free_port() if sasl_ssl else 0 for _ in range(nodes)]
        self.bootstrap_servers = ",".join(f"127.0.0.1:{port}" for port in ports)
        self.secure_servers = ",".join(f"127.0.0.1:{port}" for port in secure_ports)
        self.mutual_servers = ",".join(f"127.0.0.1:{port}" for port in mutual_ports)
        voters = ",".join(f"{number}@127.0.0.1:{port}" for number, port in enumerate(controllers, 1))
        replicas, most = str(nodes), str(max(1, nodes - 1))
        self.size = nodes
        self._servers = [f"127.0.0.1:{port}" for port in ports]
        self._nodes = []
        for number, (port, controller, secure, mutual) in enumerate(
            zip(ports, controllers, secure_ports, mutual_ports, strict=True), 1
        ):
            listeners = f"PLAINTEXT://127.0.0.1:{port}"
            if sasl_ssl:
                listeners += f",SASL_SSL://127.0.0.1:{secure},SSL://127.0.0.1:{mutual}"
            own = {
                "process.roles": "broker,controller",
                "node.id": str(number),
                "controller.quorum.voters": voters,
                "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller}",
                "advertised.listeners": listeners,
                "listener.security.protocol.map": ",".join(
                    ("PLAINTEXT:PLAINTEXT", "CONTROLLER:PLAINTEXT", "SASL_SSL:SASL_SSL", "SSL:SSL")
                ),
                "controller.listener.names": "CONTROLLER",
                "inter.broker.listener.name": "PLAINTEXT",
                "default.replication.factor": replicas,
                "min.insync.replicas": most,
                "offsets.topic.replication.factor": replicas,
                "transaction.state.log.replication.factor": replicas,
                "transaction.state.log.min.isr": most,
                # In a cluster, a killed broker is soon considered dead. A single one is never replaced, and on a
                # busy machine it may be silent for some seconds.
                "broker.session.timeout.ms": "60000" if nodes == 1 else "5000",
                "broker.heartbeat.interval.ms": "500",
                # The defaults are 2 s: on a busy machine, the controllers would elect again and again.
                "controller.quorum.fetch.timeout.ms": "5000",
                "controller.quorum.request.timeout.ms": "5000",
                **GROUP_SETTINGS,
                **(_sasl_ssl(sasl_ssl[0]) if sasl_ssl else {}),
                **(settings or {}),
            }
            scram = tuple(
                word
                for name, password in (sasl_ssl[1] if sasl_ssl else {}).items()
                for word in ("--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]")
            )
            self._nodes.append(Node(folder / f"node-{number}", own, scram))
        self.start()

    def start(self) -> None:
        """Start all stopped nodes, and wait until each answers."""
        for node in self._nodes:
            node.start()
        for servers in self._servers:
            await_that(f"Apache Kafka answers at {servers}", partial(answers, servers), _STARTED_WITHIN)

    def restart(self, *, kindly: bool, node: int = 0) -> None:
        """Stop a node, kindly or by SIGKILL, and start it again on the same data."""
        self.stop_node(node, kindly=kindly)
        self.start()

    def stop_node(self, node: int, *, kindly: bool) -> None:
        """Stop the node with this index, and wait until it has ended. `start` starts it again."""
        self._nodes[node].stop(kindly=kindly)

    def start_node(self, node: int) -> None:
        """Start the node with this index while others are stopped. Does not wait."""
        self._nodes[node].start()

    def stop(self) -> None:
        """Kill all nodes at once, because they are not needed any more."""
        for node in self._nodes:
            node.stop(kindly=False)

    def __enter__(self) -> "ApacheKafka":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _sasl_ssl(pem: str) -> dict[str, str]:
    one_line = pem.strip().replace("\n", "\\n")
    key, _, certificate = one_line.partition("-----BEGIN CERTIFICATE")
    both = {
        f"listener.name.{listener}.ssl.keystore.{name}": value
        for listener in ("sasl_ssl", "ssl")
        for name, value in {
            "type": "PEM",
            "key": key,
            "certificate.chain": f"-----BEGIN CERTIFICATE{certificate}",
        }.items()
    }
    return both | {
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "listener.name.ssl.ssl.client.auth": "required",
    }


def java_command(main: str, *arguments: str) -> list[str]:
    """Give the command line that runs a class of Kafka or of its tools. Raises BrokerUnavailable."""
    return ["java", *_JVM, "-cp", f"{resolved()}/*", main, *arguments]


def resolved() -> Path:
    """Give the folder of Kafka's jars. Maven fetches them if they are missing. Raises BrokerUnavailable."""
    return java.fetched(f"kafka-{VERSION}", _POM, "copy-dependencies")
