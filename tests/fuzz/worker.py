"""The worker process. It draws cases and tries them, and announces each before it tries it.

Orders come as lines of JSON on standard input. Answers go to standard output, a line each: `begin SEED`,
`failed JSON`, `case JSON`, `done`. The output of the tried code is discarded. The stacks of a lost process go to
standard error.
"""

import faulthandler
import importlib
import os
import resource
import signal
import sys
import traceback
from random import Random
from types import ModuleType
from typing import Any

import orjson

from tests.fuzz.targets import Breach, Case

_RESERVE = 1 << 30
_DRAWING = 20.0
_DEEPEST_DRAWN = 20_000
_OURS = ("consumer", "schemas", "jirafe")
_SAID = 300


class Trials:
    """Runs trials one after the other, and calls `answer` for each."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        try:
            self._clear = os.open("/proc/self/clear_refs", os.O_WRONLY)
        except OSError:
            self._clear = -1  # not Linux: memory is measured from the peak so far

    def _say(self, what: str, content: object = None) -> None:
        os.write(self._answers, what.encode() + (b"" if content is None else b" " + _dumped(content)) + b"\n")

    def follow(self, order: dict[str, Any]) -> None:
        """Do what an order says: try its case, or the cases of `count` seeds from `first` on."""
        target = target_module(order["target"])
        _limit_address_space()
        if "case" in order:
            self._say("begin", 0)
            self._try(target, order["case"], 0)
        elif "show" in order:
            self._say("case", drawn(target, order["show"]))
        else:
            for seed in range(order["first"], order["first"] + order["count"]):
                self._say("begin", seed)
                _within(_DRAWING)
                try:
                    case = drawn(target, seed)
                except Exception as error:  # noqa: BLE001 - a mistake of the harness, to be told as any other
                    self._failed(seed, f"the case can't be drawn: {type(error).__name__}", repr(error))
                else:
                    self._try(target, case, seed)
        self._say("done")

    def _try(self, target: ModuleType, case: Case, seed: int) -> None:
        limits = target.LIMITS
        if self._clear >= 0:
            os.write(self._clear, b"5")
        before = _peak()
        _within(limits.cpu)
        try:
            target.try_out(case)
        except Breach as breach:
            self._failed(seed, breach.rule, breach.details)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is found
            self._failed(seed, f"raised {type(error).__name__} {_place(error)}", repr(error))
        finally:
            _within(0)
        if (grown := (_peak() - before) >> 20) > limits.memory:
            self._failed(seed, f"took more than {limits.memory} MiB of memory", f"{grown} MiB")

    def _failed(self, seed: int, rule: str, details: str) -> None:
        self._say("failed", {"seed": seed, "rule": rule, "details": details[:_SAID]})


def target_module(name: str) -> ModuleType:
    """Load a target: one of `targets/` by its name, or any other by the dotted name of its module."""
    return importlib.import_module(name if "." in name else f"tests.fuzz.targets.{name}")


def drawn(target: ModuleType, seed: int) -> Case:
    """Draw the case of a seed. Two targets draw differently from the same seed."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(_DEEPEST_DRAWN)
    try:
        case: Case = target.draw(Random(f"{target.__name__} {seed}"))
    finally:
        sys.setrecursionlimit(usual)
    return case


def _dumped(content: object) -> bytes:
    return orjson.dumps(content, default=repr)


def _within(seconds: float) -> None:
    """Let the system end this process by SIGPROF after this much processor time, even in C code."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _peak() -> int:
    """Give the peak of memory so far, in bytes."""
    try:
        # getrusage may give the peak of the process that started this one.
        with open("/proc/self/status", "rb") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(b"VmHWM:"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: in bytes


def _limit_address_space() -> None:
    """Limit all further allocations to `_RESERVE` bytes. The rule for a trial is `Limits.memory`."""
    try:
        with open("/proc/self/statm", "rb") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (now + _RESERVE, resource.RLIM_INFINITY))


def _place(error: BaseException) -> str:
    """Name the innermost line of our own code that an exception went through."""
    here = os.getcwd() + os.sep
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(here)]
    ours = [frame for frame in frames if frame.filename.removeprefix(here).startswith(_OURS)] or frames
    return f"at {ours[-1].filename.removeprefix(here)}:{ours[-1].lineno}" if ours else "outside of our code"


def main() -> None:
    """Carry out orders until there are no more."""
    answers = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    faulthandler.enable(all_threads=True)
    faulthandler.register(signal.SIGPROF, all_threads=True, chain=True)
    trials = Trials(answers)
    for line in sys.stdin.buffer:
        trials.follow(orjson.loads(line))


if __name__ == "__main__":
    main()
