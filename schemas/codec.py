"""Records of the hub in every form that occurs in topics. A header and the first bytes show the form.

- Confluent, header: the record header `__value_schema_id` has 0x01 and a schema's GUID of 16 bytes, or 0x00 and its
  id of 4 bytes. The value has no framing.
- Confluent, value: 0x00, a schema's id of 4 bytes, big endian, in a Schema Registry
  (https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format).
- Avro single-object: 0xC3 0x01, the CRC-64-AVRO fingerprint of a schema, 8 bytes, little endian
  (https://avro.apache.org/docs/1.12.0/specification/#single-object-encoding).
- Plain JSON: the hub's own.

A schema of the registry may be Avro or JSON Schema. With JSON Schema, the value is the hub's JSON.

The reader's schemas are ours. A writer's schema may have more or fewer fields. A record may be hostile: whatever
its bytes are, and whatever schema they name, `decode` takes time and memory in proportion to its size. It returns
what our schema defines, or raises.
"""

import codecs
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import orjson
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.repository import FlatDictRepository, SchemaRepositoryError
from fastavro.schema import UnknownType, fingerprint, load_schema, to_parsing_canonical_form

from schemas.avro_json import message_of
from schemas.decoder import Decoder, KeptVariants
from schemas.encoder import NotOrdinary, encoded_result
from schemas.hub import KINDS, HubError, kind_of
from schemas.own import OWN_SCHEMAS, earlier_schemas, own_schema
from schemas.reading import document_of
from schemas.writers import MOST_TYPES, AvroType, Lookthrough, Reducer, Schema, for_reading, unqualified

Answer = TypeVar("Answer")

Headers = Sequence[tuple[str, bytes | None]]
"""A record's headers: pairs of a name and a value. A name may occur more than once."""

_SCHEMA_HEADER = "__value_schema_id"
_SINGLE_OBJECT = b"\xc3\x01"
_HEADER_SINGLE_OBJECT = 10
_CONFLUENT = b"\x00"
_HEADER_CONFLUENT = 5
_GUID = b"\x01"
_HEADER_GUID = 17
_LARGEST_ID = 2**31 - 1
_REFUSED_FOR = 10.0
_MOST_REFUSED = 1000
_LONGEST_COMPARED = 64 * 1024
_MOST_KEPT_TYPES = 5 * MOST_TYPES
_MOST_BRANCHES = 64
_OBJECTS_AT_LEAST = 20
_BYTES_PER_OBJECT = 20
_LONGEST_REASON = 500
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


SchemaId = int | str
"""The identifier of a schema in a registry: its id, or its GUID."""


class Undecodable(ValueError):
    """The bytes are not a record that we can read; the sentence says why."""


class UnknownSchema(Undecodable):
    """The writer's schema is not known here, nor to the registry, if there is one."""


class RegistryNeeded(UnknownSchema):
    """The record names its schema by an id in a registry, and no registry is set."""


class RegistryUnavailable(Exception):
    """The Schema Registry did not answer. This is an outage, not bad data. The sentence says what happened."""


class IdUnavailable(RegistryUnavailable):
    """The Schema Registry did not return the schema with this id: an outage, or a problem of this id alone."""

    def __init__(self, schema_id: SchemaId, reason: str) -> None:
        super().__init__(f"{reason} (asked for the schema with the id {schema_id})")
        self.schema_id = schema_id


class Registry(Protocol):
    """The source of the schemas of Confluent-framed records."""

    def schema(self, schema_id: SchemaId) -> Sequence[AvroType] | None:
        """Return the schema with this id, after all schemas that it refers to, each before its users.

        None for a JSON Schema: its records are JSON, and can be read without it. Raises UnknownSchema or
        RegistryUnavailable.
        """

    def register(self, name: str, schema: Schema) -> int:
        """Return the id of our own schema `name`. Registers it if needed. Raises RegistryUnavailable."""


class _Writer(NamedTuple):
    """A writer's schema, prepared for reading. `reader` is our schema that it resolves to, None if it is ours.

    `kind` is the name of our schema, None if its records are not ours. `lookthrough` checks a record before it is
    read, if that is needed. `decoder` reads ordinary records that need no check, if there is one.
    """

    name: str
    kind: str | None
    schema: Schema
    reader: Schema | None
    lookthrough: Lookthrough
    decoder: Decoder | None


class _Union(NamedTuple):
    """A writer's schema that is a union of records: a record begins with the number of its branch."""

    branches: tuple[_Writer, ...]

    def of(self, body: bytes) -> tuple[_Writer, bytes]:
        """Return the branch of a record, and the rest of its bytes."""
        # A number of up to _MOST_BRANCHES takes one byte.
        index, odd = divmod(body[0] if body else 1, 2)
        if odd or index >= len(self.branches):
            raise Undecodable("the record does not begin with the number of a branch of its schema's union")
        return self.branches[index], body[1:]


class _Json:
    """A schema of JSON Schema. The value can be read without it."""


_Form = _Writer | _Union | _Json
_JSON = _Json()


class Codec:
    """Encodes and decodes records; safe to share between threads.

    `more` is a folder of further writers' schemas (*.avsc) for single-object records. With a registry, records are
    encoded with the Confluent framing, else with the single-object one. `clock` returns seconds.
    """

    def __init__(
        self,
        registry: Registry | None = None,
        more: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._kinds: dict[str, str] = {}
        self._by_fingerprint: dict[bytes, _Writer | _Union] = {}
        self._by_id = _Kept()
        self._refused = _RefusedIds(clock)
        self._asked = _Shared()
        self._headers: dict[str, bytes] = {}
        self._own: dict[str, Schema] = {}
        self._kept = KeptVariants()
        for name in OWN_SCHEMAS:
            schema = self._own[name] = own_schema(name)
            self._kinds[unqualified(schema)] = name
            self._by_fingerprint[_fingerprint(schema)] = self._writer([_parsed(schema)], is_own=True)
        for schema in earlier_schemas():
            self._by_fingerprint[_fingerprint(schema)] = self._writer([_parsed(schema)])
        folder = _Folder(str(more))  # type: ignore[no-untyped-call]
        for path in sorted(more.glob("*.avsc")) if more else ():
            try:
                parsed = load_schema(path.stem, repo=folder)
                writer = self._form([parsed], {})
            except Exception as error:  # noqa: BLE001 - a file may hold anything, and the parser fails in many ways
                raise ValueError(f"{path} is not a schema that can be used: {_said(error)}") from None
            self._by_fingerprint.setdefault(_fingerprint(parsed), writer)

    def _writer(self, schemas: Sequence[Schema], *, is_own: bool = False) -> _Writer:
        """Prepare the last of some parsed schemas. Each may refer to those before it."""
        schema = schemas[-1]
        kind = self._kinds.get(unqualified(schema))
        # Resolution is slow, so it is left out if the writer's schema is ours.
        reader = None if is_own or kind is None else self._own[kind]
        lookthrough = Lookthrough(schemas, reader)
        decoder = Decoder(schemas, reader, self._kept) if lookthrough.is_bounded and kind else None
        return _Writer(schema["name"], kind, schema, reader, lookthrough, decoder)

    def encode(self, name: str, record: Mapping[str, Any]) -> bytes:
        """Frame and encode a record of our schema `name`.

        Raises ValueError where the record does not fit, RegistryUnavailable on a registry's first use, which may
        block for some requests.
        """
        header = self._headers.get(name) or self._header(name)
        if name == "result":
            with suppress(NotOrdinary):
                return header + encoded_result(record)
        buffer = BytesIO()
        buffer.write(header)
        schemaless_writer(buffer, self._own[name], record)
        return buffer.getvalue()

    def decode(self, data: bytes, headers: Headers = ()) -> dict[str, Any]:
        """Decode one record into the form of our schema. Raises Undecodable, IdUnavailable.

        Records may share variants, so the result must not be changed.

        May block for a request to the registry, where the record names a schema that was not seen yet.
        """
        form, body = self._unframed(data, headers)
        if isinstance(form, _Union):
            form, body = form.of(body)
        if isinstance(form, _Json):
            return _of_json(body)
        if form.kind is None:
            raise UnknownSchema(f"the record is a {form.name}, which is not a message of the hub")
        decoder = form.decoder if form.lookthrough.spares(body) else None
        record = (decoder and decoder.decode(body)) or _decoded(form, body)
        if form.kind == "result":
            record["timestamp"] = _moment(record["timestamp"])
        return record

    def decode_message(self, data: bytes, headers: Headers = ()) -> dict[str, Any]:
        """Decode a record that must be a message of the hub, and of its type's kind; raises as `decode` does."""
        message = self.decode(data, headers)
        if "payload" not in message:
            raise Undecodable("the record is a result, not a message of the hub")
        kind, payload = kind_of(message["message"]), message["payload"]
        if kind is not None and kind not in payload:
            schema = next(each for each in KINDS if each in payload)
            raise Undecodable(f"message: its type is {kind}:*, but the record is a {schema} message")
        return message

    def decode_result(self, data: bytes) -> dict[str, Any]:
        """Decode a record that must be a result, not a message of the hub; raises as `decode` does.

        Its timestamp is a datetime, or the milliseconds as an int if a datetime can't represent them.
        """
        result = self.decode(data)
        if "payload" in result:
            raise Undecodable("the record is a message of the hub, not a result")
        return result

    def serves_others(self, schema_id: SchemaId) -> bool:
        """Return whether the registry now serves another schema that it is known to have. Blocks for a request."""
        try:
            others = [each for each in self._by_id if each != schema_id]
            other = others[-1] if others else self._id_of("result")
            if self._registry is None or other == schema_id:
                return False
            self._registry.schema(other)
        except (RegistryUnavailable, UnknownSchema):
            return False
        return True

    def _id_of(self, name: str) -> int:
        schema_id: int = struct.unpack(">I", (self._headers.get(name) or self._header(name))[1:5])[0]
        return schema_id

    def give_up(self, schema_id: SchemaId, reason: str) -> None:
        """Treat records with this schema id as undecodable for a while. Then the registry is asked again."""
        self._refused.add(schema_id, reason)

    def _unframed(self, data: bytes, headers: Headers) -> tuple[_Form, bytes]:
        named = _schema_in(headers) if headers else None
        # Without a registry, JSON can still be read, because it needs no schema.
        if named is not None and not (self._registry is None and _looks_like_json(data)):
            return self._by_id.get(named) or self._looked_up(named), data
        if data[:2] == _SINGLE_OBJECT and len(data) >= _HEADER_SINGLE_OBJECT:
            writer = self._by_fingerprint.get(data[2:10])
            if writer is None:
                name = f"{int.from_bytes(data[2:10], 'little'):016x}"
                raise UnknownSchema(f"the schema with fingerprint {name} is not known here")
            return writer, data[_HEADER_SINGLE_OBJECT:]
        if data[:1] == _CONFLUENT and len(data) >= _HEADER_CONFLUENT:
            (schema_id,) = struct.unpack(">I", data[1:5])
            return self._by_id.get(schema_id) or self._looked_up(schema_id), data[_HEADER_CONFLUENT:]
        if _looks_like_json(data):
            return _JSON, data
        raise Undecodable(f"the first bytes ({data[:4].hex() or 'none'}) are neither a framing of Avro nor JSON")

    def _looked_up(self, schema_id: SchemaId) -> _Form:
        if self._registry is None:
            raise RegistryNeeded(f"the schema has the id {schema_id} in a registry, and no registry is set")
        # A registry's ids are Java ints. Some registries answer a larger id as if the address were wrong, which
        # would look like an endless outage.
        if isinstance(schema_id, int) and schema_id > _LARGEST_ID:
            raise UnknownSchema(f"the schema id {schema_id} is larger than any that a registry uses")
        if reason := self._refused.reason(schema_id):
            raise UnknownSchema(reason)
        registry = self._registry

        def ask() -> _Form:
            return self._by_id.get(schema_id) or self._found(registry, schema_id)

        try:
            return self._asked.once(schema_id, ask)
        except RegistryUnavailable as error:
            raise IdUnavailable(schema_id, str(error)) from None
        except Exception as error:  # noqa: BLE001 - the registry holds any schema, and the parser fails in many ways
            known = isinstance(error, UnknownSchema)
            reason = _said(error) if known else f"the schema with the id {schema_id} can't be used: {_said(error)}"
            self._refused.add(schema_id, reason)
            raise UnknownSchema(reason) from None

    def _found(self, registry: Registry, schema_id: SchemaId) -> _Form:
        """Make a schema of the registry ready."""
        found = registry.schema(schema_id)
        if found is None:
            return self._by_id.add(schema_id, _JSON, 1)
        named: dict[str, Any] = {}
        reducer = Reducer()
        form = self._form([parse_schema(reducer.reduced(schema), named) for schema in found], named)
        return self._by_id.add(schema_id, form, reducer.types)

    def _form(self, parsed: Sequence[AvroType], named: dict[str, Any]) -> _Writer | _Union:
        """Prepare the last of parsed schemas, a record or a union of records; raises ValueError for any other.

        `named` has the types of all. One that equals ours takes its place, and needs no resolution.
        """
        others, schema = cast("list[Schema]", parsed[:-1]), parsed[-1]
        branches = schema if isinstance(schema, list) else [schema]
        # Each branch is prepared with all types that it may refer to.
        if len(branches) > _MOST_BRANCHES:
            raise ValueError(f"it is a union of {len(branches)} types, and only {_MOST_BRANCHES} can be read")
        records = [_record(branch, named) for branch in branches]
        if not records:
            raise ValueError("it is not a record's schema")
        if len({record["name"] for record in records}) < len(records):
            raise ValueError("it is a union that has a record twice")
        writers = [
            self._equal(record) or self._writer([*others, *records[:index], record])
            for index, record in enumerate(records)
        ]
        return _Union(tuple(writers)) if isinstance(schema, list) else writers[0]

    def _equal(self, record: Schema) -> _Writer | None:
        canonical = to_parsing_canonical_form(record)
        if len(canonical) > _LONGEST_COMPARED:  # its fingerprint would take long, and resolution is the same
            return None
        known = self._by_fingerprint.get(_crc(canonical))
        return known if isinstance(known, _Writer) else None

    def _header(self, name: str) -> bytes:
        registry, schema = self._registry, self._own[name]
        if registry is None:
            return self._headers.setdefault(name, _SINGLE_OBJECT + _fingerprint(schema))

        def ask() -> bytes:
            return self._headers.get(name) or self._headers.setdefault(
                name, _CONFLUENT + struct.pack(">I", registry.register(name, schema))
            )

        return self._asked.once(name, ask)


class _Kept:
    """Writers' schemas by their ids in the registry. The oldest are dropped if all have too many types together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forms: dict[SchemaId, tuple[_Form, int]] = {}
        self._types = 0

    def __iter__(self) -> Iterator[SchemaId]:
        return iter(tuple(self._forms))

    def get(self, schema_id: SchemaId) -> _Form | None:
        kept = self._forms.get(schema_id)
        return kept[0] if kept else None

    def add(self, schema_id: SchemaId, form: _Form, types: int) -> _Form:
        with self._lock:
            _, before = self._forms.pop(schema_id, (form, 0))  # another thread may have added it meanwhile
            self._forms[schema_id] = form, types
            self._types += types - before
            while self._types > _MOST_KEPT_TYPES:
                self._types -= self._forms.pop(next(iter(self._forms)))[1]
        return form


class _Shared:
    """Asks each question once at a time. Threads with the same question wait, and get the same answer or error."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int | str, Future[Any]] = {}

    def once(self, question: int | str, ask: Callable[[], Answer]) -> Answer:
        with self._lock:
            future = self._open.get(question)
            is_ours = future is None
            future = self._open.setdefault(question, Future())
        if is_ours:
            try:
                future.set_result(ask())
            except BaseException as error:  # noqa: BLE001 - the waiting threads must get it, whatever it is
                # Its frames hold whole schemas, and would be part of a reference cycle.
                future.set_exception(error.with_traceback(None))
            finally:
                with self._lock:
                    del self._open[question]
        answer: Answer = future.result()
        return answer


class _RefusedIds:
    """Ids that are unknown, or whose schemas can't be used, and why. They are not looked up again for a while.

    So many such records do not cause many requests, and an id that is registered late is found later.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._reasons: dict[SchemaId, tuple[float, str]] = {}

    def reason(self, schema_id: SchemaId) -> str | None:
        until, reason = self._reasons.get(schema_id, (0.0, ""))
        return reason if self._clock() < until else None

    def add(self, schema_id: SchemaId, reason: str) -> None:
        with self._lock:
            self._reasons.pop(schema_id, None)
            if len(self._reasons) >= _MOST_REFUSED:
                del self._reasons[next(iter(self._reasons))]  # the oldest
            self._reasons[schema_id] = (self._clock() + _REFUSED_FOR, reason)


class _Folder(FlatDictRepository):
    """A folder of writers' schemas, which are reduced to what reading needs."""

    def load(self, name: str) -> AvroType:
        return for_reading(super().load(name))  # type: ignore[no-untyped-call]


def _parsed(schema: object) -> Any:
    return parse_schema(for_reading(schema), {})


def _decoded(writer: _Writer, body: bytes) -> dict[str, Any]:
    """Decode a record of any schema; raises Undecodable."""
    buffer = BytesIO(body)
    try:
        if not writer.lookthrough.spares(body):
            writer.lookthrough.check(body)
        record = cast("dict[str, Any]", schemaless_reader(buffer, writer.schema, writer.reader))
    except Exception as error:  # noqa: BLE001 - damaged bytes surface as any error of the decoder
        raise Undecodable(f"the bytes are not a {writer.name}: {_said(error)}") from None
    if left := len(body) - buffer.tell():
        raise Undecodable(f"the bytes are not a {writer.name}: {left} are left over")
    return record


def _looks_like_json(data: bytes) -> bool:
    """Return whether bytes begin as an object or a list in JSON does. No message in Avro begins so."""
    return data.removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"{", b"[")


def _of_json(text: bytes) -> dict[str, Any]:
    """Convert the hub's JSON, as `produce` does; raises Undecodable."""
    # Each object becomes a dict with all fields of its kind: many empty ones would cost far more than their bytes.
    objects, most = text.count(b"{"), _OBJECTS_AT_LEAST + len(text) // _BYTES_PER_OBJECT
    if objects > most:
        raise Undecodable(f"the value is JSON with {objects} objects; a message of its size has at most {most}")
    try:
        return message_of(document_of(text.removeprefix(codecs.BOM_UTF8)))
    except orjson.JSONDecodeError as error:
        raise Undecodable(f"the value begins like JSON, but is not valid JSON: {error}") from None
    except HubError as error:
        raise Undecodable(f"the value is JSON, and not a message of the hub: {_said(error)}") from None
    except RecursionError:
        raise Undecodable("the value is JSON, and nested too deep to be read") from None


def _schema_in(headers: Headers) -> SchemaId | None:
    """Return the id or GUID of the schema that a record's headers name, None where they name none."""
    for name, value in headers:
        if name == _SCHEMA_HEADER and value is not None:
            if value[:1] == _GUID and len(value) >= _HEADER_GUID:
                return str(uuid.UUID(bytes=value[1:_HEADER_GUID]))
            if value[:1] == _CONFLUENT and len(value) >= _HEADER_CONFLUENT:
                return int.from_bytes(value[1:_HEADER_CONFLUENT], "big")
    return None


def _record(branch: AvroType, named: Mapping[str, Any]) -> Schema:
    """Return the record that a parsed type is, complete in itself; raises ValueError for any other type."""
    if isinstance(branch, str) and branch in named:
        # These keys tell fastavro that the schema is parsed, and which types it refers to.
        branch = {**named[branch], "__fastavro_parsed": True, "__named_schemas": named}
    if not isinstance(branch, dict) or branch.get("type") != "record":
        raise ValueError("it is not a record's schema")
    return branch


def _said(error: Exception) -> str:
    """Return an error's text, shortened: the parser and the decoder may quote whole schemas."""
    match error:
        case EOFError():
            return "the value ends too early"
        case UnknownType():
            said = f"the type {error.name} is not defined"
        case KeyError():
            said = f"{error} is missing"
        case SchemaRepositoryError():
            said = f"it can't be read: {error.__cause__}"
        case _:
            said = str(error) or type(error).__name__
    return said if len(said) <= _LONGEST_REASON else f"{said[:_LONGEST_REASON]} ..."


def _moment(timestamp: int) -> datetime | int:
    """Return a record's timestamp, in milliseconds, as a time. Return it unchanged if it is out of range.

    Some producers write micro- or nanoseconds.
    """
    try:
        return _EPOCH + timedelta(milliseconds=timestamp)
    except OverflowError:
        return timestamp


def _fingerprint(schema: AvroType) -> bytes:
    """Fingerprint a schema, in the byte order of the framing."""
    return _crc(to_parsing_canonical_form(schema))


@lru_cache(maxsize=100)  # fastavro computes it in Python, byte by byte
def _crc(canonical: str) -> bytes:
    return bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO"))
