"""A Schema Registry of Confluent's protocol, over HTTP.

https://docs.confluent.io/platform/current/schema-registry/develop/api.html. The codec caches what it gets,
so that an outage is felt only by schemas not yet seen.
"""

import time
from base64 import b64encode
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import orjson

from schemas.codec import RegistryUnavailable, SchemaId, UnknownSchema
from schemas.writers import AvroType, Schema
from transport.http import Reply, Transport, Unanswered
from transport.redaction import quoted, without

_NO_SUBJECT, _NO_VERSION, _NO_SCHEMA = 40401, 40402, 40403
# Each request has its own connection: requests are few, and a long idle connection may be cut unnoticed.
_HEADERS = {"Content-Type": "application/vnd.schemaregistry.v1+json", "Connection": "close"}
# A registry keeps a schema in one record of Kafka.
_LONGEST_ANSWER = 2 * 1024 * 1024
_MOST_REFERENCES = 100
_LONGEST_SUBJECT = 1000
_LARGEST_NUMBER = 2**31 - 1
_QUOTED = 500
_AVRO, _JSON = "AVRO", "JSON"
_LONGEST_HOST = 253
_NO_REASON = "the registry gives no reason"


@dataclass(frozen=True, slots=True)
class Access:
    """How the registry and this client authenticate each other. The password is not in its `repr`.

    `ca` has the certificates that the registry's own is checked by, None: the usual ones. `certificate` is ours,
    with `key` or with its key in the same file.
    """

    user: str = ""
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class SchemaRefused(RegistryUnavailable):
    """The registry refuses our schema as incompatible with its subject's; `reason` quotes the registry."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(f"the schema registry refuses our schema for {subject}: {reason}")
        self.reason = reason


class Registered(NamedTuple):
    """Where a schema is in the registry: its id, and its version within its subject."""

    id: int
    version: int


class SchemaRegistry:
    """Looks up schemas by id, and registers ours under `subjects` (schema name -> subject).

    Safe to share between threads. The timeout, in seconds, is for a request in all, and for the look-up of a schema
    with all that it refers to.
    """

    def __init__(self, url: str, subjects: dict[str, str], access: Access, *, timeout: float) -> None:
        self.subjects = subjects
        self._url = url.rstrip("/")
        self._transport = Transport(ca=access.ca, certificate=access.certificate, key=access.key)
        self._headers = _HEADERS
        if access.password is not None:
            login = b64encode(f"{access.user}:{access.password}".encode()).decode()
            self._headers = {**_HEADERS, "Authorization": f"Basic {login}"}
        self._password = access.password or ""
        self._timeout = timeout

    def schema(self, schema_id: SchemaId) -> list[AvroType] | None:
        """Return the schema with this id, after all schemas that it refers to, each before its users.

        None for one of JSON Schema. Raises UnknownSchema, RegistryUnavailable.
        """
        end = time.monotonic() + self._timeout
        answer = self._asked("GET", f"/schemas/{'ids' if isinstance(schema_id, int) else 'guids'}/{schema_id}")
        if answer.says(_NO_SCHEMA):
            raise UnknownSchema(f"the schema registry knows no schema with the id {schema_id}")
        if answer.is_of(_JSON):
            return None
        return self._with_references(answer, f"the schema with the id {schema_id}", {}, end)

    def registered(self, name: str, schema: Schema) -> Registered | None:
        """Return where our schema `name` is registered, or None if it is not. Raises RegistryUnavailable."""
        answer = self._asked("POST", f"/subjects/{self._subject(name)}", _request(schema))
        if answer.says(_NO_SUBJECT, _NO_SCHEMA):
            return None
        return Registered(answer.whole_number("id"), answer.whole_number("version"))

    def incompatibility(self, name: str, schema: Schema) -> str | None:
        """Return why our schema `name` is incompatible with the latest of its subject, or None if it is compatible.

        Raises RegistryUnavailable.
        """
        path = f"/compatibility/subjects/{self._subject(name)}/versions/latest?verbose=true"
        answer = self._asked("POST", path, _request(schema))
        if answer.says(_NO_SUBJECT, _NO_VERSION):
            return None
        if answer.expected("is_compatible", bool):
            return None
        # Confluent's registry gives a list of messages, others one reason or none.
        said = answer.body.get("messages") or answer.body.get("reason") or _NO_REASON
        return answer.quoted("; ".join(map(str, said)) if isinstance(said, list) else said)

    def register(self, name: str, schema: Schema) -> int:
        """Return the id of our schema `name`. Registers it if it is new.

        Raises SchemaRefused, RegistryUnavailable.
        """
        # Look it up first: a schema that is already there needs no write permission.
        if found := self.registered(name, schema):
            return found.id
        answer = self._asked("POST", f"/subjects/{self._subject(name)}/versions", _request(schema))
        if answer.status == HTTPStatus.CONFLICT:
            # Some registries answer this if another process has registered the schema in the meantime.
            if found := self.registered(name, schema):
                return found.id
            raise SchemaRefused(self.subjects[name], answer.message or _NO_REASON)
        return answer.whole_number("id")

    def _with_references(
        self, answer: "_RegistryAnswer", root: str, seen: dict[str, int], end: float, name: str = ""
    ) -> list[AvroType]:
        """Read a schema after those that it refers to.

        `root` names the first schema, for errors, and `name` this one if it is another. `seen` has the sizes of the
        answers so far, by the names of the references. Of several references with the same name, the first counts,
        as for Confluent's clients: they may be different versions of one type.
        """
        what = f"{name}, which {root} refers to," if name else root
        text = answer.expected("schema", str)
        if not answer.is_of(_AVRO):
            raise UnknownSchema(f"{what} is {answer.quoted(answer.body['schemaType'])}, not Avro")
        # The names of its types are in errors about its records.
        if without(self._password, text) != text:
            raise UnknownSchema(f"{what} contains the password of the registry")
        try:
            schema: AvroType = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise UnknownSchema(f"{what} is not JSON: {error}") from None
        found = []
        for reference, subject, version in answer.references():
            if reference in seen:
                continue
            if len(seen) == _MOST_REFERENCES:
                raise UnknownSchema(f"{what} refers to more than {_MOST_REFERENCES} others")
            if len(subject) > _LONGEST_SUBJECT:
                raise UnknownSchema(f"{what} refers to a subject of more than {_LONGEST_SUBJECT} characters")
            name = f"version {version} of {answer.quoted(subject)}"
            seen[reference] = 0
            left = max(0.0, end - time.monotonic())
            # It may be deleted, like a schema that is requested by its id: the registry keeps both for old records.
            path = f"/subjects/{quote(subject, safe='')}/versions/{version}?deleted=true"
            other = self._asked("GET", path, timeout=left)
            if other.says(_NO_SUBJECT, _NO_VERSION):
                raise UnknownSchema(f"{what} refers to {name}, which the registry doesn't have")
            # Whole answers count, because all of them are in memory at the end of a chain of references.
            seen[reference] = other.size
            if sum(seen.values()) > _LONGEST_ANSWER:
                raise UnknownSchema(f"{what} refers to others of more than {_LONGEST_ANSWER} bytes together")
            found += self._with_references(other, root, seen, end, name)
        return [*found, schema]

    def _subject(self, name: str) -> str:
        return quote(self.subjects[name], safe="")

    def _asked(
        self, method: str, path: str, body: bytes = b"", *, timeout: float | None = None
    ) -> "_RegistryAnswer":
        """Make one request; blocks up to the timeout, raises RegistryUnavailable."""
        try:
            return _RegistryAnswer(
                self._transport.request(
                    method,
                    self._url + path,
                    self._headers,
                    body,
                    longest=_LONGEST_ANSWER,
                    timeout=self._timeout if timeout is None else timeout,
                ),
                self._password,
            )
        except Unanswered as error:
            raise RegistryUnavailable(f"the schema registry did not answer: {error}") from None


class _RegistryAnswer:
    """An answer's status and JSON; anything but a JSON object counts as an empty one. It may quote the password."""

    def __init__(self, answer: Reply, password: str) -> None:
        self._password = password
        self.status = answer.status
        self.size = len(answer.content)
        self._location = answer.headers.get("Location", "")
        try:
            body = orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            body = None
        self.body: dict[str, Any] = body if isinstance(body, dict) else {}

    def says(self, *codes: int) -> bool:
        """Return whether it is a 404 with one of these error codes.

        Any other 404 may come from a proxy or a wrong address. Only the registry's own error codes count.
        """
        return self.status == HTTPStatus.NOT_FOUND and self.body.get("error_code") in codes

    def is_of(self, kind: str) -> bool:
        """Return whether an answer has a schema of this kind. Raises RegistryUnavailable if the answer is bad."""
        self.expected("schema", str)
        return (self.body.get("schemaType") or _AVRO) == kind

    @property
    def message(self) -> str:
        """The registry's message about an error. It may be empty."""
        return self.quoted(self.body.get("message") or "")

    @property
    def _redirects(self) -> str:
        """Name the host that a redirect points to, but not the rest of the address, which may hold a password."""
        if not self._location:
            return ""
        try:
            host = urlsplit(self._location).hostname or ""
        except ValueError:
            host = ""
        is_plain = 0 < len(host) <= _LONGEST_HOST and host.isascii() and host.isprintable()
        return f", and redirects to {self.quoted(host) if is_plain else 'an unreadable address'}"

    def quoted(self, said: object) -> str:
        """Quote the registry: without the password, and shortened."""
        text = str(said)
        return quoted(self._password, text, _QUOTED) + (" ..." if len(text) > _QUOTED else "")

    def expected(self, name: str, kind: type) -> Any:
        """Return a field of a good answer. Raises RegistryUnavailable for any other answer."""
        if self.status != HTTPStatus.OK:
            said = f": {self.message}" if self.message else self._redirects
            raise RegistryUnavailable(f"the schema registry answered {self.status}{said}")
        value = self.body.get(name)
        if not isinstance(value, kind):
            raise RegistryUnavailable("the schema registry's URL leads to something that is not a schema registry")
        return value

    def whole_number(self, name: str) -> int:
        """Return a whole number of a good answer that fits into a record. Raises RegistryUnavailable."""
        number = int(self.expected(name, int))
        if not 0 <= number <= _LARGEST_NUMBER:
            raise RegistryUnavailable(f"the {name} {number} in the schema registry's answer is out of range")
        return number

    def references(self) -> list[tuple[str, str, int]]:
        """Return name, subject and version of each schema that a schema refers to. Raises RegistryUnavailable."""
        found = self.body.get("references") or []
        try:
            return [(str(each["name"]), str(each["subject"]), int(each["version"])) for each in found]
        except (TypeError, KeyError, ValueError, OverflowError):
            raise RegistryUnavailable("the schema registry's answer has references in an unknown form") from None


def _request(schema: Schema) -> bytes:
    # fastavro adds its own marks to parsed schemas, and the order of names differs between processes. A registry
    # that compares texts would see a new schema at every start.
    plain = {key: value for key, value in schema.items() if not key.startswith("__")}
    return orjson.dumps({"schema": orjson.dumps(plain, option=orjson.OPT_SORT_KEYS).decode()})
