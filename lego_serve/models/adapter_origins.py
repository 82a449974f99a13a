"""What adapters are made for: the original code's layer names of each family, and how another model's are told."""

import re
from collections.abc import Iterable, Mapping

_QKV = ("to_q", "to_k", "to_v")
_ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")


def _attention(block: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{block}.{name}" for name in names)


# (original name, dots as underscores and N a block's number; diffusers' paths side by side; whether the
# halves are swapped: diffusers has scale before shift where the original has shift before scale)
ORIGINAL_NAMES: Mapping[str, tuple[tuple[str, tuple[str, ...], str], ...]] = {
    "flux": (
        ("double_blocks_N_img_attn_qkv", _attention("transformer_blocks.N.attn", _QKV), "no"),
        ("double_blocks_N_txt_attn_qkv", _attention("transformer_blocks.N.attn", _ADDED), "no"),
        ("double_blocks_N_img_attn_proj", ("transformer_blocks.N.attn.to_out.0",), "no"),
        ("double_blocks_N_txt_attn_proj", ("transformer_blocks.N.attn.to_add_out",), "no"),
        ("double_blocks_N_img_mlp_0", ("transformer_blocks.N.ff.net.0.proj",), "no"),
        ("double_blocks_N_img_mlp_2", ("transformer_blocks.N.ff.net.2",), "no"),
        ("double_blocks_N_txt_mlp_0", ("transformer_blocks.N.ff_context.net.0.proj",), "no"),
        ("double_blocks_N_txt_mlp_2", ("transformer_blocks.N.ff_context.net.2",), "no"),
        ("double_blocks_N_img_mod_lin", ("transformer_blocks.N.norm1.linear",), "no"),
        ("double_blocks_N_txt_mod_lin", ("transformer_blocks.N.norm1_context.linear",), "no"),
        (
            "single_blocks_N_linear1",
            (
                *_attention("single_transformer_blocks.N.attn", _QKV),
                "single_transformer_blocks.N.proj_mlp",
            ),
            "no",
        ),
        ("single_blocks_N_linear2", ("single_transformer_blocks.N.proj_out",), "no"),
        ("single_blocks_N_modulation_lin", ("single_transformer_blocks.N.norm.linear",), "no"),
        ("img_in", ("x_embedder",), "no"),
        ("final_layer_linear", ("proj_out",), "no"),
        ("final_layer_adaLN_modulation_1", ("norm_out.linear",), "always"),
    ),
    "sd3": (
        ("joint_blocks_N_x_block_attn_qkv", _attention("transformer_blocks.N.attn", _QKV), "no"),
        ("joint_blocks_N_context_block_attn_qkv", _attention("transformer_blocks.N.attn", _ADDED), "no"),
        ("joint_blocks_N_x_block_attn2_qkv", _attention("transformer_blocks.N.attn2", _QKV), "no"),
        ("joint_blocks_N_x_block_attn_proj", ("transformer_blocks.N.attn.to_out.0",), "no"),
        ("joint_blocks_N_x_block_attn2_proj", ("transformer_blocks.N.attn2.to_out.0",), "no"),
        ("joint_blocks_N_context_block_attn_proj", ("transformer_blocks.N.attn.to_add_out",), "no"),
        ("joint_blocks_N_x_block_mlp_fc1", ("transformer_blocks.N.ff.net.0.proj",), "no"),
        ("joint_blocks_N_x_block_mlp_fc2", ("transformer_blocks.N.ff.net.2",), "no"),
        ("joint_blocks_N_context_block_mlp_fc1", ("transformer_blocks.N.ff_context.net.0.proj",), "no"),
        ("joint_blocks_N_context_block_mlp_fc2", ("transformer_blocks.N.ff_context.net.2",), "no"),
        ("joint_blocks_N_x_block_adaLN_modulation_1", ("transformer_blocks.N.norm1.linear",), "no"),
        ("joint_blocks_N_context_block_adaLN_modulation_1", ("transformer_blocks.N.norm1_context.linear",), "last"),
        ("final_layer_linear", ("proj_out",), "no"),
        ("final_layer_adaLN_modulation_1", ("norm_out.linear",), "always"),
    ),
}
_SAID = (  # patterns of what trainers write of the base model, most particular first
    (re.compile(r"flux", re.I), "flux"),
    (re.compile(r"sd[-_ ]?3|stable-diffusion-(v)?3", re.I), "sd3"),
    (re.compile(r"sdxl|stable-diffusion-xl|sd[-_ ]?xl", re.I), "Stable Diffusion XL"),
    (re.compile(r"^sd_?v?[12]|stable-diffusion-v[12]", re.I), "Stable Diffusion 1 or 2"),
    (re.compile(r"wan|hunyuan|qwen|lumina|cogvideo|ltx|z[-_]?image", re.I), "another kind of model"),
)
_LOOKS = (  # names no other family has
    (re.compile(r"single_transformer_blocks|double_blocks|single_blocks"), "flux"),
    (re.compile(r"joint_blocks|attn2?[._]add_[qkv]_proj|norm1_context"), "sd3"),
    (
        re.compile(r"down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block"),
        "Stable Diffusion 1, 2 or XL",
    ),
)
BASE_KEYS = ("modelspec.architecture", "ss_base_model_version")


def made_for(metadata: Mapping[str, str]) -> str | None:
    """The family an adapter says it was made for; None where it does not say, or not in words known here."""
    for key in BASE_KEYS:
        said = metadata.get(key, "")
        for words, family in _SAID:
            if words.search(said):
                return family
    return None


def resembles(keys: Iterable[str]) -> str | None:
    """The family whose layer names these look like; None where they look like none."""
    found = [family for words, family in _LOOKS for key in keys if words.search(key)]
    return found[0] if found else None
