"""What `replay` and `dead-letters redrive` share: a progress bar, a clean stop on Ctrl-C, a table at the end."""

import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.markup import escape
from rich.table import Table

from consumer.admin.redelivery import Watcher
from consumer.cli.progress import Bar, bars
from consumer.cli.usage import stop_on_signal
from consumer.engine.records import Output
from consumer.printing import Console


@dataclass(slots=True)
class RedeliveryTally:
    """Counts what became of records that were delivered again."""

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

    @property
    def has_begun(self) -> bool:
        """Whether there is something to count."""
        return bool(self.delivered or self.failed or self.left_out)

    def as_object(self) -> dict[str, Any]:
        """Return the counts as a JSON object."""
        return {
            "delivered": self.delivered,
            "failed": self.failed,
            "left_out": self.left_out,
            "dead_letters": dict(self.kinds),
        }

    def show(self, title: str) -> None:
        """Print the counts as a table."""
        kinds = [(f"  {kind}", count) for kind, count in self.kinds.most_common()]
        failed = ("failed again, new dead letters", self.failed)
        show_counts(title, [("delivered again", self.delivered), failed, *kinds, ("left out", self.left_out)])


def show_counts(title: str, counts: Iterable[tuple[str, int]]) -> None:
    """Print named counts as a table."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, count in counts:
        table.add_row(escape(name), f"{count:,}")
    # A table would wrap a title that is wider than its rows.
    Console().print(f"[bold]{escape(title)}[/]", table, sep="\n")


@contextmanager
def watched(total: int | None) -> Iterator[tuple[Bar, Watcher]]:
    """Show a bar, and stop cleanly on the first SIGINT or SIGTERM. A second signal ends the process at once."""
    with bars(counting=True) as add_bar:
        bar = add_bar("delivering", total)
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield bar, Watcher(stop_on_signal(), bar.tell)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
