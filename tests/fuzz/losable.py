"""The parent's side of one worker process, which is started when there is work, and may be lost at any time."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import orjson

from tests.fuzz.targets import Case, Limits
from tests.fuzz.worker import target_module

_ROOT = Path(__file__).parents[2]
_STARTING = 60.0
_LAST_WORDS = 2.0
_RUNNING = 0.01
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


class Failure(NamedTuple):
    """A trial that failed: `rule` is the same for all failures of a kind. `seed` is 0 for a case without one."""

    target: str
    seed: int
    rule: str
    details: str


class Began(NamedTuple):
    """A trial has begun."""

    seed: int


class Losable:
    """A worker process. Only one thread may use it, as a context manager."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        # Also removes what lost processes leave behind.
        self._folder = tempfile.TemporaryDirectory(prefix="jirafe-fuzz-")
        self._pending = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._folder.cleanup()

    def run(self, target: str, order: dict[str, Any]) -> Iterator[Began | Failure]:
        """Run trials, and yield what happens. Blocks. If the process is lost, the last failure says how."""
        seed = 0
        for word, content in self._answers(target, order):
            if word == "begin":
                seed = int(content)
                yield Began(seed)
            elif word == "failed":
                yield Failure(target, **orjson.loads(content))
            elif word == "lost":
                yield Failure(target, seed, content.decode(), self._last_words())

    def try_case(self, target: str, case: Case) -> Failure | None:
        """Try one case. Blocks."""
        found = [each for each in self.run(target, {"case": case}) if isinstance(each, Failure)]
        return found[0] if found else None

    def case_of(self, target: str, seed: int) -> Case | None:
        """Draw the case of a seed. None if drawing it loses the process. Blocks."""
        case: Case | None = None
        for word, content in self._answers(target, {"show": seed}):
            if word == "case":
                case = orjson.loads(content)
        return case

    def _answers(self, target: str, order: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
        limits: Limits = target_module(target).LIMITS
        process = self._started()
        patience = _STARTING
        try:
            assert process.stdin
            process.stdin.write(orjson.dumps({"target": target, **order}) + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # the loss is reported below
        while (line := self._line(process, patience)) is not None:
            word, _, content = line.partition(b" ")
            if word == b"done":
                return
            # The limit applies only while a trial runs. Before that, the process may be starting.
            patience = limits.clock
            yield word.decode(), content
        yield "lost", self._loss(process, limits).encode()
        self._end()

    def _line(self, process: subprocess.Popen[bytes], patience: float) -> bytes | None:
        """Read an answer. None if there is none in time, or the process has ended.

        On a busy machine, a process that runs gets more time: its limit is that of the processor.
        """
        assert process.stdout
        deadline, used = time.monotonic() + patience, _processor_seconds(process.pid)
        while b"\n" not in self._pending:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            before, used = used, _processor_seconds(process.pid)
            if not ready and used - before > _RUNNING * patience:
                deadline += patience
                continue
            part = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
            if not part:
                return None
            self._pending += part
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _loss(self, process: subprocess.Popen[bytes], limits: Limits) -> str:
        """Say how the process was lost, and where it was."""
        try:
            status = process.wait(
                _LAST_WORDS if process.stdout and select.select([process.stdout], [], [], 0)[0] else 0
            )
        except subprocess.TimeoutExpired:
            # At SIGABRT, faulthandler prints the stacks.
            process.send_signal(signal.SIGABRT)
            try:
                process.wait(_LAST_WORDS)
            except subprocess.TimeoutExpired:
                process.kill()
            return f"no end within {limits.clock:g} s{self._place()}"
        if status == -signal.SIGPROF:
            return f"no end within {limits.cpu:g} s of the processor{self._place()}"
        if status < 0:
            return f"the process was lost by {signal.Signals(-status).name}{self._place()}"
        return f"the process ended with status {status}"

    def _place(self) -> str:
        """Name the innermost line of our own code that was running."""
        for name, line in _FRAME.findall(self._last_words()):
            path = Path(name)
            if path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in ("consumer", "schemas", "jirafe"):
                return f" at {path.relative_to(_ROOT)}:{line}"
        return ""

    def _last_words(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(0)
        words = self._errors.read()[-20_000:].decode(errors="replace")
        stacks = [stack for stack in words.split("\n\n") if "tests/fuzz/worker.py" in stack]
        return (stacks[-1] if stacks else words).strip()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
            # Each thread's arena would reserve address space, which is limited.
            environment = {
                **os.environ,
                "MALLOC_ARENA_MAX": "2",
                "PYTHONPATH": str(_ROOT),
                "TMPDIR": self._folder.name,
            }
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker"],
                cwd=_ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
            self._pending = b""
        return self._process

    def _end(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout, self._errors):
                if pipe:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self._process = self._errors = None


def _processor_seconds(pid: int) -> float:
    """Return the processor time of a process, 0 if the system does not say."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
