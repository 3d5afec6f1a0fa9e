"""`jirafe-consumer`, also as `python -m consumer`."""

import os
import signal
import sys
from types import FrameType

_INTERRUPTED = 130


def main() -> None:
    """Run the command, and exit with its status.

    The libraries of all commands take long to load, and a command may be told to stop meanwhile. It has nothing to
    finish then.
    """
    is_service = "run" in sys.argv

    def end(_number: int, _frame: FrameType | None) -> None:
        os._exit(0 if is_service else _INTERRUPTED)

    before = {signal.SIGINT: signal.signal(signal.SIGINT, end)}
    if is_service:
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, end)
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from consumer.cli.main import main as command  # noqa: PLC0415 - only now

    for number, handler in before.items():
        signal.signal(number, handler)
    command()


if __name__ == "__main__":
    main()
