"""`run`: the service as a process, its signals and its exit status."""

import os
import signal
from types import FrameType

import click

from consumer import kafka, log, settings, wiring
from consumer.commands.usage import Usage
from consumer.health import Health
from consumer.results import Refused
from consumer.service import Fatal


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
      KAFKA_BOOTSTRAP_SERVERS=localhost:9092 JIRAFE_SITE_ID=123 JIRAFE_ACCESS_TOKEN=... jirafe-consumer run
    """
    loaded = source.load()
    logger = log.configure(loaded.stream.log_level, loaded.stream.log_format)
    stream = loaded.stream
    topics = [*loaded.input_topics, stream.results_topic, stream.dead_letters_topic]
    if created := kafka.prepare_topics(loaded, topics, log.LibraryLog(logger)):
        logger.info("topics_created", topics=created)
    service = wiring.make_service(loaded, source, logger)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, _end_at_once)
        signal.signal(signal.SIGINT, _end_at_once)
        service.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGHUP, lambda _number, _frame: service.reload())
    health = None
    if stream.health_address:
        try:
            health = Health(stream.health_address, lambda: service.status)
        except OSError as error:
            why = f"can't listen at {stream.health_address}: {error.strerror or error}"
            raise Usage(f"CONSUMER_HEALTH_ADDRESS: {why}.") from None
    try:
        service.run()
    except (Fatal, Refused) as error:
        logger.error("fatal", reason=str(error))  # noqa: TRY400 - the sentence says it; a traceback would not
        return 1
    finally:
        if health:
            health.close()
    return 0


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
