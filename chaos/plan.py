"""What happens in a run, and when. Everything follows from the seed."""

from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

StormFault = dict[str, Any]
"""A fault as the sandbox describes it."""

_STORM_EVERY = 5.0
SICK = "shop-0"
"""The one of many sites that is in trouble for most of the run."""


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One step, `at` seconds after the start.

    `pick` (0 to 1) chooses its member among those that run then. `lasts` is the length of a pause, in sessions of
    the group, or of a storm, in seconds.
    """

    at: float
    action: Literal["kill", "pause", "leave", "join", "storm", "restart", "trouble"]
    pick: float = 0.0
    lasts: float = 0.0
    faults: list[StormFault] = field(default_factory=list)

    def __str__(self) -> str:
        if self.action == "trouble":
            return f"trouble of {SICK}: {', '.join(map(_named, self.faults)) or 'none'}"
        if self.faults:
            return f"storm of {', '.join(_named(fault) for fault in self.faults)} for {self.lasts:.1f} s"
        return self.action


def make_plan(seed: int, seconds: float, kills: int, pauses: int, restarts: int) -> list[PlanStep]:
    """Spread kills, pauses, restarts, leaves and joins (a third as many as kills), and storms over the time."""
    chance = Random(f"plan {seed}")  # noqa: S311 - chance, not cryptography
    steps = []

    def spread(count: int) -> list[float]:
        return [seconds * (turn + 0.1 + 0.8 * chance.random()) / count for turn in range(count)]

    steps += [PlanStep(at, "kill", chance.random()) for at in spread(kills)]
    steps += [PlanStep(at, "pause", chance.random(), 1.2 + chance.random()) for at in spread(pauses)]
    steps += [PlanStep(at, "restart", chance.random()) for at in spread(restarts)]
    moves = max(1, kills // 3)
    steps += [PlanStep(at, "leave", chance.random()) for at in spread(moves)]
    steps += [PlanStep(at, "join") for at in spread(moves)]
    for at in spread(max(2, round(seconds / _STORM_EVERY))):
        faults = [_fault(chance) for _ in range(chance.choice((1, 1, 2)))]
        steps.append(PlanStep(at, "storm", 0.0, 0.5 + 2.5 * chance.random(), faults))
    return sorted(steps, key=lambda step: step.at)


def make_troubles(seconds: float) -> list[PlanStep]:
    """Let one site be down, then throttled, then slow, with pauses between. It works well before the end."""
    faults: list[StormFault] = [
        {"action": "status", "status": 503},
        {"action": "status", "status": 429, "retry_after": "10"},
        {"action": "delay", "seconds": 5.0},
    ]
    each = 0.8 * seconds / len(faults)
    steps = []
    for turn, fault in enumerate(faults):
        begun = 0.05 * seconds + turn * each
        steps.append(PlanStep(begun, "trouble", faults=[{**fault, "site": SICK, "times": None}]))
        steps.append(PlanStep(begun + 0.9 * each, "trouble"))
    return steps


def _fault(chance: Random) -> StormFault:
    """Make a fault for some of the requests, until it is cleared.

    Slow answers stay well below the members' read timeout and the group's session: no client can take back a
    request that it has given up and that the API accepts later.
    """
    faults: list[StormFault] = [
        {"action": "status", "status": 429, "retry_after": "1"},
        {"action": "status", "status": 503},
        {"action": "status", "status": 500},
        {"action": "reset", "after": False},
        {"action": "reset", "after": True},
        {"action": "delay", "seconds": round(0.1 + 0.9 * chance.random(), 2)},
        {"action": "truncate"},
        {"action": "mismatch"},
        {"action": "html"},
        {"action": "partial"},
    ]
    return {**chance.choice(faults), "times": None, "probability": round(0.3 + 0.6 * chance.random(), 2)}


def _named(fault: StormFault) -> str:
    detail = next((str(fault[name]) for name in ("status", "seconds") if name in fault), "")
    after = {True: "after", False: "before"}.get(fault.get("after"), "")  # type: ignore[arg-type]
    return " ".join(part for part in (str(fault["action"]), detail, after) if part)
