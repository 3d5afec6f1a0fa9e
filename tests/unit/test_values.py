"""The forms of values in topics: in every form, the message is the one that `produce` would have written."""

import json
import time
from io import StringIO
from random import Random
from typing import Any

import orjson
import pytest
from fastavro import json_writer
from hypothesis import given
from hypothesis import strategies as st

from schemas.avro_json import message_of
from schemas.codec import Codec, IdUnavailable, RegistryNeeded, Undecodable, UnknownSchema
from schemas.hub import HubError, kind_of, to_message
from schemas.own import own_schema
from schemas.reading import document_of
from tests.fuzz.targets import hub
from tests.messages import cart, line_item, nested, order, product, taxon
from tests.registry import RegistryServer, guid_of
from tests.unit.test_codec import (
    LESS,
    LESS_READ,
    LESS_RECORD,
    MORE,
    MORE_READ,
    MORE_RECORD,
    confluent,
    plain,
    written,
)

CODEC = Codec()
MESSAGES = [cart("R1"), order("R1"), product("SKU"), taxon("9", "Bags")]
SECRET = "12345678"
NAME = "__value_schema_id"
SCHEMA_OF_JSON = json.dumps({"type": "object"})


def as_produced(document: object) -> dict[str, Any]:
    """Give the message that a reader gets if `produce` writes this document."""
    message = message_of(document)
    return CODEC.decode_message(CODEC.encode(kind_of(message["message"]) or "", message))


class TestJson:
    @pytest.mark.parametrize("document", MESSAGES)
    @pytest.mark.parametrize("around", [b"%s", b" \r\n%s\n", b"\xef\xbb\xbf%s"])
    def test_the_hubs_json_is_read(self, document: dict[str, Any], around: bytes) -> None:
        assert CODEC.decode_message(around % orjson.dumps(document)) == as_produced(document)

    @pytest.mark.parametrize("name", ["string", "double", "jirafe.site_id"])
    def test_a_field_may_be_named_like_a_type_of_avro(self, name: str) -> None:
        document = order("R1", line_items=[line_item(options={name: "Nylon"})])
        document["payload"]["parameters"] = {name: "77"}
        assert CODEC.decode_message(orjson.dumps(document)) == to_message(document)

    @given(st.integers(min_value=0))
    def test_json_is_converted_as_produce_does(self, seed: int) -> None:
        text = hub.draw(Random(seed))["text"].encode("latin-1")  # noqa: S311 - drawn, not secret
        try:
            expected = as_produced(document_of(text))
        except (HubError, orjson.JSONDecodeError):
            with pytest.raises(Undecodable):
                CODEC.decode_message(text)
        else:
            assert CODEC.decode_message(text) == expected

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b'{"message": "order:new"', "begins like JSON, but is not valid JSON: "),
            (b"[" * 100_000, "begins like JSON, but is not valid JSON: "),
            (b"[]", "is JSON, and not a message of the hub: the message: must be an object, but is "),
            (b"{}", "is JSON, and not a message of the hub: message: missing"),
            (b'{"message": "user:new"}', "is JSON, and not a message of the hub: message: unknown type 'user:new'"),
            (
                b'{"message": "cart:new", "payload": {"cart": {"item_total": %b}}}' % nested(1010),
                "is JSON, and not a message of the hub: payload.cart.item_total: nested more than 200 levels deep",
            ),
            (
                b'{"message": "cart:new", "payload": {"cart": {"item_total": %b}}}' % nested(197),
                "is JSON, and not a message of the hub: cart.item_total: must be a number, but is a list",
            ),
            (
                b'{"message": "order:new", "payload": {"order": {"totals": {"order": "x"}}}}',
                "is JSON, and not a message of the hub: order.totals.order: must be a number",
            ),
        ],
    )
    def test_the_reason_says_what_is_wrong(self, data: bytes, reason: str) -> None:
        with pytest.raises(Undecodable) as caught:
            CODEC.decode_message(data)
        assert str(caught.value).startswith(f"the value {reason}")

    @pytest.mark.parametrize(
        ("changed", "why"),
        [
            ({"parameters": {"jirafe.access_token": {"string": SECRET}}}, "parameters must be string"),
            ({"parameters": {"jirafe.access_token": [SECRET]}}, "parameters must be string"),
            ({"parameters": {"jirafe.access_token": 12345678}}, "parameters must be string"),
            ({"parameters": [{"name": "jirafe.access_token", "value": SECRET}]}, "parameters must be map"),
            ({"parameters": f"jirafe.access_token={SECRET}"}, "parameters must be map"),
            ({"payload": {"taxon": {"jirafe.hub.Taxon": SECRET}}}, "taxon must be null or record"),
            ({"payload": {"taxon": {"jirafe.hub.Taxon": {"id": SECRET}}}}, "id must be null or string"),
            ({"payload": {"taxon": {"jirafe.hub.Taxon": {"id": {"long": SECRET}}}}}, "id must be null or string"),
            ({"message_id": [SECRET]}, "message_id must be string"),
            (
                {"payload": {"taxon": {"jirafe.hub.Taxon": {"id": {"string": [SECRET]}}}}},
                "id must be null or string",
            ),
        ],
    )
    def test_an_error_of_avros_json_does_not_quote_values(self, changed: dict[str, Any], why: str) -> None:
        text = StringIO()
        json_writer(text, own_schema("taxon"), [to_message(taxon("9", "Bags"))])
        with pytest.raises(Undecodable) as caught:
            CODEC.decode_message(orjson.dumps({**orjson.loads(text.getvalue()), **changed}))
        said = str(caught.value)
        assert "this is Avro's JSON encoding, but no valid taxon message: " in said
        assert said.endswith(why)
        assert SECRET not in said

    @pytest.mark.parametrize("name", ["parameters", "diff"])
    def test_avros_json_takes_time_in_proportion_to_its_size(self, name: str) -> None:
        text = StringIO()
        json_writer(text, own_schema("cart"), [to_message(cart("R1"))])
        document = orjson.loads(text.getvalue())
        if name == "parameters":
            document[name] = {str(number): "" for number in range(200_000)}
        else:
            document["payload"][name] = {"total": [None] * 500_000}
        began = time.process_time()
        assert len(CODEC.decode_message(orjson.dumps(document))["parameters"]) in {0, 200_000}
        assert time.process_time() - began < 10

    def test_json_that_is_too_deep_for_the_reader_is_undecodable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def deep(_: object) -> None:
            raise RecursionError

        monkeypatch.setattr("schemas.codec.message_of", deep)
        with pytest.raises(Undecodable, match=r"^the value is JSON, and nested too deep to be read$"):
            CODEC.decode_message(b"{}")

    def test_json_with_too_many_objects_is_refused(self) -> None:
        items = b",".join([b"{}"] * 350_000)
        text = b'{"message": "order:new", "payload": {"order": {"line_items": [%s]}}}' % items
        with pytest.raises(Undecodable, match=r"^the value is JSON with 350003 objects; .* at most"):
            CODEC.decode_message(text)

    def test_an_order_with_a_thousand_items_is_read(self) -> None:
        items = [{"sku": f"S-{number}", "quantity": 1, "price": 1.0} for number in range(1000)]
        read = CODEC.decode_message(orjson.dumps(order("R1", line_items=items)))
        assert len(read["payload"]["order"]["line_items"]) == 1000


class TestJsonSchema:
    @pytest.mark.parametrize("document", MESSAGES)
    def test_json_after_a_schema_id_is_read(
        self, registry_server: RegistryServer, document: dict[str, Any]
    ) -> None:
        schema_id = registry_server.keep(SCHEMA_OF_JSON, kind="JSON")
        codec = Codec(registry_server.registry())
        for _ in range(2):
            assert codec.decode_message(confluent(schema_id, orjson.dumps(document))) == as_produced(document)
        assert registry_server.asked == [f"GET /schemas/ids/{schema_id}"]

    def test_a_json_schema_shows_that_the_registry_works_for_other_ids(
        self, registry_server: RegistryServer
    ) -> None:
        schema_id = registry_server.keep(SCHEMA_OF_JSON, kind="JSON")
        codec = Codec(registry_server.registry())
        codec.decode_message(confluent(schema_id, orjson.dumps(MESSAGES[1])))
        assert codec.serves_others(7)
        registry_server.page = (503, b"")
        assert not codec.serves_others(7)

    def test_invalid_json_is_undecodable(self, registry_server: RegistryServer) -> None:
        schema_id = registry_server.keep(SCHEMA_OF_JSON, kind="JSON")
        with pytest.raises(Undecodable, match="begins like JSON, but is not valid JSON"):
            Codec(registry_server.registry()).decode(confluent(schema_id, b"\x02x"))

    def test_the_error_for_protobuf_names_it(self, registry_server: RegistryServer) -> None:
        schema_id = registry_server.keep("message Order {}", kind="PROTOBUF")
        with pytest.raises(UnknownSchema, match=f"^the schema with the id {schema_id} is PROTOBUF, not Avro$"):
            Codec(registry_server.registry()).decode(confluent(schema_id, b"\x00"))


class TestSchemaInAHeader:
    @pytest.mark.parametrize("by", ["guid", "id"])
    def test_avro_is_read(self, registry_server: RegistryServer, by: str) -> None:
        schema_id = registry_server.keep(json.dumps(MORE))
        codec = Codec(registry_server.registry())
        headers = [("trace", b"1"), (NAME, header(schema_id, by))]
        for _ in range(2):
            assert codec.decode_message(written(MORE, MORE_RECORD), headers) == MORE_READ
        named = f"guids/{guid_of(schema_id)}" if by == "guid" else f"ids/{schema_id}"
        assert registry_server.asked == [f"GET /schemas/{named}"]

    @pytest.mark.parametrize("by", ["guid", "id"])
    @pytest.mark.parametrize("document", MESSAGES)
    def test_json_is_read(self, registry_server: RegistryServer, by: str, document: dict[str, Any]) -> None:
        schema_id = registry_server.keep(SCHEMA_OF_JSON, kind="JSON")
        headers = [(NAME, header(schema_id, by))]
        read = Codec(registry_server.registry()).decode_message(orjson.dumps(document), headers)
        assert read == as_produced(document)

    def test_json_needs_no_registry(self) -> None:
        assert CODEC.decode_message(orjson.dumps(MESSAGES[1]), [(NAME, header(7, "guid"))]) == as_produced(
            MESSAGES[1]
        )

    def test_avro_needs_a_registry(self) -> None:
        with pytest.raises(RegistryNeeded, match=f"the id {guid_of(7)} in a registry, and no registry is set"):
            CODEC.decode_message(written(MORE, MORE_RECORD), [(NAME, header(7, "guid"))])

    def test_an_unknown_guid_is_bad_data(self, registry_server: RegistryServer) -> None:
        with pytest.raises(UnknownSchema, match=f"no schema with the id {guid_of(7)}$"):
            Codec(registry_server.registry()).decode_message(b"x", [(NAME, header(7, "guid"))])

    def test_a_guid_can_be_read_after_an_outage(self, registry_server: RegistryServer) -> None:
        schema_id = registry_server.keep(json.dumps(MORE))
        codec, headers = Codec(registry_server.registry()), [(NAME, header(schema_id, "guid"))]
        registry_server.page = (503, b"")
        with pytest.raises(IdUnavailable, match=str(guid_of(schema_id))) as caught:
            codec.decode_message(written(MORE, MORE_RECORD), headers)
        assert caught.value.schema_id == str(guid_of(schema_id))
        registry_server.page = None
        assert codec.decode_message(written(MORE, MORE_RECORD), headers) == MORE_READ

    @pytest.mark.parametrize("value", [None, b"", b"\x01", b"\x01" + b"7" * 15, b"\x00abc", b"\x02" + b"7" * 16])
    def test_an_invalid_header_is_ignored(self, value: bytes | None) -> None:
        framed = CODEC.encode("taxon", message_of(MESSAGES[3]))
        assert CODEC.decode_message(framed, [(NAME, value)]) == as_produced(MESSAGES[3])


def header(schema_id: int, by: str) -> bytes:
    return b"\x01" + guid_of(schema_id).bytes if by == "guid" else confluent(schema_id, b"")


class TestUnions:
    ORDER = plain(own_schema("order"))

    def test_each_branch_is_read(self, registry_server: RegistryServer) -> None:
        document = order("R1")
        schema_id = registry_server.keep(json.dumps([LESS, self.ORDER]))
        codec = Codec(registry_server.registry())
        assert codec.decode_message(confluent(schema_id, b"\x00" + written(LESS, LESS_RECORD))) == LESS_READ
        body = written(self.ORDER, message_of(document))
        assert codec.decode_message(confluent(schema_id, b"\x02" + body)) == as_produced(document)

    def test_branches_may_be_schemas_of_other_subjects(self, registry_server: RegistryServer) -> None:
        parts = [("taxons", LESS), ("orders", self.ORDER)]
        references = []
        for subject, schema in parts:
            registry_server.keep(json.dumps(schema), subject)
            references.append({"name": schema["name"], "subject": subject, "version": 1})
        union = json.dumps([schema["name"] for _, schema in parts])
        codec = Codec(registry_server.registry())
        schema_id = registry_server.keep(union, references=references)
        assert codec.decode_message(confluent(schema_id, b"\x00" + written(LESS, LESS_RECORD))) == LESS_READ
        body = written(self.ORDER, message_of(MESSAGES[1]))
        assert codec.decode_message(confluent(schema_id, b"\x02" + body)) == as_produced(MESSAGES[1])

    def test_a_branch_may_use_types_of_an_earlier_one(self, registry_server: RegistryServer) -> None:
        (payload,) = [field for field in LESS["fields"] if field["name"] == "payload"]
        other = {
            "type": "record",
            "name": "shop.TaxonMessage",
            "fields": [LESS["fields"][0], {**payload, "type": "jirafe.hub.TaxonPayload"}],
        }
        schema_id = registry_server.keep(json.dumps([LESS, other]))
        codec = Codec(registry_server.registry())
        assert codec.decode_message(confluent(schema_id, b"\x02" + written(LESS, LESS_RECORD))) == LESS_READ

    def test_a_branch_that_is_not_a_message_is_bad_data(self, registry_server: RegistryServer) -> None:
        invoice = {"type": "record", "name": "shop.Invoice", "fields": [{"name": "id", "type": "string"}]}
        schema_id = registry_server.keep(json.dumps([LESS, invoice]))
        codec = Codec(registry_server.registry())
        with pytest.raises(
            UnknownSchema, match=r"^the record is a shop\.Invoice, which is not a message of the hub$"
        ):
            codec.decode_message(confluent(schema_id, b"\x02\x02x"))
        assert codec.decode_message(confluent(schema_id, b"\x00" + written(LESS, LESS_RECORD))) == LESS_READ

    @pytest.mark.parametrize("body", [b"", b"\x01", b"\x02", b"\x7f", b"\xff", b"\x80\x01"])
    def test_an_invalid_branch_number_is_undecodable(self, registry_server: RegistryServer, body: bytes) -> None:
        schema_id = registry_server.keep(json.dumps([LESS]))
        with pytest.raises(Undecodable, match="does not begin with the number of a branch of its schema's union"):
            Codec(registry_server.registry()).decode_message(confluent(schema_id, body))

    def test_a_union_has_at_most_64_branches(self, registry_server: RegistryServer) -> None:
        others = [{"type": "record", "name": f"shop.R{number}", "fields": []} for number in range(64)]
        codec = Codec(registry_server.registry())
        schema_id = registry_server.keep(json.dumps([*others[:63], LESS]))
        assert codec.decode_message(confluent(schema_id, b"\x7e" + written(LESS, LESS_RECORD))) == LESS_READ
        schema_id = registry_server.keep(json.dumps([LESS, *others]))
        with pytest.raises(UnknownSchema, match="a union of 65 types, and only 64 can be read"):
            codec.decode_message(confluent(schema_id, b"\x00" + written(LESS, LESS_RECORD)))

    def test_a_union_with_the_same_record_twice_is_bad_data(self, registry_server: RegistryServer) -> None:
        registry_server.keep(json.dumps({"type": "record", "name": "Big", "fields": []}), "big")
        reference = {"name": "Big", "subject": "big", "version": 1}
        schema_id = registry_server.keep(json.dumps(["Big"] * 64), references=[reference])
        with pytest.raises(UnknownSchema, match="it is a union that has a record twice"):
            Codec(registry_server.registry()).decode_message(confluent(schema_id, b"\x00"))

    @pytest.mark.parametrize("schema", [["null", LESS], ["string"], [], ["Elsewhere"], [[LESS]]])
    def test_a_union_of_other_things_is_bad_data(self, registry_server: RegistryServer, schema: Any) -> None:
        schema_id = registry_server.keep(json.dumps(schema))
        with pytest.raises(UnknownSchema, match=f"the schema with the id {schema_id} can't be used"):
            Codec(registry_server.registry()).decode_message(confluent(schema_id, b"\x00"))
