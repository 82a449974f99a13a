"""The names of layers in files: the prefixes that trainers use, and which layers of a model a name stands for.

A normalised name is the component and the layer with underscores for dots, ``transformer proj_out``: kohya's trainer
writes those, so that names with dots are brought into the same form.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lego_serve.models.lora.targets import CheckpointAlias, lora_targets

_ROOTS = ("base_model.model.", "")  # PEFT's wrapper, or none
_PARTS = (  # of names, and the component they mean; one that begins with another comes first
    ("text_encoder_3.", "text_encoder_3"),
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder.", "text_encoder"),
    ("text_encoders.clip_l.transformer.", "text_encoder"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2"),
    ("text_encoders.t5xxl.transformer.", "text_encoder_3"),
    ("text_model.", "text_encoder.text_model."),
    ("encoder.layers.", "text_encoder.encoder.layers."),  # CLIP's own, as newer transformers name them
    ("transformer.", "transformer"),
    ("diffusion_model.", "transformer"),
    ("model.diffusion_model.", "transformer"),
    ("lora_unet_", "transformer"),
    ("lora_transformer_", "transformer"),
    ("lycoris_", "transformer"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te3_", "text_encoder_3"),
    ("lora_te_", "text_encoder"),
)
PREFIXES = (*((root + part, meaning) for root in _ROOTS for part, meaning in (*_PARTS, ("", "transformer"))),)
PROCESSOR = re.compile(r"_processor_(to_\w+)$")
BLOCK = re.compile(r"transformer\.(?P<kind>\w+)\.(?P<number>\d+)\.")
NUMBER = re.compile(r"_(\d{1,4})_")  # of a block, in a normalised name


@dataclass(frozen=True, slots=True)
class BaseLayers:
    """The layers of a model that an adapter may change: canonical path to (outputs, inputs)."""

    model: str
    family: str
    shapes: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class LayerKey:
    """The layers a name stands for, side by side; with ``swapped`` their halves lie in the other order."""

    paths: tuple[str, ...]
    swapped: bool = False


def names_of(base: BaseLayers) -> dict[str, LayerKey]:
    """Return every name a layer may have, normalised (component, then dots as underscores), and its meaning."""
    names = {}
    for path in base.shapes:
        component, _, rest = path.partition(".")
        names[f"{component} {rest.replace('.', '_')}"] = LayerKey((path,))
        if rest.startswith("text_model."):  # newer transformers write CLIP's layers without it
            names[f"{component} {rest.removeprefix('text_model.').replace('.', '_')}"] = LayerKey((path,))
    targets, last_blocks = lora_targets().get(base.family), _last_blocks(base)
    for alias in () if targets is None else targets.aliases:
        for name, meaning in _meanings(alias, base, last_blocks):
            names.setdefault(f"transformer {name}", meaning)
    return names


def _meanings(
    alias: CheckpointAlias, base: BaseLayers, last_blocks: Mapping[str, int]
) -> Iterable[tuple[str, LayerKey]]:
    """Yield a name of the original code and its meaning, for every block that has its layers."""
    last = last_blocks.get(alias.paths[0].partition(".N.")[0], 0)
    for index in range(1 + last) if "_N_" in alias.name else (0,):
        paths = tuple(f"transformer.{path.replace('.N.', f'.{index}.')}" for path in alias.paths)
        if all(path in base.shapes for path in paths):
            swapped = alias.swapped == "always" or (alias.swapped == "last" and index == last)
            yield alias.name.replace("_N_", f"_{index}_"), LayerKey(paths, swapped)


def _last_blocks(base: BaseLayers) -> dict[str, int]:
    """Return the number of the denoiser's last block of each kind."""
    last: dict[str, int] = {}
    for path in base.shapes:
        if match := BLOCK.match(path):
            last[match["kind"]] = max(last.get(match["kind"], 0), int(match["number"]))
    return last


def normalised(name: str) -> str:
    """Return a tensor's name as ``component name``, dots as underscores."""
    prefix, component = next(entry for entry in PREFIXES if name.startswith(entry[0]))
    rest = name.removeprefix(prefix).replace(".", "_").removesuffix("_")  # some trainers write one more
    component, _, more = component.partition(".")
    rest = more.replace(".", "_") + rest
    rest = PROCESSOR.sub(r"_\1", rest)
    return f"{component} {rest}_0" if rest.endswith("_to_out") else f"{component} {rest}"


def part_without_adapters(name: str, base: BaseLayers) -> str | None:
    """Return the part of a pipeline that a normalised name is of, where no adapter changes it here; else None."""
    component, _, rest = name.partition(" ")
    if not component.startswith("text_encoder"):
        return None
    if not any(path.startswith(f"{component}.") for path in base.shapes):
        kind = " (T5)" if "encoder_block_" in rest else ""
        return f"{component}{kind}" if component != "text_encoder" else None
    return f"text_projection of {component}" if rest == "text_projection" else None
