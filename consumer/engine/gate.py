"""A gate: strands wait behind it while something is down, and one of them probes."""

from collections.abc import Callable, Hashable

from consumer.engine.ports import Trouble


class Gate:
    """Where strands wait while something is down. One strand at a time probes.

    Pure state: the caller passes the time. The strand that failed last probes last, so that no strand can keep the
    others waiting forever. `since` is when the gate closed, `due` when the next probe may go, and `trouble` why it
    closed.
    """

    def __init__(self, since: float, trouble: Trouble) -> None:
        self.since = since
        self.due = since
        self.trouble = trouble
        self.failures = 0
        self._firm = False
        self._probe: Hashable | None = None
        self._waiting: dict[Hashable, None] = {}

    @property
    def is_firm(self) -> bool:
        """Whether strands that did not fail here must wait too: a probe failed, or a server asked us to wait."""
        return self._firm or self.failures > 1

    def join(self, who: Hashable) -> None:
        """Let a strand wait behind the others."""
        self._waiting.setdefault(who)

    def failed(self, who: Hashable, trouble: Trouble, due: Callable[[int], float]) -> None:
        """Note that a strand's try failed; `due` gives the time of the next try after a number of failures.

        Strands that fail together are one failure: only the first strand's and a probe's count.
        """
        self._waiting.pop(who, None)
        self._waiting[who] = None
        self.trouble = trouble
        firm = trouble.held or trouble.retry_after is not None
        self._firm = self._firm or firm
        if self.failures == 0 or self._probe == who:
            self.failures += 1
            self.due = due(self.failures)
            self._probe = None
        elif firm:
            self.due = max(self.due, due(self.failures))  # a server asks for a longer wait

    def admits(self, who: Hashable, now: float) -> bool:
        """Return whether this strand may probe now. If so, it is the probe until it fails or leaves."""
        if self._probe is not None or now < self.due or next(iter(self._waiting)) != who:
            return False
        self._probe = who
        return True

    def pass_over(self, who: Hashable) -> None:
        """Let all others probe before a strand that can't go now. It must wait here."""
        self._waiting[who] = self._waiting.pop(who)

    def leave(self, who: Hashable) -> bool:
        """Forget a strand. Returns whether other strands still wait."""
        self._waiting.pop(who, None)
        if self._probe == who:
            self._probe = None
        return bool(self._waiting)
