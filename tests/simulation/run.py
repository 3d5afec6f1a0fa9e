"""Run worlds: `python -m tests.simulation.run --seeds 1000 --from 1`, or `--seed N` for one with its trace.

On a breach it prints the seed, the invariant, the shortest list of faults that it found to break it, and the
command that repeats the run. Exit status: 1 on a breach.
"""

import argparse
import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.simulation import mutants

if TYPE_CHECKING:
    from tests.simulation.faults import Fault
    from tests.simulation.world import Outcome

_COLLECTED_EVERY = 50
_MOST_SHRINKING = 120.0


class Ran(NamedTuple):
    """What a process reports of a run."""

    seed: int
    injected: int
    faults: Counter[str]
    breach: str | None


def run_one(seed: int, faults: "Sequence[Fault] | None" = None, trace: list[str] | None = None) -> "Outcome":
    """Run one world. Imports the product only now, so that a mutant can be inserted first."""
    from tests.simulation.world import World  # noqa: PLC0415

    return World(seed, faults, trace).run()


def _run(seed: int) -> Ran:
    if seed % _COLLECTED_EVERY == 0:
        gc.collect()
    outcome = run_one(seed)
    return Ran(seed, outcome.injected, outcome.faults, str(outcome.breach) if outcome.breach else None)


def _prepare(mutant: str | None) -> None:
    gc.disable()  # a run is shorter than a collection
    if mutant:
        mutants.apply(mutant)


def runs(first: int, count: int | None, processes: int, mutant: str | None = None) -> Iterator[Ran]:
    """Run worlds from the first seed on: `count` of them, or without end. Yields them in the order of seeds."""
    seeds = range(first, first + count if count else sys.maxsize)
    if processes == 1:
        _prepare(mutant)
        yield from map(_run, seeds)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _prepare, (mutant,)) as pool:
        at_once = processes * 8
        waiting = [pool.apply_async(_run, (seed,)) for seed in seeds[:at_once]]
        for seed in seeds[at_once:]:
            yield waiting.pop(0).get()
            waiting.append(pool.apply_async(_run, (seed,)))
        for ran in waiting:
            yield ran.get()


def shrink(seed: int, invariant: str, faults: "Sequence[Fault]", within: float) -> "list[Fault]":
    """Find fewer faults that break the same guarantee, by leaving out large parts, then smaller ones."""
    end = time.monotonic() + within
    left, size = list(faults), max(1, len(faults) // 2)
    while size and time.monotonic() < end:
        start, is_smaller = 0, False
        while start < len(left) and time.monotonic() < end:
            tried = left[:start] + left[start + size :]
            breach = run_one(seed, tried).breach
            if breach and breach.invariant == invariant:
                left, is_smaller = tried, True
            else:
                start += size
        size = size if is_smaller and size > 1 else size // 2
    return left


def show(console: Console, seed: int, mutant: str | None, *, whole: bool) -> int:
    """Run one seed and print its trace; a breach with the fewest faults found."""
    from tests.simulation.world import World  # noqa: PLC0415

    trace: list[str] = []
    outcome = run_one(seed, trace=trace)
    if outcome.breach is None:
        console.print("\n".join(trace), highlight=False, markup=False, soft_wrap=True)
        console.print(f"seed {seed}: {outcome.injected} faults, {outcome.records} records, no breach")
        return 0
    faults: Sequence[Fault] = World(seed).faults
    if not whole:
        faults = shrink(seed, outcome.breach.invariant, faults, _MOST_SHRINKING)
        trace = []
        outcome = run_one(seed, faults, trace)
    console.print("\n".join(trace), highlight=False, markup=False, soft_wrap=True)
    console.print(f"\nseed {seed} breaks: {outcome.breach}", style="bold red", highlight=False, markup=False)
    console.print(f"with {len(faults)} faults:", *map(str, faults), sep="\n  ", highlight=False, markup=False)
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and give its exit status."""
    options = _parser().parse_args(arguments)
    console = Console()
    if options.seed is not None:
        _prepare(options.mutant)
        return show(console, options.seed, options.mutant, whole=options.whole)
    begun, last = time.monotonic(), 0.0
    count = None if options.seconds else options.seeds
    faults: Counter[str] = Counter()
    done, breaches = 0, list[Ran]()
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("simulating", total=(options.seconds and int(options.seconds)) or count)
        for ran in runs(options.first, count, options.processes, options.mutant):
            done += 1
            faults.update(ran.faults)
            if ran.breach:
                breaches.append(ran)
                break
            now = time.monotonic()
            if now - last > 0.2:
                last = now
                spent = now - begun
                progress.update(
                    task,
                    completed=int(spent) if options.seconds else done,
                    description=f"{done / spent:.0f} runs/s, {faults.total() / spent:.0f} faults/s",
                )
            if options.seconds and now - begun > options.seconds:
                break
    spent = time.monotonic() - begun
    told = f"{done} runs from seed {options.first}, {faults.total()} faults of {len(faults)} kinds in {spent:.1f} s"
    console.print(f"{told}: {done / spent:.1f} runs/s, {faults.total() / spent:.0f} faults/s", highlight=False)
    if options.kinds:
        for kind, number in sorted(faults.items()):
            console.print(f"{number:8}  {kind}", highlight=False)
    if not breaches:
        return 0
    _prepare(options.mutant)
    if not options.brief:
        show(console, breaches[0].seed, options.mutant, whole=False)
    seed, told = breaches[0].seed, breaches[0].breach or ""
    console.print(f"seed {seed} breaks: {told}", style="bold red", highlight=False, markup=False)
    with_mutant = f" --mutant {options.mutant}" if options.mutant else ""
    console.print(f"Replay it: python -m tests.simulation.run --seed {seed}{with_mutant}", highlight=False)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many runs")
    parser.add_argument("--from", type=int, default=1, dest="first", help="the first seed")
    parser.add_argument("--seconds", type=float, help="run for this long instead, whatever the number")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, help="run only this seed, and show its trace")
    parser.add_argument("--whole", action="store_true", help="with --seed: do not look for fewer faults")
    parser.add_argument("--mutant", help="insert this defect first (tests/simulation/mutants.py)")
    parser.add_argument("--brief", action="store_true", help="name a breach, and do not look for fewer faults")
    parser.add_argument("--kinds", action="store_true", help="count the faults by kind")
    return parser


if __name__ == "__main__":
    sys.exit(main())
