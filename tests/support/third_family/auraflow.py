"""AuraFlow as a third family: this file, and no line elsewhere.

Its own forward pass over diffusers' AuraFlowTransformer2DModel: joint blocks, then blocks over text and image as one
sequence.  q and k are layer-normed, MLPs are gated by a SiLU, a block's second norm comes after its first residual, and
tokens of the model's own stand before the text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from lego_kernels import norm_modulate
from lego_serve.models import model_files
from lego_serve.models.lora.adapter import Uses
from lego_serve.models.lora.targets import LoraTargets
from lego_serve.models.ragged import attention, layers
from lego_serve.models.ragged.activations import AttentionShape
from lego_serve.models.ragged.conditioning import Conditioning, LatentShape, PreparedPrompt
from lego_serve.models.ragged.lane_input import LaneInput, VelocityRows, appended_of, captures_of, reuses_of
from lego_serve.models.ragged.layers import EmbeddingMlp, Linear, gated_residual
from lego_serve.models.ragged.lora import LoraLayers
from lego_serve.models.ragged.packing import Packing, pack
from lego_serve.models.registry import ModelSpec
from lego_serve.models.sampling import FlowMatchTables
from lego_serve.models.text import PromptTokenizer

EPSILON = 1e-5
PATCH = 2  # latent pixels a side of a token


def stream_of(path: str) -> str:
    """Which rows a layer sees."""
    if "norm" in path:
        return "branch"
    if path.startswith("transformer.single_"):
        return "joint"
    return "text" if re.search(r"add_[qkv]_proj|to_add_out|ff_context", path) else "image"


LORA_TARGETS = LoraTargets(
    transformer="AuraFlowTransformer2DModel",
    stream_of=stream_of,
    base_model_pattern=re.compile(r"aura[-_ ]?flow", re.I),
    layer_pattern=re.compile(r"joint_transformer_blocks"),
    fixed=("transformer.context_embedder", "transformer.time_step_proj."),
)


def load_backbone(spec: ModelSpec) -> tuple["AuraFlowBackbone", FlowMatchTables]:
    """The denoiser of a model and its sigma tables.  Raises CheckpointError."""
    from diffusers import AuraFlowTransformer2DModel

    folder = model_files.model_folder(spec, "transformer", "scheduler", "vae")
    transformer = model_files.load_module(spec, folder, "transformer", AuraFlowTransformer2DModel)
    tables = FlowMatchTables(model_files.load_scheduler(spec, folder))
    return AuraFlowBackbone(transformer, model_files.pixels_per_latent(spec, folder)), tables


def load_text_encoder(spec: ModelSpec) -> "AuraFlowTextEncoder":
    """UMT5.  Raises CheckpointError."""
    from transformers import UMT5EncoderModel

    folder = model_files.model_folder(spec, "text_encoder", "tokenizer")
    encoder = model_files.load_module(spec, folder, "text_encoder", UMT5EncoderModel)
    return AuraFlowTextEncoder(encoder, model_files.load_tokenizer(spec, folder, "tokenizer"), spec.max_sequence_length)


class AuraFlowTextEncoder:
    """UMT5's tokens, zeros where the prompt ends; nothing is pooled."""

    def __init__(self, encoder: Any, tokenizer: Any, length: int) -> None:
        self.max_batch = 1
        self._encoder, self._tokenizer, self._length = encoder, PromptTokenizer(tokenizer), length

    def count(self, prompt: str) -> int:
        """Return how many tokens a prompt has.  Raises RequestError when the model cannot read all of it."""
        return self._tokenizer.count(prompt, self._length)

    def encode(self, prompts: Sequence[str], adapters: Uses = ()) -> list[Conditioning]:
        """Encode prompts, ``max_batch`` at a time; adapters have no part for this encoder."""
        starts = range(0, len(prompts), self.max_batch)
        return [cond for at in starts for cond in self.encode_batch(prompts[at : at + self.max_batch], adapters)]

    @torch.inference_mode()
    def encode_batch(self, prompts: Sequence[str], adapters: Uses = ()) -> list[Conditioning]:
        """The same in one pass."""
        ids = self._tokenizer.ids(prompts, self._length, self._encoder.device)
        is_text = ids != self._encoder.config.pad_token_id
        tokens = self._encoder(ids, attention_mask=is_text)[0] * is_text[..., None]
        return [Conditioning(each, each.new_zeros(0)) for each in tokens]


@dataclass(frozen=True, slots=True)
class Stream:
    """The layers that rows of one kind pass through in a block."""

    qkv: Linear
    heads: int
    out: Linear
    first: Linear  # the gate and the value, side by side
    second: Linear

    def attended(self, x: torch.Tensor, table: list[torch.Tensor], of: torch.Tensor) -> torch.Tensor:
        """Rows to what their attention sees: (rows, 3, heads, head width)."""
        qkv = self.qkv(norm_modulate(x, table[0], table[1], of, eps=EPSILON)).unflatten(1, (3, self.heads, -1))
        return torch.cat([F.layer_norm(qkv[:, :2], qkv.shape[-1:], eps=EPSILON), qkv[:, 2:]], dim=1)

    def rest(self, x: torch.Tensor, out: torch.Tensor, table: list[torch.Tensor], of: torch.Tensor) -> torch.Tensor:
        """Rows after the block, given the output of their attention."""
        normed = norm_modulate(gated_residual(x, self.out(out), table[2], of), table[3], table[4], of, eps=EPSILON)
        gate, value = self.first(normed).chunk(2, dim=1)
        return gated_residual(x, self.second(F.silu(gate) * value), table[5], of)


class AuraFlowBackbone:
    """An AuraFlow transformer that denoises any lanes in one pass."""

    uses_cfg = True
    guidance_embeds = False
    text_rows = 0
    pooled_width = 0

    def __init__(self, transformer: Any, pixels_per_latent: int) -> None:
        layers.name_layers(transformer, "transformer")
        config = transformer.config
        self.bucket_rows, self.device = 1, transformer.device
        self._patch, heads = PATCH, int(config.num_attention_heads)
        joint, single = transformer.joint_transformer_blocks, transformer.single_transformer_blocks
        self.attentions = (AttentionShape(heads, int(config.attention_head_dim)),) * (len(joint) + len(single))
        self.shape = LatentShape(int(config.in_channels), pixels_per_latent, pixels_per_latent * self._patch)
        self.text_width, self._width = int(config.joint_attention_dim), heads * int(config.attention_head_dim)
        self._weight, self._registers = transformer.proj_out.weight, transformer.register_tokens[0]
        self._waves, self._time = transformer.time_step_embed, EmbeddingMlp.of(transformer.time_step_proj)
        self._place = transformer.pos_embed
        self._patch_in, self._out = Linear.of(transformer.pos_embed.proj), Linear.of(transformer.proj_out)
        self._text_in = Linear.of(transformer.context_embedder)
        norms = [norm for block in joint for norm in (block.norm1, block.norm1_context)]
        norms += [*(block.norm1 for block in single), transformer.norm_out]
        self._modulation = Linear.of(*(norm.linear for norm in norms))
        self._joint = [(_image_stream(block), _text_stream(block)) for block in joint]
        self._single = [_image_stream(block) for block in single]
        own = [self._joint, self._single, self._modulation, self._patch_in, self._out]
        self.adapters = LoraLayers.of(layers.linears(own), LORA_TARGETS.stream_of)
        self.linear_ops = layers.share_ops(vars(self))

    @torch.inference_mode()
    def prepare(self, cond: Conditioning) -> PreparedPrompt:
        """Text tokens projected to the model's width, its own before them."""
        tokens = torch.cat([self._registers, self._text_in(cond.tokens.to(self._weight))])
        return PreparedPrompt(tokens, tokens.new_zeros(0))

    @torch.inference_mode()
    def velocity(self, lanes: Sequence[LaneInput]) -> list[torch.Tensor]:
        """The guided velocity of each lane, fp32."""
        return [velocity.whole() for velocity in self.velocity_rows(lanes)]

    @torch.inference_mode()
    def velocity_rows(self, lanes: Sequence[LaneInput]) -> list[VelocityRows]:
        """The same, as the rows that were computed."""
        sizes = [(lane.latents.shape[-2] // self._patch, lane.latents.shape[-1] // self._patch) for lane in lanes]
        counts = [lane.active_rows(h * w) for lane, (h, w) in zip(lanes, sizes, strict=True)]
        packing = pack(
            lanes,
            counts,
            self.device,
            bucket_rows=self.bucket_rows,
            reuses=reuses_of(lanes),
            captures=captures_of(lanes),
            appended=appended_of(lanes),
        )
        with self.adapters.applied(lanes, packing):
            out = self._forward(lanes, sizes, packing)[: sum(packing.image_lengths)].float()
        parts = zip(packing.branches, out.split(packing.image_lengths), strict=True)
        rows = {(branch.lane, branch.is_negative): part for branch, part in parts}
        return [self._guided(lane, rows[i, False], rows.get((i, True))) for i, lane in enumerate(lanes)]

    def _guided(self, lane: LaneInput, cond: torch.Tensor, negative: torch.Tensor | None) -> VelocityRows:
        combined = cond if negative is None else negative + lane.guidance * (cond - negative)
        return lane.velocity_rows(combined, self._patch, channels_last=True)

    def _forward(self, lanes: Sequence[LaneInput], sizes: list[tuple[int, int]], packing: Packing) -> torch.Tensor:
        of_image, of_text, of_joint = packing.image_branch, packing.text_branch, packing.joint_branch
        patches = [lanes[b.lane].select_active(self._patches(lanes[b.lane], sizes[b.lane])) for b in packing.branches]
        places = [lanes[b.lane].select_active(self._places(sizes[b.lane])) for b in packing.branches]
        image = self._patch_in(packing.rows_of(patches, of_image)) + packing.rows_of(places, of_image)
        text = packing.rows_of([b.text for b in packing.branches], of_text)
        tables = self._tables([lanes[b.lane].time for b in packing.branches])
        for index, (mine, other) in enumerate(self._joint):
            own, added = (layers.take_tables(tables, 6) for _ in range(2))
            qkvs = mine.attended(image, own, of_image), other.attended(text, added, of_text)
            out = attention.joint_attention(*qkvs, packing, str(index))
            image, text = mine.rest(image, out[0], own, of_image), other.rest(text, out[1], added, of_text)
        joint = packing.join(image, text)
        for index, mine in enumerate(self._single):
            own = [next(tables) for _ in range(6)]
            attended = attention.sequence_attention(mine.attended(joint, own, of_joint), packing, f"single.{index}")
            joint = mine.rest(joint, attended, own, of_joint)
        scale, shift = next(tables), next(tables)
        return self._out(torch.addcmul(shift[of_image], packing.image_part(joint), 1 + scale[of_image]))

    def _tables(self, times: Sequence[float]) -> Iterator[torch.Tensor]:
        """The modulation tables (branches, width) in the order blocks use them."""
        waves = self._waves(torch.tensor(times, device=self._weight.device)).to(self._weight)
        return iter(self._modulation(F.silu(self._time(waves))).split(self._width, dim=1))

    def _patches(self, lane: LaneInput, size: tuple[int, int]) -> torch.Tensor:
        h, w, p = *size, self._patch
        return lane.latents.to(self._weight).view(-1, h, p, w, p).permute(1, 3, 0, 2, 4).reshape(h * w, -1)

    def _places(self, size: tuple[int, int]) -> torch.Tensor:
        chosen = self._place.pe_selection_index_based_on_dim(size[0] * self._patch, size[1] * self._patch)
        places: torch.Tensor = self._place.pos_embed[0, chosen]
        return places


def _image_stream(block: Any) -> Stream:
    attn = block.attn
    return _stream(attn, (attn.to_q, attn.to_k, attn.to_v), attn.to_out[0], block.ff)


def _text_stream(block: Any) -> Stream:
    attn = block.attn
    return _stream(attn, (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj), attn.to_add_out, block.ff_context)


def _stream(attn: Any, qkv: tuple[Any, Any, Any], out: Any, ff: Any) -> Stream:
    first = Linear.of(ff.linear_1, ff.linear_2)
    return Stream(Linear.of(*qkv), int(attn.heads), Linear.of(out), first, Linear.of(ff.out_projection))
