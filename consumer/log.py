"""The log: one line for each event of the service's life, for people on a terminal, as JSON elsewhere."""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import structlog

Logger = structlog.typing.FilteringBoundLogger

_QUIET_SECONDS = 30.0
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str, form: Literal["auto", "console", "json"]) -> Logger:
    """Set the log up, to standard error, and give the logger."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logger: Logger = structlog.get_logger()
    return logger


class LibraryLog:
    """Takes librdkafka's own log lines: the interface of `logging.Logger` that confluent-kafka calls.

    A line that says the same again is passed over for a while: a broker that is away is complained of at
    every try to reach it. `clock` is in seconds.
    """

    def __init__(self, logger: Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._quiet_until: dict[tuple[str, str], float] = {}

    def log(self, level: int, _format: str, facility: str, client: str, message: str) -> None:
        """Pass one line on; `level` as in `logging`."""
        if facility == "CONFWARN" and "property and will be ignored" in message:
            return  # all clients are given all properties, and each takes its own
        # The thread's name, with the broker's, comes first; what follows has varying figures.
        said, now = (facility, message.partition("]")[0]), self._clock()
        if now >= self._quiet_until.get(said, 0.0):
            self._quiet_until[said] = now + _QUIET_SECONDS
            self._logger.log(level, "librdkafka", facility=facility, client=client, message=message)


class NoLibraryLog(LibraryLog):
    """Drops librdkafka's lines: for commands that say what is wrong in a sentence of their own."""

    def __init__(self) -> None:
        """Need nothing."""

    def log(self, *_: object) -> None:
        """Drop a line."""
