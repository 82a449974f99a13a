"""What the server says of the nodes that it translates."""

import re
from pathlib import Path

from sd_backend_client.api.comfyui.comfyui_types import FloatParamDef, IntParamDef, NodeInfoResponse

from lego_serve.compat.comfyui.nodes import CLASSES
from lego_serve.compat.comfyui.object_info import object_info

PAGE = Path(__file__).parents[3] / "docs" / "workflows.md"
LISTS = {"checkpoints": ["lego-tiny"], "loras": ["stripes"], "images": ["photo.png"]}


def test_a_strict_client_reads_every_class() -> None:
    """Numbers have defaults and bounds, and inputs stand in the order of the node."""
    everything = object_info(LISTS)
    assert list(everything) == list(CLASSES)
    for name, described in everything.items():
        read = NodeInfoResponse.model_validate(described)
        assert read.name == name
        assert len(read.output) == len(read.output_name) == len(read.output_is_list)
        groups = (read.input.required, read.input.optional or {})
        for kind, *options in (declared for group in groups for declared in group.values()):
            if kind in ("INT", "FLOAT"):
                (IntParamDef if kind == "INT" else FloatParamDef).model_validate(options[0])
        assert list(read.input.required) == read.input_order["required"]


def test_pickers_find_what_the_server_has() -> None:
    """Open WebUI reads models at this very place; lists that are not given are empty."""
    inputs = {name: described["input"]["required"] for name, described in object_info(LISTS).items()}
    assert inputs["CheckpointLoaderSimple"]["ckpt_name"][0] == ["lego-tiny"]
    assert inputs["LoadImage"]["image"] == [["photo.png"], {"image_upload": True}]
    assert inputs["ControlNetLoader"]["control_net_name"][0] == []
    assert inputs["KSampler"]["sampler_name"][0][0] == "euler"


def test_one_class_is_answered_alone() -> None:
    """An unknown one is an empty object, as in ComfyUI."""
    assert list(object_info(LISTS, "KSampler")) == ["KSampler"]
    assert object_info(LISTS, "Other") == {}


def test_the_page_of_workflows_has_every_class() -> None:
    """And no other in its list."""
    listed = PAGE.read_text().split("These classes of nodes are read:")[1].split("Any other")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == set(CLASSES)
