"""Models derived from a base: its denoiser changed a little, kept as a difference."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from lego_serve.models.derived.difference import write_difference
from lego_serve.models.derived.origin import Origin
from lego_serve.models.weights_digest import denoiser_digest


def derive(base: Path, folder: Path, seed: int = 1, path: str | None = None) -> Path:
    """Write a model whose every weight is off its base's, which it names by its folder or as ``path``; return it."""
    rng = torch.Generator().manual_seed(seed)
    state = load_file(next((base / "transformer").glob("*.safetensors")))
    student = {name: weight.float() + 0.02 * torch.randn(weight.shape, generator=rng) for name, weight in state.items()}
    write_difference(folder, state, student, Origin(path or str(base), denoiser_digest(base)))
    return folder
