"""The sandbox's server: it runs the application in a thread, or for as long as a command does."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from aiohttp import web

from jirafe.sandbox.app import application
from jirafe.sandbox.state import Sandbox

_SHUTDOWN_SECONDS = 0.5


@asynccontextmanager
async def _running(sandbox: Sandbox, host: str, port: int) -> AsyncIterator[str]:
    """Serve on host and port (0: a free one) and yield the base URL of the API. Raises OSError."""
    runner = web.AppRunner(application(sandbox), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        name = f"[{host}]" if ":" in host else host
        yield f"http://{name}:{runner.addresses[0][1]}/v2"
    finally:
        await runner.cleanup()


def serve(sandbox: Sandbox, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is told the API's base URL. To be called from the main thread.

    Raises OSError if the address cannot be served, for instance because the port is taken.
    """

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with _running(sandbox, host, port) as url:
            ready(url)
            await stop.wait()

    asyncio.run(run())


@dataclass(frozen=True)
class _Serving:
    """A server that runs, and how to end it from another thread."""

    url: str
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event


class SandboxServer:
    """A context in which a thread serves the sandbox on 127.0.0.1; port 0 is a free one.

    Entering it may block for a moment, and raises OSError if the port is taken.
    """

    def __init__(self, sandbox: Sandbox, port: int = 0) -> None:
        self.sandbox = sandbox
        self._port = port
        self._started: Future[_Serving] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve()), name="jirafe-sandbox", daemon=True
        )

    @property
    def url(self) -> str:
        """The API's base URL, for instance http://127.0.0.1:8080/v2."""
        return self._started.result().url

    async def _serve(self) -> None:
        stop = asyncio.Event()
        try:
            async with _running(self.sandbox, "127.0.0.1", self._port) as url:
                self._started.set_result(_Serving(url, asyncio.get_running_loop(), stop))
                await stop.wait()
        except OSError as error:
            self._started.set_exception(error)

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.result()
        return self

    def __exit__(self, *_: object) -> None:
        run = self._started.result()
        run.loop.call_soon_threadsafe(run.stop.set)
        self._thread.join()
