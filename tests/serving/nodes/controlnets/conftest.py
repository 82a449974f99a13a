"""A backbone and a ControlNet for it."""

from pathlib import Path

import pytest
from diffusers import SD3Transformer2DModel

from lego_serve.models.registry import ModelSpec
from lego_serve.serving.nodes.controlnets import remote
from tests.support.tiny_models import control_miniature


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that a busy machine holds up is waited for, unless the test says how long."""
    for name in ("CONTROLNET_GRACE_S", "CONTROLNET_PATIENCE_S"):
        monkeypatch.setattr(remote, name, 60.0)


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> ModelSpec:
    """lego-tiny's architecture."""
    return ModelSpec("tiny", str(tiny_folder), dtype="float32", max_sequence_length=0)


@pytest.fixture(scope="module")
def spec(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A ControlNet for it."""
    folder = tmp_path_factory.mktemp("net")
    control_miniature(SD3Transformer2DModel.from_pretrained(tiny_folder / "transformer")).save_pretrained(folder)
    return ModelSpec("edges", str(folder), dtype="float32", max_sequence_length=0)
