"""The SD3 family (SD3 medium, SD3.5, lego-tiny): its own forward pass over diffusers' weights.

One pass carries any lanes: linear layers run once over the rows of all of them, modulation is
gathered by branch, attention is within each branch.  The modulation of all blocks is one product.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from lego_serve.errors import CheckpointError
from lego_serve.models import model_files
from lego_serve.models.lora.targets_sd3 import LORA_TARGETS
from lego_serve.models.ragged import attention, layers
from lego_serve.models.ragged.activations import AttentionShape
from lego_serve.models.ragged.conditioning import Conditioning, LatentShape, PreparedPrompt
from lego_serve.models.ragged.controlnet import ResidualAdder
from lego_serve.models.ragged.controlnet_source import sd3_residual
from lego_serve.models.ragged.lane_input import LaneInput, VelocityRows, pack_lanes
from lego_serve.models.ragged.layers import Linear, Mlp, Projection, adaln_modulate, add_and_modulate, gated_residual
from lego_serve.models.ragged.lora import LoraLayers
from lego_serve.models.ragged.packing import Packing
from lego_serve.models.ragged.pruning.router import BlockRouter
from lego_serve.models.ragged.pruning.row_choice import RowChoice
from lego_serve.models.registry import ModelSpec
from lego_serve.models.sampling import FlowMatchTables
from lego_serve.models.text import Sd3TextEncoder

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel

PATCH = 2  # latent pixels a side of a token
SIZES_KEPT = 16  # image sizes whose position embeddings are kept


def load_backbone(spec: ModelSpec) -> tuple["Sd3Backbone", FlowMatchTables]:
    """The denoiser of a model and its sigma tables.  Raises CheckpointError."""
    from diffusers import SD3Transformer2DModel

    folder = model_files.model_folder(spec, "transformer", "scheduler", "vae", "tokenizer")
    tables = FlowMatchTables(model_files.load_scheduler(spec, folder))
    transformer = model_files.load_module(spec, folder, "transformer", SD3Transformer2DModel)
    if (patch := transformer.config.patch_size) != PATCH:
        raise CheckpointError(f"model {spec.name}: {folder / 'transformer'} has patch_size {patch}, {PATCH} is needed")
    window = model_files.setting(spec, folder / "tokenizer" / "tokenizer_config.json", "model_max_length", int)
    text_rows = window + spec.max_sequence_length  # CLIP's, and T5's or zeros in their place
    scale = model_files.pixels_per_latent(spec, folder)
    return Sd3Backbone(transformer, scale, text_rows=text_rows, release=True), tables


def load_text_encoder(spec: ModelSpec) -> Sd3TextEncoder:
    """The text encoders and tokenizers of a model.  Raises CheckpointError."""
    from transformers import CLIPTextModelWithProjection, T5EncoderModel

    names = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
    folder = model_files.model_folder(spec, *names, "transformer")
    clips = [model_files.load_module(spec, folder, name, CLIPTextModelWithProjection) for name in names[:2]]
    tokenizers = [model_files.load_tokenizer(spec, folder, name) for name in names[3:5]]
    index = model_files.read_json(spec, folder / "model_index.json")
    t5, t5_tokenizer = None, None
    if spec.max_sequence_length > 0 and (index.get("text_encoder_3") or [None])[0] is not None:
        t5 = model_files.load_module(spec, folder, names[2], T5EncoderModel)
        t5_tokenizer = model_files.load_tokenizer(spec, folder, names[5])
    width = model_files.setting(spec, folder / "transformer" / "config.json", "joint_attention_dim", int)
    return Sd3TextEncoder(clips, tokenizers, t5, t5_tokenizer, width, spec.max_sequence_length)


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream (image or text) of a block; the last block's text has no output and no MLP."""

    projection: Projection
    out: Linear | None
    mlp: Mlp | None
    chunks: int  # modulation vectors it takes: 6, 9 with dual attention, 2 where it has no output


@dataclass(frozen=True, slots=True)
class Block:
    """A joint block, and the image's own second attention where it has one (SD3.5 medium)."""

    image: Stream
    text: Stream
    second: Projection | None
    second_out: Linear | None


class Sd3Backbone:
    """An SD3 transformer that denoises any lanes in one pass."""

    uses_cfg = True
    guidance_embeds = False
    router: BlockRouter | None = None

    def __init__(
        self,
        transformer: "SD3Transformer2DModel",
        pixels_per_latent: int,
        *,
        text_rows: int = 0,
        release: bool = False,
    ) -> None:
        transformer.eval().requires_grad_(False)
        layers.name_layers(transformer, "transformer")
        config = transformer.config
        self.bucket_rows = 1
        self._position_embedding, self._patch = transformer.pos_embed, int(config.patch_size)
        heads, head_width = int(config.num_attention_heads), int(config.attention_head_dim)
        second = (AttentionShape(heads, head_width, is_joint=False),) * len(config.dual_attention_layers or ())
        self.attentions = (AttentionShape(heads, head_width),) * int(config.num_layers) + second
        self.text_rows = text_rows
        self._width = heads * head_width
        self.device, self._dtype = transformer.device, transformer.dtype
        self.shape = LatentShape(int(config.in_channels), pixels_per_latent, pixels_per_latent * self._patch)
        self.text_width, self.pooled_width = int(config.joint_attention_dim), int(config.pooled_projection_dim)
        self._patch_in = Linear(transformer.pos_embed.proj.weight.flatten(1), transformer.pos_embed.proj.bias)
        self._text_in = Linear.of(transformer.context_embedder)
        embed = transformer.time_text_embed
        self._time = layers.NumberEmbedding.of(embed.time_proj, embed.timestep_embedder)
        self._pooled_in = layers.EmbeddingMlp.of(embed.text_embedder)
        self._out = Linear.of(transformer.proj_out)
        modulations = modulations_of(transformer.transformer_blocks)
        self._modulation = Linear.of(*modulations, transformer.norm_out.linear)
        self._blocks = layers.take_blocks(transformer.transformer_blocks, block_of, release=release)
        self.adapters = LoraLayers.of(
            layers.linears([self._blocks, self._modulation, self._out]), LORA_TARGETS.stream_of
        )
        self.linear_ops = layers.share_ops(vars(self))
        self._position = lru_cache(maxsize=SIZES_KEPT)(self._position_of)

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
        sizes = [(lane.latents.shape[-2] // self._patch, lane.latents.shape[-1] // self._patch) for lane in lanes]
        packing = pack_lanes(lanes, sizes, self.device, uses_cfg=True, bucket_rows=self.bucket_rows)
        with self.adapters.applied(lanes, packing):
            out = self._forward(lanes, sizes, packing)
        out = out[: sum(packing.image_lengths)].float()
        parts = zip(packing.branches, out.split(packing.image_lengths), strict=True)
        rows = {(branch.lane, branch.is_negative): part for branch, part in parts}
        return [self._guided(lane, rows[i, False], rows.get((i, True))) for i, lane in enumerate(lanes)]

    def _guided(self, lane: LaneInput, cond: torch.Tensor, negative: torch.Tensor | None) -> VelocityRows:
        combined = cond if negative is None else negative + lane.guidance * (cond - negative)
        return lane.velocity_rows(combined, self._patch, channels_last=True)

    def _forward(self, lanes: Sequence[LaneInput], sizes: list[tuple[int, int]], packing: Packing) -> torch.Tensor:
        # Lanes with ControlNets compute all their rows.
        controls = ResidualAdder(lanes, [h * w for h, w in sizes], packing)
        embedded = self._patches(lanes, sizes)
        image = packing.rows_of([embedded[b.lane] for b in packing.branches], packing.image_branch)
        text = packing.rows_of([b.text for b in packing.branches], packing.text_branch)
        conditions = self._embedded(lanes, packing)
        tables = self._modulations(conditions)
        choice = RowChoice(self.router, lanes, packing, conditions, self.adapters)
        for index, block in enumerate(self._blocks):
            image_table = layers.take_tables(tables, block.image.chunks)
            text_table = layers.take_tables(tables, block.text.chunks)
            with choice.of_image(index, image) as part:
                rows, text = run_block(block, part.take(image), text, image_table, text_table, part.packing, str(index))
                image = part.put(image, rows)
            if block.text.out is not None:  # as in diffusers, nothing is added after the last block of SD3
                controls.add(image, index, len(self._blocks), sd3_residual)
        scale, shift = layers.take_tables(tables, 2)
        return self._out(adaln_modulate(image, shift, scale, packing.image_branch))

    def _patches(self, lanes: Sequence[LaneInput], sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
        """Project each lane's patches and add their position embeddings: (image rows, width)."""
        patches = [lane.latent_rows(self._patch, self.device, self._dtype) for lane in lanes]
        projected = self._patch_in(torch.cat(patches)).split([len(part) for part in patches])
        positions = [lane.select_active(self._position(size)) for lane, size in zip(lanes, sizes, strict=True)]
        return [(rows + position).to(self._dtype) for rows, position in zip(projected, positions, strict=True)]

    def _position_of(self, size: tuple[int, int]) -> torch.Tensor:
        height, width = size[0] * self._patch, size[1] * self._patch
        position: torch.Tensor = self._position_embedding.cropped_pos_embed(height, width)[0]
        return position

    def _embedded(self, lanes: Sequence[LaneInput], packing: Packing) -> torch.Tensor:
        """Return the time and text of each branch, of which the modulation is made: (branches, width)."""
        time = self._time([lanes[branch.lane].time for branch in packing.branches])
        text = torch.stack([branch.prompt.pooled for branch in packing.branches])
        return F.silu(time + text)

    def _modulations(self, embedded: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the modulation tables (branches, width) in the order blocks use them."""
        return iter(self._modulation(embedded).split(self._width, dim=1))


def modulations_of(blocks: Any) -> list[Any]:
    """Return the modulation layers of diffusers' joint blocks, in the order blocks use their outputs."""
    return [linear for block in blocks for linear in (block.norm1.linear, block.norm1_context.linear)]


def block_of(module: Any) -> Block:
    """Take the layers of diffusers' JointTransformerBlock."""
    attn = module.attn
    image = Stream(
        Projection.of(attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k, attn.heads),
        Linear.of(attn.to_out[0]),
        Mlp.of(module.ff),
        9 if module.use_dual_attention else 6,
    )
    added = Projection.of(
        attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, attn.norm_added_q, attn.norm_added_k, attn.heads
    )
    if module.context_pre_only:
        text = Stream(added, None, None, 2)
    else:
        text = Stream(added, Linear.of(attn.to_add_out), Mlp.of(module.ff_context), 6)
    if not module.use_dual_attention:
        return Block(image, text, None, None)
    attn2 = module.attn2
    second = Projection.of(attn2.to_q, attn2.to_k, attn2.to_v, attn2.norm_q, attn2.norm_k, attn2.heads)
    return Block(image, text, second, Linear.of(attn2.to_out[0]))


def run_block(
    block: Block,
    image: torch.Tensor,
    text: torch.Tensor,
    image_table: list[torch.Tensor],
    text_table: list[torch.Tensor],
    packing: Packing,
    attention_id: str = "",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the image and text rows after a block, given those before it and its modulation tables."""
    image_branch, text_branch = packing.image_branch, packing.text_branch
    image_in = adaln_modulate(image, image_table[0], image_table[1], image_branch)
    # The last block's text norm is diffusers' AdaLayerNormContinuous: scale first, then shift.
    shift, scale = (text_table[1], text_table[0]) if block.text.out is None else (text_table[0], text_table[1])
    text_in = adaln_modulate(text, shift, scale, text_branch)
    image_out, text_out = attention.joint_attention(
        block.image.projection(image_in), block.text.projection(text_in), packing, attention_id
    )
    assert block.image.out is not None
    before = image
    update, gate = block.image.out(image_out), image_table[2]
    if block.second is not None and block.second_out is not None:
        image = gated_residual(image, update, gate, image_branch)
        second_in = adaln_modulate(before, image_table[6], image_table[7], image_branch)
        second_out = attention.self_attention(block.second(second_in), packing, f"{attention_id}.second")
        update, gate = block.second_out(second_out), image_table[8]
    image = _mlp_residual(block.image, image, update, [gate, *image_table[3:6]], image_branch)
    if block.text.out is None:
        return image, text
    return image, _mlp_residual(block.text, text, block.text.out(text_out), text_table[2:6], text_branch)


def _mlp_residual(
    stream: Stream, x: torch.Tensor, update: torch.Tensor, table: list[torch.Tensor], row_branch: torch.Tensor
) -> torch.Tensor:
    """Add the attention's update and the MLP's; ``table``: the former's gate, the MLP's shift, scale and gate."""
    assert stream.mlp is not None
    x, modulated = add_and_modulate(x, update, table[:3], row_branch)
    return gated_residual(x, stream.mlp(modulated), table[3], row_branch)
