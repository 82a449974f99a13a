"""Maps the names trainers give an adapter's tensors to the layers they mean.

A layer's canonical path is its component and its path in diffusers' or transformers' module,
``transformer.transformer_blocks.0.attn.to_q``.  Known names are PEFT's (``base_model.model.``,
``lora_A`` / ``lora_B``), diffusers' (``transformer.``, ``lora.down`` / ``lora.up`` too) and kohya's
(``lora_unet_``, ``lora_te1_``, ``.alpha``) and ComfyUI's (``diffusion_model.``), which use the names of the
model's original code: there one product may stand for several of our layers side by side.  OneTrainer
(``lora_transformer_``), LyCORIS (``lycoris_``) and XLabs (``processor.qkv_lora1``) have prefixes and tails of their
own.

Products of parts that adapters do not change here, T5 and the projection of CLIP's pooled text, are passed over: the
rest of the file is used, as diffusers does, and what was left out is told.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lego_serve.errors import InvalidAdapter
from lego_serve.models.lora.adapter import Pair
from lego_serve.models.lora.checkpoint import AdapterFile, pattern, refusal
from lego_serve.models.lora.header import PEFT_METADATA
from lego_serve.models.lora.mismatch import (
    LayerShape,
    base_model_named,
    made_for,
    other_model,
    resembles,
)
from lego_serve.models.lora.names import NUMBER, BaseLayers, LayerKey, names_of, normalised, part_without_adapters

WEIGHT = re.compile(
    r"(?P<name>.+?)(?:\.lora_(?P<peft>[AB])(?:\.[A-Za-z0-9_-]+)?|\.lora_(?P<kohya>down|up)"
    r"|(?:\.lora|\.lora_linear_layer|_lora|(?<=_lora[12]))\.(?P<old>down|up))\.weight"
)
ALPHA = re.compile(r"(?P<name>.+?)(?:\.lora_[AB]|\.lora_down|\.lora_up|\.lora)?\.alpha")


@dataclass(slots=True)
class _FileProduct:
    """The tensors of one low-rank product in a file."""

    name: str
    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    alpha: float | None = None


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
    name = normalised(product.name)
    path, number = paths.get(NUMBER.sub("_N_", name, count=1)), NUMBER.search(name)
    return None if path is None else LayerShape(path, int(number[1]) if number else None, int(product.down.shape[1]))


@dataclass(frozen=True, slots=True)
class FilePairs:
    """The pairs of a file by canonical path, and the parts of the file that are passed over, in words."""

    pairs: Mapping[str, Pair]
    passed_over: tuple[str, ...]


def read_pairs(adapter_id: str, file: AdapterFile, base: BaseLayers) -> FilePairs:
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
    left_out: Counter[str] = Counter()
    for product in products:
        name = normalised(product.name)
        meaning = reading.meanings.get(name)
        if meaning is None and (part := part_without_adapters(name, base)) is not None:
            left_out[part] += 1
            continue
        if meaning is None:
            raise reading.unknown(product)
        for path, pair in _split(reading, product, meaning):
            if path in pairs:
                raise refusal(adapter_id, f"has two products for {pattern(path)}")
            pairs[path] = pair
    passed_over = tuple(f"{part} (layers: {count})" for part, count in sorted(left_out.items()))
    if not pairs:
        fault = f"changes nothing that model {base.model} lets adapters change, but only {' and '.join(passed_over)}"
        raise refusal(adapter_id, fault)
    return FilePairs(pairs, passed_over)


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
