"""The log: one line for each event, as text on a terminal, and as JSON elsewhere."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from consumer.printing import Console, unguarded, visible

Logger = structlog.typing.FilteringBoundLogger

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str) -> Logger:
    """Configure the log, which goes to standard error, and return the logger."""
    console = Console(to_stderr=True)
    has_colors = console.color_system is not None and not console.no_color  # obeys NO_COLOR and TERM
    rendered: list[Any] = (
        [_made_visible, structlog.dev.ConsoleRenderer(colors=has_colors)]
        if console.is_terminal
        else [structlog.processors.JSONRenderer()]  # it escapes all that is not ASCII
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *rendered,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(unguarded(sys.stderr)),
        cache_logger_on_first_use=True,
    )
    logger: Logger = structlog.get_logger()
    return logger


def _made_visible(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape what a terminal would obey. Only the renderer itself may send colors."""
    return {name: _on_one_line(name, value) if isinstance(value, str) else value for name, value in event.items()}


def _on_one_line(name: str, text: str) -> str:
    """Escape a text, and keep it on one line so that it can't fake other log lines. A traceback keeps its lines."""
    return visible(text) if name == "exception" else visible(text).replace("\n", "\\n")
