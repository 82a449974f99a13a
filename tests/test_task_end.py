"""How asyncio tasks are brought to an end."""

import asyncio

from lego_serve.task_end import AGAIN_S, end_tasks
from tests.support.clocks import in_no_time


@in_no_time
async def test_a_task_that_loses_its_first_cancel_ends_all_the_same() -> None:
    """As one does whose library sends through `asyncio.wait_for`."""
    lost = 0

    async def deaf() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                lost += 1
                if lost > 2:
                    raise

    task = asyncio.ensure_future(deaf())
    await asyncio.sleep(0)
    async with asyncio.timeout(3 * AGAIN_S):
        await end_tasks([task])
    assert task.cancelled()
    assert lost == 3


@in_no_time
async def test_a_task_has_time_for_what_it_does_on_its_way_out() -> None:
    """It is not cancelled again at once."""
    kept: list[str] = []

    async def tidy() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(AGAIN_S / 2)
            kept.append("tidied")

    task = asyncio.ensure_future(tidy())
    await asyncio.sleep(0)
    await end_tasks([task])
    assert kept == ["tidied"]


@in_no_time
async def test_what_has_ended_is_left_alone_and_what_is_raised_is_its_own() -> None:
    """Nothing is raised at whoever ends tasks."""

    async def failing() -> None:
        raise ValueError("its own")

    task = asyncio.ensure_future(failing())
    await asyncio.sleep(0)
    await end_tasks([task])
    assert isinstance(task.exception(), ValueError)
