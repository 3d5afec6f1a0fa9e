"""Try hostile input of every kind on the real code, in processes that may be lost.

Each trial depends only on its target and its seed. Seeds go up from --seed, so one trial is repeated with its seed and
--count 1. A failing case is shrunk and kept in tests/fuzz/found, where the tests find it. Exit status 1 if any failed.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from random import SystemRandom

from tests.fuzz import found, targets
from tests.fuzz.hunt import Bounds, Hunt
from tests.fuzz.losable import Failure, Losable

_TOLD_EVERY = 5.0
_SAID_LINES = 12


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, help="at most this many trials of each target; default: no limit")
    parser.add_argument(
        "--seconds", type=float, help="for this many seconds; default: 60, or no limit with --count"
    )
    parser.add_argument(
        "--target", action="append", help=f"this one only; may be repeated; default: {', '.join(targets.NAMES)}"
    )
    parser.add_argument("--seed", type=int, help="the seed of the first trial; default: by chance")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="worker processes; default: a core each"
    )
    parser.add_argument("--replay", type=Path, metavar="FILE", help="try a kept case again, and nothing else")
    arguments = parser.parse_args(words)
    for name in arguments.target or ():
        if name not in targets.NAMES and "." not in name:
            parser.error(f"there is no target {name}; choose from {', '.join(targets.NAMES)}")
    if arguments.seconds is None:
        arguments.seconds = 60.0 if arguments.count is None else float("inf")
    if arguments.seed is None:
        arguments.seed = SystemRandom().randrange(1, 10**9)
    return arguments


def told(failure: Failure, path: Path | None) -> str:
    """Print what failed, and how to repeat it."""
    lines = [f"FAILED  {failure.target}, seed {failure.seed}: {failure.rule}"]
    lines += [f"        {line}" for line in failure.details.splitlines()[:_SAID_LINES]]
    if path is None:
        lines.append("        It did not fail again when it was tried alone: it may need the trials before it.")
    else:
        lines.append(f'        again: make fuzz ARGS="--replay {os.path.relpath(path)}"')
    if failure.seed:
        lines.append(f'        again: make fuzz ARGS="--target {failure.target} --seed {failure.seed} --count 1"')
    return "\n".join(lines)


def replay(path: Path) -> int:
    """Try a kept case again, and give the exit status."""
    kept = found.read(path)
    with Losable() as losable:
        failure = losable.try_case(kept.target, kept.case)
    print(told(failure, path) if failure else f"{path} no longer fails")
    return int(failure is not None)


def run(arguments: argparse.Namespace) -> int:
    """Hunt, and give the exit status: 0 if nothing failed, else 1."""
    if arguments.replay:
        return replay(arguments.replay)
    names = arguments.target or list(targets.NAMES)
    print(f"seed {arguments.seed}; targets {', '.join(names)}; {arguments.workers} workers", flush=True)
    hunt = Hunt(
        names,
        Bounds(arguments.seed, arguments.count, arguments.seconds),
        lambda failure, path: print(told(failure, path), flush=True),
    )
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        hunting = pool.submit(hunt.run, arguments.workers)
        try:
            while wait([hunting], _TOLD_EVERY).not_done:
                _tell(hunt, time.monotonic() - begun)
        except KeyboardInterrupt:
            hunt.stop()
        hunting.result()
    total = sum(hunted.trials for hunted in hunt.hunted.values())
    failures = len(hunt.failures)
    said = "clean" if not failures else f"{failures} kind{'' if failures == 1 else 's'} of failure"
    print(f"{said}; {total:,} trials in {time.monotonic() - begun:.0f} s; seed {arguments.seed}")
    return int(failures > 0)


def _tell(hunt: Hunt, elapsed: float) -> None:
    parts = [
        f"{name} {hunted.trials:,} ({hunted.trials / max(hunted.seconds, 0.001):,.0f}/s a worker)"
        for name, hunted in hunt.hunted.items()
        if hunted.trials
    ]
    total = sum(hunted.trials for hunted in hunt.hunted.values())
    print(f"{elapsed:6.0f} s  {total / elapsed:,.0f} trials/s: {', '.join(parts)}", flush=True)


if __name__ == "__main__":
    sys.exit(run(parsed()))
