"""A quick check that a document is valid, compiled from its JSON schema.

The jsonschema library decides, but it is slow. A check compiled here returns True only for documents that
jsonschema accepts too. All other documents are validated by jsonschema. So the quick check changes only how long a
verdict takes, never the verdict.
"""

import math
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, TypeAlias

Schema: TypeAlias = Mapping[str, Any]
Check: TypeAlias = Callable[[object], bool]

_KEYWORDS = frozenset(
    {
        "title",
        "format",
        "type",
        "required",
        "properties",
        "items",
        "uniqueItems",
        "minimum",
        "maximum",
        "enum",
        "$ref",
    }
)


def compile_checks(schemas: Mapping[str, Schema]) -> dict[str, Check]:
    """Compile every schema of `schemas`, which are draft 4 and refer to each other by name.

    Raises ValueError for an unknown keyword, because it would not be checked.
    """
    checks: dict[str, Check] = {}

    def named(name: str) -> Check:
        if name not in checks:
            checks[name] = compiled(schemas[name])
        return checks[name]

    def compiled(schema: Schema) -> Check:
        if unknown := schema.keys() - _KEYWORDS:
            raise ValueError(f"schema keywords that no check is written for: {sorted(unknown)}")
        if "$ref" in schema:
            return named(schema["$ref"])
        if schema.keys() == {"enum"}:
            return _one_of(schema["enum"])
        if schema["type"] == "object":
            properties = {name: compiled(part) for name, part in schema.get("properties", {}).items()}
            return _is_object(frozenset(schema.get("required", ())), properties)
        if schema["type"] == "array":
            return _is_array(compiled(schema["items"]), unique=schema.get("uniqueItems", False))
        return _is_scalar(schema)

    for name in schemas:
        named(name)
    return checks


# Types are compared exactly: a bool is an int to isinstance, but not to JSON Schema.


def _is_scalar(schema: Schema) -> Check:
    match schema["type"]:
        case "string":
            return _is_string
        case "boolean":
            return _is_boolean
        case "integer":
            return _is_number((int,), schema)
        case "number":
            return _is_number((int, float), schema)
        case other:
            raise ValueError(f"schema type that no check is written for: {other}")


def _is_string(value: object) -> bool:
    return type(value) is str


def _is_boolean(value: object) -> bool:
    return type(value) is bool


def _is_number(types: tuple[type, ...], schema: Schema) -> Check:
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)

    def check(value: Any) -> bool:
        return type(value) in types and low <= value <= high

    return check


def _one_of(values: list[str]) -> Check:
    allowed = frozenset(values)

    def check(value: object) -> bool:
        return type(value) is str and value in allowed

    return check


def _is_array(is_item: Check, *, unique: bool) -> Check:
    def check(value: object) -> bool:
        if type(value) is not list or not all(map(is_item, value)):
            return False
        # Python treats more values as equal than JSON Schema does (1 and true). Such a list goes to jsonschema.
        return not unique or all(one != other for one, other in combinations(value, 2))

    return check


def _is_object(required: frozenset[str], properties: Mapping[str, Check]) -> Check:
    def check(value: object) -> bool:
        if type(value) is not dict or not value.keys() >= required:
            return False
        for name, part in value.items():
            is_part = properties.get(name)
            if is_part is not None and not is_part(part):
                return False
        return True

    return check
