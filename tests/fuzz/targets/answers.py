"""What the Events API answers, at the byte level, to the client."""

import math
import time
from functools import cache
from random import Random

import orjson

from consumer import app, settings
from jirafe.client import (
    Answered,
    Client,
    Document,
    Failed,
    Forbidden,
    Refused,
    Rejected,
    Site,
    Transient,
)
from tests.fuzz import draw as drawing
from tests.fuzz.answers_drawn import draw_answer, draw_json
from tests.fuzz.raw import RawServer
from tests.fuzz.targets import Breach, Case, Limits

TIMEOUT, LARGE_TIMEOUT = 0.15, 1.5
"""The client's timeouts in seconds: the usual one, and that for answers so large that their size ends them first."""
SLACK = 3.0
"""Additional seconds, because a machine may be busy. Endless work is found anyway."""
TOKEN = "a-token+of/ours=="

LIMITS = Limits(cpu=4.0, clock=10.0, memory=256)

_VERDICTS = (
    {"success": True},
    {"success": False, "error_type": "validation", "errors": {"total": "None is not of type 'number'"}},
    {"success": False, "error_type": "unknown", "message": "try again"},
    {"success": False, "errors": [TOKEN, "a"]},
    {"success": False, "error_type": "bad_json"},
)
_ERRORS = (
    {"success": False, "error_type": "invalid_token"},
    {"success": False, "error_type": "authorization", "message": TOKEN},
    {"success": False, "error_type": "bad_json", "errors": {"a": TOKEN}},
    {"error_type": "unknown", "message": "x"},
)


def draw(random: Random) -> Case:
    """Draw what is sent, and the answer to it."""
    arrays = [random.choice(("cart", "order", "category")) for _ in range(random.choice((1, 2, 5, 50)))]
    right: object = {array: [random.choice(_VERDICTS) for each in arrays if each == array] for array in set(arrays)}
    if drawing.chance(random, 0.2):
        right = random.choice(_ERRORS)
    # The order of a set varies, and must not change the case.
    right = dict(sorted(right.items())) if isinstance(right, dict) else right
    return {"arrays": arrays, "answer": draw_answer(random, draw_json(random, right))}


@cache
def _server() -> RawServer:
    return RawServer()


@cache
def _client(timeout: float) -> Client:
    given = {"JIRAFE_URL": f"{_server().url}/v2", "JIRAFE_READ_TIMEOUT": str(timeout)}
    return app.make_client(settings.load(None, given))


def try_out(case: Case) -> None:
    """Send events, and check that the client's reading of the answer keeps its rules."""
    documents = [Document(array, b'{"a":%d}' % index) for index, array in enumerate(case["arrays"])]
    _server().play(case["answer"])
    is_large = any(step[0] in ("repeat", "gzip") for step in case["answer"])
    timeout = LARGE_TIMEOUT if is_large else TIMEOUT
    begun = time.monotonic()
    answer = _client(timeout).send(Site("1", TOKEN), documents)
    seconds = time.monotonic() - begun
    _server().play([])
    if seconds > timeout + SLACK:
        raise Breach("a request takes longer than its timeout", f"{seconds:.1f} s; then {answer!r}")
    texts = []
    match answer:
        case Answered(items):
            if len(items) != len(documents):
                raise Breach("an answer does not have one verdict for each event", repr(answer))
            texts = [item.message for item in items if isinstance(item, Rejected | Transient)]
        case Refused(message):
            texts = [message]
        case Forbidden(error_type):
            texts = [error_type]
        case Failed(cause=cause, message=message, retry_after=retry_after):
            texts = [cause, message]
            if retry_after is not None and not (math.isfinite(retry_after) and retry_after >= 0):
                raise Breach("Retry-After is not a number of seconds", repr(retry_after))
    for text in texts:
        _check_text(text)


def _check_text(text: str) -> None:
    if not text.strip():
        raise Breach("an answer has no reason")
    if TOKEN in text:
        raise Breach("an answer's reason has the token", text)
    try:
        orjson.dumps(text)
    except TypeError:
        raise Breach("an answer's reason can't be written", repr(text)) from None
