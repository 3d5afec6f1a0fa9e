"""Typed settings, read from the environment and an env file: the only place that reads the environment.

`KAFKA_*` reaches every property of librdkafka: KAFKA_SESSION_TIMEOUT_MS sets `session.timeout.ms`
(https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md). `JIRAFE_*` is the API's side,
`CONSUMER_*` our own.
"""

import difflib
import os
import re
import socket
import ssl
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import requests
import urllib3
from dotenv import dotenv_values
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from consumer.backoff import Backoff
from consumer.chunk import Credentials
from consumer.drafts import Defaults
from consumer.lane import Bounds

# Kubernetes adds these to every container's environment, for every service of the namespace.
_OF_KUBERNETES = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT|PORT_\d+_(TCP|UDP)(_.*)?)")

_FIXED = {
    "enable.auto.commit": "offsets are committed with their results",
    "enable.auto.offset.store": "offsets are committed with their results",
    "enable.partition.eof": "by it a partition's end is committed",
    "isolation.level": "only what is committed is delivered",
    "transactional.id": "each member has its own, made of the group and KAFKA_GROUP_INSTANCE_ID",
}


class SettingsError(ValueError):
    """Settings are wrong; `faults` has one sentence for each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def is_utf8(text: str) -> bool:
    """Tell whether a text from outside was UTF-8: Python marks the bytes that were not, and can't write them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// address")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must be a plain address: no user, password, query or fragment")
    try:
        requests.Request("GET", text).prepare()
    except (requests.RequestException, urllib3.exceptions.HTTPError):
        raise ValueError("must be an address that a request can be sent to") from None
    return text.rstrip("/")


def _visible(text: str) -> str:
    if not (text.isascii() and text.isprintable()) or " " in text or text in {".", ".."}:
        raise ValueError("must be visible ASCII characters without spaces")
    return text


def _visible_secret(secret: SecretStr) -> SecretStr:
    return SecretStr(_visible(secret.get_secret_value().strip()))


Url = Annotated[str, AfterValidator(_http_url)]


LARGEST_LETTER = 20 * 1024 * 1024
"""Bytes of the largest dead letter: it is as large as its record, and its headers come on top."""

OFF = "off"


def _host_and_port(text: str) -> str:
    if text == OFF:
        return text
    host, _, port = text.rpartition(":")
    if not (port.isdecimal() and 0 < int(port) < 65_536):  # noqa: PLR2004 - the ports of TCP
        raise ValueError("must be HOST:PORT, a PORT of loopback, or off")
    return f"{host or '127.0.0.1'}:{port}"


Address = Annotated[str, AfterValidator(_host_and_port)]
SiteId = Annotated[str, AfterValidator(_visible)]
Token = Annotated[SecretStr, AfterValidator(_visible_secret)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(gt=0)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Api(_Group):
    """The Jirafe Events API: `JIRAFE_*`. Times in seconds."""

    url: Url = Field("https://event.jirafe.com/v2", description="the API, up to and with its version")
    site_id: SiteId | None = Field(None, description="the site, for messages that name none")
    access_token: Token | None = Field(None, description="its token, for messages that carry none")
    product_category_taxonomy: str | None = Field(None, description="the taxonomy whose taxons are categories")
    brand_category_taxonomy: str | None = Field(None, description="the taxonomy whose taxons are brands")
    store_url: Url | None = Field(None, description="prefix of image paths that are not absolute")
    connect_timeout: Seconds = Field(5, description="to connect")
    read_timeout: Seconds = Field(30, description="to wait for the answer")
    max_request_bytes: int = Field(10 * 1024 * 1024, ge=1024, description="bound of one request")


class Stream(_Group):
    """The consumer itself: `CONSUMER_*`. Times in seconds."""

    carts_topic: str = Field("carts", description="topic of cart messages")
    orders_topic: str = Field("orders", description="topic of order messages")
    taxons_topic: str = Field("taxons", description="topic of taxon messages")
    results_topic: str = Field("jirafe.results", description="topic of results")
    dead_letters_topic: str = Field("jirafe.dead-letters", description="topic of dead letters")
    create_topics: bool = Field(default=True, description="create topics that are absent")
    topic_partitions: int = Field(6, ge=1, description="partitions of a topic it creates")
    topic_replication: int = Field(-1, ge=-1, description="its replication factor; -1: the broker's default")
    schema_registry_url: Url | None = Field(None, description="a Schema Registry; none: single-object framing")
    schema_registry_user: str | None = Field(None, description="its user")
    schema_registry_password: SecretStr | None = Field(None, description="its password")
    schema_registry_ca: Path | None = Field(
        None, description="certificates that its own is checked by, a PEM file; none: the usual"
    )
    schema_registry_certificate: Path | None = Field(None, description="our certificate for it, a PEM file")
    schema_registry_key: Path | None = Field(
        None, description="our key, a PEM file; none: it is with the certificate"
    )
    schemas_folder: Path | None = Field(None, description="further writers' schemas, *.avsc")
    workers: Count = Field(8, description="chunks in flight at a time")
    chunk_records: Count = Field(500, description="bound of one chunk, in records")
    chunk_bytes: Count = Field(1024 * 1024, description="bound of one chunk, in bytes of the records")
    lane_records: Count = Field(2000, description="records held of a partition; more, and it is paused")
    lane_bytes: Count = Field(8 * 1024 * 1024, description="bytes held of a partition; more, and it is paused")
    backoff_first: Seconds = Field(0.5, description="bound of the first delay before a retry")
    backoff_longest: Seconds = Field(30, description="bound of every delay")
    retry_after_longest: Seconds = Field(300, description="how much of a Retry-After is obeyed")
    hold_interval: Seconds = Field(30, description="between tries while our credentials are refused")
    max_attempts: Count = Field(10, description="tries of an event that alone fails while others pass")
    flood_window: Count = Field(1000, description="records over which the share of dead letters is watched")
    flood_share: float = Field(0.5, gt=0, le=1, description="share of dead letters over which it holds")
    commit_timeout: Seconds = Field(30, description="bound of one transaction")
    drain_timeout: Seconds = Field(20, description="for chunks in flight of a partition that is revoked")
    grace_time: Seconds = Field(25, description="for chunks in flight at SIGTERM")
    http_address: Address = Field(
        "127.0.0.1:8000",
        description="the status page, /metrics, /healthz, /readyz: HOST:PORT, a PORT of loopback, or off",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level that is logged"
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto: console on a terminal, else json"
    )


PARAMETERS = ("jirafe.product_category_taxonomy", "jirafe.brand_category_taxonomy", "jirafe.store_url")
"""The parameters of messages that have a setting for messages without them."""

GROUPS: dict[str, type[_Group]] = {"JIRAFE_": Api, "CONSUMER_": Stream}


class Settings:
    """All settings: `api`, `stream`, and `kafka`, librdkafka's properties as they were given.

    `instance` names this process, or, where it is a static member, the member that it is.
    """

    def __init__(self, api: Api, stream: Stream, kafka: dict[str, str]) -> None:
        self.api = api
        self.stream = stream
        self.kafka = {"bootstrap.servers": "localhost:9092", "group.id": "jirafe-consumer", **kafka}
        self._host = socket.gethostname()
        self.instance = self.kafka.get("group.instance.id") or f"{self._host}-{uuid.uuid4().hex[:8]}"

    @property
    def topics_by_kind(self) -> dict[str, str]:
        """The topics that are consumed, by the kind of message that each has."""
        stream = self.stream
        return {"cart": stream.carts_topic, "order": stream.orders_topic, "taxon": stream.taxons_topic}

    @property
    def input_topics(self) -> list[str]:
        """The topics that are consumed."""
        return list(self.topics_by_kind.values())

    def client(self, purpose: str) -> dict[str, Any]:
        """Properties that every client has; brokers and their tools name it by its purpose and its host."""
        return {"client.id": f"jirafe-{purpose}-{self._host}", **self.kafka}

    @property
    def consumer(self) -> dict[str, Any]:
        """The group member's properties."""
        assignment = (
            {}
            if self.kafka.get("group.protocol") == "consumer"
            else {"partition.assignment.strategy": "cooperative-sticky"}
        )
        return {
            # A new group loses nothing; a reader sees only what is committed.
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            # What is fetched ahead is memory beside the lanes' own bounds.
            "queued.max.messages.kbytes": 16_384,
            # How often the library tells how far it is, and where the logs end.
            "statistics.interval.ms": 5000,
            **assignment,
            **self.client("consumer"),
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }

    @property
    def producer(self) -> dict[str, Any]:
        """The transactional writer's properties; one transactional id for each member."""
        return {
            "transactional.id": f"{self.kafka['group.id']}-{self.instance}",
            # What a crash leaves open blocks its readers no longer than this.
            "transaction.timeout.ms": int(self.stream.commit_timeout * 1000) + 10_000,
            "message.max.bytes": LARGEST_LETTER,
            "compression.type": "lz4",
            "linger.ms": 5,
            **self.client("results"),
        }

    @property
    def longest_silence(self) -> float:
        """Seconds that a member may stand still and be sure that the group has not given it up.

        The session runs from the last heartbeat, which may have been an interval ago (defaults: librdkafka's).
        """
        session = int(self.kafka.get("session.timeout.ms", 45_000))
        return max(1, session - int(self.kafka.get("heartbeat.interval.ms", 3_000))) / 1000

    @property
    def bounds(self) -> Bounds:
        """How much lanes and chunks take on."""
        stream = self.stream
        return Bounds(stream.lane_records, stream.lane_bytes, stream.chunk_records, stream.chunk_bytes)

    @property
    def backoff(self) -> Backoff:
        """When to try again."""
        return Backoff(self.stream.backoff_first, self.stream.backoff_longest, self.stream.retry_after_longest)

    @property
    def defaults(self) -> Defaults:
        """What applies where a message says nothing."""
        token = self.api.access_token.get_secret_value() if self.api.access_token else None
        given = {name: getattr(self.api, name.removeprefix("jirafe.")) for name in PARAMETERS}
        return Defaults(
            Credentials(self.api.site_id, token),
            {name: value for name, value in given.items() if value is not None},
        )


class Source:
    """Where settings come from: the environment, and an env file that may change meanwhile."""

    def __init__(self, env_file: Path | None) -> None:
        self._env_file = env_file
        self._read: tuple[int, int] | None = None
        self._look_at = 0.0

    def load(self) -> Settings:
        """Read the settings; raises SettingsError."""
        self._read = self._stamp()
        return load(self._env_file)

    def has_changed(self) -> bool:
        """Tell whether the env file is another than was read; looks at it once a second at most."""
        if time.monotonic() < self._look_at:
            return False
        self._look_at = time.monotonic() + 1
        return self._stamp() != self._read

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = self._env_file.stat() if self._env_file else None
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_size) if status else None


def load(env_file: Path | None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings; the environment goes before the file. Raises SettingsError with all faults."""
    given = {**_file(env_file), **environ}
    ours = {name: value for prefix in (*GROUPS, "KAFKA_") for name, value in _named(prefix, given).items()}
    faults = [f"{name}: must be UTF-8." for name, value in ours.items() if not is_utf8(value)]
    if faults:
        raise SettingsError(faults)
    groups: dict[str, Any] = {}
    for prefix, group in GROUPS.items():
        values = {name[len(prefix) :].lower(): value for name, value in _named(prefix, given).items()}
        try:
            groups[prefix] = group.model_validate(values)
        except ValidationError as error:
            faults += [
                _sentence(prefix, group, fault["type"], str(fault["loc"][0]), fault["msg"])
                for fault in error.errors()
            ]
    kafka = {name[6:].lower().replace("_", "."): value for name, value in _named("KAFKA_", given).items()}
    for name, why in _FIXED.items():
        if name in kafka:
            faults.append(f"KAFKA_{name.upper().replace('.', '_')} can't be set: {why}.")
    if not faults:
        faults = _contradictions(groups["CONSUMER_"], kafka)
    if faults:
        raise SettingsError(faults)
    return Settings(groups["JIRAFE_"], groups["CONSUMER_"], kafka)


def _contradictions(stream: Stream, kafka: Mapping[str, str]) -> list[str]:
    faults = []
    for what in ("records", "bytes"):
        chunk, lane = getattr(stream, f"chunk_{what}"), getattr(stream, f"lane_{what}")
        if chunk > lane:
            faults.append(f"CONSUMER_CHUNK_{what.upper()} ({chunk}) is over CONSUMER_LANE_{what.upper()} ({lane}).")
    if stream.backoff_first > stream.backoff_longest:
        faults.append("CONSUMER_BACKOFF_FIRST is over CONSUMER_BACKOFF_LONGEST.")
    faults += _registry_faults(stream)
    session, heartbeat = kafka.get("session.timeout.ms", "45000"), kafka.get("heartbeat.interval.ms", "3000")
    if session.isdigit() and heartbeat.isdigit() and 2 * int(heartbeat) > int(session):
        faults.append(
            f"KAFKA_HEARTBEAT_INTERVAL_MS ({heartbeat}) is over half of KAFKA_SESSION_TIMEOUT_MS ({session}): the "
            "group would give a member up between two signs of life."
        )
    given = kafka.get("max.poll.interval.ms", "300000")
    longest = stream.drain_timeout + 2 * stream.commit_timeout
    if given.isdigit() and longest * 1000 >= int(given):
        faults.append(
            f"CONSUMER_DRAIN_TIMEOUT and twice CONSUMER_COMMIT_TIMEOUT ({longest:g} s) reach "
            f"KAFKA_MAX_POLL_INTERVAL_MS ({given}): the group would give a busy member up."
        )
    return faults


def _registry_faults(stream: Stream) -> list[str]:
    """Say what would keep every request to the Schema Registry from being made."""
    ca = stream.schema_registry_ca
    certificate, key = stream.schema_registry_certificate, stream.schema_registry_key
    faults = []
    if stream.schema_registry_user and not stream.schema_registry_password:
        faults.append("CONSUMER_SCHEMA_REGISTRY_USER is set, and no CONSUMER_SCHEMA_REGISTRY_PASSWORD.")
    if key and not certificate:
        faults.append("CONSUMER_SCHEMA_REGISTRY_KEY is set, and no CONSUMER_SCHEMA_REGISTRY_CERTIFICATE.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ca:
            context.load_verify_locations(ca)
    except OSError as error:
        why = error.strerror or error
        faults.append(f"CONSUMER_SCHEMA_REGISTRY_CA: {ca} must be a PEM file of certificates ({why}).")
    try:
        if certificate:
            # A key with a passphrase would be asked for at a terminal: nobody is there.
            context.load_cert_chain(certificate, key, password="")
    except OSError as error:
        faults.append(
            f"CONSUMER_SCHEMA_REGISTRY_CERTIFICATE: {certificate} and its key in {key or certificate} must be PEM "
            f"files that belong together, the key without a passphrase ({error.strerror or error})."
        )
    return faults


def _file(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        with path.open(encoding="utf-8") as lines:
            values = dotenv_values(stream=lines, interpolate=False)
    except OSError as error:
        raise SettingsError([f"the env file {path} can't be read: {error.strerror or error}."]) from None
    except UnicodeDecodeError:
        raise SettingsError([f"the env file {path} can't be read: it is not UTF-8."]) from None
    return {name: value or "" for name, value in values.items()}


def _named(prefix: str, given: Mapping[str, str]) -> dict[str, str]:
    """Pick what is set under a prefix; an empty value is as good as none."""
    return {
        name: value
        for name, value in given.items()
        if name.startswith(prefix) and value.strip() and not _OF_KUBERNETES.fullmatch(name)
    }


def _sentence(prefix: str, group: type[_Group], kind: str, field: str, message: str) -> str:
    name = prefix + field.upper()
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(field, group.model_fields, n=1)
        hint = f"; did you mean {prefix}{near[0].upper()}?" if near else "; see the settings in the README."
        return f"{name} is not a setting{hint}"
    reason = message.removeprefix("Value error, ").removeprefix("Input ")
    return f"{name}: {reason if reason.startswith('must') else reason.replace('should', 'must')}."
