"""Checks a deployment: whether everything that the service needs is there, and whether we may use it.

Nothing here disturbs the group or writes to a topic. Permissions are those that the broker reports. The check of
transactions only initializes a transactional producer, with a transactional id that no member has.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient, ConfigResource

from consumer.admin import subjects
from consumer.admin.deployment import CLOCK_TOLERANCE, Deployment
from consumer.admin.group import Group
from consumer.admin.reading import await_visible, read_ends
from consumer.admin.samples import sample
from consumer.admin.topics import PARTITIONS
from consumer.engine.kafka import REACHED_WITHIN, kafka_error
from consumer.engine.records import Partition
from consumer.errors import ERRORS_PAGE, Hidden, KafkaUnusable
from consumer.printing import clause, plural
from jirafe.client import PROBE, Accepted, Answered, Client, Failed, Forbidden, Refused, Rejected, Site, Transient
from schemas.codec import Codec, RegistryUnavailable
from schemas.registry import SchemaRegistry

_HOUR_MS = 60 * 60 * 1000
_LETTERS_KEPT_MS = 7 * 24 * _HOUR_MS
_UNCLEAN = "unclean.leader.election.enable"
# Bytes that a dead letter has in addition to its record: the reason, up to 2000 characters, and the record's place.
_LETTER_HEADERS = 16 * 1024
# By default, the broker looks for transactions that have timed out at this interval, in seconds.
_BROKERS_LOOK = 10


class Verdict(StrEnum):
    """How a check ended. With a warning, the service can still run."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and how to fix it if it is not ok."""

    check: str
    verdict: Verdict
    message: str
    fix: str = ""


def _ok(check: str, message: str) -> Finding:
    return Finding(check, Verdict.OK, message)


def _warning(check: str, message: str, fix: str) -> Finding:
    return Finding(check, Verdict.WARNING, message, fix)


def _failed(check: str, message: str, fix: str) -> Finding:
    return Finding(check, Verdict.FAILED, message, fix)


@dataclass(frozen=True, slots=True)
class CheckedApi:
    """The API as the service would use it. `site` has the credentials of the settings, None if none are set."""

    url: str
    client: Client
    site: Site | None


def check(
    deployment: Deployment,
    registry: SchemaRegistry | None,
    codec: Codec,
    api: CheckedApi,
    *,
    creates_topics: bool,
) -> Iterator[Finding]:
    """Run every check in turn. Each may block for seconds. A failure is returned as a finding, and not raised.

    `creates_topics`: the service creates topics that are missing.
    """
    cluster = deployment.cluster
    try:
        cluster.make_consumer(cluster.consumer_properties).close()
        cluster.producer()
    except KafkaUnusable as error:
        yield _failed("settings", str(error), "see docs/settings.md")
    else:
        yield _ok("settings", f"the group {cluster.group}")
        yield from _kafka(deployment, codec, creates_topics=creates_topics)
    yield from _registry(registry)
    yield from _api(api)


def _kafka(deployment: Deployment, codec: Codec, *, creates_topics: bool) -> Iterator[Finding]:
    try:
        admin, _ = deployment.cluster.reach()
        yield from _at_broker(deployment, codec, admin, creates_topics=creates_topics)
    except KafkaUnusable as error:
        message, _, fix = clause(str(error)).rpartition("; ")
        yield _failed("broker", f"{message or fix}.", fix if message else "make sure that all brokers run")
    except KafkaException as error:
        message = clause(kafka_error(error).str())
        yield _failed("broker", f"Kafka can't be asked any more: {message}.", "make sure that all brokers run")


def _at_broker(
    deployment: Deployment, codec: Codec, admin: AdminClient, *, creates_topics: bool
) -> Iterator[Finding]:
    brokers = admin.list_topics(timeout=REACHED_WITHIN).brokers
    yield _ok("broker", f"{_counted(len(brokers), 'broker')} at {deployment.cluster.servers}")
    topics = _Topics(deployment, admin, creates_topics=creates_topics)
    yield from topics.findings()
    for topic in topics.consumed:
        if topic in topics.allowed:
            yield from _records(deployment, topic, codec)
    yield from _hidden(deployment, topics)
    yield _permissions(deployment, admin, topics)
    yield _group(deployment, admin, topics.consumed)
    yield _transactions(deployment)


class _Topics:
    """The topics that the service reads and writes, as the broker describes them."""

    def __init__(self, deployment: Deployment, admin: AdminClient, *, creates_topics: bool) -> None:
        self._deployment = deployment
        self._admin = admin
        self.creates_topics = creates_topics
        self.consumed = deployment.input_topics()
        self.wanted = {
            **dict.fromkeys(self.consumed, AclOperation.READ),
            **dict.fromkeys(deployment.output_topics, AclOperation.WRITE),
        }
        self.absent: list[str] = []
        self._single: list[str] = []
        self.allowed: dict[str, Any] = {}
        self.partitions: dict[str, list[int]] = {}
        self._configs = self._configured()

    def findings(self) -> Iterator[Finding]:
        """Check each topic.

        Fills `absent`, `partitions`, and `allowed`: the permitted operations, None if the broker does not report
        them.
        """
        for pattern in self._deployment.unmatched(self.consumed):
            fix = "correct the pattern, create a topic, or grant this client Describe on such topics"
            yield _warning("topic", f"no topic matches {pattern}.", fix)
        asked = TopicCollection(list(self.wanted))
        futures = self._admin.describe_topics(
            asked, include_authorized_operations=True, request_timeout=REACHED_WITHIN
        )
        for topic, future in futures.items():
            try:
                described = future.result()
            except KafkaException as error:
                yield self._unseen(topic, kafka_error(error))
            else:
                self.allowed[topic] = described.authorized_operations
                self.partitions[topic] = [each.id for each in described.partitions]
                troubles = [*self._copies(topic, described.partitions), *self._kept(topic)]
                copies = min((len(each.replicas) for each in described.partitions), default=0)
                if copies == 1:
                    self._single.append(topic)
                partitions = _counted(len(described.partitions), "partition")
                message = f"{topic}: {partitions}, {_counted(copies, 'replica')} each"
                yield from troubles or [_ok("topic", message)]
        if self._single:
            yield _warning(
                "topic",
                f"only one replica of {', '.join(self._single)}: if its broker is lost, so are the records.",
                "use a replication factor of 3; see topics create --replication",
            )

        unclean = [
            topic for topic in self.allowed if self._configs.get(topic, {}).get(_UNCLEAN, "").lower() == "true"
        ]
        if unclean:
            yield _warning(
                "topic",
                f"a replica that lacks the last records of {', '.join(unclean)} may become leader. Those "
                "records are then lost silently.",
                f"set {_UNCLEAN}=false",
            )

    def _unseen(self, topic: str, error: KafkaError) -> Finding:
        if error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            message = f"{topic} can't be described: {error.str()}."
            return _failed("topic", message, f"grant this client Describe on the topic {topic}")
        self.absent.append(topic)
        if not self.creates_topics:
            return _failed(
                "topic",
                f"{topic} does not exist.",
                "create it with topics create, or set CONSUMER_CREATE_TOPICS=true",
            )
        created = f"{topic} does not exist yet: run creates it with {_counted(PARTITIONS, 'partition')}"
        if topic in self._deployment.output_topics:
            return _ok("topic", created)
        fix = "if it has another name, set CONSUMER_CARTS_TOPIC, _ORDERS_TOPIC, _TAXONS_TOPIC or _PRODUCTS_TOPIC"
        return _warning("topic", f"{created}.", fix)

    def _copies(self, topic: str, partitions: list[Any]) -> Iterator[Finding]:
        headless = [each.id for each in partitions if each.leader is None or each.leader.id < 0]
        behind = [each.id for each in partitions if len(each.isr) < len(each.replicas)]
        if headless:
            message = f"{topic}: {_partitions(headless)} no leader."
            yield _failed("topic", message, "start the brokers that host them")
        elif behind:
            message = f"{topic}: {_partitions(behind)} replicas that are not in sync."
            yield _warning("topic", message, "check the brokers that host them")

    def _kept(self, topic: str) -> Iterator[Finding]:
        config, deployment = self._configs.get(topic, {}), self._deployment
        if topic not in self._deployment.output_topics:
            return
        if topic not in self._configs:
            message = (
                f"{topic}: this client can't read the topic's config, so retention and record size are unchecked."
            )
            yield _warning("topic", message, f"grant it DescribeConfigs on the topic {topic}")
            return
        if "compact" in config.get("cleanup.policy", ""):
            what = "results" if topic == deployment.results_topic else "dead letters"
            message = f"{topic} is compacted: older {what} of a key are lost."
            if topic == deployment.dead_letters_topic:
                message += " It refuses dead letters without a key, and a partition with such a record would stop."
            yield _warning("topic", message, "set its cleanup.policy=delete")
        if topic != deployment.dead_letters_topic:
            return
        kept_ms = int(config.get("retention.ms", -1))  # up to 2**63 - 1, which no timedelta can have
        if 0 <= kept_ms < _LETTERS_KEPT_MS:
            message = f"{topic}: dead letters are deleted after {kept_ms / _HOUR_MS:.3g} hours."
            yield _warning("topic", message, "set its retention.ms to the time that you need to handle them")
        configs = [self._configs.get(each, {}) for each in self.consumed]
        most = max((int(each.get("max.message.bytes", 0)) for each in configs), default=0)
        if config and int(config.get("max.message.bytes", 0)) < most + _LETTER_HEADERS:
            yield _warning(
                "topic",
                f"{topic}: consumed topics allow records of {most} bytes. The dead letter of such a record would "
                "be too large, and its partition would stop.",
                f"set its max.message.bytes to {most + _LETTER_HEADERS} or more",
            )

    def _configured(self) -> dict[str, dict[str, str]]:
        """Read the topics' configs. A topic whose config can't be read is left out."""
        asked = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in self.wanted]
        found = {}
        for resource, future in self._admin.describe_configs(asked, request_timeout=REACHED_WITHIN).items():
            try:
                found[resource.name] = {name: entry.value for name, entry in future.result().items()}
            except KafkaException:
                continue  # absent, or not allowed
        return found


def _records(deployment: Deployment, topic: str, codec: Codec) -> Iterator[Finding]:
    """Check whether a topic's last records can be read. A topic without records has no finding."""
    try:
        found = sample(deployment.cluster, topic, codec)
    except KafkaUnusable as error:
        fix = f"fix what the topic check reports, or grant this client Read on {topic}"
        yield _warning("records", f"not read: {error}", fix)
        return
    except RegistryUnavailable as error:
        yield _warning(
            "records", f"{topic}: not read: {clause(str(error))}.", "fix what the registry check reports"
        )
        return
    unread = found.records - found.read
    if not unread:
        if found.records:
            yield _ok("records", f"{topic}: {_counted(found.records, 'record')} read, all are valid")
        return
    message = f"{topic}: {unread} of {_counted(found.records, 'record')} can't be read: {found.reason}."
    fix = "find the producer that writes to this topic"
    if found.lacking:
        fix = f"set CONSUMER_SCHEMA_REGISTRY_URL: {found.lacking} of them need a Schema Registry"
    yield _warning("records", message, fix) if found.read else _failed("records", message, fix)


def _hidden(deployment: Deployment, topics: _Topics) -> Iterator[Finding]:
    """Check whether an open transaction hides records. Waits as long as one may last."""
    places = [Partition(topic, number) for topic, numbers in topics.partitions.items() for number in numbers]
    try:
        await_visible(deployment.cluster, read_ends(deployment.cluster, places, committed=False))
    except Hidden as error:
        fix = "find the producer that hangs; see docs/operations.md#open-transaction"
        yield _warning("hidden", str(error), fix)
    except KafkaUnusable as error:
        yield _warning("hidden", f"not checked: {error}", "fix what the topic check reports")


def _permissions(deployment: Deployment, admin: AdminClient, topics: _Topics) -> Finding:
    told = {topic: allowed for topic, allowed in topics.allowed.items() if allowed is not None}
    lacking = [
        f"{topics.wanted[topic].name.capitalize()} on {topic}"
        for topic, allowed in told.items()
        if topics.wanted[topic] not in allowed
    ]
    user = deployment.cluster.properties.get("sasl.username", "this client")
    if lacking:
        return _failed("permissions", f"{user} lacks permissions: {', '.join(lacking)}.", "grant them with ACLs")
    if topics.absent and topics.creates_topics and not _may_create(admin):
        message = f"{user} lacks Create on the cluster, and topics are missing: {', '.join(topics.absent)}."
        return _warning("permissions", message, "create the topics, or grant it Create on topics of these names")
    if len(told) < len(topics.allowed):
        fix = "nothing, if you only try things out; otherwise check the authorizer of the broker"
        return _warning("permissions", "this broker does not report the permissions of a client.", fix)
    if unseen := [topic for topic in topics.wanted if topic not in topics.allowed]:
        message = f"not checked for topics that do not exist or can't be described: {', '.join(unseen)}."
        return _warning("permissions", message, "run check again once they exist")
    return _ok("permissions", "may read the consumed topics, and write results and dead letters")


def _may_create(admin: AdminClient) -> bool:
    try:
        future = admin.describe_cluster(include_authorized_operations=True, request_timeout=REACHED_WITHIN)
        allowed = future.result().authorized_operations
    except KafkaException:
        return False
    return allowed is None or AclOperation.CREATE in allowed


def _group(deployment: Deployment, admin: AdminClient, consumed: list[str]) -> Finding:
    group = Group(admin, deployment.cluster.group)
    fix = f"grant this client Read on the group {group.name}"
    try:
        described = group.describe()
        group.committed([Partition(topic, 0) for topic in consumed])
    except KafkaUnusable as error:
        return _failed("group", str(error), fix)
    if described.may_join is False:
        return _failed("group", "this client lacks Read on the group.", fix)
    if described.is_empty:
        return _ok("group", f"{group.name} has no members now")
    members = f" with {_counted(len(described.members), 'member')}" if described.members else ""
    return _ok("group", f"{group.name} is {described.state}{members}")


def _transactions(deployment: Deployment) -> Finding:
    """Initialize a transactional producer as a member does, but with an id that no member has."""
    cluster = deployment.cluster
    name = f"{cluster.group}-check"
    producer = cluster.make_producer({**cluster.producer_properties, "transactional.id": name})
    try:
        producer.init_transactions(REACHED_WITHIN)
    except KafkaException as error:
        message = f"this client can't write in transactions: {clause(kafka_error(error).str())}."
        match kafka_error(error).code():
            case KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
                fix = f"grant it Write on all transactional ids that begin with {cluster.group}-"
            case KafkaError.INVALID_TRANSACTION_TIMEOUT:
                fix = "lower KAFKA_TRANSACTION_TIMEOUT_MS, or raise the broker's transaction.max.timeout.ms"
            case _:
                fix = "set the broker's transaction.state.log.replication.factor to at most the number of brokers"
        return _failed("transactions", message, fix)
    wait = cluster.transaction_timeout + _BROKERS_LOOK
    message = f"may write in transactions, as {name}; after a crash, readers wait for up to about {wait:g} s"
    return _ok("transactions", message)


def _registry(registry: SchemaRegistry | None) -> Iterator[Finding]:
    """Look up the state of each of our schemas, over the same connection as the service."""
    if registry is None:
        yield _ok("registry", "no registry is set: records use the single-object encoding with local schemas")
        return
    try:
        found = subjects.check(registry)
    except RegistryUnavailable as error:
        yield _failed(
            "registry", f"{clause(str(error))}.", "see CONSUMER_SCHEMA_REGISTRY_URL, _USER, _PASSWORD and _CA"
        )
        return
    refused = [each for each in found if each.state == "incompatible"]
    for each in refused:
        reason = clause(each.reason or "")
        message = f"our schema is incompatible with the latest version of {each.subject}: {reason}."
        fix = "use another topic, or change the compatibility of the subject"
        yield _failed("registry", message, fix)
    if new := [each.subject for each in found if each.state == "new"]:
        yield _ok("registry", f"not registered yet: {', '.join(new)}; register them with schemas register")
    elif not refused:
        yield _ok("registry", "has all our schemas")


def _api(api: CheckedApi) -> Iterator[Finding]:
    # The request has no credentials, so any answer will do.
    asked = datetime.now(UTC)
    answer = api.client.reach()
    here = asked + (datetime.now(UTC) - asked) / 2
    if isinstance(answer, Failed):
        fix = (
            "check JIRAFE_URL, the proxy (HTTPS_PROXY) and the CA certificates (REQUESTS_CA_BUNDLE); "
            f"{ERRORS_PAGE} explains {answer.cause}"
        )
        yield _failed("api", f"no answer from {api.url}: {clause(answer.message)}.", fix)
        return
    yield _ok("api", f"{api.url} answers")
    yield _token(api)
    yield _clock(answer.date, here)


def _token(api: CheckedApi) -> Finding:
    """Send an invalid event: the API checks the token first, and then refuses the event."""
    if api.site is None:
        message = "no site or no token is set, so each message must carry jirafe.site_id and jirafe.access_token."
        return _warning("token", message, "set JIRAFE_SITE_ID and JIRAFE_ACCESS_TOKEN, unless all messages do")
    fix = "see JIRAFE_URL"
    match api.client.send(api.site, [PROBE]):
        case Answered((Rejected(),)):
            return _ok("token", f"the API accepts the token for the site {api.site.site_id}")
        case Forbidden(error_type):
            message = f"the API refuses the token for the site {api.site.site_id}: {error_type}."
            fix = f"see JIRAFE_ACCESS_TOKEN and JIRAFE_SITE_ID; {ERRORS_PAGE} explains {error_type}"
            return _failed("token", message, fix)
        case Failed(_, problem) | Refused(problem) | Answered((Transient(problem),)):
            return _failed("token", f"{clause(problem)}.", fix)
        case Answered((Accepted(), *_)) | Answered():
            return _warning(
                "token",
                "the API accepted an invalid event. Jirafe refuses those, so this may be another server.",
                fix,
            )


def _clock(date: str, here: datetime) -> Finding:
    try:
        there = parsedate_to_datetime(date)
        ahead = here - (there if there.tzinfo else there.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return _warning(
            "clock", "the API sends no date, so the clock was not compared.", "make sure that NTP sets this clock"
        )
    seconds = abs(ahead.total_seconds())
    if abs(ahead) > CLOCK_TOLERANCE:
        where = "ahead of" if ahead > timedelta(0) else "behind"
        return _warning("clock", f"this clock is {seconds:,.0f} seconds {where} the API's.", "set it with NTP")
    return _ok("clock", f"differs from the API's clock by at most {CLOCK_TOLERANCE.seconds // 60} minutes")


def _partitions(numbers: list[int]) -> str:
    names = ", ".join(map(str, numbers))
    return f"the partition {names} has" if len(numbers) == 1 else f"the partitions {names} have"


def _counted(number: int, what: str) -> str:
    return f"{number} {plural(what, number)}"
