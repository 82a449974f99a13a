"""Residuals for layers in 2:4."""

import torch

from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.layers import block_layers
from lego_serve.models.ragged.linear_kinds.sparse24_rows import Residual


def residuals_of(backbone: Backbone, only: str = "", size: float = 0.0) -> dict[str, Residual]:
    """Of rank 4, for the layers of a backbone's blocks whose name has ``only`` in it; they add ``size`` or nothing."""
    shapes = {path: layer.weight.shape for path, layer in block_layers(vars(backbone)).items() if only in path}
    return {
        path: Residual(torch.full((inputs, 4), size / inputs), torch.ones(4, outputs))
        for path, (outputs, inputs) in shapes.items()
    }
