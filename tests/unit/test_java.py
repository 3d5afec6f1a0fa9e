"""What Java's Avro wrote, and what it read of ours. tests/fixtures/java/README.md says how it was made."""

import json
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from fastavro import json_reader

from schemas.codec import Codec
from schemas.own import OWN_SCHEMAS, own_schema
from tests.registry import RegistryServer

FIXTURES = Path(__file__).parent.parent / "fixtures" / "java"
EVOLVED_ID = 42
CODEC = Codec()

RESULT: dict[str, Any] = {
    "message_id": "m-1",
    "message": "order:new",
    "code": 500,
    "notifications": [
        {"level": "info", "subject": "Jirafe", "description": "A cart event for R-1 was sent to Jirafe."},
        {"level": "error", "subject": "Täschen \U0001f6cd", "description": "total: -1 is less than 0"},
    ],
    "topic": "orders",
    "partition": 3,
    "offset": 2**40 + 1,
    "timestamp": datetime(2014, 3, 1, 8, 0, 0, 123000, tzinfo=UTC),
    "replay": None,
    "redrive": "jirafe.dead-letters/0/7",
    "group": "shop",
}


def in_json(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Read a fixture in Avro's JSON, as Java read or wrote it."""
    text = (FIXTURES / f"{name}.json").read_text()
    (record,) = json_reader(StringIO(json.dumps(json.loads(text))), schema)
    assert isinstance(record, dict)
    return record


def test_java_has_our_fingerprints() -> None:
    lines = (FIXTURES / "fingerprints.txt").read_text().splitlines()
    java = dict(line.split(" ") for line in lines)
    ours = {name: CODEC.encode(name, in_json(name, own_schema(name)))[2:10] for name in OWN_SCHEMAS}
    assert java == {name: f"{int.from_bytes(fingerprint, 'little'):016x}" for name, fingerprint in ours.items()}


@pytest.mark.parametrize("name", ["cart", "order", "product", "taxon"])
def test_a_single_object_record_of_java_is_read(name: str) -> None:
    value = (FIXTURES / f"{name}.bin").read_bytes()
    record = in_json(name, own_schema(name))
    assert record["message_id"] == f"java-{name}"
    assert CODEC.decode(value) == record
    assert CODEC.encode(name, record) == value


@pytest.mark.parametrize("name", ["cart", "order"])
def test_records_of_our_earlier_schemas_are_read(name: str) -> None:
    written, read = in_json(f"earlier-{name}", own_schema(f"{name}-1")), CODEC.decode(earlier(name))
    assert common(read, written) == written
    assert read["payload"]["previous_items"] == []
    assert read["payload"][name]["line_items"][0]["adjustments"] == []


def earlier(name: str) -> bytes:
    return (FIXTURES / f"earlier-{name}.bin").read_bytes()


def common(value: Any, like: Any) -> Any:
    """Give the part of a value that another value has too."""
    if isinstance(value, dict) and isinstance(like, dict):
        return {name: common(part, like[name]) for name, part in value.items() if name in like}
    if isinstance(value, list):
        return [common(part, other) for part, other in zip(value, like, strict=True)]
    return value


def test_a_confluent_record_of_another_java_writer_is_read(registry_server: RegistryServer) -> None:
    writer = json.loads((FIXTURES / "evolved-order.avsc").read_text())
    for number in range(1, EVOLVED_ID):
        registry_server.keep(json.dumps({"type": "string", "doc": str(number)}))
    assert registry_server.keep(json.dumps(writer)) == EVOLVED_ID
    read = Codec(registry_server.registry()).decode((FIXTURES / "evolved-order.bin").read_bytes())

    written = in_json("evolved-order", writer)
    assert written.pop("hub_version") == 2**40
    assert written["payload"]["order"].pop("channel") == ["spree", "web"]
    assert written["payload"]["previous"].pop("channel") == []
    for section in ("order", "previous"):
        written["payload"][section]["payment_fee"] = None
    assert common(read, written) == written
    assert read["message_id"] == ""
    assert read["payload"]["order"]["line_items"][0]["name"] == "Täschen"


def test_java_reads_our_result() -> None:
    assert CODEC.encode("result", RESULT) == (FIXTURES / "result.bin").read_bytes()
    assert in_json("result", own_schema("result")) == RESULT
