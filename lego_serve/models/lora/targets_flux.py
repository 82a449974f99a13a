"""The layers of FLUX that adapters may change, and their names in the original code."""

import re

from lego_serve.models.lora.targets import CheckpointAlias, LoraTargets, stream_by_name

_DOUBLE, _SINGLE = "transformer_blocks.N", "single_transformer_blocks.N"
_QKV = (f"{_DOUBLE}.attn.to_q", f"{_DOUBLE}.attn.to_k", f"{_DOUBLE}.attn.to_v")
_ADDED = (f"{_DOUBLE}.attn.add_q_proj", f"{_DOUBLE}.attn.add_k_proj", f"{_DOUBLE}.attn.add_v_proj")
_SINGLE_QKV = (f"{_SINGLE}.attn.to_q", f"{_SINGLE}.attn.to_k", f"{_SINGLE}.attn.to_v")

LORA_TARGETS = LoraTargets(
    transformer="FluxTransformer2DModel",
    texts={"text_encoder": "CLIPTextModel"},
    stream_of=stream_by_name,
    fixed=("transformer.time_text_embed.", "transformer.context_embedder"),
    base_model_pattern=re.compile(r"flux", re.I),
    layer_pattern=re.compile(r"single_transformer_blocks|double_blocks|single_blocks"),
    aliases=(
        CheckpointAlias("double_blocks_N_img_attn_qkv", _QKV),
        CheckpointAlias("double_blocks_N_txt_attn_qkv", _ADDED),
        CheckpointAlias("double_blocks_N_img_attn_proj", (f"{_DOUBLE}.attn.to_out.0",)),
        CheckpointAlias("double_blocks_N_txt_attn_proj", (f"{_DOUBLE}.attn.to_add_out",)),
        CheckpointAlias("double_blocks_N_img_mlp_0", (f"{_DOUBLE}.ff.net.0.proj",)),
        CheckpointAlias("double_blocks_N_img_mlp_2", (f"{_DOUBLE}.ff.net.2",)),
        CheckpointAlias("double_blocks_N_txt_mlp_0", (f"{_DOUBLE}.ff_context.net.0.proj",)),
        CheckpointAlias("double_blocks_N_txt_mlp_2", (f"{_DOUBLE}.ff_context.net.2",)),
        CheckpointAlias("double_blocks_N_img_mod_lin", (f"{_DOUBLE}.norm1.linear",)),
        CheckpointAlias("double_blocks_N_txt_mod_lin", (f"{_DOUBLE}.norm1_context.linear",)),
        CheckpointAlias("single_blocks_N_linear1", (*_SINGLE_QKV, f"{_SINGLE}.proj_mlp")),
        CheckpointAlias("single_blocks_N_linear2", (f"{_SINGLE}.proj_out",)),
        CheckpointAlias("single_blocks_N_modulation_lin", (f"{_SINGLE}.norm.linear",)),
        # XLabs' trainer names the attention's processors: 1 is the image's, 2 the text's.
        CheckpointAlias("double_blocks_N_processor_qkv_lora1", _QKV),
        CheckpointAlias("double_blocks_N_processor_qkv_lora2", _ADDED),
        CheckpointAlias("double_blocks_N_processor_proj_lora1", (f"{_DOUBLE}.attn.to_out.0",)),
        CheckpointAlias("double_blocks_N_processor_proj_lora2", (f"{_DOUBLE}.attn.to_add_out",)),
        CheckpointAlias("single_blocks_N_processor_qkv", _SINGLE_QKV),
        CheckpointAlias("single_blocks_N_processor_proj", (f"{_SINGLE}.proj_out",)),
        CheckpointAlias("img_in", ("x_embedder",)),
        CheckpointAlias("final_layer_linear", ("proj_out",)),
        CheckpointAlias("final_layer_adaLN_modulation_1", ("norm_out.linear",), "always"),
    ),
)
