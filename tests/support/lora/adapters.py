"""Adapters for tests: random products for a model's layers, written in the names that trainers use."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save, save_file

from lego_serve.models.lora.adapter import Adapter
from lego_serve.models.lora.checkpoint import parse_adapter
from lego_serve.models.lora.loading import load_adapter
from lego_serve.models.lora.names import BaseLayers
from tests.support.lora.layer_names import original_layers

Tensors = dict[str, torch.Tensor]
ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.to_add_out")


@dataclass(frozen=True)
class Products:
    """Products by canonical path: (down, up), all of one alpha."""

    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    alpha: float

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / next(iter(self.pairs.values()))[0].shape[0]


def products(
    base: BaseLayers, seed: int = 0, rank: int = 4, strength: float = 0.08, alpha: float | None = None, only: str = ""
) -> Products:
    """Random products for the layers whose path has ``only`` in it, all layers without."""
    draw = torch.Generator().manual_seed(seed)
    pairs = {}
    for path, (outputs, inputs) in base.shapes.items():
        if only in path:
            down = torch.randn(rank, inputs, generator=draw) * strength
            pairs[path] = (down, torch.randn(outputs, rank, generator=draw) * strength)
    return Products(pairs, rank if alpha is None else alpha)


def diffusers_names(made: Products) -> Tensors:
    """As diffusers writes them, which keeps no alpha: it is folded in."""
    tensors = {}
    for path, (down, up) in made.pairs.items():
        tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"] = down, up * made.scale
    return tensors


def old_diffusers_names(made: Products) -> Tensors:
    """As diffusers wrote them once, with network alphas."""
    tensors = {}
    for path, (down, up) in made.pairs.items():
        tensors[f"{path}.lora.down.weight"], tensors[f"{path}.lora.up.weight"] = down, up
        tensors[f"{path}.alpha"] = torch.tensor(made.alpha)
    return tensors


def peft_names(made: Products) -> Tensors:
    """As PEFT writes them for a transformer by itself."""
    tensors = {}
    for path, (down, up) in made.pairs.items():
        name = path.removeprefix("transformer.")
        tensors[f"base_model.model.{name}.lora_A.weight"] = down
        tensors[f"base_model.model.{name}.lora_B.weight"] = up * made.scale
    return tensors


def kohya_names(made: Products) -> Tensors:
    """As kohya's scripts write them over diffusers' modules."""
    tensors = {}
    prefixes = {"transformer": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
    for path, (down, up) in made.pairs.items():
        component, _, rest = path.partition(".")
        name = prefixes[component] + rest.replace(".", "_")
        tensors |= {
            f"{name}.lora_down.weight": down,
            f"{name}.lora_up.weight": up,
            f"{name}.alpha": torch.tensor(made.alpha),
        }
    return tensors


def original_names(base: BaseLayers, seed: int = 0, rank: int = 4, strength: float = 0.08) -> Tensors:
    """As kohya's scripts write them over the model's original code: products of several layers in one."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, paths in original_layers(base.family, base.shapes):
        outputs = sum(base.shapes[path][0] for path in paths)
        key = f"lora_unet_{name}"
        tensors[f"{key}.lora_down.weight"] = torch.randn(rank, base.shapes[paths[0]][1], generator=draw) * strength
        tensors[f"{key}.lora_up.weight"] = torch.randn(outputs, rank, generator=draw) * strength
        tensors[f"{key}.alpha"] = torch.tensor(rank / 2)
    return tensors


FORMATS: Mapping[str, Callable[[Products], Tensors]] = {
    "diffusers": diffusers_names,
    "old diffusers": old_diffusers_names,
    "peft": peft_names,
    "kohya": kohya_names,
}


def adapter(base: BaseLayers, tensors: Tensors, name: str = "mine", metadata: dict[str, str] | None = None) -> Adapter:
    """What becomes of a file with these tensors."""
    contiguous = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
    return load_adapter(name, parse_adapter(name, save(contiguous, metadata)), base)


def saved(tensors: Tensors, folder: Path, name: str = "mine") -> Path:
    """A file with these tensors."""
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


def weights_hash(layers: Iterable[torch.Tensor]) -> int:
    """A number that changes with any bit of any weight."""
    return hash(tuple(layer.detach().contiguous().view(torch.uint8).numpy().tobytes() for layer in layers))
