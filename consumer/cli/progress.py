"""Progress bars. They are shown only on a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from consumer.printing import Console


class Bar:
    """One progress bar. `total` is the number of steps, None if unknown."""

    def __init__(self, progress: Progress, description: str, total: int | None) -> None:
        self._progress = progress
        self._description = description
        self._task = progress.add_task(description, total=total)

    def advance(self, steps: int) -> None:
        """Advance the bar."""
        self._progress.update(self._task, advance=steps, description=self._description)

    def at(self, done: int, total: int) -> None:
        """Set the progress."""
        self._progress.update(self._task, completed=done, total=total)

    def tell(self, why: str, seconds: float) -> None:
        """Print why the work waits, and for how many seconds."""
        self._progress.update(self._task, description=f"waiting {seconds:.0f} s")
        self._progress.console.print(f"waiting {seconds:.1f} s: {why}", highlight=False, markup=False)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f}/s")


@contextmanager
def bars(*, counting: bool = False) -> Iterator[Callable[[str, int | None], Bar]]:
    """Yield a function that adds a bar. With `counting`, bars show numbers and a rate, else a percentage."""
    shown = (MofNCompleteColumn(), _Rate()) if counting else (TaskProgressColumn(),)
    columns = (TextColumn("{task.description}"), BarColumn(), *shown, TimeRemainingColumn())
    progress = Progress(*columns, console=Console(to_stderr=True), transient=True, disable=not sys.stderr.isatty())
    with progress:
        yield lambda description, total: Bar(progress, description, total)
