"""Builds the parts of the program from the settings. Only this module puts them together."""

import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import prometheus_client

from consumer.admin.check import CheckedApi
from consumer.admin.deployment import Deployment
from consumer.admin.redelivery import Pace
from consumer.admin.topics import prepare_topics, require_topics
from consumer.delivery.calls import Callers
from consumer.delivery.defaults import Credentials, Defaults
from consumer.delivery.handler import Delivery
from consumer.delivery.sending import SIDE_BY_SIDE, Rules
from consumer.delivery.work import Work
from consumer.engine.backoff import Backoff
from consumer.engine.kafka import Cluster, LibraryLog, Logger
from consumer.engine.member import Member, Options, Surroundings
from consumer.engine.ports import Reloaded
from consumer.engine.strand import Bounds
from consumer.errors import KafkaUnusable, SettingsError
from consumer.monitor.letters import LetterLog
from consumer.monitor.monitor import Monitor
from consumer.monitor.report import About
from consumer.monitor.server import StatusServer
from consumer.settings import (
    DRAIN_TIMEOUT,
    TAKEN_IN_PLACE,
    Settings,
    SettingsSource,
    differences,
    reconnects,
    tracing_secrets,
    wants_tracing,
)
from jirafe.client import Client, Exchange, Site
from schemas.codec import Codec
from schemas.own import OWN_SCHEMAS, own_schema
from schemas.registry import Access, SchemaRegistry

if TYPE_CHECKING:
    from consumer.tracing import OpenTelemetry

_REGISTRY_TIMEOUT = 10.0
_MAX_REQUEST_BYTES = 10 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_LANE_BYTES = 8 * 1024 * 1024
_CHUNKS_PER_LANE = 32
_DELAYS = 60
_LONGEST_RETRY_AFTER = 300.0


def make_cluster(settings: Settings, log: Logger | None = None) -> Cluster:
    """Make the cluster. The Kafka library's log lines go to `log`, and are dropped without one."""
    return Cluster(
        settings.kafka,
        instance=settings.instance,
        host=settings.host,
        transaction_timeout=settings.transaction_timeout,
        log=LibraryLog(log) if log else None,
    )


def make_deployment(settings: Settings, log: Logger | None = None) -> Deployment:
    """Make the deployment that the admin tools work on."""
    stream = settings.stream
    return Deployment(
        make_cluster(settings, log),
        settings.topics,
        settings.patterns,
        stream.results_topic,
        stream.dead_letters_topic,
    )


def have_topics(settings: Settings, topics: Sequence[str], log: Logger | None = None) -> list[str]:
    """Create the missing topics if the settings allow it, and return those created. Blocks for seconds.

    Raises KafkaUnusable, also if topics are missing and must not be created.
    """
    deployment = make_deployment(settings, log)
    if settings.stream.create_topics:
        return prepare_topics(deployment, topics)
    require_topics(deployment, topics)
    return []


def make_codec(settings: Settings) -> Codec:
    """Make the codec: with a registry if one is set, else with local schemas only. Raises SettingsError."""
    try:
        return Codec(make_registry(settings), settings.stream.schemas_folder)
    except ValueError as error:
        raise SettingsError([f"CONSUMER_SCHEMAS_FOLDER: {error}."]) from None
    except OSError as error:
        raise SettingsError([f"CONSUMER_SCHEMAS_FOLDER can't be read: {error.strerror or error}."]) from None


def make_registry(settings: Settings) -> SchemaRegistry | None:
    """Make the Schema Registry's client, None if no registry is set."""
    stream = settings.stream
    if stream.schema_registry_url is None:
        return None
    password = stream.schema_registry_password
    access = Access(
        stream.schema_registry_user or "",
        password.get_secret_value() if password else None,
        stream.schema_registry_ca,
        stream.schema_registry_certificate,
        stream.schema_registry_key,
    )
    return SchemaRegistry(stream.schema_registry_url, _subjects(settings), access, timeout=_REGISTRY_TIMEOUT)


def _subjects(settings: Settings) -> dict[str, str]:
    """Return the subject of each of our schemas, named by the strategies of Confluent's serializers.

    A topic with one kind of message has `<topic>-value` (TopicNameStrategy). A topic with several kinds has
    `<topic>-<record>` for each (TopicRecordNameStrategy). A kind that has only patterns, and so no topic name, has
    `<record>` (RecordNameStrategy).
    """
    topics = {**settings.topics_by_kind, "result": settings.stream.results_topic}
    shared = Counter(topics.values())
    subjects = {}
    for kind in OWN_SCHEMAS:
        topic = topics.get(kind)
        if topic and shared[topic] == 1:
            subjects[kind] = f"{topic}-value"
        else:
            record = own_schema(kind)["name"]
            subjects[kind] = f"{topic}-{record}" if topic else record
    return subjects


def make_tracing(log: Logger) -> "OpenTelemetry | None":
    """Set up tracing. Returns None if the environment names no endpoint, or it can't be set up, which is logged."""
    if not wants_tracing():
        return None
    try:
        # Loaded only here, because they are slow to load and come with an extra.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        from consumer.tracing import OpenTelemetry, log_warnings, quotable  # noqa: PLC0415
    except ImportError:
        # A cluster may set these variables in every container, so this is no error.
        log.warning(
            "no_tracing",
            reason="an OTLP endpoint is set, but OpenTelemetry is not installed: install jirafe-consumer[otel]",
        )
        return None
    secrets = tracing_secrets()
    log_warnings(log, secrets)
    try:
        # Attributes from the environment override this service name.
        resource = Resource({"service.name": "jirafe-consumer"}).merge(OTELResourceDetector().detect())
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except Exception as error:  # noqa: BLE001 - the library raises errors of any class; delivery needs no spans
        log.warning("no_tracing", reason=f"a variable OTEL_* is wrong: {quotable(str(error), secrets)}")
        return None
    return OpenTelemetry(provider)


def make_client(
    settings: Settings, monitor: Monitor | None = None, tracing: "OpenTelemetry | None" = None
) -> Client:
    """Make the API's client. The monitor, if there is one, counts its requests."""
    api = settings.api
    observe = monitor.metrics.exchanged if monitor else _unobserved
    return Client(api.url, timeout=api.read_timeout, observe=observe, tracing=tracing)


def _unobserved(_exchange: Exchange) -> None:
    pass


def make_delivery(
    settings: Settings, codec: Codec, monitor: Monitor | None = None, tracing: "OpenTelemetry | None" = None
) -> Delivery:
    """Make what delivers chunks. Commands pass no monitor, because they report the outcome themselves."""
    stream = settings.stream
    rules = Rules(_MAX_REQUEST_BYTES, stream.max_attempts, stream.max_attempts * stream.backoff_longest)
    client, defaults = make_client(settings, monitor, tracing), make_defaults(settings)
    group = settings.kafka["group.id"]
    if monitor is None:
        return Delivery(codec, client, rules, defaults, group=group)
    # Twice as many as run in parallel, because requests that are left pending use these threads too.
    start = Callers(2 * SIDE_BY_SIDE * stream.workers).start
    return Delivery(
        codec, client, rules, defaults, monitor.metrics.decided, group=group, start=start, tracing=tracing
    )


def make_pace(settings: Settings) -> Pace:
    """Make the pace of replays and redrives: parallel chunks, tries and delays."""
    stream = settings.stream
    return Pace(stream.workers, stream.max_attempts, make_backoff(settings), settings.commit_timeout)


def make_checked_api(settings: Settings) -> CheckedApi:
    """Make the API client for `check`, with the settings that the service would use."""
    site_id, token = settings.api.site_id, settings.access_token
    return CheckedApi(settings.api.url, make_client(settings), Site(site_id, token) if site_id and token else None)


def make_monitor(cluster: Cluster, log: Logger, tracing: "OpenTelemetry | None" = None) -> Monitor:
    """Make the monitor of one member."""
    interval, fetch_wait = (
        int(value) / 1000 if value.isdecimal() else 0.0  # the library refuses other values
        for name in ("statistics.interval.ms", "fetch.wait.max.ms")
        for value in [str(cluster.consumer_properties[name])]
    )
    letters, committed = LetterLog(log, time.monotonic), tracing.committed if tracing else None
    return Monitor(lambda: cluster.make_admin("ends"), interval, letters, committed, fetch_wait=fetch_wait)


def make_defaults(settings: Settings) -> Defaults:
    """Make the defaults for messages that lack credentials or parameters."""
    credentials = Credentials(settings.api.site_id, settings.access_token)
    return Defaults(credentials, settings.parameters, settings.api.sites)


def make_backoff(settings: Settings) -> Backoff:
    """Make the backoff: how long to wait before the next try."""
    longest = settings.stream.backoff_longest
    return Backoff(longest / _DELAYS, longest, _LONGEST_RETRY_AFTER)


def make_member(  # noqa: PLR0913, PLR0917 - each has its own purpose
    settings: Settings,
    cluster: Cluster,
    monitor: Monitor,
    delivery: Delivery,
    reloader: "Reloader",
    log: Logger,
) -> Member[Work]:
    """Make one member of the group."""
    stream = settings.stream
    options = Options(
        group=cluster.group,
        topics=settings.topics,
        patterns=settings.patterns,
        results_topic=stream.results_topic,
        dead_letters_topic=stream.dead_letters_topic,
        bounds=Bounds(stream.chunk_records * _CHUNKS_PER_LANE, _LANE_BYTES, stream.chunk_records, _CHUNK_BYTES),
        backoff=make_backoff(settings),
        workers=stream.workers,
        hold_interval=stream.backoff_longest,
        commit_timeout=settings.commit_timeout,
        drain_timeout=DRAIN_TIMEOUT,
        grace_time=stream.grace_time,
        longest_silence=cluster.longest_silence,
        flood_window=stream.flood_window,
        is_static=cluster.is_static,
        starts_at_end=cluster.starts_at_end,
    )
    return Member(options, cluster, delivery, monitor, reloader.reload, Surroundings(log))


class Reloader:
    """Reloads settings from their source, and applies what can change without a restart.

    `running` are the settings that the member was made with. `cluster` makes its clients. The API's credentials and
    parameters apply at once. The settings of the connection to Kafka apply by making new clients, also if only the
    content of a file (such as a certificate) has changed. All other settings need a restart.
    """

    def __init__(
        self, source: SettingsSource, running: Settings, cluster: Cluster, delivery: Delivery, log: Logger
    ) -> None:
        self._source = source
        source.accept()
        self._running = running
        self._cluster = cluster
        self._delivery = delivery
        self._log = log

    def reload(self, *, asked: bool) -> Reloaded:
        """Apply what changed. Called on the main thread. Settings that are refused are logged, and not raised."""
        if not (asked or self._source.has_changed()):
            return Reloaded()
        files = self._source.changed_files()
        try:
            found = self._source.load()
            changed = differences(self._running, found)
            changed += [name for name, path in found.files.items() if path in files and name not in changed]
            reconnect = any(map(reconnects, changed))
            if reconnect:
                self._cluster.use(self._running.with_defaults_of(found).kafka)
        except (SettingsError, KafkaUnusable) as error:
            faults = error.faults if isinstance(error, SettingsError) else [str(error)]
            self._log.error("settings_refused", faults=faults)
            return Reloaded()
        self._source.accept()
        taken = [name for name in changed if name in TAKEN_IN_PLACE or reconnects(name)]
        if taken:
            self._delivery.use(make_defaults(found))
            self._running = self._running.with_defaults_of(found)
            self._log.info("settings_reloaded", taken=taken)
        if left := [name for name in changed if name not in taken]:
            self._log.warning("settings_need_restart", changed=left)
        if asked and not changed:
            self._log.info("settings_unchanged")
        return Reloaded(try_again=asked or bool(taken), reconnect=reconnect)


def make_status_server(address: str, settings: Settings, monitor: Monitor) -> StatusServer:
    """Start the status server. Raises OSError."""
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call] # useless: one more series each
    about = About(
        version=version("jirafe-consumer"),
        group=settings.kafka["group.id"],
        member=settings.instance,
        started_ms=time.time_ns() // 1_000_000,
    )
    return StatusServer(address, about, monitor)
