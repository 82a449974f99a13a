"""When a gateway looks for garbage: its own objects never, others in quiet moments."""

import asyncio
import subprocess
import sys

import pytest

from lego_serve.process.heap import LOOK_S, PATIENCE_S, REST_S, collect_in_quiet, is_due
from tests.support.clocks import until

SETTLED = """
import gc
from lego_serve.process.heap import settle_heap
kept = [[each] for each in range(300_000)]
settle_heap()
looked = []
gc.callbacks.append(lambda phase, about: looked.append(about["generation"]) if phase == "stop" else None)
for each in range(60_000):
    passing = [[each], [each]]
    passing.append(passing)
print(gc.get_freeze_count() > 300_000, bool(looked), 2 in looked, len(gc.get_objects()) < 200_000)
"""


def test_what_a_process_has_when_it_is_ready_is_not_looked_through_again() -> None:
    """Garbage that comes later is freed all the same, and no look at everything holds requests up."""
    done = subprocess.run([sys.executable, "-c", SETTLED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "False", "True"]


@pytest.mark.parametrize(
    ("since_s", "is_quiet", "due"),
    [(REST_S - 1, True, False), (REST_S, True, True), (REST_S, False, False), (PATIENCE_S, False, True)],
)
def test_all_is_looked_through_in_a_quiet_moment_or_after_long(since_s: float, is_quiet: bool, due: bool) -> None:
    """Not twice at once, and under load that never ends a few times an hour."""
    assert is_due(since_s, is_quiet=is_quiet) is due


async def test_a_gateway_looks_as_often_as_it_is_due() -> None:
    """After each look the time begins anew."""
    looks, now = list[float](), 0.0

    def clock() -> float:
        nonlocal now
        now += LOOK_S
        return now

    looking = asyncio.ensure_future(collect_in_quiet(lambda: True, lambda: looks.append(now), clock, look_s=0.0))
    await until(lambda: len(looks) >= 3)
    looking.cancel()
    assert all(later - earlier >= REST_S for earlier, later in zip([0.0, *looks], looks, strict=False))
