"""What amounts of adapters and ControlNets do is judged: of pictures that are drawn, by their colours and styles."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel

from lego_serve.bench_amounts import CONTROLNET, SCALES, WEIGHTS, adapter_rows, coloured, control_rows, draw
from lego_serve.engine.lanes import AdapterUse
from lego_serve.engine.local import LocalFamily
from lego_serve.models.adapter_loading import base_layers
from lego_serve.models.controlnet import load_controlnet
from lego_serve.models.spec import ModelSpec
from lego_serve.zoo.miniatures import control_miniature
from lego_serve.zoo.world import COLOURS, Scene, Thing
from tests.adapters import adapter, diffusers_names, products

SIDE = 96


@pytest.fixture(scope="module")
def spec(tiny_folder: Path) -> ModelSpec:
    """lego-tiny's architecture with random weights."""
    return ModelSpec("m", str(tiny_folder), dtype="float32", max_sequence_length=0)


@pytest.fixture(scope="module")
def family(spec: ModelSpec, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalFamily:
    """It with a ControlNet of random weights."""
    folder = tmp_path_factory.mktemp("net")
    control_miniature(SD3Transformer2DModel.from_pretrained(tiny_folder / "transformer")).save_pretrained(folder)
    net = load_controlnet(ModelSpec(CONTROLNET, str(folder), dtype="float32", max_sequence_length=0), spec)
    return LocalFamily.load(spec, controls={CONTROLNET: net})


def test_every_amount_is_drawn_and_judged(family: LocalFamily, spec: ModelSpec) -> None:
    """Adapters by their scales, the ControlNet by its weights."""
    made = adapter(base_layers(spec), diffusers_names(products(base_layers(spec), 1, only="attn.to_q")))
    rows = list(adapter_rows(family, made, "stripes", 2, SIDE, steps=2))
    assert [row.amount for row in rows] == list(SCALES)
    nets = list(control_rows(family, 2, SIDE, steps=2))
    assert [row.amount for row in nets] == list(WEIGHTS)
    assert all(0 <= row.shown <= row.count and 0 <= row.coloured <= row.count == 2 for row in (*rows, *nets))


def test_a_scale_changes_the_picture_and_none_does_not(family: LocalFamily, spec: ModelSpec) -> None:
    """Scale 0 is the model itself."""
    made = adapter(base_layers(spec), diffusers_names(products(base_layers(spec), 1, strength=0.5, only="attn.to_q")))
    plain, none, strong = (
        draw(family, ["a red circle"], SIDE, 2, adapters=uses)
        for uses in ((), (AdapterUse(made, 0.0),), (AdapterUse(made, 2.0),))
    )
    assert np.array_equal(plain, none)
    assert not np.array_equal(plain, strong)


def test_a_picture_has_its_colours_when_each_fills_a_little_of_it() -> None:
    """A picture of the ground alone lacks that of its thing."""
    scene = Scene((Thing("red", "circle", "left", "small"),), "blue")
    ground = torch.tensor(COLOURS["blue"], dtype=torch.uint8).expand(SIDE, SIDE, 3).numpy()
    dotted = ground.copy()
    dotted[:10, :10] = COLOURS["red"]
    assert [coloured(np.stack([picture]), [scene]) for picture in (ground, dotted)] == [0, 1]
