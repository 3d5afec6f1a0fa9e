"""The table of docs/settings.md, made from the settings. `python -m tests.settings_page` writes it."""

from pathlib import Path

from consumer.cli.init import written
from consumer.settings import GROUPS

PAGE = Path(__file__).parents[1] / "docs/settings.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"


def table() -> str:
    """Give the table of all settings except `KAFKA_*`, in the order of the code."""
    rows = ["| setting | default | what it is |", "|---|---|---|"]
    for prefix, group in GROUPS.items():
        for name, field in group.model_fields.items():
            default = written(field.default)
            rows.append(f"| `{prefix}{name.upper()}` | {f'`{default}`' if default else ''} | {field.description} |")
    return "\n".join(rows) + "\n"


def with_table(page: str) -> str:
    """Give the page with the current table."""
    head, _, rest = page.partition(BEGIN)
    return f"{head}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
