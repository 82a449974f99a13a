"""The crossing between asyncio and the compute thread: orders in, outcomes and progress out, failures at once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lego_serve.core.progress import Listen
from lego_serve.engine.lanes import LaneProgress
from lego_serve.engine.step_engine import StepEngine
from lego_serve.engine.thread import EngineThread, Watch
from lego_serve.errors import NodeError, RequestError
from lego_serve.models.loading import load_backbone
from lego_serve.models.spec import ModelSpec
from tests.engine.test_step_engine import engine_of, latents, request, run

PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def model(tiny_folder: Path):
    """lego-tiny's architecture with random weights."""
    return load_backbone(ModelSpec("tiny", str(tiny_folder), dtype="float32", max_sequence_length=0))


@pytest.fixture
async def thread(model) -> AsyncIterator[EngineThread]:
    """A thread over a fresh engine."""
    made = EngineThread(engine_of(model))
    yield made
    made.close()


async def within(work: Awaitable[Any]) -> Any:
    """What comes of something that must not hang."""
    return await asyncio.wait_for(work, PATIENCE_S)


class Failing:
    """An engine whose ``step`` raises by itself, which no single lane is to blame for."""

    def __init__(self, inner: StepEngine) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def step(self, plan: object = None) -> None:
        """Raise."""
        raise IndexError("a bookkeeping mistake")


async def test_a_lane_comes_to_the_same_latents_as_in_the_engine_alone(thread: EngineThread, model) -> None:
    """Two lanes submitted at once end with their own results, and nothing stays in hand."""
    both = await within(asyncio.gather(thread.submit(request("a", 1)), thread.submit(request("b", 2))))
    engine = engine_of(model)
    engine.add(request("a", 1))
    assert torch.equal(both[0].latents, latents(run(engine)["a"]))
    assert not torch.equal(both[0].latents, both[1].latents)
    assert thread.lanes == 0


async def test_a_refused_lane_raises_what_the_engine_raised_and_the_thread_goes_on(thread: EngineThread) -> None:
    """A request that does not fit the model is its own fault; the next one runs."""
    with pytest.raises(RequestError):
        await within(thread.submit(replace(request("a"), negative=None)))
    await within(thread.submit(request("b")))
    assert thread.is_alive


async def test_cancelling_the_await_drops_the_lane(thread: EngineThread) -> None:
    """Its key may be used again, which the engine refuses while the lane is there."""
    long = asyncio.ensure_future(thread.submit(request("a", steps=200)))
    await asyncio.sleep(0.2)
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    await within(thread.submit(request("a")))
    assert thread.lanes == 0


async def test_a_paused_lane_waits_until_it_is_resumed(thread: EngineThread) -> None:
    """Others overtake it."""
    long = asyncio.ensure_future(thread.submit(request("a", steps=100)))
    await asyncio.sleep(0.05)
    thread.pause("a")
    await within(thread.submit(request("b")))
    assert not long.done()
    thread.resume("a")
    await within(long)


async def test_a_watcher_hears_steps_previews_and_checkpoints(thread: EngineThread) -> None:
    """The first message comes after the first step that owes one; a preview has the latents' shape."""
    told: list[LaneProgress] = []
    watch = Watch(told.append, Listen(previews=1, steps=True), checkpoint_every_steps=1)
    await within(thread.submit(request("a", steps=60), watch))
    await asyncio.sleep(0)
    assert told[0].step >= 1
    assert [progress.step for progress in told] == sorted(progress.step for progress in told)
    assert any(progress.checkpoint for progress in told)
    previews = [progress.preview for progress in told if progress.preview is not None]
    assert [preview.shape[1:] for preview in previews] == [(14, 12)]
    assert all(progress.steps == 60 for progress in told)


async def test_draining_tells_fresh_checkpoints_that_another_engine_goes_on_from(thread: EngineThread, model) -> None:
    """When ``drain`` returns every watcher has the lane's state; it ends elsewhere in the same bits."""
    told: list[LaneProgress] = []
    long = asyncio.ensure_future(thread.submit(request("a", steps=60), Watch(told.append)))
    while not told:
        await asyncio.sleep(0.05)
        await within(thread.drain())
        await asyncio.sleep(0)
    here = await within(long)
    engine = engine_of(model)
    engine.add(request("a", steps=60, checkpoint=told[0].checkpoint))
    assert torch.equal(latents(run(engine)["a"]), here.latents)


async def test_when_the_engine_itself_fails_all_callers_are_told_at_once(model) -> None:
    """Lanes, drains and later requests end with NodeError or return; the thread is known to be dead."""
    thread = EngineThread(Failing(engine_of(model)))  # type: ignore[arg-type]
    callers = [asyncio.ensure_future(thread.submit(request(key))) for key in "ab"]
    for caller in callers:
        with pytest.raises(NodeError, match="IndexError"):
            await within(caller)
    await within(thread.drain())
    with pytest.raises(NodeError):
        await within(thread.submit(request("c")))
    assert not thread.is_alive
    assert thread.lanes == 0


async def test_closing_ends_what_is_in_hand(model) -> None:
    """A lane that runs and a drain that waits both end."""
    thread = EngineThread(engine_of(model))
    long = asyncio.ensure_future(thread.submit(request("a", steps=200)))
    await asyncio.sleep(0.05)
    thread.close()
    with pytest.raises(NodeError, match="shutting down"):
        await within(long)
    thread.close()
    await within(thread.drain())
