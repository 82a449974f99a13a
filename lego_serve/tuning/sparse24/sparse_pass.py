"""A pass with layers in 2:4 that their residuals can learn from, beside the dense pass of the same model.

It is diffusers' own transformer, whose linear layers give way to ones that multiply as ``Sparse24Rows`` does, and as
before while they are switched off.  Which numbers of a row are kept counts as constant in the backward pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from lego_kernels.sparse24 import sparse24_rows
from lego_serve.models.model_files import load_module, model_folder
from lego_serve.models.ragged.layers import Part
from lego_serve.models.ragged.linear_kinds.sparse24_rows import EPSILON, Residual
from lego_serve.models.registry import ModelSpec
from lego_serve.tuning.pruned_pass import Examples

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel

SMALLEST = 1e-30  # a norm's square at least, so that a row of zeros has a gradient


class Sparse24Linear(nn.Module):
    """A linear layer over rows in 2:4 while ``is_on``; ``a`` (inputs, rank) and its part of ``b`` are learned."""

    def __init__(self, dense: nn.Linear, residual: Residual, outputs: slice) -> None:
        super().__init__()
        self.weight, self.bias = dense.weight, dense.bias
        self._residual, self._outputs = residual, outputs
        self.is_on = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the product for rows x (..., inputs)."""
        if not self.is_on:
            return F.linear(x, self.weight, self.bias)
        rows = x.flatten(0, -2)
        kept = sparse24_rows(rows)
        whole, part = (each.square().sum(dim=1, keepdim=True) for each in (rows, kept))
        scale = (whole.clamp_min(SMALLEST) / (part + EPSILON)).sqrt()
        rest = F.linear(F.linear(rows, self._residual.a.T), self._residual.b[:, self._outputs].T, self.bias)
        return (scale * F.linear(kept, self.weight) + rest).view(*x.shape[:-1], -1)


class SparsePass:
    """A transformer of frozen weights, with residuals of layers, by name, that are learned."""

    def __init__(
        self,
        transformer: "SD3Transformer2DModel",
        residuals: Mapping[str, Residual],
        parts: Mapping[str, Sequence[Part]],
    ) -> None:
        """``parts`` are the model's own layers that each of the named ones computes side by side."""
        self._model = transformer.eval().requires_grad_(False)
        self.residuals = {
            name: Residual(*(each.contiguous().clone().requires_grad_() for each in (residual.a, residual.b)))
            for name, residual in residuals.items()
        }
        self._layers: list[Sparse24Linear] = []
        for name, residual in self.residuals.items():
            for part in parts[name]:
                path = part.path.removeprefix("transformer.")
                dense = transformer.get_submodule(path)
                assert isinstance(dense, nn.Linear)
                layer = Sparse24Linear(dense, residual, slice(part.start, part.stop))
                transformer.set_submodule(path, layer)
                self._layers.append(layer)

    @classmethod
    def load(
        cls, spec: ModelSpec, residuals: Mapping[str, Residual], parts: Mapping[str, Sequence[Part]]
    ) -> "SparsePass":
        """Load the transformer of a model.  Raises CheckpointError, also for one that is not of SD3's kind."""
        from diffusers import SD3Transformer2DModel

        folder = model_folder(spec, "transformer")
        return cls(load_module(spec, folder, "transformer", SD3Transformer2DModel), residuals, parts)

    @property
    def weights(self) -> list[torch.Tensor]:
        """What is learned: A and B of each layer."""
        return [part for residual in self.residuals.values() for part in (residual.a, residual.b)]

    def loss(self, examples: Examples) -> torch.Tensor:
        """Return the error of the guided velocity, over the square of the dense one."""
        with torch.no_grad(), self._dense():
            wanted = self._guided(examples)
        found = self._guided(examples)
        return (found - wanted).square().mean() / wanted.square().mean()

    @contextmanager
    def _dense(self) -> Iterator[None]:
        for layer in self._layers:
            layer.is_on = False
        try:
            yield
        finally:
            for layer in self._layers:
                layer.is_on = True

    def _guided(self, examples: Examples) -> torch.Tensor:
        out: torch.Tensor = self._model(
            hidden_states=examples.latents.repeat(examples.branches, 1, 1, 1),
            encoder_hidden_states=examples.tokens,
            pooled_projections=examples.pooled,
            timestep=torch.full((len(examples.tokens),), examples.sigma * 1000),
            return_dict=False,
        )[0]
        if examples.branches == 1:
            return out
        unconditional, conditional = out.chunk(2)
        return unconditional + examples.guidance * (conditional - unconditional)
