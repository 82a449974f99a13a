"""Fixtures of adapters and ControlNets in the engine."""

from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel

from lego_serve.engine.offline import OfflinePipeline
from lego_serve.engine.template_store import Template
from lego_serve.models.controlnet.sd3 import Sd3ControlNet
from lego_serve.models.loading import load_backbone
from lego_serve.models.model_files import load_module
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.controlnet_source import ControlNetSpec
from lego_serve.models.registry import ModelSpec
from lego_serve.models.sampling import FlowMatchTables
from tests.support.engine.control_lanes import CHANNELS, WIDTH
from tests.support.template_edits import SIZE, with_store
from tests.support.tiny_models import control_miniature


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> tuple[Backbone, FlowMatchTables]:
    """lego-tiny's architecture with random weights."""
    return load_backbone(ModelSpec("m", str(tiny_folder), dtype="float32", max_sequence_length=0))


@pytest.fixture(scope="module")
def net(tiny_folder: Path) -> Sd3ControlNet:
    """A ControlNet of a third of its blocks."""
    spec = ModelSpec("m", str(tiny_folder), dtype="float32")
    transformer = load_module(spec, tiny_folder, "transformer", SD3Transformer2DModel)
    return Sd3ControlNet(control_miniature(transformer), ControlNetSpec("net", WIDTH, 2, 0, CHANNELS, share=1 / 3))


@pytest.fixture(scope="module")
def family(tiny_folder: Path) -> OfflinePipeline:
    """lego-tiny's architecture with random weights and room for a few templates."""
    return with_store(tiny_folder, 64 * 2**20)


@pytest.fixture(scope="module")
def template(family: OfflinePipeline) -> Template:
    """An image of noise, encoded, with noise of its own."""
    image = torch.randint(0, 256, (1, SIZE, SIZE, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Template.of(family.vae.encode(image)[0].mean, 77)
