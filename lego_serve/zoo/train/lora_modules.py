"""Low-rank adapters of the backbone: trained beside frozen layers, saved in the format that diffusers loads."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

FILE_NAME = "pytorch_lora_weights.safetensors"  # what `load_lora_weights` looks for in a folder
PREFIX = "transformer."


@dataclass(frozen=True, slots=True)
class LowRankPair:
    """One layer's update ``up @ down``; ``down`` is (rank, inputs), ``up`` (outputs, rank)."""

    down: torch.Tensor
    up: torch.Tensor

    @property
    def rank(self) -> int:
        """The rank of the update at most."""
        return self.down.shape[0]

    @property
    def delta(self) -> torch.Tensor:
        """The update of the layer's weight, (outputs, inputs)."""
        return self.up @ self.down


Adapter = Mapping[str, LowRankPair]  # by the name of the layer in the transformer


class LowRankLinear(nn.Module):
    """A frozen linear layer with a trainable low-rank update, which starts at zero."""

    def __init__(self, base: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        bound = math.sqrt(3 / base.in_features)
        down = (2 * torch.rand(rank, base.in_features, generator=generator) - 1) * bound
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output with the update added."""
        return self.base(x) + nn.functional.linear(nn.functional.linear(x, self.down), self.up)


def attention_layers(transformer: nn.Module) -> list[str]:
    """Return the names of all projections into and out of attention."""
    return [name for name in block_layers(transformer) if ".attn." in name]


def block_layers(transformer: nn.Module) -> list[str]:
    """Return the names of the blocks' attention and feed-forward layers, without the modulations."""
    names = (name for name, module in transformer.named_modules() if isinstance(module, nn.Linear))
    inside = (name for name in names if name.startswith("transformer_blocks."))
    return [name for name in inside if ".attn." in name or ".ff" in name]


def attach(transformer: nn.Module, rank: int, layers: Sequence[str], seed: int = 0) -> dict[str, LowRankLinear]:
    """Put a new adapter on these layers of a frozen transformer, and return its trainable parts."""
    generator = torch.Generator().manual_seed(seed)
    parts = {}
    for name in layers:
        parent, _, leaf = name.rpartition(".")
        layer = transformer.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        parts[name] = LowRankLinear(layer, rank, generator)
        setattr(transformer.get_submodule(parent), leaf, parts[name])
    return parts


def pairs_of(parts: Mapping[str, LowRankLinear]) -> dict[str, LowRankPair]:
    """Return the adapter that attached parts hold now."""
    return {name: LowRankPair(part.down.detach(), part.up.detach()) for name, part in parts.items()}


def merge(transformer: nn.Module, adapter: Adapter, scale: float = 1.0) -> None:
    """Add an adapter to a transformer's own weights, in place."""
    for name, pair in adapter.items():
        layer = transformer.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        layer.weight.data += scale * pair.delta.to(layer.weight)


def save_adapter(adapter: Adapter, file: Path, dtype: torch.dtype = torch.bfloat16) -> int:
    """Write the adapter as diffusers does and return its size in bytes."""
    tensors = {}
    for name, pair in adapter.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = pair.down.to(dtype).contiguous().cpu()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = pair.up.to(dtype).contiguous().cpu()
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, metadata={"format": "pt"})
    return file.stat().st_size


def load_adapter(file: Path) -> dict[str, LowRankPair]:
    """Read back what `save_adapter` wrote, in fp32."""
    tensors = load_file(file)
    names = [key.removeprefix(PREFIX).removesuffix(".lora_A.weight") for key in tensors if "lora_A" in key]
    return {
        name: LowRankPair(
            tensors[f"{PREFIX}{name}.lora_A.weight"].float(), tensors[f"{PREFIX}{name}.lora_B.weight"].float()
        )
        for name in names
    }
