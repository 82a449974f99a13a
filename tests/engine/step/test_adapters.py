"""Adapters in whole images equal diffusers' pipelines."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lego_serve.core.scheduling.lora_mode import LoraMode
from lego_serve.engine.lane_state import AdapterUse
from tests.support.lora.adapters import FORMATS, adapter, diffusers_names, kohya_names, original_names, products, saved
from tests.support.lora.families import LENGTH, PROMPT, Family, close, run


def scaled(uses: Sequence[tuple[str, dict[str, torch.Tensor], float]], pipeline: Any, folder: Path) -> None:
    """Load adapters into a pipeline and set their scales."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of more adapters than one
        for name, tensors, _ in uses:
            pipeline.load_lora_weights(saved(tensors, folder, name), adapter_name=name)
    pipeline.set_adapters([name for name, _, _ in uses], [scale for _, _, scale in uses])


def test_one_adapter_equals_diffusers(family: Family, tmp_path: Path) -> None:
    """In all linear layers and the text encoders, from a file that diffusers loads too."""
    tensors = diffusers_names(products(family.base, rank=4))
    pipeline = family.pipeline()
    plain = family.ask(pipeline, 11)
    scaled([("mine", tensors, 0.7)], pipeline, tmp_path)
    expected = family.ask(pipeline, 11)
    mine = run(family.engine(), family.lane("only", 11, AdapterUse(adapter(family.base, tensors), 0.7)))["only"]
    close(mine, expected)
    assert (expected - plain).abs().max() > 0.05


def test_several_adapters_equal_diffusers_in_both_ways(family: Family, tmp_path: Path) -> None:
    """With scales of their own, one of them negative, of other ranks and layers."""
    made = {
        "one": products(family.base, 1, 4),
        "two": products(family.base, 2, 16, only="attn"),
        "three": products(family.base, 3, 1, only="transformer."),
    }
    scales = {"one": 0.8, "two": -0.5, "three": 1.3}
    pipeline = family.pipeline()
    scaled([(name, diffusers_names(p), scales[name]) for name, p in made.items()], pipeline, tmp_path)
    expected = family.ask(pipeline, 12)
    uses = [AdapterUse(adapter(family.base, diffusers_names(p), name), scales[name]) for name, p in made.items()]
    close(run(family.engine(), family.lane("only", 12, *uses))["only"], expected)
    close(run(family.engine(LoraMode.PATCHED), family.lane("only", 12, *uses))["only"], expected)
    backwards = run(family.engine(), family.lane("only", 12, *reversed(uses)))["only"]
    assert torch.equal(backwards, run(family.engine(), family.lane("only", 12, *uses))["only"])


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_format_makes_the_same_image(family: Family, format_name: str) -> None:
    """However its tensors are named."""
    made = products(family.base, 4, alpha=3.0, only="transformer.")
    uses = [AdapterUse(adapter(family.base, names(made))) for names in (diffusers_names, FORMATS[format_name])]
    images = [run(family.engine(), family.lane("only", 13, use))["only"] for use in uses]
    close(*images)


def test_names_of_the_original_code_equal_diffusers_own_conversion(family: Family, tmp_path: Path) -> None:
    """Where diffusers reads them, which is for FLUX, and where it does not expect FLUX's own widths."""
    if not family.is_flux:
        pytest.skip("diffusers reads them for FLUX alone")
    tensors = original_names(family.base, seed=5)
    tensors = {key: value for key, value in tensors.items() if "double_blocks" in key}
    pipeline = family.pipeline()
    scaled([("mine", tensors, 1.0)], pipeline, tmp_path)
    mine = run(family.engine(), family.lane("only", 14, AdapterUse(adapter(family.base, tensors))))["only"]
    close(mine, family.ask(pipeline, 14))


def test_text_encoders_are_their_own_again_after_an_adapter(family: Family, tmp_path: Path) -> None:
    """With it the encoding is the pipeline's; without it, bit for bit what it was."""
    before = family.text.encode([PROMPT])[0]
    made = products(family.base, 6, only="text_encoder")
    own = adapter(family.base, kohya_names(made))
    mine = family.text.encode([PROMPT], ((own, 0.6),))[0]
    pipeline = family.pipeline()
    scaled(
        [("mine", diffusers_names(made) | diffusers_names(products(family.base, 6, only="to_q")), 0.6)],
        pipeline,
        tmp_path,
    )
    if family.is_flux:
        tokens, pooled, _ = pipeline.encode_prompt(PROMPT, None, max_sequence_length=LENGTH)
    else:
        tokens, _, pooled, _ = pipeline.encode_prompt(PROMPT, PROMPT, PROMPT, max_sequence_length=LENGTH)
    torch.testing.assert_close(mine.tokens, tokens[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mine.pooled, pooled[0], atol=1e-4, rtol=1e-4)
    assert not torch.equal(mine.pooled, before.pooled)
    after = family.text.encode([PROMPT])[0]
    assert torch.equal(after.tokens, before.tokens)
    assert torch.equal(after.pooled, before.pooled)
