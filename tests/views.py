"""A lane as the engine shows it, and as the status shows it. Tests change the fields that they need."""

from consumer.engine.ports import LaneView, MemberView
from consumer.engine.records import Partition
from consumer.monitor.status import LaneStatus

IDLE = LaneView(
    partition=Partition("orders", 0),
    epoch=1,
    waiting=0,
    in_flight=0,
    finished=0,
    held_bytes=0,
    is_paused=False,
    oldest=None,
    newest=None,
    committed=None,
    waits_for=None,
    cause=None,
    message=None,
    held=False,
    due=None,
)
QUIET = MemberView(
    now=100.0, lanes=(IDLE,), gates={}, flooded=(), commit_trouble=None, losses=(), refusal=None, is_stopping=False
)
LANE_STATUS = LaneStatus(
    partition=Partition("orders", 0),
    state="site",
    position=5,
    lag=7,
    waiting=1,
    in_flight=2,
    finished=3,
    held_bytes=40,
    is_paused=False,
    waits_for=None,
    message=None,
    due=None,
    oldest_since=None,
)
