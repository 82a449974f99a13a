"""The FLUX.1 family: its own forward pass over diffusers' weights.

Double blocks keep text and image apart and let them attend to each other; single blocks run over
both as one sequence.  Guidance is distilled into the model: it is told the number, and every lane
is one branch.  Positions are rotations of q and k (Su et al., 2021).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from lego_serve.errors import CheckpointError
from lego_serve.models import model_files
from lego_serve.models.lora.targets_flux import LORA_TARGETS
from lego_serve.models.ragged import layers
from lego_serve.models.ragged.activations import AttentionShape
from lego_serve.models.ragged.conditioning import Conditioning, LatentShape, PreparedPrompt
from lego_serve.models.ragged.controlnet import ResidualAdder
from lego_serve.models.ragged.controlnet_source import flux_residual
from lego_serve.models.ragged.lane_input import LaneInput, kept_rows
from lego_serve.models.ragged.layers import Heads, Linear, Mlp, Projection, Rotation, adaln_modulate, gated_residual
from lego_serve.models.ragged.lora import LoraLayers
from lego_serve.models.ragged.packing import Packing, pack
from lego_serve.models.registry import ModelSpec
from lego_serve.models.sampling import FlowMatchTables
from lego_serve.models.text import FluxTextEncoder

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel


PATCH = 2  # latent pixels a side of a token: FLUX packs them before the transformer
SIZES_KEPT = 64  # picture sizes whose rotations are kept


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

    heads: Heads
    first: Linear  # q, k, v and the MLP's first layer
    out: Linear
    width: int


class FluxBackbone:
    """A FLUX transformer that denoises any lanes in one pass."""

    uses_cfg, text_rows = False, 0

    def __init__(self, transformer: "FluxTransformer2DModel", pixels_per_latent: int, *, release: bool = False) -> None:
        transformer.eval().requires_grad_(False)
        layers.name_layers(transformer, "transformer")
        config = transformer.config
        self.bucket_rows = 1
        self._embed, self._rotate = transformer.time_text_embed, transformer.pos_embed
        heads = int(config.num_attention_heads), int(config.attention_head_dim)
        self.attentions = (AttentionShape(*heads),) * (int(config.num_layers) + int(config.num_single_layers))
        self.guidance_embeds = bool(config.guidance_embeds)
        self._width = int(config.num_attention_heads * config.attention_head_dim)
        self.device, self._dtype = transformer.device, transformer.dtype
        self.shape = LatentShape(int(config.in_channels) // PATCH**2, pixels_per_latent, pixels_per_latent * PATCH)
        self.text_width, self.pooled_width = int(config.joint_attention_dim), int(config.pooled_projection_dim)
        self._patch_in, self._text_in = Linear.of(transformer.x_embedder), Linear.of(transformer.context_embedder)
        self._out = Linear.of(transformer.proj_out)
        doubles, singles = transformer.transformer_blocks, transformer.single_transformer_blocks
        modulations = [m for b in doubles for m in (b.norm1.linear, b.norm1_context.linear)]
        self._modulation = Linear.of(*modulations, *(b.norm.linear for b in singles), transformer.norm_out.linear)
        self._doubles = layers.take_blocks(doubles, _double, release=release)
        self._singles = layers.take_blocks(singles, lambda block: _single(block, self._width), release=release)
        own = [self._doubles, self._singles, self._modulation, self._patch_in, self._out]
        self.adapters = LoraLayers.of(layers.linears(own), LORA_TARGETS.stream_of)
        # Bounded: clients choose sizes, and a large image's rotations are megabytes.
        self._image_rotation = lru_cache(maxsize=SIZES_KEPT)(self._rotation_of)

    @torch.inference_mode()
    def prepare(self, cond: Conditioning) -> PreparedPrompt:
        """Text tokens projected to the model's width, and the pooled text's share of the modulation."""
        embed = self._embed.text_embedder
        tokens = self._text_in(cond.tokens.to(self.device, self._dtype))
        pooled = cond.pooled.to(self.device, self._dtype)[None]
        return PreparedPrompt(tokens, layers.embed_mlp(pooled, embed.linear_1, embed.linear_2)[0])

    @torch.inference_mode()
    def velocity(self, lanes: Sequence[LaneInput]) -> list[torch.Tensor]:
        """The guided velocity of each lane, fp32."""
        sizes = [(lane.latents.shape[-2] // PATCH, lane.latents.shape[-1] // PATCH) for lane in lanes]
        rows = [lane.rows(h * w) for lane, (h, w) in zip(lanes, sizes, strict=True)]
        kept = kept_rows(lanes)
        packing = pack(lanes, rows, self.device, uses_cfg=False, bucket_rows=self.bucket_rows, **kept)
        with self.adapters.applied(lanes, packing):
            said = self._forward(lanes, sizes, packing)[: sum(rows)].float()
        by_lane = dict(zip((b.lane for b in packing.branches), said.split(packing.image_lengths), strict=True))
        full = [lane.placed(by_lane[i], sizes[i][0] * sizes[i][1]) for i, lane in enumerate(lanes)]
        return [_unpacked(full[i], sizes[i]).to(lane.latents.device) for i, lane in enumerate(lanes)]

    def _forward(self, lanes: Sequence[LaneInput], sizes: list[tuple[int, int]], packing: Packing) -> torch.Tensor:
        controls = ResidualAdder(lanes, [h * w for h, w in sizes], packing)  # lanes with any compute all their rows
        chosen = [lanes[b.lane].chosen(_packed(lanes[b.lane].latents, sizes[b.lane])) for b in packing.branches]
        patches = [part.to(self.device, self._dtype) for part in chosen]
        image = self._patch_in(packing.rows_of(patches, packing.image_branch))
        text = packing.rows_of([b.text for b in packing.branches], packing.text_branch)
        of_image, of_text, of_joint = self._rotation(lanes, sizes, packing)
        tables = self._modulations(lanes, packing)
        for index, double in enumerate(self._doubles):
            image_table, text_table = ([next(tables) for _ in range(6)] for _ in "it")
            rotations = of_image, of_text
            image, text = _run_double(double, image, text, image_table, text_table, packing, rotations, str(index))
            controls.add(image, index, len(self._doubles), flux_residual)
        joint = packing.join(image, text)
        for index, single in enumerate(self._singles):
            joint = _run_single(single, joint, [next(tables) for _ in range(3)], packing, of_joint, f"single.{index}")
            controls.add_joint(joint, index, len(self._singles), flux_residual)
        scale, shift = next(tables), next(tables)
        return self._out(adaln_modulate(packing.image_part(joint), shift, scale, packing.image_branch))

    def _rotation(
        self, lanes: Sequence[LaneInput], sizes: list[tuple[int, int]], packing: Packing
    ) -> tuple[Rotation, Rotation, Rotation]:
        """Cosines and sines of image rows, text rows and joint rows.  All text stands at the origin."""
        image, text = [], []
        for branch in packing.branches:
            cos, sin = self._image_rotation(sizes[branch.lane])
            image.append((lanes[branch.lane].chosen(cos), lanes[branch.lane].chosen(sin)))
            ones = image[-1][0].new_ones(branch.text_rows, image[-1][0].shape[1])
            text.append((ones, torch.zeros_like(ones)))
        of_image = _stacked(image, packing, packing.image_branch)
        of_text = _stacked(text, packing, packing.text_branch)
        of_joint = packing.join(of_image[0], of_text[0]), packing.join(of_image[1], of_text[1])
        return of_image, of_text, of_joint

    def _rotation_of(self, size: tuple[int, int]) -> Rotation:
        """Cosines and sines of an image of so many token rows and columns."""
        rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
        places = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)
        rotation: Rotation = self._rotate(places.to(self.device))
        return rotation

    def _modulations(self, lanes: Sequence[LaneInput], packing: Packing) -> Iterator[torch.Tensor]:
        """The modulation tables (branches, width) in the order blocks use them."""
        embed, like = self._embed, (self.device, self._dtype)
        times = [lanes[b.lane].time for b in packing.branches]
        said = layers.embed_numbers(embed, embed.timestep_embedder, times, *like)
        if self.guidance_embeds:
            scales = [lanes[b.lane].guidance for b in packing.branches]
            said = said + layers.embed_numbers(embed, embed.guidance_embedder, scales, *like)
        pooled = torch.stack([b.cond.pooled for b in packing.branches])
        return iter(self._modulation(F.silu(said + pooled)).split(self._width, dim=1))


def _double(module: Any) -> Double:
    attn = module.attn
    image = Projection.of(attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k, attn.heads)
    text = Projection.of(
        attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, attn.norm_added_q, attn.norm_added_k, attn.heads
    )
    return Double(
        Stream(image, Linear.of(attn.to_out[0]), Mlp.of(module.ff)),
        Stream(text, Linear.of(attn.to_add_out), Mlp.of(module.ff_context)),
    )


def _single(module: Any, width: int) -> Single:
    attn = module.attn
    first = Linear.of(attn.to_q, attn.to_k, attn.to_v, module.proj_mlp)
    return Single(Heads.of(attn.norm_q, attn.norm_k, attn.heads), first, Linear.of(module.proj_out), width)


def _run_double(
    block: Double,
    image: torch.Tensor,
    text: torch.Tensor,
    image_table: list[torch.Tensor],
    text_table: list[torch.Tensor],
    packing: Packing,
    rotations: tuple[Rotation, Rotation],
    attention_id: str = "",
) -> tuple[torch.Tensor, torch.Tensor]:
    of_image, of_text = packing.image_branch, packing.text_branch
    image_in = adaln_modulate(image, image_table[0], image_table[1], of_image)
    text_in = adaln_modulate(text, text_table[0], text_table[1], of_text)
    image_out, text_out = layers.joint_attention(
        block.image.projection(image_in, rotations[0]),
        block.text.projection(text_in, rotations[1]),
        packing,
        attention_id,
    )
    return (
        _stream_rest(block.image, image, image_out, image_table, of_image),
        _stream_rest(block.text, text, text_out, text_table, of_text),
    )


def _stream_rest(
    stream: Stream, x: torch.Tensor, attended: torch.Tensor, table: list[torch.Tensor], of: torch.Tensor
) -> torch.Tensor:
    x = gated_residual(x, stream.out(attended), table[2], of)
    return gated_residual(x, stream.mlp(adaln_modulate(x, table[3], table[4], of)), table[5], of)


def _run_single(
    block: Single,
    joint: torch.Tensor,
    table: list[torch.Tensor],
    packing: Packing,
    rotation: Rotation,
    attention_id: str = "",
) -> torch.Tensor:
    of = packing.joint_branch
    said = block.first(adaln_modulate(joint, table[0], table[1], of))
    qkv, hidden = said[:, : 3 * block.width], said[:, 3 * block.width :]
    attended = layers.sequence_attention(block.heads(qkv, rotation), packing, attention_id)
    update = block.out(torch.cat([attended, layers.gelu_tanh(hidden)], dim=1))
    return gated_residual(joint, update, table[2], of)


def _packed(latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Latents (channels, height, width) to tokens (rows, 4 * channels), channel first in a token."""
    h, w = size
    return latents.view(-1, h, PATCH, w, PATCH).permute(1, 3, 0, 2, 4).reshape(h * w, -1)


def _unpacked(rows: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    h, w = size
    return rows.view(h, w, -1, PATCH, PATCH).permute(2, 0, 3, 1, 4).reshape(-1, h * PATCH, w * PATCH)


def _stacked(parts: Sequence[Rotation], packing: Packing, filled: torch.Tensor) -> Rotation:
    return packing.rows_of([cos for cos, _ in parts], filled), packing.rows_of([sin for _, sin in parts], filled)
