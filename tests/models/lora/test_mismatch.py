"""An adapter of the right family for another of its models: the refusal names both, and what tells them apart."""

import json

import pytest
import torch

from lego_serve.errors import InvalidAdapter
from lego_serve.models.lora.loading import base_layers
from lego_serve.models.lora.mismatch import base_model_named
from lego_serve.models.lora.names import BaseLayers
from lego_serve.models.registry import ModelSpec
from tests.support.lora.adapters import adapter, diffusers_names, kohya_names, original_names, products
from tests.support.tiny_models import flux_miniature, miniature

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module", params=["sd35-medium", "flux-dev"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseLayers:
    """The layers of a miniature."""
    name = str(request.param)
    folder = tmp_path_factory.mktemp(name)
    (flux_miniature if name.startswith("flux") else miniature)(name).save_pretrained(folder)
    family = "flux" if name.startswith("flux") else "sd3"
    return base_layers(ModelSpec("mine", str(folder), family=family, max_sequence_length=8))


def width_of(base: BaseLayers) -> int:
    """What its attentions read."""
    return base.shapes["transformer.transformer_blocks.0.attn.to_q"][1]


def blocks_of(base: BaseLayers) -> int:
    """How many blocks it has, of the kind with two streams."""
    return 1 + max(int(p.split(".")[2]) for p in base.shapes if p.startswith("transformer.transformer_blocks."))


def wider(base: BaseLayers) -> BaseLayers:
    """A model of the same family, three times as wide."""
    return BaseLayers("wide", base.family, {path: (3 * a, 3 * b) for path, (a, b) in base.shapes.items()})


def deeper(base: BaseLayers) -> BaseLayers:
    """A model of the same family with thirty more blocks like the first."""
    first, more = "transformer.transformer_blocks.0.", dict[str, tuple[int, int]]()
    for path, shape in base.shapes.items():
        if path.startswith(first):
            tail = path.removeprefix(first)
            more |= {f"transformer.transformer_blocks.{blocks_of(base) + i}.{tail}": shape for i in range(30)}
    return BaseLayers("deep", base.family, more)


def refused(base: BaseLayers, tensors: Tensors, metadata: dict[str, str] | None = None) -> str:
    """The message of a refusal."""
    with pytest.raises(InvalidAdapter) as caught:
        adapter(base, tensors, "sample", metadata)
    assert len(caught.value.message.splitlines()) == 1
    assert "/" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("names", ["diffusers", "kohya", "original"])
def test_one_for_a_wider_model_names_both_widths(base: BaseLayers, names: str) -> None:
    """In every format, with the first layer that does not fit."""
    made = products(wider(base), only="transformer.transformer_blocks")
    written = {"diffusers": diffusers_names, "kohya": kohya_names}
    tensors = original_names(wider(base)) if names == "original" else written[names](made)
    message = refused(base, tensors)
    count = blocks_of(base)
    assert f"for another model than mine: for a model of width {3 * width_of(base)} and {count} block" in message
    assert f"while mine has width {width_of(base)} and {count} block" in message
    assert " there and " in message


def test_one_for_a_deeper_model_names_both_numbers_of_blocks(base: BaseLayers) -> None:
    """Where every layer it has in common would fit."""
    message = refused(base, diffusers_names(products(deeper(base), only="attn.to_q")))
    assert f"for a model of width {width_of(base)} and {blocks_of(base) + 30} blocks or more" in message
    assert f"while mine has width {width_of(base)} and {blocks_of(base)} block" in message


def test_what_it_says_of_its_model_is_repeated(base: BaseLayers) -> None:
    """Beside what its layers tell."""
    tensors = diffusers_names(products(wider(base), only="attn.to_q"))
    message = refused(base, tensors, {"lora_adapter_metadata": json.dumps(settings("someone/sd3.5-giant"))})
    assert f"for sd3.5-giant, as it says (width {3 * width_of(base)} and " in message
    assert "while mine has width" in message


def settings(name: object) -> dict[str, object]:
    """What diffusers writes of PEFT's settings."""
    return {"transformer.r": 4, "transformer.lora_alpha": 4, "transformer.base_model_name_or_path": name}


def test_a_layer_of_no_block_here_is_told_with_the_model_it_is_said_to_be_for(base: BaseLayers) -> None:
    """Where the model cannot be told by its form."""
    tensors = {f"transformer.extra.lora_{half}.weight": torch.ones(2, 2) for half in "AB"}
    message = refused(base, tensors, {"base_model_name_or_path": "/home/someone/models/giant/"})
    assert message.endswith("does not let adapters change: transformer.extra, and was made for giant, as it says.")


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({}, None),
        ({"modelspec.title": "My style"}, "My style"),
        ({"modelspec.title": "My style", "modelspec.architecture": "stable-diffusion-3-large/lora"},
         "stable-diffusion-3-large"),
        ({"ss_base_model_version": "sd3.5-large", "modelspec.architecture": "stable-diffusion-3-large/lora"},
         "sd3.5-large"),
        ({"ss_base_model_version": "sd3", "ss_sd_model_name": "C:\\models\\giant.safetensors"}, "giant.safetensors"),
        ({"lora_adapter_metadata": json.dumps(settings("a/b/c")), "ss_base_model_version": "sd3"}, "c"),
        ({"lora_adapter_metadata": json.dumps(settings(None)), "modelspec.title": "t"}, "t"),
        ({"lora_adapter_metadata": "[" * 100_000, "modelspec.title": "t"}, "t"),
        ({"modelspec.title": "<script>\n\x00é" + "x" * 1000}, "?script????" + "x" * 49),
        ({"modelspec.title": "\x00\x01"}, None),
        ({"base_model_name_or_path": "///"}, None),
    ],
)  # fmt: skip
def test_only_plain_and_short_words_of_a_file_are_repeated(metadata: dict[str, str], name: str | None) -> None:
    """The model's name before its kind, and that before the adapter's own; of a path the last part."""
    assert base_model_named(metadata) == name


def test_a_file_that_fits_is_used(base: BaseLayers) -> None:
    """Whatever they say of their model, if it is of the family."""
    made = adapter(base, diffusers_names(products(base)), "fits", {"modelspec.title": "another one"})
    assert made.pairs.keys() == base.shapes.keys()
