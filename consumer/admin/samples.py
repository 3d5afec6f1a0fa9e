"""Samples the last records of a topic: whether they can be read, and why not."""

from dataclasses import dataclass

from consumer.admin.ranges import Topics
from consumer.admin.reading import read_ranges
from consumer.engine.deadline import Deadline
from consumer.engine.kafka import REACHED_WITHIN, Cluster, to_record
from consumer.engine.records import Headers, Partition, Range
from schemas.codec import Codec, RegistryNeeded, Undecodable

_OF_EACH_PARTITION = 20


@dataclass(slots=True)
class Sample:
    """What was found in the last records of each partition of a topic. Records without a value are not counted.

    `read` is the number that can be read. `lacking` is the number that name a schema by an id although no registry
    is set. `reason` says why one of the others can't be read.
    """

    records: int = 0
    read: int = 0
    lacking: int = 0
    reason: str = ""


def sample(cluster: Cluster, topic: str, codec: Codec) -> Sample:
    """Read a topic's last records. Blocks for seconds; raises KafkaUnusable, RegistryUnavailable."""
    topics, found = Topics(cluster), Sample()
    places = [Partition(topic, number) for number in topics.partitions(topic)]
    firsts, ends = topics.firsts(places), topics.ends(places)
    ranges = [Range(*each, max(firsts[each], ends[each] - _OF_EACH_PARTITION), ends[each]) for each in places]
    deadline = Deadline(REACHED_WITHIN)
    for batch in read_ranges(cluster, ranges):
        for message in batch:
            if (record := to_record(message)).value is not None:
                _note(found, record.value, record.headers, codec)
        if not deadline.left:
            break  # an open transaction hides the rest
    return found


def _note(found: Sample, value: bytes, headers: Headers, codec: Codec) -> None:
    found.records += 1
    try:
        codec.decode_message(value, headers)
    except Undecodable as error:
        found.lacking += isinstance(error, RegistryNeeded)
        found.reason = str(error)
    else:
        found.read += 1
