"""TLS and SASL between us and a real broker: what is right goes through, what is wrong is one sentence."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import requests
import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from brokers.apache import ApacheKafka
from consumer.demo.processes import await_that, free_port
from consumer.errors import BrokerUnavailable
from jirafe.sandbox import Sandbox, SandboxServer
from tests.command import run
from tests.integration.test_service import assert_one_result_each, orders
from tests.messages import taxon
from tests.stand import SITE, TOKEN, Stand

pytestmark = pytest.mark.real_broker("TLS and SASL")

USER, PASSWORD, WRONG = "shop", "s3cret-pw", "wr0ng-pw"


class Secured(NamedTuple):
    """A broker that takes only TLS with SCRAM, and what reaches it."""

    kafka: ApacheKafka
    environment: dict[str, str]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1")
    key = load_pem_private_key(own.private_key_pem.bytes(), None)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    pem += "".join(blob.bytes().decode() for blob in own.cert_chain_pems)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
    try:
        kafka = ApacheKafka(folder, sasl_ssl=(pem, {USER: PASSWORD}))
    except BrokerUnavailable as error:
        pytest.skip(str(error))
    with kafka:
        environment = {
            "KAFKA_BOOTSTRAP_SERVERS": kafka.secure_servers,
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "KAFKA_SASL_USERNAME": USER,
            "KAFKA_SASL_PASSWORD": PASSWORD,
            "KAFKA_SSL_CA_LOCATION": str(folder / "ca.pem"),
        }
        yield Secured(kafka, environment)


def test_a_member_works_over_tls_with_a_password(secured: Secured, tmp_path: Path) -> None:
    with SandboxServer(Sandbox(credentials={TOKEN: [SITE]})) as api:
        stand = Stand(secured.kafka.bootstrap_servers, api, tmp_path)
        try:
            stand.produce(*orders(10))
            member = stand.member(KAFKA_DEBUG="security", CONSUMER_LOG_LEVEL="debug", **secured.environment)
            assert_one_result_each(stand.await_results(10), 10)
            assert member.stop() == 0
            assert member.said("SCRAM-SHA-512") > 0
            assert member.said(PASSWORD) == 0
        finally:
            stand.close()


@pytest.mark.parametrize("command", ["run", "produce", "results"])
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("KAFKA_SASL_PASSWORD", WRONG), "refuses our credentials"),
        (("KAFKA_SASL_MECHANISM", "PLAIN"), "refuses our credentials"),
        (("KAFKA_SSL_CA_LOCATION", "other.pem"), "certificate verify failed"),
        (("KAFKA_SSL_CA_LOCATION", "absent.pem"), "KAFKA_SSL_CA_LOCATION is wrong"),
    ],
)
def test_what_is_wrong_is_one_sentence_without_the_password(
    secured: Secured, tmp_path: Path, command: str, wrong: tuple[str, str], told: str
) -> None:
    name, value = wrong
    file = tmp_path / "message.json"
    file.write_text(json.dumps(taxon("9", "Bags")))
    folder = Path(secured.environment["KAFKA_SSL_CA_LOCATION"]).parent
    changed = {name: str(folder / value) if value.endswith(".pem") else value}
    done = run(command, *([str(file)] if command == "produce" else []), **{**secured.environment, **changed})
    assert (done.returncode, done.stdout) == (2, "")
    sentence = done.stderr.splitlines()[-1]
    assert told in sentence
    assert name in sentence
    assert "Traceback" not in done.stderr
    assert PASSWORD not in done.stderr
    assert WRONG not in done.stderr


def test_a_password_that_changes_is_taken_over_and_a_wrong_one_is_said(secured: Secured, tmp_path: Path) -> None:
    env_file = tmp_path / "settings.env"
    port = str(free_port())
    environment = {**secured.environment, "CONSUMER_HTTP_ADDRESS": port}
    password = environment.pop("KAFKA_SASL_PASSWORD")
    env_file.write_text(f"KAFKA_SASL_PASSWORD={password}\n")

    def reasons() -> str:
        return str(requests.get(f"http://127.0.0.1:{port}/readyz", timeout=10).json()["reasons"])

    with SandboxServer(Sandbox(credentials={TOKEN: [SITE]})) as api:
        stand = Stand(secured.kafka.bootstrap_servers, api, tmp_path)
        try:
            member = stand.member_with_file(env_file, **environment)
            stand.produce(*orders(10))
            stand.await_results(10)
            env_file.write_text(f"KAFKA_SASL_PASSWORD={WRONG}\n")
            await_that("it says what is wrong", lambda: "Kafka refuses our credentials" in reasons())
            assert requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10).status_code == 200
            stand.produce(*orders(10, 10))
            env_file.write_text(f"KAFKA_SASL_PASSWORD={password}\n")
            assert_one_result_each(stand.await_results(20), 20)
            await_that("it is ready", lambda: reasons() == "[]")
            assert member.said('"taken": ["KAFKA_SASL_PASSWORD"]') == 2
            assert member.said(password) == member.said(WRONG) == 0
        finally:
            stand.close()
