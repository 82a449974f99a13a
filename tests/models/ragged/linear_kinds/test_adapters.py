"""Adapters on layers of other kinds: their products are added after the layer's, to their own lanes alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lego_serve.models.loading import load_backbone
from lego_serve.models.lora.names import BaseLayers
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.layers import block_layers
from lego_serve.models.ragged.linear_kinds.sparse24_rows import use_sparse24_rows
from lego_serve.models.registry import ModelSpec
from tests.support.builders import raw_lane
from tests.support.engine.residuals import residuals_of
from tests.support.lora.adapters import adapter, diffusers_names, products

SIZES = {"channels": 8, "text_width": 192, "pooled_width": 192}
LAYER = "transformer.transformer_blocks.2.ff.net.2"


def loaded(folder: Path, kind: str) -> Backbone:
    """A backbone whose blocks multiply so."""
    spec = ModelSpec("m", str(folder), dtype="float32", max_sequence_length=0)
    if kind != "sparse24":
        return load_backbone(replace(spec, linear=kind))[0]
    backbone, _ = load_backbone(spec)
    use_sparse24_rows(backbone, "m", residuals_of(backbone, size=0.1))
    return backbone


@pytest.mark.parametrize("kind", ["int8", "fp8", "sparse24"])
def test_an_adapter_adds_to_such_a_layer_what_it_adds_to_any(tiny_folder: Path, kind: str) -> None:
    """Of its lane alone, whatever else is in the batch."""
    backbone = loaded(tiny_folder, kind)
    made = products(BaseLayers("m", "sd3", backbone.adapters.shapes), 0, only="transformer_blocks.2.ff.net.2")
    base = BaseLayers("m", "sd3", backbone.adapters.shapes)
    plain = raw_lane(1, **SIZES).for_model(backbone)
    adapted = replace(plain, adapters=((adapter(base, diffusers_names(made), "a"), 1.0),))
    without, with_it = backbone.velocity([plain])[0], backbone.velocity([adapted])[0]
    assert not torch.equal(without, with_it)
    together = backbone.velocity([plain, adapted])
    assert torch.equal(together[0], without)
    assert torch.equal(together[1], with_it)
    [(path, (down, up))] = made.pairs.items()
    assert path == LAYER
    layer = block_layers(vars(backbone))[LAYER]
    kind_of_layer = layer.kind
    assert kind_of_layer is not None
    layer.kind = lambda x, bias: kind_of_layer(x, bias) + x @ down.T @ up.T * made.scale
    torch.testing.assert_close(backbone.velocity([plain])[0], with_it, rtol=1e-4, atol=1e-4)
