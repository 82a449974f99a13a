"""SD3's ControlNets: their own forward pass over diffusers' SD3ControlNetModel, in all its forms.

A ControlNet is the family's joint blocks over latents and an image's latents.  InstantX's take zeros for
the pooled text and control latents without the VAE's shift; SD3.5 large's read no text at all and
use the backbone's patch embedding.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch.nn import functional as F

from lego_serve.errors import CheckpointError, RequestError
from lego_serve.models import model_files
from lego_serve.models.controlnet.common import BASE_KEYS, LazyResiduals, check_fits, relative_cost, width_of
from lego_serve.models.families.sd3 import Block, block_of, modulations_of, run_block
from lego_serve.models.ragged import attention, layers
from lego_serve.models.ragged.conditioning import Conditioning, PreparedPrompt
from lego_serve.models.ragged.controlnet_source import ControlImage, ControlNetLane, ControlNetSpec
from lego_serve.models.ragged.device import uploaded
from lego_serve.models.ragged.layers import Linear, Mlp, Projection, adaln_modulate, gated_residual
from lego_serve.models.ragged.packing import Packing, pack
from lego_serve.models.registry import ModelSpec

if TYPE_CHECKING:
    from diffusers import SD3ControlNetModel

SIZES_KEPT = 64  # image sizes whose position embeddings are kept


def load_controlnet(spec: ModelSpec, folder: Path, base: ModelSpec, base_folder: Path) -> "Sd3ControlNet":
    """Load the ControlNet of a folder for a base model.  Raises CheckpointError."""
    from diffusers import SD3ControlNetModel

    module = model_files.load_module(spec, folder, "", SD3ControlNetModel)
    config = module.config
    base_config = model_files.read_json(base, base_folder / "transformer" / "config.json")
    keys = tuple(key for key in BASE_KEYS if config["joint_attention_dim"] is not None or key != "joint_attention_dim")
    check_fits(spec, folder, config, base, base_config, keys)
    if module.pos_embed is None:
        module.pos_embed = _backbone_embedding(module, base, base_folder, base_config)
    blocks = int(config["num_layers"])
    extra = int(config["extra_conditioning_channels"])
    net_spec = ControlNetSpec(
        name=spec.name,
        width=width_of(config),
        doubles=blocks,
        singles=0,
        channels=int(config["in_channels"]) + extra,
        share=relative_cost(blocks, base_config["num_layers"]),
    )
    # An inpainting ControlNet's latents come with a mask, and with the VAE's shift whatever else its config says.
    shift = _vae_shift(base, base_folder) if config["force_zeros_for_pooled_projection"] and not extra else 0.0
    return Sd3ControlNet(module, net_spec, shift, release=True)


@dataclass(frozen=True, slots=True)
class ImageBlock:
    """A block over image rows alone; ``chunks`` are the modulation vectors it takes."""

    projection: Projection
    out: Linear
    mlp: Mlp
    chunks: int = 6


class Sd3ControlNet:
    """An SD3 ControlNet over any lanes in one pass, and the source of its residuals in this process."""

    def __init__(
        self, module: "SD3ControlNetModel", spec: ControlNetSpec, shift: float = 0.0, *, release: bool = False
    ) -> None:
        """Take a module's weights.  ``shift`` is added to the VAE's scaled latents to make control latents."""
        module.eval().requires_grad_(False)
        config = module.config
        self.spec = spec
        self._shift = shift
        self._patch = int(config.patch_size)
        self._has_pooled = not config.force_zeros_for_pooled_projection
        self._position_embedding = module.pos_embed
        embed = module.time_text_embed
        self._time = layers.NumberEmbedding.of(embed.time_proj, embed.timestep_embedder)
        self._pooled_in = layers.EmbeddingMlp.of(embed.text_embedder)
        self._width, self._weight = spec.width, module.pos_embed_input.proj.weight
        self._patch_in = _patch_layer(module.pos_embed)
        self._image_in = _patch_layer(module.pos_embed_input)
        self._text_in = None if module.context_embedder is None else Linear.of(module.context_embedder)
        self._modulation = Linear.of(*_modulations(module.transformer_blocks, self._text_in is not None))
        take = _image_block_of if self._text_in is None else block_of
        self._blocks: list[Block | ImageBlock] = layers.take_blocks(module.transformer_blocks, take, release=release)
        self._outs = [Linear.of(out) for out in module.controlnet_blocks]
        self.linear_ops = layers.share_ops(vars(self))
        self._position = lru_cache(maxsize=SIZES_KEPT)(self._position_of)

    @torch.inference_mode()
    def prepare(self, cond: Conditioning, mode: int | None = None) -> PreparedPrompt:
        """Project text tokens and the pooled text.  Raises RequestError for a mode."""
        if mode is not None:
            raise RequestError(f"ControlNet {self.spec.name} has no modes.", param="controlnet")
        tokens = cond.tokens[:0].new_zeros(0, self._width).to(self._weight)
        if self._text_in is not None:
            tokens = self._text_in(cond.tokens.to(self._weight))
        pooled = cond.pooled.to(self._weight)[None]
        pooled = pooled if self._has_pooled else torch.zeros_like(pooled)
        return PreparedPrompt(tokens, self._pooled_in(pooled)[0])

    def image(self, latents: torch.Tensor, key: str = "") -> ControlImage:
        """Make control latents of the VAE's scaled latents, on the model's device, where steps read them."""
        return ControlImage(uploaded(latents + self._shift, self._weight.device), key)

    def start(self, lanes: Sequence[ControlNetLane]) -> LazyResiduals:
        """Begin a step whose residuals are computed on demand."""
        return LazyResiduals(self.residuals(lanes), self.spec, lanes)

    def rows(self, lane: ControlNetLane) -> int:
        """Return the image rows of a lane's branch."""
        h, w = self._size(lane)
        return h * w

    @torch.inference_mode()
    def residuals(self, lanes: Sequence[ControlNetLane]) -> Iterator[torch.Tensor]:
        """Yield the residuals (rows, width), each computed on demand."""
        packing = pack(lanes, [self.rows(lane) for lane in lanes], self._weight.device)
        embedded = self._patches(lanes)
        image = packing.rows_of([embedded[b.lane] for b in packing.branches], packing.image_branch)
        text = packing.rows_of([b.text for b in packing.branches], packing.text_branch)
        pooled = torch.stack([branch.prompt.pooled for branch in packing.branches])
        time = self._time([lanes[branch.lane].time for branch in packing.branches])
        tables = iter(self._modulation(F.silu(time + pooled)).split(self._width, dim=1))
        for block, out in zip(self._blocks, self._outs, strict=True):
            if isinstance(block, ImageBlock):
                image = _run_image_block(block, image, layers.take_tables(tables, block.chunks), packing)
            else:
                image_table = layers.take_tables(tables, block.image.chunks)
                text_table = layers.take_tables(tables, block.text.chunks)
                image, text = run_block(block, image, text, image_table, text_table, packing)
            yield out(image)

    def _size(self, lane: ControlNetLane) -> tuple[int, int]:
        return lane.latents.shape[-2] // self._patch, lane.latents.shape[-1] // self._patch

    def _patches(self, lanes: Sequence[ControlNetLane]) -> list[torch.Tensor]:
        """Project each lane's patches, add their position embeddings and the image's patches: (image rows, width)."""
        sizes = [self._size(lane) for lane in lanes]
        counts = [h * w for h, w in sizes]
        latents = self._patch_in(torch.cat([self._patched(lane.latents) for lane in lanes])).split(counts)
        images = self._image_in(torch.cat([self._patched(lane.image.latents) for lane in lanes])).split(counts)
        if self._position_embedding.pos_embed is not None:
            latents = [(rows + self._position(size)).to(rows.dtype) for rows, size in zip(latents, sizes, strict=True)]
        return [rows + image for rows, image in zip(latents, images, strict=True)]

    def _patched(self, latents: torch.Tensor) -> torch.Tensor:
        channels, height, width = latents.shape
        p = self._patch
        latents = (
            uploaded(latents, self._weight.device)
            .to(self._weight.dtype)
            .reshape(channels, height // p, p, width // p, p)
        )
        return latents.permute(1, 3, 0, 2, 4).reshape(-1, channels * p * p)

    def _position_of(self, size: tuple[int, int]) -> torch.Tensor:
        height, width = size[0] * self._patch, size[1] * self._patch
        position: torch.Tensor = self._position_embedding.cropped_pos_embed(height, width)[0]
        return position


def _patch_layer(embed: Any) -> Linear:
    return Linear(embed.proj.weight.flatten(1), embed.proj.bias)


def _modulations(blocks: Any, has_text: bool) -> list[Any]:
    if not has_text:
        return [block.norm1.linear for block in blocks]
    return modulations_of(blocks)


def _image_block_of(module: Any) -> ImageBlock:
    attn = module.attn
    projection = Projection.of(attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k, attn.heads)
    return ImageBlock(projection, Linear.of(attn.to_out[0]), Mlp.of(module.ff))


def _run_image_block(
    block: ImageBlock, image: torch.Tensor, table: list[torch.Tensor], packing: Packing
) -> torch.Tensor:
    row_branch = packing.image_branch
    qkv = block.projection(adaln_modulate(image, table[0], table[1], row_branch))
    image = gated_residual(image, block.out(attention.self_attention(qkv, packing)), table[2], row_branch)
    return gated_residual(image, block.mlp(adaln_modulate(image, table[3], table[4], row_branch)), table[5], row_branch)


def _vae_shift(base: ModelSpec, folder: Path) -> float:
    """Return the VAE's shift, in scaled latents."""
    config = model_files.read_json(base, folder / "vae" / "config.json")
    return float((config.get("shift_factor") or 0.0) * (config.get("scaling_factor") or 1.0))


def _backbone_embedding(module: Any, base: ModelSpec, folder: Path, config: Mapping[str, Any]) -> Any:
    """Load the backbone's own patch embedding, for a ControlNet that has none.  Raises CheckpointError."""
    from diffusers.models.embeddings import PatchEmbed

    weight = module.pos_embed_input.proj.weight
    embed = PatchEmbed(
        height=config["sample_size"],
        width=config["sample_size"],
        patch_size=config["patch_size"],
        in_channels=config["in_channels"],
        embed_dim=width_of(config),
        pos_embed_max_size=config["pos_embed_max_size"],
    )
    state: dict[str, torch.Tensor] = {}
    for file in sorted((folder / "transformer").glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as opened:
                names = [name for name in opened.keys() if name.startswith("pos_embed.")]  # noqa: SIM118
                state |= {name.removeprefix("pos_embed."): opened.get_tensor(name) for name in names}
        except (SafetensorError, OSError):
            raise CheckpointError(f"model {base.name}: {file} is damaged or incomplete") from None
    for name, needed in embed.state_dict().items():
        if name not in state or state[name].shape != needed.shape:
            raise CheckpointError(f"model {base.name}: {folder / 'transformer'} lacks weight pos_embed.{name}")
    embed.load_state_dict(state)
    return embed.to(weight.device, weight.dtype).eval().requires_grad_(False)
