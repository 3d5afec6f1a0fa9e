"""`run`: the service as a process, its signals and its exit status."""

import ctypes
import gc
import os
import signal
from types import FrameType

import click

from consumer import app, log, settings
from consumer.admin.group import Group
from consumer.engine.errors import MemberFailed, TransactionsRefused
from consumer.engine.kafka import Cluster
from consumer.errors import KafkaUnusable, UsageError
from consumer.monitor.monitor import Monitor
from consumer.monitor.server import StatusServer
from consumer.settings import Settings, SettingsSource

_NEW_OBJECTS = 50_000
_M_ARENA_MAX = -8
_ARENAS = 2


@click.command()
@click.pass_obj
def run(source: SettingsSource) -> int:
    """Run the service.

    Runs one member of the consumer group. On SIGTERM or SIGINT it finishes and commits the chunks in flight, then
    stops. A second signal ends it at once, and nothing is lost. SIGHUP reads the settings again, retries all that
    waits, releases paused topics, and acknowledges lost records. Exit status: 0 stopped, 1 Kafka failed (start it
    again), 2 wrong settings, or Kafka can't be used at the start.

    \b
    Example:
      export KAFKA_BOOTSTRAP_SERVERS=localhost:9092
      export JIRAFE_SITE_ID=123 JIRAFE_ACCESS_TOKEN=...
      jirafe-consumer run
    """
    _limit_arenas()
    loaded = source.load()
    logger = log.configure(loaded.stream.log_level)
    deployment = app.make_deployment(loaded, logger)
    # The library refuses some properties only when it makes a producer, which a member does after it joined.
    deployment.cluster.producer()
    if created := app.have_topics(loaded, [*deployment.topics, *deployment.output_topics], logger):
        logger.info("topics_created", topics=created)
    cluster = deployment.cluster
    tracing = app.make_tracing(logger)
    monitor = app.make_monitor(cluster, logger, tracing)
    delivery = app.make_delivery(loaded, app.make_codec(loaded), monitor, tracing)
    reloader = app.Reloader(source, loaded, cluster, delivery, logger)
    member = app.make_member(loaded, cluster, monitor, delivery, reloader, logger)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, _end_at_once)
        signal.signal(signal.SIGINT, _end_at_once)
        member.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGHUP, lambda _number, _frame: member.reload())
    server = _serve(loaded, monitor, logger)
    logger.info(
        "started",
        topics=[*loaded.topics, *loaded.patterns],
        group=cluster.group,
        transactional_id=cluster.transactional_id,
    )
    _collect_seldom()
    try:
        member.run()
    except (MemberFailed, TransactionsRefused) as error:
        reason = f"{error}{_namesake(cluster)}"
        logger.error("fatal", reason=reason)  # noqa: TRY400 - the sentence says it; a traceback would not
        return error.exit_status
    finally:
        monitor.close()
        if tracing:
            tracing.close()
        if server:
            server.close()
    return 0


def _namesake(cluster: Cluster) -> str:
    """Return a text that names another process with our KAFKA_GROUP_INSTANCE_ID, if any. Blocks for seconds."""
    name = cluster.properties.get("group.instance.id")
    if name is None:
        return ""
    try:
        members = Group(cluster.make_admin("namesake"), cluster.group).describe().members
    except KafkaUnusable:
        return ""
    hosts = [f"{each.client_id} at {each.host.lstrip('/')}" for each in members if each.instance_id == name]
    return f"; {name} is in the group already: {hosts[0]}" if hosts else ""


def _serve(loaded: Settings, monitor: Monitor, logger: log.Logger) -> StatusServer | None:
    """Serve the page, metrics and probes. Raises UsageError if it can't listen on the configured address."""
    address = loaded.stream.http_address
    if address == settings.OFF:
        return None
    try:
        server = app.make_status_server(address, loaded, monitor)
    except OSError as error:
        why = f"can't listen on {address}: {error.strerror or error}"
        if "http_address" in loaded.stream.model_fields_set:
            raise UsageError(f"CONSUMER_HTTP_ADDRESS: {why}.") from None
        # The address is only the default, so a second member on the machine runs without a page.
        logger.warning("no_web", reason=f"{why}; set CONSUMER_HTTP_ADDRESS to another address, or {settings.OFF}")
        return None
    logger.info("web", url=server.url)
    return server


def _limit_arenas() -> None:
    """Make all threads allocate from the same few arenas, if the C library is glibc.

    It gives each thread its own arena by default. What one thread frees there, another can't use, so a member with
    dozens of threads would take a quarter more memory.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_ARENA_MAX, _ARENAS)


def _collect_seldom() -> None:
    """Make the garbage collector skip the objects that exist now, and run less often.

    Messages are many objects without cycles. Collecting them again and again costs time and finds nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, 20, 20)


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
