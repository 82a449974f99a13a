"""What adapters are made for, as their metadata says or their tensors' names show: a family here, or another model."""

import re
from collections.abc import Iterable, Mapping

from lego_serve.models.adaptable import adaptables

_SAID_OF_OTHERS = (  # patterns of what trainers write of base models that are no family here, most particular first
    (re.compile(r"sdxl|stable-diffusion-xl|sd[-_ ]?xl", re.I), "Stable Diffusion XL"),
    (re.compile(r"^sd_?v?[12]|stable-diffusion-v[12]", re.I), "Stable Diffusion 1 or 2"),
    (re.compile(r"wan|hunyuan|qwen|lumina|cogvideo|ltx|z[-_]?image", re.I), "another kind of model"),
)
_LOOKS_OF_OTHERS = (
    (
        re.compile(r"down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block"),
        "Stable Diffusion 1, 2 or XL",
    ),
)
BASE_KEYS = ("modelspec.architecture", "ss_base_model_version")


def made_for(metadata: Mapping[str, str]) -> str | None:
    """The family an adapter says it was made for; None where it does not say, or not in words known here."""
    patterns = [*((said.said, family) for family, said in adaptables().items()), *_SAID_OF_OTHERS]
    for key in BASE_KEYS:
        said = metadata.get(key, "")
        for words, family in patterns:
            if words.search(said):
                return family
    return None


def resembles(keys: Iterable[str]) -> str | None:
    """The family whose layer names these look like, the first of several; None where they look like none."""
    patterns = [*((said.looks, family) for family, said in adaptables().items()), *_LOOKS_OF_OTHERS]
    names = list(keys)
    return next((family for words, family in patterns if any(words.search(name) for name in names)), None)
