"""From an adapter's checked file to an adapter that fits a model, and which layers of a model may be adapted.

Every pair is held against the layer it is for.  One whose product could pass MAX_DELTA is refused here, before
any weight is touched.
"""

from typing import Any

import torch

from lego_serve.models import loading
from lego_serve.models.adaptable import adaptable_of
from lego_serve.models.adapter_file import AdapterFile, pattern, refusal
from lego_serve.models.adapter_keys import BaseLayers, read_pairs
from lego_serve.models.lora import Adapter, Pair
from lego_serve.models.spec import ModelSpec

MAX_RANK = 256
MAX_DELTA = 1e4


def load_adapter(adapter_id: str, file: AdapterFile, base: BaseLayers) -> Adapter:
    """The adapter a checked file holds, for a model.  Raises InvalidAdapter, naming both where they do not fit.

    Of a file whose header alone was read: as far as that tells, without values.
    """
    pairs = read_pairs(adapter_id, file, base)
    for path, pair in pairs.items():
        _check_pair(adapter_id, path, pair)
    return Adapter(adapter_id, file.sha256, pairs)


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
    """The layers of a model that adapters may change, from its configs alone; no weight is read.

    Raises CheckpointError, also for a family that takes no adapters.
    """
    import diffusers
    import transformers

    adaptable = adaptable_of(spec)
    folder = loading.model_folder(spec, "transformer", *adaptable.texts)
    shapes: dict[str, tuple[int, int]] = {}
    with torch.device("meta"):
        config = loading.read_json(spec, folder / "transformer" / "config.json")
        shapes |= _shapes("transformer", getattr(diffusers, adaptable.transformer).from_config(config))
        for name, class_name in adaptable.texts.items():
            settings = loading.read_json(spec, folder / name / "config.json")
            cls = getattr(transformers, class_name)
            shapes |= _shapes(name, cls(cls.config_class(**settings)))
    free = {path: shape for path, shape in shapes.items() if not path.startswith(adaptable.fixed)}
    return BaseLayers(spec.name, spec.family, free)


def _shapes(component: str, module: Any) -> dict[str, tuple[int, int]]:
    return {
        f"{component}.{name}": (layer.out_features, layer.in_features)
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
