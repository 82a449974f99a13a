"""When a gateway looks for garbage in cycles: in quiet moments, for a look through a large heap holds requests up.

Python looks through every object that has lived for a while once a quarter of them is new: a tenth of a second for
300,000 objects, several times a minute under load.  Here what there is once a gateway is ready, which it keeps for as
long as it lives, is never looked through; the rest is where no request waits for it.
"""

import asyncio
import gc
import time
from collections.abc import Callable

YOUNG = 10_000  # new objects that are not freed yet, before the youngest are looked through; Python's own is 700
OLD = 100  # as Python counts: looks at those of middle age before one at all; its own is 10
REST_S = 30.0  # between two looks at all in quiet moments
PATIENCE_S = 300.0  # after which the moment need not be quiet
LOOK_S = 0.5


def settle_heap() -> None:
    """Take all objects there are now for what stays, and look through others less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, OLD)


def is_due(since_s: float, *, is_quiet: bool) -> bool:
    """Whether to look through all objects, so many seconds after the last time."""
    return since_s >= (REST_S if is_quiet else PATIENCE_S)


async def collect_in_quiet(
    is_quiet: Callable[[], bool],
    collect: Callable[[], object] = gc.collect,
    clock: Callable[[], float] = time.monotonic,
    look_s: float = LOOK_S,
) -> None:
    """Look through all objects when it is due, until cancelled."""
    last = clock()
    while True:
        await asyncio.sleep(look_s)
        if is_due(clock() - last, is_quiet=is_quiet()):
            collect()
            last = clock()
