"""What is fuzzed: each module has `draw(random)`, `try_out(case)`, and `LIMITS`.

`draw` makes a case, the same for the same state of `random`. `try_out` raises whatever the real code raises and
should not, and Breach where it breaks a rule. `LIMITS` bounds one trial.
"""

from typing import Any, NamedTuple

Case = dict[str, Any]
"""One input, as JSON; bytes are text of Latin-1."""

NAMES = ("records", "hub", "answers", "registry", "settings", "files")
"""The targets that are hunted by default."""


class Limits(NamedTuple):
    """What one trial may take: seconds of the processor, seconds by the clock, and MiB beside what is there."""

    cpu: float = 1.0
    clock: float = 10.0
    memory: int = 256


class Breach(Exception):
    """A rule is broken: `rule` is a short sentence that is the same for all cases of a kind, `details` are the case's."""

    def __init__(self, rule: str, details: str = "") -> None:
        super().__init__(rule, details)
        self.rule = rule
        self.details = details


def latin(data: bytes) -> str:
    """Write bytes as text that JSON can hold."""
    return data.decode("latin-1")
