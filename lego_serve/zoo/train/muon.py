"""The Muon optimizer for hidden matrices, in fp32 (it also has to run on a CPU).

Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024): momentum,
then the nearest orthogonal matrix by a quintic Newton-Schulz iteration; the update is scaled to
AdamW's usual size (Liu et al., "Muon is scalable for LLM training", 2025).
"""

from collections.abc import Iterable

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Return the nearest (semi-)orthogonal matrices to a batch (count, rows, columns), approximately."""
    a, b, c = COEFFICIENTS
    flip = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if flip else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if flip else x


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates, for matrices and for convolutions taken as such (rows are outputs)."""

    def __init__(
        self, params: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter once; matrices of one shape are orthogonalised together."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = []
                for parameter in parameters:
                    state = self.state[parameter]
                    assert parameter.grad is not None
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(parameter)
                    state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                    updates.append(parameter.grad.lerp(state["momentum"], group["momentum"]).flatten(1))
                scale = 0.2 * max(shape[0], shape.numel() // shape[0]) ** 0.5 * group["lr"]
                for parameter, update in zip(parameters, orthogonalise(torch.stack(updates)), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.view(shape), alpha=-scale)
