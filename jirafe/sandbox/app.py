"""The sandbox over HTTP: the API, and the endpoints that show what it received and tell it to fail."""

import asyncio
import json
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import fields, replace

from aiohttp import web

from jirafe.sandbox.api import Answer, Batch, Call, parse_json, read, refusal
from jirafe.sandbox.arrivals import Arrival
from jirafe.sandbox.faults import (
    AnswerStatus,
    FaultError,
    Html,
    Injection,
    Mismatch,
    Partial,
    Redirect,
    Reset,
    Traits,
    Truncate,
)
from jirafe.sandbox.state import Sandbox

_ABOUT = {
    "about": "A local stand-in for the Jirafe Events API v2. It is not Jirafe, and keeps everything in memory.",
    "endpoints": {
        "POST /v2/{site}/{cart|order|category|product|customer|employee|batch}": "the API",
        "GET /sandbox/events?site=&kind=&id=&after=SEQUENCE&limit=": "the events received, oldest first",
        "DELETE /sandbox/events": "forget the events and all counts",
        "GET /sandbox/stats": "counts of events and requests",
        "POST /sandbox/faults": "fail as a JSON object says, such as "
        '{"action": "status", "status": 503, "times": 3}; the actions are status, delay, reset, truncate, '
        "html, partial, mismatch and redirect",
        "GET /sandbox/faults": "the faults, with how often each was applied, and how often it still will be",
        "DELETE /sandbox/faults": "stop failing",
    },
}
_HTML = "<!DOCTYPE html>\n<html><head><title>Welcome</title></head><body><h1>It works!</h1></body></html>\n"
_ERRORS = {
    400: ("bad_json", "Bad request."),
    403: ("invalid_token", "The access token is not valid."),
    413: ("too_large", "The body is too large."),
    429: ("unknown", "Too many requests."),
}
_LIMIT = 1000


def application(sandbox: Sandbox) -> web.Application:
    """Return the application that serves this sandbox."""
    app = web.Application(client_max_size=sandbox.max_body, middlewares=[_errors_as_json])
    events, desk = _EventsApi(sandbox), _Desk(sandbox)
    app.router.add_post("/v2/{site}/{kind}", events.receive)
    app.router.add_get("/", desk.about)
    app.router.add_get("/sandbox/events", desk.events)
    app.router.add_delete("/sandbox/events", desk.forget)
    app.router.add_get("/sandbox/stats", desk.stats)
    app.router.add_get("/sandbox/faults", desk.faults)
    app.router.add_post("/sandbox/faults", desk.add_fault)
    app.router.add_delete("/sandbox/faults", desk.clear_faults)
    return app


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        answer = refusal(error.status, "method_not_allowed", f"There is no {request.method} here.")
        return _response(answer, {"Allow": ", ".join(sorted(error.allowed_methods))})
    except web.HTTPNotFound as error:
        return _response(refusal(error.status, "not_found", "There is nothing here; GET / says what there is."))
    except web.HTTPRequestEntityTooLarge as error:
        return _response(refusal(error.status, "too_large", "The body is too large."))
    except ConnectionError:
        # The client has left in the middle of its request: nobody to answer, nothing to log.
        return web.Response()


def _response(answer: Answer, headers: Mapping[str, str] | None = None) -> web.Response:
    return _json(answer.body, answer.status, headers)


def _json(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=_render(body), status=status, content_type="application/json", headers=headers)


def _render(body: object) -> bytes:
    return json.dumps(body, indent=2, sort_keys=True).encode()


class _EventsApi:
    """The Events API, with the faults that are injected into it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def receive(self, request: web.Request) -> web.StreamResponse:
        """Read a request; answer it, or do what a fault says."""
        site = request.match_info["site"]
        call = await self._read(request, site)
        received, number = time.time(), self._sandbox.next_request()
        injection = self._sandbox.choose_fault(_traits(site, call))
        if injection.delay:
            await asyncio.sleep(injection.delay)

        def process(failing: Collection[int] = ()) -> Answer:
            if isinstance(call, Answer):
                return call
            return self._sandbox.process(call, site=site, request=number, received=received, failing=failing)

        match injection.action:
            case Reset(after=after):
                if after:
                    process()
                self._sandbox.count_answer("reset")
                return _reset(request)
            case Truncate():
                answer = process()
                self._sandbox.count_answer("truncated")
                return await _truncate(request, answer)
        response = _whole_response(injection, call, process)
        self._sandbox.count_answer(str(response.status))
        return response

    async def _read(self, request: web.Request, site: str) -> Call | Answer:
        try:
            raw = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return refusal(413, "too_large", f"The body is larger than {self._sandbox.max_body} bytes.")
        refused = self._sandbox.refuse(request.headers.get("Authorization", ""), site)
        return refused or read(request.match_info["kind"], raw)


def _traits(site: str, call: Call | Answer) -> Traits:
    if isinstance(call, Answer):
        return Traits(site, frozenset(), events=0, batch=False)
    ids = frozenset(event.id for event in call.events if event.id is not None)
    return Traits(site, ids, events=len(call.events), batch=isinstance(call, Batch))


def _whole_response(
    injection: Injection, call: Call | Answer, process: Callable[[Collection[int]], Answer]
) -> web.Response:
    """Return the answer to a request that keeps its connection. `process` gets the events that fail."""
    match injection.action:
        case AnswerStatus() as action:
            return _canned(action)
        case Html():
            return web.Response(text=_HTML, content_type="text/html")
        case Redirect():
            return web.Response(status=302, headers={"Location": "/"})
        case Partial() if not isinstance(call, Answer):
            return _response(process(injection.failing([event.id for event in call.events])))
        case Mismatch():
            return _response(_without_last(process(())))
    return _response(process(()))


def _canned(action: AnswerStatus) -> web.Response:
    headers = {} if action.retry_after is None else {"Retry-After": action.retry_after}
    if action.body is not None:
        headers["Content-Type"] = action.body.content_type
        return web.Response(body=action.body.text.encode(), status=action.status, headers=headers)
    error_type, message = _ERRORS.get(action.status, ("unknown", "An unexpected error occurred."))
    return _response(refusal(action.status, error_type, message), headers)


def _reset(request: web.Request) -> web.Response:
    if request.transport is not None:
        # A linger time of zero makes the kernel send RST instead of FIN.
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response()


async def _truncate(request: web.Request, answer: Answer) -> web.StreamResponse:
    body = _render(answer.body)
    response = web.StreamResponse(status=answer.status)
    response.content_type = "application/json"
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


def _without_last(answer: Answer) -> Answer:
    arrays = dict(answer.body)
    for kind, array in sorted(arrays.items()):
        if isinstance(array, list) and array:
            arrays[kind] = array[:-1]
            break
    return replace(answer, body=arrays)


class _Desk:
    """The endpoints that show what the sandbox received and tell it to fail."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def about(self, _: web.Request) -> web.Response:
        """Say what this is."""
        return _json(_ABOUT)

    async def events(self, request: web.Request) -> web.Response:
        """List the events that fit the query."""
        query = dict(request.query)
        try:
            after, limit = _count(query.pop("after", "0")), _count(query.pop("limit", str(_LIMIT)))
        except ValueError:
            return _bad_request("after and limit must be integers of at least 0.")
        if unknown := query.keys() - {"site", "kind", "id"}:
            return _bad_request(f"Unknown parameters: {', '.join(sorted(unknown))}.")
        arrivals = self._sandbox.events(
            site=query.get("site"), kind=query.get("kind"), event_id=query.get("id"), after=after, limit=limit
        )
        # One event per line: indented JSON as in the API would take seconds for a long list.
        lines = ",\n".join(json.dumps(_shown(arrival), sort_keys=True) for arrival in arrivals)
        return web.Response(body=f"[\n{lines}\n]".encode(), content_type="application/json")

    async def forget(self, _: web.Request) -> web.Response:
        """Forget the events and all counts."""
        self._sandbox.forget()
        return _json({"success": True})

    async def stats(self, _: web.Request) -> web.Response:
        """Count events and requests."""
        return _json(self._sandbox.stats())

    async def faults(self, _: web.Request) -> web.Response:
        """List the faults."""
        return _json(self._sandbox.faults())

    async def add_fault(self, request: web.Request) -> web.Response:
        """Put a fault in force."""
        try:
            description = parse_json(await request.read())
            number = self._sandbox.add_fault(description)
        except FaultError as error:
            return _bad_request(str(error))
        except (ValueError, RecursionError):
            return _bad_request("A fault is described by one JSON object.")
        return _json({**description, "number": number}, 201)

    async def clear_faults(self, _: web.Request) -> web.Response:
        """Stop failing."""
        self._sandbox.clear_faults()
        return _json({"success": True})


def _shown(arrival: Arrival) -> dict[str, object]:
    return {field.name: getattr(arrival, field.name) for field in fields(arrival)}


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return min(number, sys.maxsize)


def _bad_request(message: str) -> web.Response:
    return _response(refusal(400, "bad_request", message))
