"""Delivers records again, beside the group: in rounds, each published in one transaction of its own.

Order per partition holds: a round has one chunk of each partition, and the next round begins once all of it is
published. A round that is not published is as if it had not been, but for what the API got.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry

from consumer.chunk import Chunk
from consumer.delivery import Delivery, Done, Retry
from consumer.kafka import Unusable, make_consumer, make_producer
from consumer.log import LibraryLog
from consumer.record import Output, Partition, Record
from consumer.results import Aborted, Deadline, Lost, Refused, ResultWriter
from consumer.settings import Settings
from consumer.telemetry.metrics import Metrics
from consumer.workers import Workers

_LOOK = 0.1


class Stopped(Exception):
    """It was asked to stop."""


class GaveUp(Exception):
    """It can't go on: the sentence, without a stop, says why. What is published is published."""


class Watcher:
    """Who runs it: sets `stopped` to have it stop soon, and is told why it waits, and for how many seconds."""

    def __init__(self, on_wait: Callable[[str, float], None]) -> None:
        self.stopped = False
        self.on_wait = on_wait


class Redelivery:
    """Delivers and publishes records; `name` tells this run from others: two of one name fence each other."""

    def __init__(
        self, settings: Settings, delivery: Delivery, log: LibraryLog, name: str, watcher: Watcher
    ) -> None:
        """Reach the broker at once; raises Unusable."""
        stream = settings.stream
        self._settings = settings
        self._watcher = watcher
        self._delivery = delivery
        self._workers: Workers[Chunk, Done | Retry] = Workers(
            stream.workers, lambda chunk: delivery.deliver(chunk, lambda: not watcher.stopped)
        )
        self._group = f"{settings.kafka['group.id']}.{name}"
        # For its name alone: the offsets that are committed with results are this group's, which has no members.
        consumer = make_consumer({**settings.client(name), "group.id": self._group}, log)
        self._metadata = consumer.consumer_group_metadata()
        consumer.close()
        producer = make_producer({**settings.producer, "transactional.id": self._group}, log)
        # What is done here its command says itself: nobody collects these.
        metrics = Metrics(CollectorRegistry())
        self._writer = ResultWriter(producer, stream.results_topic, stream.dead_letters_topic, metrics)
        try:
            self._writer.start(stream.commit_timeout)
        except (Lost, Refused) as error:
            raise Unusable(f"results can't be written: {error}.") from None

    def deliver(self, records: Iterable[Record]) -> list[Output]:
        """Deliver records, which are in order within each partition; blocks until each has its output.

        An event that the API fails alone, `max_attempts` times while it serves, is given up. Raises Stopped, and
        GaveUp where credentials of the settings are refused, or the API takes nothing for so many tries.
        """
        chunks: dict[Partition, Chunk] = {}
        for record in records:
            place = record.topic, record.partition
            chunks.setdefault(place, Chunk(place, 0)).records.append(record)
        outputs: list[Output] = []
        failures = 0
        left: Sequence[Chunk] = list(chunks.values())
        while left:
            answers = self._tried(left)
            done = [answer for answer in answers if isinstance(answer, Done)]
            retries = [answer for answer in answers if isinstance(answer, Retry)]
            for answer in done:
                outputs += answer.outputs
            left = [retry.chunk for retry in retries]
            if retries:
                failures = 1 if done or any(retry.served for retry in retries) else failures + 1
                if failures >= self._settings.stream.max_attempts:
                    self._give_up(retries, failures)
                    failures = 0
                else:
                    self._wait_after(retries, failures)
        return outputs

    def _tried(self, chunks: Sequence[Chunk]) -> list[Done | Retry]:
        """Try chunks once, all at a time."""
        for chunk in chunks:
            self._workers.submit(chunk)
        answers: list[Done | Retry] = []
        while len(answers) < len(chunks):
            answers += self._workers.answers(_LOOK)
            if self._watcher.stopped:
                raise Stopped
        return answers

    def _give_up(self, retries: Sequence[Retry], failures: int) -> None:
        """Give up events that fail alone while the API serves; raises GaveUp where there is none."""
        given_up = [self._delivery.give_up_suspects(retry.chunk, retry.trouble.problem) for retry in retries]
        if not any(given_up):
            raise GaveUp(f"{retries[0].trouble.problem}, {failures} times in a row")

    def _wait_after(self, retries: Sequence[Retry], failures: int) -> None:
        troubles = [retry.trouble for retry in retries]
        for trouble in troubles:
            if trouble.held:
                raise GaveUp(trouble.problem)
        asked = [trouble.retry_after for trouble in troubles if trouble.retry_after is not None]
        delay = self._settings.backoff.delay(failures, max(asked, default=None), random.random)
        self._watcher.on_wait(troubles[0].problem, delay)
        self.wait(delay)

    def wait(self, seconds: float) -> None:
        """Wait, and look meanwhile; raises Stopped."""
        deadline = Deadline(seconds)
        while True:
            if self._watcher.stopped:
                raise Stopped
            if not deadline.left:
                return
            time.sleep(min(_LOOK, deadline.left))

    def publish(self, outputs: Sequence[Output], offsets: Mapping[Partition, int]) -> None:
        """Publish outputs, with offsets of this run's own group, in one transaction; raises GaveUp."""
        deadline = Deadline(self._settings.stream.commit_timeout)
        while True:
            try:
                self._writer.write(outputs, offsets, self._metadata, deadline)
            except Aborted as error:
                if not deadline.left:
                    raise GaveUp(f"results can't be published: {error}") from None
                time.sleep(_LOOK)
            except Lost as error:
                raise GaveUp(f"results can't be published: {error}") from None
            else:
                return
