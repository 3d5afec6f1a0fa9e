"""Logs that messages become dead letters: the first of a kind at once, then at intervals."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from consumer.engine.kafka import Logger
from consumer.engine.records import DeadLetter, Output, Record, Trace

QUIET_SECONDS = 30.0
"""The shortest time between two log lines for one kind, in seconds."""


@dataclass(slots=True)
class _Held:
    """The dead letters of a kind since its last line: their number and an example. `due`: when the next may be."""

    due: float
    count: int = 0
    example: tuple[Record, DeadLetter] | None = None


class LetterLog:
    """Logs dead letters. Called on the main thread. `clock` is in monotonic seconds.

    Letters that get no line of their own are counted in the next line of their kind. `tick` writes that line once
    it is due, and `close` at the end.
    """

    def __init__(self, log: Logger, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._held: dict[str, _Held] = {}

    def note(self, outputs: Iterable[Output]) -> None:
        """Count the dead letters of committed outputs, and log the kinds that are due."""
        for output in outputs:
            if letter := output.dead_letter:
                held = self._held.setdefault(letter.kind, _Held(self._clock()))
                held.count += 1
                held.example = held.example or (output.record, letter)
        self.tick()

    def tick(self) -> None:
        """Log the kinds that are due, and forget those without new letters."""
        now = self._clock()
        for kind, held in list(self._held.items()):
            if now >= held.due:
                del self._held[kind]
                if self._told(kind, held):
                    self._held[kind] = _Held(now + QUIET_SECONDS)

    def close(self) -> None:
        """Log the letters that no line has counted yet."""
        for kind, held in self._held.items():
            self._told(kind, held)
        self._held.clear()

    def _told(self, kind: str, held: _Held) -> bool:
        if held.example is None:
            return False
        record, letter = held.example
        self._log.warning(
            "dead_letters",
            kind=kind,
            count=held.count,
            place=str(record.place),
            reason=letter.reason,
            **_ids(record.trace),
        )
        return True


def _ids(trace: Trace) -> dict[str, str]:
    """Return the ids that link a log line to the trace of its record."""
    if not trace:
        return {}
    _, trace_id, span_id, _ = trace[0][1].split("-")
    return {"trace_id": trace_id, "span_id": span_id}
