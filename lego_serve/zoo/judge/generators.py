"""Image generators of the add-ons' judges: the family with an adapter, with the ControlNet, or with both."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from diffusers import SD3ControlNetModel

from lego_serve.zoo.judge.combined import CombinedSetting, GenerateCombined
from lego_serve.zoo.judge.controlnet import GenerateControlled
from lego_serve.zoo.judge.style import PLAIN, GenerateStyled
from lego_serve.zoo.train.controlnet import CONTROLNET
from lego_serve.zoo.train.frozen_family import STEPS, FrozenFamily
from lego_serve.zoo.train.lora import adapter_file
from lego_serve.zoo.train.lora_modules import load_adapter, merge


def shipped_controlnet() -> SD3ControlNetModel:
    """Load the outline ControlNet, frozen, in fp32."""
    return SD3ControlNetModel.from_pretrained(CONTROLNET, torch_dtype=torch.float32).requires_grad_(False)


@lru_cache(maxsize=1)
def plain_family(base: Path) -> FrozenFamily:
    """Load a family, not to be changed."""
    return FrozenFamily.load(base)


def styled_family(base: Path, style: str, scale: float = 1.0) -> FrozenFamily:
    """Return a family with the adapter of a style merged; the plain one for "base"."""
    family = plain_family(base)
    if style == PLAIN:
        return family
    transformer = deepcopy(family.transformer)
    merge(transformer, load_adapter(adapter_file(style)), scale)
    return replace(family, transformer=transformer)


def controlled(base: Path, *, with_net: bool, steps: int = STEPS) -> GenerateControlled:
    """Return a function that draws maps with the ControlNet, or without for comparison."""
    torch.set_num_threads(1)
    family, net = plain_family(base), shipped_controlnet() if with_net else None

    def generate(texts: Sequence[str], maps: torch.Tensor, seeds: Sequence[int]) -> np.ndarray:
        return family.generate(texts, seeds, maps.shape[-1], controlnet=net, maps=maps, steps=steps).numpy()

    return generate


def styled(base: Path, scale: float = 1.0, steps: int = STEPS) -> GenerateStyled:
    """Return a function that draws prompts with each adapter at a scale."""
    torch.set_num_threads(1)
    family = lru_cache(maxsize=1)(styled_family)

    def generate(style: str, texts: Sequence[str], seeds: Sequence[int], side: int) -> np.ndarray:
        return family(base, style, scale).generate(texts, seeds, side, steps=steps).numpy()

    return generate


def combined(base: Path, steps: int = STEPS) -> GenerateCombined:
    """Return a function that draws maps with an adapter and the ControlNet."""
    torch.set_num_threads(1)
    family, net = lru_cache(maxsize=1)(styled_family), shipped_controlnet()

    def generate(
        setting: CombinedSetting, texts: Sequence[str], maps: torch.Tensor, seeds: Sequence[int]
    ) -> np.ndarray:
        adapted, side = family(base, setting.style, setting.scale), maps.shape[-1]
        drawn = adapted.generate(texts, seeds, side, controlnet=net, maps=maps, weight=setting.weight, steps=steps)
        return drawn.numpy()

    return generate
