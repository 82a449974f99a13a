"""The layers of SD3 that adapters may change, and their names in the original code."""

import re

from lego_serve.models.lora.targets import CheckpointAlias, LoraTargets, stream_by_name

_BLOCK = "transformer_blocks.N"
_QKV = (f"{_BLOCK}.attn.to_q", f"{_BLOCK}.attn.to_k", f"{_BLOCK}.attn.to_v")
_ADDED = (f"{_BLOCK}.attn.add_q_proj", f"{_BLOCK}.attn.add_k_proj", f"{_BLOCK}.attn.add_v_proj")
_SECOND_QKV = (f"{_BLOCK}.attn2.to_q", f"{_BLOCK}.attn2.to_k", f"{_BLOCK}.attn2.to_v")
_CLIP = "CLIPTextModelWithProjection"

LORA_TARGETS = LoraTargets(
    transformer="SD3Transformer2DModel",
    texts={"text_encoder": _CLIP, "text_encoder_2": _CLIP},
    stream_of=stream_by_name,
    fixed=(
        "transformer.time_text_embed.",
        "transformer.context_embedder",
        "text_encoder.text_projection",
        "text_encoder_2.text_projection",
    ),
    base_model_pattern=re.compile(r"sd[-_ ]?3|stable-diffusion-(v)?3", re.I),
    layer_pattern=re.compile(r"joint_blocks|attn2?[._]add_[qkv]_proj|norm1_context"),
    aliases=(
        CheckpointAlias("joint_blocks_N_x_block_attn_qkv", _QKV),
        CheckpointAlias("joint_blocks_N_context_block_attn_qkv", _ADDED),
        CheckpointAlias("joint_blocks_N_x_block_attn2_qkv", _SECOND_QKV),
        CheckpointAlias("joint_blocks_N_x_block_attn_proj", (f"{_BLOCK}.attn.to_out.0",)),
        CheckpointAlias("joint_blocks_N_x_block_attn2_proj", (f"{_BLOCK}.attn2.to_out.0",)),
        CheckpointAlias("joint_blocks_N_context_block_attn_proj", (f"{_BLOCK}.attn.to_add_out",)),
        CheckpointAlias("joint_blocks_N_x_block_mlp_fc1", (f"{_BLOCK}.ff.net.0.proj",)),
        CheckpointAlias("joint_blocks_N_x_block_mlp_fc2", (f"{_BLOCK}.ff.net.2",)),
        CheckpointAlias("joint_blocks_N_context_block_mlp_fc1", (f"{_BLOCK}.ff_context.net.0.proj",)),
        CheckpointAlias("joint_blocks_N_context_block_mlp_fc2", (f"{_BLOCK}.ff_context.net.2",)),
        CheckpointAlias("joint_blocks_N_x_block_adaLN_modulation_1", (f"{_BLOCK}.norm1.linear",)),
        CheckpointAlias("joint_blocks_N_context_block_adaLN_modulation_1", (f"{_BLOCK}.norm1_context.linear",), "last"),
        CheckpointAlias("final_layer_linear", ("proj_out",)),
        CheckpointAlias("final_layer_adaLN_modulation_1", ("norm_out.linear",), "always"),
    ),
)
