"""The ControlNet and the adapters that the package ships: small, read by diffusers, and doing what they say."""

import fnmatch
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers import SD3ControlNetModel, StableDiffusion3Pipeline

from lego_serve.zoo.export import WEIGHTS
from lego_serve.zoo.judge.combined import CombinedSetting, judge_combined
from lego_serve.zoo.judge.controlnet import judge_controlnet
from lego_serve.zoo.judge.generators import combined, controlled, styled
from lego_serve.zoo.judge.style import PLAIN, judge_styles
from lego_serve.zoo.train.controlnet import CONTROLNET
from lego_serve.zoo.train.lora import ADAPTERS, RANKS, adapter_file, adapter_id
from lego_serve.zoo.train.lora_modules import load_adapter

MAX_BYTES = 16_000_000
STEPS = 8  # of an image: what is counted below is as clear as with the twenty that judges take by default


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def shipped_pipeline() -> StableDiffusion3Pipeline:
    """The shipped family as diffusers reads it."""
    return StableDiffusion3Pipeline.from_pretrained(
        WEIGHTS, text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32
    )


def test_add_ons_are_small_and_the_wheel_holds_all_their_files() -> None:
    """One ControlNet and three adapters; the pattern in pyproject.toml names every file."""
    files = [f for folder in (CONTROLNET, ADAPTERS) for f in folder.rglob("*") if f.is_file()]
    assert sorted(f.name for f in ADAPTERS.iterdir()) == sorted(adapter_id(style) for style in RANKS)
    assert len(files) == 5
    assert sum(f.stat().st_size for f in files) <= MAX_BYTES
    root = Path(__file__).parents[2]
    packed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["lego_serve"]
    names = [str(f.relative_to(root / "lego_serve")) for f in files]
    assert all(any(fnmatch.fnmatch(name, pattern) for pattern in packed) for name in names)


@pytest.mark.parametrize("style", RANKS)
def test_load_lora_weights_reads_a_shipped_adapter_whole(style: str) -> None:
    """Every pair of the file lies on its layer afterwards, at the rank that its name says."""
    pytest.importorskip("peft")
    pipe = shipped_pipeline()
    pipe.load_lora_weights(adapter_file(style).parent, adapter_name=style)
    found = {name: weight for name, weight in pipe.transformer.named_parameters() if ".lora_" in name}
    kept = load_adapter(adapter_file(style))
    assert len(found) == 2 * len(kept)
    for name, pair in kept.items():
        assert pair.rank == RANKS[style]
        assert torch.allclose(found[f"{name}.lora_A.{style}.weight"].float(), pair.down)
        assert torch.allclose(found[f"{name}.lora_B.{style}.weight"].float(), pair.up)


def test_from_pretrained_reads_the_shipped_controlnet() -> None:
    """Its output layers have learnt something, and all its weights are finite."""
    net = SD3ControlNetModel.from_pretrained(CONTROLNET, torch_dtype=torch.float32)
    assert all(torch.isfinite(weight).all() for weight in net.parameters())
    assert all(block.weight.abs().max() > 0 for block in net.controlnet_blocks)


def test_shipped_adapters_draw_their_styles() -> None:
    """Of six held-out prompts at least four are told from the plain image, of which none is taken for a style.

    Slow: 24 images are made.
    """
    seen = Counter((v.wanted, v.seen == PLAIN) for v in judge_styles(styled(WEIGHTS, steps=STEPS), [128], 6))
    assert seen[(PLAIN, True)] == 6
    assert all(seen[(style, False)] >= 4 for style in RANKS), seen


def test_the_shipped_controlnet_places_shapes() -> None:
    """Of eight held-out maps at least five are followed; without it at most one is.

    Slow: 16 images are made.
    """
    assert sum(v.is_followed for v in judge_controlnet(controlled(WEIGHTS, with_net=True, steps=STEPS), [128], 8)) >= 5
    assert sum(v.is_followed for v in judge_controlnet(controlled(WEIGHTS, with_net=False, steps=STEPS), [128], 8)) <= 1


def test_shipped_adapters_and_the_controlnet_work_in_the_same_image() -> None:
    """Of 24 held-out maps at full strength at least eight are followed in the style, which nearly all show.

    Slow: as many images are made.
    """
    found = list(
        judge_combined(combined(WEIGHTS, steps=STEPS), [CombinedSetting(style, 1, 1) for style in RANKS], 128, 8)
    )
    assert sum(v.is_styled for v in found) >= 18
    assert sum(v.is_followed and v.is_styled for v in found) >= 8, [(v.setting.style, v.overlap) for v in found]
