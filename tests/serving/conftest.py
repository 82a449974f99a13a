"""Fixtures of tests of nodes."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from lego_serve.models.lora.loading import base_layers
from lego_serve.models.lora.names import BaseLayers
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.nodes import backbone_model
from tests.support.lora.adapters import diffusers_names, kohya_names, products, saved

MEASURED: dict[tuple[object, ...], Any] = {}


@pytest.fixture(autouse=True)
def _measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first replica of every kind of model is calibrated; later ones, made seconds faster, take its rates."""
    for name in ("calibrate", "calibrate_adapters"):
        monkeypatch.setattr(backbone_model, name, once_a_kind(getattr(backbone_model, name)))


def once_a_kind(measure: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Measure one backbone of a kind, and answer the same for the next."""

    @wraps(measure)
    def measured(backbone: Any) -> Any:
        key = (measure.__name__, type(backbone), backbone.shape, backbone.text_width, len(backbone.attentions))
        if key not in MEASURED:
            MEASURED[key] = measure(backbone)
        return MEASURED[key]

    return measured


@pytest.fixture(scope="module")
def spec(tiny_folder: Path) -> ModelSpec:
    """lego-tiny's architecture."""
    return ModelSpec("tiny", str(tiny_folder), dtype="float32", max_sequence_length=0)


@pytest.fixture(scope="module")
def base(spec: ModelSpec) -> BaseLayers:
    """Its layers."""
    return base_layers(spec)


@pytest.fixture
def root(base: BaseLayers, tmp_path: Path) -> Path:
    """A folder of two adapters, one with a part for text encoders."""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    saved(diffusers_names(products(base, 1, only="attn.to_q")), root, "image")
    saved(kohya_names(products(base, 2)), root, "both")
    saved(diffusers_names(products(base, 3, only="attn.to_k")), root / "sub", "other")
    return root
