"""A Schema Registry of Confluent's protocol, over HTTP.

https://docs.confluent.io/platform/current/schema-registry/develop/api.html. The codec caches what it gets,
so that an outage is felt only by schemas not yet seen.
"""

from dataclasses import dataclass, field
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson
import requests
from requests.auth import HTTPBasicAuth

from schemas.codec import RegistryUnavailable, UnknownSchema
from schemas.writers import Schema

_NO_SUBJECT, _NO_VERSION, _NO_SCHEMA = 40401, 40402, 40403
_CONTENT_TYPE = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
_MOST_REFERENCES = 100
_QUOTED = 500
_NO_REASON = "the registry gives no reason"


class SchemaRefused(RegistryUnavailable):
    """The registry refuses our schema as incompatible with its subject's; `reason` quotes the registry."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(f"the schema registry refuses our schema for {subject}: {reason}")
        self.reason = reason


class Registered(NamedTuple):
    """Where a schema is in the registry: its id, and its version within its subject."""

    id: int
    version: int


@dataclass(frozen=True, slots=True)
class Access:
    """How a registry is known, and how it knows us; the password shows in no text of it.

    `ca` has the certificates that the registry's own is checked by, None: the usual ones. `certificate` is ours,
    with `key` or with its key in the same file.
    """

    user: str = ""
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class SchemaRegistry:
    """Looks schemas up by id, and registers ours under `subjects` (schema name -> subject).

    Safe to share between threads. The timeout is in seconds.
    """

    def __init__(self, url: str, subjects: dict[str, str], access: Access, *, timeout: float) -> None:
        self.subjects = subjects
        self._url = url.rstrip("/")
        self._timeout = timeout
        # Not left to the session: there the environment's would go before it.
        self._ca = str(access.ca) if access.ca else None
        self._session = requests.Session()
        self._session.headers.update(_CONTENT_TYPE)
        # A .netrc must not replace our credentials. As text they would have to be Latin-1.
        self._session.auth = _as_it_is
        if access.password is not None:
            self._session.auth = HTTPBasicAuth(access.user.encode(), access.password.encode())
        if access.certificate:
            self._session.cert = (str(access.certificate), str(access.key or access.certificate))
        # Without cookies a session has no state that its threads would share.
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    def schema(self, schema_id: int) -> list[Schema]:
        """Give the schema with this id, last, after those that it refers to, each before its users.

        Raises UnknownSchema, RegistryUnavailable.
        """
        answer = self._asked("GET", f"/schemas/ids/{schema_id}")
        if answer.says(_NO_SCHEMA):
            raise UnknownSchema(f"the schema registry knows no schema with the id {schema_id}")
        return self._with_references(answer, f"the schema with the id {schema_id}", set())

    def registered(self, name: str, schema: Schema) -> Registered | None:
        """Tell where our schema `name` is registered, None if it is not; raises RegistryUnavailable."""
        answer = self._asked("POST", f"/subjects/{self._subject(name)}", _request(schema))
        if answer.says(_NO_SUBJECT, _NO_SCHEMA):
            return None
        return Registered(answer.whole_number("id"), answer.whole_number("version"))

    def incompatibility(self, name: str, schema: Schema) -> str | None:
        """Tell why our schema `name` may not follow the latest of its subject, None if it may.

        Raises RegistryUnavailable.
        """
        path = f"/compatibility/subjects/{self._subject(name)}/versions/latest?verbose=true"
        answer = self._asked("POST", path, _request(schema))
        if answer.says(_NO_SUBJECT, _NO_VERSION):
            return None
        if answer.expected("is_compatible", bool):
            return None
        # Confluent's gives a list of messages, others one reason or none.
        said = answer.body.get("messages") or answer.body.get("reason") or _NO_REASON
        return _quoted("; ".join(map(str, said)) if isinstance(said, list) else str(said))

    def register(self, name: str, schema: Schema) -> int:
        """Give the id of our schema `name`, registering it where it is new.

        Raises SchemaRefused, RegistryUnavailable.
        """
        # Asked for first: what is there already takes no right to write.
        if found := self.registered(name, schema):
            return found.id
        answer = self._asked("POST", f"/subjects/{self._subject(name)}/versions", _request(schema))
        if answer.status == HTTPStatus.CONFLICT:
            raise SchemaRefused(self.subjects[name], answer.message or _NO_REASON)
        return answer.whole_number("id")

    def _with_references(self, answer: "_RegistryAnswer", what: str, seen: set[tuple[str, int]]) -> list[Schema]:
        text = answer.expected("schema", str)
        if (kind := answer.body.get("schemaType") or "AVRO") != "AVRO":
            raise UnknownSchema(f"{what} is of {kind}, not of Avro")
        try:
            schema: Schema = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise UnknownSchema(f"{what} is not JSON: {error}") from None
        found = []
        for subject, version in answer.references():
            if (subject, version) in seen:
                continue
            seen.add((subject, version))
            if len(seen) > _MOST_REFERENCES:
                raise UnknownSchema(f"{what} refers to more than {_MOST_REFERENCES} others")
            other = self._asked("GET", f"/subjects/{quote(subject, safe='')}/versions/{version}")
            if other.says(_NO_SUBJECT, _NO_VERSION):
                raise UnknownSchema(f"{what} refers to version {version} of {subject}, which the registry has not")
            found += self._with_references(other, f"version {version} of {subject}, which {what} refers to,", seen)
        return [*found, schema]

    def _subject(self, name: str) -> str:
        return quote(self.subjects[name], safe="")

    def _asked(self, method: str, path: str, body: bytes | None = None) -> "_RegistryAnswer":
        """Make one request; blocks up to the timeout, raises RegistryUnavailable."""
        try:
            answer = self._session.request(
                method, self._url + path, data=body, verify=self._ca, timeout=self._timeout
            )
        except OSError as error:  # also those of certificates that are gone meanwhile
            raise RegistryUnavailable(f"the schema registry did not answer: {_reason(error)}") from None
        return _RegistryAnswer(answer)


class _RegistryAnswer:
    """An answer's status and JSON; what is not a JSON object is as good as an empty one."""

    def __init__(self, answer: requests.Response) -> None:
        self.status = answer.status_code
        try:
            body = orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            body = None
        self.body: dict[str, Any] = body if isinstance(body, dict) else {}

    def says(self, *codes: int) -> bool:
        """Tell whether it is a 404 with one of these error codes.

        Any other 404 might be a proxy's, or come of a wrong address: only the registry's own word counts.
        """
        return self.status == HTTPStatus.NOT_FOUND and self.body.get("error_code") in codes

    @property
    def message(self) -> str:
        """What the registry says about an error; it may say nothing."""
        return _quoted(str(self.body.get("message") or ""))

    def expected(self, name: str, kind: type) -> Any:
        """Give a field of a good answer; raises RegistryUnavailable where it is another answer."""
        if self.status != HTTPStatus.OK:
            said = f": {self.message}" if self.message else ""
            raise RegistryUnavailable(f"the schema registry answered {self.status}{said}")
        value = self.body.get(name)
        if not isinstance(value, kind):
            raise RegistryUnavailable("the schema registry's answer is not one of a schema registry")
        return value

    def whole_number(self, name: str) -> int:
        """Give a whole number of a good answer; raises RegistryUnavailable."""
        return int(self.expected(name, int))

    def references(self) -> list[tuple[str, int]]:
        """Give subject and version of each schema that a schema refers to; raises RegistryUnavailable."""
        found = self.body.get("references") or []
        try:
            return [(str(reference["subject"]), int(reference["version"])) for reference in found]
        except (TypeError, KeyError, ValueError):
            raise RegistryUnavailable("the schema registry's answer has references of no known form") from None


def _request(schema: Schema) -> bytes:
    # fastavro leaves marks of its own in what it parsed, and orders names anew in each process: to a registry that
    # goes by the text, every start would bring another schema.
    plain = {key: value for key, value in schema.items() if not key.startswith("__")}
    return orjson.dumps({"schema": orjson.dumps(plain, option=orjson.OPT_SORT_KEYS).decode()})


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _reason(error: OSError) -> str:
    """Name what stood in the way: the error's class and what lies at its bottom, not its text with the address."""
    bottom: BaseException = error
    while deeper := bottom.__context__:
        bottom = deeper
    said = bottom.strerror if isinstance(bottom, OSError) else None
    return f"{type(error).__name__} ({said})" if said else type(error).__name__


def _quoted(text: str) -> str:
    return text if len(text) <= _QUOTED else text[:_QUOTED] + " ..."
