"""Where to read assigned partitions: from their committed offsets, or from the current start of their logs."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Generic

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from consumer.engine.ahead import NotOurs, Runs, read
from consumer.engine.continuity import Continuity
from consumer.engine.deadline import Clock
from consumer.engine.errors import Rejoin
from consumer.engine.kafka import GroupConsumer, Logger, kafka_error
from consumer.engine.lane import Lane
from consumer.engine.lanes import Lanes
from consumer.engine.ports import W
from consumer.engine.records import Partition, Place, Record

_PAUSE = 0.5
_SOON = 0.05
_WITHIN = 2.0
_UNREADABLE_AFTER = 3


class Places(Generic[W]):
    """Finds where one consumer reads its partitions from; called on the main thread.

    `unread` has the assigned partitions whose start is not known yet. Their records are ignored until then. So no
    record is read before the id of its topic is known, if the brokers tell it. Otherwise an offset committed
    without an id could be mistaken for that of a later topic of the same name. `failed` is called with each error
    from Kafka.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - each has its own purpose
        self,
        consumer: GroupConsumer,
        lanes: Lanes[W],
        continuity: Continuity,
        clock: Clock,
        failed: Callable[[KafkaError], None],
        log: Logger,
    ) -> None:
        self.unread: set[Partition] = set()
        # Partitions whose offset metadata has not been read yet.
        self._unasked: set[Partition] = set()
        # Those of them to which this member just wrote metadata, to test whether Kafka keeps it.
        self._tried: set[Partition] = set()
        self._consumer = consumer
        self._lanes = lanes
        self._continuity = continuity
        self._clock = clock
        self._failed = failed
        self._log = log
        self._due = 0.0
        # The unread partitions without an offset to read from, and whether that is because the log was cut.
        self._reset: dict[Partition, bool] = {}
        # The partitions for which the last request to Kafka failed, the latest last.
        self._late: dict[Partition, None] = {}
        # How often the library failed to decompress the batch that begins at this offset, and its last error.
        self._unreadable: dict[Partition, tuple[int, int, str]] = {}
        continuity.closing.clear()

    def assigned(self, partitions: Collection[Partition]) -> None:
        """Read the offset metadata in the next `find`. Ignore records of topics without a known id until then."""
        self.ask_ahead(partitions)
        self.unread.update(each for each in partitions if not self._continuity.is_id_settled(each.topic))

    def ask_ahead(self, partitions: Collection[Partition], *, tried: bool = False) -> None:
        """Handle no record of these partitions until `find` has read their offset metadata.

        The metadata says what an earlier owner decided ahead. With `tried`, this member has just written it as a
        test.
        """
        self._unasked.update(partitions)
        if tried:
            self._tried.update(partitions)
        for lane in self._lanes:
            if lane.partition in self._unasked:
                lane.knows_ahead = False

    def read_again(self, partitions: Collection[Partition]) -> None:
        """Make the next `find` read these partitions from their committed offsets."""
        self.unread.update(partitions)
        self.ask_ahead(partitions)

    def lacks_offset(self, partition: Partition, *, is_cut: bool) -> None:
        """Note that a log lacks the offset to read from. If not `is_cut`, no offset is committed."""
        self.unread.add(partition)
        self._reset[partition] = is_cut

    def cant_read(self, partition: Partition, offset: int, reason: str) -> None:
        """Note that the library can't decompress a batch.

        The batch begins at this offset, perhaps before the next record to read. If it fails again and again, the
        next record is decided without its content.
        """
        before = self._unreadable.get(partition)
        times = before[1] + 1 if before and before[0] == offset else 1
        self._unreadable[partition] = offset, times, reason
        if times >= _UNREADABLE_AFTER:
            self.unread.add(partition)

    def _unread_record(self, partition: Partition, wanted: int | None) -> int | None:
        """Give a lane its unreadable record, and return the offset after it. Returns None if there is none."""
        offset, times, reason = self._unreadable.pop(partition, (0, 0, ""))
        if times < _UNREADABLE_AFTER:
            return None
        place = Place(*partition, max(offset, wanted or 0))
        missing = f"the record: the client library can't read it ({reason})"
        self._log.error("unreadable", place=str(place), reason=reason)
        self._lanes.add(Record(*place, -1, None, b"", (), missing=missing))
        return place.offset + 1

    def forget(self, partitions: Collection[Partition]) -> None:
        """Forget partitions that are no longer assigned."""
        self.unread.difference_update(partitions)
        self._unasked.difference_update(partitions)
        self._tried.difference_update(partitions)
        for partition in partitions:
            self._reset.pop(partition, None)
            self._late.pop(partition, None)
            self._unreadable.pop(partition, None)
        self._continuity.closing.difference_update(partitions)

    def find(self) -> None:
        """Start reading unread partitions at their committed offsets, or at the current start of their logs.

        Also tells lanes what an earlier owner decided beyond those offsets. Blocks for up to a few seconds. Raises
        Rejoin.
        """
        now = self._clock.monotonic()
        if not (self.unread or self._unasked) or now < self._due:
            return
        # Sorted, so that a repeated simulation makes the same requests.
        asked = sorted(each for each in self.unread | self._unasked if self._continuity.is_id_settled(each.topic))
        starts: dict[Partition, int] = {}
        try:
            positions = self._committed(asked) if asked else {}
            late = [each for each in self._late if each in positions]
            for partition in (*(each for each in positions if each not in late), *late):
                # If this fails, the partition comes last from now on, and can't keep the others from their start.
                self._late.pop(partition, None)
                self._late[partition] = None
                start = self._start(partition, positions[partition])
                del self._late[partition]
                if start is not None:
                    starts[partition] = start
        except KafkaException as error:
            self._pause(now)
            self._failed(kafka_error(error))
        self._read_from(starts)

    def _pause(self, since: float) -> None:
        """Ask again later. What took long must not fill the time of this thread, which also does all other work."""
        now = self._clock.monotonic()
        self._due = now + max(_PAUSE, now - since)

    def _start(self, partition: Partition, position: TopicPartition) -> int | None:
        """Return where to read a partition, given its committed offset; None to leave it at its position.

        Also tells its lane what is decided beyond that offset. Raises KafkaException.
        """
        lane = self._lane(partition)
        start = self._continuity.start_if_void(position)
        if start is not None:
            if lane and partition not in self.unread:
                lane = self._emptied(partition)  # its records were read from the void offset
            position = TopicPartition(*partition, start)
        if lane and position.offset < 0 and partition in self._unasked - self.unread - self._tried:
            # The client will report that too, unless it began at an offset of a topic that has since been deleted.
            # Then its records come from the middle of the new topic.
            if not lane.held_records:
                self._due = self._clock.monotonic() + _SOON
                return None
            lane = self._emptied(partition)
        if lane and partition in self._unasked and not self._begin(lane, position):
            self._continuity.created_again(partition.topic)
            self._lanes.assign([partition])
            return OFFSET_BEGINNING
        if partition in self._unasked or partition not in self.unread:
            return None
        newest = lane.newest if lane else None
        wanted = position.offset if position.offset >= 0 else None
        if newest is not None:
            wanted = newest + 1
        if wanted is None or partition in self._reset:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(*partition), _WITHIN)
            start = self._continuity.begins(partition, wanted, low, high, is_cut=self._reset.get(partition, False))
            if start < position.offset:
                self._continuity.note_void(position, start)
            if lane and start < max(wanted or 0, lane.committed_offset or 0):
                # Its offsets now belong to other records, also those decided ahead.
                self._lanes.assign([partition])
            wanted = start
        return self._unread_record(partition, wanted) or wanted

    def _emptied(self, partition: Partition) -> Lane[W] | None:
        """Forget the records of a partition, which must be read from elsewhere. Returns its new lane."""
        self._lanes.assign([partition])
        self.unread.add(partition)
        return self._lane(partition)

    def _lane(self, partition: Partition) -> Lane[W] | None:
        return next((lane for lane in self._lanes if lane.partition == partition), None)

    def _committed(self, partitions: Iterable[Partition]) -> dict[Partition, TopicPartition]:
        """Ask Kafka for the committed offsets; raises KafkaException. Those that it can't tell now are left out."""
        begun = self._clock.monotonic()
        positions = {}
        for position in self._consumer.committed([TopicPartition(*each) for each in partitions], _WITHIN):
            if position.error:  # this does not mean that there is none
                self._pause(begun)
                self._failed(position.error)
            else:
                positions[Partition(position.topic, position.partition)] = position
        return positions

    def _begin(self, lane: Lane[W], position: TopicPartition) -> bool:
        """Tell a lane what is decided beyond its committed offset.

        Returns False if the offset belongs to an earlier topic of the same name. If that is not known yet, the lane
        must wait: the partition stays unasked.
        """
        self._unasked.discard(lane.partition)
        runs: Runs = ()
        told = None
        if position.metadata:
            try:
                found = read(position.offset, position.metadata)
            except NotOurs as error:
                self._ignore(lane.partition, str(error))
            else:
                self._learn(keeps_ahead=True)
                topic = lane.partition.topic
                topic_id = lane.topic_id if lane.partition in self._tried else found.topic_id
                if self._continuity.is_earlier(topic, topic_id):
                    return False
                if not self._continuity.is_id_settled(topic):
                    self._unasked.add(lane.partition)
                    return True
                lane.topic_id, runs, told = topic_id, found.runs, found.blocker
        elif lane.partition in self._tried and position.offset == lane.committed_offset:
            # If the offset differs, the topic was created again meanwhile, and the test proves nothing.
            self._learn(keeps_ahead=False)
        lane.begin(runs, position.offset if position.offset >= 0 else None, told)
        self._tried.discard(lane.partition)
        return True

    def _learn(self, *, keeps_ahead: bool) -> None:
        if self._lanes.keeps_ahead is None:
            self._lanes.learn(keeps_ahead=keeps_ahead)
            if not keeps_ahead:
                self._log.warning(
                    "no_metadata",
                    reason="this Kafka does not keep offset metadata that is committed in transactions: results "
                    "wait until all earlier records are decided",
                )

    def _ignore(self, partition: Partition, why: str) -> None:
        reason = f"the metadata of the committed offset is ignored, because {why}: records may get a second result"
        self._log.error("ahead_ignored", partition=str(partition), reason=reason)

    def _read_from(self, starts: Mapping[Partition, int]) -> None:
        """Read partitions from these offsets."""
        if not starts:
            return
        try:
            self._consumer.incremental_unassign([TopicPartition(*each) for each in starts])
            self._consumer.incremental_assign([TopicPartition(*each, offset) for each, offset in starts.items()])
        except KafkaException as error:  # an eager assignment can't be changed in part
            raise Rejoin(f"partitions can't be read again: {kafka_error(error).str()}") from None
        self.unread.difference_update(starts)
        for partition in starts:
            self._reset.pop(partition, None)
        for lane in self._lanes:
            if lane.partition in starts:
                lane.paused = None

    def watch(self) -> None:
        """Start over with recreated topics, once all records of the old topics are done."""
        lacks_ids = any(not lane.topic_id for lane in self._lanes)
        self._continuity.watch((lane.partition.topic for lane in self._lanes), lacks_ids=lacks_ids)
        old = []
        for lane in self._lanes:
            topic = lane.partition.topic
            lane.topic_id = lane.topic_id or self._continuity.identity(topic)
            if lane.partition not in self._continuity.closing and self._continuity.is_earlier(topic, lane.topic_id):
                self._continuity.created_again(topic)
                old.append(lane.partition)
        if old:
            self._continuity.close(old)
            self._consumer.pause([TopicPartition(*each) for each in old])
        for lane in list(self._lanes) if self._continuity.closing else []:
            if lane.partition in self._continuity.closing and not lane.held_records:
                self._continuity.starts_over(lane.partition)
                self._lanes.assign([lane.partition])
                self._read_from({lane.partition: OFFSET_BEGINNING})
