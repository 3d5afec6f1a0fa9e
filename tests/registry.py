"""A minimal Schema Registry with Confluent's protocol over real HTTP, which can be told to fail."""

import base64
import json
import ssl
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from schemas.registry import Access, SchemaRegistry

USER, PASSWORD = "ada", "sécret €"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class RegistryServer(ThreadingHTTPServer):
    """`page` is a status and a body to answer instead, and `pages` has the same for single paths. `hanging` is a
    path that is never answered. `incompatible` says why it refuses every new version. `taken`: it refuses a schema
    because another process has registered it meanwhile. `deleted` has the subjects that are soft-deleted.

    With `protected` it answers 401 to requests without USER and PASSWORD.
    """

    daemon_threads = True
    request_queue_size = 64  # with the default of 5, some of many simultaneous clients would wait a second

    def __init__(self, tls: ssl.SSLContext | None = None, *, protected: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _RegistryHandler)
        if tls:
            # The handler's thread does the handshake, so that one that hangs does not stop the others.
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_port}"
        self.protected = protected
        self.asked: list[str] = []
        self.authorizations: list[str | None] = []
        self.cookies: list[str | None] = []
        self.schemas: list[str] = []
        self.kinds: dict[int, str] = {}
        self.references: dict[int, list[dict[str, Any]]] = {}
        self.subjects: dict[str, list[int]] = {}
        self.deleted: set[str] = set()
        self.page: tuple[int, bytes] | None = None
        self.pages: dict[str, tuple[int, bytes]] = {}
        self.hanging = ""
        self.incompatible: list[str] | None = None
        self.taken = False
        self.answering = threading.Event()
        self.answering.set()

    def keep(
        self,
        text: str,
        subject: str = "others-value",
        references: list[dict[str, Any]] | None = None,
        kind: str = "AVRO",
    ) -> int:
        """Keep a schema under a subject and give its id."""
        if text not in self.schemas:
            self.schemas.append(text)
        schema_id = self.schemas.index(text) + 1
        self.references[schema_id] = references or []
        self.kinds[schema_id] = kind
        versions = self.subjects.setdefault(subject, [])
        if schema_id not in versions:
            versions.append(schema_id)
        return schema_id

    def registry(self, timeout: float = 10) -> SchemaRegistry:
        subjects = {name: f"{name}s-value" for name in ("cart", "order", "product", "taxon", "result")}
        return SchemaRegistry(self.url + "/", subjects, Access(USER, PASSWORD), timeout=timeout)

    def handle_error(self, *_: object) -> None:
        """Ignore a client that disconnects, for example because it does not trust us."""


def guid_of(schema_id: int) -> uuid.UUID:
    """Give the GUID of a schema in the registry."""
    return uuid.UUID(int=schema_id)


class _RegistryHandler(BaseHTTPRequestHandler):
    server: RegistryServer

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        match path.split("/")[1:]:
            case ["schemas", "ids", schema_id]:
                self._answer_schema(int(schema_id), 40403)
            case ["schemas", "guids", guid]:
                self._answer_schema(uuid.UUID(guid).int, 40403)
            case ["subjects", subject, "versions", version]:
                is_hidden = subject in self.server.deleted and query != "deleted=true"
                known = {} if is_hidden else dict(enumerate(self.server.subjects.get(subject, []), 1))
                self._answer_schema(known.get(int(version), 0), 40402)
            case _:
                self._answer(404, {"error_code": 404, "message": "HTTP 404 Not Found"})

    def do_POST(self) -> None:
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["schema"]
        match self.path.partition("?")[0].split("/")[1:]:
            case ["subjects", subject]:
                known = [self.server.schemas[each - 1] for each in self.server.subjects.get(subject, [])]
                if text in known:
                    found = {"subject": subject, "id": self.server.keep(text, subject), "schema": text}
                    self._answer(200, {**found, "version": known.index(text) + 1})
                else:
                    self._answer(404, {"error_code": 40403 if known else 40401, "message": "not found"})
            case ["subjects", subject, "versions"] if self.server.incompatible:
                reason = self.server.incompatible[0]
                self._answer(409, {"error_code": 409, "message": reason and f"{subject}: {reason}"})
            case ["subjects", subject, "versions"] if self.server.taken:
                self.server.keep(text, subject)
                self._answer(409, {"error_code": 409, "message": "already exists"})
            case ["subjects", subject, "versions"]:
                self._answer(200, {"id": self.server.keep(text, subject)})
            case ["compatibility", "subjects", subject, "versions", "latest"]:
                messages = self.server.incompatible if self.server.subjects.get(subject) else None
                self._answer(200, {"is_compatible": not messages, "messages": messages or []})
            case _:
                self._answer(404, {"error_code": 404, "message": "HTTP 404 Not Found"})

    def _answer_schema(self, schema_id: int, absent: int) -> None:
        if 0 < schema_id <= len(self.server.schemas):
            found = {"schema": self.server.schemas[schema_id - 1], "references": self.server.references[schema_id]}
            # Like Confluent's, it leaves out the type if it is Avro.
            kind = self.server.kinds[schema_id]
            self._answer(200, found if kind == "AVRO" else {**found, "schemaType": kind})
        else:
            self._answer(404, {"error_code": absent, "message": "not found"})

    def _answer(self, status: int, body: object) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        self.server.authorizations.append(self.headers["Authorization"])
        self.server.cookies.append(self.headers["Cookie"])
        self.server.answering.wait()
        while self.server.hanging == self.path:
            time.sleep(0.01)
        text = json.dumps(body).encode()
        if self.server.protected and self.headers["Authorization"] != BASIC:
            status, text = 401, b'{"error_code": 401, "message": "Unauthorized"}'
        if page := self.server.page or self.server.pages.get(self.path):
            status, text = page
        self.send_response(status)
        self.send_header("Set-Cookie", "session=1; Path=/")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
