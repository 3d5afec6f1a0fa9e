"""A decoder made from a schema gives what fastavro gives, or declines, for any bytes."""

import copy
import os
import random
import time
from collections.abc import Callable
from functools import cache, partial
from io import BytesIO
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.demo.shop import shop
from schemas.codec import Codec, _Writer
from schemas.decoder import Decoder, Kept, KeptVariants
from schemas.own import OWN_SCHEMAS, own_schema
from schemas.writers import Schema, for_reading
from tests.thorough import scaled
from tests.unit.test_codec import ENDLESS, EVOLVED, LESS, MORE, RECORDS, plain

TRIED = int(os.environ.get("DECODER_RECORDS", scaled(10_000)))
"""How many records the long run tries."""

FLIPS = (0, 1, 2, 3, 127, 128, 129, 254, 255)


def parsed(schema: Schema) -> Any:
    return parse_schema(for_reading(plain(schema)))


@cache
def ours(name: str) -> Any:
    return parsed(own_schema(name))


def by_fastavro(writer: Any, reader: Any, body: bytes) -> dict[str, Any] | None:
    """Give what fastavro reads, or None if it refuses or does not use all bytes."""
    buffer = BytesIO(body)
    try:
        record = schemaless_reader(buffer, writer, reader)
    except Exception:  # noqa: BLE001 - it refuses in many ways
        return None
    return record if buffer.tell() == len(body) else None  # type: ignore[return-value]


def written(schema: Any, record: Any) -> bytes:
    buffer = BytesIO()
    schemaless_writer(buffer, schema, record)
    return buffer.getvalue()


WRITERS: list[tuple[str, Any, Any]] = [
    *((name, ours(name), None) for name in OWN_SCHEMAS),
    ("order by an earlier schema", parsed(own_schema("order-1")), own_schema("order")),
    ("cart by an earlier schema", parsed(own_schema("cart-1")), own_schema("cart")),
    ("result by an earlier schema", parsed(own_schema("result-1")), own_schema("result")),
    ("order with fields more", parsed(MORE), own_schema("order")),
    ("taxon with fields less", parsed(LESS), own_schema("taxon")),
]
DECODERS = [(label, writer, reader, Decoder([writer], reader)) for label, writer, reader in WRITERS]


def drawn(schema: Any, draw: random.Random, named: dict[str, Any]) -> Any:  # noqa: PLR0911 - one for each type
    """Draw a value of a type."""
    if isinstance(schema, str) and schema in named:
        schema = named[schema]
    match schema:
        case list():
            return drawn(draw.choice(schema), draw, named)
        case {"type": "record", "fields": fields}:
            named[schema["name"]] = schema
            return {field["name"]: drawn(field["type"], draw, named) for field in fields}
        case {"type": "enum", "symbols": symbols}:
            return draw.choice(symbols)
        case {"type": "array", "items": items}:
            return [drawn(items, draw, named) for _ in range(draw.choice((0, 0, 1, 2, 3)))]
        case {"type": "map", "values": values}:
            return {text(draw): drawn(values, draw, named) for _ in range(draw.choice((0, 1, 2)))}
        case "string":
            return text(draw)
        case "boolean":
            return draw.random() < 0.5
        case "double":
            return draw.choice((0.0, -1.5, 10.99, 1e308, float("inf"), draw.random()))
        case "int":
            return draw.choice((0, -1, 63, 64, -64, -65, 2**31 - 1, -(2**31)))
        case "long":
            return draw.choice((0, -1, 64, 2**63 - 1, -(2**63), draw.getrandbits(draw.randrange(1, 63))))
        case _:
            return None


def text(draw: random.Random) -> str:
    return "".join(draw.choices("abc 0/é€\U0001f45c\0", k=draw.choice((0, 1, 3, 10, 63, 64, 70))))


def first_types(schema: Any) -> dict[str, Any]:
    """Collect the named types: each may be used before its definition is drawn."""
    found: dict[str, Any] = {}
    left = [schema]
    while left:
        each = left.pop()
        if isinstance(each, list):
            left += each
        elif isinstance(each, dict):
            if "name" in each:
                found[each["name"]] = each
            left += [field["type"] for field in each.get("fields", ())]
            left += [each[key] for key in ("items", "values") if key in each]
    return found


def damaged(body: bytes, draw: random.Random) -> bytes:
    """Cut, lengthen or change bytes of a record."""
    at, kind = draw.randrange(len(body) + 1), draw.randrange(7)
    match kind:
        case 0:
            return body[:at]
        case 1:
            return body + draw.randbytes(draw.randrange(1, 12))
        case 2:
            return body[:at] + draw.randbytes(draw.randrange(1, 12)) + body[at:]
        case 3:
            return body[:at] + body[at + draw.randrange(1, 9) :]
        case 4 if at < len(body) and body[at] < 128:
            return body[:at] + bytes([body[at] | 128, 0]) + body[at + 1 :]  # the same number, with an extra byte
        case _:
            changed = bytearray(body)
            for _ in range(draw.choice((1, 1, 1, 2, 5))):
                changed[draw.randrange(len(changed))] = draw.choice((*FLIPS, draw.randrange(256)))
            return bytes(changed)


def agree(decoder: Decoder, writer: Any, reader: Any, body: bytes) -> bool:
    """Compare the decoder with fastavro. Returns whether it gave a record."""
    record = decoder.decode(body)
    if record is not None:
        assert repr(record) == repr(by_fastavro(writer, reader, body)) or record == by_fastavro(
            writer, reader, body
        )
    return record is not None


class TestGivesTheSameAsFastavro:
    def test_the_codec_has_a_decoder_for_each_of_our_schemas(self) -> None:
        known = Codec()._by_fingerprint.values()
        decoders = {each.kind: each.decoder for each in known if isinstance(each, _Writer) and each.reader is None}
        assert decoders.keys() == set(OWN_SCHEMAS)
        for name, record in RECORDS:
            decoder = decoders[name]
            assert decoder is not None
            assert decoder.decode(Codec().encode(name, record)[10:]) is not None

    @pytest.mark.parametrize(("label", "writer", "reader", "decoder"), DECODERS)
    def test_every_whole_record_is_read(self, label: str, writer: Any, reader: Any, decoder: Decoder) -> None:
        draw, types = random.Random(label), first_types(writer)  # noqa: S311 - drawn, not secret
        for _ in range(scaled(100)):
            body = written(writer, drawn(writer, draw, types))
            assert agree(decoder, writer, reader, body)

    def test_every_message_of_the_shop_is_read(self) -> None:
        codec = Codec()
        for each in shop(scaled(500), broken_share=0):
            writer = codec._by_fingerprint[each.value[2:10]]
            assert isinstance(writer, _Writer)
            assert writer.decoder is not None
            assert agree(writer.decoder, writer.schema, writer.reader, each.value[10:])

    @pytest.mark.parametrize(("schema", "record", "read"), EVOLVED)
    def test_writers_may_have_more_or_fewer_fields(self, schema: Schema, record: Any, read: Any) -> None:
        (decoder,) = (each for _, writer, _, each in DECODERS if writer == parsed(schema))
        assert decoder.decode(written(parsed(schema), record)) == read

    def test_a_long_run_of_whole_and_damaged_records(self) -> None:
        draw, read = random.Random(7), 0  # noqa: S311 - drawn, not secret
        types = {label: first_types(writer) for label, writer, _, _ in DECODERS}
        for _ in range(TRIED // 10):
            label, writer, reader, decoder = draw.choice(DECODERS)
            body = written(writer, drawn(writer, draw, types[label]))
            read += agree(decoder, writer, reader, body)
            for _ in range(9):
                read += agree(decoder, writer, reader, damaged(body, draw))
        assert TRIED * 0.1 < read < TRIED * 0.9

    @given(st.data())
    def test_any_bytes(self, data: st.DataObject) -> None:
        _, writer, reader, decoder = data.draw(st.sampled_from(DECODERS))
        draw = random.Random(data.draw(st.integers(0, 99)))  # noqa: S311 - drawn, not secret
        whole = written(writer, drawn(writer, draw, first_types(writer)))
        start = data.draw(st.integers(0, len(whole)))
        agree(decoder, writer, reader, whole[:start] + data.draw(st.binary(max_size=30)) + whole[start + 1 :])


class TestKeptVariants:
    """Equal bytes give the same variant object, and different bytes do not."""

    @given(st.data())
    @settings(deadline=None)
    def test_kept_variants_do_not_change_what_is_decoded(self, data: st.DataObject) -> None:
        _, writer, reader, _ = data.draw(st.sampled_from([each for each in DECODERS if "order" in each[0]]))
        draw = random.Random(data.draw(st.integers(0, 99)))  # noqa: S311 - drawn, not secret
        types, decoder = first_types(writer), Decoder([writer], reader)
        whole = written(writer, with_variants(drawn(writer, draw, types), draw, types))
        assert agree(decoder, writer, reader, whole)
        for _ in range(30):
            agree(decoder, writer, reader, damaged(whole, draw))
        for end in draw.sample(range(len(whole)), k=min(40, len(whole))):
            agree(decoder, writer, reader, whole[:end])

    def test_a_repeated_variant_is_the_same_object(self) -> None:
        codec = Codec()
        seen: dict[str, Any] = {}
        again = 0
        for each in shop(300, broken_share=0):
            for item in (codec.decode_message(each.value)["payload"].get("original") or {}).get("line_items", ()):
                if variant := item["variant"]:
                    assert isinstance(variant, Kept)
                    again += seen.get(repr(variant)) is variant
                    seen[repr(variant)] = variant
        assert again > 5 * len(seen) > 0

    def test_the_size_of_kept_variants_is_bounded(self) -> None:
        kept = KeptVariants()

        def read(d: bytes, _s: str, p: int) -> tuple[dict[str, Any], int]:
            return {"sku": d[p:]}, len(d)

        for size in (10, 63, 1025, 500_000):
            record, _ = kept.read(read, bytes(size), "", 0)
            assert type(record) is dict  # short and large variants are not kept
        for number in range(20_000):
            kept.read(read, b"%064d" % number * 8, "", 0)
            if number % 100 == 0:
                assert sum(len(each) for each, _ in kept._known.values()) <= 1024 * 1024
        record, _ = kept.read(read, b"%064d" % 19_999 * 8, "", 0)
        assert isinstance(record, Kept)

    def test_a_variant_that_ends_beyond_the_bytes_is_not_kept(self) -> None:
        kept = KeptVariants()
        record, end = kept.read(lambda _d, _s, _p: ({}, 100), bytes(80), "", 0)
        assert (type(record), end) == (dict, 100)


def with_variants(record: Any, draw: random.Random, types: dict[str, Any]) -> Any:
    """Give each list of line items one variant repeatedly, and others that begin like it."""
    variant = drawn(types["jirafe.hub.Variant"], draw, types)
    variant["product_id"], variant["name"] = "p" * 40, "n" * 40
    for section in ("order", "original", "previous"):
        if order := record["payload"].get(section):
            item = drawn(types["jirafe.hub.LineItem"], draw, types)
            others = [{**variant, "sku": text(draw)}, {**variant, "price": draw.random()}, variant]
            order["line_items"] = [{**item, "variant": each} for each in (variant, variant, *others)]
    return record


def one(kind: Any) -> Any:
    return parse_schema({"type": "record", "name": "R", "fields": [{"name": "a", "type": kind}]})


TYPES = st.recursive(
    st.sampled_from(["string", "int", "long", "float", "double", "boolean", "null", "bytes"])
    | st.sampled_from(
        [{"type": "enum", "name": "E", "symbols": ["A", "B"]}, {"type": "fixed", "name": "F", "size": 2}]
    ),
    lambda inner: (
        st.builds(lambda each: {"type": "array", "items": each}, inner)
        | st.builds(lambda each: {"type": "map", "values": each}, inner)
        | st.builds(lambda each: ["null", each], inner)
        | st.builds(lambda each: [each, "null"], inner)
        | st.builds(lambda each: {"type": "record", "name": "N", "fields": [{"name": "b", "type": each}]}, inner)
    ),
    max_leaves=5,
)


class TestAnySchema:
    @given(TYPES, st.none() | TYPES, st.binary(max_size=30))
    @settings(max_examples=scaled(200))
    def test_it_gives_the_same_or_declines(self, kind: Any, other: Any, body: bytes) -> None:
        try:
            writer, reader = one(kind), one(other) if other else None
        except Exception:  # noqa: BLE001 - a type that is defined twice, or a union in a union
            return
        decoder = Decoder([writer], reader)
        for each in (body, body + bytes(20)):
            for end in range(len(each)):
                agree(decoder, writer, reader, each[:end])

    @pytest.mark.parametrize(
        "kind",
        [
            "null",
            "bytes",
            ["string", "long"],
            ["null", "string", "long"],
            ["null", ["null", "long"]],
            [["long", "null"], "null"],
            {"type": "fixed", "name": "F", "size": 2},
            {"type": "record", "name": "N", "fields": []},
        ],
    )
    def test_types_that_our_schemas_lack_are_declined(self, kind: Any) -> None:
        assert Decoder([one({"type": "array", "items": kind})], None).decode(b"\x00") is None

    @pytest.mark.parametrize("symbols", [["A"], ["B", "A"], ["A", "B", "C"], ["A", "B"]])
    def test_enums_are_read_only_if_both_sides_have_the_same_symbols(self, symbols: list[str]) -> None:
        writer, reader = (one({"type": "enum", "name": "E", "symbols": each}) for each in (["A", "B"], symbols))
        decoder = Decoder([writer], reader)
        read = [agree(decoder, writer, reader, body) for body in (b"\x00", b"\x02", b"\x04")]
        assert read == [symbols == ["A", "B"]] * 2 + [False]

    def test_names_are_never_run_as_code(self) -> None:
        name = 'a\': exit(1), """{x}\n\\'
        writer = {"type": "record", "name": "R'\"", "fields": [{"name": name, "type": "string"}]}
        assert Decoder([writer], None).decode(b"\x02a") == {name: "a"}

    def test_too_many_or_too_deep_types_are_declined_quickly(self) -> None:
        deep: Any = "string"
        for _ in range(30):
            deep = {"type": "array", "items": deep}
        wide = {"type": "record", "name": "W", "fields": [{"name": f"f{n}", "type": "long"} for n in range(9000)]}
        doubled: Any = "long"
        for level in range(30):
            fields = [{"name": "a", "type": doubled}, {"name": "b", "type": f"D{level - 1}" if level else "long"}]
            doubled = {"type": "record", "name": f"D{level}", "fields": fields}
        began = time.process_time()
        assert Decoder([one(deep)], None).decode(b"\x00") is None
        assert Decoder([wide], None).decode(bytes(9000)) is None
        assert Decoder([one(doubled)], None).decode(bytes(9)) is None
        assert time.process_time() - began < ENDLESS


NUMBERS = {
    "over 64 bits": b"\xff" * 9 + b"\x7f",
    "of eleven bytes": b"\x80" * 10 + b"\x00",
    "without an end": b"\xff" * 100_000,
}


class TestNumbersWithExtraBytes:
    @pytest.mark.parametrize(("label", "writer", "reader", "decoder"), DECODERS)
    def test_at_any_position(self, label: str, writer: Any, reader: Any, decoder: Decoder) -> None:
        draw, types = random.Random(label), first_types(writer)  # noqa: S311 - drawn, not secret
        for _ in range(scaled(10)):
            body = written(writer, drawn(writer, draw, types))
            for at, byte in enumerate(body[:600]):
                for longer in (bytes([byte | 128, 0]), bytes([byte | 128, 128, 0])):
                    agree(decoder, writer, reader, body[:at] + longer + body[at + 1 :])

    def test_a_zero_count_with_extra_bytes_ends_a_list(self) -> None:
        for kind in ({"type": "array", "items": "string"}, {"type": "map", "values": "string"}):
            writer = one(kind)
            for body in (b"\x80\x00", b"\x80\x00\x02\x00\x00\x00", b"\x02\x00\x00\x80\x00"):
                agree(Decoder([writer], None), writer, None, body)


class TestWorkIsBounded:
    @pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
    @pytest.mark.parametrize("kind", ["long", "string", {"type": "array", "items": "string"}])
    def test_invalid_numbers_are_declined(self, kind: Any, number: bytes) -> None:
        assert soon(partial(Decoder([one(kind)], None).decode, number + bytes(50))) is None

    @pytest.mark.parametrize("item", ["string", "double", "float", "long", "boolean", ["null", "string"]])
    @pytest.mark.parametrize("wanted", ["a", "z"])
    def test_a_count_beyond_the_bytes_is_declined(self, item: Any, wanted: str) -> None:
        huge = written("long", 2**63 - 1)
        for kind in ({"type": "array", "items": item}, {"type": "map", "values": item}):
            writer = one(kind)
            reader = copy.deepcopy(writer)
            reader["fields"][0] |= {"name": wanted, "default": {}}
            decoder = Decoder([writer], reader)
            assert soon(partial(decoder.decode, huge + bytes(60_000))) is None
            assert soon(partial(decoder.decode, huge + b"\x01" * 60_000)) is None

    @pytest.mark.parametrize("length", [-1, -5, -(2**63), 2**31, 2**63 - 1])
    def test_an_invalid_length_is_declined(self, length: int) -> None:
        decoder = Decoder([one({"type": "array", "items": "string"})], None)
        assert soon(partial(decoder.decode, b"\x02" + written("long", length) + bytes(9))) is None
        assert soon(partial(decoder.decode, b"\x04" + b"\x00" + written("long", length))) is None


def soon(decode: Callable[[], Any]) -> Any:
    """Decode within a second."""
    began = time.process_time()
    try:
        return decode()
    finally:
        assert time.process_time() - began < ENDLESS
