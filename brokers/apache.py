"""A real Apache Kafka, one node in KRaft mode, run from its published artifacts: needs a JVM and Maven."""

import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType

from consumer.demo.broker import BrokerUnavailable, answers
from consumer.demo.processes import await_that, free_port

_POM = Path(__file__).with_name("pom.xml")
_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jirafe-consumer" / "apache-kafka-4.1.0"
_CLUSTER_ID = "jirafe-consumer-tests0"
_STARTED_WITHIN = 60.0
_STOPPED_WITHIN = 30.0


class ApacheKafka:
    """A broker on 127.0.0.1 with its data in `folder`, so that it may be restarted.

    Raises BrokerUnavailable where there is no JVM or Maven, or it does not start.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        port, controller = free_port(), free_port()
        self.bootstrap_servers = f"127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._libraries = _resolved()
        self._properties = folder / "server.properties"
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": folder / "data",
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
        }
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self._java("kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(self._properties)).wait()
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = self._java("kafka.Kafka", str(self._properties))
        await_that("Apache Kafka answers", lambda: answers(self.bootstrap_servers), _STARTED_WITHIN)

    def restart(self, *, kindly: bool) -> None:
        """Stop it, kindly or by SIGKILL, and start it again on the same data."""
        self.stop(kindly=kindly)
        self.start()

    def stop(self, *, kindly: bool = True) -> None:
        """Stop it and wait until it is gone."""
        if self._process is None:
            return
        if kindly:
            self._process.terminate()
        else:
            self._process.kill()
        try:
            self._process.wait(_STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _java(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._folder / "kafka.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own command line
                ["java", "-Xmx512m", "-cp", f"{self._libraries}/*", *arguments],  # noqa: S607 - the user's java
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self) -> "ApacheKafka":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(kindly=False)


def _resolved() -> Path:
    """Give the folder of Kafka's jars, fetched by Maven where they are not there yet."""
    if shutil.which("java") is None or shutil.which("mvn") is None:
        raise BrokerUnavailable("Apache Kafka needs java and mvn on the PATH.")
    complete = _CACHE / "complete"
    if not complete.exists():
        goal = "org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies"
        done = subprocess.run(  # noqa: S603 - our own command line
            ["mvn", "-q", "-B", "-f", str(_POM), goal, f"-DoutputDirectory={_CACHE}"],  # noqa: S607 - the user's mvn
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BrokerUnavailable(f"Maven could not fetch Apache Kafka: {done.stdout.strip()[-300:]}")
        complete.touch()
    return _CACHE
