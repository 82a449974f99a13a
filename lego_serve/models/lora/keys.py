"""The names trainers give an adapter's tensors, and the layers they mean.

One canonical name a layer: its component and its path in diffusers' or transformers' module,
``transformer.transformer_blocks.0.attn.to_q``.  Known are PEFT's names (``base_model.model.``,
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
from lego_serve.models.lora.mismatch import PEFT_METADATA, LayerShape, made_for, other_model, resembles, says
from lego_serve.models.lora.targets import CheckpointAlias, lora_targets

WEIGHT = re.compile(
    r"(?P<name>.+?)(?:\.lora_(?P<peft>[AB])(?:\.[A-Za-z0-9_-]+)?|\.lora_(?P<kohya>down|up)"
    r"|(?:\.lora|\.lora_linear_layer|_lora)\.(?P<old>down|up))\.weight"
)
ALPHA = re.compile(r"(?P<name>.+?)(?:\.lora_[AB]|\.lora_down|\.lora_up|\.lora)?\.alpha")
PREFIXES = (  # longest first where one begins with another
    ("base_model.model.text_encoder_2.", "text_encoder_2"), ("base_model.model.text_encoder.", "text_encoder"),
    ("base_model.model.transformer.", "transformer"), ("base_model.model.text_model.", "text_encoder.text_model."),
    ("base_model.model.", "transformer"), ("text_encoder_2.", "text_encoder_2"), ("text_encoder.", "text_encoder"),
    ("transformer.", "transformer"), ("diffusion_model.", "transformer"), ("model.diffusion_model.", "transformer"),
    ("lora_unet_", "transformer"), ("lora_transformer_", "transformer"), ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"), ("lora_te_", "text_encoder"), ("", "transformer"),
)  # fmt: skip
PROCESSOR = re.compile(r"_processor_(to_\w+)$")
BLOCK = re.compile(r"transformer\.(?P<kind>\w+)\.(?P<number>\d+)\.")
NUMBER = re.compile(r"_(\d{1,4})_")  # of a block, in a normal name


@dataclass(frozen=True, slots=True)
class BaseLayers:
    """The layers of a model that an adapter may change: canonical path to (outputs, inputs)."""

    model: str
    family: str
    shapes: Mapping[str, tuple[int, int]]


@dataclass(slots=True)
class _FoundProduct:
    """What a file says of one product."""

    name: str
    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    alpha: float | None = None


@dataclass(frozen=True, slots=True)
class LayerKey:
    """The layers a name stands for, side by side; ``swapped``: their halves lie in the other order."""

    paths: tuple[str, ...]
    swapped: bool = False


@dataclass(frozen=True, slots=True)
class _Reading:
    """A file that is being read for a model."""

    adapter_id: str
    file: AdapterFile
    base: BaseLayers
    meanings: Mapping[str, LayerKey]
    products: Sequence[_FoundProduct]
    peft: Mapping[str, Any]

    def other_model(self, at: _FoundProduct, why: str) -> InvalidAdapter | None:
        """The refusal of a product that another model of the family has; None where no model is known to."""
        forms: dict[str, str] = {}
        for name, meaning in self.meanings.items():
            forms.setdefault(NUMBER.sub("_N_", name, count=1), meaning.paths[0])
        like, base = _like(at, forms), self.base
        if like is None:
            return None
        likes = [each for each in (_like(product, forms) for product in self.products) if each is not None]
        return other_model(self.adapter_id, base.model, base.shapes, self.file.metadata, likes, like, why)

    def unknown(self, product: _FoundProduct) -> InvalidAdapter:
        """The refusal of a product that no layer has, saying whose it looks like where that can be told."""
        named, base = pattern(product.name), self.base
        family = resembles(self.file.tensors)
        if family is not None and family != base.family:
            said = f"looks made for {family}, and model {base.model} is {base.family}: {named}"
            return refusal(self.adapter_id, said)
        if (other := self.other_model(product, f"{named} is not in each of its blocks")) is not None:
            return other
        theirs = says(self.file.metadata)
        told = f", and was made for {theirs}, as it says" if theirs else ""
        fault = f"changes a layer that model {base.model} does not let adapters change: {named}{told}"
        return refusal(self.adapter_id, fault)


def _like(product: _FoundProduct, forms: Mapping[str, str]) -> LayerShape | None:
    """A layer like that of a product, in any block; None where there is none."""
    if product.down is None or product.down.ndim != 2:
        return None
    name = _normal(product.name)
    path, number = forms.get(NUMBER.sub("_N_", name, count=1)), NUMBER.search(name)
    return None if path is None else LayerShape(path, int(number[1]) if number else None, int(product.down.shape[1]))


def read_pairs(adapter_id: str, file: AdapterFile, base: BaseLayers) -> dict[str, Pair]:
    """The pairs of a file by canonical path, alpha / rank folded in.  Raises InvalidAdapter.

    Of a file whose header alone was read they have no values, and alphas count as 1.
    """
    origin = made_for(file.metadata)
    if origin is not None and origin != base.family:
        raise refusal(adapter_id, f"was made for {origin}, as it says, and model {base.model} is {base.family}")
    peft = _peft_settings(adapter_id, file.metadata)
    products = list(_products(adapter_id, file.tensors))
    reading = _Reading(adapter_id, file, base, names_of(base), products, peft)
    pairs: dict[str, Pair] = {}
    for found in products:
        meaning = reading.meanings.get(_normal(found.name))
        if meaning is None:
            raise reading.unknown(found)
        for path, pair in _split(reading, found, meaning):
            if path in pairs:
                raise refusal(adapter_id, f"has two products for {pattern(path)}")
            pairs[path] = pair
    return pairs


def names_of(base: BaseLayers) -> dict[str, LayerKey]:
    """Every name a layer may go by, normal (dots as underscores, after the component), and what it means."""
    names = {}
    for path in base.shapes:
        component, _, rest = path.partition(".")
        names[f"{component} {rest.replace('.', '_')}"] = LayerKey((path,))
    adaptable, last = lora_targets().get(base.family), _last_blocks(base)
    for original in () if adaptable is None else adaptable.originals:
        for name, meaning in _meanings(original, base, last):
            names.setdefault(f"transformer {name}", meaning)
    return names


def _meanings(original: CheckpointAlias, base: BaseLayers, last: Mapping[str, int]) -> Iterable[tuple[str, LayerKey]]:
    """A name of the original code in every block that has its layers, and what it means there."""
    of = last.get(original.paths[0].partition(".N.")[0], 0)
    for index in range(1 + of) if "_N_" in original.name else (0,):
        paths = tuple(f"transformer.{path.replace('.N.', f'.{index}.')}" for path in original.paths)
        if all(path in base.shapes for path in paths):
            swapped = original.swapped == "always" or (original.swapped == "last" and index == of)
            yield original.name.replace("_N_", f"_{index}_"), LayerKey(paths, swapped)


def _last_blocks(base: BaseLayers) -> dict[str, int]:
    """The number of the denoiser's last block of each kind."""
    last: dict[str, int] = {}
    for path in base.shapes:
        if found := BLOCK.match(path):
            last[found["kind"]] = max(last.get(found["kind"], 0), int(found["number"]))
    return last


def _normal(name: str) -> str:
    """``component name`` of a tensor's name, dots as underscores."""
    prefix, component = next((p, c) for p, c in PREFIXES if name.startswith(p))
    rest = name.removeprefix(prefix).replace(".", "_")
    component, _, more = component.partition(".")
    rest = more.replace(".", "_") + rest
    rest = PROCESSOR.sub(r"_\1", rest)
    return f"{component} {rest}_0" if rest.endswith("_to_out") else f"{component} {rest}"


def _products(adapter_id: str, tensors: Mapping[str, torch.Tensor]) -> Iterable[_FoundProduct]:
    """The products of a file, each whole."""
    found: dict[str, _FoundProduct] = {}
    for key, tensor in tensors.items():
        weight, alpha = WEIGHT.fullmatch(key), ALPHA.fullmatch(key)
        matched = weight or alpha
        if matched is None:
            raise refusal(adapter_id, f"has a tensor that belongs to no low-rank product: {pattern(key)}")
        product = found.setdefault(matched["name"], _FoundProduct(matched["name"]))
        if weight is None:
            product.alpha = _alpha(adapter_id, key, tensor)
            continue
        half = "down" if (weight["peft"] or weight["kohya"] or weight["old"]) in ("A", "down") else "up"
        if getattr(product, half) is not None:
            raise refusal(adapter_id, f"names a tensor twice: {pattern(key)}")
        setattr(product, half, tensor)
    return found.values()


def _alpha(adapter_id: str, key: str, tensor: torch.Tensor) -> float:
    if tensor.numel() == 1 and tensor.is_meta:
        return 1.0
    if tensor.numel() != 1 or not math.isfinite(alpha := float(tensor.reshape(()))):
        raise refusal(adapter_id, f"has an alpha that is no finite number: {pattern(key)}")
    return alpha


def _split(reading: _Reading, found: _FoundProduct, meaning: LayerKey) -> Iterable[tuple[str, Pair]]:
    """A product as one pair for each layer it stands for, in their shapes."""
    adapter_id, shapes, where = reading.adapter_id, reading.base.shapes, pattern(found.name)
    if found.down is None or found.up is None:
        raise refusal(adapter_id, f"has one half of a product only: {where}")
    if found.down.ndim != 2 or found.up.ndim != 2 or found.down.shape[0] != found.up.shape[1]:
        raise refusal(adapter_id, f"has halves of a product that do not fit each other: {where}")
    outputs = [shapes[path][0] for path in meaning.paths]
    theirs, ours = (found.up.shape[0], found.down.shape[1]), (sum(outputs), shapes[meaning.paths[0]][1])
    if theirs != ours:
        why = f"{where} is {theirs[0]} x {theirs[1]} there and {ours[0]} x {ours[1]} in {reading.base.model}"
        raise reading.other_model(found, why) or refusal(adapter_id, f"does not fit: {why}")
    rank = int(found.down.shape[0])
    scale = _scale(found, rank, meaning.paths[0], reading.peft)
    up = (found.up.float() * scale).to(found.up.dtype)
    if meaning.swapped:
        up = torch.cat(up.chunk(2)[::-1])
    return [(path, Pair(found.down, part)) for path, part in zip(meaning.paths, up.split(outputs), strict=True)]


def _scale(found: _FoundProduct, rank: int, path: str, peft: Mapping[str, Any]) -> float:
    """What the product is multiplied by: alpha / rank, or alpha / sqrt(rank) where PEFT says so; 1 without an alpha."""
    if found.alpha is not None:
        return found.alpha / rank
    component, _, rest = path.partition(".")
    own = {key.removeprefix(component + "."): value for key, value in peft.items() if key.startswith(component + ".")}
    alpha = own.get("lora_alpha", rank)
    patterns = own.get("alpha_pattern")
    for key, value in patterns.items() if isinstance(patterns, dict) else ():
        if rest == key or rest.endswith("." + key):
            alpha = value
    return float(alpha) / (math.sqrt(rank) if own.get("use_rslora") else rank)


def _peft_settings(adapter_id: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """PEFT's own settings, which diffusers writes into the metadata, flat: ``transformer.lora_alpha`` and so on."""
    if PEFT_METADATA not in metadata:
        return {}
    try:
        settings = json.loads(metadata[PEFT_METADATA])
        numbers = [v for k, v in settings.items() if k.endswith(".lora_alpha")]
        numbers += [v for k, p in settings.items() if k.endswith(".alpha_pattern") and p for v in p.values()]
        if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
            raise ValueError
    except (ValueError, OverflowError, AttributeError, RecursionError):  # a whole number may pass every float
        raise refusal(adapter_id, "has PEFT settings that cannot be read") from None
    if any(value for key, value in settings.items() if key.endswith((".use_dora", ".lora_bias"))):
        raise refusal(adapter_id, "uses DoRA or biases; low-rank products are known here")
    return settings if isinstance(settings, dict) else {}
