"""What `replay` and `dead-letters redrive` share: a bar, Ctrl-C that stops in good order, a table at the end."""

import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from consumer.record import Output
from consumer.tools.redelivery import Watcher


@dataclass(slots=True)
class Tally:
    """What became of records that were delivered again."""

    delivered: int = 0
    failed: int = 0
    left_out: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, outputs: tuple[Output, ...]) -> None:
        """Count outputs."""
        for output in outputs:
            if output.dead_letter:
                self.failed += 1
                self.kinds[output.dead_letter.kind] += 1
            else:
                self.delivered += 1

    def as_object(self) -> dict[str, Any]:
        """Give it for JSON."""
        return {
            "delivered": self.delivered,
            "failed": self.failed,
            "left_out": self.left_out,
            "dead_letters": dict(self.kinds),
        }

    def show(self, title: str) -> None:
        """Print it as a table."""
        table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        table.add_row("delivered again", f"{self.delivered:,}")
        table.add_row("failed again, new dead letters", f"{self.failed:,}")
        for kind, count in self.kinds.most_common():
            table.add_row(f"  {kind}", f"{count:,}")
        table.add_row("left out", f"{self.left_out:,}")
        Console(highlight=False).print(table)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f}/s")


class Bar:
    """A bar on a terminal, for so many steps in all, if that is known."""

    def __init__(self, progress: Progress, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task("delivering", total=total)

    def advance(self, steps: int) -> None:
        """Move it on."""
        self._progress.update(self._task, advance=steps, description="delivering")

    def at(self, done: int, total: int) -> None:
        """Say how far it is."""
        self._progress.update(self._task, completed=done, total=total)

    def tell(self, why: str, seconds: float) -> None:
        """Say why it stands."""
        self._progress.update(self._task, description=f"waiting {seconds:.0f} s")
        self._progress.console.print(f"waiting {seconds:.1f} s: {why}", highlight=False, markup=False)


@contextmanager
def watched(total: int | None) -> Iterator[tuple[Bar, Watcher]]:
    """Show a bar, and have the first SIGINT or SIGTERM stop in good order; a second one ends it at once."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with progress:
        bar = Bar(progress, total)
        watcher = Watcher(bar.tell)

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            watcher.stopped = True
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield bar, watcher
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
