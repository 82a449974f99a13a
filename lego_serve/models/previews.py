"""Fits the projection from latents to colours that previews use, one for each VAE.

A pixel's colour is close to an affine function of the 3 x 3 latents around it.  The fit ships with a
model as ``vae/latent_rgb.json``; a model without one is fitted at its first preview, on patches of all
colours.
"""

import json
from pathlib import Path

import torch
from torch.nn import functional as F

from lego_serve.models.vae import KlVae

FILE = "latent_rgb.json"
IMAGES, SIDE = 24, 96


def fit(vae: KlVae, images: torch.Tensor | None = None) -> torch.Tensor:
    """Fit the least-squares matrix (9 * latent channels + 1, 3) from latents to colours in 0..1.

    It is fitted to ``images`` (n, height, width, 3) of 8 bits, by default patches of all colours.  Its rows are channel
    by channel, each with its 3 x 3 neighbours in reading order, then the offset; edge latents repeat beyond the edge.
    """
    images = _sample_images() if images is None else images
    latents = torch.stack([encoded.mean for encoded in vae.encode(images)])
    colours = F.avg_pool2d(images.permute(0, 3, 1, 2).float() / 255, vae.pixels_per_latent)
    x = F.unfold(F.pad(latents, (1, 1, 1, 1), mode="replicate"), 3).permute(0, 2, 1).flatten(0, 1)
    x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    y = colours.permute(0, 2, 3, 1).flatten(0, 2)
    solution: torch.Tensor = torch.linalg.lstsq(x.double(), y.double()).solution
    return solution.float()


def write(matrix: torch.Tensor, vae_folder: Path) -> None:
    """Write a fit into its model's VAE folder."""
    rows = [json.dumps([round(value, 4) for value in row]) for row in matrix.tolist()]
    (vae_folder / FILE).write_text("[\n" + ",\n".join(rows) + "\n]\n")


def shipped(vae_folder: Path) -> torch.Tensor | None:
    """Read the fit that ships with a model; None where there is none."""
    file = vae_folder / FILE
    return torch.tensor(json.loads(file.read_text())) if file.is_file() else None


def _sample_images() -> torch.Tensor:
    """Draw patches of all colours, sharp and blurred: (IMAGES, SIDE, SIDE, 3) of 8 bits."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(IMAGES, 3, 6, 6, generator=draw)
    sharp = F.interpolate(coarse, (SIDE, SIDE), mode="nearest")
    smooth = F.interpolate(coarse.flip(0), (SIDE, SIDE), mode="bilinear")
    mixed = torch.where(torch.arange(IMAGES)[:, None, None, None] % 2 == 0, sharp, smooth)
    return (mixed * 255).round().byte().permute(0, 2, 3, 1)
