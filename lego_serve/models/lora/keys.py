"""Maps the names trainers give an adapter's tensors to the layers they mean.

A layer's canonical path is its component and its path in diffusers' or transformers' module,
``transformer.transformer_blocks.0.attn.to_q``.  Known names are PEFT's (``base_model.model.``,
``lora_A`` / ``lora_B``), diffusers' (``transformer.``, ``lora.down`` / ``lora.up`` too) and kohya's
(``lora_unet_``, ``lora_te1_``, ``.alpha``) and ComfyUI's (``diffusion_model.``), which use the names of the
model's original code: there one product may stand for several of our layers side by side.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lego_serve.errors import InvalidAdapter
from lego_serve.models.lora.adapter import Pair
from lego_serve.models.lora.checkpoint import AdapterFile, pattern, refusal
from lego_serve.models.lora.mismatch import (
    PEFT_METADATA,
    LayerShape,
    base_model_named,
    made_for,
    other_model,
    resembles,
)
from lego_serve.models.lora.targets import CheckpointAlias, lora_targets

WEIGHT = re.compile(
    r"(?P<name>.+?)(?:\.lora_(?P<peft>[AB])(?:\.[A-Za-z0-9_-]+)?|\.lora_(?P<kohya>down|up)"
    r"|(?:\.lora|\.lora_linear_layer|_lora)\.(?P<old>down|up))\.weight"
)
ALPHA = re.compile(r"(?P<name>.+?)(?:\.lora_[AB]|\.lora_down|\.lora_up|\.lora)?\.alpha")
PREFIXES = (  # of names, and the component they mean; longest first where one begins with another
    ("base_model.model.text_encoder_2.", "text_encoder_2"),
    ("base_model.model.text_encoder.", "text_encoder"),
    ("base_model.model.transformer.", "transformer"),
    ("base_model.model.text_model.", "text_encoder.text_model."),
    ("base_model.model.", "transformer"),
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder.", "text_encoder"),
    ("transformer.", "transformer"),
    ("diffusion_model.", "transformer"),
    ("model.diffusion_model.", "transformer"),
    ("lora_unet_", "transformer"),
    ("lora_transformer_", "transformer"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te_", "text_encoder"),
    ("", "transformer"),
)
PROCESSOR = re.compile(r"_processor_(to_\w+)$")
BLOCK = re.compile(r"transformer\.(?P<kind>\w+)\.(?P<number>\d+)\.")
NUMBER = re.compile(r"_(\d{1,4})_")  # of a block, in a normalised name


@dataclass(frozen=True, slots=True)
class BaseLayers:
    """The layers of a model that an adapter may change: canonical path to (outputs, inputs)."""

    model: str
    family: str
    shapes: Mapping[str, tuple[int, int]]


@dataclass(slots=True)
class _FileProduct:
    """The tensors of one low-rank product in a file."""

    name: str
    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    alpha: float | None = None


@dataclass(frozen=True, slots=True)
class LayerKey:
    """The layers a name stands for, side by side; with ``swapped`` their halves lie in the other order."""

    paths: tuple[str, ...]
    swapped: bool = False


@dataclass(frozen=True, slots=True)
class _Reading:
    """A file that is being read for a model, with its products and the meanings of all names."""

    adapter_id: str
    file: AdapterFile
    base: BaseLayers
    meanings: Mapping[str, LayerKey]
    products: Sequence[_FileProduct]
    peft: Mapping[str, Any]

    def other_model(self, misfit: _FileProduct, why: str) -> InvalidAdapter | None:
        """Make the refusal of a product of another model of the family; None where no model of it has such a layer."""
        paths: dict[str, str] = {}  # of a layer in any block, by its name with N for the block's number
        for name, meaning in self.meanings.items():
            paths.setdefault(NUMBER.sub("_N_", name, count=1), meaning.paths[0])
        misfit_shape = _layer_shape(misfit, paths)
        if misfit_shape is None:
            return None
        return other_model(
            adapter_id=self.adapter_id,
            model=self.base.model,
            shapes=self.base.shapes,
            metadata=self.file.metadata,
            layers=[shape for product in self.products if (shape := _layer_shape(product, paths)) is not None],
            misfit=misfit_shape,
            why=why,
        )

    def unknown(self, product: _FileProduct) -> InvalidAdapter:
        """Make the refusal of a product that no layer has, saying which model it resembles where that is known."""
        name, base = pattern(product.name), self.base
        family = resembles(self.file.tensors)
        if family is not None and family != base.family:
            return refusal(self.adapter_id, f"looks made for {family}, and model {base.model} is {base.family}: {name}")
        if (other := self.other_model(product, f"{name} is not in each of its blocks")) is not None:
            return other
        theirs = base_model_named(self.file.metadata)
        origin = f", and was made for {theirs}, as it says" if theirs else ""
        fault = f"changes a layer that model {base.model} does not let adapters change: {name}{origin}"
        return refusal(self.adapter_id, fault)


def _layer_shape(product: _FileProduct, paths: Mapping[str, str]) -> LayerShape | None:
    """Return the layer that a product is for, in any block; None where there is none."""
    if product.down is None or product.down.ndim != 2:
        return None
    name = _normalised(product.name)
    path, number = paths.get(NUMBER.sub("_N_", name, count=1)), NUMBER.search(name)
    return None if path is None else LayerShape(path, int(number[1]) if number else None, int(product.down.shape[1]))


def read_pairs(adapter_id: str, file: AdapterFile, base: BaseLayers) -> dict[str, Pair]:
    """Return the pairs of a file by canonical path, alpha / rank folded in.  Raises InvalidAdapter.

    Where only the file's header was read they have no values, and alphas count as 1.
    """
    origin = made_for(file.metadata)
    if origin is not None and origin != base.family:
        raise refusal(adapter_id, f"was made for {origin}, as it says, and model {base.model} is {base.family}")
    peft = _peft_settings(adapter_id, file.metadata)
    products = list(_products(adapter_id, file.tensors))
    reading = _Reading(adapter_id, file, base, names_of(base), products, peft)
    pairs: dict[str, Pair] = {}
    for product in products:
        meaning = reading.meanings.get(_normalised(product.name))
        if meaning is None:
            raise reading.unknown(product)
        for path, pair in _split(reading, product, meaning):
            if path in pairs:
                raise refusal(adapter_id, f"has two products for {pattern(path)}")
            pairs[path] = pair
    return pairs


def names_of(base: BaseLayers) -> dict[str, LayerKey]:
    """Return every name a layer may have, normalised (component, then dots as underscores), and its meaning."""
    names = {}
    for path in base.shapes:
        component, _, rest = path.partition(".")
        names[f"{component} {rest.replace('.', '_')}"] = LayerKey((path,))
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


def _normalised(name: str) -> str:
    """Return a tensor's name as ``component name``, dots as underscores."""
    prefix, component = next(entry for entry in PREFIXES if name.startswith(entry[0]))
    rest = name.removeprefix(prefix).replace(".", "_")
    component, _, more = component.partition(".")
    rest = more.replace(".", "_") + rest
    rest = PROCESSOR.sub(r"_\1", rest)
    return f"{component} {rest}_0" if rest.endswith("_to_out") else f"{component} {rest}"


def _products(adapter_id: str, tensors: Mapping[str, torch.Tensor]) -> Iterable[_FileProduct]:
    """Collect the products of a file.  Raises InvalidAdapter for a tensor of none."""
    products: dict[str, _FileProduct] = {}
    for key, tensor in tensors.items():
        weight, alpha = WEIGHT.fullmatch(key), ALPHA.fullmatch(key)
        matched = weight or alpha
        if matched is None:
            raise refusal(adapter_id, f"has a tensor that belongs to no low-rank product: {pattern(key)}")
        product = products.setdefault(matched["name"], _FileProduct(matched["name"]))
        if weight is None:
            product.alpha = _alpha(adapter_id, key, tensor)
            continue
        half = "down" if (weight["peft"] or weight["kohya"] or weight["old"]) in ("A", "down") else "up"
        if getattr(product, half) is not None:
            raise refusal(adapter_id, f"names a tensor twice: {pattern(key)}")
        setattr(product, half, tensor)
    return products.values()


def _alpha(adapter_id: str, key: str, tensor: torch.Tensor) -> float:
    if tensor.numel() == 1 and tensor.is_meta:
        return 1.0
    if tensor.numel() != 1 or not math.isfinite(alpha := float(tensor.reshape(()))):
        raise refusal(adapter_id, f"has an alpha that is no finite number: {pattern(key)}")
    return alpha


def _split(reading: _Reading, product: _FileProduct, meaning: LayerKey) -> Iterable[tuple[str, Pair]]:
    """Split a product into one pair for each layer it stands for, in their shapes.  Raises InvalidAdapter."""
    adapter_id, shapes, where = reading.adapter_id, reading.base.shapes, pattern(product.name)
    down, up = product.down, product.up
    if down is None or up is None:
        raise refusal(adapter_id, f"has one half of a product only: {where}")
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
        raise refusal(adapter_id, f"has halves of a product that do not fit each other: {where}")
    outputs = [shapes[path][0] for path in meaning.paths]
    theirs, ours = (up.shape[0], down.shape[1]), (sum(outputs), shapes[meaning.paths[0]][1])
    if theirs != ours:
        why = f"{where} is {theirs[0]} x {theirs[1]} there and {ours[0]} x {ours[1]} in {reading.base.model}"
        raise reading.other_model(product, why) or refusal(adapter_id, f"does not fit: {why}")
    up = (up.float() * _scale(product, int(down.shape[0]), meaning.paths[0], reading.peft)).to(up.dtype)
    if meaning.swapped:
        up = torch.cat(up.chunk(2)[::-1])
    return [(path, Pair(down, part)) for path, part in zip(meaning.paths, up.split(outputs), strict=True)]


def _scale(product: _FileProduct, rank: int, path: str, peft: Mapping[str, Any]) -> float:
    """Return the product's factor: alpha / rank, or alpha / sqrt(rank) where PEFT says so; 1 without an alpha."""
    if product.alpha is not None:
        return product.alpha / rank
    component, _, rest = path.partition(".")
    prefix = component + "."
    settings = {key.removeprefix(prefix): value for key, value in peft.items() if key.startswith(prefix)}
    alpha = settings.get("lora_alpha", rank)
    patterns = settings.get("alpha_pattern")
    for key, value in patterns.items() if isinstance(patterns, dict) else ():
        if rest == key or rest.endswith("." + key):
            alpha = value
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _peft_settings(adapter_id: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Read PEFT's settings, which diffusers writes into the metadata, flat: ``transformer.lora_alpha`` and so on."""
    if PEFT_METADATA not in metadata:
        return {}
    try:
        settings = json.loads(metadata[PEFT_METADATA])
        alphas = [value for key, value in settings.items() if key.endswith(".lora_alpha")]
        for key, patterns in settings.items():
            if key.endswith(".alpha_pattern") and patterns:
                alphas += patterns.values()
        if not all(type(alpha) in (int, float) and math.isfinite(alpha) for alpha in alphas):
            raise ValueError
    except (ValueError, OverflowError, AttributeError, RecursionError):  # an int may exceed every float
        raise refusal(adapter_id, "has PEFT settings that cannot be read") from None
    if any(value for key, value in settings.items() if key.endswith((".use_dora", ".lora_bias"))):
        raise refusal(adapter_id, "uses DoRA or biases; low-rank products are known here")
    return settings if isinstance(settings, dict) else {}
