"""The guard against a flood of dead letters in one topic. A flood usually means that its producer is broken."""

from collections import deque
from collections.abc import Iterable, Sequence


class FloodGuard:
    """Pauses one topic once over `share` of `window` records in a row are dead letters.

    The pause lasts until `release`. Good records that follow do not prove that the cause is fixed.
    """

    def __init__(self, window: int, share: float) -> None:
        self._window = window
        self._share = share
        self._recent: deque[bool] = deque(maxlen=window)
        self._released = 0
        self._holds = False

    @property
    def holds(self) -> bool:
        """Whether the topic is paused: nothing more is admitted until `release`."""
        return self._holds

    def admits(self, letters: Sequence[bool]) -> bool:
        """Return whether these records (True: a dead letter) may be written. If not, the topic is paused."""
        if self._released <= 0 and any(letters):
            self._holds = self._holds or self._is_flood(letters)
        return not self._holds

    def _is_flood(self, letters: Iterable[bool]) -> bool:
        """Return whether any window that ends within these records has too many dead letters."""
        window, most = deque(self._recent, maxlen=self._window), self._share * self._window
        found = sum(window)
        for letter in letters:
            found += letter - (window[0] if len(window) == self._window else 0)
            window.append(letter)
            if found > most and len(window) == self._window:
                return True
        return False

    def note(self, letters: Sequence[bool]) -> None:
        """Note records that were written."""
        self._recent.extend(letters)
        self._released = max(0, self._released - len(letters))

    def release(self) -> None:
        """Let one window of records pass, good or bad, then watch again. Called when an operator says so."""
        self._released, self._holds = self._window, False
