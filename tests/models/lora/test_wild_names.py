"""Names that trainers in use give tensors: each file means the same products, and parts that no model has are told."""

from collections.abc import Callable

import pytest
import torch

from lego_serve.errors import InvalidAdapter
from lego_serve.models.loading import load_text_encoder
from lego_serve.models.lora.adapter import Adapter
from lego_serve.models.lora.loading import base_layers, card_of
from lego_serve.models.lora.names import BaseLayers
from lego_serve.models.registry import ModelSpec
from tests.support.lora.adapters import adapter
from tests.support.lora.layer_names import LAYERS
from tests.support.tiny_models import flux_miniature, miniature

Tensors = dict[str, torch.Tensor]
RANK = 4
OWN, WORDS = "transformer_blocks.1.attn.to_out.0", "text_model.encoder.layers.2.self_attn.q_proj"
T5 = {
    "lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight": torch.ones(4, 4),
    "lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_up.weight": torch.ones(4, 4),
}
PROJECTION = {
    "lora_te1_text_projection.lora_down.weight": torch.ones(4, 4),
    "lora_te1_text_projection.lora_up.weight": torch.ones(4, 4),
}


@pytest.fixture(scope="module", params=["sd3-medium", "sd35-medium", "flux-dev"])
def name(request: pytest.FixtureRequest) -> str:
    """A miniature."""
    return str(request.param)


@pytest.fixture(scope="module")
def spec(name: str, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """Its folder."""
    folder = tmp_path_factory.mktemp(name)
    is_flux = name.startswith("flux")
    (flux_miniature if is_flux else miniature)(name).save_pretrained(folder)
    return ModelSpec("mine", str(folder), family="flux" if is_flux else "sd3", dtype="float32", max_sequence_length=8)


@pytest.fixture(scope="module")
def base(spec: ModelSpec) -> BaseLayers:
    """Its layers."""
    return base_layers(spec)


def product(outputs: int, inputs: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One random product: down and up."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(RANK, inputs, generator=draw), torch.randn(outputs, RANK, generator=draw)


def named(base: BaseLayers, own: str, words: str, halves: tuple[str, str], alpha: object = None) -> Tensors:
    """A file of two products by these names of their layers, with or without alphas."""
    made = {
        own: product(*base.shapes[f"transformer.{OWN}"], 1),
        words: product(*base.shapes[f"text_encoder.{WORDS}"], 2),
    }
    tensors: Tensors = {}
    for layer, (down, up) in made.items():
        tensors |= {f"{layer}.{halves[0]}.weight": down, f"{layer}.{halves[1]}.weight": up}
        if alpha is not None:
            tensors[f"{layer}.alpha"] = torch.as_tensor(alpha)
    return tensors


AB, KOHYA = ("lora_A", "lora_B"), ("lora_down", "lora_up")
DIFFUSERS = (
    "transformer.transformer_blocks.1.attn.to_out.0",
    "text_encoder.text_model.encoder.layers.2.self_attn.q_proj",
)
KOHYA_OWN = "lora_unet_transformer_blocks_1_attn_to_out_0"
KOHYA_WORDS = "lora_te1_text_model_encoder_layers_2_self_attn_q_proj"
NAMINGS: dict[str, Callable[[BaseLayers], Tensors]] = {
    "diffusers": lambda b: named(b, *DIFFUSERS, AB),
    "diffusers, under newer transformers": lambda b: named(
        b, DIFFUSERS[0], "text_encoder.encoder.layers.2.self_attn.q_proj", AB
    ),
    "a named adapter of PEFT": lambda b: named(b, *DIFFUSERS, ("lora_A.default", "lora_B.default")),
    "a numbered adapter of PEFT": lambda b: named(b, *DIFFUSERS, ("lora_A.default_0", "lora_B.default_0")),
    "PEFT of single models": lambda b: named(
        b,
        "base_model.model.transformer_blocks.1.attn.to_out.0",
        "base_model.model.text_model.encoder.layers.2.self_attn.q_proj",
        AB,
    ),
    "PEFT of single models, under newer transformers": lambda b: named(
        b,
        "base_model.model.transformer_blocks.1.attn.to_out.0",
        "base_model.model.encoder.layers.2.self_attn.q_proj",
        AB,
    ),
    "PEFT of a pipeline's parts": lambda b: named(b, *(f"base_model.model.{name}" for name in DIFFUSERS), AB),
    "ComfyUI": lambda b: named(
        b,
        "diffusion_model.transformer_blocks.1.attn.to_out.0",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.2.self_attn.q_proj",
        AB,
    ),
    "kohya": lambda b: named(b, KOHYA_OWN, KOHYA_WORDS, KOHYA, float(RANK)),
    "kohya without text_model": lambda b: named(
        b, KOHYA_OWN, "lora_te1_encoder_layers_2_self_attn_q_proj", KOHYA, float(RANK)
    ),
    "kohya of one text encoder": lambda b: named(
        b, KOHYA_OWN, "lora_te_text_model_encoder_layers_2_self_attn_q_proj", KOHYA
    ),
    "a trailing underscore": lambda b: named(b, f"{KOHYA_OWN}_", f"{KOHYA_WORDS}_", KOHYA, float(RANK)),
    "to_out without its number": lambda b: named(b, "transformer.transformer_blocks.1.attn.to_out", DIFFUSERS[1], AB),
    "OneTrainer": lambda b: named(b, "lora_transformer_transformer_blocks_1_attn_to_out_0", KOHYA_WORDS, KOHYA, 4.0),
    "OneTrainer with dots": lambda b: named(b, *DIFFUSERS, KOHYA, float(RANK)),
    "LyCORIS": lambda b: named(b, "lycoris_transformer_blocks_1_attn_to_out_0", KOHYA_WORDS, KOHYA, float(RANK)),
}


def same(one: Adapter, other: Adapter) -> bool:
    """Whether two adapters are of the same products."""
    return one.pairs.keys() == other.pairs.keys() and all(
        torch.equal(pair.down, other.pairs[path].down) and torch.equal(pair.up, other.pairs[path].up)
        for path, pair in one.pairs.items()
    )


def test_layers_have_the_names_of_files_whatever_the_libraries_call_them(name: str, base: BaseLayers) -> None:
    """The names are written out in the test's support, so that a library that renames a layer is seen here."""
    assert base.shapes.keys() == LAYERS[name]


def test_the_text_encoders_layers_are_those_of_the_config(spec: ModelSpec, base: BaseLayers) -> None:
    """What is accepted from a file is what the loaded text encoders can be patched with."""
    words = {path for path in base.shapes if path.startswith("text_encoder")}
    assert words <= load_text_encoder(spec).adapters.shapes.keys()


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_in_use_means_the_same_products(base: BaseLayers, naming: str) -> None:
    """One of the denoiser and one of CLIP, of which `to_out.0` is the name that trainers shorten."""
    found = adapter(base, NAMINGS[naming](base))
    assert found.pairs.keys() == {f"transformer.{OWN}", f"text_encoder.{WORDS}"}
    assert same(found, adapter(base, NAMINGS["diffusers"](base)))
    assert found.passed_over == ()


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.uint8],
    ids=str,
)
@pytest.mark.parametrize("shape", [(), (1,)], ids=["scalar", "one"])
def test_an_alpha_has_any_dtype(base: BaseLayers, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """As a scalar or as a list of one: twice the rank doubles the product."""
    tensors = named(base, KOHYA_OWN, KOHYA_WORDS, KOHYA, torch.full(shape, 2 * RANK, dtype=dtype))
    found, plain = adapter(base, tensors), adapter(base, NAMINGS["diffusers"](base))
    assert all(torch.equal(found.pairs[path].up, 2 * plain.pairs[path].up) for path in plain.pairs)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_weights_of_eight_bits_keep_their_values(base: BaseLayers, dtype: torch.dtype) -> None:
    """In bfloat16, which has each of them."""
    tensors = {key: tensor.to(dtype) for key, tensor in NAMINGS["diffusers"](base).items()}
    found = adapter(base, tensors)
    for key, tensor in tensors.items():
        if key.endswith("lora_A.weight"):
            assert torch.equal(found.pairs[key.removesuffix(".lora_A.weight")].down, tensor.to(torch.bfloat16))


def test_halves_of_two_dtypes_are_a_product(base: BaseLayers) -> None:
    """Each keeps its own."""
    tensors = {
        key: tensor.half() if key.endswith("lora_A.weight") else tensor
        for key, tensor in NAMINGS["diffusers"](base).items()
    }
    pair = adapter(base, tensors).pairs[f"transformer.{OWN}"]
    assert (pair.down.dtype, pair.up.dtype) == (torch.float16, torch.float32)


def test_parts_that_no_adapter_changes_are_passed_over_and_told(base: BaseLayers) -> None:
    """T5's and the projection of CLIP's pooled text: the rest is used, and the adapter's card names them."""
    plain = adapter(base, NAMINGS["kohya"](base))
    found = adapter(base, NAMINGS["kohya"](base) | T5 | PROJECTION)
    assert same(found, plain)
    assert found.passed_over == ("text_encoder_3 (T5) (layers: 1)", "text_projection of text_encoder (layers: 1)")
    assert card_of(found)["passed_over"] == list(found.passed_over)
    assert Adapter.from_bytes(found.to_bytes()).part("transformer").passed_over == found.passed_over
    assert "passed_over" not in card_of(plain)


def test_a_file_of_such_parts_alone_is_refused_by_their_names(base: BaseLayers) -> None:
    """For it would change nothing."""
    with pytest.raises(InvalidAdapter, match=r"lets adapters change, but only text_encoder_3 \(T5\)"):
        adapter(base, dict(T5))


def test_t5_is_the_second_text_encoder_of_flux(base: BaseLayers) -> None:
    """By diffusers' numbers, whatever a trainer calls it; in SD3 the second is CLIP, which has no such layer."""
    second = {key.replace("lora_te3_", "lora_te2_"): tensor for key, tensor in T5.items()}
    if base.family == "flux":
        assert adapter(base, NAMINGS["kohya"](base) | second).passed_over == ("text_encoder_2 (T5) (layers: 1)",)
    else:
        with pytest.raises(InvalidAdapter, match="does not let adapters change: lora_te"):
            adapter(base, NAMINGS["kohya"](base) | second)


XLABS = {
    "double_blocks.1.processor.qkv_lora1": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "double_blocks.1.processor.qkv_lora2": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "double_blocks.1.processor.proj_lora1": ("attn.to_out.0",),
    "double_blocks.1.processor.proj_lora2": ("attn.to_add_out",),
    "single_blocks.1.processor.qkv_lora": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "single_blocks.1.processor.proj_lora": ("proj_out",),
}


@pytest.mark.parametrize("layer", XLABS)
def test_xlabs_names_of_flux_mean_the_layers_of_its_processors(base: BaseLayers, layer: str) -> None:
    """One product for the queries, keys and values side by side."""
    if base.family != "flux":
        pytest.skip("XLabs trains FLUX alone")
    block = "transformer_blocks.1" if layer.startswith("double") else "single_transformer_blocks.1"
    paths = [f"transformer.{block}.{tail}" for tail in XLABS[layer]]
    outputs, inputs = sum(base.shapes[path][0] for path in paths), base.shapes[paths[0]][1]
    down, up = product(outputs, inputs, 3)
    found = adapter(base, {f"{layer}.down.weight": down, f"{layer}.up.weight": up})
    assert list(found.pairs) == paths
    assert torch.equal(torch.cat([found.pairs[path].up for path in paths]), up)
