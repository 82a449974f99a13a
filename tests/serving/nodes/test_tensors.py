"""Tensors of nodes: how many bytes of weights a part holds."""

from dataclasses import dataclass, field

import torch

from lego_serve.serving.nodes.tensors import drop_weights, weights_bytes


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


def test_dropped_weights_take_nothing_though_who_held_them_is_still_there() -> None:
    """In modules and in layers that are none; a tensor that is no weight of the part stays as it is."""
    table = torch.zeros(5)
    modules = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    part = Part(modules, {"a": (Packed(torch.zeros(4, 8)), Packed(table.clone()))})
    part.owner.append(part)
    drop_weights(part)
    assert weights_bytes(part) == 0
    assert table.numel() == 5
