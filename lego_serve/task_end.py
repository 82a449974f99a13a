"""How asyncio tasks are brought to an end."""

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_S = 2.0  # what a task does on its way out takes less


async def end_tasks(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks, again and again until each has ended; what they raise is theirs.

    One cancel can be lost: `asyncio.wait_for` of Python 3.11 swallows one that comes as its future ends, and redis-py
    sends every command through it.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_S)
