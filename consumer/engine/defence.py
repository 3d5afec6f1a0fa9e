"""The last line of defence: handles unexpected exceptions of the handler."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from traceback import extract_tb
from typing import Generic

from consumer.engine.ports import Chunk, Done, Handler, Prepared, Retry, Trouble, W

_RAISES_ALONE = 3
_FRAMES = 3
# These are faults of this process, not of a record.
_NOT_OF_A_RECORD = (MemoryError, OSError)


@dataclass(frozen=True)
class Raised(Generic[W]):
    """Handling a chunk raised an exception. Its records must be handed over again, in smaller chunks."""

    chunk: Chunk[W]
    error: Exception

    @property
    def trouble(self) -> Trouble:
        """Why the records are tried again. The error's own text is left out: it may quote anything."""
        first, last = self.chunk.records[0].place, self.chunk.records[-1].place
        where = str(first) if first == last else f"{first} to {last.offset}"
        message = f"handling {where} raised {type(self.error).__name__}"
        return Trouble(str(self.chunk.partition), "internal", message, isolating=True)

    @property
    def at(self) -> Sequence[str]:
        """The last lines of code that the exception came through."""
        frames = extract_tb(self.error.__traceback__)[-_FRAMES:]
        return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


Answer = Done[W] | Prepared[W] | Raised[W] | Retry[W]
"""How a worker gives a chunk back."""


class Defence(Generic[W]):
    """Hands chunks to a handler, and never raises; worker threads call it.

    A record that is alone in its chunk is given up once its handling has raised a few times.
    """

    def __init__(self, handler: Handler[W]) -> None:
        self._handler = handler

    def handle(self, chunk: Chunk[W], still_ours: Callable[[], bool]) -> Done[W] | Retry[W] | Raised[W]:
        """Let the handler handle a chunk once. Blocks as long as the handler does."""
        try:
            answer = self._handler.handle(chunk, still_ours)
        except Exception as error:  # noqa: BLE001 - no record may stop the member
            return self._raised(chunk, error)
        if isinstance(answer, Done) and not _has_all(answer):
            return self._raised(chunk, ValueError("the outputs are not one for each record"))
        return answer

    def prepare(self, chunk: Chunk[W]) -> Prepared[W]:
        """Let the handler prepare a chunk. Exceptions here don't count: they come again when it is handled."""
        try:
            self._handler.prepare(chunk)
        except Exception:  # noqa: BLE001 - as above
            chunk.work = None
        return Prepared(chunk)

    def _raised(self, chunk: Chunk[W], error: Exception) -> Done[W] | Raised[W]:
        chunk.work = None
        chunk.raised += 1
        is_alone = len(chunk.records) == 1 and not isinstance(error, _NOT_OF_A_RECORD)
        if not (is_alone and chunk.raised >= _RAISES_ALONE):
            return Raised(chunk, error)
        try:
            return Done(chunk, [self._handler.give_up(chunk, error)])
        except Exception as another:  # noqa: BLE001 - as above; it is tried again later
            return Raised(chunk, another)


def _has_all(done: Done[W]) -> bool:
    """Return whether each record of a chunk is decided or set apart exactly once, with outputs in order."""
    decided = [output.record for output in done.outputs]
    if not done.apart:
        return decided == done.chunk.records
    apart = [record.offset for each in done.apart for record in each.records]
    offsets = [record.offset for record in done.chunk.records]
    return sorted([*(record.offset for record in decided), *apart]) == sorted(offsets)
