"""Writers' schemas: reduces them to what reading needs, and bounds the cost of reading with them.

A registry accepts almost any schema, a writer can put any bytes into a record, and the decoder, in C, follows both.
A recursive type makes it recurse as deep as the record says. Values that take no bytes are read as often as the
record says, and so are some that it skips without checking whether the bytes have ended. A field that only our
schema has takes no bytes, but gets a default. So a writer's schema is reduced to what reading needs. If the schema
alone does not bound the work by the record's bytes, each record is checked before it is decoded.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

Schema = dict[str, Any]
AvroType = str | list[Any] | Schema
"""A type in a parsed schema: the name of a primitive or a named type, a union, or a definition."""

MOST_TYPES = 10_000
"""The most types and symbols that a schema and its references may have together. A long name counts as several."""

LONGEST_NAME = 1000
"""The most characters of a name or a namespace. They are repeated in the full name of each type."""

DEEPEST_SCHEMA = 100
"""The deepest nesting of types that a schema may have."""

DEEPEST_RECORD = 200
"""The deepest nesting of values that a record may have, if its schema sets no bound."""

_LETTERS_OF_A_TYPE = 100
_PLAINLY_DEEP = 32
_PLAINLY_WIDE = 2000
# Bytes of a record that is small whatever it has, and of one whose fields mostly get defaults.
_PLAINLY_SMALL = 1024 * 1024
_SMALL_WITH_DEFAULTS = 16 * 1024
_MOST_DEFAULTS = 2
# A message has about one value for every five bytes. The pass takes about 2.5 us a value, so a record of 1 MB costs
# less than a second.
_VALUES_AT_LEAST = 50_000
_BYTES_PER_VALUE = 4
_LARGEST_FIXED = 2**31 - 1
_LONGEST_VARINT = 10
_BYTES_OF = {"null": 0, "boolean": 1, "float": 4, "double": 8}
_PRIMITIVE_NAMES = {*_BYTES_OF, "int", "long", "bytes", "string"}


def for_reading(schema: object) -> AvroType:
    """Return what reading needs of a writer's schema: its types and names.

    Defaults, aliases, logical types and docs are left out. Reading never uses a writer's defaults and aliases, so
    it does not matter whether they are valid. Its logical types would turn texts and numbers into values that our
    schemas do not have. Java's readers ignore them too if the reader's schema has none. Raises ValueError if it is
    not a schema, or too large.
    """
    return Reducer().reduced(schema)


class Reducer:
    """Reduces schemas that are used together as `for_reading` does. Their types count together."""

    def __init__(self) -> None:
        self.types = 0
        """The number of types and symbols in the schemas so far."""
        self._longest_namespace = 0

    def reduced(self, schema: object) -> AvroType:
        """Return what reading needs of one more schema. Raises ValueError."""
        return self._stripped(schema, 0)

    def _stripped(self, schema: object, depth: int) -> AvroType:
        self._count(1)
        if depth > DEEPEST_SCHEMA:
            raise ValueError(f"it is nested more than {DEEPEST_SCHEMA} levels deep")
        match schema:
            case str():
                self._count_name(schema)
                return schema
            case list():
                return [self._stripped(each, depth + 1) for each in schema]
            case {"type": str()}:
                return self._definition(cast("Schema", schema), depth)
            case {"type": inner}:
                return self._stripped(inner, depth + 1)
            case _:
                raise ValueError(f"{str(schema)[:100]} is not a type")

    def _count(self, more: int) -> None:
        self.types += more
        if self.types > MOST_TYPES:
            raise ValueError(f"it has more than {MOST_TYPES} types")

    def _count_name(self, name: str) -> None:
        """Count the size of a name with the longest namespace so far, which it may inherit from an outer type."""
        self._count((len(name) + self._longest_namespace) // _LETTERS_OF_A_TYPE)

    def _definition(self, schema: Schema, depth: int) -> AvroType:
        kind: str = schema["type"]
        named = {key: schema[key] for key in ("name", "namespace") if schema.get(key) is not None}
        if not all(isinstance(each, str) and len(each) <= LONGEST_NAME for each in named.values()):
            raise ValueError(f"a name in it is not text of up to {LONGEST_NAME} characters")
        if name := named.get("name"):
            namespace = len(named.get("namespace", name.rpartition(".")[0]))
            self._longest_namespace = max(self._longest_namespace, namespace)
            self._count_name(name)
        match kind:
            case "record" | "error":
                self._count(_long_ones(each["name"] for each in schema["fields"]))
                fields = [
                    {"name": each["name"], "type": self._stripped(each["type"], depth + 1)}
                    for each in schema["fields"]
                ]
                return {"type": kind, **named, "fields": fields}
            case "enum":
                self._count(len(schema["symbols"]) + _long_ones(schema["symbols"]))
                return {"type": kind, **named, "symbols": schema["symbols"]}
            case "fixed":
                size = schema["size"]
                if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _LARGEST_FIXED:
                    raise ValueError(f"a fixed type in it has the size {size!r}")
                return {"type": kind, **named, "size": size}
            case "array":
                return {"type": kind, "items": self._stripped(schema["items"], depth + 1)}
            case "map":
                return {"type": kind, "values": self._stripped(schema["values"], depth + 1)}
            case _:
                return kind  # a primitive or the name of a type, written as an object


def _long_ones(names: Iterable[str]) -> int:
    return sum(len(name) // _LETTERS_OF_A_TYPE for name in names)


def unqualified(schema: Schema) -> str:
    """Return the name of a named type without its namespace."""
    name: str = schema["name"]
    return name.rpartition(".")[2]


class Unbounded(ValueError):
    """Reading the record would cost far more than its size allows. The sentence says why."""


class Lookthrough:
    """Checks records of one schema before they are decoded. Safe to share between threads.

    The schema is the last of some parsed schemas. Each may refer to those before it. `reader` is our schema, None
    if the records are read as they were written. Raises ValueError if a name in the schemas is ambiguous.
    """

    def __init__(self, schemas: Sequence[Schema], reader: Schema | None = None) -> None:
        shapes = _Shapes()
        depth = [shapes.of(schema) for schema in schemas][-1].depth
        self._schema = schemas[-1]
        self._types = shapes.types
        self.is_bounded = depth <= _PLAINLY_DEEP
        """Whether the schema itself bounds the work, as ordinary ones do."""
        self._is_full = not (reader and _is_mostly_defaults(shapes.types, reader))

    def spares(self, body: bytes) -> bool:
        """Return whether a record needs no check, because it is small, or not mostly defaults or nulls."""
        if not self.is_bounded:
            return False
        size = len(body)
        if not self._is_full:
            return size <= _SMALL_WITH_DEFAULTS
        # Nulls, and the numbers of a union's branches. In memory, a null takes many times its one byte.
        return size <= _PLAINLY_SMALL or 2 * (body.count(0) + body.count(2)) <= size

    def check(self, body: bytes) -> None:
        """Raise Unbounded, or ValueError if the bytes are not a record of the schema. Reads each byte once."""
        _Pass(self._types, body).value(self._schema, 0)


def _is_mostly_defaults(types: Mapping[str, Schema], reader: Schema) -> bool:
    """Return whether most fields of a record that the reader's arrays contain are missing in the writer's type."""
    sizes = {unqualified(each): len(each["fields"]) for each in _repeated(reader, is_inside=False)}
    return any(
        _MOST_DEFAULTS * len(each["fields"]) < sizes.get(unqualified(each), 0)
        for each in types.values()
        if "fields" in each
    )


def _repeated(schema: Any, *, is_inside: bool) -> Iterator[Schema]:
    """Find the records inside of arrays in one of our schemas. `is_inside`: the schema is in one itself."""
    match schema:
        case list():
            for each in schema:
                yield from _repeated(each, is_inside=is_inside)
        case {"type": "array", "items": items}:
            yield from _repeated(items, is_inside=True)
        case {"type": "record", "fields": fields}:
            if is_inside:
                yield schema
            for field in fields:
                yield from _repeated(field["type"], is_inside=is_inside)


class _Shape(NamedTuple):
    """The bounds of a type's values: their depth, and their number outside arrays, maps and unions.

    `sees_end`: the decoder can't skip a value without noticing that the bytes have ended.
    """

    depth: float
    values: float
    sees_end: bool


_UNBOUNDED = _Shape(math.inf, math.inf, sees_end=True)
_UNSEEN = _Shape(1, 1, sees_end=False)
_SEEN = _Shape(1, 1, sees_end=True)
_PRIMITIVES = {"null": _UNBOUNDED, "boolean": _UNSEEN, "float": _UNSEEN, "double": _UNSEEN}


class _Shapes:
    """The shapes of types. A type is unbounded if it contains itself, or if a part of it takes no bytes.

    A null in a union does not count as such a part, because the union's index takes a byte.
    """

    def __init__(self) -> None:
        self.types: dict[str, Schema] = {}
        self._shapes: dict[str, _Shape] = {}

    def of(self, schema: AvroType) -> _Shape:
        match schema:
            case str():
                # A type without a shape is just being examined, so it contains itself.
                return (
                    self._shapes.get(schema, _UNBOUNDED) if schema in self.types else _PRIMITIVES.get(schema, _SEEN)
                )
            case list():
                return _around([_SEEN if each == "null" else self.of(each) for each in schema])
            case {"type": "array", "items": items}:
                inner = self.of(items)
                return _around([inner]) if inner.sees_end else _UNBOUNDED
            case {"type": "map", "values": values}:
                return _around([self.of(values)])
            case _:
                self._define(schema)
                self._shapes[schema["name"]] = shape = self._of_named(schema)
                return shape

    def _define(self, schema: Schema) -> None:
        """Note a named type. Raises ValueError if its name could also mean another type.

        The decoder takes a primitive for the type of that name, and the last of several definitions.
        """
        name = schema["name"]
        if name in _PRIMITIVE_NAMES:
            raise ValueError(f"it defines a type with the name of a primitive, {name}")
        if name in self.types and _defined(self.types[name]) != _defined(schema):
            raise ValueError(f"it has two definitions of {name}")
        self.types[name] = schema

    def _of_named(self, schema: Schema) -> _Shape:
        match schema["type"]:
            case "enum":
                return _SEEN
            case "fixed":
                return _UNSEEN if schema["size"] else _UNBOUNDED
            case _:
                inner = [self.of(field["type"]) for field in schema["fields"]]
                values = 1 + sum(each.values for each in inner)
                if not inner or values > _PLAINLY_WIDE:
                    return _UNBOUNDED
                return _Shape(1 + max(each.depth for each in inner), values, any(each.sees_end for each in inner))


def _defined(schema: Schema) -> Schema:
    """Return what defines a named type, with the types inside it by their names, and without the parser's marks."""
    own = {key: value for key, value in schema.items() if not key.startswith("__")}
    if "fields" in own:
        own["fields"] = [(field["name"], _by_name(field["type"])) for field in own["fields"]]
    return own


def _by_name(schema: AvroType) -> AvroType:
    match schema:
        case {"name": str(name)}:
            return name
        case {"type": "array", "items": items}:
            return {"items": _by_name(items)}
        case {"type": "map", "values": values}:
            return {"values": _by_name(values)}
        case list():
            return [_by_name(each) for each in schema]
    return schema


def _around(inner: Sequence[_Shape]) -> _Shape:
    """Return the shape of an array, a map or a union, which begins with a number."""
    return _Shape(1 + max((each.depth for each in inner), default=0), 1, sees_end=True)


class _Pass:
    """One pass over a record's bytes. It skips one value after the other."""

    def __init__(self, types: Mapping[str, Schema], body: bytes) -> None:
        self._types = types
        self._body = body
        self._at = 0
        self._left = _VALUES_AT_LEAST + len(body) // _BYTES_PER_VALUE

    def value(self, schema: AvroType, depth: int) -> None:
        self._left -= 1
        if self._left < 0:
            raise Unbounded("it has too many values for its size")
        if depth > DEEPEST_RECORD:
            raise Unbounded(f"it is nested more than {DEEPEST_RECORD} levels deep")
        if isinstance(schema, list):
            index = self._number()
            if not 0 <= index < len(schema):
                raise ValueError(f"a union has no branch {index}")
            self.value(schema[index], depth + 1)
        elif isinstance(schema, dict):
            self._defined(schema, depth + 1)
        elif schema in self._types:
            self._defined(self._types[schema], depth + 1)
        else:
            self._primitive(schema)

    def _defined(self, schema: Schema, inner_depth: int) -> None:
        match schema["type"]:
            case "record" | "error":
                for field in schema["fields"]:
                    self.value(field["type"], inner_depth)
            case "array":
                for _ in self._items():
                    self.value(schema["items"], inner_depth)
            case "map":
                for _ in self._items():
                    self._skip(self._number())
                    self.value(schema["values"], inner_depth)
            case "fixed":
                self._skip(schema["size"])
            case kind:
                self._primitive(kind)

    def _primitive(self, kind: str) -> None:
        match kind:
            case "int" | "long" | "enum":
                self._number()
            case "string" | "bytes":
                self._skip(self._number())
            case _:
                self._skip(_BYTES_OF[kind])

    def _items(self) -> Iterator[None]:
        """Iterate over the items of an array or a map, block by block. An empty block is the last."""
        while count := self._number():
            # The decoder skips a block by its size, if it has one, so the size must match the items.
            size = self._number() if count < 0 else None
            begun = self._at
            for _ in range(abs(count)):
                yield
            if size not in (None, self._at - begun):
                raise ValueError(f"a block declares {size} bytes, but has {self._at - begun}")

    def _skip(self, count: int) -> None:
        if not 0 <= count <= len(self._body) - self._at:
            raise ValueError(f"{count} bytes should follow, but only {len(self._body) - self._at} are left")
        self._at += count

    def _number(self) -> int:
        """Read a number of variable length, zig-zag encoded."""
        value = 0
        for position in range(_LONGEST_VARINT):
            if self._at == len(self._body):
                raise ValueError("it ends in the middle of a value")
            byte = self._body[self._at]
            self._at += 1
            value |= (byte & 0x7F) << 7 * position
            if byte < 0x80:  # noqa: PLR2004 - the highest bit tells that more follows
                return (value >> 1) ^ -(value & 1)
        raise ValueError("a number has too many bytes")
