"""Workflow files made of ComfyUI's workflows."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.compat.comfyui.translate import translate
from lego_serve.compat.comfyui.workflow_file import notes, workflow_mapping, workflow_name
from lego_serve.compat.task import ControlNet, ImageTask, InputImage, Lora
from lego_serve.core.workflow.graph import Workflow
from lego_serve.workflow_files import load_workflow
from tests.support.graphs import Graph, guided_by_input, image_to_image, masked_edit, text_to_image

ADDED = ImageTask(
    "x", guidance=4.0, loras=(Lora("stripes", 0.5),), controlnets=(ControlNet("outline", InputImage("name", "a")),)
)


def compiled(task: ImageTask, model: str | None = None) -> Workflow:
    return load_workflow(yaml.safe_dump(workflow_mapping(task, "imported", model)), "w.yaml")


@pytest.mark.parametrize("graph", [text_to_image(), image_to_image(), masked_edit(), guided_by_input()])
def test_every_workflow_makes_a_file_that_compiles(graph: Graph) -> None:
    """Its values are the defaults of the inputs that requests give."""
    task = translate(graph)
    workflow = compiled(task)
    assert workflow.inputs["prompt"].default == task.prompt
    assert workflow.inputs["steps"].default == task.steps
    assert workflow.inputs["seed"].default == task.seed
    assert ("negative_prompt" in workflow.inputs) is task.is_guided


def test_the_kinds_of_nodes_follow_the_kind_of_task() -> None:
    """An image is encoded, and an edit is decoded into its image."""
    kinds = [
        {node.kind for node in compiled(translate(graph)).nodes.values()} for graph in (image_to_image(), masked_edit())
    ]
    assert "encode_image" in kinds[0]
    assert {"encode_edit", "decode_edit"} <= kinds[1]
    assert {"load_adapters", "encode_controls"} <= {node.kind for node in compiled(ADDED).nodes.values()}


def test_the_model_is_named_after_the_checkpoint() -> None:
    """Unless another key is given."""
    task = translate(text_to_image())
    assert compiled(task).models == {"lego-tiny"}
    assert compiled(task, "mine").models == {"mine"}
    assert compiled(ADDED).models == {"model"}


def test_what_the_file_cannot_hold_is_noted() -> None:
    """Adapters, ControlNets and masks come with each request."""
    assert notes(ADDED) == [
        "Requests give `lora` stripes at the scale 0.5.",
        "Requests give `controlnet` outline, weight 1, from 0 to 1.",
    ]
    assert notes(translate(masked_edit())) == ["Requests give the mask as a PNG whose transparent part changes."]
    assert "\n" not in notes(ImageTask("x", loras=(Lora("a\nb"),)))[0]


@given(st.text() | st.sampled_from(["$inputs.seed", "$$", "1", "yes", "a: b", "#", ""]))
def test_a_text_is_a_text_whatever_is_in_it(prompt: str) -> None:
    """A dollar is no reference, and no number is made of a prompt."""
    assert compiled(ImageTask(prompt, guidance=1.0)).inputs["prompt"].default == prompt


@pytest.mark.parametrize(("text", "name"), [("my flow", "my-flow"), ("-x", "x"), ("", "imported"), ("é", "imported")])
def test_any_text_makes_a_name(text: str, name: str) -> None:
    """As a workflow file may have it."""
    assert workflow_name(text) == name
