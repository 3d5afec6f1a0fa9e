"""How far the group is behind: in records, and in time."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from consumer.admin.deployment import Deployment
from consumer.admin.group import Described, Group, GroupMember
from consumer.admin.ranges import Topics, moment_of
from consumer.admin.reading import await_visible, read_firsts
from consumer.engine.ahead import Blocker
from consumer.engine.records import Partition, Range
from consumer.errors import Hidden


@dataclass(frozen=True, slots=True)
class Lag:
    """The lag of one partition.

    - `committed`: the next offset to read, None if the group has committed nothing.
    - `end`: where readers stop. `hidden` counts the offsets after it, which open transactions hide.
    - `records`: the number of offsets to read. Some may have no record; it is 0 if none has one.
    - `oldest`: the time of the first unfinished record, None if there is none or its time can't be read.
    - `lost`: the number of offsets that retention deleted before they were consumed.
    - `ahead`: how many of the `records` are already decided, although `blocker` blocks the committed offset.
    """

    topic: str
    partition: int
    committed: int | None
    end: int
    records: int
    oldest: datetime | None
    lost: int
    hidden: int
    owner: GroupMember | None
    ahead: int = 0
    blocker: Blocker | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """The group at one moment. `leaderless` has the partitions whose lag nobody knows: no broker leads them."""

    at: datetime
    group: Described
    lags: tuple[Lag, ...]
    leaderless: tuple[Partition, ...] = ()

    @property
    def records(self) -> int:
        """The lag of all partitions, in offsets."""
        return sum(lag.records for lag in self.lags)

    @property
    def hidden(self) -> int:
        """The number of offsets that open transactions hide, in all partitions."""
        return sum(lag.hidden for lag in self.lags)

    @property
    def oldest(self) -> datetime | None:
        """The time of the oldest unfinished record, None if there is none."""
        return min((lag.oldest for lag in self.lags if lag.oldest), default=None)

    def behind(self, oldest: datetime | None) -> timedelta:
        """Return the time from `oldest` to this look; zero for None."""
        return max(self.at - oldest, timedelta(0)) if oldest else timedelta(0)

    def as_json(self, name: str) -> dict[str, Any]:
        """Return the look as a JSON object. `name` is the group's name."""
        return {
            "at": self.at,
            "group": name,
            "state": self.group.state,
            "members": [_member(each) for each in self.group.members],
            "partitions": [
                {**self.partition_as_json(each), "owner": _member(each.owner) if each.owner else None}
                for each in self.lags
            ],
            "leaderless": list(map(str, self.leaderless)),
            "total": {
                "records": self.records,
                "seconds": self.behind(self.oldest).total_seconds(),
                "hidden": self.hidden,
            },
        }

    def partition_as_json(self, of: Lag) -> dict[str, Any]:
        """Return one partition as a JSON object, without its owner."""
        return {
            "topic": of.topic,
            "partition": of.partition,
            "committed": of.committed,
            "end": of.end,
            "records": of.records,
            "oldest": of.oldest,
            "seconds": self.behind(of.oldest).total_seconds(),
            "lost": of.lost,
            "hidden": of.hidden,
            "ahead": of.ahead,
            "held_by": of.blocker
            and {
                "strand": of.blocker.strand,
                "cause": of.blocker.cause or None,
                "since": datetime.fromtimestamp(of.blocker.since, UTC),
            },
        }


def _member(member: GroupMember) -> dict[str, Any]:
    return {
        "id": member.id,
        "instance_id": member.instance_id,
        "client_id": member.client_id,
        "host": member.host,
    }


class Looker:
    """Looks at a deployment's group from outside. `look` may block for seconds, and raises KafkaUnusable."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._topics = Topics(deployment.cluster)
        self._group = Group(self._topics.admin, deployment.cluster.group)

    def look(self, *, settled: bool = False) -> Look:
        """Return the lag of every consumed partition that has a leader.

        With `settled`, it first waits for open transactions, at most as long as one may last.
        """
        described = self._group.describe()
        owners = {place: member for member in described.members for place in member.owns}
        topics = self._deployment.input_topics()
        leaderless = tuple(each for topic in topics for each in self._topics.leaderless(topic))
        places = [Partition(topic, each) for topic in topics for each in self._topics.partitions(topic)]
        places = [each for each in places if each not in leaderless]
        cluster = self._deployment.cluster
        written = self._topics.ends(places, committed=False)
        if settled:
            with suppress(Hidden):  # what is still hidden is counted as hidden
                await_visible(cluster, written)
        firsts, progress = self._topics.firsts(places), self._group.progress(places)
        committed = {place: done.offset for place, done in progress.items()}
        ends = self._topics.ends(places)
        left = {}
        for place in places:
            start = max(committed[place] or 0, firsts[place])
            left[place] = Range(*place, start, max(start, ends[place]))
        # All these offsets may be transaction markers. Only reading shows whether there is a record.
        unfinished = read_firsts(cluster, list(left.values()))
        lags = []
        for place, (_, _, start, end) in left.items():
            record, done = unfinished.get(place), committed[place]
            oldest = moment_of(record.timestamp) if record else None
            lost = 0 if done is None else max(0, firsts[place] - done)
            behind = end - start if record else 0
            hidden = max(0, written[place] - ends[place])
            ahead = progress[place].ahead
            blocker = ahead.blocker if ahead and behind else None
            count = ahead.count if ahead and behind else 0
            lags.append(
                Lag(*place, done, ends[place], behind, oldest, lost, hidden, owners.get(place), count, blocker)
            )
        return Look(datetime.now(UTC), described, tuple(lags), leaderless)
