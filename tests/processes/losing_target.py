"""A target of the fuzzer whose seed chooses how it fails."""

import ctypes
import time
from random import Random

from tests.fuzz.targets import Breach, Case, Limits

LIMITS = Limits(cpu=0.3, clock=5.0, memory=64)

WAYS = (
    "passes",
    "raises",
    "breaks a rule",
    "crashes",
    "spins",
    "sleeps",
    "eats memory",
    "asks for too much",
    "passes",
)


def draw(random: Random) -> Case:
    return {"padding": ["a"] * 3, "chosen": [random.choice(WAYS)]}


def try_out(case: Case) -> None:
    for way in case["chosen"]:
        print(way)  # noqa: T201 - what the tried code prints must not be taken for an answer
        match way:
            case "raises":
                raise ValueError("no")
            case "breaks a rule":
                raise Breach("a rule of the target", "its details")
            case "crashes":
                ctypes.string_at(0)
            case "spins":
                sum(range(10**12))  # in C, with the interpreter's lock held
            case "sleeps":
                time.sleep(60)
            case "eats memory":
                bytearray(b"x") * (72 << 20)
            case "asks for too much":
                bytearray(8 << 30)
