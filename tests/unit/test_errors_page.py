"""docs/errors.md against the code: it explains every fault and every trouble that the code can make."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer import errors
from consumer.engine import records
from consumer.errors import ERRORS_PAGE
from consumer.monitor import metrics
from jirafe import client

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / ERRORS_PAGE).read_text()
MADE_BY = {"Fault": 0, "Trouble": 1, "Failed": 0, "Unanswered": 0, "met": 0}
"""The calls that make a fault or trouble, and the position of its name in their arguments."""


def table(title: str) -> set[str]:
    """Give the names in the first column of a table."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \|", section, flags=re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


KINDS, CAUSES = table("Dead letters: kinds"), table("Waiting: causes")


def called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def names() -> Iterator[tuple[str, str]]:
    """Give the names in the code, each with the call that makes it."""
    for package in ("consumer", "jirafe", "schemas", "transport"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                maker = called(node)
                position = MADE_BY.get(maker)
                if position is not None and len(node.args) > position:
                    name = node.args[position]
                    value = getattr(records, name.id, "") if isinstance(name, ast.Name) else ""
                    value = name.value if isinstance(name, ast.Constant) else value
                    if re.fullmatch(r"[a-z_-]+", str(value)):
                        yield maker, str(value)
                for keyword in node.keywords:
                    if keyword.arg == "cause" and isinstance(keyword.value, ast.Constant):
                        yield "cause", str(keyword.value.value)


MADE = frozenset(names())


def test_every_fault_is_explained_and_no_other() -> None:
    assert {name for maker, name in MADE if maker == "Fault"} == KINDS
    assert set(errors.KINDS) == KINDS


def test_every_trouble_is_explained() -> None:
    in_code = {name for maker, name in MADE if maker != "Fault"}
    assert len(in_code) >= 8, "the code was not read"
    assert in_code | set(client._OF_TOKEN) <= CAUSES
    statuses = {name for name in CAUSES if name.isdecimal()}
    counted = {name for name in metrics._CAUSES if not name.isdecimal()}
    assert counted == CAUSES - statuses - {"flood"}, "a flood is no retry"
    assert CAUSES - statuses == in_code | set(client._OF_TOKEN)


@pytest.mark.parametrize("path", ["consumer/monitor/page.html", "ops/prometheus/alerts.yml"])
def test_every_place_that_shows_an_error_names_the_page(path: str) -> None:
    text = (ROOT / path).read_text()
    assert ERRORS_PAGE in text
    assert set(re.findall(r"docs/[a-z/-]+\.md", text)) == {ERRORS_PAGE, "docs/operations.md"}


def test_each_situation_that_an_alert_or_the_status_page_names_is_documented() -> None:
    operations = (ROOT / "docs/operations.md").read_text()
    there = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", operations, re.MULTILINE)}
    of_alerts = set(re.findall(r"docs/operations\.md#([a-z-]+)", (ROOT / "ops/prometheus/alerts.yml").read_text()))
    waits = (ROOT / "consumer/monitor/page.html").read_text().partition("const WAITS")[2].partition("};")[0]
    of_page = set(re.findall(r'"([a-z-]+)"\],', waits))
    assert len(of_page) >= 4
    assert of_alerts | of_page <= there
