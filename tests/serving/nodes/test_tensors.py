"""Tensors of nodes: how many bytes of weights a part holds."""

from dataclasses import dataclass, field

import torch

from lego_serve.serving.nodes.tensors import weights_bytes


@dataclass(slots=True)
class Packed:
    """A layer whose weights are no module's."""

    weight: torch.Tensor
    name: str = "packed"


@dataclass
class Part:
    """A part of a model, of modules and of others, in circles."""

    module: torch.nn.Module
    layers: dict[str, tuple[Packed, ...]]
    owner: list[object] = field(default_factory=list)


def test_weights_are_counted_once_wherever_they_are() -> None:
    """In modules, in layers that are none, in containers; a view holds what it is a view of."""
    weight = torch.zeros(4, 8)
    part = Part(torch.nn.Linear(2, 3), {"a": (Packed(weight), Packed(weight[1:])), "b": (Packed(torch.zeros(5)),)})
    part.owner.append(part)
    assert weights_bytes(part) == 4 * (2 * 3 + 3 + 4 * 8 + 5)
