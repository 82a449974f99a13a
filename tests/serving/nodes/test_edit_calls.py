"""Edits at the backbone's node: what an answer says was read, and what the replica says it keeps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lego_serve.core.addons import AdapterRequest, LoadedAdapter, steps_without_adapter
from lego_serve.core.editing.reuse import TemplateUse
from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.core.nodes.messages import DenoiseInput, DenoiseOutput
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.cluster.replica import NodeReplica
from lego_serve.serving.nodes.backbone import BackboneNode
from lego_serve.serving.nodes.lane_requests import steps_of
from lego_serve.serving.nodes.options import BackboneOptions, TemplateOptions, TextEncoderOptions
from tests.support.edits import edit_request
from tests.support.nodes import backbone_node, denoised

ROOM = 1 << 24
STEPS = 4


@pytest.fixture
def node(tiny_folder: Path) -> BackboneNode:
    """A replica with room for templates."""
    spec = ModelSpec("m", str(tiny_folder), dtype="float32", max_sequence_length=0)
    return backbone_node(spec, templates=TemplateOptions(ROOM))


async def answered(node: BackboneNode, request: DenoiseInput) -> NodeResult[DenoiseOutput]:
    """The result of a call that ends well."""
    result = await denoised(node, NodeCall(request))
    assert result.error is None
    return result


async def test_an_answer_counts_the_passes_of_all_its_images_once(node: BackboneNode) -> None:
    """They share them; the second call finds them made, and the replica says what it keeps."""
    first, again = [(await answered(node, edit_request(1, n=3))).stats.reuse for _ in "ab"]
    assert first is not None
    assert again is not None
    assert (first.masked_steps, first.primed, first.evicted) == (STEPS, 2 * STEPS, 0)
    assert (again.masked_steps, again.primed) == (STEPS, 0)
    use = TemplateUse(**node.routing_stats()["template_use"])
    assert (use.entries, use.budget_bytes) == (2 * STEPS, ROOM)
    assert 0 < use.used_bytes <= ROOM
    assert len(node.routing_stats()["templates"]) == 1


async def test_entries_that_go_for_others_are_counted(tiny_folder: Path, node: BackboneNode) -> None:
    """With room for one template's alone, whose branches are primed alike."""

    def alike(seed: int) -> DenoiseInput:
        request = edit_request(seed)
        return replace(request, prime=request.negative)

    await answered(node, alike(1))
    spec = ModelSpec("m", str(tiny_folder), dtype="float32", max_sequence_length=0)
    room = node.routing_stats()["template_use"]["used_bytes"]
    poor = backbone_node(spec, templates=TemplateOptions(room))
    counts = []
    for seed in (1, 2):
        reuse = (await answered(poor, alike(seed))).stats.reuse
        assert reuse is not None
        counts.append((reuse.primed, reuse.evicted))
    assert counts == [(STEPS, 0), (STEPS, STEPS)]
    use = node.routing_stats()["template_use"]
    assert poor.routing_stats()["template_use"] == use | {"budget_bytes": room}


def test_only_backbones_report_templates_to_routers(node: BackboneNode) -> None:
    """A replica of another kind reports the memory it takes, and nothing else."""
    replica: Any = object.__new__(NodeReplica)
    replica._node, replica._options = node, BackboneOptions()
    stats = replica.record_routing_stats()
    memory = {"templates": (0, ROOM), "weights": (node.load().memory[0].used, 0)}
    use = {"entries": 0, "used_bytes": 0, "budget_bytes": ROOM}
    assert stats == {"templates": (), "template_use": use, "memory": memory}
    replica._options = TextEncoderOptions()
    assert replica.record_routing_stats() == {"memory": memory}


@pytest.mark.parametrize(("strength", "steps"), [(1.0, 40), (0.5, 20), (0.01, 1)])
def test_early_steps_are_a_share_of_those_an_edit_runs(strength: float, steps: int) -> None:
    """Not of those its strength leaves out."""
    request = edit_request(1, steps=40, strength=strength)
    assert steps_of(request) == steps
    loaded = LoadedAdapter(AdapterRequest("a", 1.0), "0" * 64, 1, has_text=False, early_ratio=0.5)
    assert steps_without_adapter([loaded], steps_of(request)) == steps // 2
