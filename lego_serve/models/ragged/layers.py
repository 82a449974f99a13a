"""Building blocks of the families' forward passes: layers over rows, each batch-invariant.

Weights that are used together are stored together.  Every function here treats a row by itself, so
that a lane's bits do not depend on its batch-mates; attention, which cannot, lies in ``attention``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import accumulate
from typing import Any, Protocol, TypeVar

import torch
from torch.nn import functional as F

from lego_kernels import gated_residual as gated_residual_kernel
from lego_kernels import norm_modulate, qk_norm_rope, residual_norm_modulate
from lego_serve.models.ragged.batch_invariant import LinearOps
from lego_serve.models.ragged.device import uploaded

NORM_EPSILON = 1e-6
Block = TypeVar("Block")
Rotation = tuple[torch.Tensor, torch.Tensor]  # cosines and sines, both (rows, head width)


@dataclass(frozen=True, slots=True)
class Part:
    """One of the model's own layers inside a Linear: its canonical path and its outputs [start, stop)."""

    path: str
    start: int
    stop: int


class LoraDelta(Protocol):
    """The addition of a step's adapters to some of a layer's rows."""

    @property
    def runs(self) -> Sequence[tuple[int, int]]:
        """The rows that are added to, as runs [start, stop)."""
        ...

    def __call__(self, x: torch.Tensor, out: torch.Tensor, ops: LinearOps) -> torch.Tensor:
        """Add to ``out``, the layer's output for rows x, in place; return it."""
        ...


class LinearKind(Protocol):
    """Another way to compute a layer's product than with its weight as it is; a row's result depends on it alone."""

    def __call__(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Compute the product for rows x (rows, inputs), and add the bias."""
        ...


@dataclass(slots=True)
class Linear:
    """A weight (outputs, inputs) and a bias or None; ``parts`` are the model's layers it computes side by side.

    ``ops`` are the products of the model it belongs to, unless it has a ``kind`` of its own.  ``lora`` is set for the
    duration of a step in which adapters add to it; None, as nearly always, costs nothing.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    parts: tuple[Part, ...] = ()
    ops: LinearOps = field(default_factory=LinearOps)
    lora: LoraDelta | None = None
    kind: LinearKind | None = None

    @classmethod
    def of(cls, *modules: Any) -> "Linear":
        """Make one layer of torch's, their outputs side by side."""
        bias = None if modules[0].bias is None else torch.cat([module.bias for module in modules])
        ends = list(accumulate(int(module.weight.shape[0]) for module in modules))
        parts = tuple(
            Part(module.lego_path, start, stop)
            for module, start, stop in zip(modules, [0, *ends], ends, strict=False)
            if hasattr(module, "lego_path")
        )
        return cls(torch.cat([module.weight for module in modules]), bias, parts)

    @property
    def name(self) -> str:
        """The canonical path of the first of its parts, by which files know it; empty where it has none."""
        return self.parts[0].path if self.parts else ""

    @property
    def is_of_blocks(self) -> bool:
        """Whether it is a block's own, over rows of tokens; modulation and embeddings are over a row a branch."""
        return bool(self.parts) and all("blocks." in part.path and ".norm" not in part.path for part in self.parts)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        kind = self.kind
        out = self.ops.linear(x, self.weight, self.bias) if kind is None else kind(x, self.bias)
        return out if self.lora is None else self.lora(x, out, self.ops)

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the tanh approximation of GELU over the layer's output.

        Rows that adapters add to get their bits in two passes, all others in one where that pays, whatever else is in
        the batch.
        """
        out = None if self.kind is not None else self.ops.linear_gelu(x, self.weight, self.bias)
        if out is None:
            return gelu_tanh(self(x))
        if self.lora is not None:
            adapted = self.lora(x, self.ops.linear(x, self.weight, self.bias), self.ops)
            for start, stop in self.lora.runs:
                out[start:stop] = gelu_tanh(adapted[start:stop])
        return out


def name_layers(module: torch.nn.Module, component: str) -> None:
    """Write on each linear layer its canonical path, so that a Linear made of it knows whose weights it holds."""
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.lego_path = f"{component}.{name}"  # type: ignore[assignment]


def linears(value: Any) -> Iterator[Linear]:
    """Yield every Linear in blocks, and in lists, tuples and mappings of them."""
    if isinstance(value, Linear):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from linears(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from linears(item)
    elif is_dataclass(value):
        for attribute in fields(value):
            yield from linears(getattr(value, attribute.name))


def block_layers(value: Any) -> dict[str, Linear]:
    """Return by name the layers of the blocks in ``value``, a backbone's attributes or a list of blocks."""
    return {layer.name: layer for layer in linears(value) if layer.is_of_blocks}


def share_ops(value: Any) -> LinearOps:
    """Give every Linear in ``value`` (as ``linears`` finds them) one LinearOps, and return it."""
    ops = LinearOps()
    for layer in linears(value):
        layer.ops = ops
    return ops


@dataclass(frozen=True, slots=True)
class Mlp:
    """Two layers with a GELU between them."""

    first: Linear
    second: Linear

    @classmethod
    def of(cls, feed_forward: Any) -> "Mlp":
        """Take the layers of diffusers' FeedForward."""
        return cls(Linear.of(feed_forward.net[0].proj), Linear.of(feed_forward.net[2]))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first.gelu(x))


@dataclass(frozen=True, slots=True)
class EmbeddingMlp:
    """Two layers with a SiLU between them, over one row a branch or a prompt."""

    first: Linear
    second: Linear

    @classmethod
    def of(cls, embedding: Any) -> "EmbeddingMlp":
        """Take the layers of diffusers' TimestepEmbedding or PixArtAlphaTextProjection."""
        return cls(Linear.of(embedding.linear_1), Linear.of(embedding.linear_2))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(F.silu(self.first(x)))


@dataclass(frozen=True, slots=True)
class NumberEmbedding:
    """The embedding of a number of each branch, its time or its guidance: sines and cosines, then two layers."""

    waves: Callable[[torch.Tensor], torch.Tensor]
    mlp: EmbeddingMlp

    @classmethod
    def of(cls, waves: Any, embedding: Any) -> "NumberEmbedding":
        """Take diffusers' Timesteps and the TimestepEmbedding over them."""
        return cls(waves, EmbeddingMlp.of(embedding))

    def __call__(self, numbers: Sequence[float]) -> torch.Tensor:
        """Embed numbers: (branches, width)."""
        weight = self.mlp.first.weight
        waves = self.waves(uploaded(torch.tensor(numbers) * 1000, weight.device))
        return self.mlp(waves.to(weight.dtype))


@dataclass(frozen=True, slots=True)
class Heads:
    """Splits q, k and v of rows into heads; applies to q and k the RMS norms and the rotation the model has."""

    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    norm_epsilon: float
    count: int

    @classmethod
    def of(cls, q_norm: Any, k_norm: Any, count: int) -> "Heads":
        """Take the norms of diffusers' Attention, or None."""
        return cls(None, None, 0.0, count) if q_norm is None else cls(q_norm.weight, k_norm.weight, q_norm.eps, count)

    def __call__(self, qkv: torch.Tensor, rotation: Rotation | None = None) -> torch.Tensor:
        """Map rows (rows, 3 * width) to (rows, 3, heads, head width)."""
        qkv = qkv.view(qkv.shape[0], 3, self.count, qkv.shape[1] // (3 * self.count))
        if self.q_norm is None and rotation is None:
            return qkv
        cos, sin = rotation if rotation is not None else (None, None)
        return qk_norm_rope(qkv, self.q_norm, self.k_norm, eps=self.norm_epsilon, cos=cos, sin=sin)


@dataclass(frozen=True, slots=True)
class Projection:
    """Computes q, k and v of one stream in one layer."""

    qkv: Linear
    heads: Heads

    @classmethod
    def of(cls, q: Any, k: Any, v: Any, q_norm: Any, k_norm: Any, heads: int) -> "Projection":
        """Take the modules of diffusers' Attention."""
        return cls(Linear.of(q, k, v), Heads.of(q_norm, k_norm, heads))

    def __call__(self, x: torch.Tensor, rotation: Rotation | None = None) -> torch.Tensor:
        """Map rows (rows, width) to (rows, 3, heads, head width)."""
        return self.heads(self.qkv(x), rotation)


def take_blocks(modules: Any, take: Callable[[Any], Block], *, release: bool) -> list[Block]:
    """Make blocks of diffusers' modules.

    With ``release`` each module is dropped before the next is taken, so that at most one block's weights lie in memory
    twice.
    """
    blocks = []
    for index in range(len(modules)):
        blocks.append(take(modules[index]))
        if release:
            modules[index] = torch.nn.Identity()
    return blocks


def take_tables(tables: Iterator[torch.Tensor], count: int) -> list[torch.Tensor]:
    """Take the next modulation tables, each (branches, width)."""
    return [next(tables) for _ in range(count)]


def adaln_modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, row_branch: torch.Tensor) -> torch.Tensor:
    """Apply a layer norm, then ``* (1 + scale) + shift`` (Peebles and Xie, 2023).

    ``shift`` and ``scale`` are (branches, width); ``row_branch`` (rows,) says which of their rows each row of x takes.
    """
    return norm_modulate(x, shift, scale, row_branch, eps=NORM_EPSILON)


def gated_residual(x: torch.Tensor, update: torch.Tensor, gate: torch.Tensor, row_branch: torch.Tensor) -> torch.Tensor:
    """Compute ``x + gate * update``; ``row_branch`` says which row of gate (branches, width) each row takes."""
    return gated_residual_kernel(x, update, gate, row_branch)


def add_and_modulate(
    x: torch.Tensor, update: torch.Tensor, table: Sequence[torch.Tensor], row_branch: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the residual stream after a gated update, and its rows modulated for the layer that comes next.

    ``table``: gate, shift and scale, each (branches, width).  The bits of ``gated_residual`` and ``adaln_modulate``.
    """
    gate, shift, scale = table
    total, modulated = residual_norm_modulate(x, update, gate, shift, scale, row_branch, eps=NORM_EPSILON)
    return total, modulated


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """Compute the tanh approximation of GELU; may overwrite x.

    On a CPU torch's own takes three times as long as the same function written as
    ``x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))``.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return F.gelu(x, approximate="tanh")
    twice = 2 * (2 / torch.pi) ** 0.5
    inner = x * x
    return inner.mul_(0.044715 * twice).add_(twice).mul_(x).sigmoid_().mul_(x)
