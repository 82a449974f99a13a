"""ControlNets elsewhere: the residuals of one here, whatever is lost, forgotten or asked for at the same time."""

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.errors import NodeError
from lego_serve.models.controlnet.messages import PromptImageCache
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.nodes.controlnets import remote
from lego_serve.serving.nodes.controlnets.node import ControlNetNode
from lego_serve.serving.nodes.options import ControlNetOptions
from tests.support.clocks import until
from tests.support.remote_controlnets import Wire, lane, source_of, step, widths


@pytest.mark.parametrize("per_block", [False, True])
async def test_a_lost_call_is_made_again_to_the_same_bits(
    base: ModelSpec, spec: ModelSpec, per_block: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the images and prompts that whoever answers next has not seen; else these are sent once."""
    monkeypatch.setattr(remote, "CONTROLNET_PAUSE_S", 0.01)
    here = widths(base, spec)
    wire = Wire(ControlNetNode(spec, ControlNetOptions(base)), lost=2)
    there = source_of(wire, here.spec, per_block=per_block)
    wanted = await step(here, lane(here, 1), lane(here, 2, 12))
    lanes = [lane(there, 1), lane(there, 2, 12)]
    for _ in range(2):
        assert all(map(torch.equal, await step(there, *lanes), wanted))
    assert wire.sent == [6, 6, 6, 0]


async def test_what_a_replica_has_forgotten_is_sent_again(base: ModelSpec, spec: ModelSpec) -> None:
    """One that took another's place without a call being lost says what it lacks."""
    here = widths(base, spec)
    wire = Wire(ControlNetNode(spec, ControlNetOptions(base)))
    there = source_of(wire, here.spec)
    wanted = await step(here, lane(here, 1))
    mine = lane(there, 1)
    await step(there, mine)
    wire.node._cache = PromptImageCache(wire.node._net)
    assert all(map(torch.equal, await step(there, mine), wanted))
    assert wire.sent == [3, 0, 3]


async def test_replicas_that_answer_by_turns_get_what_each_of_them_lacks(base: ModelSpec, spec: ModelSpec) -> None:
    """One knows the prompts, the other the new image; what either lacks is sent until somebody has both."""

    class Turns(Wire):
        async def run(self, call: NodeCall[Any]) -> NodeResult[Any]:
            self.node, self.other = self.other, self.node
            return await super().run(call)

    here, wire = widths(base, spec), Turns(ControlNetNode(spec, ControlNetOptions(base)))
    wire.other = ControlNetNode(spec, ControlNetOptions(base))
    there = source_of(wire, here.spec)
    await step(there, lane(there, 1))
    images = [replace(lane(source, 1), image=lane(source, 2).image) for source in (there, here)]
    torch.testing.assert_close(await step(there, images[0]), await step(here, images[1]), rtol=0, atol=0)


async def test_controlnets_of_a_step_run_at_the_same_time(base: ModelSpec, spec: ModelSpec) -> None:
    """Both are begun before either is waited for: here neither is answered before the other has come."""

    class Together(Wire):
        async def run(self, call: NodeCall[Any]) -> NodeResult[Any]:
            both.running += 1
            await until(lambda: both.running == 2)
            return await super().run(call)

    both = SimpleNamespace(running=0)
    wire = Together(ControlNetNode(spec, ControlNetOptions(base)))
    sources = [source_of(wire, widths(base, spec).spec) for _ in range(2)]
    steps = [source.start([lane(source, 1)]) for source in sources]
    for residuals in steps:
        assert await asyncio.to_thread(residuals.block, 0) is not None


async def test_steps_of_several_backbones_run_in_one_pass_to_the_bits_of_each(base: ModelSpec, spec: ModelSpec) -> None:
    """One of them bad, which fails alone."""
    here = widths(base, spec)
    node = ControlNetNode(spec, ControlNetOptions(base))
    sources = [source_of(Wire(node), here.spec) for _ in range(4)]
    lanes = [lane(source, seed, 12 + 4 * (seed % 2)) for seed, source in enumerate(sources)]
    lanes[3] = replace(lanes[3], latents=torch.zeros(3, 16, 16))
    results = await asyncio.gather(
        *(step(s, each) for s, each in zip(sources, lanes, strict=True)), return_exceptions=True
    )
    assert isinstance(results[3], NodeError)
    for seed, residuals in enumerate(results[:3]):
        assert isinstance(residuals, list)
        assert all(map(torch.equal, residuals, await step(here, lane(here, seed, 12 + 4 * (seed % 2)))))


async def test_one_that_does_not_answer_fails_its_lanes_in_time(base: ModelSpec, spec: ModelSpec) -> None:
    """Nobody waits for ever."""
    there = source_of(
        Wire(ControlNetNode(spec, ControlNetOptions(base)), delay_s=9), widths(base, spec).spec, timeout_s=0.2
    )
    with pytest.raises(NodeError) as late:
        await step(there, lane(there, 1))
    assert late.value.code == "controlnet_late"


@pytest.mark.parametrize("per_block", [False, True])
async def test_lanes_hear_when_a_pass_elsewhere_ran(base: ModelSpec, spec: ModelSpec, per_block: bool) -> None:
    """By the time they have its last residual, and it lies within the time they waited."""
    there = source_of(Wire(ControlNetNode(spec, ControlNetOptions(base))), widths(base, spec).spec, per_block=per_block)
    heard: list[tuple[float, float]] = []
    one, other = (replace(lane(there, seed), on_pass=lambda *ran: heard.append(ran)) for seed in (1, 2))
    asked = time.time()
    await step(there, one, other)
    assert len(heard) == 2
    assert all(asked <= began < ended <= time.time() for began, ended in heard)
