"""What adapters may change of FLUX, and what its layers are called in the original code."""

import re

from lego_serve.models.lora.targets import Adaptable, Original, stream_by_name

_DOUBLE, _SINGLE = "transformer_blocks.N", "single_transformer_blocks.N"
_QKV = (f"{_DOUBLE}.attn.to_q", f"{_DOUBLE}.attn.to_k", f"{_DOUBLE}.attn.to_v")
_ADDED = (f"{_DOUBLE}.attn.add_q_proj", f"{_DOUBLE}.attn.add_k_proj", f"{_DOUBLE}.attn.add_v_proj")
_SINGLE_QKV = (f"{_SINGLE}.attn.to_q", f"{_SINGLE}.attn.to_k", f"{_SINGLE}.attn.to_v")

ADAPTABLE = Adaptable(
    transformer="FluxTransformer2DModel",
    texts={"text_encoder": "CLIPTextModel"},
    stream_of=stream_by_name,
    fixed=("transformer.time_text_embed.", "transformer.context_embedder"),
    said=re.compile(r"flux", re.I),
    looks=re.compile(r"single_transformer_blocks|double_blocks|single_blocks"),
    originals=(
        Original("double_blocks_N_img_attn_qkv", _QKV),
        Original("double_blocks_N_txt_attn_qkv", _ADDED),
        Original("double_blocks_N_img_attn_proj", (f"{_DOUBLE}.attn.to_out.0",)),
        Original("double_blocks_N_txt_attn_proj", (f"{_DOUBLE}.attn.to_add_out",)),
        Original("double_blocks_N_img_mlp_0", (f"{_DOUBLE}.ff.net.0.proj",)),
        Original("double_blocks_N_img_mlp_2", (f"{_DOUBLE}.ff.net.2",)),
        Original("double_blocks_N_txt_mlp_0", (f"{_DOUBLE}.ff_context.net.0.proj",)),
        Original("double_blocks_N_txt_mlp_2", (f"{_DOUBLE}.ff_context.net.2",)),
        Original("double_blocks_N_img_mod_lin", (f"{_DOUBLE}.norm1.linear",)),
        Original("double_blocks_N_txt_mod_lin", (f"{_DOUBLE}.norm1_context.linear",)),
        Original("single_blocks_N_linear1", (*_SINGLE_QKV, f"{_SINGLE}.proj_mlp")),
        Original("single_blocks_N_linear2", (f"{_SINGLE}.proj_out",)),
        Original("single_blocks_N_modulation_lin", (f"{_SINGLE}.norm.linear",)),
        Original("img_in", ("x_embedder",)),
        Original("final_layer_linear", ("proj_out",)),
        Original("final_layer_adaLN_modulation_1", ("norm_out.linear",), "always"),
    ),
)
