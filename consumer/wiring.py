"""From settings to parts that are ready to run: the only place where they are put together."""

import time
from importlib.metadata import version

import prometheus_client
from prometheus_client import CollectorRegistry

from consumer.delivery import Delivery
from consumer.drafts import Drafts
from consumer.log import Logger
from consumer.sending import Rules
from consumer.service import Service
from consumer.settings import Settings, SettingsError, Source
from consumer.telemetry.failures import Failures
from consumer.telemetry.metrics import Metrics
from consumer.web.report import About
from consumer.web.server import Web
from jirafe.client import Client
from schemas.codec import OWN_SCHEMAS, Codec
from schemas.registry import Access, SchemaRegistry

_REGISTRY_TIMEOUT = 10.0


def make_codec(settings: Settings) -> Codec:
    """Make the codec: with a registry where one is set, else with local schemas alone; raises SettingsError."""
    try:
        return Codec(make_registry(settings), settings.stream.schemas_folder)
    except ValueError as error:
        raise SettingsError([f"CONSUMER_SCHEMAS_FOLDER: {error}."]) from None


def make_registry(settings: Settings) -> SchemaRegistry | None:
    """Make the Schema Registry's client, None where no registry is set."""
    stream = settings.stream
    if stream.schema_registry_url is None:
        return None
    # TopicNameStrategy: a topic's values have the subject `<topic>-value`.
    topics = (*settings.input_topics, stream.results_topic)
    subjects = {name: f"{topic}-value" for name, topic in zip(OWN_SCHEMAS, topics, strict=True)}
    password = stream.schema_registry_password
    access = Access(
        stream.schema_registry_user or "",
        password.get_secret_value() if password else None,
        stream.schema_registry_ca,
        stream.schema_registry_certificate,
        stream.schema_registry_key,
    )
    return SchemaRegistry(stream.schema_registry_url, subjects, access, timeout=_REGISTRY_TIMEOUT)


def make_delivery(
    settings: Settings, codec: Codec, metrics: Metrics | None = None, failures: Failures | None = None
) -> Delivery:
    """Make what delivers chunks; a command that says itself what it did has no use for metrics and failures."""
    metrics, failures = metrics or Metrics(CollectorRegistry()), failures or Failures()
    api, rules = settings.api, Rules(settings.api.max_request_bytes, settings.stream.max_attempts)
    client = Client(
        api.url, connect_timeout=api.connect_timeout, read_timeout=api.read_timeout, observe=metrics.exchanged
    )
    return Delivery(Drafts(codec, settings.defaults, api.max_request_bytes), client, rules, metrics, failures)


def make_service(settings: Settings, source: Source, metrics: Metrics, failures: Failures, log: Logger) -> Service:
    """Make one member of the group, of settings that came from `source`; raises SettingsError."""
    delivery = make_delivery(settings, make_codec(settings), metrics, failures)
    return Service(settings, source, delivery, metrics, log)


def make_web(address: str, settings: Settings, service: Service, metrics: Metrics, failures: Failures) -> Web:
    """Serve what a member tells, at once; raises OSError."""
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call] # a series more for each, of no use
    metrics.show(lambda: service.status)
    about = About(
        version=version("jirafe-consumer"),
        group=settings.kafka["group.id"],
        member=settings.instance,
        started_ms=time.time_ns() // 1_000_000,
    )
    return Web(address, about, lambda: service.status, metrics, failures)
