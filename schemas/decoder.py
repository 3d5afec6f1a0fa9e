"""Decoders made from schemas: Python source with a function for each type of record, faster than a generic decoder.

They handle schemas with the same kinds of types as ours: records, optional values, arrays and maps of texts,
numbers, booleans and enums, with more or fewer fields than ours. They accept bytes only in the form that every
ordinary writer uses. They decline all other schemas and bytes, and fastavro reads those or says what is wrong.

So a decoder need not be lenient or explain errors. If it returns a record, the record must be right, and the cost
must be bounded by its bytes: every value takes at least one byte, and reading beyond the end stops the decoder.

A shop's variants appear in many carts, so each is cached by its bytes. The same bytes always give the same variant
and end at the same place, because reading depends on nothing else.
"""

import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from schemas.writers import AvroType, Schema, unqualified

_Read = Callable[[bytes, str, int], tuple[dict[str, Any], int]]

_KEPT = "Variant"
_KNOWN_BY = 64
_LARGEST_KEPT = 1024
_SIZE_OF_KEPT = 512
_MOST_KEPT = 1024 * 1024

_MOST_VALUES = 1000
_DEEPEST_LOOP = 4
_LARGEST = 2**64

_TEXT = """\
n = d[p]
p += 1
if n & 129:
    n, p = length(d, p - 1)
    q = p + n
else:
    q = p + (n >> 1)
{0} = s[p:q]
if not {0}.isascii():
    {0} = d[p:q].decode()
p = q
"""
_NUMBER = """\
n = d[p]
p += 1
if n > 127:
    {0}, p = number(d, p - 1)
else:
    {0} = (n >> 1) ^ -(n & 1)
"""
_BOOLEAN = """\
n = d[p]
p += 1
if n > 1:
    raise Unusual
{} = n == 1
"""
_PLAIN = {
    "string": _TEXT,
    "int": _NUMBER,
    "long": _NUMBER,
    "boolean": _BOOLEAN,
    "float": "({},) = float_at(d, p)\np += 4\n",
    "double": "({},) = double_at(d, p)\np += 8\n",
}
_OPTIONAL = """\
n = d[p]
p += 1
if n == {value_index}:
    {value}
elif n == {null_index}:
    {target} = None
else:
    raise Unusual
"""
_BLOCKS = """\
{target} = {empty}
n = d[p]
while n:
    {count}, p = length(d, p)
    if not {count}:
        raise Unusual
    for _ in range({count}):
        {item}
    n = d[p]
p += 1
"""
_ENUM = """\
n = d[p]
p += 1
if n & 129:
    raise Unusual
{} = {}[n >> 1]
"""
_RECORD = """\
def {name}(d, s, p):
    {fields}
    return {{{pairs}}}, p
"""


class Unusual(Exception):
    """The schema or the bytes are not of the kinds that decoders handle."""


class Kept(dict[str, Any]):
    """A variant that several records may share. It must not be changed.

    `note` is a cache for code that builds something from each variant. It is empty at first.
    """

    __slots__ = ("note",)

    def __init__(self, record: dict[str, Any]) -> None:
        super().__init__(record)
        self.note: Any = ()


class KeptVariants:
    """A cache of variants by their bytes, for several decoders. Safe to share between threads.

    It is bounded: a large variant is not kept, and when there are too many, all are dropped.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[_Read, bytes], tuple[bytes, Kept]] = {}
        self._size = 0

    def read(self, read: _Read, d: bytes, s: str, p: int) -> tuple[dict[str, Any], int]:
        """Return what `read` returns, from the cache if these bytes are known. Raises what it raises."""
        name = read, d[p : p + _KNOWN_BY]
        known = self._known.get(name)
        if known and d.startswith(known[0], p):
            return known[1], p + len(known[0])
        record, end = read(d, s, p)
        # The key of a shorter one would include what follows it. One that ends beyond the bytes is incomplete.
        if not _KNOWN_BY <= end - p <= _LARGEST_KEPT or end > len(d):
            return record, end
        kept = Kept(record)
        with self._lock:
            if self._size >= _MOST_KEPT:
                self._known, self._size = {}, 0
            self._known[name] = d[p:end], kept
            self._size += end - p + _SIZE_OF_KEPT
        return kept, end


class Decoder:
    """Decodes the records of the last of some parsed schemas. Each may refer to those before it.

    Records get the form of `reader`, or without one that of their own schema. The schema must bound the depth of
    its records (`Lookthrough.is_bounded`). Safe to share between threads. Records share variants through
    `kept`, so variants must not be changed.
    """

    def __init__(self, schemas: Sequence[Schema], reader: Schema | None, kept: KeptVariants | None = None) -> None:
        self._schemas = schemas
        self._reader = reader
        self._kept = kept or KeptVariants()
        self._read: _Read | None = None

    def decode(self, body: bytes) -> dict[str, Any] | None:
        """Decode a record without its framing. None if the schemas or the bytes are not ordinary."""
        try:
            # Made for the first record, because most known schemas have no record to read.
            read = self._read or self._made()
            record, end = read(body, body.decode("latin-1"), 0)
        except Exception:  # noqa: BLE001 - bytes that are unusual show in many ways
            return None
        return record if end == len(body) else None

    def _made(self) -> _Read:
        readers = [self._reader] if self._reader else []
        try:
            self._read = _Source(_named(self._schemas), _named(readers)).function(
                self._schemas[-1], self._reader, self._kept
            )
        except Exception:  # noqa: BLE001 - the schema may be anything; what can't be made is declined from now on
            self._read = _decline
        return self._read


def _decline(_d: bytes, _s: str, _p: int) -> NoReturn:
    raise Unusual


class _Source:
    """Generates the source of one decoder. `writers` and `readers` have the named types.

    In the source, `d` is the bytes, `s` the same bytes as Latin-1 text, and `p` the number of bytes read. A
    reader's type is None if there is no reader: values are then read as they were written.
    """

    def __init__(self, writers: Mapping[str, Schema], readers: Mapping[str, Schema]) -> None:
        self._writers = writers
        self._readers = readers
        self._functions: dict[tuple[str, str | None], str] = {}
        self._source: list[str] = []
        self._values = 0

    def function(self, writer: Schema, reader: Schema | None, kept: KeptVariants) -> _Read:
        """Make the function that reads such a record."""
        name = self._record(writer, reader)
        namespace: dict[str, Any] = {
            "kept": kept.read,
            "number": _number,
            "length": _length,
            "float_at": struct.Struct("<f").unpack_from,
            "double_at": struct.Struct("<d").unpack_from,
            "Unusual": Unusual,
        }
        # The source contains only names and symbols of the schema, as literals made by `repr`.
        exec(compile("".join(self._source), "<schema>", "exec"), namespace)  # noqa: S102
        made: _Read = namespace[name]
        return made

    def _value(self, writer: AvroType, reader: AvroType | None, target: str, loops: int) -> str:
        """Return the source that reads a value into the variable `target`, inside this many loops."""
        self._values += 1
        if self._values > _MOST_VALUES:
            raise Unusual
        writer, reader = _looked_up(writer, self._writers), _looked_up(reader, self._readers)
        if isinstance(reader, list):
            reader = _optional(reader)[1]
        elif isinstance(writer, list) and reader is not None:
            raise Unusual  # a null would have no place
        if isinstance(writer, list):
            null, value = _optional(writer)
            within = self._value(value, reader, target, loops)
            return _filled(_OPTIONAL, target=target, null_index=2 * null, value_index=2 - 2 * null, value=within)
        if isinstance(writer, str):
            if writer not in _PLAIN or reader not in (writer, None):
                raise Unusual
            return _PLAIN[writer].format(target)
        if reader is not None and not (isinstance(reader, dict) and _is_alike(writer, reader)):
            raise Unusual
        match writer["type"]:
            case "array" | "map":
                return self._blocks(writer, reader, target, loops + 1)
            case "record":
                name = self._record(writer, reader)
                is_kept = unqualified(reader or writer) == _KEPT
                return f"{target}, p = kept({name}, d, s, p)\n" if is_kept else f"{target}, p = {name}(d, s, p)\n"
            case "enum":
                return _ENUM.format(target, tuple(writer["symbols"]))
            case _:
                raise Unusual

    def _blocks(self, writer: Schema, reader: Schema | None, target: str, loops: int) -> str:
        if loops > _DEEPEST_LOOP:  # the language allows no more than 20 within each other
            raise Unusual
        inner = f"{target}_"
        of, empty = ("items", "[]") if writer["type"] == "array" else ("values", "{}")
        item = self._value(writer[of], reader and reader[of], inner, loops)
        if of == "items":
            item += f"{target}.append({inner})\n"
        else:
            item = _TEXT.format(f"{inner}k") + item + f"{target}[{inner}k] = {inner}\n"
        return _filled(_BLOCKS, target=target, empty=empty, count=f"{inner}n", item=item)

    def _record(self, writer: Schema, reader: Schema | None) -> str:
        """Return the name of the function that reads such a record."""
        named = (writer["name"], reader["name"] if reader else None)
        if named in self._functions:
            return self._functions[named]
        written = [field["name"] for field in writer["fields"]]
        wanted = {field["name"]: field for field in (reader or writer)["fields"]}
        if not written or len(set(written)) < len(written) or any("aliases" in each for each in wanted.values()):
            raise Unusual
        name = self._functions[named] = f"r{len(self._functions)}"
        fields, pairs = "", []
        for index, field in enumerate(writer["fields"]):
            own = wanted.get(field["name"])
            fields += self._value(field["type"], own["type"] if reader and own else None, f"v{index}", 0)
            if own:
                pairs.append(f"{field['name']!r}: v{index}")
        pairs += [f"{each!r}: {_default(field)}" for each, field in wanted.items() if each not in written]
        self._source.append(_filled(_RECORD, name=name, fields=fields, pairs=", ".join(pairs)))
        return name


def _filled(template: str, **parts: object) -> str:
    """Fill in a template. All lines of a part get the indentation of its place."""
    lines = []
    for line in template.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        lines += [indent + each if at else each for at, each in enumerate(line.format(**parts).splitlines())]
    return "".join(f"{line}\n" for line in lines)


def _named(schemas: Sequence[AvroType]) -> dict[str, Schema]:
    """Collect the named types of parsed schemas by their full names."""
    found: dict[str, Schema] = {}
    left = list(schemas)
    while left:
        match left.pop():
            case list() as branches:
                left += branches
            case {"type": "array", "items": inner} | {"type": "map", "values": inner}:
                left.append(inner)
            case dict() as schema if "name" in schema:
                found[schema["name"]] = schema
                left += [field["type"] for field in schema.get("fields", ())]
    return found


def _looked_up(schema: AvroType | None, named: Mapping[str, Schema]) -> Any:
    """Return the definition of a named type, or the name of a primitive that is written as an object."""
    found = named.get(schema, schema) if isinstance(schema, str) else schema
    return found["type"] if isinstance(found, dict) and found["type"] in _PLAIN else found


def _optional(schema: AvroType) -> tuple[int, AvroType]:
    """Return the index of null in a union of it and another type, and that type."""
    match schema:
        case ["null", other] if other != "null" and not isinstance(other, list):
            return 0, other
        case [other, "null"] if not isinstance(other, list):  # a union in a union is no valid Avro
            return 1, other
        case _:
            raise Unusual


def _is_alike(writer: Schema, reader: Schema) -> bool:
    """Return whether one type can be read as the other. Only the last parts of their names are compared."""
    names = {each.get("name", "").rpartition(".")[2] for each in (writer, reader)}
    return writer["type"] == reader["type"] and len(names) == 1 and writer.get("symbols") == reader.get("symbols")


def _default(field: Schema) -> str:
    """Return the source of a field's default. Raises Unusual for a kind of default that our schemas do not have."""
    default = field.get("default", field)
    if default is None or isinstance(default, str | bool) or default in ([], {}):
        return repr(default)
    raise Unusual


def _number(d: bytes, p: int) -> tuple[int, int]:
    """Read a number of several bytes."""
    value = 0
    for shift in range(0, 70, 7):
        byte = d[p]
        p += 1
        value |= (byte & 127) << shift
        if byte < 128:  # noqa: PLR2004 - the highest bit tells that more follows
            if value >= _LARGEST:
                break
            return (value >> 1) ^ -(value & 1), p
    raise Unusual


def _length(d: bytes, p: int) -> tuple[int, int]:
    """Read a number that must not be negative."""
    value, p = _number(d, p)
    if value < 0:
        raise Unusual
    return value, p
