"""Image generators of the add-ons' judges: the family with an adapter, with the ControlNet, or with both."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from diffusers import SD3ControlNetModel

from lego_serve.zoo.judge.combined import CombinedSetting, GenerateCombined
from lego_serve.zoo.judge.controlnet import GenerateControlled
from lego_serve.zoo.judge.style import PLAIN, GenerateStyled
from lego_serve.zoo.train.controlnet import CONTROLNET
from lego_serve.zoo.train.frozen_family import FrozenFamily
from lego_serve.zoo.train.lora import adapter_file
from lego_serve.zoo.train.lora_modules import load_adapter, merge


def shipped_controlnet() -> SD3ControlNetModel:
    """Load the outline ControlNet, frozen, in fp32."""
    return SD3ControlNetModel.from_pretrained(CONTROLNET, torch_dtype=torch.float32).requires_grad_(False)


def styled_family(base: Path, style: str, scale: float = 1.0) -> FrozenFamily:
    """Load a family with the adapter of a style merged; the plain one for "base"."""
    family = FrozenFamily.load(base)
    if style != PLAIN:
        merge(family.transformer, load_adapter(adapter_file(style)), scale)
    return family


def controlled(base: Path, *, with_net: bool) -> GenerateControlled:
    """Return a function that draws maps with the ControlNet, or without for comparison."""
    torch.set_num_threads(1)
    family, net = FrozenFamily.load(base), shipped_controlnet() if with_net else None

    def generate(texts: Sequence[str], maps: torch.Tensor, seeds: Sequence[int]) -> np.ndarray:
        return family.generate(texts, seeds, maps.shape[-1], controlnet=net, maps=maps).numpy()

    return generate


def styled(base: Path, scale: float = 1.0) -> GenerateStyled:
    """Return a function that draws prompts with each adapter at a scale."""
    torch.set_num_threads(1)
    family = lru_cache(maxsize=1)(styled_family)

    def generate(style: str, texts: Sequence[str], seeds: Sequence[int], side: int) -> np.ndarray:
        return family(base, style, scale).generate(texts, seeds, side).numpy()

    return generate


def combined(base: Path) -> GenerateCombined:
    """Return a function that draws maps with an adapter and the ControlNet."""
    torch.set_num_threads(1)
    family, net = lru_cache(maxsize=1)(styled_family), shipped_controlnet()

    def generate(
        setting: CombinedSetting, texts: Sequence[str], maps: torch.Tensor, seeds: Sequence[int]
    ) -> np.ndarray:
        adapted, side = family(base, setting.style, setting.scale), maps.shape[-1]
        return adapted.generate(texts, seeds, side, controlnet=net, maps=maps, weight=setting.weight).numpy()

    return generate
