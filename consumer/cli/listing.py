"""The output forms of listings: a table for people, JSON or CSV for programs. All commands share the options."""

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import Any, TypeVar

import click

T = TypeVar("T")


class Form(StrEnum):
    """The output form of a listing."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def in_a_form(of_json: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Add the options for the output form to a command, as one argument `form`. `of_json` describes the JSON."""

    def decorated(command: Callable[..., T]) -> Callable[..., T]:
        @click.option(
            "--output",
            type=click.Choice([each.value for each in Form]),
            help=f"A table, JSON ({of_json}), or CSV with a header row. Default: table.",
        )
        @click.option("--json", "as_json", is_flag=True, help="The same as --output json.")
        @wraps(command)
        def formed(*arguments: Any, output: str | None, as_json: bool, **options: Any) -> T:
            if as_json and output not in (None, Form.JSON):
                raise click.UsageError(
                    f"--json and --output {output} contradict each other", click.get_current_context()
                )
            form = Form.JSON if as_json else Form(output or Form.TABLE)
            return command(*arguments, form=form, **options)

        return formed

    return decorated
