"""Typed settings, read from the environment and an env file: the only place that reads the environment.

`KAFKA_*` reaches every property of librdkafka: KAFKA_SESSION_TIMEOUT_MS sets `session.timeout.ms`
(https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md). `JIRAFE_*` configures the API's side,
`CONSUMER_*` the consumer itself.
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

from consumer.errors import SettingsError

# Kubernetes adds these to every container's environment, for every service of the namespace.
_OF_KUBERNETES = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT|PORT_\d+_(TCP|UDP)(_.*)?)")

_FIXED = {
    "enable.auto.commit": "offsets are committed with their results",
    "enable.auto.offset.store": "offsets are committed with their results",
    "enable.partition.eof": "by it a partition's end is committed",
    "isolation.level": "only what is committed is delivered",
    "transactional.id": "each member has its own, made of the group and KAFKA_GROUP_INSTANCE_ID",
}


# Settings that are gone, and what to do instead.
_REMOVED = {
    "JIRAFE_CONNECT_TIMEOUT": "connecting may take 5 seconds, and JIRAFE_READ_TIMEOUT limits the rest",
    "JIRAFE_MAX_REQUEST_BYTES": "a request has at most 10 MiB, the API's own limit",
    "CONSUMER_CHUNK_BYTES": "a chunk has at most 1 MiB; CONSUMER_CHUNK_RECORDS limits its records",
    "CONSUMER_LANE_RECORDS": "a partition holds at most 4 chunks; see CONSUMER_CHUNK_RECORDS",
    "CONSUMER_LANE_BYTES": "a partition holds at most 8 MiB",
    "CONSUMER_BACKOFF_FIRST": "the first delay is a sixtieth of CONSUMER_BACKOFF_LONGEST",
    "CONSUMER_RETRY_AFTER_LONGEST": "a Retry-After is obeyed up to 5 minutes",
    "CONSUMER_HOLD_INTERVAL": "what is held is retried every CONSUMER_BACKOFF_LONGEST",
    "CONSUMER_FLOOD_SHARE": "it is half of CONSUMER_FLOOD_WINDOW",
    "CONSUMER_DRAIN_TIMEOUT": "a revoked partition's chunk in flight has 20 seconds to finish",
    "CONSUMER_TOPIC_PARTITIONS": "create topics with: jirafe-consumer topics create --partitions N",
    "CONSUMER_TOPIC_REPLICATION": "create topics with: jirafe-consumer topics create --replication N",
}


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


OFF = "off"

DRAIN_TIMEOUT = 20.0
"""Seconds that chunks in flight of a revoked partition have to finish."""


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
    """The Jirafe Events API: `JIRAFE_*`."""

    url: Url = Field("https://event.jirafe.com/v2", description="the API, up to and with its version")
    site_id: SiteId | None = Field(None, description="the site, for messages that name none")
    access_token: Token | None = Field(None, description="its token, for messages that carry none")
    product_category_taxonomy: str | None = Field(None, description="the taxonomy whose taxons are categories")
    brand_category_taxonomy: str | None = Field(None, description="the taxonomy whose taxons are brands")
    store_url: Url | None = Field(None, description="prefix of image paths that are not absolute")
    read_timeout: Seconds = Field(30, description="seconds to wait for an answer")


class Stream(_Group):
    """The consumer itself: `CONSUMER_*`."""

    carts_topic: str = Field("carts", description="topic of cart messages")
    orders_topic: str = Field("orders", description="topic of order messages")
    taxons_topic: str = Field("taxons", description="topic of taxon messages")
    results_topic: str = Field("jirafe.results", description="topic of results")
    dead_letters_topic: str = Field("jirafe.dead-letters", description="topic of dead letters")
    create_topics: bool = Field(default=True, description="create missing topics when the service starts")
    schema_registry_url: Url | None = Field(None, description="a Schema Registry; unset: single-object framing")
    schema_registry_user: str | None = Field(None, description="the user to log in with")
    schema_registry_password: SecretStr | None = Field(None, description="the user's password")
    schema_registry_ca: Path | None = Field(
        None, description="CA certificates to verify the registry with, a PEM file; unset: the system's"
    )
    schema_registry_certificate: Path | None = Field(None, description="client certificate, a PEM file")
    schema_registry_key: Path | None = Field(
        None, description="the client certificate's key, a PEM file; unset: it is in the certificate's file"
    )
    schemas_folder: Path | None = Field(None, description="a folder of further writers' schemas, *.avsc")
    workers: Count = Field(8, description="chunks delivered at the same time")
    chunk_records: Count = Field(500, description="maximum records in a chunk; a partition holds 4 chunks")
    backoff_longest: Seconds = Field(30, description="maximum delay before a retry, in seconds")
    max_attempts: Count = Field(10, description="tries of an event that alone fails while others succeed")
    flood_window: Count = Field(1000, description="hold a topic once over half of so many records are dead letters")
    commit_timeout: Seconds = Field(30, description="maximum duration of a transaction, in seconds")
    grace_time: Seconds = Field(25, description="seconds for chunks in flight to finish at SIGTERM")
    http_address: Address = Field(
        "127.0.0.1:8000",
        description="where to serve the status page, /metrics, /healthz and /readyz: HOST:PORT, PORT, or off",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="minimum level to log")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="log format; auto: console on a terminal, else json"
    )


PARAMETERS = ("jirafe.product_category_taxonomy", "jirafe.brand_category_taxonomy", "jirafe.store_url")
"""The parameters of messages that have a setting for messages without them."""

GROUPS: dict[str, type[_Group]] = {"JIRAFE_": Api, "CONSUMER_": Stream}


class Settings:
    """All settings: `api`, `stream`, and `kafka`, librdkafka's properties as they were given.

    `host` is this machine's name. `instance` names this process, or the static member that it is.
    """

    def __init__(self, api: Api, stream: Stream, kafka: dict[str, str]) -> None:
        self.api = api
        self.stream = stream
        self.kafka = {"bootstrap.servers": "localhost:9092", "group.id": "jirafe-consumer", **kafka}
        self.host = socket.gethostname()
        self.instance = self.kafka.get("group.instance.id") or f"{self.host}-{uuid.uuid4().hex[:8]}"

    @property
    def topics_by_kind(self) -> dict[str, str]:
        """The topics that are consumed, by the kind of message that each has."""
        stream = self.stream
        return {"cart": stream.carts_topic, "order": stream.orders_topic, "taxon": stream.taxons_topic}

    @property
    def input_topics(self) -> list[str]:
        """The topics that are consumed."""
        return list(self.topics_by_kind.values())

    @property
    def access_token(self) -> str | None:
        """The API's token, in clear."""
        return self.api.access_token.get_secret_value() if self.api.access_token else None

    @property
    def parameters(self) -> dict[str, str]:
        """What applies to messages that lack a parameter, by the parameter's dotted name."""
        given = {name: getattr(self.api, name.removeprefix("jirafe.")) for name in PARAMETERS}
        return {name: value for name, value in given.items() if value is not None}


class SettingsSource:
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
    faults += [f"{name} is no longer a setting: {instead}." for name, instead in _REMOVED.items() if name in ours]
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
    faults = _registry_faults(stream)
    session, heartbeat = kafka.get("session.timeout.ms", "45000"), kafka.get("heartbeat.interval.ms", "3000")
    if session.isdigit() and heartbeat.isdigit() and 2 * int(heartbeat) > int(session):
        faults.append(
            f"KAFKA_HEARTBEAT_INTERVAL_MS ({heartbeat}) is over half of KAFKA_SESSION_TIMEOUT_MS ({session}): the "
            "group would give a member up between two signs of life."
        )
    given = kafka.get("max.poll.interval.ms", "300000")
    longest = DRAIN_TIMEOUT + 2 * stream.commit_timeout
    if given.isdigit() and longest * 1000 >= int(given):
        faults.append(
            f"KAFKA_MAX_POLL_INTERVAL_MS ({given}) must be over {longest * 1000:.0f}: {DRAIN_TIMEOUT:g} s and "
            "twice CONSUMER_COMMIT_TIMEOUT: the group would give up a busy member."
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
