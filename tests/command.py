"""The commands as a user runs them: arguments in, output and exit status out."""

import multiprocessing
import os
import pty
import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack

from consumer.__main__ import main

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
C0 = "".join(map(chr, range(0x20))).translate({ord("\t"): None, ord("\n"): None})
C1 = "".join(map(chr, range(0x7F, 0xA0)))
HOSTILE = C0 + C1 + BIDI + "\u2028\ufeff\U000e0041"
ORDERS = [
    "\x1b[2J\x1b[31mcolor and clear",
    "\x1b]0;a title\x07",
    "\x1b]52;c;aGVsbG8=\x1b\\",
    "\x9b2J\x9d0;title\x9c",
    "over\rwritten\b\b\b",
    f"abc{BIDI}def",
]
"""Texts that a terminal would obey if they were printed unchanged."""

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.preloaded"])

_OURS = re.compile(r"\r*(?:\x1b\[(?:[\d;]*m|\?25[lh]|1A|2K)\r*)+")


def obeyed(printed: str) -> list[str]:
    """Give the sequences that a terminal would obey, except for our own colors and progress bars."""
    return [each for each in _OURS.sub("", printed) if each in HOSTILE]


def run(*arguments: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in its own process, forked from one that has already loaded the libraries."""
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(("KAFKA_", "JIRAFE_", "CONSUMER_"))}
    command = ["jirafe-consumer", "--env-file", os.devnull, *arguments]
    with ExitStack() as stack:
        given, printed, said = (stack.enter_context(tempfile.NamedTemporaryFile("w+")) for _ in range(3))
        given.write(text)
        given.flush()
        files = given.name, printed.name, said.name
        process = _FORKS.Process(target=_main, args=(command, {**inherited, **environment}, files, os.getcwd()))
        process.start()
        process.join(90)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(command, 90, printed.read(), said.read())
        return subprocess.CompletedProcess(command, process.exitcode, printed.read(), said.read())


def _main(command: list[str], environment: dict[str, str], files: tuple[str, str, str], folder: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, (name, flags) in enumerate(zip(files, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY), strict=True)):
        os.dup2(os.open(name, flags), descriptor)
    # As the interpreter makes them. In multiprocessing, a command has no standard input.
    encoding = environment.get("PYTHONIOENCODING")
    sys.stdin = os.fdopen(0, "r", encoding=encoding, closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding=encoding, closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding=encoding, errors="backslashreplace", closefd=False)
    sys.argv = command
    main()


def on_a_terminal(*arguments: str, text: str = "", **environment: str) -> str:
    """Run a command on a terminal, and give all that reached it."""
    ours, theirs = pty.openpty()
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(("KAFKA_", "JIRAFE_", "CONSUMER_"))}
    with subprocess.Popen(
        [sys.executable, "-m", "consumer", "--env-file", os.devnull, *arguments],
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=theirs,
        env={**inherited, "TERM": "xterm-256color", "COLUMNS": "200", **environment},
    ) as process:
        os.close(theirs)
        assert process.stdin
        process.stdin.write(text.encode())
        process.stdin.close()
        shown = b""
        while True:
            try:
                part = os.read(ours, 65_536)
            except OSError:  # on Linux: the other end is closed
                break
            if not part:
                break
            shown += part
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")
