"""TLS and SASL between us and a real broker: what is right goes through, what is wrong is one sentence."""

import base64
import io
import json
import re
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest
import requests
import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from dotenv import dotenv_values

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
PAGE = Path(__file__).parents[2] / "docs/security.md"


def written(title: str) -> dict[str, str]:
    """Give the settings that the page has under a title."""
    _, _, section = PAGE.read_text().partition(f"\n## {title}\n")
    (block,) = re.findall(r"```env\n(.*?)```", section.partition("\n## ")[0], flags=re.DOTALL)
    return {name: value or "" for name, value in dotenv_values(stream=io.StringIO(block)).items()}


def base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class Login:
    """An identity provider: gives a signed token to who has the secret. Its keys are in `keys`, for brokers."""

    def __init__(self, folder: Path) -> None:
        self._key: RSAPrivateKey = generate_private_key(65537, 2048)
        numbers = self._key.public_key().public_numbers()
        n, e = (
            base64url(number.to_bytes((number.bit_length() + 7) // 8, "big")) for number in (numbers.n, numbers.e)
        )
        self.keys = folder / "keys.json"
        self.keys.write_text(json.dumps({"keys": [{"kty": "RSA", "kid": "1", "alg": "RS256", "n": n, "e": e}]}))
        self.given = 0
        login = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
                is_known = self.headers["Authorization"] == wanted
                login.given += is_known
                body = json.dumps({"access_token": login.token()} if is_known else {"error": "invalid_client"})
                self.send_response(200 if is_known else 401)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def token(self) -> str:
        now = int(time.time())
        claims = {"sub": USER, "aud": "kafka", "iss": "login", "scope": "kafka", "iat": now, "exp": now + 300}
        parts = ({"alg": "RS256", "kid": "1", "typ": "JWT"}, claims)
        signed = ".".join(base64url(json.dumps(part).encode()) for part in parts)
        return f"{signed}.{base64url(self._key.sign(signed.encode(), PKCS1v15(), SHA256()))}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Secured(NamedTuple):
    """A broker that takes TLS with SCRAM, with a token, or with a client's certificate, and what reaches it."""

    kafka: ApacheKafka
    environment: dict[str, str]
    authority: trustme.CA
    login: Login


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
    login = Login(folder)
    listener, package = "listener.name.sasl_ssl.oauthbearer", "org.apache.kafka.common.security.oauthbearer"
    settings = {
        # Tests give some topics and groups rules. All others are free for everyone.
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
        "super.users": "User:ANONYMOUS",
        "listener.name.ssl.ssl.truststore.type": "PEM",
        "listener.name.ssl.ssl.truststore.certificates": (
            authority.cert_pem.bytes().decode().strip().replace("\n", "\\n")
        ),
        "sasl.enabled.mechanisms": "SCRAM-SHA-512,OAUTHBEARER",
        f"{listener}.sasl.jaas.config": f"{package}.OAuthBearerLoginModule required;",
        f"{listener}.sasl.server.callback.handler.class": f"{package}.OAuthBearerValidatorCallbackHandler",
        f"{listener}.sasl.oauthbearer.jwks.endpoint.url": login.keys.as_uri(),
        f"{listener}.sasl.oauthbearer.expected.audience": "kafka",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_TOOL_OPTIONS", f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={login.keys.as_uri()}")
        try:
            kafka = ApacheKafka(folder, settings=settings, sasl_ssl=(pem, {USER: PASSWORD}))
        except BrokerUnavailable as error:
            login.close()
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
        yield Secured(kafka, environment, authority, login)
    login.close()


WAYS = [
    "Kafka: TLS and a password (SASL/SCRAM)",
    "Kafka: TLS and a client certificate (mTLS)",
    "Kafka: TLS and a token (OAUTHBEARER)",
]


@pytest.mark.parametrize("way", WAYS)
def test_a_member_works_with_the_settings_of_the_page(way: str, secured: Secured, tmp_path: Path) -> None:
    ours = secured.authority.issue_cert("member@example.com")
    key = load_pem_private_key(ours.private_key_pem.bytes(), None)
    files = {
        "kafka-ca.pem": secured.authority.cert_pem.bytes(),
        "kafka-password": PASSWORD.encode(),
        "client-secret": PASSWORD.encode(),
        "member.pem": b"".join(blob.bytes() for blob in ours.cert_chain_pems),
        "member-key.pem": key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSWORD.encode())
        ),
        "member-key-password": PASSWORD.encode() + b"\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    here = {
        "KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL": secured.login.url,
        "KAFKA_BOOTSTRAP_SERVERS": secured.kafka.mutual_servers if "mTLS" in way else secured.kafka.secure_servers,
    }
    settings = {
        name: here.get(name, value.replace("/run/secrets/", f"{tmp_path}/")) for name, value in written(way).items()
    }
    given = secured.login.given
    with SandboxServer(Sandbox(credentials={TOKEN: [SITE]})) as api:
        stand = Stand(secured.kafka.bootstrap_servers, api, tmp_path)
        try:
            stand.produce(*orders(10))
            member = stand.member(CONSUMER_LOG_LEVEL="debug", **settings)
            assert_one_result_each(stand.await_results(10), 10)
            assert member.stop() == 0
            assert member.said(PASSWORD) == 0
        finally:
            stand.close()
    assert (secured.login.given > given) == ("OAUTHBEARER" in way)
    for name in [name for name in settings if name.endswith(("_FILE", "_KEY_LOCATION"))]:
        Path(settings[name]).write_text(WRONG)
        wrong = run("results", "--max", "1", **settings)
        assert wrong.returncode == 2, name
        assert "Traceback" not in wrong.stderr
        assert PASSWORD not in wrong.stderr
        assert WRONG not in wrong.stderr


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


def allow(secured: Secured, what: ResourceType, name: str, *operations: AclOperation, prefix: bool = False) -> None:
    """Allow our user these operations, and nobody any others."""
    pattern = ResourcePatternType.PREFIXED if prefix else ResourcePatternType.LITERAL
    admin = AdminClient({"bootstrap.servers": secured.kafka.bootstrap_servers})
    bindings = [
        AclBinding(what, name, pattern, f"User:{USER}", "*", each, AclPermissionType.ALLOW) for each in operations
    ]
    for done in admin.create_acls(bindings).values():
        done.result(10)


def test_the_tools_need_only_the_permissions_that_the_page_lists(secured: Secured, tmp_path: Path) -> None:
    with SandboxServer(Sandbox(credentials={TOKEN: [SITE]})) as api:
        stand = Stand(secured.kafka.bootstrap_servers, api, tmp_path)
        try:
            group, stream = stand.environment["KAFKA_GROUP_ID"], stand.settings.stream
            for topic in stand.settings.topics:
                allow(secured, ResourceType.TOPIC, topic, AclOperation.READ)
            for topic in (stream.results_topic, stream.dead_letters_topic):
                allow(secured, ResourceType.TOPIC, topic, AclOperation.READ, AclOperation.WRITE)
            allow(secured, ResourceType.TRANSACTIONAL_ID, group, AclOperation.WRITE, prefix=True)
            allow(secured, ResourceType.GROUP, group, AclOperation.READ)
            # No other group of that prefix may be used.
            allow(secured, ResourceType.GROUP, group, AclOperation.DESCRIBE_CONFIGS, prefix=True)

            stand.produce(*orders(5))
            stand.produce_raw(b"bad", b"no Avro")
            member = stand.member(**secured.environment)
            stand.await_results(6)
            assert member.stop() == 0
            environment = {**stand.environment, **secured.environment}
            tools = ["lag", "results", "audit", "dead-letters list", "dead-letters redrive"]
            for done in [run(*words.split(), **environment) for words in tools]:
                assert (done.returncode, done.stderr) == (0, "")
            replay = ["replay", "--topic", stand.orders_topic]
            refused = run(*replay, **environment)
            assert refused.returncode == 2
            assert f"this client may not use the group {group}.replay." in refused.stderr
            assert len(refused.stderr.splitlines()) == 1
            needed = (AclOperation.READ, AclOperation.DELETE)
            allow(secured, ResourceType.GROUP, f"{group}.replay.", *needed, prefix=True)
            replayed = run(*replay, **environment)
            assert (replayed.returncode, replayed.stderr) == (0, "")
        finally:
            stand.close()


@pytest.mark.parametrize("command", ["run", "produce", "results"])
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("KAFKA_SASL_PASSWORD", WRONG), "refuses our credentials"),
        (("KAFKA_SASL_MECHANISM", "PLAIN"), "refuses our credentials"),
        (("KAFKA_SSL_CA_LOCATION", "other.pem"), "certificate verify failed"),
        (("KAFKA_SSL_CA_LOCATION", "absent.pem"), "absent.pem does not exist"),
    ],
)
def test_a_wrong_setting_is_reported_in_one_sentence_without_the_password(
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


def test_a_changed_password_file_is_read_again_and_a_wrong_password_is_reported(
    secured: Secured, tmp_path: Path
) -> None:
    file, port = tmp_path / "password", str(free_port())
    environment = {**secured.environment, "CONSUMER_HTTP_ADDRESS": port}
    password = environment.pop("KAFKA_SASL_PASSWORD")
    file.write_text(password)

    def reasons() -> str:
        return str(requests.get(f"http://127.0.0.1:{port}/readyz", timeout=10).json()["reasons"])

    with SandboxServer(Sandbox(credentials={TOKEN: [SITE]})) as api:
        stand = Stand(secured.kafka.bootstrap_servers, api, tmp_path)
        try:
            member = stand.member(KAFKA_SASL_PASSWORD_FILE=str(file), **environment)
            stand.produce(*orders(10))
            stand.await_results(10)
            file.write_text(WRONG)
            await_that("it says what is wrong", lambda: "Kafka refuses our credentials" in reasons())
            assert requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10).status_code == 200
            stand.produce(*orders(10, 10))
            file.write_text(password)
            assert_one_result_each(stand.await_results(20), 20)
            await_that("it is ready", lambda: reasons() == "[]")
            assert member.said('"taken": ["KAFKA_SASL_PASSWORD"]') == 2
            assert member.said(password) == member.said(WRONG) == 0
        finally:
            stand.close()
