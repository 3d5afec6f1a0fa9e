"""A Schema Registry of Confluent's protocol, over HTTP.

https://docs.confluent.io/platform/current/schema-registry/develop/api.html. The codec caches what it gets,
so that an outage is felt only by schemas not yet seen.
"""

from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import orjson
import requests

from schemas.codec import RegistryUnavailable, Schema, UnknownSchema

_NO_SCHEMA = 40403
_CONTENT_TYPE = {"Content-Type": "application/vnd.schemaregistry.v1+json"}


class SchemaRegistry:
    """Looks schemas up by id, and registers ours under `subjects` (schema name -> subject)."""

    def __init__(self, url: str, subjects: dict[str, str], *, auth: tuple[str, str] | None, timeout: float) -> None:
        self._url = url.rstrip("/")
        self._subjects = subjects
        self._auth = auth
        self._timeout = timeout

    def schema(self, schema_id: int) -> Schema:
        """Give the schema with this id; raises UnknownSchema, RegistryUnavailable."""
        answer = self._asked("GET", f"/schemas/ids/{schema_id}")
        body = _object(answer)
        # Any 404 might be a proxy's, or come of a wrong address: only the registry's own word counts.
        if answer.status_code == HTTPStatus.NOT_FOUND and body.get("error_code") == _NO_SCHEMA:
            raise UnknownSchema(f"the schema registry knows no schema with the id {schema_id}")
        self._check(answer, as_expected=isinstance(body.get("schema"), str))
        if body.get("schemaType", "AVRO") != "AVRO":
            raise UnknownSchema(f"the schema with the id {schema_id} is of {body['schemaType']}, not of Avro")
        try:
            schema: Schema = orjson.loads(body["schema"])
        except orjson.JSONDecodeError as error:
            raise UnknownSchema(f"the schema with the id {schema_id} is not JSON: {error}") from None
        return schema

    def register(self, name: str, schema: Schema) -> int:
        """Give the id of our schema `name`, registering it where it is new; raises RegistryUnavailable."""
        # fastavro leaves marks of its own in what it parsed.
        plain = {key: value for key, value in schema.items() if not key.startswith("__")}
        body = orjson.dumps({"schema": orjson.dumps(plain).decode()})
        answer = self._asked("POST", f"/subjects/{quote(self._subjects[name], safe='')}/versions", body)
        schema_id = _object(answer).get("id")
        self._check(answer, as_expected=isinstance(schema_id, int))
        return int(schema_id or 0)

    def _asked(self, method: str, path: str, body: bytes | None = None) -> requests.Response:
        try:
            return requests.request(
                method,
                self._url + path,
                data=body,
                headers=_CONTENT_TYPE,
                auth=self._auth,
                timeout=self._timeout,
            )
        except requests.RequestException as error:
            raise RegistryUnavailable(f"the schema registry did not answer: {type(error).__name__}") from None

    def _check(self, answer: requests.Response, *, as_expected: bool) -> None:
        if answer.status_code != HTTPStatus.OK:
            raise RegistryUnavailable(f"the schema registry answered {answer.status_code}")
        if not as_expected:
            raise RegistryUnavailable("the schema registry's answer is not one of a schema registry")


def _object(answer: requests.Response) -> dict[str, Any]:
    """Read an answer's body; what is not a JSON object is as good as an empty one."""
    try:
        body = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}
