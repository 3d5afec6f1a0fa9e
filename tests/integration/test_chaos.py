"""The short form of `make chaos`."""

import pytest

from chaos.run import parsed, run

SEED = 4


@pytest.mark.timeout(110)
def test_every_guarantee_holds_under_chaos() -> None:
    assert run(parsed(["--messages", "1500", "--kills", "3", "--pauses", "1", "--seed", str(SEED)])) == 0
