"""Makes an adapter for a model from a checked file, and lists the layers of a model that adapters may change.

Every pair is checked against its layer.  A pair whose product could exceed MAX_DELTA is refused here, before any
weight is touched.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lego_serve.core.addons import AdapterFacts
from lego_serve.models import model_files
from lego_serve.models.lora.adapter import Adapter, Pair
from lego_serve.models.lora.checkpoint import AdapterFile, header_of, opened, pattern, refusal
from lego_serve.models.lora.keys import WEIGHT, read_pairs
from lego_serve.models.lora.names import BaseLayers
from lego_serve.models.lora.targets import lora_targets_of, text_layer_path
from lego_serve.models.registry import ModelSpec

MAX_RANK = 256
MAX_DELTA = 1e4


def load_adapter(adapter_id: str, file: AdapterFile, base: BaseLayers) -> Adapter:
    """Make the adapter of a checked file for a model.  Raises InvalidAdapter, naming both where they do not fit.

    Where only the file's header was read, its pairs have no values.
    """
    found = read_pairs(adapter_id, file, base)
    for path, pair in found.pairs.items():
        _check_pair(adapter_id, path, pair)
    return Adapter(adapter_id, file.sha256, found.pairs, found.passed_over)


def _check_pair(adapter_id: str, path: str, pair: Pair) -> None:
    where = f"in {pattern(path)}"
    if not 1 <= pair.rank <= MAX_RANK:
        raise refusal(adapter_id, f"has a rank outside 1 to {MAX_RANK} {where}")
    if pair.up.is_meta:
        return
    largest = pair.rank * float(pair.down.abs().max()) * float(pair.up.abs().max())
    if not largest <= MAX_DELTA:  # not `>`: NaN must fail too
        raise refusal(adapter_id, f"could change weights by more than {MAX_DELTA:g} {where}")


def base_layers(spec: ModelSpec) -> BaseLayers:
    """List the layers of a model that adapters may change, from its configs alone; no weight is read.

    Raises CheckpointError, also for a family that takes no adapters.
    """
    import diffusers
    import transformers

    targets = lora_targets_of(spec)
    folder = model_files.model_folder(spec, "transformer", *targets.texts)
    shapes: dict[str, tuple[int, int]] = {}
    with torch.device("meta"):
        config = model_files.read_json(spec, folder / "transformer" / "config.json")
        shapes |= _shapes("transformer", getattr(diffusers, targets.transformer).from_config(config))
        for name, class_name in targets.texts.items():
            settings = model_files.read_json(spec, folder / name / "config.json")
            cls = getattr(transformers, class_name)
            shapes |= _shapes(name, cls(cls.config_class(**settings)))
    adaptable = {path: shape for path, shape in shapes.items() if not path.startswith(targets.fixed)}
    return BaseLayers(spec.name, spec.family, adaptable)


def _shapes(component: str, module: Any) -> dict[str, tuple[int, int]]:
    return {
        f"{component}.{text_layer_path(name)}": (layer.out_features, layer.in_features)
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }


@dataclass(frozen=True, slots=True)
class AdapterSummary:
    """The size of a file and the largest rank in it; 0 where it has no product."""

    size_bytes: int
    rank: int


def summary_of(adapter_id: str, path: Path) -> AdapterSummary:
    """Summarise a file by its header; its weights are neither read nor checked.

    Raises InvalidAdapter for a file that is not safetensors, and NotFound.
    """
    with opened(adapter_id, path) as (file, size_bytes):
        _, header = header_of(adapter_id, file, size_bytes)
    return AdapterSummary(size_bytes, max((_rank(name, fields) for name, fields in header.items()), default=0))


def _rank(name: str, fields: object) -> int:
    """Return the rank of a product by its down weight's header entry; 0 for any other tensor."""
    match = WEIGHT.fullmatch(name)
    shape = fields.get("shape") if isinstance(fields, dict) else None
    if match is None or (match["peft"] or match["kohya"] or match["old"]) not in ("A", "down"):
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or type(shape[0]) is not int:
        return 0
    return int(shape[0])


def card_of(adapter: Adapter) -> AdapterFacts:
    """Describe a checked adapter for an operator."""
    ranks = sorted({pair.rank for pair in adapter.pairs.values()})
    components = sorted({path.partition(".")[0] for path in adapter.pairs})
    facts: AdapterFacts = {
        "rank": ranks[-1],
        "ranks": ranks,
        "layers": len(adapter.pairs),
        "components": components,
        "sha256": adapter.sha256,
    }
    return facts | {"passed_over": list(adapter.passed_over)} if adapter.passed_over else facts
