"""What the commands load."""

import subprocess
import sys


def loaded(*arguments: str) -> set[str]:
    """Give the libraries that a command has loaded when it ends."""
    code = f"""
import sys
from consumer.cli.main import main
try:
    main({list(arguments)!r})
finally:
    sys.__stderr__.write(" ".join(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    return {name.partition(".")[0] for name in done.stderr.split()}


HEAVY = {"confluent_kafka", "pydantic", "requests", "prometheus_client", "structlog"}


def test_help_loads_no_library_that_it_does_not_need() -> None:
    assert loaded("--help") & {*HEAVY, "click"} == {"click"}
    assert loaded("--version") & HEAVY == set()
