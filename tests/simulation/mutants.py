"""Deliberate defects of the product: each must be found by the simulation within 200 seeds.

A mutant is a piece of source text that is replaced when its module is imported. If the text is not there exactly
once, the product has changed: the mutant must be written anew.
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
    # chunks that are prepared
    "what was prepared goes before older records": Mutant(
        "consumer.engine.strand",
        "        self._unprepare()\n        self._names |= other._names\n",
        "        self._names |= other._names\n",
    ),
    "what was prepared goes twice": Mutant(
        "consumer.engine.strand", "self._chunk, self._next = self._next, None\n", "self._chunk = self._next\n"
    ),
    "what was prepared is forgotten": Mutant(
        "consumer.engine.strand",
        "            self._waiting.extendleft(reversed(self._next.records))\n",
        "            pass\n",
    ),
    # memory
    "bytes have no bound": Mutant("consumer.engine.lane", " or self._bytes >= self._bounds.lane_bytes\n", "\n"),
    "bytes are held for ever": Mutant(
        "consumer.engine.lane", "            self._bytes -= output.record.size\n", "            pass\n"
    ),
    "a chunk has no bound in bytes": Mutant(
        "consumer.engine.strand", "if chunk.records and size > most_bytes:", "if False:"
    ),
    # transactions
    "offsets left out": Mutant(
        "consumer.engine.writer",
        "            if positions:\n                self._send_offsets",
        "            if False:\n                self._send_offsets",
    ),
    "an offset too far": Mutant(
        "consumer.engine.lane", "undecided[0] if undecided else end\n", "undecided[0] if undecided else end + 1\n"
    ),
    "an offset too short": Mutant(
        "consumer.engine.lane",
        "undecided[0] if undecided else end\n",
        "undecided[0] if undecided else max(0, end - 1)\n",
    ),
    "the end committed before what is held": Mutant(
        "consumer.engine.lane", "if self._end and self._records == len(outputs):", "if self._end:"
    ),
    "a stale end": Mutant(
        "consumer.engine.lane", "        self._end = None\n        self._newest", "        self._newest"
    ),
    "finished records kept after their commit": Mutant(
        "consumer.engine.lane", "        del self._finished[: len(outputs)]\n", ""
    ),
    "finished records forgotten when a transaction is aborted": Mutant(
        "consumer.engine.committer",
        "records=len(outputs))\n            raise\n",
        "records=len(outputs))\n            [lane.committed() for lane in lanes]\n            raise\n",
    ),
    "an abort taken for a commit": Mutant(
        "consumer.engine.writer",
        "            raise self._aborted(error) from None\n        try:\n",
        "            self._aborted(error)\n            return\n        try:\n",
    ),
    "dead letters left out": Mutant(
        "consumer.engine.writer", "        if output.dead_letter:\n", "        if False:\n"
    ),
    "a dead letter with the result's bytes": Mutant(
        "consumer.engine.writer",
        "record.key, record.value, headers",
        "record.key, output.result, headers",
    ),
    "a queue that is full drops a record": Mutant(
        "consumer.engine.writer",
        "                if not deadline.left:\n                    raise\n                self._producer.poll(min(_PAUSE, deadline.left))  # the queue is full: let it drain\n                self._tell()\n",
        "                return\n",
    ),
    "no wait for adding offsets in a thread of its own": Mutant(
        "consumer.engine.writer",
        "                self._call(seconds + _PAUSE, send, self._tell)",
        "                send()",
    ),
    "a result that is too large never made smaller": Mutant(
        "consumer.engine.lane", "        self._finished[0] = brief(self._finished[0])", "        pass"
    ),
    # the group
    "lanes kept when partitions are lost": Mutant("consumer.engine.member", "        self._lanes.drop(lost)\n", ""),
    "lanes kept when partitions are revoked": Mutant(
        "consumer.engine.member",
        "            self._show()\n        self._lanes.drop(partitions)",
        "            self._show()",
    ),
    "a lane not reset when its partition comes back": Mutant(
        "consumer.engine.lanes",
        "            self.drop([partition])\n            self._lanes[partition] = Lane(",
        "            self._lanes[partition] = self._lanes.get(partition) or Lane(",
    ),
    "an answer of an earlier assignment taken": Mutant(
        "consumer.engine.lanes", "return lane is not None and lane.epoch == chunk.epoch", "return lane is not None"
    ),
    "nothing asked before sending": Mutant(
        "consumer.delivery.sending", "            if not self.still_ours():\n", "            if False:\n"
    ),
    "no watchdog for the workers": Mutant(
        "consumer.engine.member", "self._lanes.has(chunk) and not watchdog.stood_still", "self._lanes.has(chunk)"
    ),
    "no watchdog at all": Mutant(
        "consumer.engine.member",
        "        watchdog = self._watchdog\n",
        '        watchdog = self._watchdog = type("Blind", (), {"stood_still": False, "end": lambda _: None})()\n',
    ),
    "no new assignment of lanes with a new writer": Mutant(
        "consumer.engine.member",
        "            self._lanes.assign(partitions)\n            self._places.read_again(partitions)\n",
        "",
    ),
    "records not read again with a new writer": Mutant(
        "consumer.engine.member", "            self._places.read_again(partitions)\n", ""
    ),
    "records taken while they are to be read again": Mutant(
        "consumer.engine.member",
        "            if self._places.unread and to_partition(message) in self._places.unread:\n                continue\n",
        "",
    ),
    "a lost writer never made anew": Mutant(
        "consumer.engine.keeper",
        "        self._due = self._clock.monotonic() + _PAUSE",
        '        self._due = float("inf")',
    ),
    "the consumer left open": Mutant(
        "consumer.engine.member", "            self._consumer.close()", "            pass"
    ),
    "stop ignored": Mutant(
        "consumer.engine.member",
        "            while not self._stopping:\n                self._turn()",
        "            while True:\n                self._turn()",
    ),
    # waiting
    "never paused": Mutant(
        "consumer.engine.member", "            if lane.is_full and not lane.paused:", "            if False:"
    ),
    "never resumed": Mutant(
        "consumer.engine.member",
        "            elif lane.paused is not False and lane.is_half_empty:",
        "            elif lane.paused is None and lane.is_half_empty:",
    ),
    "resumed only when unknown": Mutant(
        "consumer.engine.member",
        "            elif lane.paused is not False and lane.is_half_empty:",
        "            elif lane.paused and lane.is_half_empty:",
    ),
    "a probe never released": Mutant(
        "consumer.engine.gate",
        "            self.due = due(self.failures)\n            self._probe = None",
        "            self.due = due(self.failures)",
    ),
    "a gate that never opens": Mutant(
        "consumer.engine.lanes",
        "            if strand.waits_for == name:\n                strand.resume()",
        "            if False:\n                strand.resume()",
    ),
    "a gate kept when nobody waits": Mutant(
        "consumer.engine.lanes",
        "        if name in self._gates and not self._gates[name].leave(strand.id):\n            del self._gates[name]",
        "        if name in self._gates:\n            self._gates[name].leave(strand.id)",
    ),
    # strands
    "nothing written beside an offset": Mutant("consumer.engine.committer", "Ahead(lane.ahead, ", "Ahead((), "),
    "the runs lost when the blocker is written": Mutant(
        "consumer.engine.committer", "Ahead(runs, lane.topic_id", "Ahead((), lane.topic_id"
    ),
    "the blocker written with the newest offset": Mutant(
        "consumer.engine.committer",
        "            offset, runs = last\n",
        "            offset, runs = (lane.newest or last[0]), ()\n",
    ),
    "what is beside an offset not read": Mutant(
        "consumer.engine.places", "        lane.begin(runs, ", "        lane.begin((), "
    ),
    "what is beside an offset read too late": Mutant(
        "consumer.engine.places", "                lane.knows_ahead = False\n", "                pass\n"
    ),
    "a broker believed to keep what is beside offsets": Mutant(
        "consumer.engine.places", "self._learn(keeps_ahead=False)", "self._learn(keeps_ahead=True)"
    ),
    "an offset of an earlier topic read from": Mutant(
        "consumer.engine.places", " if lane.partition in self._tried else found.topic_id", ""
    ),
    "an offset that does not tell its topic": Mutant(
        "consumer.engine.committer", 'if lane.topic_id and is_kept else ""\n', 'if False else ""\n'
    ),
    "a topic that is created again goes unnoticed": Mutant(
        "consumer.engine.continuity", "return (topic, identity) in self._earlier", "return False"
    ),
    "records are handled before the topic's id is known": Mutant(
        "consumer.engine.continuity", "return topic in self._ids or topic in self._refused", "return True"
    ),
    "new records kept waiting by a strand": Mutant(
        "consumer.engine.lanes",
        "                if lane.has_work(strand) and self._may_go(strand, now):",
        "                if not lane.apart and lane.has_work(strand) and self._may_go(strand, now):",
    ),
    "a record overtakes what waits in another chunk": Mutant(
        "consumer.delivery.parting", "strand = self.chunk.waits_in(draft.record.offset, names)", "strand = None"
    ),
    "a record overtakes what was just set apart": Mutant(
        "consumer.delivery.parting",
        "        if strand is None:\n            strand = self._held(draft, names)\n",
        "",
    ),
    "a result overtakes that of its Kafka key": Mutant(
        "consumer.delivery.parting",
        "            strand = self._held(draft, self._names(draft, site_id))\n",
        "            strand = None\n",
    ),
    "what was done for records lost when they are set apart": Mutant(
        "consumer.engine.strand", "list(apart.records), apart.work, attempts", "list(apart.records), None, attempts"
    ),
    "a flood never released": Mutant(
        "consumer.engine.member", "                self._committer.release()", "                pass"
    ),
    "new settings not taken over": Mutant(
        "consumer.delivery.handler",
        "        self._defaults = defaults\n\n    def handle",
        "        pass\n\n    def handle",
    ),
    "an empty value taken for no record": Mutant(
        "consumer.engine.member", "        if first is not None:", "        if first:"
    ),
    # delivery
    "a decided event sent again": Mutant(
        "consumer.delivery.sending",
        "        if event.outcome is None:\n            site",
        "        if True:\n            site",
    ),
    "later events of a key go on behind a suspect": Mutant(
        "consumer.delivery.sending",
        "            if event.key in blocked:\n                run.queue",
        "            if False:\n                run.queue",
    ),
    "later events of a key decided behind a suspect": Mutant(
        "consumer.delivery.sending", "                    blocked.add(event.key)", "                    pass"
    ),
    "one request for an order's cart and what is before it": Mutant(
        "consumer.delivery.sending", "rank < ranks.get(event.key, 0)", "False"
    ),
    "a refused batch blamed on its first event": Mutant(
        "consumer.delivery.sending",
        "            case Refused(message) if len(group) == 1:",
        "            case Refused(message) if group:",
    ),
    "a refused batch not split": Mutant(
        "consumer.delivery.sending",
        "                self.limits[run.site.site_id] = len(group) // 2",
        "                self.limits[run.site.site_id] = len(group)",
    ),
    "what was in a refused batch lost": Mutant(
        "consumer.delivery.sending",
        "                run.queue.extendleft(reversed(group))\n                self.limits",
        "                self.limits",
    ),
    "our own credentials refused for good": Mutant(
        "consumer.delivery.sending", "        if ours:\n", "        if False:\n"
    ),
    "an event given up at its first failures": Mutant(
        "consumer.delivery.suspicion",
        "return self.counted >= max_attempts and by_chance < _HARDLY",
        "return self.alone >= max_attempts",
    ),
    "an event never given up": Mutant(
        "consumer.delivery.suspicion", "return self.counted >= max_attempts and by_chance < _HARDLY", "return False"
    ),
    "a transient item accepted": Mutant(
        "consumer.delivery.sending",
        '                    waiting.append((event, f"the API says of this event: {why}"))\n                    blocked.add(event.key)',
        "                    event.outcome = Accepted()",
    ),
    "a rejected item tried again": Mutant(
        "consumer.delivery.sending",
        '                    event.outcome = Fault("rejected", why)',
        "                    waiting.append((event, why))",
    ),
    "an undecided record left out": Mutant(
        "consumer.delivery.handler",
        "for record in chunk.records[len(work.drafts) :]:",
        "for record in chunk.records[len(work.drafts) + (chunk.attempts > 1) :]:",
    ),
    "a registry's outage taken for bad data": Mutant(
        "schemas.codec",
        "            raise IdUnavailable(schema_id, str(error)) from None",
        "            raise UnknownSchema(str(error)) from None",
    ),
    "a log that was cut in front not read": Mutant(
        "consumer.engine.member",
        "                self._places.lacks_offset(to_partition(message), is_cut=says_cut(error))",
        "                pass",
    ),
    "a partition without a committed offset begun at its end": Mutant(
        "consumer.engine.continuity", "start = high if self.starts_at_end else low", "start = high"
    ),
    "a partition begun behind its committed offset": Mutant(
        "consumer.engine.places", "(partition, wanted) or wanted\n", "(partition, wanted) or wanted + 1\n"
    ),
    "a site that is gone never given up": Mutant(
        "consumer.delivery.suspicion", "and now - tally.since >= patience", "and False"
    ),
    "a site given up at its first failures": Mutant(
        "consumer.delivery.suspicion",
        "return tally.failing.failed_again(among, max_attempts) and now - tally.since >= patience",
        "return tally.failing.failed_again(among, max_attempts) or tally.failing.alone > 2",
    ),
    "a good result where an event failed": Mutant("consumer.delivery.results", "500 if faults else 200", "200"),
    "a dead letter without its record's key": Mutant(
        "consumer.engine.writer", "self._dead_letters_topic, record.key,", "self._dead_letters_topic, None,"
    ),
    "later runs of a site go out behind an earlier one": Mutant(
        "consumer.delivery.sending",
        "            if site.site_id in troubles or site.site_id in self.pending:\n",
        "            if site.site_id in self.pending:\n",
    ),
    # requests left pending
    "what is pending is sent again meanwhile": Mutant(
        "consumer.delivery.sending",
        "            self.pending[run.site.site_id] = Pending(run.site, run.own, group, call)\n",
        "            run.is_stopped = True\n",
    ),
}


class DoesNotApply(AssertionError):
    """A mutant's text is not in its module exactly once."""


def mutated(name: str) -> str:
    """Give the source of a mutant's module with the defect in it; raises DoesNotApply."""
    mutant = MUTANTS[name]
    source = _path_of(mutant.module).read_text()
    if (count := source.count(mutant.before)) != 1:
        raise DoesNotApply(f"{name}: its text is {count} times in {mutant.module}")
    return source.replace(mutant.before, mutant.after)


def _path_of(module: str) -> Path:
    return (_ROOT / module.replace(".", "/")).with_suffix(".py")


def apply(name: str) -> None:
    """Put a defect in, before the product is imported."""
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
