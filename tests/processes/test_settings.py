"""Settings that the commands refuse, and what reading them loads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import run


def test_settings_load_neither_the_codec_nor_the_clients() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, consumer.settings; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "consumer.settings" in loaded
    assert not {"fastavro", "confluent_kafka", "schemas", "jirafe", "transport", "consumer.app"} & set(loaded)


def test_commands_refuse_contradictory_settings() -> None:
    same = {"CONSUMER_RESULTS_TOPIC": "orders"}
    (finding,) = json.loads(run("check", "--json", **same).stdout)["checks"]
    assert (finding["check"], finding["verdict"]) == ("settings", "failed")
    for command in ("run", "results"):
        refused = run(command, **same)
        assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", finding["message"] + "\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACKS", "1"),
        ("RETRIES", "0"),
        ("QUEUING_STRATEGY", "lifo"),
        ("MAX_IN_FLIGHT", "10"),
        ("FETCH_MAX_BYTES", "-5"),
    ],
)
def test_properties_that_the_library_refuses_are_refused_before_the_member_joins(name: str, value: str) -> None:
    refused = run("run", **{f"KAFKA_{name}": value, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"})
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert f"KAFKA_{name} is wrong" in refused.stderr


def test_an_env_file_in_the_current_folder_loads_no_library(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("KAFKA_PLUGIN_LIBRARY_PATHS=./evil\n")
    done = subprocess.run(
        [sys.executable, "-m", "consumer", "lag"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "KAFKA_PLUGIN_LIBRARY_PATHS makes the library run code, and .env was only" in done.stderr
