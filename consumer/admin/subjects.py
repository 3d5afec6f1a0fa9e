"""Our schemas in a Schema Registry: looks up the state of each, and registers new ones."""

from dataclasses import dataclass
from typing import Literal

from schemas.own import OWN_SCHEMAS, own_schema
from schemas.registry import SchemaRefused, SchemaRegistry


@dataclass(frozen=True, slots=True)
class Subject:
    """The state of our schema `schema` in the registry.

    `registered`: it was there already, with an id and a version. `added`: it was registered just now. `new`: it is
    not there, but can be registered. `incompatible`: it can't be registered; `reason` quotes the registry.
    """

    subject: str
    schema: str
    state: Literal["registered", "added", "new", "incompatible"]
    id: int | None = None
    version: int | None = None
    reason: str | None = None


def check(registry: SchemaRegistry) -> list[Subject]:
    """Look up the state of each of our schemas; changes nothing. Blocks; raises RegistryUnavailable."""
    return [_checked(registry, name) for name in OWN_SCHEMAS]


def register(registry: SchemaRegistry) -> list[Subject]:
    """Register our new schemas, but none if one is incompatible. Blocks; raises RegistryUnavailable."""
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
        # The check compared it only with the latest version, but a registry may compare it with all.
        return Subject(subject, name, "incompatible", reason=error.reason)
    found = registry.registered(name, schema)
    return Subject(subject, name, "added", schema_id, found.version if found else None)
