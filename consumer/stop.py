"""A flag by which a signal stops a command."""

import math
import time

_LOOK = 0.1


class Stop:
    """Whether a command is asked to stop.

    A signal handler may call `ask` at any moment, because it takes no lock. `threading.Event` takes one: if the
    handler interrupts `wait` on the same thread, `set` never returns. An exception raised by the handler could be
    lost: Python and the libraries drop those that arrive in callbacks and destructors.
    """

    def __init__(self) -> None:
        self.is_asked = False

    def ask(self) -> None:
        """Ask the command to stop as soon as possible."""
        self.is_asked = True

    def wait(self, seconds: float = math.inf) -> bool:
        """Block for some seconds, or until it is asked. Returns whether it is asked."""
        end = time.monotonic() + seconds
        while not self.is_asked and (left := end - time.monotonic()) > 0:
            time.sleep(min(_LOOK, left))
        return self.is_asked
