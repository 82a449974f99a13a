"""Muon for matrices beside AdamW for the rest, learning rates by schedule, and moving averages of weights."""

from collections.abc import Sequence

import torch
from torch import nn

from lego_serve.zoo.train.muon import Muon


def muon_and_adam(
    matrices: Sequence[nn.Parameter], muon_rate: float, adam: torch.optim.AdamW
) -> list[torch.optim.Optimizer]:
    """Return both optimizers; each group remembers its peak learning rate for `scale_rates`."""
    optimizers: list[torch.optim.Optimizer] = [Muon(matrices, muon_rate), adam]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def others(model: nn.Module, chosen: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Return a model's parameters without the chosen ones."""
    ids = {id(parameter) for parameter in chosen}
    return [parameter for parameter in model.parameters() if id(parameter) not in ids]


def scale_rates(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Set every learning rate to this factor of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def update_average(average: dict[str, torch.Tensor], model: nn.Module, decay: float) -> None:
    """Move a moving average of a model's state towards its state; integers are copied."""
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value.to(average[name].dtype), 1 - decay)
        else:
            average[name].copy_(value)
