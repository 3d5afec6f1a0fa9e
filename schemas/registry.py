"""A Schema Registry of Confluent's protocol, over HTTP.

https://docs.confluent.io/platform/current/schema-registry/develop/api.html. The codec caches what it gets,
so that an outage is felt only by schemas not yet seen.
"""

from http import HTTPStatus

import orjson
import requests

from schemas.codec import RegistryUnavailable, Schema, UnknownSchema

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
        if answer.status_code == HTTPStatus.NOT_FOUND:
            raise UnknownSchema(f"the schema registry knows no schema with the id {schema_id}")
        schema: Schema = orjson.loads(self._body(answer)["schema"])
        return schema

    def register(self, name: str, schema: Schema) -> int:
        """Give the id of our schema `name`, registering it where it is new; raises RegistryUnavailable."""
        body = orjson.dumps({"schema": orjson.dumps(schema).decode()})
        answer = self._asked("POST", f"/subjects/{self._subjects[name]}/versions", body)
        return int(self._body(answer)["id"])

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

    def _body(self, answer: requests.Response) -> dict[str, str]:
        if answer.status_code != HTTPStatus.OK:
            raise RegistryUnavailable(f"the schema registry answered {answer.status_code}")
        try:
            body: dict[str, str] = orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            raise RegistryUnavailable("the schema registry's answer is not JSON") from None
        return body
