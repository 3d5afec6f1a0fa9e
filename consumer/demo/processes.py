"""Our own commands as processes. The demo, tests and benchmarks start, watch and end them."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

_STOPPED_WITHIN = 60.0
_PORTS = range(20_000, 32_000)


class NotInTime(Exception):
    """Something did not happen in time. The sentence says what."""


def free_port() -> int:
    """Find a port of 127.0.0.1 that is free now.

    It is not one of those that the system gives to outgoing connections: one of them could take it first. It is
    chosen at random, because others may look for a port at the same time.
    """
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def await_that(what: str, holds: Callable[[], bool], within: float = 120.0) -> None:
    """Wait until a condition is true. Raises NotInTime, which names it by `what`."""
    end = time.monotonic() + within
    while not holds():
        if time.monotonic() > end:
            raise NotInTime(f"not within {within:.0f} seconds: {what}")
        time.sleep(0.02)


class CommandProcess:
    """`jirafe-consumer ARGUMENTS` as a process. Its output goes to the file `log`.

    Its settings are only those of `environment` and `env_file`, not those of our own environment.
    """

    def __init__(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        log: Path,
        env_file: Path = Path(os.devnull),
    ) -> None:
        self.log = log
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("KAFKA_", "JIRAFE_", "CONSUMER_"))
        }
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                [sys.executable, "-m", "consumer", "--env-file", str(env_file), *arguments],
                env={**inherited, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C must reach only its parent, which then stops it
            )

    @property
    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def said(self, text: str) -> int:
        """Count how often a text is in its output so far."""
        return self.log.read_text(errors="replace").count(text)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def stop(self) -> int:
        """End it with SIGTERM, or with SIGKILL if it does not end in time. Returns its exit status."""
        if self._process.poll() is None:
            self._process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Wait until it ends. Returns its exit status."""
        try:
            return self._process.wait(_STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def __enter__(self) -> "CommandProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
