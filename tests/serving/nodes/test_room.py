"""What replicas report of their room: the most images or calls that they take into one step."""

from pathlib import Path
from typing import Any

import pytest
from diffusers import SD3Transformer2DModel

from lego_serve.core.jobs.messages import NodeCall
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.nodes.backbone import BackboneNode
from lego_serve.serving.nodes.controlnets.node import MAX_STEPS, ControlNetNode
from lego_serve.serving.nodes.options import ControlNetOptions, VaeOptions
from lego_serve.serving.nodes.vae import VaeNode
from tests.support.edits import edit_request
from tests.support.nodes import backbone_node, denoised, text_node
from tests.support.tiny_models import control_miniature

FIRST_ROWS = 2 * (16 * 16 + 32)  # of a guided lane of the size that is calibrated with
ROWS = 2 * (6 * 6 + 9)  # of an image of 96 x 96 pixels and nine rows of text


@pytest.fixture
def spec(tiny_folder: Path) -> ModelSpec:
    """lego-tiny's architecture with random weights."""
    return ModelSpec("m", str(tiny_folder), dtype="float32", max_sequence_length=0)


def backbone(spec: ModelSpec, **more: Any) -> BackboneNode:
    """A replica whose steps are bounded by rows alone."""
    return backbone_node(spec, max_step_s=1000.0, **more)


async def test_a_backbone_has_room_for_lanes_like_those_of_its_last_step(spec: ModelSpec) -> None:
    """Before any step for lanes of the calibrated size; smaller ones leave room for more."""
    node = backbone(spec, max_rows=3 * FIRST_ROWS + 1)
    assert node.load().room == 3
    result = await denoised(node, NodeCall(edit_request(1, edit=None, prime=None)))
    assert result.error is None
    load = node.load()
    assert (load.running, load.recent[-1], load.room) == (0, 1, (3 * FIRST_ROWS + 1) // ROWS)


async def test_seconds_bound_the_room_where_rows_do_not(spec: ModelSpec) -> None:
    """A limit shorter than any step leaves room for the one that runs alone; as configured there is some."""
    assert backbone_node(spec, max_step_s=1e-9).load().room == 1
    assert backbone_node(spec).load().room >= 1


def test_other_nodes_have_room_for_their_batch(spec: ModelSpec, tmp_path: Path) -> None:
    """Prompts a pass; one call at a time; the steps that a ControlNet takes together."""
    assert text_node(spec, 3).load().room == 3
    assert VaeNode(spec, VaeOptions(4)).load().room == 1
    transformer = SD3Transformer2DModel.from_pretrained(Path(spec.path) / "transformer")
    control_miniature(transformer).save_pretrained(tmp_path)
    net = ModelSpec("edges", str(tmp_path), dtype="float32", max_sequence_length=0)
    assert ControlNetNode(net, ControlNetOptions(spec)).load().room == MAX_STEPS
