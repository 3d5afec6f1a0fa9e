"""A replay: delivers records of a topic again, outside the group, without touching its offsets or members.

It commits its position together with the results, as the offsets of a group without members that is named after the
replay's id. So a stopped replay can continue after its last result, on any machine.
"""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from consumer.admin.group import Group
from consumer.admin.ranges import Position, Topics
from consumer.admin.reading import await_visible, read_settled
from consumer.admin.redelivery import Redeliverer
from consumer.engine.kafka import Cluster, to_record
from consumer.engine.ports import W
from consumer.engine.records import Output, Partition, Range, Record, Redelivery
from schemas.codec import Codec, Undecodable

_SITE_ID = "jirafe.site_id"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to replay: the records of a topic between two positions (start included), and which of them.

    `written` is the text that the user wrote. The same text means the same replay.
    """

    topic: str
    start: Position | None
    end: Position | None
    partitions: tuple[int, ...]
    message_type: str | None
    key: str | None
    site: str | None
    written: str

    @property
    def id(self) -> str:
        """A short name, the same for the same text."""
        return hashlib.sha256(self.written.encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class ReplayStep:
    """The progress since the last step: offsets passed, records that were not selected, and outputs."""

    passed: int
    left_out: int
    outputs: tuple[Output, ...]


class Replay:
    """One replay. `own_site` is the site for messages that name no site. Methods block, and raise KafkaUnusable."""

    def __init__(self, cluster: Cluster, codec: Codec, plan: Plan, own_site: str | None) -> None:
        self.plan = plan
        self._cluster = cluster
        self._codec = codec
        self._own_site = own_site
        self._topics = Topics(cluster)
        self.group = cluster.group
        self.name = f"replay.{plan.id}"
        self._own = Group(self._topics.admin, f"{self.group}.{self.name}")

    def ranges(self) -> list[Range]:
        """Return the ranges to replay, which end at the group's committed offsets.

        Waits for open transactions that hide a part of them. Raises Hidden if one does not end.
        """
        plan = self.plan
        await_visible(self._cluster, self._topics.written(plan.topic, plan.end, plan.partitions))
        ranges = self._topics.resolve(plan.topic, plan.start, plan.end, plan.partitions)
        committed = Group(self._topics.admin, self.group).committed([each.of for each in ranges])
        return [each._replace(end=max(each.start, min(each.end, committed[each.of] or 0))) for each in ranges]

    def resumed(self, ranges: list[Range]) -> list[Range] | None:
        """Return what is left of ranges after this replay was stopped; None if it was not started, or is done.

        The answer is reliable only after a `Redeliverer` with the replay's name has fenced an earlier run.
        """
        committed = self._own.committed([each.of for each in ranges], settled=True)
        if all(offset is None for offset in committed.values()):
            return None
        left = []
        for each in ranges:
            offset = committed[each.of]
            left.append(each if offset is None else each._replace(start=min(offset, each.end)))
        return left

    def begin(self, ranges: list[Range], redeliverer: Redeliverer[W]) -> None:
        """Commit where the replay starts, so that it can be resumed. Blocks; raises GaveUp."""
        redeliverer.publish([], {each.of: each.start for each in ranges})

    def end(self) -> None:
        """Delete the replay's position: it is done."""
        self._own.delete()

    def select(self, ranges: list[Range]) -> Iterator[tuple[int, list[Record]]]:
        """Yield each batch's number of records, and those of them to replay. Changes nothing."""
        redelivery = Redelivery(replay=self.plan.id)
        for batch in read_settled(self._cluster, ranges):
            records = [to_record(message) for message in batch]
            yield (
                len(records),
                [record._replace(redelivery=redelivery) for record in records if self._is_wanted(record)],
            )

    def run(self, ranges: list[Range], redeliverer: Redeliverer[W], rate: float | None) -> Iterator[ReplayStep]:
        """Deliver and publish, at most `rate` records per second. Blocks; raises Interrupted, GaveUp."""
        at = {each.of: each.start for each in ranges}
        ends = {each.of: each.end for each in ranges}
        for read, wanted in self.select(ranges):
            redeliverer.wait(0)
            left_out = read - len(wanted)
            for records in _portions(wanted, rate):
                begun = time.monotonic()
                outputs = redeliverer.deliver(records)
                after: dict[Partition, int] = {}
                for record in records:
                    after[record.place.of] = record.offset + 1
                redeliverer.publish(outputs, after)
                yield ReplayStep(sum(after[place] - at[place] for place in after), left_out, tuple(outputs))
                at |= after
                left_out = 0
                if rate:
                    redeliverer.wait(max(0.0, len(records) / rate - (time.monotonic() - begun)))
            if left_out:
                yield ReplayStep(0, left_out, ())
        redeliverer.publish([], ends)
        yield ReplayStep(sum(ends[place] - at[place] for place in ends), 0, ())

    def _is_wanted(self, record: Record) -> bool:
        plan = self.plan
        if plan.key is not None and (record.key or b"").decode(errors="replace") != plan.key:
            return False
        if plan.message_type is None and plan.site is None:
            return True
        try:
            message = self._codec.decode_message(record.value or b"", record.headers)
        except Undecodable:
            return False  # it has no type and no site
        site = message["parameters"].get(_SITE_ID) or self._own_site
        return plan.message_type in (None, message["message"]) and plan.site in (None, site)


def _portions(records: list[Record], rate: float | None) -> Iterator[list[Record]]:
    """Split records into portions, each at most what `rate` allows in one second."""
    most = max(1, int(rate)) if rate else max(1, len(records))
    for begin in range(0, len(records), most):
        yield records[begin : begin + most]
