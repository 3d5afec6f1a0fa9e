"""Results are encoded byte by byte as fastavro does, or declined."""

from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pytest
from fastavro import schemaless_writer
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.codec import Codec
from schemas.encoder import NotOrdinary, encoded_result
from schemas.own import own_schema

SCHEMA = own_schema("result")
TEXTS = st.text(max_size=70) | st.sampled_from(["", "é" * 40, "a" * 63, "a" * 64, "a" * 201, "a" * 9000, "\ud800"])
NUMBERS = st.sampled_from([0, -1, 63, 64, -64, -65, 2**31 - 1, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63)]) | (
    st.integers(-(2**63), 2**63 - 1)
)
INTS = st.sampled_from([0, 200, 500, -1, 2**31 - 1, -(2**31)]) | st.integers(0, 2**31 - 1)
RESULTS = st.fixed_dictionaries(
    {
        "message_id": TEXTS,
        "message": TEXTS,
        "code": INTS,
        "notifications": st.lists(
            st.fixed_dictionaries(
                {"level": st.sampled_from(["info", "warn", "error"]), "subject": TEXTS, "description": TEXTS}
            ),
            max_size=3,
        ),
        "topic": TEXTS,
        "partition": INTS,
        "offset": NUMBERS,
        "timestamp": NUMBERS,
        "replay": st.none() | TEXTS,
        "redrive": st.none() | TEXTS,
        "group": st.none() | TEXTS,
    }
)
RESULT: dict[str, Any] = {
    "message_id": "1",
    "message": "cart:new",
    "code": 200,
    "notifications": [],
    "topic": "carts",
    "partition": 0,
    "offset": 0,
    "timestamp": 0,
    "replay": None,
    "redrive": None,
    "group": "g",
}
NOTIFICATION = {"level": "info", "subject": "s", "description": "d"}


def by_fastavro(result: dict[str, Any]) -> bytes | None:
    buffer = BytesIO()
    try:
        schemaless_writer(buffer, SCHEMA, result)
    except Exception:  # noqa: BLE001 - it refuses in many ways
        return None
    return buffer.getvalue()


@given(RESULTS)
@example({**RESULT, "notifications": [NOTIFICATION] * 70})
def test_the_encoder_writes_the_same_as_fastavro(result: dict[str, Any]) -> None:
    try:
        written = encoded_result(result)
    except NotOrdinary:
        assert r"\ud800" in ascii(result)  # half of a surrogate pair
    else:
        assert written == by_fastavro(result)


@pytest.mark.parametrize(
    "change",
    [
        {"code": True},
        {"code": 200.0},
        {"code": 2**31},
        {"offset": 2**63},
        {"timestamp": datetime(2014, 1, 1, tzinfo=UTC)},
        {"message_id": None},
        {"topic": b"carts"},
        {"message": ["cart:new"]},
        {"notifications": None},
        {"notifications": [{**NOTIFICATION, "level": "fatal"}]},
        {"notifications": [{"level": "info", "subject": "s"}]},
        {"group": 1},
    ],
)
def test_unusual_results_are_left_to_fastavro(change: dict[str, Any]) -> None:
    with pytest.raises(NotOrdinary):
        encoded_result({**RESULT, **change})


def test_the_codec_writes_ordinary_and_unusual_results() -> None:
    codec = Codec()
    moment = datetime(2014, 1, 1, tzinfo=UTC)
    unusual = codec.encode("result", {**RESULT, "timestamp": moment})
    assert unusual == codec.encode("result", {**RESULT, "timestamp": int(moment.timestamp() * 1000)})
    with pytest.raises(TypeError, match="partition"):
        codec.encode("result", {**RESULT, "partition": "none"})


def test_the_tested_result_has_each_field_of_the_schema() -> None:
    assert [field["name"] for field in SCHEMA["fields"]] == list(RESULT)
