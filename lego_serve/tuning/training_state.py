"""The state of a training in a file: weights, Adam's moments, and how far it came."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def resume(file: Path, weights: list[torch.Tensor], optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Load what was saved last, if anything, and return the updates and seconds that it had taken."""
    if not file.exists():
        return 0, 0.0
    with safe_open(file, "pt") as content:
        progress = json.loads(content.metadata()["progress"])
        kept = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - it is no mapping
    with torch.no_grad():
        for number, weight in enumerate(weights):
            weight.copy_(kept.pop(f"weight.{number}"))
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in kept.items():
        _, number, key = name.split(".")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(progress["update"]), float(progress["spent_s"])


def save(
    file: Path, weights: list[torch.Tensor], optimizer: torch.optim.Optimizer, update: int, spent_s: float
) -> None:
    """Save all of it at once."""
    partial = file.with_suffix(".partial")
    kept = {f"weight.{number}": weight.detach() for number, weight in enumerate(weights)}
    for number, values in optimizer.state_dict()["state"].items():
        kept |= {f"optimizer.{number}.{key}": value for key, value in values.items()}
    save_file(kept, partial, metadata={"progress": json.dumps({"update": update, "spent_s": spent_s})})
    partial.replace(file)
