"""What the commands print, on a terminal and into a pipe."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ORDERS, obeyed, on_a_terminal, run
from tests.messages import order


def test_no_command_sends_control_characters_of_a_message_to_the_terminal() -> None:
    text = "".join(ORDERS)
    document = order(f"R1{text}", "order:updated", email=f"{text}@example.com")
    shown = on_a_terminal("preview", "-", text=json.dumps(document))
    assert obeyed(shown) == []
    events = json.loads(shown)["events"]
    assert [event["body"]["order_number"] for event in events] == [f"R1{text}"]
    wrong = order("R1", "order:updated", totals={"order": text})
    piped = run("preview", "-", text=json.dumps(wrong)).stdout
    assert obeyed(piped) == []
    assert obeyed(on_a_terminal("preview", f"absent{text.replace(chr(0), '')}")) == []
    assert obeyed(on_a_terminal("results", "--of", text)) == []
    assert obeyed(on_a_terminal("check", CONSUMER_LOG_LEVEL=text)) == []


def test_both_json_options_print_the_same() -> None:
    wrong = {"JIRAFE_URL": "nowhere"}
    forms = (["--json"], ["--output", "json"], ["--output", "csv"])
    shown = [run("check", *form, **wrong).stdout for form in forms]
    assert shown[0] == shown[1]
    assert shown[0].startswith('{"ok":false,"checks":[{"check":"settings"')
    names, row = shown[2].splitlines()
    assert names == "check,verdict,message,fix"
    assert row.startswith("settings,failed,JIRAFE_URL: must be an http:// or https:// address.,")


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_a_command_runs_with_a_closed_standard_stream(descriptor: int, tmp_path: Path) -> None:
    file = tmp_path / "order.json"
    file.write_text(json.dumps(order("R1", "order:updated")))
    commands = (
        (["preview", str(file)], 0),
        (["preview", "-"], 1),
        (["produce", "absent"], 2),
        (["check", "--json"], 1),
    )
    for arguments, status in commands:
        command = [sys.executable, "-m", "consumer", "--env-file", os.devnull, *arguments]
        done = subprocess.run(
            ["/bin/sh", "-c", f'exec "$@" {descriptor}>&-', "sh", *command],
            env={**os.environ, "JIRAFE_SITE_ID": "a b"} if "check" in arguments else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, "Traceback" in done.stderr) == (status, False)


def test_a_file_whose_name_is_not_utf8_is_shown_in_json(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"\xff.json")
    file.write_text(json.dumps(order("R1", "order:updated")))
    shown = run("preview", str(file))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout)["from"] == f"{tmp_path}/\\udcff.json"
