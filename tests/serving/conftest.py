"""Fixtures of tests of nodes."""

from pathlib import Path

import pytest

from lego_serve.models.lora.keys import BaseLayers
from lego_serve.models.lora.loading import base_layers
from lego_serve.models.registry import ModelSpec


@pytest.fixture(scope="module")
def spec(tiny_folder: Path) -> ModelSpec:
    """lego-tiny's architecture."""
    return ModelSpec("tiny", str(tiny_folder), dtype="float32", max_sequence_length=0)


@pytest.fixture(scope="module")
def base(spec: ModelSpec) -> BaseLayers:
    """Its layers."""
    return base_layers(spec)
