"""The guard against a flood of dead letters in one topic: what feeds it is broken."""

from collections import deque
from collections.abc import Iterable, Sequence


class FloodGuard:
    """Holds one topic once too many of `window` records in a row are dead letters; over `share` is too many.

    It then holds until it is released: good records that follow do not prove that the cause is fixed.
    """

    def __init__(self, window: int, share: float) -> None:
        self._window = window
        self._share = share
        self._recent: deque[bool] = deque(maxlen=window)
        self._released = 0
        self._holds = False

    @property
    def holds(self) -> bool:
        """Whether nothing more is admitted until `release`."""
        return self._holds

    def admits(self, letters: Sequence[bool]) -> bool:
        """Tell whether these records (True: a dead letter) may follow those noted before; if not, it holds."""
        if self._released <= 0 and any(letters):
            self._holds = self._holds or self._is_flood(letters)
        return not self._holds

    def _is_flood(self, letters: Iterable[bool]) -> bool:
        """Tell whether any window that ends among these records has too many."""
        window, most = deque(self._recent, maxlen=self._window), self._share * self._window
        found = sum(window)
        for letter in letters:
            found += letter - (window[0] if len(window) == self._window else 0)
            window.append(letter)
            if found > most and len(window) == self._window:
                return True
        return False

    def note(self, letters: Sequence[bool]) -> None:
        """Note what was written."""
        self._recent.extend(letters)
        self._released = max(0, self._released - len(letters))

    def release(self) -> None:
        """Let one window of records pass whatever they are, then watch again: an operator has seen it."""
        self._released, self._holds = self._window, False
