"""From settings to parts that are ready to run: the only place where they are put together."""

from consumer.delivery import Delivery
from consumer.drafts import Drafts
from consumer.log import Logger
from consumer.sending import Rules
from consumer.service import Service
from consumer.settings import Settings, SettingsError, Source
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


def make_delivery(settings: Settings, codec: Codec) -> Delivery:
    """Make what delivers chunks."""
    api, rules = settings.api, Rules(settings.api.max_request_bytes, settings.stream.max_attempts)
    client = Client(api.url, connect_timeout=api.connect_timeout, read_timeout=api.read_timeout)
    return Delivery(Drafts(codec, settings.defaults, api.max_request_bytes), client, rules)


def make_service(settings: Settings, source: Source, log: Logger) -> Service:
    """Make one member of the group, of settings that came from `source`; raises SettingsError."""
    return Service(settings, source, make_delivery(settings, make_codec(settings)), log)
