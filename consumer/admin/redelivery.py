"""Delivers records again, outside the group: in rounds, each published in one transaction.

The order within each partition is kept: a round has one chunk of each partition, and the next round starts once
this one is published. A round that is not published leaves no trace, except the events that the API got.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol

from consumer.admin.deployment import Deployment
from consumer.engine.backoff import Backoff
from consumer.engine.deadline import Clock, Deadline
from consumer.engine.defence import Defence, Raised
from consumer.engine.errors import Aborted, TransactionsRefused, WriterLost
from consumer.engine.kafka import REACHED_WITHIN
from consumer.engine.ports import Chunk, Done, Handler, Hooks, Retry, W
from consumer.engine.records import Output, Partition, Record
from consumer.engine.workers import Workers
from consumer.engine.writer import Writer
from consumer.errors import GaveUp, Interrupted, KafkaUnusable
from consumer.printing import clause
from consumer.stop import Stop

_LOOK = 0.1


class GivesUp(Handler[W], Protocol[W]):
    """A handler that can give up single events that block a redelivery."""

    def give_up_suspects(self, chunk: Chunk[W], message: str, still_wanted: Callable[[], bool]) -> bool:
        """Give up events that fail while their site accepts others. Returns whether there were any.

        Blocks for requests. Begins none that is no longer `still_wanted`.
        """


@dataclass(frozen=True, slots=True)
class Watcher:
    """The caller's side of a redelivery. `stop` stops it. `on_wait` gets the reason and the seconds."""

    stop: Stop
    on_wait: Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Pace:
    """How a redelivery tries: parallel chunks, attempts before it gives up, and the delays between them."""

    workers: int
    max_attempts: int
    backoff: Backoff
    commit_timeout: float


class Redeliverer(Generic[W]):
    """Delivers and publishes records. `name` identifies this run: a second run with the same name fences it."""

    def __init__(
        self, deployment: Deployment, handler: GivesUp[W], pace: Pace, name: str, watcher: Watcher
    ) -> None:
        """Connect to the broker. May block for seconds; raises KafkaUnusable."""
        cluster = deployment.cluster
        self._watcher = watcher
        self._handler = handler
        self._pace = pace
        defence = Defence(handler)
        self._workers: Workers[Chunk[W], Done[W] | Retry[W] | Raised[W]] = Workers(
            pace.workers, lambda chunk: defence.handle(chunk, lambda: not watcher.stop.is_asked)
        )
        group = f"{cluster.group}.{name}"
        # Only needed for its metadata: offsets are committed with the results to this group, which has no members.
        consumer = cluster.make_consumer({**cluster.client_properties(name), "group.id": group})
        self._metadata = consumer.consumer_group_metadata()
        consumer.close()
        producer = cluster.make_producer({**cluster.producer_properties, "transactional.id": group})
        self._writer = Writer(producer, deployment.output_topics, cluster.group, Hooks(), Clock())
        try:
            self._writer.start(REACHED_WITHIN)
        except (WriterLost, TransactionsRefused) as error:
            raise KafkaUnusable(f"results can't be written: {error}.") from None

    def deliver(self, records: Iterable[Record]) -> list[Output]:
        """Deliver records, which must be in order within each partition. Blocks until each has its output.

        An event that fails `max_attempts` times while the API accepts others is given up. Raises Interrupted, and
        GaveUp if the API refuses credentials of the settings, or accepts nothing in `max_attempts` tries.
        """
        chunks: dict[Partition, deque[Chunk[W]]] = {}
        for record in records:
            place = record.place.of
            chunks.setdefault(place, deque([Chunk[W](place, 0)]))[0].records.append(record)
        outputs: list[Output] = []
        failures = 0
        while chunks:
            answers = self._tried([queue[0] for queue in chunks.values()])
            retries: list[Retry[W] | Raised[W]] = []
            for answer in answers:
                queue = chunks[answer.chunk.partition]
                if isinstance(answer, Done):
                    outputs += answer.outputs
                    queue.popleft()
                elif isinstance(answer, Raised) and len(answer.chunk.records) > 1:
                    queue.popleft()
                    queue.extendleft(reversed(_halves(answer.chunk)))
                else:
                    retries.append(answer)
            working = len(retries) < len(answers) or any(_works(retry) for retry in retries)
            chunks = {place: queue for place, queue in chunks.items() if queue}
            if retries:
                failures = 1 if working else failures + 1
                if failures >= self._pace.max_attempts:
                    self._give_up(retries, failures)
                    failures = 0
                else:
                    self._wait_after(retries, failures)
        return outputs

    def _tried(self, chunks: Sequence[Chunk[W]]) -> list[Done[W] | Retry[W] | Raised[W]]:
        """Try each chunk once, all in parallel."""
        for chunk in chunks:
            self._workers.submit(chunk)
        answers: list[Done[W] | Retry[W] | Raised[W]] = []
        while len(answers) < len(chunks):
            answers += self._workers.answers(_LOOK)
            if self._watcher.stop.is_asked:
                raise Interrupted("stopped")
        return answers

    def _give_up(self, retries: Sequence[Retry[W] | Raised[W]], failures: int) -> None:
        """Give up events that fail while the API accepts others. Raises GaveUp if there are none, Interrupted."""
        stop = self._watcher.stop
        given_up = [
            self._handler.give_up_suspects(retry.chunk, retry.trouble.message, lambda: not stop.is_asked)
            for retry in retries
        ]
        if stop.is_asked:
            raise Interrupted("stopped")
        if not any(given_up):
            raise GaveUp(f"{clause(retries[0].trouble.message)}, {failures} times in a row")

    def _wait_after(self, retries: Sequence[Retry[W] | Raised[W]], failures: int) -> None:
        troubles = [retry.trouble for retry in retries]
        for trouble in troubles:
            if trouble.held:
                raise GaveUp(clause(trouble.message))
        asked = [trouble.retry_after for trouble in troubles if trouble.retry_after is not None]
        delay = self._pace.backoff.delay(failures, max(asked, default=None), random.random)
        self._watcher.on_wait(troubles[0].message, delay)
        self.wait(delay)

    def wait(self, seconds: float) -> None:
        """Block for some seconds. Raises Interrupted as soon as the redelivery is asked to stop."""
        if self._watcher.stop.wait(seconds):
            raise Interrupted("stopped")

    def publish(self, outputs: Sequence[Output], offsets: Mapping[Partition, int]) -> None:
        """Publish outputs, and offsets of this run's own group, in one transaction. Blocks; raises GaveUp.

        If a topic refuses some as they are, all become brief. Then this raises what the handler raises for that.
        """
        deadline = Deadline(self._pace.commit_timeout)
        while True:
            try:
                self._writer.write(outputs, offsets, self._metadata, deadline)
            except Aborted as error:
                if error.is_refused and not all(output.is_brief for output in outputs):
                    outputs = [self._handler.brief(output) for output in outputs]
                elif not deadline.left:
                    raise GaveUp(f"results can't be published: {error}") from None
                else:
                    time.sleep(_LOOK)
            except WriterLost as error:
                raise GaveUp(f"results can't be published: {error}") from None
            else:
                return


def _works(answer: Retry[W] | Raised[W]) -> bool:
    return isinstance(answer, Retry) and bool(answer.working)


def _halves(chunk: Chunk[W]) -> list[Chunk[W]]:
    middle = len(chunk.records) // 2
    return [Chunk[W](chunk.partition, 0, records) for records in (chunk.records[:middle], chunk.records[middle:])]
