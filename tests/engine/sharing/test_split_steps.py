"""A lane whose steps run on two replicas: its result counts them and has the bits of one replica."""

import asyncio
from pathlib import Path

import pytest
import torch

from lego_serve.core.cluster.parallelism import ParallelRule
from lego_serve.core.nodes.computed import ComputedAs
from lego_serve.core.nodes.requests import HelperAddress
from lego_serve.core.placement.branch_window import BranchWindow
from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.ordering import fifo
from lego_serve.engine.sharing.branch_helper import BranchHelper
from lego_serve.engine.sharing.branch_splitter import BranchSplitter
from lego_serve.engine.sharing.compute_turns import ComputeTurns
from lego_serve.engine.step_engine import StepEngine
from lego_serve.engine.thread import EngineThread
from lego_serve.models.loading import load_backbone
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.registry import ModelSpec
from lego_serve.models.sampling import FlowMatchTables
from tests.support.clocks import until
from tests.support.engine.engines import Clock, alone, latents, request, run

HERE = ComputedAs("weights", "torch.float32", "dense", "this machine")


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> tuple[Backbone, FlowMatchTables]:
    """lego-tiny's architecture with random weights."""
    return load_backbone(ModelSpec("m", str(tiny_folder), dtype="float32", max_sequence_length=0))


def test_a_result_counts_the_steps_that_two_replicas_took(model: tuple[Backbone, FlowMatchTables]) -> None:
    """All of a lane that is alone; none of two that share their steps, whose helper is never asked."""
    helper = BranchHelper(model[0], "token", "127.0.0.1", ComputeTurns())
    splitter = BranchSplitter(model[0], BranchWindow(ParallelRule(min_speed_up=0.0)))
    splitter.offer([HelperAddress(helper.host, helper.port, "token", HERE)])
    batcher = StepBatcher(fifo, StepLimits(max_rows=4096))
    engine = StepEngine(*model, batcher, Clock(), splitter=splitter)
    engine.add(request("one", 3, steps=5))
    one = run(engine)["one"]
    engine.add(request("two", 4, steps=5))
    engine.add(request("three", 5, steps=5))
    both = run(engine)
    helper.close()
    splitter.close()
    assert torch.equal(latents(one), alone(model, request("one", 3, steps=5)))
    assert [each.steps_split for each in (one, both["two"], both["three"])] == [5, 0, 0]
    assert helper.branches == 5


async def test_who_has_lanes_is_no_helper_between_two_of_their_steps_either(
    model: tuple[Backbone, FlowMatchTables],
) -> None:
    """Whichever model's they are; once there are none the process is idle."""
    turns = ComputeTurns()
    thread = EngineThread(StepEngine(*model, StepBatcher(fifo, StepLimits(max_rows=4096)), Clock()), turns)

    def is_idle() -> bool:
        with turns.turn_if_idle() as is_mine:
            return is_mine

    assert is_idle()
    lane = asyncio.ensure_future(thread.submit(request("long", 1, steps=20_000)))
    await until(lambda: not is_idle())
    for _ in range(200):
        assert not is_idle()
        await asyncio.sleep(0.0005)
    lane.cancel()
    await until(is_idle)
    thread.close()
