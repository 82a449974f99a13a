"""Linear layers over activations in 2:4: of every four numbers of a row the two largest (RT-Lynx, ICML 2026).

With x~ the row x so thinned and W the weight,

    y = s (x~ W^T) + (x A) B + bias,    s = sqrt(|x|^2 / (|x~|^2 + 1e-8)),

where s gives the row its norm back and the residual A B, of low rank and trained, some of what was dropped.

Sparse tensor cores multiply such rows in half the time.  **None does here, on a GPU as little as on a CPU**: the
product is a dense one over rows with zeros, so that the layer costs more than the dense one that it stands for.
torch's way to sparse tensor cores needs the activations packed (``torch._cslt_compress``), which has no fake
implementation, so that no step over it can be tested without a GPU.  What 2:4 does to images can be seen all the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lego_kernels.checks import FLOATS
from lego_kernels.sparse24 import GROUP, sparse24_rows
from lego_serve.errors import CheckpointError
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.batch_invariant import LinearOps
from lego_serve.models.ragged.layers import block_layers

EPSILON = 1e-8


@dataclass(frozen=True, slots=True)
class Residual:
    """What a layer adds to its product over thinned rows: A (inputs, rank) and B (rank, outputs), fp32."""

    a: torch.Tensor
    b: torch.Tensor


@dataclass(frozen=True, slots=True)
class Sparse24Rows:
    """The product over rows in 2:4 with a weight (outputs, inputs).

    ``down`` (rank, inputs) and ``up`` (outputs, rank) are the residual's factors as ``ops``, the model's products, take
    them.  A row's result is a function of that row alone: its norms are such products too.
    """

    weight: torch.Tensor
    down: torch.Tensor
    up: torch.Tensor
    ops: LinearOps

    @classmethod
    def of(cls, weight: torch.Tensor, residual: Residual, ops: LinearOps) -> "Sparse24Rows":
        """Take a layer's weight and residual.  Raises ValueError, with the shapes, where they do not fit."""
        outputs, inputs = weight.shape
        if inputs % GROUP or weight.dtype not in FLOATS:
            dtype = str(weight.dtype).removeprefix("torch.")
            raise ValueError(f"a weight of shape {list(weight.shape)}, {dtype}, has no rows of floats in {GROUP}s")
        a, b = residual.a, residual.b
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or (a.shape[0], b.shape[1]) != (inputs, outputs):
            shapes = f"{list(a.shape)} and {list(b.shape)}"
            raise ValueError(f"a residual of shapes {shapes} does not fit a weight of shape {list(weight.shape)}")
        down, up = (part.T.contiguous().to(weight.device, weight.dtype) for part in (a, b))
        return cls(weight, down, up, ops)

    def __call__(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Compute y for rows x (rows, inputs)."""
        kept = sparse24_rows(x)
        out = self.ops.linear(kept, self.weight).float()
        rest = self.ops.linear(self.ops.linear(x, self.down), self.up, bias)
        return out.mul_(norm_scale(x, kept, self.ops)).add_(rest).to(x.dtype)


def norm_scale(x: torch.Tensor, kept: torch.Tensor, ops: LinearOps) -> torch.Tensor:
    """Return s of each row, given the rows and what is kept of them: (rows, 1), fp32."""
    ones = torch.ones(1, x.shape[1], device=x.device)
    whole, part = (ops.linear(rows.float().square(), ones) for rows in (x, kept))
    return (whole / (part + EPSILON)).sqrt()


def use_sparse24_rows(backbone: Backbone, name: str, residuals: Mapping[str, Residual]) -> None:
    """Have those layers of a backbone's blocks that have a residual, by name, multiply rows in 2:4.

    Raises CheckpointError for a layer that the backbone does not have or whose shapes or dtype do not fit.
    """
    layers = block_layers(vars(backbone))
    for path, residual in residuals.items():
        if path not in layers:
            raise CheckpointError(f"model {name}: `linear: sparse24` is to be for {path}, no layer of its blocks")
        layer = layers[path]
        try:
            layer.kind = Sparse24Rows.of(layer.weight, residual, layer.ops)
        except ValueError as error:
            raise CheckpointError(f"model {name}: `linear: sparse24` cannot be had for {path}: {error}") from None
