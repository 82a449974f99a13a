"""What a template is predicted to take in a tier is what the engine plans to read of it."""

from dataclasses import replace

import pytest
import torch

from lego_serve.core.editing.reuse import Quality
from lego_serve.core.nodes.requests import MeasureTemplate
from lego_serve.core.tiers.book import TierRun
from lego_serve.core.workflow.bind import bind
from lego_serve.core.workflow.template_entries import Entries, entries_of
from lego_serve.engine.edits import Edit
from lego_serve.engine.lane_state import LaneRequest
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.engine.template_store import Template
from lego_serve.models.loading import load_backbone
from lego_serve.models.registry import ModelSpec
from lego_serve.models.tier_files import read_book
from lego_serve.serving.nodes.backbone import BackboneNode
from lego_serve.workflow_files import built_in_workflows
from tests.support.nodes import backbone_node

SPEC = ModelSpec("lego-tiny", "builtin:lego-tiny", dtype="float32", max_sequence_length=0)
EDIT = built_in_workflows()["lego-tiny-edit"]
RUNS = [run for run in read_book(SPEC.path).runs if run.checkpoint is None]  # others take no edits
WINDOWS = [(0.0, 1.0), (0.3, 1.0), (0.0, 0.55), (0.2, 0.8)]


@pytest.fixture(scope="module")
def family() -> OfflinePipeline:
    """The model that the tiers were tuned for."""
    return OfflinePipeline.load(SPEC)


@pytest.fixture(scope="module")
def node() -> BackboneNode:
    """A replica of it, which a gateway asks."""
    return backbone_node(SPEC)


@pytest.mark.parametrize("run", RUNS, ids=[f"{run.tier} of {run.steps}" for run in RUNS])
@pytest.mark.parametrize("side", [128, 256])
def test_the_levels_that_are_predicted_are_those_that_are_planned(
    family: OfflinePipeline, node: BackboneNode, run: TierRun, side: int
) -> None:
    """Of every shipped tier and quality, with guidance in all or a part of the asked steps."""
    size = node.template_size(MeasureTemplate(side, side, run.sampler, run.steps, run.grid))
    cond, negative, empty = family.text.encode(["a red circle", "a blue square", ""])
    latents = torch.zeros(load_backbone(SPEC)[0].shape.of(side, side))
    mask = torch.zeros(latents.shape[1:], dtype=torch.bool)
    mask[2:6, 4:8] = True
    for quality in Quality:
        edit = Edit(Template.of(latents, 3, "image"), mask, quality, (empty, empty), is_described=False)
        for guided in WINDOWS:
            key = f"{quality} {guided}"
            lane = LaneRequest(key, side, side, run.steps, 4.0, 5, cond, negative, guided=guided, edit=edit)
            state = family.engine.add(replace(lane, grid=run.grid, tier=run.tier, sampler=run.sampler))
            assert state.edit is not None
            planned = state.edit.plan.sources
            start, end = guided
            values = {"guidance": 4.0, "guidance_start": start, "guidance_end": end, "steps": run.steps}
            asked = {"prompt": "a", "edit": b"", "negative_prompt": "blue", "width": side, "height": side}
            predicted = entries_of(EDIT, bind(EDIT, asked | values), size.rows, quality, begins=size.begins)
            assert predicted == Entries(len(planned), sum(state.is_guided(step) for step in planned)), key
            family.engine.cancel(key)
