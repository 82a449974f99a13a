"""The SD3 family (SD3 medium, SD3.5, lego-tiny): its own forward pass over diffusers' weights.

One pass carries any lanes: linear layers run once over the rows of all of them, modulation is
gathered by branch, attention sees one branch at a time.  Weights that are used together are
stored together: q, k and v of a stream, and the modulation of all blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from lego_serve.models.base import LaneInput, LatentShape
from lego_serve.models.gemm import linear
from lego_serve.models.packing import Packing, pack

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel

NORM_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Linear:
    """A weight (outputs, inputs) and a bias or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    @classmethod
    def of(cls, *modules: Any) -> "Linear":
        """One layer that answers what these layers answer, side by side."""
        bias = None if modules[0].bias is None else torch.cat([m.bias for m in modules])
        return cls(torch.cat([m.weight for m in modules]), bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class Projection:
    """q, k and v of one stream in one layer, with the RMS norms of q and k where the model has them."""

    qkv: Linear
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    norm_epsilon: float
    heads: int

    @classmethod
    def of(cls, q: Any, k: Any, v: Any, q_norm: Any, k_norm: Any, heads: int) -> "Projection":
        """Take the modules of diffusers' Attention."""
        if q_norm is None:
            return cls(Linear.of(q, k, v), None, None, 0.0, heads)
        return cls(Linear.of(q, k, v), q_norm.weight, k_norm.weight, q_norm.eps, heads)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Rows (rows, width) to (rows, 3, heads, head width)."""
        qkv = self.qkv(x).view(x.shape[0], 3, self.heads, -1)
        if self.q_norm is None or self.k_norm is None:
            return qkv
        q, k = (
            rms_norm(qkv[:, index], weight, self.norm_epsilon)
            for index, weight in enumerate((self.q_norm, self.k_norm))
        )
        return torch.stack([q, k, qkv[:, 2]], dim=1)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Root-mean-square norm over the last dimension, its mean taken in fp32."""
    scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + epsilon)
    return (x * scale).to(x.dtype) * weight


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


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream (image or text) of a block: projections, output and MLP; the last block's text has no output."""

    projection: Projection
    out: Linear | None
    mlp_in: Linear | None
    mlp_out: Linear | None
    chunks: int  # modulation vectors it takes: 6, 9 with dual attention, 2 when only its keys are used


@dataclass(frozen=True, slots=True)
class Block:
    """A joint block, and the image's own second attention where it has one (SD3.5 medium)."""

    image: Stream
    text: Stream
    second: Projection | None
    second_out: Linear | None


class Sd3Backbone:
    """An SD3 transformer that denoises any lanes in one pass."""

    def __init__(self, transformer: "SD3Transformer2DModel", pixels_per_latent: int) -> None:
        transformer.eval().requires_grad_(False)
        config = transformer.config
        self._transformer = transformer
        self._patch = int(config.patch_size)
        self._width = int(config.num_attention_heads * config.attention_head_dim)
        self._device, self._dtype = transformer.device, transformer.dtype
        self.shape = LatentShape(int(config.in_channels), pixels_per_latent, pixels_per_latent * self._patch)
        self.text_width, self.pooled_width = int(config.joint_attention_dim), int(config.pooled_projection_dim)
        self._patch_in = Linear(transformer.pos_embed.proj.weight.flatten(1), transformer.pos_embed.proj.bias)
        self._text_in = Linear.of(transformer.context_embedder)
        self._out = Linear.of(transformer.proj_out)
        self._blocks = [_block(b) for b in transformer.transformer_blocks]
        modulations = [m for b in transformer.transformer_blocks for m in (b.norm1.linear, b.norm1_context.linear)]
        self._modulation = Linear.of(*modulations, transformer.norm_out.linear)
        self._positions: dict[tuple[int, int], torch.Tensor] = {}

    @torch.inference_mode()
    def velocity(self, lanes: Sequence[LaneInput]) -> list[torch.Tensor]:
        """The guided velocity of each lane, fp32."""
        sizes = [(lane.latents.shape[-2] // self._patch, lane.latents.shape[-1] // self._patch) for lane in lanes]
        packing = pack(lanes, [h * w for h, w in sizes], self._device)
        said = self._forward(lanes, sizes, packing)
        by_lane: dict[int, list[torch.Tensor]] = {}
        for branch, rows in zip(packing.branches, said.float().split(packing.image_lengths), strict=True):
            by_lane.setdefault(branch.lane, []).append(rows)
        return [self._guided(lane, by_lane[i], sizes[i]) for i, lane in enumerate(lanes)]

    def _guided(self, lane: LaneInput, rows: list[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        combined = rows[0] if len(rows) == 1 else rows[0] + lane.guidance * (rows[1] - rows[0])
        h, w, p = *size, self._patch
        patches = combined.view(h, w, p, p, -1)
        return patches.permute(4, 0, 2, 1, 3).reshape(-1, h * p, w * p).to(lane.latents.device)

    def _forward(self, lanes: Sequence[LaneInput], sizes: list[tuple[int, int]], packing: Packing) -> torch.Tensor:
        embedded = self._embed(lanes, sizes)
        image = torch.cat([embedded[b.lane] for b in packing.branches])
        tokens = torch.cat([b.cond.tokens for b in packing.branches]).to(self._device, self._dtype)
        text = self._text_in(tokens)
        tables = self._modulations(lanes, packing)
        for block in self._blocks:
            image_table, text_table = (
                [next(tables) for _ in range(stream.chunks)] for stream in (block.image, block.text)
            )
            image, text = _run_block(block, image, text, image_table, text_table, packing)
        scale, shift = next(tables), next(tables)
        return self._out(_modulate(_norm(image), shift, scale, packing.image_branch))

    def _embed(self, lanes: Sequence[LaneInput], sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
        """Each lane's patches projected, with their places added: (image rows, width)."""
        p = self._patch
        patches = []
        for lane, (h, w) in zip(lanes, sizes, strict=True):
            latents = lane.latents.to(self._device, self._dtype)
            patches.append(latents.view(-1, h, p, w, p).permute(1, 3, 0, 2, 4).reshape(h * w, -1))
        rows = self._patch_in(torch.cat(patches)).split([h * w for h, w in sizes])
        return [(r + self._position(size)).to(self._dtype) for r, size in zip(rows, sizes, strict=True)]

    def _position(self, size: tuple[int, int]) -> torch.Tensor:
        if size not in self._positions:
            h, w = size[0] * self._patch, size[1] * self._patch
            self._positions[size] = self._transformer.pos_embed.cropped_pos_embed(h, w)[0]
        return self._positions[size]

    def _modulations(self, lanes: Sequence[LaneInput], packing: Packing) -> Any:
        """An iterator over the modulation tables (branches, width) in the order blocks use them."""
        embed = self._transformer.time_text_embed
        sigmas = torch.tensor([lanes[b.lane].sigma for b in packing.branches]) * 1000
        pooled = torch.stack([b.cond.pooled for b in packing.branches]).to(self._device, self._dtype)
        time = embed.time_proj(sigmas.to(self._device)).to(self._dtype)
        time = _mlp(time, embed.timestep_embedder.linear_1, embed.timestep_embedder.linear_2)
        text = _mlp(pooled, embed.text_embedder.linear_1, embed.text_embedder.linear_2)
        return iter(self._modulation(F.silu(time + text)).split(self._width, dim=1))


def _block(module: Any) -> Block:
    attn = module.attn
    image = Stream(
        Projection.of(attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k, attn.heads),
        Linear.of(attn.to_out[0]),
        Linear.of(module.ff.net[0].proj),
        Linear.of(module.ff.net[2]),
        9 if module.use_dual_attention else 6,
    )
    added = Projection.of(
        attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, attn.norm_added_q, attn.norm_added_k, attn.heads
    )
    if module.context_pre_only:
        text = Stream(added, None, None, None, 2)
    else:
        ff = module.ff_context
        text = Stream(added, Linear.of(attn.to_add_out), Linear.of(ff.net[0].proj), Linear.of(ff.net[2]), 6)
    if not module.use_dual_attention:
        return Block(image, text, None, None)
    own = module.attn2
    second = Projection.of(own.to_q, own.to_k, own.to_v, own.norm_q, own.norm_k, own.heads)
    return Block(image, text, second, Linear.of(own.to_out[0]))


def _run_block(
    block: Block,
    image: torch.Tensor,
    text: torch.Tensor,
    image_table: list[torch.Tensor],
    text_table: list[torch.Tensor],
    packing: Packing,
) -> tuple[torch.Tensor, torch.Tensor]:
    of_image, of_text = packing.image_branch, packing.text_branch
    normed_image, normed_text = _norm(image), _norm(text)
    image_in = _modulate(normed_image, image_table[0], image_table[1], of_image)
    # The last block's text norm is diffusers' AdaLayerNormContinuous: scale first, then shift.
    shift, scale = (text_table[1], text_table[0]) if block.text.out is None else (text_table[0], text_table[1])
    text_in = _modulate(normed_text, shift, scale, of_text)
    image_out, text_out = _joint_attention(block.image.projection(image_in), block.text.projection(text_in), packing)
    assert block.image.out is not None
    image = _gated(image, block.image.out(image_out), image_table[2], of_image)
    if block.second is not None and block.second_out is not None:
        second_in = _modulate(normed_image, image_table[6], image_table[7], of_image)
        second = block.second_out(_self_attention(block.second(second_in), packing))
        image = _gated(image, second, image_table[8], of_image)
    image = _mlp_residual(block.image, image, image_table, of_image)
    if block.text.out is None:
        return image, text
    text = _gated(text, block.text.out(text_out), text_table[2], of_text)
    return image, _mlp_residual(block.text, text, text_table, of_text)


def _mlp_residual(stream: Stream, x: torch.Tensor, table: list[torch.Tensor], of: torch.Tensor) -> torch.Tensor:
    assert stream.mlp_in is not None
    assert stream.mlp_out is not None
    hidden = gelu_tanh(stream.mlp_in(_modulate(_norm(x), table[3], table[4], of)))
    return _gated(x, stream.mlp_out(hidden), table[5], of)


def _joint_attention(image: torch.Tensor, text: torch.Tensor, packing: Packing) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over image and text rows of each branch; both (rows, 3, heads, head width) to (rows, width)."""
    image_parts, text_parts = [], []
    for group in packing.groups:
        rows = [
            image[group.image_slice].unflatten(0, (group.count, group.image_rows)),
            text[group.text_slice].unflatten(0, (group.count, group.text_rows)),
        ]
        said = _attend(torch.cat(rows, dim=1))
        image_parts.append(said[:, : group.image_rows].flatten(0, 1))
        text_parts.append(said[:, group.image_rows :].flatten(0, 1))
    return torch.cat(image_parts), torch.cat(text_parts)


def _self_attention(image: torch.Tensor, packing: Packing) -> torch.Tensor:
    return torch.cat(
        [_attend(image[g.image_slice].unflatten(0, (g.count, g.image_rows))).flatten(0, 1) for g in packing.groups]
    )


def _attend(qkv: torch.Tensor) -> torch.Tensor:
    """Softmax attention within each branch: (branches, rows, 3, heads, head width) to (branches, rows, width)."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _norm(x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPSILON)


def _modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """``x * (1 + scale) + shift`` with each row's own branch's vectors."""
    return torch.addcmul(shift.index_select(0, of), x, (1 + scale).index_select(0, of))


def _gated(x: torch.Tensor, update: torch.Tensor, gate: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    return torch.addcmul(x, gate.index_select(0, of), update)


def _mlp(x: torch.Tensor, first: Any, second: Any) -> torch.Tensor:
    return linear(F.silu(linear(x, first.weight, first.bias)), second.weight, second.bias)
