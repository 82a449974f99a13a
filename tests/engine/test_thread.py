"""The crossing between asyncio and the compute thread: commands in, outcomes and progress out, failures at once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lego_serve.core.jobs.messages import LaneProgress
from lego_serve.core.jobs.progress import PREPARING, StreamOptions
from lego_serve.core.jobs.recovery import Recovery, Retry
from lego_serve.core.scheduling.batching import Lane, StepBatcher, StepLimits
from lego_serve.core.scheduling.retry import DEATHS_ALONE
from lego_serve.engine.lane_listener import LaneListener
from lego_serve.engine.lane_state import AdapterUse
from lego_serve.engine.step_engine import StepEngine
from lego_serve.engine.thread import EngineThread
from lego_serve.errors import NodeError, RequestError
from lego_serve.models.loading import load_backbone
from lego_serve.models.lora.adapter import Adapter
from lego_serve.models.registry import ModelSpec
from tests.support.clocks import until
from tests.support.engine.engines import (
    Clock,
    Failing,
    Faulty,
    Gated,
    Noting,
    engine_of,
    latents,
    request,
    run,
)

PATIENCE_S = 60.0
FOR_EVER = 20_000  # steps, which take longer than any machine is held up


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


@pytest.fixture
def gated(model) -> Gated:
    """A fresh engine."""
    return Gated(engine_of(model))


@pytest.fixture
async def held(gated: Gated) -> AsyncIterator[EngineThread]:
    """A thread over it."""
    made = EngineThread(gated)  # type: ignore[arg-type]
    yield made
    gated.gate.set()
    made.close()


def by_turns(lanes: Sequence[Lane], now: float, pace: object) -> list[int]:
    """An order in which the lane that has had the fewest steps is next."""
    return sorted(range(len(lanes)), key=lambda index: lanes[index].next_step)


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


async def test_cancelling_the_await_drops_the_lane(held: EngineThread, gated: Gated) -> None:
    """Its key may be used again, which the engine refuses while the lane is there."""
    long = asyncio.ensure_future(held.submit(request("a", steps=200)))
    await until(lambda: gated.steps == 3)
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    gated.gate.set()
    await within(held.submit(request("a")))
    assert held.lanes == 0


async def test_a_paused_lane_waits_until_it_is_resumed(held: EngineThread, gated: Gated) -> None:
    """Others overtake it."""
    long = asyncio.ensure_future(held.submit(request("a", steps=100)))
    await until(lambda: gated.steps == 3)
    held.pause("a")
    gated.gate.set()
    await within(held.submit(request("b")))
    assert not long.done()
    held.resume("a")
    await within(long)


async def test_a_watcher_hears_steps_previews_and_checkpoints(
    thread: EngineThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first message comes after the first step that owes one; a preview has the latents' shape."""
    monkeypatch.setattr("lego_serve.engine.thread.time", SimpleNamespace(monotonic=Clock()))  # of steps of 0.1 s
    messages: list[LaneProgress] = []
    listener = LaneListener(messages.append, StreamOptions(previews=1, steps=True), checkpoint_every_steps=1)
    await within(thread.submit(request("a", steps=60), listener))
    await asyncio.sleep(0)
    assert messages[0].step >= 1
    assert [progress.step for progress in messages] == sorted(progress.step for progress in messages)
    assert any(progress.checkpoint for progress in messages)
    previews = [progress.preview for progress in messages if progress.preview is not None]
    assert [preview.shape[1:] for preview in previews] == [(14, 12)]
    assert all(progress.steps == 60 for progress in messages)


async def test_draining_tells_fresh_checkpoints_that_another_engine_goes_on_from(
    held: EngineThread, gated: Gated, model
) -> None:
    """When ``drain`` returns every watcher has the lane's state; it ends elsewhere in the same bits."""
    messages: list[LaneProgress] = []
    long = asyncio.ensure_future(held.submit(request("a", steps=60), LaneListener(messages.append)))
    await until(lambda: gated.steps == 3)
    draining = asyncio.ensure_future(held.drain())
    await asyncio.sleep(0)
    gated.gate.set()
    await within(draining)
    # That it has begun, and then as the order came before the fourth or in it.
    assert [message.step for message in messages] in ([1, 3], [1, 4])
    here = await within(long)
    engine = engine_of(model)
    engine.add(request("a", steps=60, checkpoint=messages[1].checkpoint))
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
    long = asyncio.ensure_future(thread.submit(request("a", steps=FOR_EVER)))
    await asyncio.sleep(0.05)
    thread.close()
    with pytest.raises(NodeError, match="shutting down"):
        await within(long)
    thread.close()
    await within(thread.drain())


async def test_a_suspect_is_not_blamed_for_what_comes_after_its_step(model) -> None:
    """Two suspects take turns, alone: when the second is reported as next, the first has been reported as passed.

    However often the second then takes the replica down, the first is not refused for it.
    """
    messages: list[tuple[str, LaneProgress]] = []
    thread = EngineThread(StepEngine(*model, StepBatcher(by_turns, StepLimits(float("inf"))), Clock()))
    try:
        both = [
            thread.submit(
                request(key, suspect_steps=3), LaneListener(lambda message, key=key: messages.append((key, message)))
            )
            for key in "ab"
        ]
        await within(asyncio.gather(*both))
    finally:
        thread.close()
    starts = [
        (at, key) for at, (key, message) in enumerate(messages) if message.is_starting and message.step != PREPARING
    ]
    assert any(one[1] != other[1] for one, other in pairwise(starts)), "they took no turns"
    for at, key in starts:
        recovery = Recovery(5)
        for _ in range(DEATHS_ALONE):
            for other, message in messages[:at]:
                if other != key:
                    recovery.note_progress(0, message.step, message.checkpoint, is_starting=message.is_starting)
            assert isinstance(recovery.after_loss(), Retry)


async def test_a_suspect_is_announced_before_it_is_made_ready(model) -> None:
    """For that, too, may take the replica down; of a lane that is no suspect only that it has begun."""
    messages: list[LaneProgress | None] = []
    loop = asyncio.get_running_loop()

    def note() -> None:
        loop.call_soon_threadsafe(messages.append, None)

    thread = EngineThread(Noting(engine_of(model), note))  # type: ignore[arg-type]
    try:
        await within(thread.submit(request("a"), LaneListener(messages.append)))
        assert messages == [None, LaneProgress(0, 1, 4, messages[1].eta_s, is_report=False)]  # type: ignore[union-attr]
        messages.clear()
        await within(thread.submit(request("b", suspect_steps=1), LaneListener(messages.append)))
    finally:
        thread.close()
    ready, added, through, *steps = messages
    assert ready == LaneProgress(0, PREPARING, 4, is_starting=True)
    assert added is None
    assert through == LaneProgress(0, 0, 4, is_report=False)
    assert [(message.step, message.is_starting) for message in steps if message is not None] == [(0, True), (1, False)]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_lane_that_is_a_suspect_to_its_end_ends_as_any_other(model, fails: bool) -> None:
    """With its image or its own error; it is not left as one that is about to run, and the thread goes on."""
    messages: list[LaneProgress] = []
    thread = EngineThread(engine_of((Faulty(model[0], poison=5.0), model[1])))
    mine = request("a", suspect_steps=9, guidance=5.0 if fails else 4.0)
    try:
        if fails:
            with pytest.raises(NodeError, match="RuntimeError"):
                await within(thread.submit(mine, LaneListener(messages.append)))
        else:
            await within(thread.submit(mine, LaneListener(messages.append)))
        assert (messages[-1].is_starting, messages[-1].step) == (False, 0 if fails else 4)
        await within(thread.submit(request("b")))
    finally:
        thread.close()


async def test_draining_passes_over_a_lane_that_has_just_ended(thread: EngineThread) -> None:
    """Its adapters were wrong, and the drain was ordered before its end was reported."""
    long = asyncio.ensure_future(thread.submit(request("a", steps=FOR_EVER), LaneListener(lambda message: None)))
    await asyncio.sleep(0.05)
    with thread._wake:  # so that both commands are taken at once
        thread.adapt("a", (AdapterUse(Adapter("x", "0" * 64, {}), float("nan")),))
        draining = asyncio.ensure_future(thread.drain())
        await asyncio.sleep(0)
    await within(draining)
    with pytest.raises(RequestError, match="scale of adapter x"):
        await within(long)
    assert thread.is_alive


async def test_a_librarys_words_are_in_the_log_and_not_in_the_answer(model, caplog: pytest.LogCaptureFixture) -> None:
    """They may hold a path, or another's input; the lane's error has the type alone."""

    def fail() -> None:
        raise OSError("/folder/of/the/operator is full")

    thread = EngineThread(Noting(engine_of(model), fail))  # type: ignore[arg-type]
    try:
        with pytest.raises(NodeError) as raised:
            await within(thread.submit(request("a")))
    finally:
        thread.close()
    assert raised.value.message == "The lane could not start: OSError."
    assert "/folder/of/the/operator" in caplog.text
