"""Records in their framings: what is written is read back, and bad data is distinguished from an outage."""

import json
import re
import threading
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.schema import to_parsing_canonical_form
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import Codec, RegistryUnavailable, Undecodable, UnknownSchema
from schemas.own import own_schema
from tests.registry import BASIC, RegistryServer

ENDLESS = 30.0
"""Seconds of processor time after which work counts as endless, even under coverage."""

TAXON: dict[str, Any] = {
    "message": "taxon:new",
    "message_id": "m1",
    "parameters": {"jirafe.site_id": "1"},
    "payload": {
        "taxon": {
            "id": "9",
            "name": "Täschen \U0001f45c",
            "taxonomy_id": "2",
            "parent_id": None,
            "created_at": "2013-12-03T19:54:33Z",
            "updated_at": None,
        }
    },
}
ADDRESS = {
    **dict.fromkeys(("firstname", "lastname", "name", "address1", "state", "zipcode")),
    "city": "Köln",
    "country": "DE",
}
ITEM = {
    **dict.fromkeys(("product_id", "variant_id", "name", "sku", "price", "created_at", "updated_at")),
    "id": "1",
    "quantity": -(2**63),
    "variant": {
        **dict.fromkeys(("product_id", "name", "price", "created_at", "updated_at")),
        "sku": "A",
        "images": ["/a.png"],
        "taxons": [{"id": "1", "name": None, "taxonomy_id": "2"}],
    },
    "adjustments": [{"label": "Sale", "amount": -1.0, "eligible": True, "source": "Spree::PromotionAction"}],
}
ORDER: dict[str, Any] = {
    **dict.fromkeys(("status", "email", "user_id", "placed_on", "created_at", "updated_at", "completed_at")),
    **dict.fromkeys(("canceled_at", "item_total", "tax_total", "ship_total", "discount_total", "payment_fee")),
    **dict.fromkeys(("visit_id", "visitor_id", "pageview_id", "last_pageview_id")),
    "number": "R1",
    "currency": "EUR",
    "total": 1.1,
    "line_items": [ITEM],
    "adjustments": [{"label": None, "amount": -1.5, "eligible": False, "source": None}],
    "shipping_address": ADDRESS,
    "billing_address": ADDRESS,
}


def message(kind: str) -> dict[str, Any]:
    return {
        "message": f"{kind}:new",
        "message_id": "",
        "parameters": {},
        "payload": {
            kind: ORDER,
            "original": None,
            "previous": ORDER,
            "previous_items": [ITEM],
            "diff": {"status": [None, "canceled"]},
        },
    }


RESULT: dict[str, Any] = {
    "message_id": "m1",
    "message": "order:new",
    "code": 500,
    "notifications": [{"level": "error", "subject": "s", "description": "d"}],
    "topic": "orders",
    "partition": 3,
    "offset": 2**40,
    "timestamp": datetime(2014, 3, 1, 8, 0, 0, 123000, tzinfo=UTC),
    "replay": None,
    "redrive": None,
    "group": "shop",
}
RECORDS = [("taxon", TAXON), ("cart", message("cart")), ("order", message("order")), ("result", RESULT)]

STRING = {"type": "string"}
MAYBE = ["null", "string"]
LESS: dict[str, Any] = {
    "type": "record",
    "name": "jirafe.hub.TaxonMessage",
    "fields": [
        {"name": "message", **STRING},
        {
            "name": "payload",
            "type": {
                "type": "record",
                "name": "jirafe.hub.TaxonPayload",
                "fields": [
                    {
                        "name": "taxon",
                        "type": [
                            "null",
                            {
                                "type": "record",
                                "name": "jirafe.hub.Taxon",
                                "fields": [{"name": "id", "type": MAYBE}, {"name": "name", "type": MAYBE}],
                            },
                        ],
                    }
                ],
            },
        },
    ],
}
LESS_RECORD = {"message": "taxon:new", "payload": {"taxon": {"id": "9", "name": "Bags"}}}
LESS_READ = {
    "message": "taxon:new",
    "message_id": "",
    "parameters": {},
    "payload": {
        "taxon": {
            **dict.fromkeys(("taxonomy_id", "parent_id", "created_at", "updated_at")),
            "id": "9",
            "name": "Bags",
        }
    },
}


def plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Copy a schema without the notes that fastavro adds when it parses it."""
    copied: dict[str, Any] = json.loads(json.dumps(schema))
    return {name: part for name, part in copied.items() if not name.startswith("__")}


def more_order() -> dict[str, Any]:
    """Make our schema of orders with one more field in the message, and one more and one fewer in the order."""
    schema = plain(own_schema("order"))
    schema["fields"].insert(0, {"name": "hub_version", "type": "long"})
    (section,) = [field for field in schema["fields"][-1]["type"]["fields"] if field["name"] == "order"]
    fields = section["type"][1]["fields"]
    fields[:] = [field for field in fields if field["name"] != "currency"]
    fields.insert(1, {"name": "channel", "type": {"type": "array", "items": "string"}})
    return schema


MORE = more_order()
MORE_RECORD = {
    **message("order"),
    "hub_version": 7,
    "payload": {**message("order")["payload"], "order": {**ORDER, "channel": ["spree", "web"]}, "previous": None},
}
MORE_READ = {
    **message("order"),
    "payload": {**message("order")["payload"], "order": {**ORDER, "currency": None}, "previous": None},
}
EVOLVED = [(LESS, LESS_RECORD, LESS_READ), (MORE, MORE_RECORD, MORE_READ)]


def crc64(text: str) -> int:
    """Fingerprint a schema's canonical text as the Avro specification has it (CRC-64-AVRO)."""
    value = empty = 0xC15D213AA4D7A795
    for byte in text.encode():
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (empty if value & 1 else 0)
    return value


def written(schema: dict[str, Any], record: dict[str, Any]) -> bytes:
    buffer = BytesIO()
    schemaless_writer(buffer, parse_schema(schema), record)
    return buffer.getvalue()


def single_object(schema: dict[str, Any], record: dict[str, Any]) -> bytes:
    canonical = to_parsing_canonical_form(parse_schema(schema))
    return b"\xc3\x01" + crc64(canonical).to_bytes(8, "little") + written(schema, record)


def confluent(schema_id: int, body: bytes) -> bytes:
    return b"\x00" + schema_id.to_bytes(4, "big") + body


CODEC = Codec()


class TestSingleObject:
    @pytest.mark.parametrize(("name", "record"), RECORDS)
    def test_round_trip(self, name: str, record: dict[str, Any]) -> None:
        assert Codec().decode(CODEC.encode(name, record)) == record

    @pytest.mark.parametrize(("name", "record"), RECORDS)
    def test_framing_has_the_fingerprint_of_the_specification(self, name: str, record: dict[str, Any]) -> None:
        assert crc64('"null"') == 0x63DD24E7CC258F8A
        assert CODEC.encode(name, record) == single_object(own_schema(name), record)

    def test_fingerprint_of_a_canonical_form_written_by_hand(self, tmp_path: Path) -> None:
        (tmp_path / "less.avsc").write_text(json.dumps({**LESS, "doc": "An older hub's."}, indent=2))
        canonical = (
            '{"name":"jirafe.hub.TaxonMessage","type":"record","fields":['
            '{"name":"message","type":"string"},'
            '{"name":"payload","type":{"name":"jirafe.hub.TaxonPayload","type":"record","fields":['
            '{"name":"taxon","type":["null",{"name":"jirafe.hub.Taxon","type":"record","fields":['
            '{"name":"id","type":["null","string"]},{"name":"name","type":["null","string"]}]}]}]}}]}'
        )
        framed = b"\xc3\x01" + crc64(canonical).to_bytes(8, "little") + written(LESS, LESS_RECORD)
        assert Codec(more=tmp_path).decode(framed) == LESS_READ

    @pytest.mark.parametrize(("schema", "record", "read"), EVOLVED)
    def test_schemas_of_other_writers_are_read_from_the_folder(
        self, tmp_path: Path, schema: dict[str, Any], record: dict[str, Any], read: dict[str, Any]
    ) -> None:
        (tmp_path / "writer.avsc").write_text(json.dumps(schema))
        (tmp_path / "readme.txt").write_text("no schema")
        codec = Codec(more=tmp_path)
        assert codec.decode(single_object(schema, record)) == read
        assert codec.decode(codec.encode("taxon", TAXON)) == TAXON

    def test_every_file_of_the_folder_is_a_writers_schema(self, tmp_path: Path) -> None:
        for number, (schema, _, _) in enumerate(EVOLVED):
            (tmp_path / f"{number}.avsc").write_text(json.dumps(schema))
        codec = Codec(more=tmp_path)
        for schema, record, read in EVOLVED:
            assert codec.decode(single_object(schema, record)) == read

    def test_unknown_fingerprint(self) -> None:
        with pytest.raises(UnknownSchema) as caught:
            Codec().decode(single_object(LESS, LESS_RECORD))
        fingerprint = crc64(to_parsing_canonical_form(parse_schema(LESS)))
        assert str(caught.value) == f"the schema with fingerprint {fingerprint:016x} is not known here"

    def test_record_of_another_kind(self, tmp_path: Path) -> None:
        schema = {"type": "record", "name": "shop.Invoice", "fields": [{"name": "id", "type": "string"}]}
        (tmp_path / "invoice.avsc").write_text(json.dumps(schema))
        with pytest.raises(UnknownSchema, match=r"shop\.Invoice"):
            Codec(more=tmp_path).decode(single_object(schema, {"id": "1"}))

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ('"string"', "it is not a record's schema$"),
            ("[]", "it is not a record's schema$"),
            ('{"type": "array", "items": "string"}', "it is not a record's schema$"),
            ("{}", r"\{\} is not a type$"),
            ("1", "1 is not a type$"),
            ("{", "it can't be read: Expecting property name .*line 1 column 2"),
            ('{"type": "enum", "name": "E"}', "'symbols' is missing$"),
            ('{"type": "record", "name": "X"}', "'fields' is missing$"),
            (
                '{"type": "record", "name": "X", "fields": [{"name": "a", "type": "Nope"}]}',
                "the type Nope is not defined$",
            ),
        ],
    )
    def test_a_file_without_a_valid_schema_is_named(self, tmp_path: Path, text: str, why: str) -> None:
        (tmp_path / "broken.avsc").write_text(text)
        with pytest.raises(ValueError, match=rf"broken\.avsc is not a schema that can be used: {why}"):
            Codec(more=tmp_path)

    @pytest.mark.parametrize(
        "change", [{"message_id": None}, {"payload": None}, {"message": 5}, {"parameters": {"a": None}}]
    )
    def test_record_that_does_not_fit_is_not_encoded(self, change: dict[str, Any]) -> None:
        with pytest.raises((ValueError, TypeError)):
            CODEC.encode("taxon", {**TAXON, **change})


class TestMessagesAndResults:
    def test_results_with_and_without_a_group_can_be_read_by_either_schema(self) -> None:
        earlier = own_schema("result-1")
        before = {name: value for name, value in RESULT.items() if name != "group"}
        assert CODEC.decode_result(single_object(earlier, before)) == {**before, "group": None}
        buffer = BytesIO(CODEC.encode("result", RESULT)[10:])
        assert schemaless_reader(buffer, own_schema("result"), earlier) == before

    @pytest.mark.parametrize("name", ["cart", "order", "taxon"])
    def test_a_message_is_not_a_result(self, name: str) -> None:
        record = dict(RECORDS)[name]
        assert CODEC.decode_message(CODEC.encode(name, record)) == record
        with pytest.raises(Undecodable, match=r"^the record is a message of the hub, not a result$"):
            CODEC.decode_result(CODEC.encode(name, record))

    def test_a_result_is_not_a_message(self) -> None:
        assert CODEC.decode_result(CODEC.encode("result", RESULT)) == RESULT
        with pytest.raises(Undecodable, match=r"^the record is a result, not a message of the hub$"):
            CODEC.decode_message(CODEC.encode("result", RESULT))

    @pytest.mark.parametrize(("kind", "record"), RECORDS[:3])
    @pytest.mark.parametrize("other", ["cart", "order", "product", "taxon"])
    def test_a_type_must_be_of_the_kind_of_its_schema(self, kind: str, record: dict[str, Any], other: str) -> None:
        encoded = CODEC.encode(kind, {**record, "message": f"{other}:new"})
        if other == kind:
            assert CODEC.decode_message(encoded)["message"] == f"{other}:new"
            return
        with pytest.raises(
            Undecodable, match=rf"^message: its type is {other}:\*, but the record is a {kind} message$"
        ):
            CODEC.decode_message(encoded)

    def test_an_unknown_type_is_decoded(self) -> None:
        assert CODEC.decode_message(CODEC.encode("taxon", {**TAXON, "message": "tax:new"}))["message"] == "tax:new"


class TestDamage:
    def test_a_truncated_record_of_another_writer_is_undecodable(self, tmp_path: Path) -> None:
        (tmp_path / "writer.avsc").write_text(json.dumps(MORE))
        codec = Codec(more=tmp_path)
        whole = single_object(MORE, MORE_RECORD)
        for length in range(len(whole)):
            with pytest.raises(Undecodable):
                codec.decode(whole[:length])

    @pytest.mark.parametrize(("name", "record"), RECORDS)
    def test_a_truncated_record_is_undecodable_with_a_reason(self, name: str, record: dict[str, Any]) -> None:
        whole = CODEC.encode(name, record)
        for length in range(len(whole)):
            with pytest.raises(Undecodable) as caught:
                CODEC.decode(whole[:length])
            reason = (
                r"the bytes are not a [\w.]+: \S"
                if length >= 10
                else "the first bytes .+ are neither a framing of Avro nor JSON"
            )
            assert re.match(reason, str(caught.value))

    def test_the_decoders_reason_is_given(self) -> None:
        damaged = CODEC.encode("taxon", TAXON).replace(b"taxon:new", b"taxon\xffnew")
        with pytest.raises(Undecodable, match=r"^the bytes are not a jirafe\.hub\.TaxonMessage: .*utf-8"):
            CODEC.decode(damaged)

    @pytest.mark.parametrize(("name", "record"), RECORDS)
    def test_extra_bytes_are_undecodable(self, name: str, record: dict[str, Any]) -> None:
        with pytest.raises(Undecodable, match="3 are left over"):
            CODEC.decode(CODEC.encode(name, record) + b"\x00\x01\x02")

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x00",
            b"\x00\x00\x00\x00",
            b"\xc3",
            b"\xc3\x01abc",
            b'"x"',
            b"7",
        ],
    )
    def test_no_framing(self, data: bytes) -> None:
        with pytest.raises(Undecodable, match="neither a framing of Avro nor JSON"):
            CODEC.decode(data)

    @given(st.binary(max_size=60), st.sampled_from([b"", b"\x00", *(CODEC.encode(*r)[:10] for r in RECORDS)]))
    def test_any_bytes_are_a_record_or_undecodable(self, data: bytes, start: bytes) -> None:
        try:
            record = CODEC.decode(start + data)
        except Undecodable:
            return
        assert isinstance(record, dict)

    @given(st.data())
    def test_any_changed_byte_gives_a_record_or_undecodable(self, data: st.DataObject) -> None:
        name, record = data.draw(st.sampled_from(RECORDS))
        encoded = bytearray(CODEC.encode(name, record))
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
        try:
            decoded = CODEC.decode(bytes(encoded))
        except Undecodable:
            return
        assert decoded.keys() == record.keys()


class TestConfluent:
    @pytest.mark.parametrize(("name", "record"), RECORDS)
    def test_round_trip_between_two_processes(
        self, registry_server: RegistryServer, name: str, record: dict[str, Any]
    ) -> None:
        framed = Codec(registry_server.registry()).encode(name, record)
        assert framed == confluent(1, written(own_schema(name), record))
        assert Codec(registry_server.registry()).decode(framed) == record
        subject = f"/subjects/{name}s-value"
        assert registry_server.asked == [f"POST {subject}", f"POST {subject}/versions", "GET /schemas/ids/1"]
        assert registry_server.authorizations == [BASIC] * 3

    @pytest.mark.parametrize("name", ["cart", "order", "taxon", "result"])
    def test_a_registered_schema_is_self_contained(self, registry_server: RegistryServer, name: str) -> None:
        Codec(registry_server.registry()).encode(name, dict(RECORDS)[name])
        (text,) = registry_server.schemas
        canonical = to_parsing_canonical_form(parse_schema(plain(json.loads(text))))
        assert canonical == to_parsing_canonical_form(own_schema(name))

    @pytest.mark.parametrize(("schema", "record", "read"), EVOLVED)
    def test_schemas_of_other_writers_are_fetched(
        self, registry_server: RegistryServer, schema: dict[str, Any], record: dict[str, Any], read: dict[str, Any]
    ) -> None:
        schema_id = registry_server.keep(json.dumps(schema))
        assert Codec(registry_server.registry()).decode(confluent(schema_id, written(schema, record))) == read

    def test_registry_is_asked_once_for_each_schema(self, registry_server: RegistryServer) -> None:
        codec = Codec(registry_server.registry())
        less = confluent(registry_server.keep(json.dumps(LESS)), written(LESS, LESS_RECORD))
        for _ in range(3):
            codec.decode(less)
            codec.encode("taxon", TAXON)
            codec.encode("result", RESULT)
        assert registry_server.asked == [
            "GET /schemas/ids/1",
            "POST /subjects/taxons-value",
            "POST /subjects/taxons-value/versions",
            "POST /subjects/results-value",
            "POST /subjects/results-value/versions",
        ]

    def test_single_object_records_need_no_registry(self, registry_server: RegistryServer) -> None:
        assert Codec(registry_server.registry()).decode(Codec().encode("taxon", TAXON)) == TAXON
        assert registry_server.asked == []

    def test_unknown_id_is_bad_data(self, registry_server: RegistryServer) -> None:
        with pytest.raises(UnknownSchema, match="no schema with the id 305419896"):
            Codec(registry_server.registry()).decode(b"\x00\x12\x34\x56\x78abc")

    def test_id_without_a_registry_is_bad_data(self) -> None:
        with pytest.raises(UnknownSchema, match="no registry is set"):
            Codec().decode(confluent(1, b""))

    @pytest.mark.parametrize(
        "text",
        [
            '{"type": "record", "name": "shop.Invoice", "fields": []}',
            '"string"',
            '{"type": "array", "items": "string"}',
            '{"type": "record", "name": "X", "fields": [{"name": "a"}]}',
        ],
    )
    def test_schema_of_something_else_is_bad_data(self, registry_server: RegistryServer, text: str) -> None:
        with pytest.raises(UnknownSchema):
            Codec(registry_server.registry()).decode(confluent(registry_server.keep(text), b""))

    @pytest.mark.parametrize("page", [(500, b"{}"), (503, b""), (401, b"{}"), (200, b"<html>"), (302, b"")])
    def test_an_unexpected_answer_of_the_registry_is_an_outage(
        self, registry_server: RegistryServer, page: tuple[int, bytes]
    ) -> None:
        codec = Codec(registry_server.registry())
        less = confluent(registry_server.keep(json.dumps(LESS)), written(LESS, LESS_RECORD))
        registry_server.page = page
        with pytest.raises(RegistryUnavailable):
            codec.decode(less)
        with pytest.raises(RegistryUnavailable):
            codec.encode("taxon", TAXON)
        registry_server.page = None
        assert codec.decode(less) == LESS_READ
        assert codec.decode(codec.encode("taxon", TAXON)) == TAXON

    def test_registry_that_does_not_answer_is_an_outage(self, registry_server: RegistryServer) -> None:
        registry_server.answering.clear()
        with pytest.raises(RegistryUnavailable, match=r"no complete answer within 0\.1 seconds"):
            Codec(registry_server.registry(timeout=0.1)).decode(confluent(1, b""))

    def test_known_schemas_work_during_an_outage(self) -> None:
        with RegistryServer() as registry_server:
            thread = threading.Thread(target=registry_server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            codec = Codec(registry_server.registry())
            framed = codec.encode("taxon", TAXON)
            assert codec.decode(framed) == TAXON
            registry_server.shutdown()
            thread.join()
        # The port is closed now.
        assert codec.decode(framed) == TAXON
        assert codec.encode("taxon", TAXON) == framed
        with pytest.raises(RegistryUnavailable, match="ConnectionError"):
            codec.decode(confluent(2, b""))
        with pytest.raises(RegistryUnavailable, match="ConnectionError"):
            codec.encode("result", RESULT)


class TestOddRegistries:
    @pytest.mark.parametrize(
        ("status", "body", "said"),
        [
            (404, b"<html>not here</html>", " answered 404"),
            (404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}', " answered 404: HTTP 404 Not Found"),
            (401, b"{}", " answered 401"),
            (500, b"", " answered 500"),
            (500, b'{"error_code": 40403, "message": "odd"}', " answered 500: odd"),
            (200, b"{}", "'s URL leads to something that is not a schema registry"),
            (200, b"[]", "'s URL leads to something that is not a schema registry"),
            (200, b'{"schema": {}}', "'s URL leads to something that is not a schema registry"),
        ],
    )
    def test_unexpected_answers_are_an_outage(
        self, registry_server: RegistryServer, status: int, body: bytes, said: str
    ) -> None:
        registry_server.page = (status, body)
        with pytest.raises(RegistryUnavailable) as caught:
            Codec(registry_server.registry()).decode(confluent(7, b""))
        assert str(caught.value) == f"the schema registry{said} (asked for the schema with the id 7)"

    @pytest.mark.parametrize(
        ("schema", "more", "said"),
        [
            ("message Order {}", {"schemaType": "PROTOBUF"}, " is PROTOBUF, not Avro"),
            ("not JSON", {"schemaType": "AVRO"}, " is not JSON: "),
            ('{"type": "array", "items": "string"}', {}, " can't be used: it is not a record's schema"),
            ('{"type": "record", "name": "A", "fields": [{"name": "a"}]}', {}, " can't be used: "),
            (json.dumps({**LESS, "fields": [{"name": "b", "type": "Elsewhere"}]}), {}, " can't be used: "),
        ],
    )
    def test_an_unusable_schema_is_bad_data(
        self, registry_server: RegistryServer, schema: str, more: dict[str, str], said: str
    ) -> None:
        registry_server.page = (200, json.dumps({"schema": schema, **more}).encode())
        with pytest.raises(UnknownSchema) as caught:
            Codec(registry_server.registry()).decode(confluent(7, b""))
        assert str(caught.value).startswith(f"the schema with the id 7{said}")

    def test_an_unknown_id_is_bad_data(self, registry_server: RegistryServer) -> None:
        registry_server.page = (404, b'{"error_code": 40403, "message": "Schema 7 not found"}')
        with pytest.raises(UnknownSchema, match=r"^the schema registry knows no schema with the id 7$"):
            Codec(registry_server.registry()).decode(confluent(7, b""))

    @pytest.mark.parametrize("body", [b"{}", b"[]", b'{"id": "x"}', b"<html>"])
    def test_a_registration_without_an_id_is_an_outage(self, registry_server: RegistryServer, body: bytes) -> None:
        registry_server.page = (200, body)
        with pytest.raises(RegistryUnavailable):
            Codec(registry_server.registry()).encode("taxon", TAXON)

    def test_registered_schemas_are_plain_avro_and_define_each_type_once(
        self, registry_server: RegistryServer
    ) -> None:
        for name, record in (("taxon", TAXON), ("order", next(each for kind, each in RECORDS if kind == "order"))):
            Codec(registry_server.registry()).encode(name, record)
        for text in registry_server.schemas:
            assert "__" not in text
            names = [part.split('"')[0] for part in text.split('"type":"record","name":"')[1:]]
            assert len(names) == len(set(names))
