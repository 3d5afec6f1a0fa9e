"""What goes wrong in a run, and when: a list drawn by the seed, so that a part of it can be tried alone."""

from dataclasses import dataclass
from random import Random

from tests.simulation.clients import CALLS

HOWS = {
    **dict.fromkeys(
        CALLS,
        (
            "lost",
            "unanswered",
            "slow",
            "answered late",
            "refused",
            "killed before",
            "killed after",
            "frozen before",
            "frozen after",
        ),
    ),
    "api": (
        "lost",
        "unanswered",
        "503",
        "429",
        "mismatch",
        "partial",
        "partial",
        "slow",
        "arrives late",
        "answered late",
        "killed before",
        "frozen after",
    ),
    "registry": ("lost", "killed before"),
    "queue": ("full",),
    "adding": ("never",),
}
"""How each call may go wrong."""

EVENTS = (
    "kill",
    "stop",
    "stop twice",
    "freeze",
    "replaced while frozen",
    "cut",
    "brokers down",
    "group moves",
    "transactions move",
    "disk full",
    "results must be small",
    "site down",
    "other site down",
    "other site throttled",
    "token changed",
    "registry down",
    "clock jumps",
    "reload",
    "new credentials for Kafka",
    "retention",
    "partition added",
    "transaction left open",
    "foreign offset metadata",
)
"""What may happen independently of calls."""

_CREATED_AGAIN = 0.4
_RARE = {"killed before": 0.2, "killed after": 0.3, "frozen before": 0.2, "frozen after": 0.3, "never": 0.2}
_WEIGHTS = {
    "api": 6.0,
    "end": 2.0,
    "offsets": 2.0,
    "produce": 2.0,
    "fetch": 2.0,
    "heartbeat": 2.0,
    "queue": 1.0,
    "committed": 0.5,
    "position": 0.5,
    "join": 0.5,
    "init": 0.2,
    "leave": 0.1,
    "registry": 0.3,
    "adding": 0.3,
    "ends": 0.3,
    "describe": 0.3,
}
# The weights follow the frequency of the calls.


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: its start, its kind, its member (a slot), and its duration in seconds.

    If `call` is set, the fault waits for the member's next such call, and says how it goes wrong.
    """

    at: float
    what: str
    member: int
    seconds: float
    call: str | None = None

    def __str__(self) -> str:
        where = f"{self.call} of member {self.member}" if self.call else f"member {self.member}"
        return f"{self.at:6.2f}  {self.what} ({where}, {self.seconds:.1f} s)"


def draw(seed: int, members: int, duration: float) -> list[Fault]:
    """Draw the faults of a run. Each run has only some kinds, so that runs differ."""
    chance = Random(f"{seed} faults")  # noqa: S311 - chance, not cryptography
    calls = {call: weight for call, weight in _weighted(chance).items() if chance.random() < 0.7}
    events = [event for event in EVENTS if chance.random() < 0.4]
    faults: list[Fault] = []
    if calls:
        for _ in range(chance.choice((20, 80, 200, 400))):
            call = chance.choices(list(calls), list(calls.values()))[0]
            hows = HOWS[call]
            how = chance.choices(hows, [_RARE.get(how, 1.0) for how in hows])[0]
            faults.append(_fault(chance, duration, members, how, call))
    if events:
        count = chance.choice((1, 4, 10))
        faults += [_fault(chance, duration, members, chance.choice(events), None) for _ in range(count)]
    again = Random(f"{seed} created again")  # noqa: S311 - chance, not cryptography
    if again.random() < _CREATED_AGAIN:
        faults += [
            _fault(again, duration, members, "topic created again", None) for _ in range(again.randint(1, 4))
        ]
        faults += _created_unnoticed(again, again.randrange(members))
    return sorted(faults, key=lambda fault: fault.at)


def _created_unnoticed(chance: Random, member: int) -> list[Fault]:
    """Recreate a topic while nothing is committed yet. Its reader ends before it gets the topic's id."""
    created = round(chance.uniform(0.5, 4.0), 3)
    ends = round(created + chance.uniform(0.1, 1.0), 3)
    return [
        Fault(0.0, "answered late", member, 3.5, "describe"),
        Fault(created, "topic created again", member, 0.3),
        Fault(ends, "stop", member, 0.3),
    ]


def _weighted(chance: Random) -> dict[str, float]:
    return {call: _WEIGHTS[call] * chance.choice((0.3, 1.0, 3.0)) for call in HOWS}


def _fault(chance: Random, duration: float, members: int, what: str, call: str | None) -> Fault:
    if what.startswith("frozen") or what in ("freeze", "replaced while frozen"):
        seconds = chance.choice((0.1, 0.3, 1.0, 3.5, 7.0))
    elif call == "end":
        seconds = chance.choice((0.1, 1.0, 3.5, 5.0))  # some are longer than a commit may take
    elif call:
        seconds = chance.choice((0.02, 0.05, 0.1, 0.1, 0.3, 1.0, 3.5))
    else:
        seconds = chance.choice((0.3, 1.0, 2.0, 5.0))
    return Fault(round(chance.uniform(0, duration), 3), what, chance.randrange(members), seconds, call)
