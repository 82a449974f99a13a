"""The names of layers as files of the world have them, written out: no code under test makes them.

In a name N stands for the number of a block.  A name in the original code stands for one or several of diffusers'
layers side by side.
"""

from collections.abc import Iterator, Mapping

ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
ADDED = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
CLIP = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "mlp.fc1",
    "mlp.fc2",
)
SD3_DUAL = ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
BOTH_STREAMS = ("attn.to_add_out", "ff_context.net.0.proj", "ff_context.net.2")
BLOCK = (*ATTENTION, *ADDED, "ff.net.0.proj", "ff.net.2", "norm1.linear", "norm1_context.linear")
SINGLE = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", "proj_out", "norm.linear")


def _clip(component: str) -> Iterator[str]:
    for layer in range(3):
        yield from (f"{component}.text_model.encoder.layers.{layer}.{name}" for name in CLIP)


def _sd3(dual: tuple[int, ...]) -> Iterator[str]:
    for block in range(3):
        names = BLOCK if block == 2 else (*BLOCK, *BOTH_STREAMS)  # the last block's text has no output
        yield from (f"transformer.transformer_blocks.{block}.{name}" for name in names)
        if block in dual:
            yield from (f"transformer.transformer_blocks.{block}.{name}" for name in SD3_DUAL)
    yield from ("transformer.norm_out.linear", "transformer.proj_out")
    yield from (*_clip("text_encoder"), *_clip("text_encoder_2"))


def _flux() -> Iterator[str]:
    for block in range(2):
        yield from (f"transformer.transformer_blocks.{block}.{name}" for name in (*BLOCK, *BOTH_STREAMS))
    for block in range(3):
        yield from (f"transformer.single_transformer_blocks.{block}.{name}" for name in SINGLE)
    yield from ("transformer.x_embedder", "transformer.norm_out.linear", "transformer.proj_out")
    yield from _clip("text_encoder")


LAYERS: Mapping[str, frozenset[str]] = {  # by miniature
    "sd3-medium": frozenset(_sd3(())),
    "sd35-medium": frozenset(_sd3((0, 1))),
    "flux-dev": frozenset(_flux()),
}

_SD3 = "transformer.transformer_blocks.N."
_FLUX = "transformer.transformer_blocks.N."
_FLUX_SINGLE = "transformer.single_transformer_blocks.N."
ORIGINAL: Mapping[str, Mapping[str, tuple[str, ...]]] = {  # by family
    "sd3": {
        "joint_blocks_N_x_block_attn_qkv": (_SD3 + "attn.to_q", _SD3 + "attn.to_k", _SD3 + "attn.to_v"),
        "joint_blocks_N_context_block_attn_qkv": (
            _SD3 + "attn.add_q_proj",
            _SD3 + "attn.add_k_proj",
            _SD3 + "attn.add_v_proj",
        ),
        "joint_blocks_N_x_block_attn2_qkv": (_SD3 + "attn2.to_q", _SD3 + "attn2.to_k", _SD3 + "attn2.to_v"),
        "joint_blocks_N_x_block_attn_proj": (_SD3 + "attn.to_out.0",),
        "joint_blocks_N_x_block_attn2_proj": (_SD3 + "attn2.to_out.0",),
        "joint_blocks_N_context_block_attn_proj": (_SD3 + "attn.to_add_out",),
        "joint_blocks_N_x_block_mlp_fc1": (_SD3 + "ff.net.0.proj",),
        "joint_blocks_N_x_block_mlp_fc2": (_SD3 + "ff.net.2",),
        "joint_blocks_N_context_block_mlp_fc1": (_SD3 + "ff_context.net.0.proj",),
        "joint_blocks_N_context_block_mlp_fc2": (_SD3 + "ff_context.net.2",),
        "joint_blocks_N_x_block_adaLN_modulation_1": (_SD3 + "norm1.linear",),
        "joint_blocks_N_context_block_adaLN_modulation_1": (_SD3 + "norm1_context.linear",),
        "final_layer_linear": ("transformer.proj_out",),
        "final_layer_adaLN_modulation_1": ("transformer.norm_out.linear",),
    },
    "flux": {
        "double_blocks_N_img_attn_qkv": (_FLUX + "attn.to_q", _FLUX + "attn.to_k", _FLUX + "attn.to_v"),
        "double_blocks_N_txt_attn_qkv": (
            _FLUX + "attn.add_q_proj",
            _FLUX + "attn.add_k_proj",
            _FLUX + "attn.add_v_proj",
        ),
        "double_blocks_N_img_attn_proj": (_FLUX + "attn.to_out.0",),
        "double_blocks_N_txt_attn_proj": (_FLUX + "attn.to_add_out",),
        "double_blocks_N_img_mlp_0": (_FLUX + "ff.net.0.proj",),
        "double_blocks_N_img_mlp_2": (_FLUX + "ff.net.2",),
        "double_blocks_N_txt_mlp_0": (_FLUX + "ff_context.net.0.proj",),
        "double_blocks_N_txt_mlp_2": (_FLUX + "ff_context.net.2",),
        "double_blocks_N_img_mod_lin": (_FLUX + "norm1.linear",),
        "double_blocks_N_txt_mod_lin": (_FLUX + "norm1_context.linear",),
        "single_blocks_N_linear1": (
            _FLUX_SINGLE + "attn.to_q",
            _FLUX_SINGLE + "attn.to_k",
            _FLUX_SINGLE + "attn.to_v",
            _FLUX_SINGLE + "proj_mlp",
        ),
        "single_blocks_N_linear2": (_FLUX_SINGLE + "proj_out",),
        "single_blocks_N_modulation_lin": (_FLUX_SINGLE + "norm.linear",),
        "final_layer_linear": ("transformer.proj_out",),
        "final_layer_adaLN_modulation_1": ("transformer.norm_out.linear",),
    },
}


def original_layers(family: str, layers: Mapping[str, object]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each name in the original code, and the layers it stands for, of those that a model has."""
    for name, paths in ORIGINAL[family].items():
        for block in range(60) if "_N_" in name else (0,):
            numbered = tuple(path.replace(".N.", f".{block}.") for path in paths)
            if all(path in layers for path in numbered):
                yield name.replace("_N_", f"_{block}_"), numbered
