"""The guard against a flood of dead letters: something upstream is broken, and a full queue helps nobody."""

from collections import deque
from collections.abc import Iterable, Sequence


class FloodGuard:
    """Tells whether too many of the last `window` records were dead letters; a share over `share` is too many."""

    def __init__(self, window: int, share: float) -> None:
        self._window = window
        self._share = share
        self._recent: deque[bool] = deque(maxlen=window)
        self._released = 0

    def admits(self, letters: Iterable[bool]) -> bool:
        """Tell whether these records (True: a dead letter) may follow those noted before."""
        recent = deque(self._recent, maxlen=self._window)
        recent.extend(letters)
        is_flood = len(recent) == self._window and sum(recent) > self._share * self._window
        return self._released > 0 or not is_flood

    def note(self, letters: Sequence[bool]) -> None:
        """Note what was written."""
        self._recent.extend(letters)
        self._released = max(0, self._released - len(letters))

    def release(self) -> None:
        """Let one window of records pass whatever they are, then watch again: an operator has seen it."""
        self._recent.clear()
        self._released = self._window
