"""What the families' forward passes are built of: layers over rows, each row-stable, and attention by group.

Weights that are used together are stored together.  Every function here treats a row (or, in
attention, a branch) by itself, so that a lane's bits do not depend on its batch-mates.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import accumulate
from typing import Any, Protocol, TypeVar

import torch
from torch.nn import functional as F

from lego_kernels import gated_residual as gated_residual_kernel
from lego_kernels import norm_modulate, qk_norm_rope
from lego_serve.models.ragged.activations import KvAssembler
from lego_serve.models.ragged.batch_invariant import linear, linear_gelu
from lego_serve.models.ragged.packing import Packing

NORM_EPSILON = 1e-6
Block = TypeVar("Block")
Rotation = tuple[torch.Tensor, torch.Tensor]  # cosines and sines, both (rows, head width)


@dataclass(frozen=True, slots=True)
class Part:
    """A layer of the model by its canonical path, and the outputs [start, stop) of ours that are its own."""

    path: str
    start: int
    stop: int


class LoraDelta(Protocol):
    """What a step's adapters add to some of a layer's rows, in place."""

    @property
    def runs(self) -> Sequence[tuple[int, int]]:
        """Those rows, as runs [start, stop)."""
        ...

    def __call__(self, x: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        """Add to what the layer said of rows x."""
        ...


@dataclass(slots=True)
class Linear:
    """A weight (outputs, inputs) and a bias or None; ``parts`` are the model's layers it answers for.

    ``added`` is what a step's adapters add; None, as nearly always, costs nothing.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    parts: tuple[Part, ...] = ()
    added: LoraDelta | None = None

    @classmethod
    def of(cls, *modules: Any) -> "Linear":
        """One layer that answers what these layers answer, side by side."""
        bias = None if modules[0].bias is None else torch.cat([m.bias for m in modules])
        ends = list(accumulate(int(m.weight.shape[0]) for m in modules))
        parts = tuple(
            Part(m.lego_path, start, stop)
            for m, start, stop in zip(modules, [0, *ends], ends, strict=False)
            if hasattr(m, "lego_path")
        )
        return cls(torch.cat([m.weight for m in modules]), bias, parts)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        said = linear(x, self.weight, self.bias)
        return said if self.added is None else self.added(x, said)

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        """The tanh approximation of GELU over what it says.

        Rows to which something is added get their bits in two passes, all others in one where that pays, whatever
        else is in the batch.
        """
        said = linear_gelu(x, self.weight, self.bias)
        if said is None:
            return gelu_tanh(self(x))
        if self.added is not None:
            apart = self.added(x, linear(x, self.weight, self.bias))
            for start, stop in self.added.runs:
                said[start:stop] = gelu_tanh(apart[start:stop])
        return said


def name_layers(module: torch.nn.Module, component: str) -> None:
    """Write on each linear layer its canonical path, so that a Linear made of it knows whose weights it holds."""
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.lego_path = f"{component}.{name}"  # type: ignore[assignment]


def linears(value: Any) -> Iterator[Linear]:
    """Every Linear in blocks, lists and tuples of them."""
    if isinstance(value, Linear):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from linears(each)
    elif is_dataclass(value):
        for each in fields(value):
            yield from linears(getattr(value, each.name))


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
class Heads:
    """q, k and v of rows split into heads, q and k with the RMS norms and the rotation the model has."""

    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    norm_epsilon: float
    count: int

    @classmethod
    def of(cls, q_norm: Any, k_norm: Any, count: int) -> "Heads":
        """Take the norms of diffusers' Attention, or None."""
        return cls(None, None, 0.0, count) if q_norm is None else cls(q_norm.weight, k_norm.weight, q_norm.eps, count)

    def __call__(self, qkv: torch.Tensor, rotation: Rotation | None = None) -> torch.Tensor:
        """Rows (rows, 3 * width) to (rows, 3, heads, head width)."""
        qkv = qkv.view(qkv.shape[0], 3, self.count, -1)
        if self.q_norm is None and rotation is None:
            return qkv
        cos, sin = rotation if rotation is not None else (None, None)
        return qk_norm_rope(qkv, self.q_norm, self.k_norm, eps=self.norm_epsilon, cos=cos, sin=sin)


@dataclass(frozen=True, slots=True)
class Projection:
    """q, k and v of one stream in one layer."""

    qkv: Linear
    heads: Heads

    @classmethod
    def of(cls, q: Any, k: Any, v: Any, q_norm: Any, k_norm: Any, heads: int) -> "Projection":
        """Take the modules of diffusers' Attention."""
        return cls(Linear.of(q, k, v), Heads.of(q_norm, k_norm, heads))

    def __call__(self, x: torch.Tensor, rotation: Rotation | None = None) -> torch.Tensor:
        """Rows (rows, width) to (rows, 3, heads, head width)."""
        return self.heads(self.qkv(x), rotation)


def take_blocks(modules: Any, take: Callable[[Any], Block], *, release: bool) -> list[Block]:
    """Blocks made of diffusers' modules, each let go of (``release``) before the next, so that weights lie twice
    in memory for one block at a time at most."""
    blocks = []
    for index in range(len(modules)):
        blocks.append(take(modules[index]))
        if release:
            modules[index] = torch.nn.Identity()
    return blocks


def adaln_modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """Layer norm, then ``* (1 + scale) + shift`` with each row's own branch's vectors (Peebles and Xie, 2023)."""
    return norm_modulate(x, shift, scale, of, eps=NORM_EPSILON)


def gated_residual(x: torch.Tensor, update: torch.Tensor, gate: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """``x + gate * update`` with each row's own branch's gate."""
    return gated_residual_kernel(x, update, gate, of)


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """The tanh approximation of GELU; may overwrite x.

    On a CPU torch's own takes three times as long as the same function written as
    ``x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))``.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return F.gelu(x, approximate="tanh")
    twice = 2 * (2 / torch.pi) ** 0.5
    inner = x * x
    return inner.mul_(0.044715 * twice).add_(twice).mul_(x).sigmoid_().mul_(x)


def embed_mlp(x: torch.Tensor, first: Any, second: Any) -> torch.Tensor:
    """diffusers' TimestepEmbedding and PixArtAlphaTextProjection: two layers with a SiLU between them."""
    return linear(F.silu(linear(x, first.weight, first.bias)), second.weight, second.bias)


def embed_numbers(
    embed: Any, mlp: Any, numbers: Sequence[float], device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """What diffusers' time embedding, or its twin for guidance, says of a number of each branch: (branches, width)."""
    waves = embed.time_proj((torch.tensor(numbers) * 1000).to(device)).to(dtype)
    return embed_mlp(waves, mlp.linear_1, mlp.linear_2)


def joint_attention(
    image: torch.Tensor, text: torch.Tensor, packing: Packing, attention_id: str = ""
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over image and text rows of each branch; both (rows, 3, heads, head width) to (rows, width).

    ``attention_id`` names this attention where rows are kept, or kept ones used.
    """
    packing.capture(attention_id, image, text)
    completion = KvAssembler(attention_id)
    image_parts, text_parts = [], []
    for group in packing.groups:
        own, of_text = image[group.image_slice], text[group.text_slice]
        if group.kept is not None:
            keys = completion.of(group.kept, own[:, 1:], of_text[:, 1:])
            said = attend_to(torch.cat([own[:, 0], of_text[:, 0]]), keys)[None]
        else:
            shape = group.count, group.image_rows
            rows = [own.unflatten(0, shape), of_text.unflatten(0, (group.count, group.text_rows))]
            said = attend(torch.cat(rows, dim=1))
        image_parts.append(said[:, : group.image_rows].flatten(0, 1))
        text_parts.append(said[:, group.image_rows :].flatten(0, 1))
    return packing.rows_of(image_parts, packing.image_branch), packing.rows_of(text_parts, packing.text_branch)


def sequence_attention(joint: torch.Tensor, packing: Packing, attention_id: str = "") -> torch.Tensor:
    """The same where text and image are one sequence: (rows, 3, heads, head width) to (rows, width)."""
    packing.capture_joint(attention_id, joint)
    completion = KvAssembler(attention_id)
    parts = []
    for group in packing.groups:
        own = joint[group.joint_slice]
        if group.kept is not None:
            text, image = own[: group.text_rows, 1:], own[group.text_rows :, 1:]
            parts.append(attend_to(own[:, 0], completion.of(group.kept, image, text)))
        else:
            parts.append(attend(own.unflatten(0, (group.count, group.joint_rows))).flatten(0, 1))
    return packing.rows_of(parts, packing.joint_branch)


def self_attention(image: torch.Tensor, packing: Packing, attention_id: str = "") -> torch.Tensor:
    """Attention over the image rows of each branch alone."""
    packing.capture(attention_id, image)
    completion = KvAssembler(attention_id)
    parts = []
    for group in packing.groups:
        own = image[group.image_slice]
        if group.kept is not None:
            parts.append(attend_to(own[:, 0], completion.of(group.kept, own[:, 1:], own[:0, 1:])))
        else:
            parts.append(attend(own.unflatten(0, (group.count, group.image_rows))).flatten(0, 1))
    return packing.rows_of(parts, packing.image_branch)


def attend(qkv: torch.Tensor) -> torch.Tensor:
    """Softmax attention within each branch: (branches, rows, 3, heads, head width) to (branches, rows, width)."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def attend_to(q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
    """Attention of one branch's rows to others: q (rows, heads, head width), kv (others, 2, heads, head width)."""
    k, v = kv.permute(1, 2, 0, 3)
    return F.scaled_dot_product_attention(q.transpose(0, 1)[None], k[None], v[None])[0].transpose(0, 1).flatten(1)
