"""How many examples tests of generated input try: few in fast tests, all in `make test` (see `conftest.py`)."""

import hypothesis


def scaled(count: int) -> int:
    """Scale the number of examples of a test by the current profile. To be called at collection."""
    return max(1, count * hypothesis.settings().max_examples // 100)
