"""Our schemas in a Schema Registry: where each of them stands there, and putting there what is new."""

from dataclasses import dataclass
from typing import Literal

from schemas.own import OWN_SCHEMAS, own_schema
from schemas.registry import SchemaRefused, SchemaRegistry


@dataclass(frozen=True, slots=True)
class Subject:
    """Where our schema `schema` stands in the registry.

    `registered`: it is there, with its id and version; `added`: so it is now; `new`: it is not, and may come;
    `incompatible`: it may not, for the registry's `reason`.
    """

    subject: str
    schema: str
    state: Literal["registered", "added", "new", "incompatible"]
    id: int | None = None
    version: int | None = None
    reason: str | None = None


def check(registry: SchemaRegistry) -> list[Subject]:
    """Ask where each of our schemas stands; nothing is changed. Raises RegistryUnavailable."""
    return [_checked(registry, name) for name in OWN_SCHEMAS]


def register(registry: SchemaRegistry) -> list[Subject]:
    """Register what is new, nothing at all if one is incompatible; raises RegistryUnavailable."""
    subjects = check(registry)
    if any(subject.state == "incompatible" for subject in subjects):
        return subjects
    for index, subject in enumerate(subjects):
        if subject.state == "new":
            subjects[index] = added = _added(registry, subject.schema)
            if added.state == "incompatible":
                break
    return subjects


def _checked(registry: SchemaRegistry, name: str) -> Subject:
    subject, schema = registry.subjects[name], own_schema(name)
    if found := registry.registered(name, schema):
        return Subject(subject, name, "registered", found.id, found.version)
    if reason := registry.incompatibility(name, schema):
        return Subject(subject, name, "incompatible", reason=reason)
    return Subject(subject, name, "new")


def _added(registry: SchemaRegistry, name: str) -> Subject:
    subject, schema = registry.subjects[name], own_schema(name)
    try:
        schema_id = registry.register(name, schema)
    except SchemaRefused as error:
        # It was checked against the latest version alone, and a registry may ask for more.
        return Subject(subject, name, "incompatible", reason=error.reason)
    found = registry.registered(name, schema)
    return Subject(subject, name, "added", schema_id, found.version if found else None)
