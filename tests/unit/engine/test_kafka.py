"""How the Kafka clients are configured and made, how they reach a broker, and what they return."""

import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, Message

from consumer.engine.errors import KafkaUnusable
from consumer.engine.kafka import Cluster, LibraryLog, kafka_error, to_record
from consumer.engine.records import Place, Record
from tests.unit.engine.scripted import capture

GIVEN = {"bootstrap.servers": "kafka:9092", "group.id": "jirafe"}


def cluster(**properties: str) -> Cluster:
    given = {**GIVEN, **{name.replace("_", "."): value for name, value in properties.items()}}
    return Cluster(given, instance="m1", host="node7", transaction_timeout=21.0)


# how a cluster is described


def test_a_cluster_reads_its_properties() -> None:
    plain = cluster()
    assert (plain.group, plain.servers, plain.instance) == ("jirafe", "kafka:9092", "m1")
    assert plain.properties == GIVEN
    assert plain.transactional_id == "jirafe-m1"
    assert not plain.is_static
    assert cluster(group_instance_id="m1").is_static


def test_a_consumer_reads_committed_records_from_the_beginning_and_never_commits_offsets() -> None:
    assert cluster().consumer_properties == {
        **GIVEN,
        "client.id": "jirafe-consumer-node7",
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": 10000,
        "queued.max.messages.kbytes": 16384,
        "fetch.wait.max.ms": 500,
        "topic.metadata.refresh.interval.ms": 30000,
        "statistics.interval.ms": 5000,
        "enable.auto.commit": False,
        "enable.partition.eof": True,
    }


def test_a_producer_writes_in_transactions_that_end_soon_after_a_crash() -> None:
    assert cluster().producer_properties == {
        **GIVEN,
        "client.id": "jirafe-results-node7",
        "transactional.id": "jirafe-m1",
        "transaction.timeout.ms": 21000,
        "message.max.bytes": 1_000_000_000,
        "delivery.report.only.error": True,
        "compression.type": "lz4",
        "linger.ms": 5,
    }
    assert cluster().transaction_timeout == 21.0


def test_given_properties_override_our_defaults() -> None:
    given = cluster(
        auto_offset_reset="latest",
        client_id="mine",
        statistics_interval_ms="1",
        partition_assignment_strategy="range",
    )
    ours = given.consumer_properties
    assert (ours["auto.offset.reset"], ours["client.id"], ours["statistics.interval.ms"]) == ("latest", "mine", "1")
    assert ours["partition.assignment.strategy"] == "range"
    given = cluster(transactional_id="theirs", transaction_timeout_ms="1500", linger_ms="0")
    assert given.producer_properties["transactional.id"] == "theirs"
    assert given.producer_properties["linger.ms"] == "0"
    assert given.transaction_timeout == 1.5


def test_properties_that_the_engine_relies_on_can_not_be_changed() -> None:
    ours = cluster(enable_auto_commit="true", enable_partition_eof="false").consumer_properties
    assert (ours["enable.auto.commit"], ours["enable.partition.eof"]) == (False, True)


@pytest.mark.parametrize("name", ["partition.assignment.strategy", "session.timeout.ms"])
def test_with_the_new_group_protocol_some_properties_are_left_to_the_broker(name: str) -> None:
    assert name not in cluster(group_protocol="consumer").consumer_properties
    assert name in cluster(group_protocol="classic").consumer_properties


def test_a_static_member_has_time_to_restart() -> None:
    assert cluster().consumer_properties["session.timeout.ms"] == 10_000
    assert cluster(group_instance_id="shop-0").consumer_properties["session.timeout.ms"] == 45_000
    assert cluster(session_timeout_ms="7000").consumer_properties["session.timeout.ms"] == "7000"


def test_the_longest_silence_is_the_session_timeout_minus_one_heartbeat() -> None:
    assert cluster().longest_silence == 7.0
    assert cluster(group_instance_id="shop-0").longest_silence == 42.0
    assert cluster(group_protocol="consumer").longest_silence == 42.0
    assert cluster(session_timeout_ms="6000").longest_silence == 3.0
    assert cluster(session_timeout_ms="6000", heartbeat_interval_ms="500").longest_silence == 5.5
    assert cluster(session_timeout_ms="100").longest_silence == 0.001


# clients


def away(**properties: str) -> Cluster:
    """A cluster of which no broker answers."""
    return cluster(bootstrap_servers="127.0.0.1:1", **properties)


def test_each_kind_of_client_is_made() -> None:
    ours = away()
    for consumer in (ours.consumer(lambda _: None, lambda _: None), ours.make_consumer(ours.properties)):
        consumer.subscribe(["orders"])
        assert consumer.consumer_group_metadata()
        consumer.close()
    with pytest.raises(KafkaException, match=r"_TIMED_OUT"):
        ours.producer().init_transactions(0.01)
    with pytest.raises(KafkaException, match=r"_NOT_CONFIGURED"):
        ours.make_producer({"bootstrap.servers": ours.servers}).init_transactions(0.01)
    with pytest.raises(KafkaException):
        ours.make_admin("check").list_topics(timeout=0.01)


def test_the_client_id_names_the_purpose_and_the_host() -> None:
    assert cluster().client_properties("check") == {**GIVEN, "client.id": "jirafe-check-node7"}


def test_the_consumers_callbacks_are_called_in_its_poll() -> None:
    errors: list[KafkaError] = []
    statistics: list[str] = []
    consumer = away(statistics_interval_ms="10").consumer(errors.append, statistics.append)
    for _ in range(100):
        consumer.poll(0.1)
        if errors and statistics:
            break
    consumer.close()
    assert errors[0].code() in {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN}
    assert statistics[0].startswith("{")


@pytest.mark.parametrize(
    ("properties", "sentence"),
    [
        ({"security.protocol": "nonsense"}, r"^KAFKA_SECURITY_PROTOCOL is wrong: .*nonsense.*\.$"),
        ({"no.such.property": "1"}, r"^KAFKA_NO_SUCH_PROPERTY is wrong: No such configuration property.*\.$"),
        ({"session.timeout.ms": "9000000"}, r"^KAFKA_SESSION_TIMEOUT_MS is wrong: .*session.timeout.ms"),
        (
            {"security.protocol": "sasl_plaintext", "sasl.mechanism": "NONSENSE"},
            r"^a KAFKA_\* setting is wrong: .*Unsupported SASL mechanism: NONSENSE",
        ),
    ],
)
def test_the_error_names_a_setting_that_the_library_refuses(properties: dict[str, str], sentence: str) -> None:
    with pytest.raises(KafkaUnusable, match=sentence) as refused:
        cluster(**properties).producer()
    assert refused.value.exit_status == 2


# reaching the broker


def test_reaching_a_broker_returns_its_topics() -> None:
    admin, topics = cluster(test_mock_num_brokers="1").reach()
    assert topics == {}
    assert len(admin.list_topics(timeout=10).brokers) == 1


def test_the_error_names_an_absent_broker_and_the_settings_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.engine.kafka.REACHED_WITHIN", 0.3)
    monkeypatch.setattr("consumer.engine.kafka._REACH_TRY", 0.1)
    with pytest.raises(KafkaUnusable) as unusable:
        away().reach()
    sentence = str(unusable.value)
    assert sentence.startswith("no Kafka broker answers at 127.0.0.1:1 (Connect to ipv4#127.0.0.1:1 failed: ")
    assert sentence.endswith(
        "; set KAFKA_BOOTSTRAP_SERVERS, and KAFKA_SECURITY_PROTOCOL if the broker requires TLS or SASL."
    )


@pytest.fixture
def speaks_no_tls() -> Iterator[str]:
    """The address of a server that answers, but not in TLS."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_refusal_ends_the_wait_at_once(speaks_no_tls: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.engine.kafka.REACHED_WITHIN", 1000.0)
    monkeypatch.setattr("consumer.engine.kafka._REACH_TRY", 0.1)
    ours = cluster(bootstrap_servers=speaks_no_tls, security_protocol="ssl")
    with pytest.raises(KafkaUnusable, match=f"^no TLS connection to the Kafka broker at {speaks_no_tls} "):
        ours.reach()


@pytest.mark.parametrize(
    ("code", "said", "trouble", "fix"),
    [
        (
            KafkaError._AUTHENTICATION,
            "sasl_plaintext://kafka:9092/1: refused (after 3ms in state UP)",
            "the Kafka broker at kafka:9092 refuses our credentials (refused)",
            "check KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
        ),
        (
            KafkaError._SSL,
            "handshake failed",
            "no TLS connection to the Kafka broker at kafka:9092 (handshake failed)",
            "check KAFKA_SECURITY_PROTOCOL and KAFKA_SSL_CA_LOCATION",
        ),
        (
            KafkaError._TRANSPORT,
            "kafka:9092/bootstrap: Disconnected (again)",
            "no Kafka broker answers at kafka:9092 (Disconnected)",
            "set KAFKA_BOOTSTRAP_SERVERS, and KAFKA_SECURITY_PROTOCOL if the broker requires TLS or SASL",
        ),
    ],
)
def test_the_error_says_why_no_broker_answers_and_which_settings_to_check(
    code: int, said: str, trouble: str, fix: str
) -> None:
    assert str(cluster().unreachable(KafkaError(code, said))) == f"{trouble}; {fix}."


# what the library says


def test_a_line_of_the_library_that_repeats_is_dropped_for_thirty_seconds() -> None:
    logger, captured = capture()
    now = 100.0
    log = LibraryLog(logger, lambda: now)

    def said(message: str, facility: str = "FAIL") -> bool:
        before = len(captured.entries)
        log.log(logging.ERROR, "%s", facility, "rdkafka#consumer-1", message)
        return len(captured.entries) > before

    assert said("[thrd:kafka:9092/1]: failed after 3ms")
    assert captured.entries == [
        {
            "event": "librdkafka",
            "log_level": "error",
            "facility": "FAIL",
            "client": "rdkafka#consumer-1",
            "message": "[thrd:kafka:9092/1]: failed after 3ms",
        }
    ]
    assert not said("[thrd:kafka:9092/1]: failed after 4ms")
    assert said("[thrd:kafka:9092/2]: failed after 4ms")
    assert said("[thrd:kafka:9092/1]: failed after 4ms", "ERROR")
    now = 129.9
    assert not said("[thrd:kafka:9092/1]: failed after 5ms")
    now = 130.0
    assert said("[thrd:kafka:9092/1]: failed after 6ms")
    assert not said("[thrd:kafka:9092/1]: failed after 7ms")


def test_a_property_for_another_client_is_not_logged() -> None:
    logger, captured = capture()
    log = LibraryLog(logger)
    log.log(logging.WARNING, "%s", "CONFWARN", "c", "[thrd:app]: x is a consumer property and will be ignored by")
    assert captured.entries == []
    log.log(logging.WARNING, "%s", "CONFWARN", "c", "[thrd:app]: x is deprecated")
    log.log(logging.WARNING, "%s", "OTHER", "c", "x is a consumer property and will be ignored by")
    assert len(captured.entries) == 2


def test_without_a_logger_the_library_is_silent() -> None:
    LibraryLog().log(logging.ERROR, "%s", "FAIL", "rdkafka#consumer-1", "failed")


# what the library hands over


def test_a_record_has_all_that_kafka_returned() -> None:
    headers: list[tuple[str, str | bytes | None]] = [("a", b"\xff"), ("a", None)]
    message = Message("orders", 3, 17, b"key", b"value", headers, timestamp=(1, 1234))
    assert to_record(message) == Record("orders", 3, 17, 1234, b"key", b"value", (("a", b"\xff"), ("a", None)))


def test_a_record_may_have_no_headers_key_or_value() -> None:
    message = Message("orders", 3, 17, timestamp=(0, -1))
    assert to_record(message) == Record("orders", 3, 17, -1, None, None, (), None)


class Unreadable:
    """A message with unreadable headers. A second request returns an object that crashes the process when used."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self._asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(Message("orders", 3, 17, b"key", b"value", timestamp=(1, 1234)), name)

    def headers(self) -> None:
        self._asked += 1
        if self._asked > 1:
            pytest.fail("asked again")
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        SystemError("<method 'headers'> returned a result with an exception set"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        MemoryError(),
        ValueError("what a later version may say"),
    ],
)
def test_a_record_with_unreadable_headers_is_read_without_them(error: Exception) -> None:
    record = to_record(cast("Message", Unreadable(error)))
    assert record.place == Place("orders", 3, 17)
    assert (record.timestamp, record.key, record.value, record.headers) == (1234, b"key", b"value", ())
    assert record.missing.startswith(f"all headers: the client library can't read them ({type(error).__name__}: ")


def test_an_exception_of_the_library_carries_its_error() -> None:
    error = KafkaError(KafkaError._TRANSPORT, "away")
    assert kafka_error(KafkaException(error)) is error


def test_topics_are_described_over_one_connection_without_waiting_for_the_answer() -> None:
    subject = Cluster(
        {**GIVEN, "bootstrap.servers": "127.0.0.1:1"}, instance="m1", host="node7", transaction_timeout=21.0
    )
    made = []
    make_admin = subject.make_admin
    subject.make_admin = lambda purpose: made.append(purpose) or make_admin(purpose)  # type: ignore[func-returns-value,method-assign]
    for _ in range(2):
        assert set(subject.describe_topics(["orders", "carts"])) == {"orders", "carts"}
    assert made == ["topics"]


def test_new_properties_apply_to_clients_that_are_made_later() -> None:
    subject = cluster()
    subject.use({**GIVEN, "sasl.password": "new"})
    assert subject.properties["sasl.password"] == "new"
    assert subject.consumer_properties["sasl.password"] == subject.producer_properties["sasl.password"] == "new"
