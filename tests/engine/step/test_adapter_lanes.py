"""Lanes with adapters: in mixed batches, grouped or patched, in some steps, resumed, adapted late, and refused."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch

from lego_serve.core.scheduling.lora_mode import LoraMode
from lego_serve.engine.lane_state import AdapterUse, LaneRequest
from lego_serve.errors import InvalidAdapter, NodeError, RequestError
from lego_serve.models.lora.names import BaseLayers
from lego_serve.models.ragged.lora import LoraLayers
from tests.support.lora.adapters import adapter, diffusers_names, products, weights_hash
from tests.support.lora.families import Family, close, rest, run


def mixed(family: Family) -> list[LaneRequest]:
    """Lanes of several sets, sizes and step ranges, some without adapters."""
    one, two, three = family.adapter(1), family.adapter(2, 16, "attn"), family.adapter(3, 1, "transformer.")
    return [
        family.lane("plain", 1), family.lane("one", 2, AdapterUse(one)), family.lane("two", 3, AdapterUse(two, 0.5)),
        family.lane("one less", 4, AdapterUse(one, 0.3), width=96), family.lane("small", 5, width=96, height=160),
        family.lane("both", 6, AdapterUse(two), AdapterUse(three, -0.6), steps=6),
        family.lane("late", 7, AdapterUse(three, start=0.5)), family.lane("one again", 8, AdapterUse(one)),
    ]  # fmt: skip


def test_lanes_of_different_sets_share_a_batch_and_none_sees_the_others(family: Family) -> None:
    """Every lane, with adapters or without, has the bits it has alone."""
    lanes = mixed(family)
    together = run(family.engine(), *lanes)
    for lane in lanes:
        assert torch.equal(run(family.engine(), lane)[lane.key], together[lane.key]), lane.key
    without = run(family.engine(), replace(lanes[1], adapters=()))["one"]
    assert not torch.equal(without, together["one"])


def test_both_ways_of_applying_make_the_same_images(family: Family) -> None:
    """Lanes of several sets, patched one set after another, and grouped."""
    lanes = mixed(family)
    grouped, patched = run(family.engine(), *lanes), run(family.engine(LoraMode.PATCHED), *lanes)
    for key in grouped:
        close(patched[key], grouped[key])
    family.backbone.adapters.restore()
    assert torch.equal(run(family.engine(), lanes[0])["plain"], grouped["plain"])


def break_patching(monkeypatch: pytest.MonkeyPatch, error: Exception, times: int) -> list[Exception]:
    """Let patching raise an error so many times, each when three layers are patched; answers those raised."""
    whole, layers, raised = LoraLayers._patch_layer, count(1), []

    def patch_layer(self: LoraLayers, number: int, products: Sequence[Any]) -> None:
        whole(self, number, products)
        if len(raised) < times and next(layers) % 3 == 0:
            raised.append(error)
            raise error

    monkeypatch.setattr(LoraLayers, "_patch_layer", patch_layer)
    return raised


def own_weights(family: Family) -> int:
    """The hash of the model's weights as they are without any adapter patched in."""
    family.backbone.adapters.restore()
    return weights_hash(layer.weight for layer in family.backbone.adapters._layers)


def test_where_memory_is_too_short_to_patch_lanes_are_grouped(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """They all end, in the bits of grouped lanes; the weights are the model's own, and not every step tries again."""
    lanes, start = mixed(family), own_weights(family)
    grouped = run(family.engine(), *lanes)
    raised = break_patching(monkeypatch, torch.OutOfMemoryError("out of memory"), 100)
    found = run(family.engine(LoraMode.PATCHED), *lanes)
    assert len(raised) == 1
    assert family.backbone.adapters.patched == ()
    assert weights_hash(layer.weight for layer in family.backbone.adapters._layers) == start
    for key in grouped:
        assert torch.equal(found[key], grouped[key]), key


def test_a_set_that_cannot_be_patched_fails_with_its_lanes_alone(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lanes of other sets and of none go on to what they are without it."""
    one, two = family.adapter(1), family.adapter(2, 16, "attn")
    others = [family.lane("two", 3, AdapterUse(two)), family.lane("plain", 4)]
    alone = {lane.key: run(family.engine(LoraMode.PATCHED), lane)[lane.key] for lane in others}
    start = own_weights(family)
    lanes = [family.lane("a", 1, AdapterUse(one)), family.lane("b", 2, AdapterUse(one)), *others]
    break_patching(monkeypatch, RuntimeError("a failing kernel"), 1)
    engine, found = family.engine(LoraMode.PATCHED), {}
    for lane in lanes:
        engine.add(lane)
    while engine.lanes:
        found |= dict(engine.step())
    for key in "ab":
        assert isinstance(found[key], NodeError)
        assert found[key].message == "The denoising step failed: RuntimeError."
    for key, latents in alone.items():
        assert torch.equal(found[key].latents, latents), key
    assert own_weights(family) == start


def test_an_adapter_works_in_its_range_of_steps_alone(family: Family) -> None:
    """A range of all steps is the whole, an empty one is none, and halves of two make another image than either."""
    one = family.adapter(1, only="transformer.")
    whole = run(family.engine(), family.lane("x", 1, AdapterUse(one)))["x"]
    halves = [
        run(family.engine(), family.lane("x", 1, AdapterUse(one, start=a, end=b)))["x"]
        for a, b in ((0.0, 1.0), (0.5, 0.5), (0.0, 0.5), (0.5, 1.0))
    ]
    assert torch.equal(halves[0], whole)
    assert torch.equal(halves[1], run(family.engine(), family.lane("x", 1))["x"])
    assert not torch.equal(halves[2], whole)
    assert not torch.equal(halves[2], halves[3])


def test_a_lane_goes_on_from_a_checkpoint_with_its_adapters(family: Family) -> None:
    """On another engine, bit for bit."""
    request = family.lane("x", 9, AdapterUse(family.adapter(1), 0.5), AdapterUse(family.adapter(2), end=0.75))
    whole = run(family.engine(), request)["x"]
    engine = family.engine()
    engine.add(request)
    engine.step()
    engine.step()
    checkpoint = engine.checkpoint("x")
    assert torch.equal(run(family.engine(), replace(request, checkpoint=checkpoint))["x"], whole)


def test_an_adapter_may_come_after_its_lane_began(family: Family) -> None:
    """From the step at which it comes it is at work, as if its range had begun there."""
    one = family.adapter(1, only="transformer.")
    engine = family.engine()
    engine.add(family.lane("x", 9))
    engine.step()
    engine.adapt("x", (AdapterUse(one),))
    assert torch.equal(rest(engine)["x"], run(family.engine(), family.lane("x", 9, AdapterUse(one, start=0.25)))["x"])


def test_what_does_not_fit_is_refused_before_anything_is_touched(family: Family) -> None:
    """An adapter of other layers, too many, one twice, a scale that is none: the engine stays as it was."""
    engine, one = family.engine(), family.adapter(1)
    shapes = {path: (outputs + 8, inputs) for path, (outputs, inputs) in family.base.shapes.items()}
    foreign = adapter(
        BaseLayers("other", family.base.family, shapes), diffusers_names(products(replace(family.base, shapes=shapes)))
    )
    lane = family.lane("x", 1)
    for uses, error in (
        ((AdapterUse(foreign),), InvalidAdapter),
        ((AdapterUse(one), AdapterUse(one, 0.5)), RequestError),
        (tuple(AdapterUse(family.adapter(i)) for i in range(5)), RequestError),
        ((AdapterUse(one, float("nan")),), RequestError),
        ((AdapterUse(one, 1e9),), RequestError),
    ):
        with pytest.raises(error):
            engine.add(replace(lane, adapters=uses))
    assert engine.lanes == 0
