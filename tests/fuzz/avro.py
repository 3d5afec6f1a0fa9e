"""Draws schemas of writers, some like ours and some hostile, and their records as bytes."""

import copy
import struct
from functools import cache
from random import Random
from typing import Any

from schemas.own import OWN_SCHEMAS, own_schema
from tests.fuzz import draw as drawing
from tests.fuzz.draw import chance

Schema = Any

_PARTS = 2000
_PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
_LOGICAL = (
    ("string", {"logicalType": "uuid"}),
    ("bytes", {"logicalType": "decimal", "precision": 4, "scale": 2}),
    ("bytes", {"logicalType": "decimal", "precision": 10**9, "scale": 10**9}),
    ("bytes", {"logicalType": "decimal"}),
    ("int", {"logicalType": "date"}),
    ("int", {"logicalType": "time-millis"}),
    ("long", {"logicalType": "time-micros"}),
    ("long", {"logicalType": "timestamp-millis"}),
    ("long", {"logicalType": "timestamp-micros"}),
    ("long", {"logicalType": "timestamp-nanos"}),
    ("long", {"logicalType": "local-timestamp-millis"}),
    ("long", {"logicalType": "local-timestamp-micros"}),
    ("string", {"logicalType": "decimal", "precision": 4}),
    ("double", {"logicalType": "timestamp-millis"}),
    ("string", {"logicalType": "datetime"}),
    ("string", {"logicalType": "nonsense"}),
    ("string", {"logicalType": 5}),
)


@cache
def _own(name: str) -> Schema:
    return _plain(own_schema(name))


def _plain(schema: Schema) -> Schema:
    """Remove the marks of the library that parsed a schema."""
    if isinstance(schema, dict):
        return {key: _plain(value) for key, value in schema.items() if not key.startswith("__")}
    return [_plain(each) for each in schema] if isinstance(schema, list) else schema


def draw_schema(random: Random) -> Schema:
    """Draw the schema of a writer: usually one of ours with some changes, rarely another one."""
    if chance(random, 0.03):
        return draw_type(random, 4)
    schema = copy.deepcopy(_own(random.choice(OWN_SCHEMAS)))
    for _ in range(random.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        _change(random, schema)
    if chance(random, 0.05):
        other = random.choice((_own("taxon"), draw_type(random, 2), "null", schema))
        return random.choice(([schema], [schema, other], [other, schema]))
    if chance(random, 0.03):
        return _wide(random, schema)
    return schema


def _wide(random: Random, schema: Schema) -> Schema:
    """Draw a union of many records, some of which are the same."""
    many = random.choice((62, 63, 64, 1000, 4000))
    fields = random.choice(([], [{"name": "a", "type": "int"}]))
    others = [{"type": "record", "name": f"W{index}", "fields": fields} for index in range(many)]
    return random.choice(([schema, *others], [*others, schema], [schema, *[schema.get("name")] * many]))


def _records(schema: Schema) -> list[dict[str, Any]]:
    """List all records that are defined in a schema."""
    found, left = [], [schema]
    while left:
        each = left.pop()
        if isinstance(each, list):
            left.extend(each)
        elif isinstance(each, dict):
            if isinstance(each.get("fields"), list):
                found.append(each)
                left.extend(field for field in each["fields"] if isinstance(field, dict))
            left.extend(each[key] for key in ("type", "items", "values") if key in each)
    return found


def _change(random: Random, schema: Schema) -> None:
    record = random.choice(_records(schema) or [schema])
    fields = record.get("fields") or [{"name": "a", "type": "null"}]
    field = random.choice(fields)
    kind = random.randrange(12)
    if kind <= 3:
        extra = {
            "name": random.choice(("extra", f"x{random.randrange(99)}", "payload")),
            "type": draw_type(random, 4),
        }
        if chance(random, 0.3):
            extra["default"] = drawing.json_value(random)
        fields.insert(random.randrange(len(fields) + 1), extra)
    elif kind == 4:
        fields.remove(field)
    elif kind == 5:
        field["default"] = drawing.json_value(random)
    elif kind == 6:
        field["type"] = draw_type(random, 3)
    elif kind == 7:
        field["type"] = [
            field["type"],
            *random.choice((["null"], ["int", "bytes"], [{"type": "map", "values": "int"}])),
        ]
    elif kind == 8:
        _make_logical(random, field)
    elif kind == 9:
        record["name"] = random.choice(
            (record.get("name"), "Other", "jirafe.hub.Order", "", "a b", "Result", None, 5)
        )
    elif kind == 10:
        record["aliases"] = random.choice((["a"], "a", [5], ["jirafe.hub.OrderMessage"], []))
    else:
        key = random.choice(list(field))
        field[key] = drawing.json_value(random)


def _make_logical(random: Random, field: dict[str, Any]) -> None:
    base, marks = random.choice(_LOGICAL)
    fitting = field["type"] if isinstance(field["type"], str) and chance(random, 0.7) else base
    field["type"] = {"type": fitting, **marks}


def draw_type(random: Random, depth: int) -> Schema:
    """Draw a type: primitive, logical, empty, recursive, deep, wide."""
    name = random.choice(_PRIMITIVES) if chance(random, 0.02) else f"T{random.randrange(10**9)}"
    kind = random.randrange(14 if depth else 3)
    if kind <= 1:
        return random.choice(_PRIMITIVES)
    if kind == 2:
        base, marks = random.choice(_LOGICAL)
        return {"type": base, **marks}
    if kind == 3:
        return {
            "type": random.choice(("array", "map")),
            random.choice(("items", "values")): draw_type(random, depth - 1),
        }
    if kind == 4:
        return {"type": "array", "items": _empty(random, name)}
    if kind == 5:
        return {"type": "map", "values": draw_type(random, depth - 1)}
    if kind == 6:
        return (
            ["null", draw_type(random, depth - 1)]
            if chance(random, 0.5)
            else [draw_type(random, depth - 1) for _ in range(random.choice((0, 1, 2, 5, 200)))]
        )
    if kind == 7:
        return {"type": "fixed", "name": name, "size": random.choice((0, 1, 16, 10**6, 2**31, 2**63, -1))}
    if kind == 8:
        return {
            "type": "enum",
            "name": name,
            "symbols": random.choice(([], ["A"], ["A", "B"], ["A", "A"], [f"S{i}" for i in range(500)])),
        }
    if kind == 9:
        return _recursive(random, name)
    if kind == 10:
        return _deep(random, name)
    if kind == 11:
        return {
            "type": "record",
            "name": name,
            "fields": [
                {"name": f"f{i}", "type": random.choice(_PRIMITIVES)} for i in range(random.choice((0, 1, 500)))
            ],
        }
    if kind == 12:
        return _multiplying(random, name)
    return {
        "type": "record",
        "name": name,
        "fields": [
            {"name": "a", "type": draw_type(random, depth - 1)},
            {"name": "b", "type": draw_type(random, depth - 1)},
        ],
    }


def _empty(random: Random, name: str) -> Schema:
    """Draw a type whose values take no bytes."""
    return random.choice(
        (
            "null",
            {"type": "fixed", "name": name, "size": 0},
            {"type": "record", "name": name, "fields": []},
            {
                "type": "record",
                "name": name,
                "fields": [{"name": "a", "type": "null"}, {"name": "b", "type": "null"}],
            },
        )
    )


def _recursive(random: Random, name: str) -> Schema:
    """Draw a recursive type. Some never end."""
    inner = random.choice(
        (
            ["null", name],
            {"type": "array", "items": name},
            {"type": "map", "values": name},
            name,
            ["null", {"type": "array", "items": name}],
        )
    )
    fields = [{"name": "next", "type": inner}]
    if chance(random, 0.4):
        fields.insert(random.randrange(2), {"name": "a", "type": random.choice(_PRIMITIVES)})
    return {"type": "record", "name": name, "fields": fields}


def _deep(random: Random, name: str) -> Schema:
    """Draw a type of many nested types."""
    found: Schema = random.choice(("null", "string", "int"))
    kinds = random.choice((("array",), ("map",), ("record",), ("union",), ("array", "map", "record")))
    for level in range(random.choice((5, 60, 300, 900))):
        match random.choice(kinds):
            case "array":
                found = {"type": "array", "items": found}
            case "map":
                found = {"type": "map", "values": found}
            case "union":
                found = {"type": "array", "items": ["null", found]}
            case _:
                found = {"type": "record", "name": f"{name}_{level}", "fields": [{"name": "a", "type": found}]}
    return found


def _multiplying(random: Random, name: str) -> Schema:
    """Draw records that each contain the one before many times: 10 levels of 10 make 10^10."""
    level: Schema = random.choice(("null", "int", {"type": "record", "name": f"{name}_0", "fields": []}))
    width = random.choice((2, 4, 10))
    for number in range(1, random.choice((3, 8, 25))):
        first: Schema = level
        known = level["name"] if isinstance(level, dict) else level
        fields = [{"name": f"f{index}", "type": known if index else first} for index in range(width)]
        level = {"type": "record", "name": f"{name}_{number}", "fields": fields}
    return random.choice((level, {"type": "array", "items": level}))


class Encoder:
    """Writes records of a schema as bytes. The drawn values are plausible, unusual or hostile.

    A record has about `largest` bytes at most; where it would have more, or would take too long to write, it ends.
    """

    def __init__(self, random: Random, schema: Schema, largest: int) -> None:
        self._random = random
        self._named: dict[str, Schema] = {}
        self._largest = largest
        self._note(schema)
        self._schema = schema
        self._hostility = 0.0
        self._deepest = 0

    def _note(self, schema: Schema) -> None:
        left = [schema]
        while left:
            each = left.pop()
            if isinstance(each, list):
                left.extend(each)
            elif isinstance(each, dict):
                if isinstance(each.get("name"), str):
                    for name in (
                        each["name"],
                        f"{each.get('namespace')}.{each['name']}",
                        each["name"].rpartition(".")[2],
                    ):
                        self._named.setdefault(name, each)
                left.extend(field for field in each.get("fields") or [] if isinstance(field, dict))
                left.extend(
                    each[key] for key in ("type", "items", "values") if isinstance(each.get(key), dict | list)
                )

    def record(self, value: object = None) -> bytes:
        """Write a record. Fields that `value` lacks are drawn."""
        random = self._random
        self._hostility = random.choice((0.0, 0.0, 0.01, 0.05, 0.3))
        self._deepest = random.choice((3, 8, 30, 300)) if chance(random, 0.98) else 30_000
        most_parts = 4 * self._deepest + _PARTS
        # Without recursion: only the code that reads it must handle the depth.
        written = bytearray()
        stack: list[tuple[Any, ...]] = [(self._schema, value, 0)]
        parts = 0
        while stack and len(written) < self._largest and parts < most_parts:
            entry = stack.pop()
            parts += 1
            if len(entry) == 1:
                written += entry[0]
            else:
                stack.extend(reversed(self._parts(*entry)))
        return bytes(written)

    def _parts(self, schema: Schema, value: Any, depth: int) -> list[tuple[Any, ...]]:
        """Write a value of a schema as bytes, and further values: (bytes,) or (schema, value, depth)."""
        random = self._random
        if isinstance(schema, str) and schema not in _PRIMITIVES:
            schema = self._named.get(schema, "null")
        if isinstance(schema, list):
            return self._union(schema, value, depth)
        kind = schema.get("type") if isinstance(schema, dict) else schema
        if isinstance(kind, dict | list):
            return [(kind, value, depth)]
        match kind:
            case "record":
                fields = [field for field in schema.get("fields") or [] if isinstance(field, dict)]
                known = value if isinstance(value, dict) else {}
                return [(field.get("type"), known.get(str(field.get("name"))), depth + 1) for field in fields]
            case "array" | "map":
                return self._blocks(schema, kind, value, depth)
            case "fixed":
                size = schema.get("size")
                return [(random.randbytes(min(size, 2000)) if isinstance(size, int) and size > 0 else b"",)]
            case "enum":
                symbols = schema.get("symbols") or [0]
                index = symbols.index(value) if value in symbols else random.randrange(len(symbols))
                return [(zigzag(index if not self._hostile() else random.choice((-1, len(symbols), 2**62))),)]
            case str() if kind in _PRIMITIVES:
                return [(self._primitive(kind, value),)]
            case str() if kind in self._named:
                return [(self._named[kind], value, depth)]
            case _:
                return [(drawing.data(random),)]

    def _union(self, branches: list[Schema], value: Any, depth: int) -> list[tuple[Any, ...]]:
        if not branches or self._hostile():
            return [(zigzag(self._random.choice((-1, len(branches), 10**9, 2**62))),)]
        index = self._random.randrange(len(branches))
        if value is not None:
            index = next((i for i, branch in enumerate(branches) if branch != "null"), index)
        elif depth > self._deepest:
            index = next((i for i, branch in enumerate(branches) if branch == "null"), index)
        elif chance(self._random, 0.9) and self._deepest > 1000:
            index = len(branches) - 1
        return [(zigzag(index),), (branches[index], value, depth + 1)]

    def _blocks(self, schema: Schema, kind: str, value: Any, depth: int) -> list[tuple[Any, ...]]:
        random, inner = self._random, schema.get("items" if kind == "array" else "values")
        if self._hostile():
            # A count of far more items than there are, with or without the size of the block.
            count = random.choice((10**4, 10**6, 10**9, 10**15, 2**63 - 1, -(2**63)))
            return [
                (zigzag(random.choice((count, -count))),),
                (zigzag(random.choice((0, 1, 10**6))),),
                (zigzag(0),),
            ]
        if isinstance(value, dict):
            keys, values = list(value), list(value.values())
        elif isinstance(value, list):
            keys, values = [""] * len(value), value
        else:
            number = 0 if depth > self._deepest else random.choice((0, 1, 1, 2, 3)) if self._deepest < 1000 else 1
            keys, values = [drawing.utf8(random) for _ in range(number)], [None] * number
        parts: list[tuple[Any, ...]] = []
        for key, each in zip(keys, values, strict=True):
            parts.append((zigzag(1),))
            if kind == "map":
                parts.append((sized(str(key).encode()),))
            parts.append((inner, each, depth + 1))
        return [*parts, (zigzag(0),)]

    def _primitive(self, kind: str, value: Any) -> bytes:
        random = self._random
        match kind:
            case "null":
                return b""
            case "boolean":
                return random.choice((b"\0", b"\1", b"\2", b"\xff"))
            case "int" | "long":
                whole = (
                    value
                    if isinstance(value, int)
                    else random.choice((0, 1, -1, 200, 2**31 - 1, 2**31, 1_400_000_000_000, 2**62, -(2**63)))
                )
                return zigzag(whole) if not self._hostile() else b"\xff" * random.choice((1, 9, 10, 11, 5000))
            case "float":
                return struct.pack("<f", random.choice((0.0, 1.5, float("nan"), float("inf"))))
            case "double":
                number = float(value) if isinstance(value, int | float) else random.choice((0.0, 1.5, 1e300, -1.0))
                return struct.pack(
                    "<d", number if not self._hostile() else random.choice((float("nan"), float("-inf")))
                )
            case _:
                if self._hostile():
                    return random.choice(
                        (
                            zigzag(10**12),
                            zigzag(-5),
                            zigzag(2**62) + b"a",
                            sized(b"\xed\xa0\xbd"),
                            sized(b"\xff" * 9),
                            sized(b"a" * 300_000),
                        )
                    )
                return sized((value if isinstance(value, str) else drawing.utf8(random)).encode(errors="replace"))

    def _hostile(self) -> bool:
        return chance(self._random, self._hostility)


def zigzag(number: int) -> bytes:
    """Write a whole number as Avro does."""
    number = (number << 1) ^ (number >> 63)
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number & 127)
    return bytes(written)


def sized(content: bytes) -> bytes:
    """Write bytes with their length before them."""
    return zigzag(len(content)) + content
