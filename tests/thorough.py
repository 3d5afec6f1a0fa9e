"""How much tests of generated input try: a part as fast tests, all of it in `make test` (see `conftest.py`)."""

import hypothesis


def scaled(count: int) -> int:
    """Scale what a test tries by the profile in force; for use at collection, when it is known."""
    return max(1, count * hypothesis.settings().max_examples // 100)
