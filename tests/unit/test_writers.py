"""Hostile writers: whatever their schemas and records contain, decoding ends soon, with a message or a reason."""

import copy
import itertools
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from fastavro import parse_schema
from fastavro.validation import validate
from hypothesis import given
from hypothesis import strategies as st

from consumer.delivery import results
from consumer.delivery.work import Draft
from consumer.engine.records import Record
from schemas.codec import Codec, SchemaId, Undecodable, UnknownSchema
from schemas.own import OWN_SCHEMAS, earlier_schemas, own_schema
from schemas.writers import DEEPEST_RECORD, DEEPEST_SCHEMA, MOST_TYPES, Lookthrough, Schema, for_reading
from tests.thorough import scaled
from tests.unit.test_codec import ENDLESS, EVOLVED, RECORDS, TAXON, confluent, plain, single_object, written

NULL_MESSAGE = {"message": "taxon:new", "payload": {"taxon": None}}


class KeptSchemas:
    """A registry that takes any schema, with what it refers to before it, and gives each an id of its own."""

    def __init__(self) -> None:
        self._kept: list[list[Schema]] = []

    def keep(self, *schemas: Any) -> int:
        self._kept.append(list(schemas))
        return len(self._kept)

    def forget(self) -> None:
        self._kept.clear()

    def schema(self, schema_id: SchemaId) -> list[Schema]:
        assert isinstance(schema_id, int)
        return self._kept[schema_id - 1]

    def register(self, name: str, schema: Schema) -> int:
        return self.keep(schema)


REGISTRY = KeptSchemas()
CODEC = Codec(REGISTRY)  # one for all: it is much work to make, and each schema has its own id


def framed(body: bytes, *schemas: Any) -> bytes:
    """Frame a record of the last schema, which the registry has from now on."""
    return confluent(REGISTRY.keep(*schemas), body)


def message_with(extra: Any) -> Schema:
    """Make the schema of a compatible writer, whose messages begin with a field of this type."""
    fields = [
        {"name": "extra", "type": extra},
        {"name": "message", "type": "string"},
        {
            "name": "payload",
            "type": {
                "type": "record",
                "name": "TaxonPayload",
                "fields": [{"name": "taxon", "type": ["null", "string"]}],
            },
        },
    ]
    return {"type": "record", "name": "jirafe.hub.TaxonMessage", "fields": fields}


REST = b"\x12taxon:new\x00"


def decoded(schema: Any, extra: bytes, *before: Any) -> dict[str, Any]:
    return CODEC.decode(framed(extra + REST, *before, schema))


def undecodable(schema: Any, extra: bytes, *before: Any) -> str:
    """Have a record refused, soon, and give the reason."""
    given = framed(extra + REST, *before, schema)
    began = time.process_time()
    with pytest.raises(Undecodable) as caught:
        CODEC.decode(given)
    assert time.process_time() - began < ENDLESS
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def number(value: int) -> bytes:
    """Encode a number as Avro does."""
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def record(name: str, *types: Any) -> Schema:
    return {
        "type": "record",
        "name": name,
        "fields": [{"name": f"f{at}", "type": each} for at, each in enumerate(types)],
    }


# How a type contains itself, and the bytes of one more level: those before its content, and those after it.
SELVES: list[Any] = [
    pytest.param(["null", "Node"], b"\x02", b"", id="union"),
    pytest.param({"type": "array", "items": "Node"}, b"\x02", b"\x00", id="array"),
    pytest.param({"type": "map", "values": "Node"}, b"\x02\x02k", b"\x00", id="map"),
    pytest.param({"type": "array", "items": ["long", "Node"]}, b"\x02\x02", b"\x00", id="array of unions"),
    pytest.param(["null", record("Other", ["null", "Node"])], b"\x02\x02", b"", id="by another type"),
]


class TestDepth:
    @pytest.mark.parametrize(("inner", "before", "behind"), SELVES)
    def test_a_shallow_record_is_read(self, inner: Any, before: bytes, behind: bytes) -> None:
        schema = message_with(record("Node", inner))
        for depth in (0, 1, 40):
            assert decoded(schema, before * depth + b"\x00" + behind * depth)["message"] == "taxon:new"

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            ("null", None),
            ("boolean", True),
            ("int", -70),
            ("long", 2**62),
            ("float", -1.5),
            ("double", -1.5),
            ("string", "h\u00e4"),
            ("bytes", b"\xff\xff"),
            ({"type": "fixed", "name": "F", "size": 3}, b"\xff\xff\xff"),
            ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, "B"),
            ({"type": "array", "items": "float"}, [-1.5, 1.5]),
            ({"type": "map", "values": "int"}, {"a": 1, "b": -70}),
            (["null", "double"], -1.5),
            ({"type": "error", "name": "Failed", "fields": [{"name": "why", "type": "double"}]}, {"why": -1.5}),
        ],
    )
    def test_a_field_beside_a_recursive_type_is_read(self, kind: Any, value: Any) -> None:
        both = record("Both", record("Node", ["null", "Node"]), kind, "string")
        extra = written(both, {"f0": {"f0": None}, "f1": value, "f2": "end"})
        assert not Lookthrough([cast("Schema", parse_schema(message_with(both)))]).spares(b"")
        assert decoded(message_with(both), extra)["message"] == "taxon:new"

    @pytest.mark.parametrize("depth", [DEEPEST_RECORD, 20_000, 300_000])
    @pytest.mark.parametrize(("inner", "before", "behind"), SELVES)
    def test_a_deep_record_is_undecodable(self, inner: Any, before: bytes, behind: bytes, depth: int) -> None:
        extra = before * depth + b"\x00" + behind * depth
        assert "levels deep" in undecodable(message_with(record("Node", inner)), extra)

    def test_an_endless_type_is_undecodable(self) -> None:
        assert "levels deep" in undecodable(message_with(record("Node", "Node")), b"")
        assert "levels deep" in undecodable(message_with(record("A", record("B", "A"))), b"")

    def test_a_long_chain_of_types_is_undecodable(self) -> None:
        chain = [record("R0", "long"), *(record(f"R{at}", f"R{at - 1}") for at in range(1, 3_000))]
        assert "levels deep" in undecodable(message_with(record("All", *chain)), bytes(5_000))
        parts = [record(f"jirafe.hub.All{at}", *chain[at * 50 : at * 50 + 50]) for at in range(60)]
        assert "levels deep" in undecodable(message_with("R2999"), bytes(5_000), *parts)

    def test_a_block_with_a_wrong_size_is_undecodable(self) -> None:
        schema = message_with(record("Node", {"type": "array", "items": "Node"}))
        assert decoded(schema, b"\x01\x02\x00\x00")["message"] == "taxon:new"
        for size in (-1, 0, 2, 5, 2**62, -(2**63)):
            assert "a block declares" in undecodable(schema, b"\x01" + number(size) + b"\x00\x00")


NOTHINGS: list[Any] = [
    "null",
    {"type": "null"},
    {"type": "fixed", "name": "F", "size": 0},
    record("Empty"),
    record("Nulls", "null", "null"),
    record("Nested", record("Inner", {"type": "fixed", "name": "F", "size": 0}), "Inner"),
]
TAKERS: list[Any] = [
    *("boolean", "int", "long", "float", "double", "bytes", "string", ["null", "long"]),
    {"type": "fixed", "name": "F", "size": 8},
    {"type": "enum", "name": "E", "symbols": ["A"]},
    {"type": "array", "items": "long"},
    {"type": "map", "values": "double"},
    record("Doubles", "double", record("Booleans", "boolean", "boolean")),
    record("Mixed", "double", "long"),
]
COUNTS = (10**6, 2**63 - 1, -(2**63))


IN_CART = b"\x10cart:new\x02"


def field(name: str) -> Schema:
    return {"name": name, "type": ["null", "string"]}


def is_plain(schema: Schema, reader: Schema | None = None) -> bool:
    """Tell whether ordinary records of a writer are decoded without a check, even large ones."""
    return Lookthrough([schema], reader).spares(b"\x00\x02text" * 1_000_000)


def cart_with(item: Schema) -> Schema:
    """Make the schema of a writer whose carts have nothing but these line items."""
    items = {"name": "line_items", "type": {"type": "array", "items": item}}
    cart = {"type": "record", "name": "Order", "fields": [items]}
    payload = {"type": "record", "name": "CartPayload", "fields": [{"name": "cart", "type": ["null", cart]}]}
    fields = [{"name": "message", "type": "string"}, {"name": "payload", "type": payload}]
    return {"type": "record", "name": "CartMessage", "namespace": "jirafe.hub", "fields": fields}


class TestWorkIsBoundedByTheBytes:
    @pytest.mark.parametrize("count", COUNTS)
    @pytest.mark.parametrize("nothing", NOTHINGS)
    def test_a_huge_count_of_values_without_bytes_is_undecodable(self, nothing: Any, count: int) -> None:
        block = number(count) + (number(0) if count < 0 else b"")
        schema = message_with({"type": "array", "items": nothing})
        assert "too many values" in undecodable(schema, block + b"\x00")
        again = {"type": "array", "items": {"type": "array", "items": nothing}}
        assert "too many values" in undecodable(message_with(again), b"\x02" + block + b"\x00\x00")

    def test_many_small_counts_of_values_without_bytes_are_undecodable(self) -> None:
        schema = message_with({"type": "array", "items": {"type": "array", "items": "null"}})
        assert "too many values" in undecodable(schema, number(20_000) + (number(5_000) + b"\x00") * 20_000)

    def test_the_count_of_nested_one_byte_records_is_limited(self) -> None:
        item = record("Item", record("Inner", ["null", "Item"]))
        schema = message_with({"type": "array", "items": item})
        assert decoded(schema, number(5_000) + bytes(5_000) + b"\x00")["message"] == "taxon:new"
        assert "too many values" in undecodable(schema, number(100_000) + bytes(100_000) + b"\x00")

    @pytest.mark.parametrize("nothing", NOTHINGS)
    def test_a_small_count_of_values_without_bytes_is_read(self, nothing: Any) -> None:
        schema = message_with({"type": "array", "items": nothing})
        assert decoded(schema, number(100) + b"\x00")["message"] == "taxon:new"

    @pytest.mark.parametrize("count", COUNTS)
    @pytest.mark.parametrize("item", TAKERS)
    def test_a_count_beyond_the_bytes_is_undecodable(self, item: Any, count: int) -> None:
        for inner in ({"type": "array", "items": item}, {"type": "map", "values": item}):
            undecodable(message_with(inner), number(count) + bytes(scaled(20_000)))

    @pytest.mark.parametrize("leaf", ["null", *TAKERS])
    def test_types_that_double_at_each_level_are_undecodable(self, leaf: Any) -> None:
        doubled = [record("R0", leaf), *(record(f"R{at}", f"R{at - 1}", f"R{at - 1}") for at in range(1, 31))]
        undecodable(message_with(record("All", *doubled)), b"")

    @pytest.mark.parametrize("sign", [b"\x03", b"\xff\xff\xff\xff\x0f"])
    @pytest.mark.parametrize("item", TAKERS)
    def test_a_block_with_a_negative_size_is_undecodable(self, item: Any, sign: bytes) -> None:
        for inner in ({"type": "array", "items": item}, {"type": "map", "values": item}):
            undecodable(message_with(inner), b"\x01" + sign + bytes(100))

    def test_the_count_of_fields_without_bytes_is_limited(self) -> None:
        inner = record("Wide", *["null"] * 900, "long")
        schema = message_with({"type": "array", "items": inner})
        assert decoded(schema, number(1) + b"\x00" * 2)["message"] == "taxon:new"
        assert "too many values" in undecodable(schema, number(5_000) + bytes(5_001))

    @pytest.mark.parametrize("length", [-1, -5, 10**6, 2**62, -(2**63), 2**63 - 1])
    @pytest.mark.parametrize("kind", ["string", "bytes"])
    @pytest.mark.parametrize("beside", [["null", "long"], {"type": "array", "items": "null"}])
    def test_an_invalid_length_is_undecodable(self, kind: str, length: int, beside: Any) -> None:
        undecodable(message_with(record("Both", beside, kind)), b"\x00" + number(length))
        undecodable(
            message_with(record("Both", beside, {"type": "map", "values": "long"})), b"\x00\x02" + number(length)
        )

    @pytest.mark.parametrize("beside", ["long", {"type": "array", "items": "null"}])
    def test_an_invalid_branch_or_number_is_undecodable(self, beside: Any) -> None:
        for index in (2, 10**6, 2**62):
            undecodable(message_with(record("Both", beside, ["null", "long"])), b"\x00" + number(index))
        undecodable(message_with(record("Both", beside, [])), b"\x00\x00")
        undecodable(message_with(record("Both", beside, "long")), b"\x00" + b"\xff" * 50_000)

    @pytest.mark.parametrize("count", [100_000, 1_000_000])
    def test_the_count_of_records_that_are_mostly_defaults_is_limited(self, count: int) -> None:
        schema = cart_with({"type": "record", "name": "LineItem", "fields": [field("id")]})
        data = framed(IN_CART + number(count) + bytes(count + 1), schema)
        began = time.process_time()
        with pytest.raises(Undecodable, match="too many values"):
            CODEC.decode(data)
        assert time.process_time() - began < ENDLESS

    @pytest.mark.parametrize("count", [1, 5_000, 15_000])
    def test_a_few_records_that_are_mostly_defaults_are_read(self, count: int) -> None:
        schema = cart_with({"type": "record", "name": "LineItem", "fields": [field("id")]})
        items = CODEC.decode(framed(IN_CART + number(count) + b"\x02\x02x" * count + b"\x00", schema))
        assert [each["id"] for each in items["payload"]["cart"]["line_items"]] == ["x"] * count

    @pytest.mark.parametrize("count", [100_000, 200_000])
    def test_the_count_of_nulls_in_a_large_record_is_limited(self, count: int) -> None:
        message = {"message": "cart:new", "payload": {"cart": {"line_items": [{}] * count}}}
        for codec in (CODEC, Codec()):
            with pytest.raises(Undecodable, match="too many values"):
                codec.decode(codec.encode("cart", message))

    def test_a_large_record_is_read(self) -> None:
        items = [{"sku": f"SKU-{number}", "name": "A mug with a handle", "price": 10.0} for number in range(40_000)]
        data = CODEC.encode("cart", {"message": "cart:new", "payload": {"cart": {"line_items": items}}})
        assert len(data) > 1_500_000
        assert len(CODEC.decode(data)["payload"]["cart"]["line_items"]) == len(items)

    @pytest.mark.parametrize("name", OWN_SCHEMAS)
    def test_records_of_our_schemas_need_no_lookthrough(self, name: str) -> None:
        assert is_plain(cast("Schema", for_reading(own_schema(name))))

    def test_records_of_earlier_versions_need_no_lookthrough(self) -> None:
        for schema in earlier_schemas():
            reader = own_schema(schema["name"].rpartition(".")[2].removesuffix("Message").lower())
            assert is_plain(cast("Schema", for_reading(schema)), reader)

    @pytest.mark.parametrize(("schema", "written_record", "read"), EVOLVED)
    def test_records_of_ordinary_writers_need_no_lookthrough(
        self, schema: Schema, written_record: Any, read: Any
    ) -> None:
        assert is_plain(schema, own_schema("taxon"))


LONG = "x" * 990


class TestTooLargeSchemasAreRefused:
    def refused(self, *schemas: Any) -> str:
        began = time.process_time()
        with pytest.raises(UnknownSchema) as caught:
            CODEC.decode(framed(REST, *schemas))
        assert time.process_time() - began < ENDLESS
        assert len(str(caught.value)) < 1000
        return str(caught.value)

    @pytest.mark.parametrize(
        "deeper",
        [
            lambda inner, at: {"type": "array", "items": inner},
            lambda inner, at: {"type": "map", "values": inner},
            lambda inner, at: {"type": inner},
            lambda inner, at: ["null", inner],
            lambda inner, at: [inner],
            lambda inner, at: record(f"R{at}", inner),
        ],
    )
    @pytest.mark.parametrize("depth", [DEEPEST_SCHEMA + 1, 900, scaled(100_000)])
    def test_nested_deeply(self, deeper: Callable[[Any, int], Any], depth: int) -> None:
        schema: Any = "long"
        for at in range(depth):
            schema = deeper(schema, at)
        assert "levels deep" in self.refused(message_with(schema))

    def test_with_too_many_types(self) -> None:
        assert "more than 10000 types" in self.refused(message_with(record("Wide", *["long"] * MOST_TYPES)))
        assert "more than 10000 types" in self.refused(message_with(["null"] * MOST_TYPES))

    def test_with_too_many_symbols(self) -> None:
        symbols = [f"S{number}" for number in range(MOST_TYPES)]
        assert "more than 10000 types" in self.refused(
            message_with({"type": "enum", "name": "E", "symbols": symbols})
        )

    @pytest.mark.parametrize("part", ["name", "namespace"])
    def test_with_a_very_long_name(self, part: str) -> None:
        inner = [{"type": "fixed", "name": f"F{number}", "size": 1} for number in range(4000)]
        schema = {**record("R", *inner), part: "x" * 400_000}
        assert "a name in it is not text of up to 1000 characters" in self.refused(message_with(schema))

    @pytest.mark.parametrize(
        "extra",
        [
            {
                **record("R", *({"type": "fixed", "name": f"F{at}", "size": 1} for at in range(1_000))),
                "namespace": LONG,
            },
            {**record("R", *[f"{LONG}.R"] * 1_000), "namespace": LONG},
            {"type": "enum", "name": "E", "symbols": [f"S{at}{LONG}" for at in range(1_000)]},
            {
                "type": "record",
                "name": "R",
                "fields": [{"name": f"{at}{LONG}", "type": "int"} for at in range(1_000)],
            },
        ],
    )
    def test_with_many_long_names(self, extra: Any) -> None:
        assert "more than 10000 types" in self.refused(message_with(extra))

    def test_with_too_many_types_in_their_references(self) -> None:
        others = [{**record(f"O{at}", *["long"] * 1000), "namespace": "x"} for at in range(11)]
        assert "more than 10000 types" in self.refused(*others, message_with("x.O1"))

    @pytest.mark.parametrize("name", ["null", "boolean", "int", "long", "float", "double", "bytes", "string"])
    def test_with_a_type_that_has_the_name_of_a_primitive(self, name: str, tmp_path: Path) -> None:
        named, many = record(name, "string"), {"type": "array", "items": name}
        schema = {**message_with(record("Both", named, many)), "name": "TaxonMessage"}
        assert f"the name of a primitive, {name}" in self.refused(schema)
        assert f"the name of a primitive, {name}" in self.refused(named, message_with(many))
        (tmp_path / "writer.avsc").write_text(json.dumps(schema))
        with pytest.raises(ValueError, match="the name of a primitive"):
            Codec(more=tmp_path)

    @pytest.mark.parametrize(
        "later",
        [
            record("x.T", {"type": "array", "items": "null"}),
            record("x.T", ["null", "x.T"]),
            {"type": "fixed", "name": "x.T", "size": 0},
            {"type": "enum", "name": "x.T", "symbols": ["A"]},
        ],
    )
    def test_with_two_definitions_of_a_name(self, later: Any) -> None:
        first = record("x.R", record("x.T", "string"), "x.T")
        assert "two definitions of x.T" in self.refused(first, later, message_with("x.R"))
        assert "two definitions of x.T" in self.refused(first, message_with(["x.R", later]))

    def test_a_definition_may_be_repeated(self) -> None:
        shared = record("x.T", "string")
        first, second = record("x.A", shared), record("x.B", shared, "x.T")
        schema = message_with({"type": "map", "values": ["x.A", "x.B"]})
        assert decoded(schema, b"\x00", first, shared, second)["message"] == "taxon:new"

    def test_a_repeated_definition_may_name_what_the_other_defines_in_place(self) -> None:
        enum = {"type": "enum", "name": "x.E", "symbols": ["A"]}
        first = record("x.A", record("x.X", {"type": "map", "values": ["null", enum]}))
        second = record("x.B", enum, record("x.X", {"type": "map", "values": ["null", "x.E"]}))
        schema = message_with({"type": "map", "values": ["x.A", "x.B"]})
        assert decoded(schema, b"\x00", first, second)["message"] == "taxon:new"

    def test_the_maximum_number_of_types_is_read_quickly(self) -> None:
        began = time.process_time()
        names = [record(f"R{at}", "long") for at in range(MOST_TYPES // 2 - 10)]
        assert decoded(message_with(record("Wide", *names)), bytes(len(names)))["message"] == "taxon:new"
        assert decoded(message_with(names), b"\x00\x00")["message"] == "taxon:new"
        assert time.process_time() - began < ENDLESS

    @pytest.mark.parametrize(
        "schema",
        [
            None,
            5,
            "Nope",
            {},
            {"type": None},
            {"type": "record"},
            {"type": "record", "name": "X"},
            {"type": "record", "name": "X", "fields": 5},
            {"type": "record", "name": "X", "fields": [5]},
            {"type": "record", "name": "X", "fields": [{"name": "a"}]},
            {"type": "record", "name": 5, "fields": []},
            {"type": "record", "name": "X", "namespace": ["a"], "fields": []},
            {"type": "array"},
            {"type": "map"},
            {"type": "enum", "name": "E"},
            {"type": "enum", "name": "E", "symbols": 5},
            {"type": "fixed", "name": "F"},
            *({"type": "fixed", "name": "F", "size": size} for size in (-1, 2**31, 2**70, "3", 1.5, None, True)),
        ],
    )
    def test_that_are_invalid(self, schema: Any) -> None:
        assert "can't be used: " in self.refused(message_with(schema))
        assert "can't be used: " in self.refused(message_with(["null", {"type": "array", "items": schema}]))

    @pytest.mark.parametrize(
        ("schema", "why"),
        [
            ("shop.Nope", "the type shop.Nope is not defined"),
            ({"type": "array"}, "'items' is missing"),
            ({"type": "record", "name": "X"}, "'fields' is missing"),
        ],
    )
    def test_the_reason_says_what_is_missing(self, schema: Any, why: str) -> None:
        assert self.refused(message_with(schema)).endswith(f"can't be used: {why}")


LOGICAL = [
    *({"logicalType": name} for name in ("uuid", "date", "time-millis", "time-micros", "duration", "made-up")),
    *(
        {"logicalType": f"{local}timestamp-{unit}"}
        for local in ("", "local-")
        for unit in ("millis", "micros", "nanos")
    ),
    {"logicalType": "decimal", "precision": 4, "scale": 2},
    {"logicalType": "decimal", "precision": -1, "scale": "x"},
    {"logicalType": 5},
]


def with_logical(schema: Any, logical: dict[str, Any]) -> Any:
    """Put a logical type on every primitive of a schema."""
    match schema:
        case "null":
            return schema
        case str() if schema in {"string", "bytes", "int", "long", "float", "double", "boolean"}:
            return {"type": schema, **logical}
        case list():
            return [with_logical(each, logical) for each in schema]
        case dict():
            inner = {
                key: with_logical(part, logical)
                for key, part in schema.items()
                if key in ("type", "items", "values")
            }
            if "fields" in schema:
                inner = {
                    "type": "record",
                    "fields": [{**each, **with_logical(each, logical)} for each in schema["fields"]],
                }
            return {**schema, **inner}
        case _:
            return schema


class TestOnlyTypesAndNamesAreUsed:
    @pytest.mark.parametrize("logical", LOGICAL)
    @pytest.mark.parametrize(("name", "message"), RECORDS[:3])
    def test_logical_types_are_ignored_as_in_java(
        self, tmp_path: Path, name: str, message: dict[str, Any], logical: dict[str, Any]
    ) -> None:
        ours = plain(own_schema(name))
        schema = with_logical(ours, logical)
        schema["fields"].append({"name": "more", "type": {"type": "string", **logical}})
        more = written(
            {**ours, "fields": [*ours["fields"], {"name": "more", "type": "string"}]}, {**message, "more": "x"}
        )
        assert CODEC.decode(framed(more, schema)) == message
        assert CODEC.decode(framed(written(ours, message), with_logical(ours, logical))) == message

    @pytest.mark.parametrize("default", [None, 5, "x", [], {}, {"a": 1}, True, 1.5])
    def test_an_invalid_default_is_ignored(self, tmp_path: Path, default: Any) -> None:
        schema = copy.deepcopy(EVOLVED[0][0])
        for fields in (schema["fields"], schema["fields"][1]["type"]["fields"]):
            for field in fields:
                field["default"] = default
        schema["aliases"] = default
        _, message, read = EVOLVED[0]
        assert CODEC.decode(framed(written(EVOLVED[0][0], message), schema)) == read
        (tmp_path / "writer.avsc").write_text(json.dumps(schema))
        assert Codec(more=tmp_path).decode(single_object(EVOLVED[0][0], message)) == read

    def test_a_referenced_schema_may_be_of_any_type(self) -> None:
        enum = {"type": "enum", "name": "jirafe.hub.Hue", "symbols": ["RED"], "default": "BLUE"}
        assert decoded(message_with("Hue"), b"\x00", enum)["message"] == "taxon:new"

    @pytest.mark.parametrize("schema", [plain(own_schema(name)) for name in OWN_SCHEMAS])
    def test_a_reduced_schema_has_no_docs_and_defaults_and_stays_the_same(self, schema: Schema) -> None:
        left = json.dumps(for_reading(schema))
        for word in ('"default"', '"doc"', '"logicalType"'):
            assert word not in left
        assert for_reading(json.loads(left)) == json.loads(left)


NAMES = itertools.count()


def types() -> st.SearchStrategy[Any]:
    """Draw types of all kinds, including recursive and invalid ones."""
    leaves = st.sampled_from(
        ["null", "boolean", "int", "long", "float", "double", "bytes", "string", "jirafe.hub.TaxonMessage", "Nope"]
    ) | st.sampled_from([{"type": "string", "logicalType": "uuid"}, {"type": "int", "logicalType": "date"}])

    def wider(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return (
            st.builds(lambda each: {"type": "array", "items": each}, inner)
            | st.builds(lambda each: {"type": "map", "values": each}, inner)
            | st.lists(inner, max_size=3)
            | st.builds(lambda each: record(f"N{next(NAMES)}", *each), st.lists(inner, max_size=3))
            | st.builds(lambda size: {"type": "fixed", "name": f"N{next(NAMES)}", "size": size}, st.integers(-1, 9))
        )

    return st.recursive(leaves, wider, max_leaves=8)


TYPES = types()


class TestAnyWriter:
    @given(st.data())
    def test_a_record_is_a_message_or_undecodable(self, data: st.DataObject) -> None:
        fields = {
            name: data.draw(st.sampled_from([usual, usual]) | TYPES)
            for name, usual in (
                ("extra", "long"),
                ("message", "string"),
                ("message_id", "string"),
                ("parameters", {"type": "map", "values": "string"}),
                ("payload", record("TaxonPayload", ["null", "string"])),
            )
        }
        payload = record("TaxonPayload")
        payload["fields"] = [{"name": "taxon", "type": data.draw(st.just(["null", "string"]) | TYPES)}]
        fields["payload"] = payload
        schema = {
            "type": "record",
            "name": "jirafe.hub.TaxonMessage",
            "fields": [{"name": name, "type": kind} for name, kind in fields.items()],
        }
        body = data.draw(st.binary(max_size=40) | st.builds(lambda each: each + bytes(9), st.binary(max_size=9)))
        given = framed(body, schema)
        began = time.process_time()
        try:
            message = CODEC.decode(given)
        except Undecodable:
            return
        finally:
            assert time.process_time() - began < ENDLESS
        assert validate(message, own_schema("taxon"))
        draft = Draft(Record("taxons", 0, 0, 0, None, b"", ()), message["message_id"], message["message"])
        assert CODEC.decode(results.output(draft, 1, CODEC).result)["message"] == message["message"]


class TestTimestamps:
    @pytest.mark.parametrize(
        ("timestamp", "read"),
        [
            (-1, datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)),
            (0, datetime(1970, 1, 1, tzinfo=UTC)),
            (253402300799999, datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)),
            (253402300800000, 253402300800000),
            (1_700_000_000_000_000, 1_700_000_000_000_000),
            (1_700_000_000_000_000_000, 1_700_000_000_000_000_000),
            (2**63 - 1, 2**63 - 1),
            (-(2**63), -(2**63)),
        ],
    )
    def test_a_result_with_any_timestamp_can_be_read(self, timestamp: int, read: object) -> None:
        codec = Codec()
        draft = Draft(Record("orders", 3, 7, timestamp, b"k", b"v", ()), "m1", "order:new")
        result = codec.decode_result(results.output(draft, 1, codec).result)
        assert result["timestamp"] == read
        assert (result["topic"], result["partition"], result["offset"]) == ("orders", 3, 7)


def test_large_schemas_are_kept_until_there_are_too_many() -> None:
    registry = KeptSchemas()
    codec, wide = Codec(registry), message_with(record("Wide", *["long"] * 4_990))
    ids = [registry.keep(wide) for _ in range(12)]
    records = [confluent(schema_id, bytes(4_990) + REST) for schema_id in ids]
    assert {codec.decode(each)["message"] for each in records} == {"taxon:new"}
    registry.forget()
    assert {codec.decode(each)["message"] for each in records[4:]} == {"taxon:new"}
    with pytest.raises(UnknownSchema):
        codec.decode(records[0])


def test_a_message_that_needs_a_lookthrough_is_read_as_any_other() -> None:
    ours = plain(own_schema("taxon"))
    schema = {**ours, "fields": [{"name": "extra", "type": record("Node", ["null", "Node"])}, *ours["fields"]]}
    assert CODEC.decode(framed(b"\x02\x02\x00" + written(ours, TAXON), schema)) == TAXON
