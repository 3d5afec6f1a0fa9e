"""All pages of the documentation: what they name and link to exists."""

import re
import shlex
from pathlib import Path

import click
import pytest

from consumer.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def test_every_command_is_in_the_table() -> None:
    table = (ROOT / "docs/quickstart.md").read_text().partition("\n## Commands\n")[2].partition("\n## ")[0]
    cells = [
        name for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall("`(.+?)`", cell)
    ]
    assert {cell.split()[0] for cell in cells} == set(cli.list_commands(click.Context(cli)))


def test_make_targets_in_the_documentation_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"(?:`|\$ )make ([a-z-]+)", page.read_text())}
    assert "demo" in named
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_existing_files_and_headings(page: Path) -> None:
    for link, heading in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        target = page.parent / link if link else page
        assert target.exists(), link
        if heading:
            assert heading in headings(target), f"{link}#{heading}"


def headings(page: Path) -> set[str]:
    """Give the anchors that GitHub and the site make from a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


def typed() -> list[str]:
    """Give every command in a console block of a page, without its comment."""
    lines = [line for page in PAGES for line in re.findall(r"^[$#] (.+)$", fenced(page), flags=re.MULTILINE)]
    return sorted({re.sub(r"\s+#.*", "", line) for line in lines})


def fenced(page: Path) -> str:
    return "\n".join(re.findall(r"^```console\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("line", [line for line in typed() if re.match(r"(\S+/)?jirafe-consumer ", line)])
def test_commands_in_the_documentation_are_valid(line: str) -> None:
    arguments = shlex.split(line.partition(" > ")[0].partition(" | ")[0])[1:]
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        found = command.get_command(context, arguments.pop(0))
        assert found, line
        command = found
    command.make_parser(click.Context(command)).parse_args(list(arguments))


def test_files_in_documented_commands_exist() -> None:
    named = {word for line in typed() for word in line.split() if re.match(r"(tests|ops|consumer)/", word)}
    assert len(named) >= 8
    assert [word for word in named if not (ROOT / word).exists()] == []


def test_each_page_is_on_the_site() -> None:
    listed = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
