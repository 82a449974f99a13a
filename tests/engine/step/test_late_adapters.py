"""Lanes whose adapters are still on their way: they wait in their place, or begin without and wait later."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lego_serve.engine.adapter_profile import Profile, profile
from lego_serve.engine.lane_state import AdapterUse, LaneRequest, LaneResult
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.engine.thread import EngineThread
from lego_serve.errors import InvalidAdapter
from lego_serve.models.lora.adapter import Adapter, Pair
from lego_serve.models.lora.loading import base_layers
from lego_serve.models.registry import ModelSpec
from tests.support.builders import run_lanes
from tests.support.lora.adapters import adapter, diffusers_names, products


@pytest.fixture(scope="module")
def spec(tiny_folder: Path) -> ModelSpec:
    """lego-tiny's architecture with random weights."""
    return ModelSpec("m", str(tiny_folder), dtype="float32", max_sequence_length=0)


@pytest.fixture(scope="module")
def family(spec: ModelSpec) -> OfflinePipeline:
    """All of it in this process."""
    return OfflinePipeline.load(spec)


@pytest.fixture(scope="module")
def mine(spec: ModelSpec) -> Adapter:
    """An adapter with a visible effect."""
    base = base_layers(spec)
    return adapter(base, diffusers_names(products(base, 1, only="transformer.")))


def lane(family: OfflinePipeline, key: str, steps: int = 4) -> LaneRequest:
    """A guided lane."""
    cond, negative = family.text.encode(["a red circle", ""])
    return LaneRequest(key, 96, 96, steps, 4.0, 7, cond, negative)


def test_a_held_lane_waits_and_then_has_the_bits_it_would_have_had(family: OfflinePipeline, mine: Adapter) -> None:
    """Lanes beside it run on meanwhile; it began with no step lost."""
    adapted = replace(lane(family, "a"), adapters=(AdapterUse(mine),))
    wanted = run_lanes(family, adapted)["a"]
    family.engine.add(replace(lane(family, "late"), wait_for_adapters_at=0))
    beside = run_until(family, lane(family, "mate"))
    assert family.engine.state("late").step == 0
    assert family.engine.plan() is None
    family.engine.adapt("late", adapted.adapters)
    [late] = run_until(family)
    assert torch.equal(late.latents, wanted)
    assert (late.steps_without_adapter, len(beside)) == (0, 1)


def test_a_lane_that_starts_early_runs_its_steps_and_no_more(family: OfflinePipeline, mine: Adapter) -> None:
    """Then it waits; from there on it has its adapter, and says how many steps it ran without."""
    family.engine.add(replace(lane(family, "early"), wait_for_adapters_at=2))
    for _ in range(5):
        family.engine.step()
    assert family.engine.state("early").step == 2
    family.engine.adapt("early", (AdapterUse(mine),))
    [early] = run_until(family)
    assert early.steps_without_adapter == 2
    use = replace(lane(family, "range"), adapters=(AdapterUse(mine, start=0.5),))
    assert torch.equal(early.latents, run_lanes(family, use)["range"])


def test_an_adapter_that_comes_in_time_costs_an_early_lane_nothing(family: OfflinePipeline, mine: Adapter) -> None:
    """It is at work from the very next step."""
    family.engine.add(replace(lane(family, "early"), wait_for_adapters_at=3))
    family.engine.step()
    family.engine.adapt("early", (AdapterUse(mine),))
    [early] = run_until(family)
    assert early.steps_without_adapter == 1


def moved(family: OfflinePipeline, key: str) -> bytes:
    """The checkpoint of a lane whose replica is gone."""
    checkpoint = family.engine.checkpoint(key)
    assert family.engine.cancel(key)
    return checkpoint


@pytest.mark.parametrize(("steps", "bound"), [(1, 3), (2, 3), (3, 3)])
def test_an_early_lane_that_goes_on_elsewhere_runs_early_only_as_far_as_it_might_have(
    family: OfflinePipeline, mine: Adapter, steps: int, bound: int
) -> None:
    """It counts the steps of both replicas, waits where its bound is, and has the bits of a lane that was not moved."""
    early = replace(lane(family, "early"), wait_for_adapters_at=bound)
    family.engine.add(early)
    for _ in range(steps):
        family.engine.step()
    family.engine.add(replace(early, checkpoint=moved(family, "early")))
    for _ in range(4):
        family.engine.step()
    assert family.engine.state("early").step == bound
    family.engine.adapt("early", (AdapterUse(mine),))
    [found] = run_until(family)
    assert (found.steps_without_adapter, found.adapter_steps) == (bound, ((mine.sha256, 4 - bound),))
    use = replace(lane(family, "range"), adapters=(AdapterUse(mine, start=bound / 4),))
    assert torch.equal(found.latents, run_lanes(family, use)["range"])


@pytest.mark.parametrize("at_hand", [True, False], ids=["at hand", "late again"])
def test_a_lane_that_has_had_its_adapter_goes_on_elsewhere_with_it(
    family: OfflinePipeline, mine: Adapter, at_hand: bool
) -> None:
    """It waits where the adapter is still to come, however many steps it might have begun with, and tells of both."""
    early, use = replace(lane(family, "early"), wait_for_adapters_at=3), AdapterUse(mine)
    family.engine.add(early)
    family.engine.step()
    family.engine.adapt("early", (use,))
    family.engine.step()
    checkpoint = moved(family, "early")
    if at_hand:
        more: dict[str, Any] = {"adapters": (use,), "wait_for_adapters_at": None}
    else:
        more = {"wait_for_adapters_at": 3}
    family.engine.add(replace(early, checkpoint=checkpoint, **more))
    if not at_hand:
        assert family.engine.plan() is None
        family.engine.adapt("early", (use,))
    [found] = run_until(family)
    assert (found.steps_without_adapter, found.adapter_steps) == (1, ((mine.sha256, 3),))
    late = replace(lane(family, "range"), adapters=(AdapterUse(mine, start=0.25),))
    assert torch.equal(found.latents, run_lanes(family, late)["range"])


def run_until(family: OfflinePipeline, *lanes: LaneRequest) -> list[LaneResult]:
    """What ends before nothing can run any more."""
    for request in lanes:
        family.engine.add(request)
    found: list[LaneResult] = []
    while (plan := family.engine.plan()) is not None:
        found += [outcome for _, outcome in family.engine.step(plan) if isinstance(outcome, LaneResult)]
    return found


async def test_the_thread_passes_adapters_on_and_a_bad_one_ends_its_lane(
    family: OfflinePipeline, mine: Adapter
) -> None:
    """With its error; orders for lanes that have gone are passed over."""
    thread = EngineThread(family.engine)
    try:
        good, bad = (
            asyncio.ensure_future(thread.submit(replace(lane(family, key), wait_for_adapters_at=0)))
            for key in ("good", "bad")
        )
        await asyncio.sleep(0.05)
        thread.adapt("good", (AdapterUse(mine),))
        strange = Adapter("strange", "s", {"transformer.none": Pair(torch.ones(1, 2), torch.ones(2, 1))})
        thread.adapt("bad", (AdapterUse(strange),))
        thread.adapt("gone", (AdapterUse(mine),))
        with pytest.raises(InvalidAdapter):
            await bad
        assert (await good).steps_without_adapter == 0
    finally:
        thread.close()


def test_a_profile_tells_the_first_step_at_which_an_adapter_is_missed(family: OfflinePipeline, mine: Adapter) -> None:
    """A strong adapter is missed at once, one of no effect never."""
    none = Adapter("none", "n", {path: Pair(pair.down, pair.up * 0) for path, pair in mine.pairs.items()})
    assert profile(family, none, ["a"], [1], steps=3, size=96).first_step is None
    strong = Adapter("strong", "s", {path: Pair(pair.down, pair.up * 50) for path, pair in mine.pairs.items()})
    found = profile(family, strong, ["a", "b"], [1], steps=3, size=96)
    assert found.first_step is not None
    assert list(found.similarity) == sorted(found.similarity, reverse=True) or found.first_step == 1
    assert found.content()["sha256"] == "s"


def test_a_profiles_ratio_is_the_steps_before_it_is_missed() -> None:
    """And all but the last where it never is."""
    assert Profile("a", "s", 4, 0.99, (1.0, 0.995, 0.98, 0.9)).ratio == 0.5
    assert Profile("a", "s", 4, 0.99, (0.5, 0.5, 0.5, 0.5)).ratio == 0.0
    assert Profile("a", "s", 4, 0.99, (1.0,) * 4).ratio == 0.75
