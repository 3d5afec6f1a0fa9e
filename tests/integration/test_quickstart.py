"""README and docs/quickstart.md as a newcomer follows them: every command, in order, in one folder."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from consumer.demo.processes import await_that, free_port

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/quickstart.md").read_text()
README = (ROOT / "README.md").read_text()
SERVERS = ("broker", "sandbox", "run")
NOT_RUN = ("pip", "docker")
"""What tests/integration/test_distribution.py installs, and what needs Docker."""
MOVED = {"localhost:9092": f"localhost:{free_port()}", "localhost:8080": f"localhost:{free_port()}"}


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


class Newcomer:
    """Somebody with a folder and a shell, who types what the page says."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        inherited = {n: v for n, v in os.environ.items() if not n.startswith(("KAFKA_", "JIRAFE_", "CONSUMER_"))}
        self._environment = {**inherited, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def types(self, command: str) -> str:
        done = subprocess.run(
            command.split(),
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def starts(self, command: str, until: str) -> None:
        """Type a command in a terminal of its own, and wait until it says something."""
        log = self.folder / f"{command.split()[1]}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command.split(), cwd=self.folder, env=self._environment, stdout=file, stderr=subprocess.STDOUT
            )
        self._stack.callback(process.wait, 60)
        self._stack.callback(process.terminate)
        await_that(f"{command} says {until}", lambda: until in log.read_text())

    def writes_settings(self) -> None:
        settings = re.findall(r"```env\n(.*?)```", PAGE, flags=re.DOTALL)[0]
        for there, here in MOVED.items():
            settings = settings.replace(there, here)
        with (self.folder / ".env").open("a") as file:
            file.write(settings + "CONSUMER_HTTP_ADDRESS=off\n")


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    with ExitStack() as stack:
        yield Newcomer(tmp_path, stack)


def test_the_quickstart_leads_to_the_first_result(newcomer: Newcomer) -> None:
    ports = {"broker": "localhost:9092", "sandbox": "localhost:8080"}
    followed = []
    for command in commands():
        program, name, *_ = command.split()
        if program in NOT_RUN:
            continue
        assert program == "jirafe-consumer"
        followed.append(name)
        if name in SERVERS:
            if name in ports:
                port = MOVED[ports[name]].partition(":")[2]
                newcomer.starts(f"{command} --port {port}", "Ctrl-C")
            else:
                newcomer.starts(command, '"event": "started"')
        else:
            if name == "check":
                newcomer.writes_settings()
            shown = newcomer.types(command)
    assert followed == ["init", "preview", "broker", "sandbox", "check", "run", "produce", "results"]
    (line,) = [line for line in shown.splitlines() if "taxon:new" in line]
    documented = re.findall(r"^taxons/\d/\d .*$", PAGE, flags=re.MULTILINE)
    assert [line.rstrip()] == documented
    assert result_in_readme() == as_documented(json.loads(newcomer.types("jirafe-consumer results --json")))


def result_in_readme() -> dict[str, object]:
    (shown,) = (
        json.loads(block) for block in re.findall(r"```json\n(.*?)```", README, re.DOTALL) if "code" in block
    )
    return as_documented(shown)


def as_documented(result: dict[str, object]) -> dict[str, object]:
    """Leave out the timestamp, which differs each time."""
    assert result.keys() >= {"timestamp"}
    return {name: value for name, value in result.items() if name != "timestamp"}
