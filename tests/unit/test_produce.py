"""Hub JSON on its way into Kafka: split in bounded memory, and checked for misspellings and size."""

import json
from collections.abc import Callable, Iterator
from typing import Any, cast

import orjson
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from fastavro import json_writer
from hypothesis import given
from hypothesis import strategies as st

from consumer.admin import documents
from consumer.admin.documents import read_documents
from consumer.admin.preview import Given, of_file
from consumer.admin.produce import Encoded, Spool, UnknownTypes, encode_all, largest_sent, produce
from consumer.admin.spelling import Spelling
from consumer.errors import NotProduced
from schemas.avro_json import message_of
from schemas.codec import Codec
from schemas.hub import HubError, kind_of, to_message
from schemas.own import own_schema
from tests.messages import cart, nested, order, taxon

CODEC = Codec()

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(alphabet='a"\\{}[],:\n ä\U0001f45c', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='a"\\]}', max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
objects = st.dictionaries(st.text(alphabet='a"\\{[', max_size=3), values, max_size=3)
blanks = st.text(alphabet=" \t\r\n", max_size=3)


def blocks_of(text: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        if text[at : at + size]:
            yield text[at : at + size]
        at += size
    if text[at:]:
        yield text[at:]


def read(text: bytes, sizes: list[int] | None = None) -> list[Any]:
    return [each.value for each in read_documents(blocks_of(text, sizes or []))]


@given(
    found=st.lists(objects, min_size=1, max_size=5),
    blank=blanks,
    sizes=st.lists(st.integers(1, 4), max_size=200),
    indent=st.booleans(),
)
def test_the_size_of_the_blocks_does_not_change_the_documents(
    *, found: list[Any], blank: str, sizes: list[int], indent: bool
) -> None:
    option = orjson.OPT_INDENT_2 if indent else 0
    written = [orjson.dumps(each, option=option) for each in found]
    around = blank.encode()
    as_list = b"[" + (around + b"," + around).join(written) + b"]"
    for text in (as_list, around.join(written), b"\n".join(written), b"\xef\xbb\xbf" + b"\r\n\r\n".join(written)):
        assert read(around + text + around if text[:1] != b"\xef" else text, sizes) == found
    lines = [each.line for each in read_documents(iter([b"\n\n".join(map(orjson.dumps, found))]))]
    assert lines == list(range(1, 2 * len(found), 2))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b'{"a": 1}', [{"a": 1}]),
        (b'{\n "a": 1\n}\n', [{"a": 1}]),
        (b'[{"a": 1},\n {"a": 2}]', [{"a": 1}, {"a": 2}]),
        (b"[]", []),
        (b'{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        (b'\r\n{"a": 1}\r\n\r\n{"a": 2}', [{"a": 1}, {"a": 2}]),
    ],
)
def test_documents_are_read_from_files_of_each_form(text: bytes, found: list[Any]) -> None:
    assert read(text) == found


@given(st.lists(values, max_size=4), st.lists(st.integers(1, 4), max_size=100))
def test_elements_of_a_list_may_be_anything(found: list[Any], sizes: list[int]) -> None:
    assert read(orjson.dumps(found), sizes) == found


@given(st.binary(max_size=40) | st.text(alphabet='[]{}",:1a \n\\', max_size=30).map(str.encode), st.integers(1, 40))
def test_valid_json_is_read_and_invalid_json_raises_only_a_hub_error(text: bytes, size: int) -> None:
    try:
        expected = orjson.loads(text)
    except orjson.JSONDecodeError:
        expected = None
    try:
        found = read(text, [size] * 40)
    except HubError:
        assert expected is None
    else:
        if expected is not None:
            assert found == (expected if isinstance(expected, list) else [expected])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not JSON: the file is empty"),
        (b" \n", "not JSON: the file is empty"),
        (b'{"a": 1}\n\n{"a": ', "line 3: not JSON: "),
        (b'[{"a": 1},\n{"a": 1}\n', "line 1: not JSON: the list is not closed"),
        (b'[{"a": 1}\n{"a": 1}]', "line 2: not JSON: a comma is missing between two elements of a list"),
        (b'{"a": "\n"}', "line 1: not JSON: "),
        (b"[{},]", "line 1: not JSON: "),
        (b"{", "line 1: not JSON: "),
        (b"\xff", "line 1: not JSON: "),
        (b"[NaN]", "line 1: not JSON: "),
        (b'{"a": ' + b"[" * 5000, "line 1: not JSON: "),
        (b"{}\n\n\n{bad", "line 4: not JSON: unexpected character, expected a string key, at column 2"),
        (
            b'{}\n[{},\n {"a": 1,\n  bad}]',
            "line 4: not JSON: unexpected character, expected a string key, at column 3",
        ),
        (b"[{}, {bad}]", "line 1: not JSON: unexpected character, expected a string key, at column 7"),
        (b'{}\n{"a": {"b": %b}}' % nested(199), "line 2: a.b.0: nested more than 200 levels deep"),
        (b'{"a":\n{"b": %b}}' % nested(1000), "line 1: a.b.0: nested more than 200 levels deep"),
        (b"[{},\n%b]" % nested(201), "line 2: 0.0.0: nested more than 200 levels deep"),
    ],
)
def test_the_error_names_the_place(text: bytes, said: str) -> None:
    with pytest.raises(HubError) as error:
        read(text)
    assert str(error.value).startswith(said)


def test_a_document_of_200_levels_is_watched_and_explained() -> None:
    text = b'{"message": "cart:new", "cart": {"number": "R1", "other": %b}}' % nested(198, b"1")
    (encoded,) = encode_all("a.json", [text], CODEC, 1_000_000, Spelling(), UnknownTypes())
    assert encoded.key == b"R1"
    ((_, shown),) = of_file("a.json", [text], Given({}, {}, 0, "now"))
    assert shown.unknown == ["cart.other"]


def test_an_endless_document_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "LARGEST", 2**20)
    for begins in (b'{"a": "', b"[[" + b'{"a": 1},' * 10, b'"'):
        taken = 0

        def endless(begins: bytes = begins) -> Iterator[bytes]:
            nonlocal taken
            yield begins
            while True:
                taken += 1
                yield b"x" * 65_536

        with pytest.raises(HubError, match=r"^line 1: a message is larger than 1 MiB$"):
            list(read_documents(endless()))
        assert taken < 64


def encoded(text: str | bytes, largest: int = 1_000_000) -> tuple[list[Encoded], list[tuple[str, str]]]:
    spelling = Spelling()
    raw = text.encode() if isinstance(text, str) else text
    found = list(encode_all("a.json", iter([raw]), CODEC, largest, spelling, UnknownTypes()))
    return found, [(stray.path, stray.meant) for stray in spelling.strays()]


@pytest.mark.parametrize(
    ("place", "wrong", "meant"),
    [
        ("", "paylod", "payload"),
        ("", "mesage_id", "message_id"),
        ("", "paramters", "parameters"),
        ("payload", "ordr", "order"),
        ("payload", "orignal", "original"),
        ("payload", "prevoius", "previous"),
        ("payload.order", "totls", "totals"),
        ("payload.order", "emial", "email"),
        ("payload.order", "lineItems", "line_items"),
        ("payload.order", "shippingAddress", "shipping_address"),
        ("payload.order.totals", "ordre", "order"),
        ("payload.order.line_items", "pric", "price"),
        ("payload.order.line_items", "quantitiy", "quantity"),
        ("payload.order.line_items.variant", "produt_id", "product_id"),
        ("payload.order.shipping_address", "zip_code", "zipcode"),
        ("payload.original", "totl", "total"),
    ],
)
def test_a_misspelled_field_is_named_with_a_suggestion(place: str, wrong: str, meant: str) -> None:
    address = {"address1": "1 Main St", "city": "x"}
    original = {"number": "R1", "state": "complete"}
    document = order("R1", shipping_address=address)
    document["payload"]["original"] = original
    document["payload"]["order"]["line_items"][0]["variant"] = {"name": "Bag", "sku": "BAG"}
    document["payload"]["order"]["unrelated"] = {"totl": 1}
    assert encoded(json.dumps(document))[1] == []
    section = document
    for name in filter(None, place.split(".")):
        section = section[name]
        section = section[0] if isinstance(section, list) else section
    section[wrong] = section.pop(meant, "1")
    spelling = Spelling()
    try:
        to_message(spelling.watched(document))
    except HubError:
        pass  # without the field, the message is refused
    else:
        spelling.note("a.json")
        (stray,) = spelling.strays()
        assert (stray.path, stray.meant, stray.times) == (f"{place}.{wrong}".lstrip("."), meant, 1)


def test_misspellings_in_a_top_level_object_and_a_taxon_are_found() -> None:
    later = {"request_id": "1", "order": {"id": "R1", "totl": 1, "currency": "USD"}, "paramters": {}}
    assert encoded(json.dumps(later))[1] == [("order.totl", "total"), ("paramters", "parameters")] or encoded(
        json.dumps(later)
    )[1] == [("paramters", "parameters"), ("order.totl", "total")]
    assert encoded(json.dumps(taxon("9", "Bags", parnt_id="1")))[1] == [("payload.taxon.parnt_id", "parent_id")]


def test_a_field_that_is_present_is_not_suggested() -> None:
    text = json.dumps(order("R1", emails=["a"], total_=1, totals={"order": 1, "orders": 2}))
    assert ("payload.order.emails", "email") not in encoded(text)[1]
    assert encoded("\n".join([json.dumps(order("R1", totl=1))] * 50))[1] == [("payload.order.totl", "total")]


def test_a_message_that_is_too_large_is_named_before_anything_is_sent() -> None:
    small, large = json.dumps(order("R1")), json.dumps(order("R2", line_items=[{"name": "x" * 5000}]))
    with pytest.raises(HubError) as error:
        encoded(f"{small}\n{large}", largest=5000)
    assert str(error.value).startswith("a.json, message 2: too large: 5,")
    assert "the limit is 5,000. Raise KAFKA_MESSAGE_MAX_BYTES" in str(error.value)
    (only,), _ = encoded(small)
    assert encoded(small, largest=len(only.value) + len(only.key or b""))
    with pytest.raises(HubError, match=r"^a\.json: too large"):
        encoded(small, largest=len(only.value) + len(only.key or b"") - 1)
    assert (largest_sent({}), largest_sent({"message.max.bytes": "5"})) == (1_000_000, 5)


class ScriptedProducer:
    """A producer whose broker refuses some keys, or whose library does."""

    def __init__(self, *, refused: bytes, by_library: bool) -> None:
        self._refused = refused
        self._by_library = by_library
        self._reports: list[tuple[Callable[..., None], KafkaError | None]] = []

    def produce(self, _topic: str, _value: bytes, key: bytes, on_delivery: Callable[..., None]) -> None:
        error = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE) if key == self._refused else None
        if error and self._by_library:
            raise KafkaException(error)
        self._reports.append((on_delivery, error))

    def poll(self, _timeout: float) -> None:
        pass

    def flush(self, _timeout: float) -> int:
        for report, error in self._reports:
            report(error, None)
        return 0


@pytest.mark.parametrize("by_library", [True, False])
def test_a_message_that_a_topic_refuses_is_named(*, by_library: bool) -> None:
    producer = cast("Producer", ScriptedProducer(refused=b"R2", by_library=by_library))
    messages = [("orders", Encoded("order", f"R{n}".encode(), b"", f"a.json, message {n}")) for n in (1, 2, 3)]
    with pytest.raises(NotProduced) as error:
        produce(producer, messages)
    said = "1 of 3 messages were not produced: a.json, message 2: too large for its topic; raise max.message.bytes"
    assert str(error.value).startswith(said)


def test_a_spool_returns_the_added_messages() -> None:
    added = [("orders", Encoded("order", None, b"v", "here")), ("carts", Encoded("cart", b"k", b"\x00" * 1000))]
    with Spool() as spool:
        for topic, message in added:
            spool.add(topic, message)
        assert list(spool) == list(spool) == added
        assert list(spool.topics) == ["orders", "carts"]


DOCUMENTS = [cart("R1"), order("R2", "order:updated"), taxon("9", "Bags")]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_json_encoding_of_avro_is_read(document: dict[str, Any], tmp_path: Any) -> None:
    message = to_message(document)
    kind = kind_of(message["message"]) or ""
    path = tmp_path / "message.json"
    with path.open("w") as file:
        json_writer(file, own_schema(kind), [message])
    written = json.loads(path.read_text())
    assert message_of(written) == message
    assert message_of(document) == message
    wrong = {**written, "message_id": 5}
    with pytest.raises(HubError, match=r"^this is Avro's JSON encoding, but no valid \w+ message: "):
        message_of(wrong)
