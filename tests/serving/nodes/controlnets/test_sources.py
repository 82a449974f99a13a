"""A backbone's ControlNets: in its own process or in another, as planned or predicted."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from lego_serve.core.addons import ControlNetInput
from lego_serve.core.costs import Rates
from lego_serve.core.scheduling.controlnet_placement import Link, Placement
from lego_serve.models.ragged.controlnet_source import ControlNetSpec
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.nodes.controlnets.node import ControlNetNode
from lego_serve.serving.nodes.controlnets.sources import ControlNetSources, placement_of
from lego_serve.serving.nodes.options import ControlNetOptions, ControlNetPlan
from tests.support.remote_controlnets import Wire

RATES = Rates(1e-6, 1e-9, 1e-3)


class Handle(Wire):
    """Named in a backbone's plans."""


async def test_a_backbone_has_its_controlnets_here_or_elsewhere_as_planned(base: ModelSpec, spec: ModelSpec) -> None:
    """Those elsewhere join when they are first needed; their rows cost nothing here."""
    far = replace(spec, name="far")
    wire = Handle(ControlNetNode(far, ControlNetOptions(base)), lost=1)
    plans = [ControlNetPlan(spec, "colocated", ""), ControlNetPlan(far, "remote", "far.controlnet")]
    sources = ControlNetSources(base, plans, {"far": wire}, RATES)
    assert set(sources.sources) == {"edges"}
    asked = [ControlNetInput(name, None, "") for name in ("edges", "far", "unknown")]
    await asyncio.gather(*(sources.connect(asked) for _ in range(3)))
    assert set(sources.sources) == {"edges", "far"}
    assert sources.sources["far"].spec == replace(sources.sources["edges"].spec, name="far", share=0.0)


FAST, SLOW = Link(1e12, 0.0), Link(1e3, 1.0)


@pytest.mark.parametrize(
    ("placement", "link", "blocks", "wanted"),
    [
        ("auto", FAST, "auto", {Placement.PER_STEP, Placement.PER_BLOCK}),
        ("auto", SLOW, "auto", {Placement.COLOCATED}),
        ("remote", None, "auto", {Placement.PER_STEP}),
        ("remote", SLOW, True, {Placement.PER_BLOCK}),
        ("remote", SLOW, False, {Placement.PER_STEP}),
    ],
)
def test_a_placement_is_what_the_plan_says_or_what_is_predicted_to_be_fast(
    spec: ModelSpec, placement: str, link: Link | None, blocks: bool | str, wanted: Sequence[Placement]
) -> None:
    """By sizes, rates and the link."""
    spec = ControlNetSpec("edges", 128, 2, 0, 8, share=2 * (13 / 12) / 6)
    plan = ControlNetPlan(spec, placement, "", link, blocks)  # type: ignore[arg-type]
    assert placement_of(plan, spec, torch.float32, Rates(1e-3, 1e-6, 1e-2)) in wanted
