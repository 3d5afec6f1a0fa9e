"""A real Schema Registry, Apicurio's, from its published artifacts. Needs a JVM and Maven.

It supports Confluent's protocol under `/apis/ccompat/v7`. Unlike Confluent's, it checks compatibility only if that
is set for a subject or for the whole registry (`PUT /config/SUBJECT`).
"""

import os
import subprocess
from http import HTTPStatus
from pathlib import Path
from types import TracebackType

import requests

from brokers import java
from consumer.demo.processes import NotInTime, await_that, free_port
from consumer.errors import BrokerUnavailable

_POM = Path(__file__).with_name("registry-pom.xml")
_STARTED_WITHIN = 60.0


class ApicurioRegistry:
    """A registry on 127.0.0.1 with its data in `folder`, so it can be restarted. `url` is for clients.

    Raises BrokerUnavailable if there is no JVM or Maven, or it does not start.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._libraries = java.fetched("apicurio-registry-2.6.13.Final", _POM, "unpack-dependencies")
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/apis/ccompat/v7"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        (program,) = self._libraries.glob("apicurio-registry-app-*-runner.jar")
        environment = {
            "QUARKUS_HTTP_HOST": "127.0.0.1",
            "QUARKUS_HTTP_PORT": str(self._port),
            "REGISTRY_DATASOURCE_URL": f"jdbc:h2:file:{self._folder}/schemas",
        }
        log = self._folder / "registry.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                ["java", "-Xmx256m", "-jar", str(program)],  # noqa: S607 - the user's java
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            await_that("the Schema Registry answers", self._answers, _STARTED_WITHIN)
        except NotInTime as error:
            self.stop(kindly=False)
            raise BrokerUnavailable(f"{error}; see {log}.") from None

    def stop(self, *, kindly: bool = True) -> None:
        """Stop it and wait until it has ended."""
        if self._process:
            java.stop(self._process, kindly=kindly)

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/subjects", timeout=2).status_code == HTTPStatus.OK
        except requests.RequestException:
            return False

    def __enter__(self) -> "ApicurioRegistry":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(kindly=False)
