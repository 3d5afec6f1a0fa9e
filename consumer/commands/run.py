"""`run`: the service as a process, its signals and its exit status."""

import os
import signal
from types import FrameType

import click
from prometheus_client import CollectorRegistry

from consumer import kafka, log, settings, wiring
from consumer.commands.usage import Usage
from consumer.results import Refused
from consumer.service import Fatal, Service
from consumer.telemetry.failures import Failures
from consumer.telemetry.metrics import Metrics
from consumer.web.server import Web


@click.command()
@click.pass_obj
def run(source: settings.Source) -> int:
    """Run the service.

    It is one member of the consumer group. It stops on SIGTERM or SIGINT once what is in flight is finished
    and committed; a second signal ends it at once, and no place is lost by it. Exit status: 0 stopped, 1
    Kafka can't go on (restart it), 2 settings. SIGHUP reads credentials and parameters again, and tries what is
    held.

    \b
    Example:
      export KAFKA_BOOTSTRAP_SERVERS=localhost:9092
      export JIRAFE_SITE_ID=123 JIRAFE_ACCESS_TOKEN=...
      jirafe-consumer run
    """
    loaded = source.load()
    logger = log.configure(loaded.stream.log_level, loaded.stream.log_format)
    stream = loaded.stream
    topics = [*loaded.input_topics, stream.results_topic, stream.dead_letters_topic]
    if created := kafka.prepare_topics(loaded, topics, log.LibraryLog(logger)):
        logger.info("topics_created", topics=created)
    metrics, failures = Metrics(CollectorRegistry()), Failures()
    service = wiring.make_service(loaded, source, metrics, failures, logger)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, _end_at_once)
        signal.signal(signal.SIGINT, _end_at_once)
        service.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGHUP, lambda _number, _frame: service.reload())
    web = _serve(loaded, service, metrics, failures, logger)
    try:
        service.run()
    except (Fatal, Refused) as error:
        logger.error("fatal", reason=str(error))  # noqa: TRY400 - the sentence says it; a traceback would not
        return 1
    finally:
        if web:
            web.close()
    return 0


def _serve(
    loaded: settings.Settings, service: Service, metrics: Metrics, failures: Failures, logger: log.Logger
) -> Web | None:
    """Serve the page, metrics and probes; raises Usage where the address that was asked for can't be had."""
    address = loaded.stream.http_address
    if address == settings.OFF:
        return None
    try:
        web = wiring.make_web(address, loaded, service, metrics, failures)
    except OSError as error:
        why = f"can't listen at {address}: {error.strerror or error}"
        if "http_address" in loaded.stream.model_fields_set:
            raise Usage(f"CONSUMER_HTTP_ADDRESS: {why}.") from None
        # Nobody asked for it: a second member on one machine does without.
        logger.warning("no_web", reason=f"{why}; set CONSUMER_HTTP_ADDRESS, to {settings.OFF} for none")
        return None
    logger.info("web", url=web.url)
    return web


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
