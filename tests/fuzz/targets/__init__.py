"""What is fuzzed: each module has `draw(random)`, `try_out(case)`, and `LIMITS`.

`draw` makes a case, the same for the same state of `random`. `try_out` raises unexpected exceptions of the real code,
and Breach if the code breaks a rule. `LIMITS` bounds one trial.
"""

from typing import Any, NamedTuple

Case = dict[str, Any]
"""One input, as JSON. Bytes are text of Latin-1."""

NAMES = ("records", "hub", "answers", "registry", "settings", "files")
"""The default targets."""


class Limits(NamedTuple):
    """The limits of one trial: processor seconds, elapsed seconds, and additional memory in MiB."""

    cpu: float = 1.0
    clock: float = 10.0
    memory: int = 256


class Breach(Exception):
    """A rule is broken. `rule` is a short sentence, the same for all cases of a kind. `details` are of the case."""

    def __init__(self, rule: str, details: str = "") -> None:
        super().__init__(rule, details)
        self.rule = rule
        self.details = details


def latin(data: bytes) -> str:
    """Write bytes as text for JSON."""
    return data.decode("latin-1")
