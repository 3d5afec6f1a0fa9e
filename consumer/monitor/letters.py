"""Says in the log that messages become dead letters: a line at once, then one a while for each kind."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from consumer.engine.kafka import Logger
from consumer.engine.records import DeadLetter, Output, Record, Trace

QUIET_SECONDS = 30.0
"""At most one line for each kind in so many seconds."""


@dataclass(slots=True)
class _Held:
    """A kind's dead letters since its last line: how many, with one of them; the next line is due at `due`."""

    due: float
    count: int = 0
    example: tuple[Record, DeadLetter] | None = None


class LetterLog:
    """Tells of dead letters, on the main thread. `clock` is in monotonic seconds.

    What a line leaves out is counted in the next of its kind, which `tick` says once it is due, and `close` at the
    end.
    """

    def __init__(self, log: Logger, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._held: dict[str, _Held] = {}

    def note(self, outputs: Iterable[Output]) -> None:
        """Take outputs that were committed, and tell what is due."""
        for output in outputs:
            if letter := output.dead_letter:
                held = self._held.setdefault(letter.kind, _Held(self._clock()))
                held.count += 1
                held.example = held.example or (output.record, letter)
        self.tick()

    def tick(self) -> None:
        """Tell what is due, and forget kinds that have been quiet."""
        now = self._clock()
        for kind, held in list(self._held.items()):
            if now >= held.due:
                del self._held[kind]
                if self._told(kind, held):
                    self._held[kind] = _Held(now + QUIET_SECONDS)

    def close(self) -> None:
        """Tell what is left."""
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
    """Give the ids by which logs and traces are joined: those of the span that the record was sent in."""
    if not trace:
        return {}
    _, trace_id, span_id, _ = trace[0][1].split("-")
    return {"trace_id": trace_id, "span_id": span_id}
