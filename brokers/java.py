"""Shared by the broker and the registry: Maven fetches them, and a JVM runs them."""

import os
import shutil
import subprocess
from pathlib import Path

from consumer.errors import BrokerUnavailable

_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jirafe-consumer"
_FETCHED_WITHIN = 600.0
_STOPPED_WITHIN = 30.0


def fetched(name: str, pom: Path, goal: str) -> Path:
    """Give the cached folder `name` with the artifacts of the pom, fetched by a goal of Maven's dependency plugin.

    Raises BrokerUnavailable if there is no JVM or Maven, or it can't be fetched.
    """
    if shutil.which("java") is None or shutil.which("mvn") is None:
        raise BrokerUnavailable(f"{name} needs java and mvn on the PATH.")
    folder = _CACHE / name
    complete = folder / "complete"
    if not complete.exists() or complete.read_text() != pom.read_text():
        plugin = "org.apache.maven.plugins:maven-dependency-plugin"
        into = [f"-DoutputDirectory={folder}", f"-DmarkersDirectory={folder}/markers"]
        try:
            done = subprocess.run(  # noqa: S603 - our own command line
                ["mvn", "-q", "-B", "-f", str(pom), f"{plugin}:{goal}", *into],  # noqa: S607 - the user's mvn
                capture_output=True,
                text=True,
                check=False,
                timeout=_FETCHED_WITHIN,
            )
        except subprocess.TimeoutExpired:
            raise BrokerUnavailable(f"Maven did not fetch {name} in {_FETCHED_WITHIN:.0f} seconds.") from None
        if done.returncode:
            raise BrokerUnavailable(f"Maven could not fetch {name}: {done.stdout.strip()[-300:]}")
        complete.write_text(pom.read_text())
    return folder


def stop(process: subprocess.Popen[bytes], *, kindly: bool) -> None:
    """Stop a process, by SIGTERM if `kindly`, else by SIGKILL, and wait until it has ended."""
    if kindly:
        process.terminate()
    else:
        process.kill()
    try:
        process.wait(_STOPPED_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
