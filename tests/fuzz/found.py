"""Failing cases. Each is a file in `found/`, and a test from then on."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import orjson

from tests.fuzz.losable import Failure
from tests.fuzz.targets import Case

FOLDER = Path(__file__).parent / "found"


class Kept(NamedTuple):
    """A case that failed once: its target, its seed, and what happened."""

    target: str
    seed: int
    rule: str
    details: str
    case: Case


def keep(failure: Failure, case: Case, folder: Path = FOLDER) -> Path:
    """Write a failing case to its file, and give the path."""
    digest = hashlib.sha256(orjson.dumps(case, option=orjson.OPT_SORT_KEYS)).hexdigest()[:10]
    path = folder / f"{failure.target.rpartition('.')[2]}-{digest}.json"
    details = failure.details.splitlines()[0] if failure.details else ""
    kept = {**failure._asdict(), "details": details[:300], "case": case}
    folder.mkdir(exist_ok=True)
    path.write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2) + b"\n")
    return path


def read(path: Path) -> Kept:
    """Read a file of `found/`."""
    return Kept(**orjson.loads(path.read_bytes()))


def paths(folder: Path = FOLDER) -> list[Path]:
    """List the files of `found/`."""
    return sorted(folder.glob("*.json"))
