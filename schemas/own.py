"""Our own schemas: the messages of the hub, and results."""

from functools import cache
from pathlib import Path
from typing import cast

from fastavro.schema import load_schema

from schemas.writers import Schema

OWN_SCHEMAS = ("cart", "order", "product", "taxon", "result")
"""The names of our own schemas."""

_HERE = Path(__file__).parent


@cache
def own_schema(name: str) -> Schema:
    """Load one of this package's schemas (cart, order, product, taxon, result), self-contained.

    All callers share it, so it must not be changed.
    """
    return cast("Schema", load_schema(str(_HERE / f"{name}.avsc")))


def earlier_schemas() -> list[Schema]:
    """Load earlier versions of our schemas, so that old records stay readable."""
    return [own_schema(path.stem) for path in sorted(_HERE.glob("*-[0-9].avsc"))]
