"""Decides which records of a chunk go on and which wait apart, so that one site's trouble does not stop others.

A record has names: its Kafka key, its site, and the key of each of its events at that site. It waits while an
earlier record with one of the same names waits. So the order is kept for each Kafka key, and for each key at the
API. If a whole site is in trouble, all its records wait. If only some of its events fail, only records with the
same keys wait.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from consumer.delivery.defaults import Defaults
from consumer.delivery.work import Draft, Work
from consumer.engine.ports import Apart, Chunk, Names, Trouble

_SUSPECTS = "{} (suspects)"
_BEHIND = "behind "


@dataclass(slots=True)
class Parting:
    """Sorts the drafts of one try of a chunk. `is_slow` tells whether a site is so slow that it would delay others.

    Before anything is sent, call `may_go` for each draft, in order. After sending, call `is_decided` for those
    that went.
    """

    chunk: Chunk[Work]
    defaults: Defaults
    is_slow: Callable[[str], bool]
    # By name, the first draft that later ones must wait for: its offset and its strand.
    _waiting: dict[Hashable, tuple[int, str]] = field(default_factory=dict)
    # By Kafka key, the site of the last draft that goes.
    _going: dict[bytes, str] = field(default_factory=dict)
    # For each placeholder strand, a Kafka key. The placeholder stands for the strand in which the draft that goes
    # now with this key may be set apart.
    _behind: dict[str, bytes] = field(default_factory=dict)
    _untried: dict[str, list[Draft]] = field(default_factory=dict)
    _tried: dict[str, list[Draft]] = field(default_factory=dict)
    # Whether a site is slow, asked once: it may become slow while the drafts are sorted.
    _slow: dict[str, bool] = field(default_factory=dict)

    def may_go(self, draft: Draft) -> bool:
        """Return whether a draft goes on now. Otherwise it is set apart."""
        if self.chunk.behind is None:
            return True
        site_id, key = self._site_id(draft), draft.record.key
        strand = self._waits_in(draft, site_id)
        if strand is None and key is not None and self._going.get(key, site_id) != site_id and site_id:
            # An earlier record with this Kafka key goes to another site now. This one waits where that one waits.
            strand = f"{_BEHIND}{draft.record.offset}"
            self._behind[strand] = key
        if strand is None and site_id and not self.chunk.strand:
            if site_id in self.chunk.closed:
                strand = site_id
            elif self._is_slow(site_id):
                self._set_apart(draft, site_id, self._tried)
                return False
        if strand is not None:
            self._set_apart(draft, strand, self._untried)
            return False
        if key is not None and site_id:
            self._going[key] = site_id
        return True

    def _waits_in(self, draft: Draft, site_id: str) -> str | None:
        """Return the strand of the first earlier record that a draft waits for; usually None."""
        if not (self.chunk.behind or self._waiting):
            return None
        names = self._names(draft, site_id)
        if not self.chunk.strand:
            names |= {site_id}  # a retried strand tests its own site
        strand = self.chunk.waits_in(draft.record.offset, names)
        return self._held(draft, names) if strand is None else strand

    def _is_slow(self, site_id: str) -> bool:
        if site_id not in self._slow:
            self._slow[site_id] = self.is_slow(site_id)
        return self._slow[site_id]

    def is_decided(self, draft: Draft, troubles: Mapping[str, Trouble]) -> bool:
        """Return whether a sent draft is decided, and all earlier ones with its Kafka key too."""
        if self.chunk.behind is None:
            return True
        site_id = self._site_id(draft)
        if site_id:  # some event is not decided
            trouble = troubles.get(site_id)
            strand: str | None = _SUSPECTS.format(site_id) if trouble and trouble.isolating else site_id
        elif self._waiting:
            strand = self._held(draft, self._names(draft, site_id))
        else:
            return True
        if strand is None:
            return True
        self._set_apart(draft, strand, self._tried)
        return False

    def apart(self, work: Work, troubles: Mapping[str, Trouble]) -> Sequence[Apart[Work]]:
        """Return what was set apart, strand by strand."""
        by_strand = {
            _SUSPECTS.format(site_id) if trouble.isolating else site_id: trouble
            for site_id, trouble in troubles.items()
        }
        tried = [
            self._apart(strand, drafts, self._work(work, drafts, strand), by_strand.get(strand))
            for strand, drafts in self._tried.items()
        ]
        return [*tried, *(self._apart(self._real(strand), drafts) for strand, drafts in self._untried.items())]

    @staticmethod
    def _work(work: Work, drafts: list[Draft], strand: str) -> Work:
        pending = {strand: work.pending[strand]} if strand in work.pending else {}
        return Work(work.defaults, drafts, dict(work.limits), tallies=work.tallies, pending=pending)

    def _real(self, strand: str) -> str:
        while strand in self._behind:
            _, found = self._waiting[self._behind[strand]]
            if found == strand:
                return ""  # the earlier record is decided: this one goes with new records
            strand = found
        return strand

    def _apart(
        self, strand: str, drafts: Sequence[Draft], work: Work | None = None, trouble: Trouble | None = None
    ) -> Apart[Work]:
        names = [self._waits_by(draft, strand) for draft in drafts]
        pending = work.pending.get(strand) if work else None
        return Apart(
            strand,
            [draft.record for draft in drafts],
            names,
            work,
            trouble,
            pending.call.done if pending else None,
        )

    def _set_apart(self, draft: Draft, strand: str, where: dict[str, list[Draft]]) -> None:
        where.setdefault(strand, []).append(draft)
        mine = draft.record.offset, strand
        for name in self._waits_by(draft, strand):
            self._waiting[name] = min(mine, self._waiting.get(name, mine))

    def _held(self, draft: Draft, names: Names) -> str | None:
        """Return the strand of the first earlier draft that this try set apart with one of these names."""
        found = [self._waiting[name] for name in names if name in self._waiting]
        return min((each for each in found if each[0] < draft.record.offset), default=(0, None))[1]

    def _waits_by(self, draft: Draft, strand: str) -> Names:
        """Return the names by which later records wait for a draft: also its site, if the draft waits for it."""
        site_id = self._site_id(draft)
        names = self._names(draft, site_id)
        return names | {site_id} if site_id == strand else names

    def _names(self, draft: Draft, site_id: str) -> Names:
        undecided = [event for event in draft.events if event.outcome is None]
        names: set[Hashable] = {(site_id, event.key) for event in undecided}
        # The site of the settings may change while the draft waits.
        names |= {(None, event.key) for event in undecided if not event.credentials.site_id}
        if draft.record.key is not None:
            names.add(draft.record.key)
        return frozenset(names)

    def _site_id(self, draft: Draft) -> str:
        """Return the site that a draft's undecided events go to; empty if no event is undecided."""
        event = next((event for event in draft.events if event.outcome is None), None)
        return self.defaults.site(event.credentials).site_id if event else ""
