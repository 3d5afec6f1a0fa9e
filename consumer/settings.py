"""Typed settings, read from the environment and an env file: the only place that reads the environment.

`KAFKA_*` reaches every property of librdkafka: KAFKA_SESSION_TIMEOUT_MS sets `session.timeout.ms`
(https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md). `JIRAFE_*` configures the API's side,
`CONSUMER_*` the consumer itself. A secret may be in a file: the setting NAME_FILE then has the path of the file.
"""

import difflib
import ipaddress
import os
import re
import socket
import ssl
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

import requests
import urllib3
from dotenv.parser import parse_stream
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from consumer.errors import SettingsError

# Kubernetes adds these to every container, for every service of the namespace.
_OF_KUBERNETES = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT|PORT_\d+_(TCP|UDP)(_.*)?)")

_MILLISECONDS = re.compile(r"\d{1,18}", re.ASCII)
_DECIMAL = re.compile(r"\d{1,18}(?:\.\d{0,18})?", re.ASCII)
_NUMBER = re.compile(r"[+-]?\d+", re.ASCII)
_LARGEST_NUMBER = 2**31 - 1  # the library silently misreads larger ones
_MAY_LOOK_LIKE_A_NUMBER = ("client.", "group.", "sasl.", "ssl.", "bootstrap.servers", "metadata.broker.list")

_FIXED = {
    "enable.auto.commit": "offsets are committed with their results",
    "check.crcs": "the library would skip damaged records",
    "default.topic.config": "set the properties themselves",
    "delivery.report.only.error": "only failed deliveries are reported to a member",
    "enable.auto.offset.store": "offsets are committed with their results",
    "enable.partition.eof": "the consumer needs it to commit the end of a partition",
    "isolation.level": "only committed records are delivered",
    "transactional.id": "each member makes its own from the group and KAFKA_GROUP_INSTANCE_ID",
}

_STRATEGY, _COOPERATIVE = "partition.assignment.strategy", "cooperative-sticky"

# Properties that make librdkafka load code or run a shell.
_RUNS_CODE = ("plugin.library.paths", "ssl.engine.", "ssl.providers", "sasl.kerberos.kinit.cmd")
_NAMES_A_FILE = (".location", ".keytab", ".file")
_KEYS = ("ssl.key.location", "ssl.keystore.location", "sasl.kerberos.keytab")
# Mechanisms that send a secret as it is, and what. The others prove that they have one.
_SENT_PLAIN = {"PLAIN": "KAFKA_SASL_PASSWORD", "OAUTHBEARER": "the access token"}

# Settings whose value is the path of a secret's file. The first group is the setting of the secret itself.
_SECRET_FILE = re.compile(
    r"(JIRAFE_ACCESS_TOKEN|CONSUMER_SCHEMA_REGISTRY_PASSWORD|KAFKA_(?:.+_)?(?:PASSWORD|PASSPHRASE|SECRET|KEY_PEM))_FILE"
)
_LARGEST_SECRET = 64 * 1024
_OF_KAFKA_ITSELF = ("__consumer_offsets", "__transaction_state")
_TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
# Only syntax that means the same in the regular expressions of librdkafka (POSIX), brokers (RE2/J) and Python.
_TOPIC_PATTERN = re.compile(r"\^(?:[a-zA-Z0-9._\-*+?()|]|\\[.-]|\[\^?[a-zA-Z0-9._-]+\]){1,500}\$")
# A label of a name has up to 63 letters.
_HOST = re.compile(r"[\w-]{1,63}(?:\.[\w-]{1,63})*\.?|\[[0-9a-fA-F:.]+\]", re.ASCII)
_PORT = re.compile(r"\d{1,5}", re.ASCII)

_TRANSACTION_MS = 5_000
_SHORTEST_TRANSACTION_MS = 1_000
_LINGER = ("linger.ms", "queue.buffering.max.ms")  # two names of one property
_WITHIN_TRANSACTION = ("socket.timeout.ms", "message.timeout.ms")
# The share of the transaction timeout that a commit may take. The broker must not abort it during the commit.
_COMMIT_SHARE = 0.8

# What values must be, by the kind of pydantic's error. Its own texts are about Python.
_REASONS = {
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number with fewer digits",
    "float_parsing": "must be a number",
    "bool_parsing": "must be true or false",
}

# Settings that were removed, and what to do instead.
_REMOVED = {
    "JIRAFE_CONNECT_TIMEOUT": "connecting may take 5 seconds, and JIRAFE_READ_TIMEOUT limits the rest",
    "JIRAFE_MAX_REQUEST_BYTES": "a request has at most 10 MiB, which is the API's limit",
    "CONSUMER_CHUNK_BYTES": "a chunk has at most 1 MiB, or 2 MiB while few partitions have records; "
    "CONSUMER_CHUNK_RECORDS limits its records",
    "CONSUMER_LANE_RECORDS": "at most 32 chunks of a partition are in memory; see CONSUMER_CHUNK_RECORDS",
    "CONSUMER_LANE_BYTES": "at most 8 MiB of a partition are in memory",
    "CONSUMER_BACKOFF_FIRST": "the first delay is a sixtieth of CONSUMER_BACKOFF_LONGEST",
    "CONSUMER_RETRY_AFTER_LONGEST": "a Retry-After is obeyed up to 5 minutes",
    "CONSUMER_HOLD_INTERVAL": "records that need an operator are retried every CONSUMER_BACKOFF_LONGEST",
    "CONSUMER_FLOOD_SHARE": "the share is always half of CONSUMER_FLOOD_WINDOW",
    "CONSUMER_DRAIN_TIMEOUT": "chunks in flight of a revoked partition have 20 seconds to finish",
    "CONSUMER_TOPIC_PARTITIONS": "create topics with: jirafe-consumer topics create --partitions N",
    "CONSUMER_TOPIC_REPLICATION": "create topics with: jirafe-consumer topics create --replication N",
    "CONSUMER_COMMIT_TIMEOUT": "a commit may take four fifths of KAFKA_TRANSACTION_TIMEOUT_MS, 5000 by default",
    "CONSUMER_LOG_FORMAT": "the log is text on a terminal, and JSON elsewhere",
}


def is_utf8(text: str) -> bool:
    """Return whether a text from outside was valid UTF-8. Python reads other bytes as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _http_url(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError("must be a valid address") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// address")
    # Paths are appended. An empty query or fragment would swallow them, and urlsplit does not show it.
    if parts.username or parts.password or "?" in text or "#" in text:
        raise ValueError("must be a plain address: no user, password, query or fragment")
    try:
        requests.Request("GET", text).prepare()
    except (requests.RequestException, urllib3.exceptions.HTTPError):
        raise ValueError("must be a valid address") from None
    return text.rstrip("/")


def _visible(text: str) -> str:
    if not (text.isascii() and text.isprintable()) or " " in text or text in {".", ".."}:
        raise ValueError("must be visible ASCII characters without spaces")
    return text


def _visible_secret(secret: SecretStr) -> SecretStr:
    return SecretStr(_visible(secret.get_secret_value()))


def _listed(text: object) -> object:
    return [each for part in text.split(",") if (each := part.strip())] if isinstance(text, str) else text


Url = Annotated[str, AfterValidator(_http_url)]


OFF = "off"

DRAIN_TIMEOUT = 20.0
"""How long chunks in flight may take to finish when their partition is revoked, in seconds."""


def _host_and_port(text: str) -> str:
    if text == OFF:
        return text
    host, _, port = text.rpartition(":")
    # The ports of TCP.
    if not (_PORT.fullmatch(port) and 0 < int(port) < 65_536 and (not host or _HOST.fullmatch(host))):  # noqa: PLR2004
        raise ValueError("must be HOST:PORT, a PORT on 127.0.0.1, or off")
    return f"{host or '127.0.0.1'}:{port}"


def topic_name(text: str) -> str:
    """Return the name of a topic if it is one that Kafka takes. Raises ValueError."""
    if not _TOPIC_NAME.fullmatch(text) or text in {".", ".."}:
        raise ValueError("must be a topic's name: up to 249 letters, digits, dots, underscores and hyphens")
    if text in _OF_KAFKA_ITSELF:
        raise ValueError("must not be an internal topic of Kafka")
    return text


def _topic_or_pattern(text: str) -> str:
    if not is_pattern(text):
        return topic_name(text)
    # A | outside parentheses would split the pattern: ^ would apply only to the first part, $ only to the last.
    depth, is_split = 0, False
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        is_split |= letter == "|" and not depth
    if is_split or not _TOPIC_PATTERN.fullmatch(text):
        raise ValueError(
            "must be names of topics, or patterns such as ^shop-.*[.]orders$, from ^ to $: letters, digits, "
            r"- _ . * + ? [ ] ( ), \., \-, and | within parentheses"
        )
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"must be valid patterns: {error}") from None
    if _repeats_a_choice(text):
        raise ValueError(
            "must not repeat a group with * or + that itself has *, +, ? or |, which could take forever to match: "
            "repeat a class such as [a-z.-]+ instead"
        )
    return text


def _repeats_a_choice(pattern: str) -> bool:
    """Return whether a valid pattern repeats a group that may match in several ways. Python would try them all."""
    has_choice = [False]  # of each open group, the outermost first; only groups have parentheses
    for letter, following in pairwise(pattern):
        if letter == "(":
            has_choice.append(False)
        elif letter in "*+?|":
            has_choice[-1] = True
        elif letter == ")" and has_choice.pop():
            if following in "*+":
                return True
            has_choice[-1] = True
    return False


def is_pattern(topic: str) -> bool:
    """Return whether this is a pattern of topic names, rather than a name."""
    return topic.startswith("^")


def matches(subscribed: str, topic: str) -> bool:
    """Return whether `topic` has this name, or matches this pattern."""
    return re.fullmatch(subscribed, topic) is not None if is_pattern(subscribed) else subscribed == topic


def _listed_once(topics: tuple[str, ...]) -> tuple[str, ...]:
    if not topics:
        raise ValueError("must name a topic")
    return tuple(dict.fromkeys(topics))


def _folder(path: Path) -> Path:
    try:
        names = sorted(os.listdir(path))  # Path.glob would find nothing in a folder that can't be read
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"must be a folder, but {path} is not one") from None
    except OSError as error:
        raise ValueError(f"must be a folder, but {path} can't be read ({error.strerror or error})") from None
    for file in (path / name for name in names):
        if file.suffix == ".avsc" and _is_irregular(file):
            raise ValueError(f"must have schemas in regular files, but {file} is not a regular file")
    return path


def _is_irregular(path: Path | str) -> bool:
    """Return whether this exists but is no regular file. Others, such as a pipe, may block or be read only once."""
    return os.path.exists(path) and not os.path.isfile(path)


Topic = Annotated[str, AfterValidator(topic_name)]
Topics = Annotated[
    tuple[Annotated[str, AfterValidator(_topic_or_pattern)], ...],
    BeforeValidator(_listed),
    AfterValidator(_listed_once),
]
Folder = Annotated[Path, AfterValidator(_folder)]
Address = Annotated[str, AfterValidator(_host_and_port)]
SiteId = Annotated[str, AfterValidator(_visible)]
SiteIds = Annotated[frozenset[SiteId], BeforeValidator(_listed)]
Token = Annotated[SecretStr, AfterValidator(_visible_secret)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(gt=0, le=1_000_000)]
Threads = Annotated[int, Field(gt=0, le=1000)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Api(_Group):
    """The Jirafe Events API: `JIRAFE_*`."""

    url: Url = Field("https://event.jirafe.com/v2", description="address of the API, including its version")
    site_id: SiteId | None = Field(None, description="the site for messages that name no site")
    access_token: Token | None = Field(
        None, description="the access token of that site, for messages without a token"
    )
    sites: SiteIds = Field(
        frozenset(), description="further sites that the token is valid for, separated by commas"
    )
    product_category_taxonomy: str | None = Field(None, description="the taxonomy whose taxons are categories")
    brand_category_taxonomy: str | None = Field(None, description="the taxonomy whose taxons are brands")
    store_url: Url | None = Field(None, description="address to put before relative image paths")
    read_timeout: Seconds = Field(
        30, description="time limit of a request in seconds, from the host lookup to the last byte of the answer"
    )


class Stream(_Group):
    """The consumer itself: `CONSUMER_*`."""

    carts_topic: Topics = Field(
        ("carts",), description="topics of cart messages: names or ^patterns$, separated by commas"
    )
    orders_topic: Topics = Field(
        ("orders",), description="topics of order messages: names or ^patterns$, separated by commas"
    )
    taxons_topic: Topics = Field(
        ("taxons",), description="topics of taxon messages: names or ^patterns$, separated by commas"
    )
    products_topic: Topics = Field(
        ("products",), description="topics of product messages: names or ^patterns$, separated by commas"
    )
    results_topic: Topic = Field("jirafe.results", description="topic of results")
    dead_letters_topic: Topic = Field("jirafe.dead-letters", description="topic of dead letters")
    create_topics: bool = Field(default=True, description="create missing topics when the service starts")
    schema_registry_url: Url | None = Field(
        None, description="address of a Schema Registry; without one, records use Avro's single-object encoding"
    )
    schema_registry_user: str | None = Field(None, description="the user name for the registry")
    schema_registry_password: SecretStr | None = Field(None, description="the password of that user")
    schema_registry_ca: Path | None = Field(
        None, description="PEM file of the CA certificates that verify the registry; default: the system's"
    )
    schema_registry_certificate: Path | None = Field(None, description="PEM file of the client certificate")
    schema_registry_key: Path | None = Field(
        None, description="PEM file of the client certificate's key; default: the certificate's file"
    )
    schemas_folder: Folder | None = Field(None, description="folder of further schemas that producers use (*.avsc)")
    workers: Threads = Field(8, description="how many chunks are delivered at the same time")
    chunk_records: Count = Field(
        250,
        description="maximum records in a chunk (up to eight times as many while few partitions have records); "
        "up to 32 times as many of a partition are in memory",
    )
    backoff_longest: Seconds = Field(30, description="maximum delay before a retry, in seconds")
    max_attempts: Count = Field(
        10, description="tries of an event that fails alone while others succeed, before it becomes a dead letter"
    )
    flood_window: Count = Field(
        1000, description="pause a topic if over half of this many consecutive records are dead letters"
    )
    grace_time: Seconds = Field(25, description="seconds that chunks in flight have to finish after SIGTERM")
    http_address: Address = Field(
        "127.0.0.1:8000",
        description="address of the status page, /metrics, /healthz and /readyz: HOST:PORT, PORT, or off",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level to log: debug, info, warning or error"
    )


PARAMETERS = ("jirafe.product_category_taxonomy", "jirafe.brand_category_taxonomy", "jirafe.store_url")
"""The message parameters whose default is a setting."""

TAKEN_IN_PLACE = frozenset(
    {
        "JIRAFE_SITE_ID",
        "JIRAFE_ACCESS_TOKEN",
        "JIRAFE_SITES",
        *(name.upper().replace(".", "_") for name in PARAMETERS),
    }
)
"""The settings that a running member applies at once. Of all others, only those of `reconnects` need no restart."""

_RECONNECTING = ("KAFKA_SASL_", "KAFKA_SSL_", "KAFKA_SECURITY_PROTOCOL", "KAFKA_BOOTSTRAP_SERVERS")


def reconnects(name: str) -> bool:
    """Return whether a running member applies this setting by connecting to Kafka again."""
    return name.startswith(_RECONNECTING)


GROUPS: dict[str, type[_Group]] = {"JIRAFE_": Api, "CONSUMER_": Stream}


class Settings:
    """All settings: `api`, `stream`, and `kafka`, which has librdkafka's properties.

    `host` is this machine's name. `instance` is `group.instance.id` if that is set, else a name for this process.
    """

    def __init__(self, api: Api, stream: Stream, kafka: dict[str, str]) -> None:
        self.api = api
        self.stream = stream
        self.kafka = {"bootstrap.servers": "localhost:9092", "group.id": "jirafe-consumer", **kafka}
        self.host = socket.gethostname()
        self.instance = self.kafka.get("group.instance.id") or f"{self.host}-{uuid.uuid4().hex[:8]}"

    @property
    def transaction_timeout(self) -> float:
        """How long a transaction may stay open before the broker aborts it, in seconds."""
        return int(self.kafka.get("transaction.timeout.ms", _TRANSACTION_MS)) / 1000

    @property
    def commit_timeout(self) -> float:
        """How long a commit may take, in seconds. It is a little shorter than the transaction timeout."""
        return _COMMIT_SHARE * self.transaction_timeout

    @property
    def _topics_by_kind(self) -> dict[str, tuple[str, ...]]:
        stream = self.stream
        return {
            "cart": stream.carts_topic,
            "order": stream.orders_topic,
            "taxon": stream.taxons_topic,
            "product": stream.products_topic,
        }

    @property
    def topics_by_kind(self) -> dict[str, str]:
        """The topic that each kind's messages are produced to: its first named one, if there is one."""
        found: dict[str, str] = {}
        for kind, topics in self._topics_by_kind.items():
            names = [topic for topic in topics if not is_pattern(topic)]
            found |= {kind: names[0]} if names else {}
        return found

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that are consumed by name. Several kinds may share one."""
        return tuple(topic for topic in self._subscribed if not is_pattern(topic))

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns of topics that are consumed. A topic matches only with its whole name."""
        return tuple(topic for topic in self._subscribed if is_pattern(topic))

    @property
    def _subscribed(self) -> list[str]:
        return list(dict.fromkeys(topic for topics in self._topics_by_kind.values() for topic in topics))

    @property
    def access_token(self) -> str | None:
        """The API's access token, in plain text."""
        return self.api.access_token.get_secret_value() if self.api.access_token else None

    @property
    def parameters(self) -> dict[str, str]:
        """The defaults of message parameters, by their dotted names."""
        given = {name: getattr(self.api, name.removeprefix("jirafe.")) for name in PARAMETERS}
        return {name: value for name, value in given.items() if value is not None}

    def with_defaults_of(self, other: "Settings") -> "Settings":
        """Return these settings, with the other's values for the settings that apply without a restart."""
        fields = (name.removeprefix("JIRAFE_").lower() for name in TAKEN_IN_PLACE)
        kept = {name: value for name, value in self.kafka.items() if not reconnects(_setting(name))}
        taken = {name: value for name, value in other.kafka.items() if reconnects(_setting(name))}
        return Settings(
            self.api.model_copy(update={field: getattr(other.api, field) for field in fields}),
            self.stream,
            kept | taken,
        )

    @property
    def files(self) -> dict[str, Path]:
        """The files that the connection to Kafka uses, by the setting that names each."""
        return _files({_setting(name): value for name, value in self.kafka.items()})


def differences(one: Settings, other: Settings) -> list[str]:
    """Return the names of the settings that differ, as in the environment."""
    names = []
    for prefix, a, b in (("JIRAFE_", one.api, other.api), ("CONSUMER_", one.stream, other.stream)):
        names += [prefix + name.upper() for name in type(a).model_fields if getattr(a, name) != getattr(b, name)]
    properties = dict.fromkeys((*one.kafka, *other.kafka))
    return names + [_setting(name) for name in properties if one.kafka.get(name) != other.kafka.get(name)]


def wants_tracing(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the environment names an endpoint for traces, by the rules of OpenTelemetry's SDKs.

    https://opentelemetry.io/docs/specs/otel/protocol/exporter/
    """
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    named = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return not is_off and any(environ.get(name) for name in named)


def tracing_secrets(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the secrets in OpenTelemetry's variables: headers for the collector, and the query of its address."""
    found = []
    for of in ("", "TRACES_"):
        for header in environ.get(f"OTEL_EXPORTER_OTLP_{of}HEADERS", "").split(","):
            value = header.partition("=")[2].strip()
            found += [header.strip(), value, unquote(value)]
        found.append(environ.get(f"OTEL_EXPORTER_OTLP_{of}ENDPOINT", "").partition("?")[2])
    return [secret for secret in found if secret]


class Caution(NamedTuple):
    """A risk for a secret, and how to fix it. It does not stop the service."""

    message: str
    fix: str


class SettingsSource:
    """Where settings come from: the environment, and an env file that may change while the service runs.

    `by_chance`: the user did not name the file, and it was found in the current folder.
    """

    def __init__(self, env_file: Path | None, *, by_chance: bool = False) -> None:
        self._env_file = env_file
        self._by_chance = by_chance
        self._secrets: dict[str, Path] = {}
        self._seen: dict[Path, Stamp] = {}
        self._used: dict[Path, Stamp] = {}
        self._look_at = 0.0

    def load(self) -> Settings:
        """Read the settings; raises SettingsError."""
        # Stamp the files before they are read, so that a change during the reading is noticed. Do so even if the
        # settings are then refused.
        self._seen = {self._env_file: _stamp(self._env_file)} if self._env_file else {}
        in_file = _file(self._env_file)
        given = _given(in_file, os.environ)
        self._secrets = _secret_files(given)
        self._seen |= {path: _stamp(path) for path in (*self._secrets.values(), *_files(given).values())}
        return _load(self._env_file, in_file, os.environ, by_chance=self._by_chance)

    def accept(self) -> None:
        """Note that the settings of the last `load` are in use."""
        self._used = self._seen

    def cautions(self, loaded: Settings) -> list[Caution]:
        """Return the risks for the loaded secrets: unencrypted connections, and files that others can read."""
        found = list(_unencrypted(loaded))
        if self._env_file and _others_may_read(self._env_file):
            message = f"the env file {self._env_file} may contain secrets, and can be read by others."
            found.append(Caution(message, f"chmod 600 {self._env_file}"))
        secrets = {f"{name}_FILE": path for name, path in self._secrets.items()} | _key_files(loaded)
        found += [
            Caution(f"{path}, which {name} names, can be read by others.", f"chmod 600 {path}")
            for name, path in secrets.items()
            if _others_may_read(path)
        ]
        return found

    def has_changed(self) -> bool:
        """Return whether the env file, a secret file or a TLS file for Kafka changed since the last `load`.

        It checks at most once a second. In between it returns False.
        """
        if time.monotonic() < self._look_at:
            return False
        self._look_at = time.monotonic() + 1
        return any(_stamp(path) != stamp for path, stamp in self._seen.items())

    def changed_files(self) -> set[Path]:
        """Return the files that changed since the settings in use were read."""
        return {path for path, stamp in self._used.items() if _stamp(path) != stamp}


Stamp = tuple[int, int] | None
"""Identifies one version of a file; None if it does not exist."""


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except (OSError, ValueError):  # a name with a zero byte raises ValueError
        return None
    # Not the time of its content, which tools may set: some give all files the same.
    return status.st_ctime_ns, status.st_size


def _given(in_file: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return our settings, without surrounding whitespace. The environment overrides the file."""
    given = {**in_file, **environ}
    return {name: value for prefix in (*GROUPS, "KAFKA_") for name, value in _named(prefix, given).items()}


def _files(given: Mapping[str, str]) -> dict[str, Path]:
    """Return the files for TLS and login to Kafka, by the setting that names each."""
    named = {_setting(_property(name)): Path(value) for name, value in given.items() if name.startswith("KAFKA_")}
    return {name: path for name, path in named.items() if reconnects(name) and name.endswith("_LOCATION")}


def _key_files(loaded: Settings) -> dict[str, Path]:
    """Return the files of private keys, by the setting that names each."""
    found = {_setting(name): Path(value) for name, value in loaded.kafka.items() if name in _KEYS}
    if key := loaded.stream.schema_registry_key:
        found["CONSUMER_SCHEMA_REGISTRY_KEY"] = key
    elif certificate := loaded.stream.schema_registry_certificate:  # it has the key too
        found["CONSUMER_SCHEMA_REGISTRY_CERTIFICATE"] = certificate
    return found


def _secret_files(given: Mapping[str, str]) -> dict[str, Path]:
    """Return the files of secrets, by the setting whose value is in the file."""
    found = ((_SECRET_FILE.fullmatch(_canonical(name)), value) for name, value in given.items())
    return {match[1]: Path(value) for match, value in found if match}


def _with_secrets(given: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Replace the paths of secret files by their contents. Also returns the faults."""
    values = {name: value for name, value in given.items() if not _SECRET_FILE.fullmatch(_canonical(name))}
    names = {_canonical(name) for name in values}
    faults = []
    for name, path in _secret_files(given).items():
        if name in names:
            faults.append(f"{name} and {name}_FILE are both set: set one of them.")
            continue
        try:
            values[name] = _secret(path)
        except ValueError as error:
            faults.append(f"{name}_FILE: {path} {error}.")
    return values, faults


def _secret(path: Path) -> str:
    """Read a secret from its file. Raises ValueError, which says what is wrong but quotes no content."""
    try:
        if _is_irregular(path):
            raise ValueError("is not a regular file")
        with path.open("rb") as file:
            content = file.read(_LARGEST_SECRET + 1)
    except FileNotFoundError:
        raise ValueError("does not exist") from None
    except OSError as error:
        raise ValueError(f"can't be read ({error.strerror or error})") from None
    if len(content) > _LARGEST_SECRET:
        raise ValueError(f"is larger than {_LARGEST_SECRET // 1024} KiB, the limit for a secret")
    try:
        text = content.decode("utf-8-sig").strip()  # editors on Windows begin a file with a mark
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    if not text or "\0" in text:
        raise ValueError("has a zero byte" if text else "is empty")
    return text


def _canonical(name: str) -> str:
    return name.upper().replace(".", "_")


def load(env_file: Path | None, environ: Mapping[str, str] = os.environ, *, by_chance: bool = False) -> Settings:
    """Read the settings. The environment overrides the file. Raises SettingsError, which lists the faults found.

    Settings that make librdkafka run code are refused if they come from a file that others can write, or that was
    found in the current folder by chance.
    """
    return _load(env_file, _file(env_file), environ, by_chance=by_chance)


def _load(
    env_file: Path | None, in_file: Mapping[str, str], environ: Mapping[str, str], *, by_chance: bool
) -> Settings:
    given = _given(in_file, environ)
    faults = [f"{name}: must be UTF-8." for name, value in given.items() if not is_utf8(value)]
    faults += [f"{name}: must not contain a zero byte." for name, value in given.items() if "\0" in value]
    faults += [f"{name} is no longer a setting: {instead}." for name, instead in _REMOVED.items() if name in given]
    if faults:
        raise SettingsError(faults)
    given, faults = _with_secrets(given)
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
    if env_file:
        of_file = {name: value for name, value in in_file.items() if name not in environ}
        faults += _untrusted(env_file, _named("KAFKA_", of_file), by_chance=by_chance)
    kafka = {_property(name): value for name, value in _named("KAFKA_", given).items()}
    for name, why in _FIXED.items():
        if name in kafka:
            faults.append(f"{_setting(name)} can't be set: {why}.")
    if faults:
        raise SettingsError(faults)
    loaded = Settings(groups["JIRAFE_"], groups["CONSUMER_"], kafka)
    if faults := _contradictions(loaded, kafka):
        raise SettingsError(faults)
    return loaded


def _property(name: str) -> str:
    return name.removeprefix("KAFKA_").lower().replace("_", ".")


def _setting(name: str) -> str:
    return f"KAFKA_{name.upper().replace('.', '_')}"


def _untrusted(env_file: Path, given: Mapping[str, str], *, by_chance: bool) -> list[str]:
    """Refuse settings that run code if others may have written them."""
    running = [name for name in given if _property(name).startswith(_RUNS_CODE)]
    if not running or not (by_chance or _others_may_write(env_file)):
        return []
    why = "was only found in the current folder" if by_chance else "can be written by others"
    mend = "name the file with --env-file" if by_chance else "let nobody else write the file or its folder"
    return [
        f"{name} makes the library run code, and {env_file} {why}: {mend}, or set it in the environment."
        for name in running
    ]


def _others_may_write(path: Path) -> bool:
    """Return whether somebody other than this user and root can change or replace a file."""
    real = path.resolve()
    try:
        file, folder = real.stat(), real.parent.stat()
    except OSError:
        return True
    ours = (0, os.geteuid())
    others = stat.S_IWGRP | stat.S_IWOTH
    is_open = bool(folder.st_mode & others) and not folder.st_mode & stat.S_ISVTX
    return bool(file.st_mode & others) or file.st_uid not in ours or folder.st_uid not in ours or is_open


def _others_may_read(path: Path) -> bool:
    try:
        file = path.stat()
    except OSError:
        return False
    # A file that root owns may be meant for the service's group, so the group may read it.
    others = stat.S_IROTH | (stat.S_IRGRP if file.st_uid == os.geteuid() else 0)
    return stat.S_ISREG(file.st_mode) and bool(file.st_mode & others)


def _unencrypted(loaded: Settings) -> Iterator[Caution]:
    stream, kafka = loaded.stream, loaded.kafka
    mechanism = kafka.get("sasl.mechanism", kafka.get("sasl.mechanisms", "")).upper()
    brokers = [_parts(f"//{each.rpartition('://')[2].strip()}") for each in kafka["bootstrap.servers"].split(",")]
    if (
        kafka.get("security.protocol", "").lower() == "sasl_plaintext"
        and mechanism in _SENT_PLAIN
        and not all(_is_loopback(each.hostname or "") for each in brokers)
    ):
        message = f"KAFKA_SECURITY_PROTOCOL is SASL_PLAINTEXT: {_SENT_PLAIN[mechanism]} is sent to the brokers"
        yield Caution(f"{message} unencrypted, so others on the network can read it.", "use SASL_SSL")
    for name, url, secret in (
        ("JIRAFE_URL", loaded.api.url, loaded.api.access_token and "JIRAFE_ACCESS_TOKEN"),
        (
            "CONSUMER_SCHEMA_REGISTRY_URL",
            stream.schema_registry_url,
            stream.schema_registry_password and "CONSUMER_SCHEMA_REGISTRY_PASSWORD",
        ),
        (
            "KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL",
            kafka.get("sasl.oauthbearer.token.endpoint.url"),
            kafka.get("sasl.oauthbearer.client.secret") and "KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET",
        ),
    ):
        parts = _parts(url or "")
        if secret and parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
            shown = f"http://{parts.netloc.rpartition('@')[2]}{parts.path}"
            message = (
                f"{name} is {shown}: {secret} is sent there unencrypted, so others on the network can read it."
            )
            yield Caution(message, "use https://")


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")  # the library reports it


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _contradictions(loaded: Settings, kafka: Mapping[str, str]) -> list[str]:
    """Return the faults of settings that can't work together."""
    stream = loaded.stream
    faults = _topic_faults(stream)
    if (strategy := kafka.get(_STRATEGY, _COOPERATIVE)) != _COOPERATIVE:
        faults.append(
            f"{_setting(_STRATEGY)} ({strategy}) must be {_COOPERATIVE}: a member keeps its other partitions while "
            "some move."
        )
    faults += _file_faults(kafka)
    faults += _registry_faults(stream)
    faults += _address_faults(loaded)
    return faults + (_number_faults(kafka) or _time_faults(kafka))


def _topic_faults(stream: Stream) -> list[str]:
    """Return the faults of topics that must not be consumed, and of output topics that must differ."""
    results, letters = stream.results_topic, stream.dead_letters_topic
    faults = []
    if results == letters:
        faults.append(
            f"CONSUMER_RESULTS_TOPIC and CONSUMER_DEAD_LETTERS_TOPIC are both {results}: they must differ."
        )
    forbidden = {
        results: "which is CONSUMER_RESULTS_TOPIC: the consumer would read its own output",
        letters: "which is CONSUMER_DEAD_LETTERS_TOPIC: the consumer would read its own output",
        **dict.fromkeys(_OF_KAFKA_ITSELF, "an internal topic of Kafka"),
    }
    for kind in ("carts", "orders", "taxons", "products"):
        for subscribed in getattr(stream, f"{kind}_topic"):
            faults += [
                f"CONSUMER_{kind.upper()}_TOPIC: {subscribed} includes {topic}, {why}. Choose another."
                for topic, why in forbidden.items()
                if matches(subscribed, topic)
            ]
    return faults


def _number_faults(kafka: Mapping[str, str]) -> list[str]:
    return [
        f"{_setting(name)}: must be a number up to {_LARGEST_NUMBER}."
        for name, value in kafka.items()
        if not name.startswith(_MAY_LOOK_LIKE_A_NUMBER)
        and _NUMBER.fullmatch(value)
        and (len(value) > len(f"+{_LARGEST_NUMBER}") or int(value) > _LARGEST_NUMBER)
    ]


def _time_faults(kafka: Mapping[str, str]) -> list[str]:
    is_long = "group.instance.id" in kafka or kafka.get("group.protocol") == "consumer"
    defaults = {
        "session.timeout.ms": 45_000 if is_long else 10_000,  # as the clients are made with
        "heartbeat.interval.ms": 3_000,
        "max.poll.interval.ms": 300_000,
        "transaction.timeout.ms": _TRANSACTION_MS,
    }
    faults = [
        f"{_setting(name)}: must be a whole number of milliseconds."
        for name in (*defaults, *_WITHIN_TRANSACTION)
        if name in kafka and not _MILLISECONDS.fullmatch(kafka[name])
    ]
    if faults:
        return faults
    session, heartbeat, longest, transaction = (int(kafka.get(name, ms)) for name, ms in defaults.items())
    if 2 * heartbeat > session:
        faults.append(
            f"KAFKA_HEARTBEAT_INTERVAL_MS ({heartbeat}) is over half of KAFKA_SESSION_TIMEOUT_MS ({session}): the "
            "group could drop a member between two heartbeats."
        )
    turn = DRAIN_TIMEOUT + 2 * _COMMIT_SHARE * transaction / 1000
    if turn * 1000 >= longest:
        faults.append(
            f"KAFKA_MAX_POLL_INTERVAL_MS ({longest}) must be over {turn * 1000:.0f}, which is {DRAIN_TIMEOUT:g} s "
            "plus 1.6 times KAFKA_TRANSACTION_TIMEOUT_MS: otherwise the group would drop a busy member."
        )
    elif session > longest:
        faults.append(
            f"KAFKA_SESSION_TIMEOUT_MS ({session}) must be at most KAFKA_MAX_POLL_INTERVAL_MS ({longest})."
        )
    faults += [  # the library refuses them, but not before a member has partitions
        f"{_setting(name)} ({kafka[name]}) must be at most KAFKA_TRANSACTION_TIMEOUT_MS ({transaction})."
        for name in _WITHIN_TRANSACTION
        if name in kafka and int(kafka[name]) > transaction
    ]
    faults += [  # the library refuses each record then, unless KAFKA_MESSAGE_TIMEOUT_MS is set
        f"{_setting(name)} ({kafka[name]}) must be less than KAFKA_TRANSACTION_TIMEOUT_MS ({transaction})."
        for name in _LINGER
        if name in kafka and _DECIMAL.fullmatch(kafka[name]) and float(kafka[name]) >= transaction
    ]
    if transaction < _SHORTEST_TRANSACTION_MS:
        faults.append(
            f"KAFKA_TRANSACTION_TIMEOUT_MS ({transaction}) must be at least {_SHORTEST_TRANSACTION_MS}: the broker "
            "would abort transactions before they are committed."
        )
    return faults


def _file_faults(kafka: Mapping[str, str]) -> list[str]:
    """Return the files that can't be used. The library would notice them only when it needs them."""
    faults = []
    for name, value in kafka.items():
        if not name.endswith(_NAMES_A_FILE) or value == "probe":
            continue
        if why := _unreadable(value):
            faults.append(f"{_setting(name)}: {value} {why}.")
    return faults


def _unreadable(path: str) -> str | None:
    """Return why a file can't be read, None if it can. A folder counts as readable: it may have certificates."""
    if _is_irregular(path) and not os.path.isdir(path):
        return "is not a regular file"
    try:
        with open(path, "rb"):
            return None
    except IsADirectoryError:
        return None
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"can't be read ({error.strerror or error})"


def _address_faults(loaded: Settings) -> list[str]:
    """Return a fault for each other service whose address is that of the status page."""
    address = loaded.stream.http_address
    if "http_address" not in loaded.stream.model_fields_set or address == OFF:
        return []  # the default is not checked: if its port is taken, there is just no page
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    asked = {"JIRAFE_URL": loaded.api.url, "CONSUMER_SCHEMA_REGISTRY_URL": loaded.stream.schema_registry_url or ""}
    asked |= {"KAFKA_BOOTSTRAP_SERVERS": f"kafka://{loaded.kafka['bootstrap.servers'].rpartition('://')[2]}"}
    faults = []
    for name, urls in asked.items():
        for url in urls.split(","):
            try:
                parts = urlsplit(url if "://" in url else f"kafka://{url.strip()}")
                theirs = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
            except ValueError:
                continue  # the library reports it
            here = _is_loopback(parts.hostname or "") and (host in {"0.0.0.0", "::"} or _is_loopback(host))  # noqa: S104 - named, not listened at
            if theirs == int(port) and (here or parts.hostname == host):
                faults.append(f"CONSUMER_HTTP_ADDRESS ({address}) is the address in {name}: choose another port.")
    return faults


def _registry_faults(stream: Stream) -> list[str]:
    """Return the faults that would make every request to the Schema Registry fail."""
    ca = stream.schema_registry_ca
    certificate, key = stream.schema_registry_certificate, stream.schema_registry_key
    faults = []
    if stream.schema_registry_user and not stream.schema_registry_password:
        faults.append("CONSUMER_SCHEMA_REGISTRY_USER is set, but CONSUMER_SCHEMA_REGISTRY_PASSWORD is not.")
    if ":" in (stream.schema_registry_user or ""):
        faults.append(
            "CONSUMER_SCHEMA_REGISTRY_USER: must not contain a colon, because HTTP ends the user name there."
        )
    if key and not certificate:
        faults.append("CONSUMER_SCHEMA_REGISTRY_KEY is set, but CONSUMER_SCHEMA_REGISTRY_CERTIFICATE is not.")
    named = {"CA": ca, "CERTIFICATE": certificate, "KEY": key}
    irregular = [
        f"CONSUMER_SCHEMA_REGISTRY_{name}: {path} is not a regular file."
        for name, path in named.items()
        if path and _is_irregular(path)
    ]
    if irregular:
        return faults + irregular
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ca:
            context.load_verify_locations(ca)
    except OSError as error:
        why = error.strerror or error
        faults.append(f"CONSUMER_SCHEMA_REGISTRY_CA: {ca} must be a PEM file of certificates ({why}).")
    try:
        if certificate:
            # Without a password, a key with a passphrase would make OpenSSL ask at the terminal.
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
    if _is_irregular(path) and not os.path.samefile(path, os.devnull):
        raise SettingsError([f"the env file {path} must be a regular file: a running member reads it again."])
    try:
        with path.open(encoding="utf-8") as lines:
            found = list(parse_stream(lines))
    except OSError as error:
        raise SettingsError([f"the env file {path} can't be read: {error.strerror or error}."]) from None
    except UnicodeDecodeError:
        raise SettingsError([f"the env file {path} can't be read: it is not UTF-8."]) from None
    # A name without = has no error and no value.
    if wrong := [str(each.original.line) for each in found if each.error or (each.key and each.value is None)]:
        raise SettingsError([f"the env file {path} must have lines of NAME=VALUE: see line {', '.join(wrong)}."])
    return {each.key: each.value or "" for each in found if each.key}


def _named(prefix: str, given: Mapping[str, str]) -> dict[str, str]:
    """Return the settings with a prefix, without surrounding whitespace. An empty value counts as not set.

    Mounted secrets often end with a newline.
    """
    return {
        name: value.strip()
        for name, value in given.items()
        if name.startswith(prefix) and value.strip() and not _OF_KUBERNETES.fullmatch(name)
    }


def _sentence(prefix: str, group: type[_Group], kind: str, field: str, message: str) -> str:
    name = prefix + field.upper()
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(field, group.model_fields, n=1)
        hint = f"; did you mean {prefix}{near[0].upper()}?" if near else "; see docs/settings.md."
        return f"{name} is not a setting{hint}"
    reason = _REASONS.get(kind) or message.removeprefix("Value error, ").removeprefix("Input ")
    return f"{name}: {reason.replace('should', 'must').replace('less than or equal to', 'at most')}."
