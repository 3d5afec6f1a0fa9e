"""Deliberate defects of the product. The simulation must find each within 200 seeds.

A mutant replaces a piece of source text when its module is imported. If the text does not occur exactly once, the
product has changed, and the mutant must be rewritten.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

_ROOT = Path(__file__).parents[2]


class Mutant(NamedTuple):
    """One defect: in a module, the text before and after."""

    module: str
    before: str
    after: str


MUTANTS: dict[str, Mutant] = {
    # prepared chunks
    "a prepared chunk goes before older records": Mutant(
        "consumer.engine.strand",
        "        self._unprepare()\n        self._names |= other._names\n",
        "        self._names |= other._names\n",
    ),
    "a prepared chunk goes twice": Mutant(
        "consumer.engine.strand", "self._chunk, self._next = self._next, None\n", "self._chunk = self._next\n"
    ),
    "a prepared chunk is forgotten": Mutant(
        "consumer.engine.strand",
        "            self._waiting.extendleft(reversed(self._next.records))\n",
        "            pass\n",
    ),
    # memory
    "a lane has no bound in bytes": Mutant(
        "consumer.engine.lane", " or self._bytes >= self._bounds.lane_bytes:\n", ":\n"
    ),
    "held bytes are never released": Mutant(
        "consumer.engine.lane", "            self._bytes -= output.record.size\n", "            pass\n"
    ),
    "a chunk has no bound in bytes": Mutant(
        "consumer.engine.strand", "if chunk.records and size > most_bytes:", "if False:"
    ),
    # transactions
    "offsets are left out of transactions": Mutant(
        "consumer.engine.writer",
        "            if positions:\n                self._send_offsets",
        "            if False:\n                self._send_offsets",
    ),
    "the committed offset is one too high": Mutant(
        "consumer.engine.lane", "undecided[0] if undecided else end\n", "undecided[0] if undecided else end + 1\n"
    ),
    "the committed offset is one too low": Mutant(
        "consumer.engine.lane",
        "undecided[0] if undecided else end\n",
        "undecided[0] if undecided else max(0, end - 1)\n",
    ),
    "the end is committed while the lane holds records": Mutant(
        "consumer.engine.lane", "if self._end and self._records == len(outputs):", "if self._end:"
    ),
    "an old end of the log is kept": Mutant(
        "consumer.engine.lane", "        self._end = None\n        self._newest", "        self._newest"
    ),
    "finished records are kept after their commit": Mutant(
        "consumer.engine.lane", "        del self._finished[: len(outputs)]\n", ""
    ),
    "finished records are forgotten when a transaction is aborted": Mutant(
        "consumer.engine.committer",
        "records=len(outputs))\n            raise\n",
        "records=len(outputs))\n            [lane.committed() for lane in lanes]\n            raise\n",
    ),
    "an abort counts as a commit": Mutant(
        "consumer.engine.writer",
        "            raise self._aborted(error) from None\n        try:\n",
        "            self._aborted(error)\n            return\n        try:\n",
    ),
    "dead letters are left out": Mutant(
        "consumer.engine.writer", "        if output.dead_letter:\n", "        if False:\n"
    ),
    "a dead letter has the bytes of the result": Mutant(
        "consumer.engine.writer",
        "record.key, record.value, headers",
        "record.key, output.result, headers",
    ),
    "a full queue drops a record": Mutant(
        "consumer.engine.writer",
        "                if not deadline.left:\n                    raise\n                self._producer.poll(min(_PAUSE, deadline.left))  # the queue is full: let it drain\n                self._tell()\n",
        "                return\n",
    ),
    "offsets are added on the main thread": Mutant(
        "consumer.engine.writer",
        "                self._call(seconds + _PAUSE, send, self._tell)",
        "                send()",
    ),
    "a result that is too large is never shortened": Mutant(
        "consumer.engine.lane", "        self._finished[0] = brief(self._finished[0])", "        pass"
    ),
    "a strand that can't go stays first at its gate": Mutant(
        "consumer.engine.lanes", "                gate.pass_over(strand.id)\n", "                pass\n"
    ),
    # the group
    "a partition without a leader keeps others from starting": Mutant(
        "consumer.engine.places",
        "in (*(each for each in positions if each not in late), *late):",
        "in positions:",
    ),
    "lanes are kept when partitions are lost": Mutant(
        "consumer.engine.member", "        self._lanes.drop(lost)\n", ""
    ),
    "lanes are kept when partitions are revoked": Mutant(
        "consumer.engine.member",
        "            self._show()\n        self._lanes.drop(partitions)",
        "            self._show()",
    ),
    "a lane is not reset when its partition is assigned again": Mutant(
        "consumer.engine.lanes",
        "            self.drop([partition])\n            self._lanes[partition] = Lane(",
        "            self._lanes[partition] = self._lanes.get(partition) or Lane(",
    ),
    "an answer of an earlier assignment is accepted": Mutant(
        "consumer.engine.lanes", "return lane is not None and lane.epoch == chunk.epoch", "return lane is not None"
    ),
    "ownership is not checked before sending": Mutant(
        "consumer.delivery.sending", "            if not self.still_ours():\n", "            if False:\n"
    ),
    "workers ignore the watchdog": Mutant(
        "consumer.engine.member", "self._lanes.has(chunk) and not watchdog.stood_still", "self._lanes.has(chunk)"
    ),
    "there is no watchdog": Mutant(
        "consumer.engine.member",
        "        watchdog = self._watchdog\n",
        '        watchdog = self._watchdog = type("Blind", (), {"stood_still": False, "end": lambda _: None})()\n',
    ),
    "lanes are not renewed with a new writer": Mutant(
        "consumer.engine.member",
        "            self._lanes.assign(partitions)\n            self._places.read_again(partitions)\n",
        "",
    ),
    "records are not read again with a new writer": Mutant(
        "consumer.engine.member", "            self._places.read_again(partitions)\n", ""
    ),
    "records are taken before their partition is read again": Mutant(
        "consumer.engine.member",
        "            if self._places.unread and to_partition(message) in self._places.unread:\n                continue\n",
        "",
    ),
    "a lost writer is never replaced": Mutant(
        "consumer.engine.keeper",
        "        self._due = self._clock.monotonic() + _PAUSE",
        '        self._due = float("inf")',
    ),
    "the consumer is never closed": Mutant(
        "consumer.engine.member", "            self._consumer.close()", "            pass"
    ),
    "a stop is ignored": Mutant(
        "consumer.engine.member",
        "            while not self._stopping:\n                self._turn()",
        "            while True:\n                self._turn()",
    ),
    # waiting
    "a full lane is never paused": Mutant(
        "consumer.engine.member", "            if lane.is_full and not lane.paused:", "            if False:"
    ),
    "a lane is resumed only if its pause is unknown": Mutant(
        "consumer.engine.member",
        "            elif lane.paused is not False and lane.is_half_empty:",
        "            elif lane.paused is None and lane.is_half_empty:",
    ),
    "a lane is not resumed if its pause is unknown": Mutant(
        "consumer.engine.member",
        "            elif lane.paused is not False and lane.is_half_empty:",
        "            elif lane.paused and lane.is_half_empty:",
    ),
    "a probe is never released": Mutant(
        "consumer.engine.gate",
        "            self.due = due(self.failures)\n            self._probe = None",
        "            self.due = due(self.failures)",
    ),
    "a gate never resumes its strands": Mutant(
        "consumer.engine.lanes",
        "            if strand.waits_for == name:\n                strand.resume()",
        "            if False:\n                strand.resume()",
    ),
    "a gate is kept when no strand waits": Mutant(
        "consumer.engine.lanes",
        "        if name in self._gates and not self._gates[name].leave(strand.id):\n            del self._gates[name]",
        "        if name in self._gates:\n            self._gates[name].leave(strand.id)",
    ),
    # strands
    "offset metadata has no decided records": Mutant(
        "consumer.engine.committer", "Ahead(lane.ahead, ", "Ahead((), "
    ),
    "the runs are lost when the blocker is written": Mutant(
        "consumer.engine.committer", "Ahead(runs, lane.topic_id", "Ahead((), lane.topic_id"
    ),
    "the blocker is written with the newest offset": Mutant(
        "consumer.engine.committer",
        "            offset, runs = last\n",
        "            offset, runs = (lane.newest or last[0]), ()\n",
    ),
    "offset metadata is not read": Mutant(
        "consumer.engine.places", "        lane.begin(runs, ", "        lane.begin((), "
    ),
    "chunks go before the offset metadata is read": Mutant(
        "consumer.engine.places", "                lane.knows_ahead = False\n", "                pass\n"
    ),
    "every broker is believed to keep offset metadata": Mutant(
        "consumer.engine.places", "self._learn(keeps_ahead=False)", "self._learn(keeps_ahead=True)"
    ),
    "reading starts at an offset of an earlier topic": Mutant(
        "consumer.engine.places", " if lane.partition in self._tried else found.topic_id", ""
    ),
    "offset metadata has no topic id": Mutant(
        "consumer.engine.committer", 'if lane.topic_id and is_kept else ""\n', 'if False else ""\n'
    ),
    "a recreated topic goes unnoticed": Mutant(
        "consumer.engine.continuity", "return (topic, identity) in self._earlier", "return False"
    ),
    "records are handled before the topic's id is known": Mutant(
        "consumer.engine.continuity", "return topic in self._ids or topic in self._refused", "return True"
    ),
    "a strand set apart stops new records": Mutant(
        "consumer.engine.lanes",
        "                if lane.has_work(strand) and self._may_go(lane, strand, now):",
        "                if not lane.apart and lane.has_work(strand) and self._may_go(lane, strand, now):",
    ),
    "a record overtakes one that waits in another chunk": Mutant(
        "consumer.delivery.parting", "strand = self.chunk.waits_in(draft.record.offset, names)", "strand = None"
    ),
    "a record overtakes one that was just set apart": Mutant(
        "consumer.delivery.parting",
        "return self._held(draft, names) if strand is None else strand\n",
        "return strand\n",
    ),
    "a result overtakes an earlier one of its Kafka key": Mutant(
        "consumer.delivery.parting",
        "            strand = self._held(draft, self._names(draft, site_id))\n",
        "            strand = None\n",
    ),
    "the work on records is lost when they are set apart": Mutant(
        "consumer.engine.strand", "list(apart.records), apart.work, attempts", "list(apart.records), None, attempts"
    ),
    "a flood is never released": Mutant(
        "consumer.engine.member", "                self._committer.release()", "                pass"
    ),
    "new settings are not applied": Mutant(
        "consumer.delivery.handler",
        "        self._defaults = defaults\n\n    def handle",
        "        pass\n\n    def handle",
    ),
    "an empty value counts as no record": Mutant(
        "consumer.engine.member", "        if first is not None:", "        if first:"
    ),
    # delivery
    "a decided event is sent again": Mutant(
        "consumer.delivery.sending",
        "        if event.outcome is None:\n            site",
        "        if True:\n            site",
    ),
    "later events of a key do not wait for a suspect": Mutant(
        "consumer.delivery.sending",
        "            if event.key in blocked:\n                run.queue",
        "            if False:\n                run.queue",
    ),
    "later events of a key are decided before one with a transient error": Mutant(
        "consumer.delivery.sending", "                    blocked.add(event.key)", "                    pass"
    ),
    "an event overtakes another of its key in an earlier array": Mutant(
        "consumer.delivery.sending", "rank < ranks.get(event.key, 0)", "False"
    ),
    "a refused batch is blamed on its first event": Mutant(
        "consumer.delivery.sending",
        "            case Refused(message) if len(group) == 1:",
        "            case Refused(message) if group:",
    ),
    "a refused batch is not split": Mutant(
        "consumer.delivery.sending",
        "                self.limits[run.site.site_id] = len(group) // 2",
        "                self.limits[run.site.site_id] = len(group)",
    ),
    "the events of a refused batch are lost": Mutant(
        "consumer.delivery.sending",
        "                run.queue.extendleft(reversed(group))\n                self.limits",
        "                self.limits",
    ),
    "a refusal of our own token is final": Mutant(
        "consumer.delivery.sending", "        if ours:\n", "        if False:\n"
    ),
    "an event is given up after its first failures": Mutant(
        "consumer.delivery.suspicion",
        "return self.counted >= max_attempts and by_chance < _HARDLY",
        "return self.alone >= max_attempts",
    ),
    "an event is never given up": Mutant(
        "consumer.delivery.suspicion", "return self.counted >= max_attempts and by_chance < _HARDLY", "return False"
    ),
    "a transient error counts as accepted": Mutant(
        "consumer.delivery.sending",
        '                    waiting.append((event, f"the API says of this event: {why}"))\n                    blocked.add(event.key)',
        "                    event.outcome = Accepted()",
    ),
    "a rejected event is tried again": Mutant(
        "consumer.delivery.sending",
        '                    event.outcome = Fault("rejected", why)',
        "                    waiting.append((event, why))",
    ),
    "an undecided record is left out": Mutant(
        "consumer.delivery.handler",
        "for record in chunk.records[len(work.drafts) :]:",
        "for record in chunk.records[len(work.drafts) + (chunk.attempts > 1) :]:",
    ),
    "an outage of the registry counts as bad data": Mutant(
        "schemas.codec",
        "            raise IdUnavailable(schema_id, str(error)) from None",
        "            raise UnknownSchema(str(error)) from None",
    ),
    "a log without the committed offset is not read": Mutant(
        "consumer.engine.member",
        "                self._places.lacks_offset(to_partition(message), is_cut=says_cut(error))",
        "                pass",
    ),
    "a partition without a committed offset is read from its end": Mutant(
        "consumer.engine.continuity", "start = high if self.starts_at_end else low", "start = high"
    ),
    "a partition is read from the record after its committed offset": Mutant(
        "consumer.engine.places", "(partition, wanted) or wanted\n", "(partition, wanted) or wanted + 1\n"
    ),
    "a site that never works is never given up": Mutant(
        "consumer.delivery.suspicion", "and now - tally.since >= patience", "and False"
    ),
    "a site is given up after its first failures": Mutant(
        "consumer.delivery.suspicion",
        "return tally.failing.failed_again(among, max_attempts) and now - tally.since >= patience",
        "return tally.failing.failed_again(among, max_attempts) or tally.failing.alone > 2",
    ),
    "the result of a failed event has the code 200": Mutant(
        "consumer.delivery.results", "500 if faults else 200", "200"
    ),
    "a dead letter has no key": Mutant(
        "consumer.engine.writer", "self._dead_letters_topic, record.key,", "self._dead_letters_topic, None,"
    ),
    "later runs of a site do not wait for one that failed": Mutant(
        "consumer.delivery.sending",
        "            if site.site_id in troubles or site.site_id in self.pending:\n",
        "            if site.site_id in self.pending:\n",
    ),
    # requests left pending
    "a pending request is sent again": Mutant(
        "consumer.delivery.sending",
        "            self.pending[run.site.site_id] = Pending(run.site, run.own, group, call)\n",
        "            run.is_stopped = True\n",
    ),
}


class DoesNotApply(AssertionError):
    """A mutant's text does not occur exactly once in its module."""


def mutated(name: str) -> str:
    """Give the source of a mutant's module with its defect. Raises DoesNotApply."""
    mutant = MUTANTS[name]
    source = _path_of(mutant.module).read_text()
    if (count := source.count(mutant.before)) != 1:
        raise DoesNotApply(f"{name}: its text is {count} times in {mutant.module}")
    return source.replace(mutant.before, mutant.after)


def _path_of(module: str) -> Path:
    return (_ROOT / module.replace(".", "/")).with_suffix(".py")


def apply(name: str) -> None:
    """Insert a defect. Call this before the product is imported."""
    module = MUTANTS[name].module
    if module not in sys.modules:
        sys.meta_path.insert(0, _Finder(module, mutated(name)))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, module: str, source: str) -> None:
        self._module = module
        self._source = source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._module:
            return None
        spec = importlib.util.spec_from_loader(fullname, _Loader(self._source), origin=str(_path_of(fullname)))
        if spec:
            spec.has_location = True  # schemas lie beside their module
        return spec


class _Loader(importlib.abc.InspectLoader):
    def __init__(self, source: str) -> None:
        self._source = source

    def get_source(self, fullname: str) -> str:
        return self._source

    def get_code(self, fullname: str) -> CodeType | None:
        return compile(self._source, f"<mutant of {fullname}>", "exec")

    def is_package(self, fullname: str) -> bool:
        return False
