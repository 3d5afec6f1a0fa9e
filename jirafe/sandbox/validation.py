"""Which events the API accepts, and the errors it finds in the others."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import cast

from jsonschema import Draft4Validator, ValidationError
from referencing import Registry
from referencing.jsonschema import DRAFT4

from jirafe.sandbox.acceptance import Schema, compile_checks

KINDS = ("cart", "order", "category", "product", "customer", "employee")


def load_schemas() -> dict[str, Schema]:
    """Read the API's schemas (draft 4), by the name under which they refer to each other."""
    folder = files("jirafe.sandbox") / "schemas"
    return {file.name: json.loads(file.read_text("utf-8")) for file in folder.iterdir()}


class Validator:
    """Validates events by the API's schemas. Has no state, so threads may share it."""

    def __init__(self) -> None:
        schemas = load_schemas()
        registry: Registry[bool | Schema] = Registry().with_resources(
            (name, DRAFT4.create_resource(schema)) for name, schema in schemas.items()
        )
        self._accepts = compile_checks(schemas)
        self._judges = {name: Draft4Validator(schema, registry=registry) for name, schema in schemas.items()}

    def errors(self, kind: str, body: object) -> dict[str, str]:
        """Return what is wrong with an event of this kind, as path -> message; nothing if it is accepted."""
        if kind != "order":
            return self._errors(f"{kind}.json", body)
        # An order's status picks its schema, so nothing more can be said of an order without a known one.
        errors = self._errors("order.json", body)
        if not errors and isinstance(body, Mapping):
            errors = self._errors(f"order-{body['status']}.json", body)
        return errors

    def _errors(self, name: str, body: object) -> dict[str, str]:
        if self._accepts[name](body):
            return {}
        return {_path(error): error.message for error in self._judges[name].iter_errors(body)}


def _path(error: ValidationError) -> str:
    """Return the dotted path of what is wrong; for a missing property, of that property."""
    steps = [str(step) for step in error.absolute_path]
    if error.validator == "required":
        # jsonschema names the missing property only in its message, which begins with its repr.
        required = cast("list[str]", error.validator_value)
        steps += [name for name in required if error.message.startswith(repr(name))]
    return ".".join(steps)
