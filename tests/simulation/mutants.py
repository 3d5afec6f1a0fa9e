"""Deliberate defects of the product: each must be found by the simulation within 200 seeds.

A mutant is a piece of source text that is replaced when its module is imported. If the text is not there exactly
once, the product has changed: the mutant must be written anew.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

_ROOT = Path(__file__).parents[2]


class Mutant(NamedTuple):
    """One defect: in a module, the text before and after."""

    module: str
    before: str
    after: str


MUTANTS: dict[str, Mutant] = {}


class DoesNotApply(AssertionError):
    """A mutant's text is not in its module exactly once."""


def mutated(name: str) -> str:
    """Give the source of a mutant's module with the defect in it; raises DoesNotApply."""
    mutant = MUTANTS[name]
    source = (_ROOT / mutant.module.replace(".", "/")).with_suffix(".py").read_text()
    if (count := source.count(mutant.before)) != 1:
        raise DoesNotApply(f"{name}: its text is {count} times in {mutant.module}")
    return source.replace(mutant.before, mutant.after)


def apply(name: str) -> None:
    """Put a defect in, before the product is imported."""
    module = MUTANTS[name].module
    if module not in sys.modules:
        sys.meta_path.insert(0, _Finder(module, mutated(name)))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, module: str, source: str) -> None:
        self._module = module
        self._source = source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._module:
            return None
        return importlib.util.spec_from_loader(fullname, _Loader(self._source))


class _Loader(importlib.abc.InspectLoader):
    def __init__(self, source: str) -> None:
        self._source = source

    def get_source(self, fullname: str) -> str:
        return self._source

    def get_code(self, fullname: str) -> CodeType | None:
        return compile(self._source, f"<mutant of {fullname}>", "exec")

    def is_package(self, fullname: str) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)
