"""What the add-ons' judges draw with: the family alone, with an adapter, with the ControlNet, with both."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from diffusers import SD3ControlNetModel

from lego_serve.zoo.judge.controlnet import GenerateControlled
from lego_serve.zoo.judge.style import PLAIN, GenerateStyled
from lego_serve.zoo.judge.together import GenerateBoth, Setting
from lego_serve.zoo.train.controlnet import CONTROLNET
from lego_serve.zoo.train.frozen import Frozen
from lego_serve.zoo.train.lora import adapter_file
from lego_serve.zoo.train.lora_modules import load_adapter, merge


def shipped_controlnet() -> SD3ControlNetModel:
    """The outline ControlNet, frozen, in fp32."""
    return SD3ControlNetModel.from_pretrained(CONTROLNET, torch_dtype=torch.float32).requires_grad_(False)


def styled_family(base: Path, style: str, scale: float = 1.0) -> Frozen:
    """A family with the adapter of a style merged; the plain one for "base"."""
    family = Frozen.load(base)
    if style != PLAIN:
        merge(family.transformer, load_adapter(adapter_file(style)), scale)
    return family


def controlled(base: Path, *, with_net: bool) -> GenerateControlled:
    """Draws maps with the ControlNet, or without for comparison."""
    torch.set_num_threads(1)
    family, net = Frozen.load(base), shipped_controlnet() if with_net else None

    def generate(texts: Sequence[str], maps: torch.Tensor, seeds: Sequence[int]) -> np.ndarray:
        return family.generate(texts, seeds, maps.shape[-1], controlnet=net, maps=maps).numpy()

    return generate


def styled(base: Path, scale: float = 1.0) -> GenerateStyled:
    """Draws prompts with each adapter at a scale."""
    torch.set_num_threads(1)
    family = lru_cache(maxsize=1)(styled_family)

    def generate(style: str, texts: Sequence[str], seeds: Sequence[int], side: int) -> np.ndarray:
        return family(base, style, scale).generate(texts, seeds, side).numpy()

    return generate


def together(base: Path) -> GenerateBoth:
    """Draws maps with an adapter and the ControlNet."""
    torch.set_num_threads(1)
    family, net = lru_cache(maxsize=1)(styled_family), shipped_controlnet()

    def generate(setting: Setting, texts: Sequence[str], maps: torch.Tensor, seeds: Sequence[int]) -> np.ndarray:
        drawn, side = family(base, setting.style, setting.scale), maps.shape[-1]
        return drawn.generate(texts, seeds, side, controlnet=net, maps=maps, weight=setting.weight).numpy()

    return generate
