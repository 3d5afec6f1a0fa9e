import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from consumer.app import make_cluster, make_defaults
from consumer.errors import SettingsError
from consumer.settings import GROUPS, SettingsSource, load, matches
from tests import settings_page


def faults(environ: dict[str, str], env_file: Path | None = None) -> list[str]:
    with pytest.raises(SettingsError) as error:
        load(env_file, environ)
    return error.value.faults


def test_every_setting_has_a_default() -> None:
    settings = load(None, {})
    assert settings.kafka == {"bootstrap.servers": "localhost:9092", "group.id": "jirafe-consumer"}
    assert settings.api.url == "https://event.jirafe.com/v2"


def test_every_property_of_librdkafka_can_be_set() -> None:
    settings = load(None, {"KAFKA_SESSION_TIMEOUT_MS": "9000", "KAFKA_SASL_PASSWORD": "p=w_d"})
    cluster = make_cluster(settings)
    assert cluster.consumer_properties["session.timeout.ms"] == "9000"
    assert cluster.producer_properties["sasl.password"] == "p=w_d"


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
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
            "JIRAFE_READ_TIMEOUT": "long",
            "CONSUMER_CREATE_TOPICS": "maybe",
            "CONSUMER_WORKERS": "many",
            "CONSUMER_GRACE_TIME": "90000",
            "CONSUMER_CHUNK_RECORD": "5",
            "KAFKA_ENABLE_AUTO_COMMIT": "true",
        }
    ) == [
        "JIRAFE_URL: must be an http:// or https:// address.",
        "JIRAFE_READ_TIMEOUT: must be a number.",
        "CONSUMER_CREATE_TOPICS: must be true or false.",
        "CONSUMER_WORKERS: must be a whole number.",
        "CONSUMER_GRACE_TIME: must be at most 86400.",
        "CONSUMER_CHUNK_RECORD is not a setting; did you mean CONSUMER_CHUNK_RECORDS?",
        "KAFKA_ENABLE_AUTO_COMMIT can't be set: offsets are committed with their results.",
    ]


@pytest.mark.parametrize(
    ("environ", "fault"),
    [
        ({"KAFKA_SESSION_TIMEOUT_MS": "5000"}, "KAFKA_HEARTBEAT_INTERVAL_MS (3000) is over half of"),
        ({"KAFKA_MAX_POLL_INTERVAL_MS": "28000"}, "KAFKA_MAX_POLL_INTERVAL_MS (28000) must be over 28000"),
        ({"CONSUMER_SCHEMA_REGISTRY_USER": "ada"}, "CONSUMER_SCHEMA_REGISTRY_USER is set, but CONSUMER_SCHEMA"),
        (
            {"CONSUMER_SCHEMA_REGISTRY_USER": "ada:love", "CONSUMER_SCHEMA_REGISTRY_PASSWORD": "secret"},
            "CONSUMER_SCHEMA_REGISTRY_USER: must not contain a colon",
        ),
        (
            {"CONSUMER_SCHEMA_REGISTRY_KEY": "key.pem"},
            "CONSUMER_SCHEMA_REGISTRY_KEY is set, but CONSUMER_SCHEMA",
        ),
        ({"JIRAFE_URL": "https://user:secret@event.jirafe.com"}, "JIRAFE_URL: must be a plain address"),
        ({"JIRAFE_URL": "https://event.jirafe.com/v2?"}, "JIRAFE_URL: must be a plain address"),
        (
            {"CONSUMER_SCHEMA_REGISTRY_URL": "http://registry#"},
            "CONSUMER_SCHEMA_REGISTRY_URL: must be a plain address",
        ),
        ({"JIRAFE_STORE_URL": "shop.example/secret"}, "JIRAFE_STORE_URL: must be an http:// or https:// address"),
        ({"JIRAFE_READ_TIMEOUT": "0"}, "JIRAFE_READ_TIMEOUT: must be greater than 0"),
        ({"CONSUMER_WORKERS": "1001"}, "CONSUMER_WORKERS: must be at most 1000."),
        ({"CONSUMER_FLOOD_WINDOW": "9" * 30}, "CONSUMER_FLOOD_WINDOW: must be at most 1000000."),
        ({"CONSUMER_MAX_ATTEMPTS": "9" * 400}, "CONSUMER_MAX_ATTEMPTS: must be at most 1000000."),
        (
            {"CONSUMER_HTTP_ADDRESS": "nowhere"},
            "CONSUMER_HTTP_ADDRESS: must be HOST:PORT, a PORT on 127.0.0.1, or off",
        ),
        ({"CONSUMER_LOG_LEVEL": "loud"}, "CONSUMER_LOG_LEVEL: must be 'debug', 'info', 'warning' or 'error'"),
        ({"JIRAFE_SITES": "7, 8 9"}, "JIRAFE_SITES: must be visible ASCII characters without spaces"),
        ({"CONSUMER_LOG_FORMAT": "json"}, "CONSUMER_LOG_FORMAT is no longer a setting: the log is text on a"),
    ],
)
def test_contradictory_or_invalid_settings_are_refused(environ: dict[str, str], fault: str) -> None:
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
def test_certificates_of_the_registry_are_checked(
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


@pytest.mark.parametrize(
    ("given", "sites"), [("", set()), ("7", {"7"}), ("7,8", {"7", "8"}), (" 7 ,, 8,7, ", {"7", "8"}), (",", set())]
)
def test_further_sites_are_separated_by_commas(given: str, sites: set[str]) -> None:
    settings = load(None, {"JIRAFE_SITES": given})
    assert settings.api.sites == sites
    assert make_defaults(settings).sites == sites


def test_variables_that_kubernetes_adds_for_services_are_not_settings() -> None:
    added = {
        "KAFKA_PORT": "tcp://10.0.0.1:9092",
        "KAFKA_PORT_9092_TCP_ADDR": "10.0.0.1",
        "KAFKA_SERVICE_HOST": "10.0.0.1",
        "CONSUMER_SERVICE_PORT_HTTP": "80",
        "JIRAFE_PORT": "tcp://10.0.0.2:80",
    }
    assert load(None, added).kafka == load(None, {}).kafka


def test_a_missing_env_file_is_refused(tmp_path: Path) -> None:
    absent = tmp_path / "absent.env"
    assert faults({}, absent) == [f"the env file {absent} can't be read: No such file or directory."]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("JIRAFE_SITE_ID: 1\n", "1"),
        ('KAFKA_GROUP_ID=g\nJIRAFE_SITE_ID="1\nJIRAFE_STORE_URL=http://x\n', "2"),
        ("JIRAFE SITE_ID=1\n\n# a comment\n=5\n", "1, 4"),
        ("JIRAFE_SITE_ID:1\nexport JIRAFE_STORE_URL\nCONSUMER_WORKERS=\n", "1, 2"),
    ],
)
def test_a_line_that_cant_be_read_is_named(tmp_path: Path, text: str, lines: str) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(text)
    assert faults({}, env_file) == [f"the env file {env_file} must have lines of NAME=VALUE: see line {lines}."]


@pytest.mark.parametrize(
    "text", ["JIRAFE_SITE_ID=1", "\ufeffJIRAFE_SITE_ID='1'\r\n", " export JIRAFE_SITE_ID = 1 # one\rX=\n"]
)
def test_env_files_of_editors_and_shells_are_read(tmp_path: Path, text: str) -> None:
    env_file = tmp_path / ".env"
    env_file.write_bytes(text.encode())
    assert load(env_file, {}).api.site_id == "1"


def test_a_setting_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    odd = {"JIRAFE_STORE_URL": "http://x/\udcff", "KAFKA_SASL_PASSWORD": "\udcff"}
    assert faults(odd) == [f"{name}: must be UTF-8." for name in odd]
    env_file = tmp_path / ".env"
    env_file.write_bytes(b"JIRAFE_STORE_URL=http://x/\xff\n")
    assert faults({}, env_file) == [f"the env file {env_file} can't be read: it is not UTF-8."]


ANY = ["KAFKA_SASL_PASSWORD_FILE", "KAFKA_SSL_CA_LOCATION", "KAFKA_X_FILE", "JIRAFE_SITE_ID"]


@pytest.mark.parametrize("name", ANY)
def test_a_zero_byte_in_a_setting_is_refused(name: str, tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(f"{name}=a\0b\n")
    with pytest.raises(SettingsError) as error:
        SettingsSource(env_file).load()
    assert error.value.faults == [f"{name}: must not contain a zero byte."]


def test_settings_never_show_secrets() -> None:
    settings = load(None, {"JIRAFE_ACCESS_TOKEN": "hush", "CONSUMER_SCHEMA_REGISTRY_PASSWORD": "hush"})
    assert "hush" not in f"{settings.api!r} {settings.stream!r} {make_defaults(settings)!r}"
    assert settings.access_token == "hush"


def test_each_member_has_its_own_transactional_id_and_a_static_one_keeps_it() -> None:
    ids = {make_cluster(load(None, {})).transactional_id for _ in range(2)}
    assert len(ids) == 2
    static = {"KAFKA_GROUP_INSTANCE_ID": "consumer-0", "KAFKA_GROUP_ID": "shop"}
    assert make_cluster(load(None, static)).transactional_id == "shop-consumer-0"


def test_the_error_for_a_removed_setting_says_what_replaced_it() -> None:
    lane, partitions = faults({"CONSUMER_LANE_RECORDS": "5", "CONSUMER_TOPIC_PARTITIONS": "12"})
    assert lane.startswith("CONSUMER_LANE_RECORDS is no longer a setting: at most 32 chunks of a partition are in")
    assert partitions.endswith("create topics with: jirafe-consumer topics create --partitions N.")


def test_there_are_at_most_31_settings() -> None:
    assert sum(len(group.model_fields) for group in GROUPS.values()) <= 31


def test_the_page_has_every_setting() -> None:
    page = settings_page.PAGE.read_text()
    assert page == settings_page.with_table(page), "run: python -m tests.settings_page"


INPUTS = [f"CONSUMER_{name}_TOPIC" for name in ("CARTS", "ORDERS", "TAXONS", "PRODUCTS")]
OUTPUTS = ["CONSUMER_RESULTS_TOPIC", "CONSUMER_DEAD_LETTERS_TOPIC"]


def test_results_and_dead_letters_need_different_topics() -> None:
    said = "CONSUMER_RESULTS_TOPIC and CONSUMER_DEAD_LETTERS_TOPIC are both {}: they must differ."
    assert faults(dict.fromkeys(OUTPUTS, "shared")) == [said.format("shared")]
    assert faults({OUTPUTS[0]: "jirafe.dead-letters"}) == [said.format("jirafe.dead-letters")]


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("topics", ["out", "a, out", "^out$", "a,^o.t$", "^(in|out)$", "^.*$"])
def test_an_output_topic_cannot_be_consumed(name: str, output: str, topics: str) -> None:
    (said,) = [each for each in faults({name: topics, output: "out"}) if output in each]
    subscribed = topics.rpartition(",")[2].strip()
    why = f"which is {output}: the consumer would read its own output. Choose another."
    assert said == f"{name}: {subscribed} includes out, {why}"


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("pattern", ["^__consumer_offsets$", "^__.*$", "^_+c.*s$", "^(a|__consumer_offsets)$"])
def test_a_pattern_cannot_match_an_internal_topic_of_kafka(name: str, pattern: str) -> None:
    said = f"{name}: {pattern} includes __consumer_offsets, an internal topic of Kafka. Choose another."
    assert said in faults({name: pattern})


@pytest.mark.parametrize("name", [*INPUTS, *OUTPUTS])
@pytest.mark.parametrize("topic", ["^orders.*", "a b", "a/b", "..", "ä", "a" * 250, "__consumer_offsets"])
def test_invalid_topic_names_are_refused(name: str, topic: str) -> None:
    (said,) = faults({name: topic})
    assert said.startswith(f"{name}: must ")


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("topic", ["a,b", "^out$"])
def test_an_output_setting_must_name_one_topic(name: str, topic: str) -> None:
    assert faults({name: topic}) == [
        f"{name}: must be a topic's name: up to 249 letters, digits, dots, underscores and hyphens."
    ]


@pytest.mark.parametrize(
    "pattern",
    [
        "^$", "^orders", "^a$|^b$", "^a|b$", "^(a|b)|c$", r"^\d+$", r"^\w+$", "^(?:a)$", "^(?i)a$", "^a{2}$",
        "^a b$", "^[a$", "^(a$", "^*a$", "^[[:alpha:]]$", "^a/b$", "^" + "a" * 600 + "$",
    ],
)  # fmt: skip
def test_a_pattern_that_is_not_portable_is_refused(pattern: str) -> None:
    (said,) = faults({"CONSUMER_ORDERS_TOPIC": pattern})
    assert said.startswith("CONSUMER_ORDERS_TOPIC: must be ")


@pytest.mark.parametrize(
    "pattern",
    [
        "^(.+)+x$", "^(a*)*$", "^(a|a)+x$", "^(a|a*)*x$", "^((a+))+x$", "^(b(a+)?)+x$", "^(aa?)*x$", "^((ab)+)*?x$",
        "^((a|b)c)+x$",
    ],
)  # fmt: skip
def test_a_pattern_that_python_could_match_forever_is_refused(pattern: str) -> None:
    (said,) = faults({"CONSUMER_ORDERS_TOPIC": pattern, "CONSUMER_RESULTS_TOPIC": "a" * 43})
    assert said.startswith("CONSUMER_ORDERS_TOPIC: must not repeat a group")


@pytest.mark.parametrize(
    "pattern",
    [
        r"^shop-.*\.orders$", "^(eu|us)-(carts|orders)$", "^orders-[0-9]+$", "^(ab)+$", "^(a+)?b$", "^(a+|b)c+$",
        "^(a(b|c))-[a-z.-]*$",
    ],
)  # fmt: skip
def test_a_pattern_may_repeat_what_matches_in_one_way(pattern: str) -> None:
    assert load(None, {"CONSUMER_ORDERS_TOPIC": pattern}).patterns == (pattern,)


@pytest.mark.parametrize("name", INPUTS)
def test_an_empty_list_of_topics_is_refused(name: str) -> None:
    assert faults({name: " , "}) == [f"{name}: must name a topic."]


def test_a_topic_setting_is_a_list_of_names_and_patterns() -> None:
    shops = r"^shop-.*[.](orders|sales)$"
    loaded = load(
        None,
        {
            "CONSUMER_CARTS_TOPIC": "all",
            "CONSUMER_ORDERS_TOPIC": f" {shops} , orders-1,all,orders-1",
            "CONSUMER_TAXONS_TOPIC": r"^taxons\.[^a]-[0-9]+$",
            "CONSUMER_PRODUCTS_TOPIC": "all",
        },
    )
    assert loaded.topics == ("all", "orders-1")
    assert loaded.patterns == (shops, r"^taxons\.[^a]-[0-9]+$")
    assert loaded.topics_by_kind == {"cart": "all", "order": "orders-1", "product": "all"}


@pytest.mark.parametrize(
    ("subscribed", "topic", "fits"),
    [
        ("orders", "orders", True),
        ("orders", "orders-1", False),
        ("^orders$", "orders", True),
        ("^orders$", "orders-1", False),
        ("^orders.*$", "orders-1", True),
        ("^shop.*$", "my-shop", False),
        ("^(a|b)-[0-9]+$", "b-17", True),
    ],
)
def test_a_pattern_matches_whole_names(subscribed: str, topic: str, *, fits: bool) -> None:
    assert matches(subscribed, topic) == fits


@pytest.mark.parametrize(
    ("environ", "fault"),
    [
        ({"KAFKA_SOCKET_TIMEOUT_MS": "6000"}, "KAFKA_SOCKET_TIMEOUT_MS (6000) must be at most KAFKA_TRANSACTION_"),
        (
            {"KAFKA_MESSAGE_TIMEOUT_MS": "6000"},
            "KAFKA_MESSAGE_TIMEOUT_MS (6000) must be at most KAFKA_TRANSACTION_",
        ),
        (
            {"KAFKA_LINGER_MS": "5000"},
            "KAFKA_LINGER_MS (5000) must be less than KAFKA_TRANSACTION_TIMEOUT_MS (5000).",
        ),
        (
            {"KAFKA_QUEUE_BUFFERING_MAX_MS": "2000.5", "KAFKA_TRANSACTION_TIMEOUT_MS": "2000"},
            "KAFKA_QUEUE_BUFFERING_MAX_MS (2000.5) must be less than",
        ),
        (
            {"KAFKA_PARTITION_ASSIGNMENT_STRATEGY": "range"},
            "KAFKA_PARTITION_ASSIGNMENT_STRATEGY (range) must be cooperative-sticky: ",
        ),
        ({"KAFKA_DELIVERY_REPORT_ONLY_ERROR": "false"}, "KAFKA_DELIVERY_REPORT_ONLY_ERROR can't be set: "),
        ({"KAFKA_DEFAULT_TOPIC_CONFIG": "acks=1"}, "KAFKA_DEFAULT_TOPIC_CONFIG can't be set: "),
        ({"KAFKA_TRANSACTION_TIMEOUT_MS": "999"}, "KAFKA_TRANSACTION_TIMEOUT_MS (999) must be at least 1000"),
        ({"KAFKA_SESSION_TIMEOUT_MS": "200000", "KAFKA_MAX_POLL_INTERVAL_MS": "150000"}, "KAFKA_SESSION_TIMEOUT"),
        (
            {"KAFKA_SESSION_TIMEOUT_MS": "0x5000"},
            "KAFKA_SESSION_TIMEOUT_MS: must be a whole number of",
        ),
        ({"KAFKA_TRANSACTION_TIMEOUT_MS": "ten"}, "KAFKA_TRANSACTION_TIMEOUT_MS: must be a whole number of"),
        (
            {"CONSUMER_SCHEMAS_FOLDER": "/absent"},
            "CONSUMER_SCHEMAS_FOLDER: must be a folder, but /absent is not one.",
        ),
        ({"CONSUMER_SCHEMAS_FOLDER": __file__}, "CONSUMER_SCHEMAS_FOLDER: must be a folder"),
        ({"KAFKA_SSL_CA_LOCATION": "/absent"}, "KAFKA_SSL_CA_LOCATION: /absent does not exist."),
        ({"KAFKA_SSL_KEYSTORE_LOCATION": "/absent"}, "KAFKA_SSL_KEYSTORE_LOCATION: /absent does not exist."),
        ({"KAFKA_SASL_KERBEROS_KEYTAB": "/absent"}, "KAFKA_SASL_KERBEROS_KEYTAB: /absent does not exist."),
        ({"CONSUMER_HTTP_ADDRESS": "http://localhost:80"}, "CONSUMER_HTTP_ADDRESS: must be HOST:PORT"),
        ({"CONSUMER_HTTP_ADDRESS": "a host:80"}, "CONSUMER_HTTP_ADDRESS: must be HOST:PORT"),
        ({"CONSUMER_HTTP_ADDRESS": "a..b:80"}, "CONSUMER_HTTP_ADDRESS: must be HOST:PORT"),
        ({"CONSUMER_HTTP_ADDRESS": f"{'a' * 70}:80"}, "CONSUMER_HTTP_ADDRESS: must be HOST:PORT"),
        ({"CONSUMER_HTTP_ADDRESS": "9" * 5000}, "CONSUMER_HTTP_ADDRESS: must be HOST:PORT"),
        ({"JIRAFE_URL": "http://[::1"}, "JIRAFE_URL: must be a valid address."),
        ({"CONSUMER_SCHEMA_REGISTRY_URL": "http://℀"}, "CONSUMER_SCHEMA_REGISTRY_URL: must be a valid address."),
        ({"KAFKA_MESSAGE_MAX_BYTES": "9" * 5000}, "KAFKA_MESSAGE_MAX_BYTES: must be a number up to 2147483647."),
        ({"KAFKA_FETCH_MAX_BYTES": "2147483648"}, "KAFKA_FETCH_MAX_BYTES: must be a number up to 2147483647."),
        ({"KAFKA_CHECK_CRCS": "true"}, "KAFKA_CHECK_CRCS can't be set: the library would skip damaged records."),
        ({"KAFKA_LINGER_MS": "-" + "9" * 5000}, "KAFKA_LINGER_MS: must be a number up to 2147483647."),
        ({"KAFKA_SESSION_TIMEOUT_MS": "9" * 5000}, "KAFKA_SESSION_TIMEOUT_MS: must be a number up to 2147483647."),
        (
            {"CONSUMER_HTTP_ADDRESS": "8080", "JIRAFE_URL": "http://localhost:8080/v2"},
            "CONSUMER_HTTP_ADDRESS (127.0.0.1:8080) is the address in JIRAFE_URL",
        ),
        (
            {"CONSUMER_HTTP_ADDRESS": "[::]:80", "CONSUMER_SCHEMA_REGISTRY_URL": "http://localhost"},
            "CONSUMER_HTTP_ADDRESS ([::]:80) is the address in CONSUMER_SCHEMA_REGISTRY_URL",
        ),
        (
            {"CONSUMER_HTTP_ADDRESS": "0.0.0.0:9092"},
            "CONSUMER_HTTP_ADDRESS (0.0.0.0:9092) is the address in KAFKA",
        ),
    ],
)
def test_settings_that_cannot_work_together_are_refused_with_the_reason(
    environ: dict[str, str], fault: str
) -> None:
    (said,) = faults(environ)
    assert said.startswith(fault)


def test_the_default_session_timeout_is_the_one_of_the_client() -> None:
    for named, ms in (({}, 10_000), ({"KAFKA_GROUP_INSTANCE_ID": "shop-0"}, 45_000)):
        assert make_cluster(load(None, named)).consumer_properties["session.timeout.ms"] == ms
        load(None, {**named, "KAFKA_HEARTBEAT_INTERVAL_MS": str(ms // 2)})
        (said,) = faults({**named, "KAFKA_HEARTBEAT_INTERVAL_MS": str(ms // 2 + 1)})
        assert f"over half of KAFKA_SESSION_TIMEOUT_MS ({ms})" in said


def test_settings_that_can_work_together_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    load(
        None,
        {
            "KAFKA_TRANSACTION_TIMEOUT_MS": "4001",
            "KAFKA_SSL_CA_LOCATION": str(tmp_path / "ca.pem"),
            "KAFKA_HTTPS_CA_LOCATION": "probe",
            "CONSUMER_SCHEMAS_FOLDER": str(tmp_path),
            "CONSUMER_HTTP_ADDRESS": "[::1]:8080",
            "JIRAFE_URL": "http://jirafe.example:8080/v2",
            "KAFKA_BOOTSTRAP_SERVERS": "SASL_SSL://one:9092, two:9093,[::1]:9094",
            "KAFKA_FETCH_MAX_BYTES": "2147483135",
            "KAFKA_LINGER_MS": "0.5",
            "KAFKA_PARTITION_ASSIGNMENT_STRATEGY": "cooperative-sticky",
            "KAFKA_SASL_PASSWORD": "9" * 30,
        },
    )
    for servers in ("[::1", "℀:9092"):  # the library reports them
        load(None, {"CONSUMER_HTTP_ADDRESS": "8000", "KAFKA_BOOTSTRAP_SERVERS": servers})
    load(None, {"JIRAFE_URL": "http://localhost:8000"})  # nobody asked for the page there


@given(
    around=st.tuples(*[st.text(alphabet=" \t\r\n\v\f\u00a0", max_size=3)] * 2),
    name=st.sampled_from(
        [
            "JIRAFE_URL",
            "JIRAFE_ACCESS_TOKEN",
            "JIRAFE_SITE_ID",
            "JIRAFE_STORE_URL",
            "JIRAFE_READ_TIMEOUT",
            "CONSUMER_SCHEMA_REGISTRY_URL",
            "CONSUMER_SCHEMA_REGISTRY_USER",
            "CONSUMER_SCHEMA_REGISTRY_PASSWORD",
            "CONSUMER_ORDERS_TOPIC",
            "CONSUMER_HTTP_ADDRESS",
            "CONSUMER_LOG_LEVEL",
            "KAFKA_SASL_PASSWORD",
            "KAFKA_BOOTSTRAP_SERVERS",
            "KAFKA_SESSION_TIMEOUT_MS",
        ]
    ),
)
def test_whitespace_around_a_setting_is_removed(around: tuple[str, str], name: str) -> None:
    values = {"URL": "https://x.example/v2", "TIMEOUT": "20", "MS": "20000", "ADDRESS": "9000", "LEVEL": "error"}
    value = values.get(name.rpartition("_")[2], "a-value")
    others = {"CONSUMER_SCHEMA_REGISTRY_PASSWORD": "p"} if name.endswith("_USER") else {}
    mounted, plain = (load(None, {**others, name: text}) for text in (value.join(around), value))
    assert (mounted.api, mounted.stream, mounted.kafka) == (plain.api, plain.stream, plain.kafka)


RUNS_CODE = [
    "KAFKA_PLUGIN_LIBRARY_PATHS",
    "KAFKA_plugin_library_paths",
    "KAFKA_plugin.library.paths",
    "KAFKA_SSL_ENGINE_LOCATION",
    "KAFKA_SSL_ENGINE_ID",
    "KAFKA_SSL_PROVIDERS",
    "KAFKA_SASL_KERBEROS_KINIT_CMD",
]


@pytest.mark.parametrize("name", RUNS_CODE)
def test_an_env_file_that_nobody_named_runs_no_code(name: str, tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(f"{name}=/tmp/evil\nJIRAFE_SITE_ID=1\n")
    env_file.chmod(0o600)
    with pytest.raises(SettingsError) as error:
        load(env_file, {}, by_chance=True)
    (said,) = error.value.faults
    assert said.startswith(f"{name} makes the library run code, and {env_file} was only found in the current")
    assert load(env_file, {name: __file__}, by_chance=True).kafka[name[6:].lower().replace("_", ".")] == __file__
    if not name.endswith("LOCATION"):
        assert load(env_file, {}).api.site_id == "1"  # it was named, and nobody else writes it


@pytest.mark.parametrize("name", RUNS_CODE)
@pytest.mark.parametrize(("mode", "folder_mode"), [(0o620, 0o700), (0o602, 0o700), (0o600, 0o770), (0o600, 0o703)])
def test_an_env_file_that_others_can_write_runs_no_code(
    name: str, mode: int, folder_mode: int, tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    env_file, link = folder / "ours.env", tmp_path / "link.env"
    env_file.write_text(f"{name}=/tmp/evil\n")
    link.symlink_to(env_file)
    env_file.chmod(mode)
    folder.chmod(folder_mode)
    for path in (env_file, link):
        (said,) = faults({}, path)
        assert said.startswith(f"{name} makes the library run code, and {path} can be written by others")
    env_file.write_text("JIRAFE_SITE_ID=1\n")
    assert load(env_file, {}).api.site_id == "1"  # what runs no code may be shared


@pytest.mark.parametrize(
    ("url", "is_said"),
    [
        ("http://jirafe.example/v2", True),
        ("http://10.0.0.1", True),
        ("http://localhost.example", True),
        ("https://jirafe.example/v2", False),
        ("http://127.3.2.1:80", False),
        ("http://[::1]:8080", False),
        ("http://localhost", False),
    ],
)
def test_an_unencrypted_secret_is_a_caution(url: str, *, is_said: bool) -> None:
    source = SettingsSource(None)
    bare = load(None, {"JIRAFE_URL": url, "CONSUMER_SCHEMA_REGISTRY_URL": url})
    assert source.cautions(bare) == []
    token = load(None, {"JIRAFE_URL": url, "JIRAFE_ACCESS_TOKEN": "hush"})
    password = load(
        None,
        {
            "CONSUMER_SCHEMA_REGISTRY_URL": url,
            "CONSUMER_SCHEMA_REGISTRY_USER": "ada",
            "CONSUMER_SCHEMA_REGISTRY_PASSWORD": "hush",
        },
    )
    endpoint = "KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL"
    login = load(None, {endpoint: url, "KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET": "hush"})
    for loaded, name in (
        (token, "JIRAFE_URL"),
        (password, "CONSUMER_SCHEMA_REGISTRY_URL"),
        (login, endpoint),
    ):
        said = [caution.message for caution in source.cautions(loaded)]
        assert len(said) == is_said
        assert all(each.startswith(f"{name} is {url}: ") and "hush" not in each for each in said)


@pytest.mark.parametrize(
    ("protocol", "mechanism", "servers", "sent"),
    [
        ("SASL_PLAINTEXT", "PLAIN", "localhost:9092, kafka:9092", "KAFKA_SASL_PASSWORD"),
        ("sasl_plaintext", "OAUTHBEARER", "SASL_PLAINTEXT://[2001:db8::1]:9092", "the access token"),
        ("SASL_PLAINTEXT", "PLAIN", "[::1", "KAFKA_SASL_PASSWORD"),
        ("SASL_PLAINTEXT", "PLAIN", "127.0.0.1:9092,[::1]:9092", None),
        ("SASL_PLAINTEXT", "SCRAM-SHA-512", "kafka:9092", None),
        ("SASL_SSL", "PLAIN", "kafka:9092", None),
    ],
)
def test_an_unencrypted_login_at_kafka_is_a_caution(
    protocol: str, mechanism: str, servers: str, sent: str | None
) -> None:
    loaded = load(
        None,
        {
            "KAFKA_SECURITY_PROTOCOL": protocol,
            "KAFKA_SASL_MECHANISM": mechanism,
            "KAFKA_SASL_PASSWORD": "hush",
            "KAFKA_BOOTSTRAP_SERVERS": servers,
        },
    )
    said = [caution.message for caution in SettingsSource(None).cautions(loaded)]
    assert len(said) == (sent is not None)
    assert all(f"SASL_PLAINTEXT: {sent} is sent to the brokers unencrypted" in each for each in said)
    assert "hush" not in str(said)


@pytest.mark.parametrize(
    ("name", "further"),
    [
        ("KAFKA_SSL_KEY_LOCATION", {}),
        ("KAFKA_SSL_KEYSTORE_LOCATION", {}),
        ("KAFKA_SASL_KERBEROS_KEYTAB", {}),
        ("CONSUMER_SCHEMA_REGISTRY_CERTIFICATE", {}),
        ("CONSUMER_SCHEMA_REGISTRY_KEY", {"CONSUMER_SCHEMA_REGISTRY_CERTIFICATE": "certificate.pem"}),
    ],
)
def test_a_private_key_that_others_can_read_is_a_caution(
    name: str, further: dict[str, str], tmp_path: Path
) -> None:
    certificate = trustme.CA().issue_cert("client")
    file = tmp_path / "key.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(str(file))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "certificate.pem"))
    loaded = load(None, {name: str(file), **{each: str(tmp_path / path) for each, path in further.items()}})
    for mode, is_said in ((0o600, False), (0o644, True)):
        file.chmod(mode)
        assert [each.message for each in SettingsSource(None).cautions(loaded)] == (
            [f"{file}, which {name} names, can be read by others."] if is_said else []
        )


@pytest.mark.parametrize(("mode", "is_said"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_an_env_file_that_others_can_read_is_a_caution(mode: int, *, is_said: bool, tmp_path: Path) -> None:
    env_file = tmp_path / "ours.env"
    env_file.write_text("JIRAFE_ACCESS_TOKEN=hush\n")
    env_file.chmod(mode)
    source = SettingsSource(env_file)
    said = source.cautions(source.load())
    assert [each.fix for each in said] == ([f"chmod 600 {env_file}"] if is_said else [])


SECRETS = [
    "JIRAFE_ACCESS_TOKEN",
    "CONSUMER_SCHEMA_REGISTRY_PASSWORD",
    "KAFKA_SASL_PASSWORD",
    "KAFKA_SSL_KEY_PASSWORD",
    "KAFKA_SSL_KEYSTORE_PASSWORD",
    "KAFKA_SSL_KEY_PEM",
    "KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET",
    "KAFKA_SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_PASSPHRASE",
    "KAFKA_SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_PEM",
    "KAFKA_sasl.password",
]


def test_every_secret_of_ours_may_be_in_a_file() -> None:
    secret = {
        prefix + name.upper()
        for prefix, group in GROUPS.items()
        for name, field in group.model_fields.items()
        if "SecretStr" in str(field.annotation)
    }
    assert secret == {name for name in SECRETS if not name.startswith("KAFKA_")}


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("content", [" hu=sh\n", "\ufeffhu=sh\r\n"])
def test_a_secret_from_a_file_equals_one_that_is_set_directly(name: str, content: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content.encode())
    named, plain = load(None, {f"{name}_FILE": f" {file}\n"}), load(None, {name: "hu=sh"})
    assert (named.api, named.stream, named.kafka) == (plain.api, plain.stream, plain.kafka)
    assert load(None, {f"{name}_FILE": " "}).kafka == load(None, {}).kafka, "no value is as good as none"
    env_file = tmp_path / ".env"
    env_file.write_text(f"{name}_FILE={file}\n")
    assert load(env_file, {}).kafka == plain.kafka


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("in_file", [True, False])
def test_a_secret_that_is_set_twice_is_refused(name: str, *, in_file: bool, tmp_path: Path) -> None:
    file, env_file = tmp_path / "secret", tmp_path / ".env"
    file.write_text("hush")
    env_file.write_text(f"{name}=hush\n" if in_file else "")
    shown = name.upper().replace(".", "_")
    assert faults({f"{name}_FILE": str(file), **({} if in_file else {name: "hush"})}, env_file) == [
        f"{shown} and {shown}_FILE are both set: set one of them."
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"hu\xffsh", "is not UTF-8"),
        (b"hu\0sh", "has a zero byte"),
        (b"hush" * 17_000, "is larger than 64 KiB, the limit for a secret"),
    ],
)
@pytest.mark.parametrize("name", SECRETS[:3])
def test_a_missing_or_invalid_secret_file_is_refused_in_one_sentence(
    name: str, content: bytes | None, why: str, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    assert faults({f"{name}_FILE": str(file)}) == [f"{name}_FILE: {file} {why}."]


@contextmanager
def closed_to_us(folder: Path) -> Iterator[None]:
    """Close a folder to this process, also if it is root's: it can't be listed, and by root not be reached."""
    folder.chmod(0o100)
    before = os.geteuid()
    os.seteuid(before or 65_534)
    try:
        yield
    finally:
        os.seteuid(before)
        folder.chmod(0o700)


@pytest.mark.parametrize("name", ["KAFKA_SSL_CA_LOCATION", "KAFKA_SASL_PASSWORD_FILE"])
def test_a_file_in_a_folder_that_is_closed_to_us_is_not_called_absent(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "file").touch(0)
    with closed_to_us(folder):
        assert faults({name: f"{folder}/file"}) == [f"{name}: {folder}/file can't be read (Permission denied)."]


def test_a_folder_of_schemas_that_is_closed_to_us_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "further.avsc").write_text("{}")
    with closed_to_us(folder):
        assert faults({"CONSUMER_SCHEMAS_FOLDER": str(folder)}) == [
            f"CONSUMER_SCHEMAS_FOLDER: must be a folder, but {folder} can't be read (Permission denied)."
        ]


def test_a_secret_file_must_be_a_regular_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path("/dev/zero")):
        assert faults({"KAFKA_SASL_PASSWORD_FILE": str(path)}) == [
            f"KAFKA_SASL_PASSWORD_FILE: {path} is not a regular file."
        ]
    (too_long,) = faults({"KAFKA_SASL_PASSWORD_FILE": "a" * 5000})
    assert too_long.endswith("can't be read (File name too long).")


@pytest.mark.parametrize(
    "name",
    [
        "CONSUMER_SCHEMA_REGISTRY_CA",
        "CONSUMER_SCHEMA_REGISTRY_CERTIFICATE",
        "KAFKA_SSL_CA_LOCATION",
        "KAFKA_SSL_KEYSTORE_LOCATION",
    ],
)
def test_a_certificate_must_be_in_a_regular_file(name: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert faults({name: str(pipe)}) == [f"{name}: {pipe} is not a regular file."]
    load(None, {"KAFKA_SSL_CA_LOCATION": str(tmp_path)})  # a folder of certificates


def test_a_further_schema_must_be_in_a_regular_file(tmp_path: Path) -> None:
    pipe = tmp_path / "order.avsc"
    os.mkfifo(pipe)
    assert faults({"CONSUMER_SCHEMAS_FOLDER": str(tmp_path)}) == [
        f"CONSUMER_SCHEMAS_FOLDER: must have schemas in regular files, but {pipe} is not a regular file."
    ]


def test_an_env_file_must_be_a_regular_file_or_the_null_device(tmp_path: Path) -> None:
    """Another can be read only once, as the `<(...)` of a shell, but a member reads the file again."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    ours, theirs = os.pipe()
    os.write(theirs, b"JIRAFE_SITE_ID=7\n")
    os.close(theirs)
    for path in (pipe, Path(f"/dev/fd/{ours}"), tmp_path, Path("/dev/zero")):
        assert faults({}, path) == [f"the env file {path} must be a regular file: a running member reads it again."]
    os.close(ours)
    (tmp_path / "masked.env").symlink_to(os.devnull)
    assert load(tmp_path / "masked.env", {}).api.site_id is None
    assert load(Path(os.devnull), {}).api.site_id is None


def test_an_env_file_is_read_once_for_each_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file, read = tmp_path / ".env", []
    env_file.write_text("KAFKA_GROUP_ID=ours\nJIRAFE_SITE_ID=7\n")

    def opened(path: Path, *arguments: Any, **options: Any) -> Any:
        read.append(path)
        return open(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", opened)
    assert SettingsSource(env_file).load().api.site_id == "7"
    assert read == [env_file]


def test_only_secrets_may_be_in_files(tmp_path: Path) -> None:
    file = tmp_path / "site"
    file.write_text("7")
    assert faults({"JIRAFE_SITE_ID_FILE": str(file)}) == [
        "JIRAFE_SITE_ID_FILE is not a setting; did you mean JIRAFE_SITE_ID?"
    ]
    # The library's own, which names a file too.
    name = "sasl.oauthbearer.assertion.private.key.file"
    assert load(None, {f"KAFKA_{name.upper().replace('.', '_')}": str(file)}).kafka[name] == str(file)


@pytest.mark.parametrize(("mode", "is_said"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_secret_file_that_others_can_read_is_a_caution(
    mode: int, *, is_said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text("hush")
    file.chmod(mode)
    monkeypatch.setenv("JIRAFE_ACCESS_TOKEN_FILE", str(file))
    source = SettingsSource(None)
    said = [caution.message for caution in source.cautions(source.load())]
    assert said == [f"{file}, which JIRAFE_ACCESS_TOKEN_FILE names, can be read by others."] * is_said


@pytest.mark.parametrize(("given", "seconds"), [({}, 4.0), ({"KAFKA_TRANSACTION_TIMEOUT_MS": "10000"}, 8.0)])
def test_a_commit_ends_before_the_broker_aborts_its_transaction(given: dict[str, str], seconds: float) -> None:
    assert load(None, given).commit_timeout == seconds
