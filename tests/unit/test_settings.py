import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from consumer.app import make_cluster, make_defaults
from consumer.errors import SettingsError
from consumer.settings import GROUPS, load


def faults(environ: dict[str, str], env_file: Path | None = None) -> list[str]:
    with pytest.raises(SettingsError) as error:
        load(env_file, environ)
    return error.value.faults


def test_every_setting_has_a_default() -> None:
    settings = load(None, {})
    assert settings.kafka == {"bootstrap.servers": "localhost:9092", "group.id": "jirafe-consumer"}
    assert settings.api.url == "https://event.jirafe.com/v2"


def test_every_property_of_librdkafka_can_be_reached() -> None:
    settings = load(None, {"KAFKA_SESSION_TIMEOUT_MS": "9000", "KAFKA_SASL_PASSWORD": "p=w_d"})
    cluster = make_cluster(settings)
    assert cluster.consumer_properties["session.timeout.ms"] == "9000"
    assert cluster.producer_properties["sasl.password"] == "p=w_d"


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(
        "# ours\nJIRAFE_SITE_ID=1\nexport JIRAFE_STORE_URL='https://shop.example'\nCONSUMER_WORKERS=3\n"
    )
    settings = load(env_file, {"CONSUMER_WORKERS": "5"})
    assert (settings.api.site_id, settings.stream.workers) == ("1", 5)
    assert settings.parameters == {"jirafe.store_url": "https://shop.example"}


def test_one_sentence_for_each_fault() -> None:
    assert faults(
        {
            "JIRAFE_URL": "event.jirafe.com",
            "CONSUMER_WORKERS": "many",
            "CONSUMER_CHUNK_RECORD": "5",
            "KAFKA_ENABLE_AUTO_COMMIT": "true",
        }
    ) == [
        "JIRAFE_URL: must be an http:// or https:// address.",
        "CONSUMER_WORKERS: must be a valid integer, unable to parse string as an integer.",
        "CONSUMER_CHUNK_RECORD is not a setting; did you mean CONSUMER_CHUNK_RECORDS?",
        "KAFKA_ENABLE_AUTO_COMMIT can't be set: offsets are committed with their results.",
    ]


@pytest.mark.parametrize(
    ("environ", "fault"),
    [
        ({"KAFKA_SESSION_TIMEOUT_MS": "5000"}, "KAFKA_HEARTBEAT_INTERVAL_MS (3000) is over half of"),
        ({"KAFKA_MAX_POLL_INTERVAL_MS": "80000"}, "KAFKA_MAX_POLL_INTERVAL_MS (80000) must be over 80000"),
        ({"CONSUMER_SCHEMA_REGISTRY_USER": "ada"}, "CONSUMER_SCHEMA_REGISTRY_USER is set, and no CONSUMER_SCHEMA"),
        (
            {"CONSUMER_SCHEMA_REGISTRY_KEY": "key.pem"},
            "CONSUMER_SCHEMA_REGISTRY_KEY is set, and no CONSUMER_SCHEMA",
        ),
        ({"JIRAFE_URL": "https://user:secret@event.jirafe.com"}, "JIRAFE_URL: must be a plain address"),
        ({"JIRAFE_STORE_URL": "shop.example/secret"}, "JIRAFE_STORE_URL: must be an http:// or https:// address"),
        ({"JIRAFE_READ_TIMEOUT": "0"}, "JIRAFE_READ_TIMEOUT: must be greater than 0"),
        (
            {"CONSUMER_HTTP_ADDRESS": "nowhere"},
            "CONSUMER_HTTP_ADDRESS: must be HOST:PORT, a PORT of loopback, or off",
        ),
        ({"CONSUMER_LOG_FORMAT": "xml"}, "CONSUMER_LOG_FORMAT: must be 'auto', 'console' or 'json'"),
    ],
)
def test_what_contradicts_or_makes_no_sense(environ: dict[str, str], fault: str) -> None:
    (said,) = faults(environ)
    assert said.startswith(fault)
    assert "secret" not in said


@pytest.mark.parametrize(
    ("ca", "certificate", "key", "fault"),
    [
        (
            "absent",
            None,
            None,
            "_CA: {folder}/absent must be a PEM file of certificates (No such file or directory).",
        ),
        ("key", None, None, "_CA: {folder}/key must be a PEM file of certificates"),
        (
            None,
            "absent",
            None,
            "_CERTIFICATE: {folder}/absent and its key in {folder}/absent must be PEM files that",
        ),
        (
            None,
            "certificate",
            None,
            "_CERTIFICATE: {folder}/certificate and its key in {folder}/certificate must be",
        ),
        (
            None,
            "certificate",
            "ca",
            "_CERTIFICATE: {folder}/certificate and its key in {folder}/ca must be PEM files",
        ),
        (
            None,
            "certificate",
            "locked",
            "_CERTIFICATE: {folder}/certificate and its key in {folder}/locked must be",
        ),
        ("ca", "certificate", "key", None),
        ("ca", "both", None, None),
    ],
)
def test_certificates_of_the_registry_are_looked_at(
    tmp_path: Path, ca: str | None, certificate: str | None, key: str | None, fault: str | None
) -> None:
    authority = trustme.CA()
    ours = authority.issue_cert("member@example.com")
    private = load_pem_private_key(ours.private_key_pem.bytes(), None)
    locked = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"a passphrase"))
    contents = {
        "ca": authority.cert_pem.bytes(),
        "certificate": ours.cert_chain_pems[0].bytes(),
        "key": ours.private_key_pem.bytes(),
        "both": ours.private_key_and_cert_chain_pem.bytes(),
        "locked": locked,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    given = {"CA": ca, "CERTIFICATE": certificate, "KEY": key}
    environ = {f"CONSUMER_SCHEMA_REGISTRY_{name}": str(tmp_path / file) for name, file in given.items() if file}
    if fault is None:
        load(None, environ)
        return
    (said,) = faults(environ)
    assert said.startswith(f"CONSUMER_SCHEMA_REGISTRY{fault.format(folder=tmp_path)}")


@pytest.mark.parametrize(
    ("given", "address"),
    [("", "127.0.0.1:8000"), ("9000", "127.0.0.1:9000"), ("0.0.0.0:9000", "0.0.0.0:9000"), ("off", "off")],
)
def test_http_is_served_at_loopback_unless_another_host_is_named(given: str, address: str) -> None:
    assert load(None, {"CONSUMER_HTTP_ADDRESS": given}).stream.http_address == address


def test_what_kubernetes_adds_for_services_is_no_setting() -> None:
    added = {
        "KAFKA_PORT": "tcp://10.0.0.1:9092",
        "KAFKA_PORT_9092_TCP_ADDR": "10.0.0.1",
        "KAFKA_SERVICE_HOST": "10.0.0.1",
        "CONSUMER_SERVICE_PORT_HTTP": "80",
        "JIRAFE_PORT": "tcp://10.0.0.2:80",
    }
    assert load(None, added).kafka == load(None, {}).kafka


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    absent = tmp_path / "absent.env"
    assert faults({}, absent) == [f"the env file {absent} can't be read: No such file or directory."]


def test_what_is_not_utf_8_is_named(tmp_path: Path) -> None:
    odd = {"JIRAFE_STORE_URL": "http://x/\udcff", "KAFKA_SASL_PASSWORD": "\udcff"}
    assert faults(odd) == [f"{name}: must be UTF-8." for name in odd]
    env_file = tmp_path / ".env"
    env_file.write_bytes(b"JIRAFE_STORE_URL=http://x/\xff\n")
    assert faults({}, env_file) == [f"the env file {env_file} can't be read: it is not UTF-8."]


def test_secrets_show_in_no_text_of_the_settings() -> None:
    settings = load(None, {"JIRAFE_ACCESS_TOKEN": "hush", "CONSUMER_SCHEMA_REGISTRY_PASSWORD": "hush"})
    assert "hush" not in f"{settings.api!r} {settings.stream!r} {make_defaults(settings)!r}"
    assert settings.access_token == "hush"


def test_each_member_has_a_transactional_id_of_its_own_and_a_static_one_keeps_it() -> None:
    ids = {make_cluster(load(None, {})).transactional_id for _ in range(2)}
    assert len(ids) == 2
    static = {"KAFKA_GROUP_INSTANCE_ID": "consumer-0", "KAFKA_GROUP_ID": "shop"}
    assert make_cluster(load(None, static)).transactional_id == "shop-consumer-0"


def test_a_setting_that_is_gone_says_what_replaced_it() -> None:
    lane, partitions = faults({"CONSUMER_LANE_RECORDS": "5", "CONSUMER_TOPIC_PARTITIONS": "12"})
    assert lane.startswith("CONSUMER_LANE_RECORDS is no longer a setting: a partition holds at most 4 chunks; see")
    assert partitions.endswith("create topics with: jirafe-consumer topics create --partitions N.")


def test_there_are_at_most_thirty_settings() -> None:
    assert sum(len(group.model_fields) for group in GROUPS.values()) <= 30


def test_settings_load_neither_the_codec_nor_the_clients() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, consumer.settings; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "consumer.settings" in loaded
    assert not {"fastavro", "confluent_kafka", "schemas", "jirafe", "consumer.app"} & set(loaded)


def test_the_readme_has_every_setting() -> None:
    readme = Path("README.md").read_text()
    for prefix, group in GROUPS.items():
        for name, field in group.model_fields.items():
            assert f"`{prefix}{name.upper()}`" in readme
            assert str(field.description) in readme
