"""The commands as a user runs them: arguments in, output and exit status out."""

import os
import subprocess
import sys


def run(*arguments: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(("KAFKA_", "JIRAFE_", "CONSUMER_"))}
    return subprocess.run(
        [sys.executable, "-m", "consumer", "--env-file", os.devnull, *arguments],
        input=text,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
