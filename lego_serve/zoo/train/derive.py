"""Derives any number of adapters and ControlNets from a few trained ones, for load tests; always the same ones.

Each adapter is a mixture of two of the sources with a little noise, cut back to its own rank of 4 to 32; each
ControlNet is the trained one with a little noise on its weights.  So all draw something and no two are alike.
"""

import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lego_serve.zoo.train.lora_modules import Adapter, LowRankPair, load_adapter, save_adapter

RANKS = (4, 8, 16, 32)
NOISE_RATIO = 0.05  # of the mixture's size
WEIGHT_NOISE_RATIO = 0.02  # of a ControlNet's weight's own size
NET_FILES = ("config.json", "diffusion_pytorch_model.safetensors")


def derived_name(index: int) -> str:
    """Return the id of a derived adapter, its rank last."""
    return f"derived-{index:04d}-r{RANKS[index % len(RANKS)]}"


def derive_adapters(sources: Sequence[Path], folder: Path, count: int) -> Iterator[Path]:
    """Write so many adapters, a file each as an adapter root holds them, and yield the files as they are made."""
    adapters = [load_adapter(source) for source in sources]
    for index in range(count):
        file = folder / f"{derived_name(index)}.safetensors"
        save_adapter(derive(adapters, index), file)
        yield file


def derive(sources: Sequence[Adapter], index: int) -> dict[str, LowRankPair]:
    """Return the adapter of this number: a random mixture of two sources, at one of RANKS."""
    rng = random.Random(f"derive {index}")
    chosen = rng.sample(range(len(sources)), min(2, len(sources)))
    shares = {source: rng.uniform(0.3, 0.9) for source in chosen}
    generator = torch.Generator().manual_seed(index)
    names = sorted({name for source in chosen for name in sources[source]})
    mixed = {source: sources[source] for source in chosen}
    return {name: _mix(mixed, shares, name, RANKS[index % len(RANKS)], generator) for name in names}


def _mix(
    sources: Mapping[int, Adapter], shares: Mapping[int, float], name: str, rank: int, generator: torch.Generator
) -> LowRankPair:
    pairs = [(sources[source][name], share) for source, share in shares.items() if name in sources[source]]
    down = torch.cat([pair.down for pair, _ in pairs])
    up = torch.cat([pair.up * share for pair, share in pairs], dim=1)
    # Noise of full rank fills up a mixture whose own rank is lower than the wanted one.
    extra_down = torch.randn(rank, down.shape[1], generator=generator)
    extra_up = torch.randn(up.shape[0], rank, generator=generator)
    size = NOISE_RATIO * (up @ down).norm() / (extra_up @ extra_down).norm()
    return truncate_rank(torch.cat([down, extra_down]), torch.cat([up, extra_up * size], dim=1), rank)


def truncate_rank(down: torch.Tensor, up: torch.Tensor, rank: int) -> LowRankPair:
    """Return the best pair of this rank for ``up @ down``; each half gets the square root of the singular values."""
    # QR of the thin factors first: the product itself is never decomposed.
    left, left_r = torch.linalg.qr(up)
    right, right_r = torch.linalg.qr(down.T)
    u, s, v = torch.linalg.svd(left_r @ right_r.T)
    half = s[:rank].sqrt()
    return LowRankPair((half[:, None] * v[:rank]) @ right.T, left @ u[:, :rank] * half)


def derive_controlnets(source: Path, folder: Path, count: int) -> Iterator[Path]:
    """Write so many ControlNets, a folder in diffusers' format each, and yield the folders as they are made."""
    config, weights = NET_FILES
    trained = load_file(source / weights)
    for index in range(count):
        derived = folder / f"control-{index:03d}"
        derived.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / config, derived / config)
        save_file(_add_noise(trained, index), derived / weights, metadata={"format": "pt"})
        yield derived


def _add_noise(weights: Mapping[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(index)
    noisy = {}
    for name, weight in sorted(weights.items()):
        noise = torch.randn(weight.shape, generator=generator).to(weight.dtype)
        noisy[name] = weight + WEIGHT_NOISE_RATIO * weight.float().pow(2).mean().sqrt().to(weight.dtype) * noise
    return noisy
