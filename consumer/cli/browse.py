"""`browse`: the whole group, and single records, in a browser."""

import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

import click
import orjson

from consumer import app
from consumer.admin.deployment import Deployment
from consumer.admin.lag import Looker
from consumer.admin.letters import Letter
from consumer.admin.story import LOOKED_WITHIN, contents, recent_letters, tell
from consumer.cli.usage import check_consumed, stop_on_signal
from consumer.engine.records import Place
from consumer.errors import KafkaUnusable, UsageError
from consumer.monitor.listener import Listener, Names, Request, content_policy
from consumer.settings import SettingsSource
from schemas.codec import Codec, RegistryUnavailable

_LOOPBACK = "127.0.0.1"
_PATIENCE = 3 * LOOKED_WITHIN


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8001,
    show_default=True,
    metavar="PORT",
    help="The port to listen on; 0 for any free one.",
)
@click.pass_obj
def browse(source: SettingsSource, port: int) -> int:
    """Look at the whole group, and at single records, in a browser.

    The page of the group shows its members, the lag of each partition and the last dead letters. The page of a
    record shows its content, the events that it would send, its results and its dead letters. Reads Kafka with your
    settings, and changes nothing. Listens on the loopback address only. Ctrl-C stops it.

    \b
    Example:
      jirafe-consumer browse
    """
    loaded = source.load()
    pages = _Pages(app.make_deployment(loaded), app.make_codec(loaded), loaded.parameters)
    try:
        listener = Listener(_LOOPBACK, port, pages.answer, patience=_PATIENCE)
    except OSError as error:
        raise UsageError(f"can't listen on {_LOOPBACK}:{port}: {error.strerror or error}; see --port.") from None
    stop = stop_on_signal()
    listener.start()
    click.echo(f"Open {listener.url} in a browser. Press Ctrl-C to stop.")
    stop.wait()
    listener.close()
    return 0


class _Pages:
    """Answers the browser. Questions to Kafka run one at a time, because each makes its own clients."""

    def __init__(self, deployment: Deployment, codec: Codec, parameters: Mapping[str, str]) -> None:
        self._deployment = deployment
        self._codec = codec
        self._parameters = parameters
        self._page = files("consumer.cli").joinpath("browse.html").read_bytes()
        self._policy = content_policy(self._page.decode())
        self._names = Names(_LOOPBACK)
        self._asking = threading.Lock()

    def answer(self, request: Request) -> None:
        """Answer one request, on its thread."""
        asked = urlsplit(request.path)
        if not self._names.is_ours(request):
            # A foreign page may have made its own name resolve to this address.
            request.send(
                "text/plain",
                b"Open the page by its IP address, or as localhost.\n",
                status=HTTPStatus.MISDIRECTED_REQUEST,
            )
        elif asked.path == "/":
            request.send("text/html; charset=utf-8", self._page, {"Content-Security-Policy": self._policy})
        elif asked.path == "/group.json":
            self._tell(request, self._group)
        elif asked.path == "/record.json":
            self._tell(request, lambda: self._record(parse_qs(asked.query).get("place", [""])[0]))
        else:
            request.send_error(HTTPStatus.NOT_FOUND)

    def _tell(self, request: Request, ask: Callable[[], dict[str, Any]]) -> None:
        try:
            with self._asking:
                told, status = ask(), HTTPStatus.OK
        except (KafkaUnusable, RegistryUnavailable) as error:
            told, status = {"error": str(error)}, HTTPStatus.SERVICE_UNAVAILABLE
        except UsageError as error:
            told, status = {"error": str(error)}, HTTPStatus.BAD_REQUEST
        request.send("application/json", orjson.dumps(told, default=str), status=status)

    def _group(self) -> dict[str, Any]:
        name = self._deployment.cluster.group
        look = Looker(self._deployment).look()
        recent = recent_letters(self._deployment)
        letters = [_letter(each) for each in recent.letters]
        return {**look.as_json(name), "letters": letters, "hidden_letters": recent.hidden}

    def _record(self, text: str) -> dict[str, Any]:
        try:
            place = Place.parse(text.strip())
        except ValueError as error:
            raise UsageError(f"{error}.") from None
        check_consumed(self._deployment, place.topic)
        story = tell(self._deployment, self._codec, place)
        return {
            "place": str(story.place),
            "reason": story.reason,
            "is_whole": story.is_whole,
            "results": [{"at": at, **result} for at, result in story.results],
            "letters": [_letter(each) for each in story.letters],
            **(contents(story.record, self._codec, self._parameters) if story.record else {}),
        }


def _letter(letter: Letter) -> dict[str, Any]:
    return {
        "place": str(letter.of),
        "letter": str(letter.place),
        "at": letter.failed_at,
        "kind": letter.kind,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "redrives": letter.redrives,
        "replay": letter.replay,
    }
