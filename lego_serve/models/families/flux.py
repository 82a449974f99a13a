"""The FLUX.1 family: its own forward pass over diffusers' weights.

Double blocks keep text and image apart and let them attend to each other; single blocks run over both as one sequence.
Guidance is distilled into the model: its value is embedded like the time, and every lane is one branch.  Positions are
rotations of q and k (Su et al., 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from lego_serve.errors import CheckpointError
from lego_serve.models import model_files
from lego_serve.models.lora.targets_flux import LORA_TARGETS
from lego_serve.models.ragged import attention, layers
from lego_serve.models.ragged.activations import AttentionShape
from lego_serve.models.ragged.conditioning import Conditioning, LatentShape, PreparedPrompt
from lego_serve.models.ragged.controlnet import ResidualAdder
from lego_serve.models.ragged.controlnet_source import flux_residual
from lego_serve.models.ragged.lane_input import LaneInput, VelocityRows, pack_lanes
from lego_serve.models.ragged.layers import (
    Linear,
    Mlp,
    Projection,
    Rotation,
    adaln_modulate,
    add_and_modulate,
    gated_residual,
)
from lego_serve.models.ragged.lora import LoraLayers
from lego_serve.models.ragged.packing import Packing
from lego_serve.models.ragged.pruning.router import BlockRouter
from lego_serve.models.ragged.pruning.row_choice import RowChoice
from lego_serve.models.ragged.rotation import image_rotation, join_rotations, stack_rotations
from lego_serve.models.registry import ModelSpec
from lego_serve.models.sampling import FlowMatchTables
from lego_serve.models.text import FluxTextEncoder

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

PATCH = 2  # latent pixels a side of a token: FLUX packs them before the transformer
SIZES_KEPT = 64  # image sizes whose rotations are kept


def load_backbone(spec: ModelSpec) -> tuple["FluxBackbone", FlowMatchTables]:
    """The denoiser of a model and its sigma tables.  Raises CheckpointError."""
    from diffusers import FluxTransformer2DModel

    folder = model_files.model_folder(spec, "transformer", "scheduler", "vae")
    tables = FlowMatchTables(model_files.load_scheduler(spec, folder), explicit_sigmas=True)
    transformer = model_files.load_module(spec, folder, "transformer", FluxTransformer2DModel)
    return FluxBackbone(transformer, model_files.pixels_per_latent(spec, folder), release=True), tables


def load_text_encoder(spec: ModelSpec) -> "FluxTextEncoder":
    """CLIP, for the pooled text, and T5, for the tokens.  Raises CheckpointError."""
    from transformers import CLIPTextModel, T5EncoderModel

    if spec.max_sequence_length < 1:
        raise CheckpointError(f"model {spec.name}: FLUX reads T5's tokens; set `max_sequence_length` to 1 or more")
    folder = model_files.model_folder(spec, "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    return FluxTextEncoder(
        model_files.load_module(spec, folder, "text_encoder", CLIPTextModel),
        model_files.load_tokenizer(spec, folder, "tokenizer"),
        model_files.load_module(spec, folder, "text_encoder_2", T5EncoderModel),
        model_files.load_tokenizer(spec, folder, "tokenizer_2"),
        spec.max_sequence_length,
    )


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream (image or text) of a double block."""

    projection: Projection
    out: Linear
    mlp: Mlp


@dataclass(frozen=True, slots=True)
class Double:
    """A block in which text and image keep weights of their own."""

    image: Stream
    text: Stream


@dataclass(frozen=True, slots=True)
class Single:
    """A block over text and image as one sequence: attention and MLP side by side, in one product each way."""

    heads: layers.Heads
    first: Linear  # q, k, v and the MLP's first layer
    out: Linear
    width: int  # of q


class FluxBackbone:
    """A FLUX transformer that denoises any lanes in one pass."""

    uses_cfg, text_rows = False, 0
    router: BlockRouter | None = None

    def __init__(self, transformer: "FluxTransformer2DModel", pixels_per_latent: int, *, release: bool = False) -> None:
        transformer.eval().requires_grad_(False)
        layers.name_layers(transformer, "transformer")
        config = transformer.config
        self.bucket_rows = 1
        self._rotate = transformer.pos_embed
        heads, head_width = int(config.num_attention_heads), int(config.attention_head_dim)
        blocks = int(config.num_layers) + int(config.num_single_layers)
        self.attentions = (AttentionShape(heads, head_width),) * blocks
        self._width = heads * head_width
        embed = transformer.time_text_embed
        self._time = layers.NumberEmbedding.of(embed.time_proj, embed.timestep_embedder)
        self.guidance_embeds = bool(config.guidance_embeds)
        self._guidance = (
            layers.NumberEmbedding.of(embed.time_proj, embed.guidance_embedder) if self.guidance_embeds else None
        )
        self._pooled_in = layers.EmbeddingMlp.of(embed.text_embedder)
        self.device, self._dtype = transformer.device, transformer.dtype
        self.shape = LatentShape(int(config.in_channels) // PATCH**2, pixels_per_latent, pixels_per_latent * PATCH)
        self.text_width, self.pooled_width = int(config.joint_attention_dim), int(config.pooled_projection_dim)
        self._patch_in, self._text_in = Linear.of(transformer.x_embedder), Linear.of(transformer.context_embedder)
        self._out = Linear.of(transformer.proj_out)
        doubles, singles = transformer.transformer_blocks, transformer.single_transformer_blocks
        self._modulation = Linear.of(*modulations_of(doubles, singles), transformer.norm_out.linear)
        self._doubles = layers.take_blocks(doubles, double_of, release=release)
        self._singles = layers.take_blocks(singles, single_of, release=release)
        own = [self._doubles, self._singles, self._modulation, self._patch_in, self._out]
        self.adapters = LoraLayers.of(layers.linears(own), LORA_TARGETS.stream_of)
        self.linear_ops = layers.share_ops(vars(self))
        # Bounded: clients choose sizes, and a large image's rotations are megabytes.
        self._image_rotation = lru_cache(maxsize=SIZES_KEPT)(self._rotation_of)

    @torch.inference_mode()
    def prepare(self, cond: Conditioning) -> PreparedPrompt:
        """Project text tokens to the model's width, and the pooled text to its share of the modulation."""
        tokens = self._text_in(cond.tokens.to(self.device, self._dtype))
        pooled = cond.pooled.to(self.device, self._dtype)[None]
        return PreparedPrompt(tokens, self._pooled_in(pooled)[0])

    @torch.inference_mode()
    def velocity(self, lanes: Sequence[LaneInput]) -> list[torch.Tensor]:
        """Return the guided velocity of each lane, fp32."""
        return [velocity.whole() for velocity in self.velocity_rows(lanes)]

    @torch.inference_mode()
    def velocity_rows(self, lanes: Sequence[LaneInput]) -> list[VelocityRows]:
        """Return the guided velocity of each lane, fp32, as the rows that were computed."""
        sizes = [(lane.latents.shape[-2] // PATCH, lane.latents.shape[-1] // PATCH) for lane in lanes]
        packing = pack_lanes(lanes, sizes, self.device, uses_cfg=False, bucket_rows=self.bucket_rows)
        with self.adapters.applied(lanes, packing):
            out = self._forward(lanes, sizes, packing)
        out = out[: sum(packing.image_lengths)].float()
        parts = zip(packing.branches, out.split(packing.image_lengths), strict=True)
        rows = {branch.lane: part for branch, part in parts}
        return [lane.velocity_rows(rows[i], PATCH, channels_last=False) for i, lane in enumerate(lanes)]

    def _forward(self, lanes: Sequence[LaneInput], sizes: list[tuple[int, int]], packing: Packing) -> torch.Tensor:
        # Lanes with ControlNets compute all their rows.
        controls = ResidualAdder(lanes, [h * w for h, w in sizes], packing)
        patches = [lanes[b.lane].latent_rows(PATCH, self.device, self._dtype) for b in packing.branches]
        image = self._patch_in(packing.rows_of(patches, packing.image_branch))
        text = packing.rows_of([branch.text for branch in packing.branches], packing.text_branch)
        image_rotation, text_rotation = self._rotations(lanes, sizes, packing)
        embedded = self._embedded(lanes, packing)
        tables = iter(self._modulation(embedded).split(self._width, dim=1))  # in the order blocks use them
        choice = RowChoice(self.router, lanes, packing, embedded, self.adapters)
        for index, double in enumerate(self._doubles):
            image_table, text_table = layers.take_tables(tables, 6), layers.take_tables(tables, 6)
            with choice.of_image(index, image) as part:
                rows, rotations = part.take(image), (part.take_pair(image_rotation), text_rotation)
                rows, text = run_double(
                    double, rows, text, image_table, text_table, part.packing, rotations, str(index)
                )
                image = part.put(image, rows)
            controls.add(image, index, len(self._doubles), flux_residual)
        joint, rotation = packing.join(image, text), join_rotations(image_rotation, text_rotation, packing)
        for index, single in enumerate(self._singles):
            table = layers.take_tables(tables, 3)
            with choice.of_joint(len(self._doubles) + index, joint) as part:
                own, taken = part.take(joint), part.take_pair(rotation)
                rows = run_single(single, own, table, part.packing, taken, f"single.{index}")
                joint = part.put(joint, rows)
            controls.add_joint(joint, index, len(self._singles), flux_residual)
        scale, shift = layers.take_tables(tables, 2)
        return self._out(adaln_modulate(packing.image_part(joint), shift, scale, packing.image_branch))

    def _rotations(
        self, lanes: Sequence[LaneInput], sizes: list[tuple[int, int]], packing: Packing
    ) -> tuple[Rotation, Rotation]:
        image = []
        for branch in packing.branches:
            lane = lanes[branch.lane]
            cos, sin = self._image_rotation(sizes[branch.lane], lane.frame)
            image.append((lane.select_active(cos), lane.select_active(sin)))
        return stack_rotations(image, packing)

    def _rotation_of(self, size: tuple[int, int], frame: int) -> Rotation:
        return image_rotation(self._rotate, size, self.device, frame)

    def _embedded(self, lanes: Sequence[LaneInput], packing: Packing) -> torch.Tensor:
        """Return the time, guidance and text of each branch, of which the modulation is made: (branches, width)."""
        embedded = self._time([lanes[branch.lane].time for branch in packing.branches])
        if self._guidance is not None:
            embedded = embedded + self._guidance([lanes[branch.lane].guidance for branch in packing.branches])
        pooled = torch.stack([branch.prompt.pooled for branch in packing.branches])
        return F.silu(embedded + pooled)


def modulations_of(doubles: Any, singles: Any) -> list[Any]:
    """Return the modulation layers of diffusers' blocks, in the order blocks use their outputs."""
    of_doubles = [linear for block in doubles for linear in (block.norm1.linear, block.norm1_context.linear)]
    return of_doubles + [block.norm.linear for block in singles]


def double_of(module: Any) -> Double:
    """Take the layers of diffusers' FluxTransformerBlock."""
    attn = module.attn
    image = Projection.of(attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k, attn.heads)
    text = Projection.of(
        attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, attn.norm_added_q, attn.norm_added_k, attn.heads
    )
    return Double(
        Stream(image, Linear.of(attn.to_out[0]), Mlp.of(module.ff)),
        Stream(text, Linear.of(attn.to_add_out), Mlp.of(module.ff_context)),
    )


def single_of(module: Any) -> Single:
    """Take the layers of diffusers' FluxSingleTransformerBlock."""
    attn = module.attn
    first = Linear.of(attn.to_q, attn.to_k, attn.to_v, module.proj_mlp)
    return Single(
        layers.Heads.of(attn.norm_q, attn.norm_k, attn.heads),
        first,
        Linear.of(module.proj_out),
        width=int(attn.to_q.weight.shape[0]),
    )


def run_double(
    block: Double,
    image: torch.Tensor,
    text: torch.Tensor,
    image_table: list[torch.Tensor],
    text_table: list[torch.Tensor],
    packing: Packing,
    rotations: tuple[Rotation, Rotation],
    attention_id: str = "",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the image and text rows after a double block, given those before it and its modulation tables."""
    image_in = adaln_modulate(image, image_table[0], image_table[1], packing.image_branch)
    text_in = adaln_modulate(text, text_table[0], text_table[1], packing.text_branch)
    image_out, text_out = attention.joint_attention(
        block.image.projection(image_in, rotations[0]),
        block.text.projection(text_in, rotations[1]),
        packing,
        attention_id,
    )
    return (
        _after_attention(block.image, image, image_out, image_table, packing.image_branch),
        _after_attention(block.text, text, text_out, text_table, packing.text_branch),
    )


def _after_attention(
    stream: Stream, x: torch.Tensor, attended: torch.Tensor, table: list[torch.Tensor], row_branch: torch.Tensor
) -> torch.Tensor:
    x, modulated = add_and_modulate(x, stream.out(attended), table[2:5], row_branch)
    return gated_residual(x, stream.mlp(modulated), table[5], row_branch)


def run_single(
    block: Single,
    joint: torch.Tensor,
    table: list[torch.Tensor],
    packing: Packing,
    rotation: Rotation,
    attention_id: str = "",
) -> torch.Tensor:
    """Return the joint rows after a single block, given those before it and its modulation tables."""
    out = block.first(adaln_modulate(joint, table[0], table[1], packing.joint_branch))
    qkv, hidden = out[:, : 3 * block.width], out[:, 3 * block.width :]
    attended = attention.sequence_attention(block.heads(qkv, rotation), packing, attention_id)
    update = block.out(torch.cat([attended, layers.gelu_tanh(hidden)], dim=1))
    return gated_residual(joint, update, table[2], packing.joint_branch)


def pack_latents(latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Map latents (channels, height, width) to tokens (rows, 4 * channels), channel first in a token."""
    h, w = size
    return latents.view(-1, h, PATCH, w, PATCH).permute(1, 3, 0, 2, 4).reshape(h * w, -1)
