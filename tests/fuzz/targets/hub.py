"""Hub messages as JSON: through the conversion, the codec, the mapping and the preview."""

import json
from functools import cache
from random import Random
from typing import Any

import orjson

from consumer.admin import preview
from consumer.admin.documents import read_documents
from jirafe import services
from jirafe.fields import Unmappable
from jirafe.sandbox.validation import Validator
from jirafe.services import Event, Unsendable
from schemas.codec import Codec
from schemas.hub import HubError, key_of, kind_of, to_message
from tests import messages
from tests.fuzz import draw as drawing
from tests.fuzz.targets import Breach, Case, Limits, latin

LIMITS = Limits()

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
    return found


def draw_document(random: Random) -> Any:
    """Draw a message: a valid one, changed in some places."""
    return drawing.mutated(random, random.choice(documents()), random.choice((0, 1, 1, 1, 2, 3, 6)))


def draw(random: Random) -> Case:
    """Draw the text of a file: one message, or a list or lines of them, most of them unusual."""
    chosen = [draw_document(random) for _ in range(random.choice((1, 1, 1, 2, 4)))]
    separator = random.choice(("\n", "\r\n", "\n\n", "\u2028"))
    written = json.dumps(chosen) if drawing.chance(random, 0.3) else separator.join(map(json.dumps, chosen))
    if drawing.chance(random, 0.02):
        written = written.replace("null", drawing.nested(random.choice((10, 500, 5000))), 1)
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
        orjson.dumps(
            preview.of_document(document, preview.Given(case["parameters"], {}, _TIMESTAMP, "now")).as_json()
        )
        try:
            message = to_message(document)
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


def _check_reason(error: Exception) -> None:
    if not str(error).strip():
        raise Breach("a refusal has no reason", repr(error))
    try:
        str(error).encode()
    except UnicodeEncodeError:
        raise Breach("a refusal can't be written", repr(error)) from None
