"""What a Schema Registry answers, at the byte level and within its JSON, to its client and to the codec."""

import json
import struct
import time
import uuid
from functools import cache
from random import Random
from typing import Any

from schemas.codec import Codec, RegistryUnavailable, Undecodable
from schemas.own import OWN_SCHEMAS, own_schema
from schemas.registry import Access, SchemaRegistry
from tests.fuzz import draw as drawing
from tests.fuzz.answers_drawn import draw_answer, draw_json
from tests.fuzz.avro import draw_schema
from tests.fuzz.draw import chance
from tests.fuzz.raw import RawServer
from tests.fuzz.targets import Breach, Case, Limits, latin

PASSWORD = "open-sesame"
TIMEOUT = 0.15
SLACK = 3.0
"""Additional seconds, because a machine may be busy. Endless work is found anyway."""

# A look-up may be several requests.
LIMITS = Limits(cpu=3.0, clock=10.0, memory=256)


def draw(random: Random) -> Case:
    """Draw the questions, and the one answer to all of them."""
    question = random.choice(("decode", "decode", "schema", "register", "registered", "incompatibility"))
    body = latin(drawing.data(random))
    return {
        "question": question,
        "body": body,
        "guid": chance(random, 0.2),
        "answer": draw_answer(random, draw_json(random, _right(random, question))),
    }


def _right(random: Random, question: str) -> Any:
    if question in ("decode", "schema"):
        parts = json.dumps(draw_schema(random)).split('"')
        if len(parts) > 1 and chance(random, 0.3):
            parts[random.randrange(1, len(parts), 2)] = PASSWORD
        answer: dict[str, Any] = {"schema": '"'.join(parts)}
        if chance(random, 0.2):
            answer["schemaType"] = random.choice(("AVRO", "JSON", "PROTOBUF", PASSWORD, "", None, 5))
        if chance(random, 0.2):
            number = random.choice((1, 2, 50))
            answer["references"] = [
                {
                    "name": f"a.B{index}",
                    "subject": random.choice(("s", "../x", f"s{index}", "\u20ac", PASSWORD, "s" * 900)),
                    "version": index,
                }
                for index in range(number)
            ]
        return answer
    if chance(random, 0.4):
        return {
            "error_code": random.choice((40401, 40402, 40403, 409, 42201, 500)),
            "message": drawing.utf8(random),
        }
    if question == "incompatibility":
        return {"is_compatible": random.choice((True, False)), "messages": [drawing.utf8(random)], "reason": "x"}
    return {
        "id": random.choice((1, 7, 2**31 - 1, 2**31, 2**40, -1, 0)),
        "version": 1,
        "schema": "{}",
        "subject": "s",
    }


@cache
def _server() -> RawServer:
    return RawServer()


@cache
def _registry() -> SchemaRegistry:
    subjects = {name: f"{name}s-value" for name in OWN_SCHEMAS}
    return SchemaRegistry(_server().url, subjects, Access("ada", PASSWORD), timeout=TIMEOUT)


@cache
def _codec() -> Codec:
    # Its clock moves on with each question, so that no answer is remembered as a refusal.
    return Codec(_registry(), clock=lambda: time.monotonic() * 10**9)


_ids = iter(range(1, 2**31 - 1))


def try_out(case: Case) -> None:
    """Ask, and expect only two errors: the registry is unavailable, or the bytes can't be decoded."""
    _server().play(case["answer"])
    begun = time.monotonic()
    try:
        _ask(case)
    except (Undecodable, RegistryUnavailable) as error:
        try:
            said = str(error).encode()
        except UnicodeEncodeError:
            raise Breach("a reason can't be written", repr(error)) from None
        if not said.strip() or PASSWORD.encode() in said:
            raise Breach("a reason is empty, or tells the password", repr(error)) from None
    finally:
        _server().play([])
    # Registering asks twice. The first reference without an answer ends a look-up.
    if (seconds := time.monotonic() - begun) > 2 * TIMEOUT + SLACK:
        raise Breach("a question takes longer than its timeout", f"{seconds:.1f} s")


def _ask(case: Case) -> None:
    name, schema = "order", own_schema("order")
    match case["question"]:
        case "decode":
            body = case["body"].encode("latin-1")
            if case.get("guid"):
                _codec().decode(body, [("__value_schema_id", b"\1" + next(_ids).to_bytes(16, "big"))])
            else:
                _codec().decode(b"\0" + struct.pack(">I", next(_ids)) + body)
        case "schema":
            _registry().schema(str(uuid.UUID(int=1)) if case.get("guid") else 1)
        case "register":
            _encodable(_registry().register(name, schema))
        case "registered":
            _registry().registered(name, schema)
        case "incompatibility":
            if reason := _registry().incompatibility(name, schema):
                reason.encode()
        case other:
            raise KeyError(other)


def _encodable(schema_id: int) -> None:
    if not 0 <= schema_id < 2**31:
        raise Breach("an id of the registry is accepted that no record can carry", str(schema_id))
