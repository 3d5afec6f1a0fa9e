"""Hub messages as JSON: through the conversion, the codec, the mapping and the preview."""

import json
import re
from functools import cache
from io import StringIO
from random import Random
from typing import Any

import orjson
from fastavro import json_writer

from consumer.admin import preview
from consumer.admin.documents import read_documents
from jirafe import services
from jirafe.fields import Unmappable
from jirafe.sandbox.validation import Validator
from jirafe.services import Event, Unsendable
from schemas.avro_json import message_of
from schemas.codec import Codec
from schemas.hub import HubError, key_of, kind_of, to_message
from schemas.own import own_schema
from tests import messages
from tests.fuzz import draw as drawing
from tests.fuzz.targets import Breach, Case, Limits, latin

LIMITS = Limits()

TOKEN = "tok-5f3a9c27e1"
"""The access token of some messages. No error may tell it."""

_SECTIONS = ("cart", "order", "taxon", "original", "previous", "diff", "line_items")
_VALUE = re.compile(r'(?<=": )(?:null|\d+|"[^"\\]*")')
_TIMESTAMP = 1_400_000_000_000

_PARAMETERS = {
    "jirafe.product_category_taxonomy": "2",
    "jirafe.brand_category_taxonomy": "1",
    "jirafe.store_url": "https://shop.example.com",
}


@cache
def documents() -> list[Any]:
    """Give valid messages of every kind: small ones, and those of the simulated shop."""
    order = messages.sale(
        "R1", canceled_at="2014-03-02", adjustments=[{"name": "Off", "value": "-5.00", "eligible": True}]
    )
    address = {
        "firstname": "A",
        "address1": "B",
        "city": "C",
        "zipcode": 1,
        "state": {"name": "D"},
        "country": "US",
    }
    variant = {"id": 1, "product_id": 7, "sku": "S", "price": 1, "images": [{"attachment_url": "/a.png"}]}
    variant["product"] = {"taxons": [{"id": 5, "name": "Bags", "taxonomy_id": 2}], "created_at": "2014-01-01"}
    rich = {**order, "line_items": [messages.line_item(variant=variant)], "shipping_address": address}
    rich["billing_address"], rich["visit_id"], rich["user_id"] = address, "v", 3
    found = [messages.cart("C1"), messages.order("R1"), messages.taxon("3", "Bags")]
    for kind in ("order:new", "order:updated", "order:canceled", "cart:new", "cart:updated"):
        sections: dict[str, Any] = {
            kind.partition(":")[0]: rich,
            "original": rich,
            "previous": rich,
            "diff": {"status": ["a", "canceled"]},
        }
        found.append(messages.message(kind) | {"payload": sections})
    found += [{key: value for key, value in each.items() if key != "message"} for each in found]
    found += [{**each, "parameters": [{"name": "jirafe.site_id", "value": 5}]} for each in found]
    return found + [_in_avro(each) for each in found]


def _in_avro(document: Any) -> Any:
    message, text = to_message(document), StringIO()
    json_writer(text, own_schema(kind_of(message["message"]) or ""), [message])
    return json.loads(text.getvalue())


def draw_document(random: Random) -> Any:
    """Draw a message: a valid one, changed in some places. Some have TOKEN in their parameters, or in place of others."""
    document = drawing.mutated(random, random.choice(documents()), random.choice((0, 1, 1, 1, 2, 3, 6)))
    if isinstance(document, dict) and drawing.chance(random, 0.3):
        _add_token(random, document)
    return document


def _add_token(random: Random, document: dict[str, Any]) -> None:
    named = {"jirafe.access_token": TOKEN}
    text = random.choice((f"jirafe.access_token={TOKEN}", json.dumps(named), json.dumps({"parameters": named})))
    wrapped = random.choice(({"string": TOKEN}, [TOKEN], {"jirafe.access_token": TOKEN}))
    listed = [{"name": name, "value": value} for name, value in named.items()]
    name = random.choice(("parameters", "parameters", "message_id", "message", "payload", *_SECTIONS))
    value = random.choice((text, wrapped, *([named, {name: wrapped}, listed] if name == "parameters" else [])))
    payload = document.get("payload")
    holder = payload if isinstance(payload, dict) and name in ("parameters", *_SECTIONS) else document
    if name == "line_items":
        holder = next((each for each in holder.values() if isinstance(each, dict)), holder)
    if name == "message_id" and isinstance(value, str):
        value = [value]  # a text would be the id, which errors may name
    holder[name] = value


def draw(random: Random) -> Case:
    """Draw the text of a file: one message, or a list or lines of them, most of them unusual."""
    chosen = [draw_document(random) for _ in range(random.choice((1, 1, 1, 2, 4)))]
    separator = random.choice(("\n", "\r\n", "\n\n", "\u2028"))
    written = json.dumps(chosen) if drawing.chance(random, 0.3) else separator.join(map(json.dumps, chosen))
    if drawing.chance(random, 0.05) and (values := list(_VALUE.finditer(written))):
        start, end = random.choice(values).span()
        written = written[:start] + drawing.nested(random.choice((10, 90, 250, 490, 5000))) + written[end:]
    if drawing.chance(random, 0.02):
        images = [{"attachment_url": "x"}] * 10 ** random.randrange(2, 5)
        many = {"sku": "a", "quantity": 1, "variant": {"images": images}}
        written = json.dumps(messages.order("R1", line_items=[many] * random.choice((1, 1, 20))))[:1_000_000]
    encoded = written.encode(random.choice(("utf-8", "utf-8", "utf-8", "utf-16", "latin-1")), "replace")
    if drawing.chance(random, 0.1):
        encoded = drawing.damaged(random, encoded)
    return {"text": latin(encoded), "parameters": {} if drawing.chance(random, 0.2) else _PARAMETERS}


@cache
def _codec() -> Codec:
    return Codec()


@cache
def _validator() -> Validator:
    return Validator()


def try_out(case: Case) -> None:
    """Convert, encode, decode and map all messages of a text."""
    try:
        found = [each.value for each in read_documents([case["text"].encode("latin-1")])]
    except HubError as error:
        _check_reason(error)
        return
    for document in found:
        shown = preview.of_document(document, preview.Given(case["parameters"], {}, _TIMESTAMP, "now"))
        orjson.dumps(shown.as_json())
        check_secret([each["description"] for each in shown.notifications])
        try:
            message = message_of(document)
        except HubError as error:
            _check_reason(error)
        else:
            check_message(message, case["parameters"])


def check_message(message: dict[str, Any], parameters: dict[str, str]) -> None:
    """Check that a converted message can be encoded and decoded, and that the API accepts its events."""
    key = key_of(message)
    if key is not None:
        key.encode()
    decoded = _codec().decode_message(_codec().encode(kind_of(message["message"]) or "", message))
    try:
        events = services.make_events(
            decoded["message"], decoded["payload"], {**parameters, **decoded["parameters"]}, _TIMESTAMP
        )
    except services.UnknownMessageType as error:
        _check_reason(error)
        return
    for event in events:
        match event:
            case Event(kind, _, _, body):
                check_event(kind.array, orjson.dumps(body))
            case Unsendable(_, _, why):
                _check_reason(Unmappable(why))


def check_event(array: str, body: bytes) -> None:
    """Check that an event has the API's form. Only the API decides how large a number may be."""
    errors = _validator().errors(array, orjson.loads(body))
    for place, why in errors.items():
        if "than the m" not in why:  # minimum or maximum
            raise Breach(f"an event of {array} that is not of the API's form", f"{place}: {why}")


def check_secret(said: object) -> None:
    """Check that what is said about a message does not tell its access token."""
    if TOKEN in str(said):
        raise Breach("an error tells an access token", str(said)[:300])


def _check_reason(error: Exception) -> None:
    check_secret(error)
    if not str(error).strip():
        raise Breach("a refusal has no reason", repr(error))
    try:
        str(error).encode()
    except UnicodeEncodeError:
        raise Breach("a refusal can't be written", repr(error)) from None
