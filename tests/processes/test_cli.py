"""What the commands load, and the options that they refuse."""

import os
import subprocess
import sys

import pytest

from tests.command import run


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


@pytest.mark.parametrize(
    ("command", "option"), [("results", "--type"), ("dead-letters list", "--kind"), ("offsets reset", "--topic")]
)
def test_an_option_without_its_value_is_reported_with_its_command(command: str, option: str) -> None:
    refused = run(*command.split(), option)
    assert (refused.returncode, refused.stdout) == (2, "")
    why = f"Option '{option}' requires an argument"
    assert refused.stderr == f"jirafe-consumer {command}: {why}; see jirafe-consumer {command} --help.\n"


@pytest.mark.parametrize(
    "command",
    [
        *(["shop", f"--rate={rate}"] for rate in ("0", "-1", "1e-10", "1e7", "inf", "nan", "many")),
        *(
            ["produce", "absent", f"--topic={topic}"]
            for topic in ("", "a b", "..", "^a$", "a" * 250, os.fsdecode(b"\xff"))
        ),
        ["replay", "--topic=orders", "--rate=inf"],
        ["dead-letters", "redrive", "--rate=nan"],
        ["topics", "create", "--partitions=99999999999"],
        ["topics", "create", "--replication=99999"],
        *(["sandbox", f"--host={host}"] for host in ("", "a..b", "a" * 70, os.fsdecode(b"\xff"))),
    ],
)
def test_a_value_that_no_option_can_have_is_refused_in_one_sentence(command: list[str]) -> None:
    refused = run(*command, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert command[-1].partition("=")[0] in refused.stderr
