"""Previews: the projection that is fitted is the one that is applied, and it shows what the image shows."""

import asyncio
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.core.nodes.requests import PreviewMatrix
from lego_serve.models import previews as fits
from lego_serve.models.loading import load_vae
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.coordinator.previews import Previews, project
from lego_serve.zoo.export import WEIGHTS
from lego_serve.zoo.world.scenes import COLOURS, Scene, Thing, render


def test_the_projection_is_a_convolution() -> None:
    """numpy's windows in the gateway mean what torch's unfold means in the fit."""
    draw = torch.Generator().manual_seed(0)
    latents, matrix = torch.randn(4, 6, 10, generator=draw), torch.randn(37, 3, generator=draw) * 0.1
    columns = F.unfold(F.pad(latents[None], (1, 1, 1, 1), mode="replicate"), 3)[0].T
    wanted = ((columns @ matrix[:-1] + matrix[-1]).clamp(0, 1) * 255).round().view(6, 10, 3)
    image = project(latents.numpy(), matrix.numpy())
    made = np.frombuffer(image.rgb, np.uint8).reshape(image.height, image.width, 3)
    assert (image.width, image.height) == (10, 6)
    assert np.abs(made.astype(int) - wanted.numpy()).max() <= 1


def test_a_fit_reads_as_it_was_written(tmp_path: Path) -> None:
    """To four decimals; a folder without one has none."""
    matrix = torch.randn(37, 3, generator=torch.Generator().manual_seed(0))
    assert fits.shipped(tmp_path) is None
    fits.write(matrix, tmp_path)
    read = fits.shipped(tmp_path)
    assert read is not None
    assert torch.allclose(read, matrix, atol=1e-4)


@pytest.mark.parametrize("ground", ["red", "blue", "white", "yellow"])
def test_the_shipped_fit_shows_colours_and_places(ground: str) -> None:
    """A ground's preview is nearer to its own colour than to the object's, and the object stands out where it is."""
    vae = load_vae(ModelSpec("lego-tiny", "builtin:lego-tiny", max_sequence_length=0, dtype="float32"))
    matrix = fits.shipped(WEIGHTS / "vae")
    assert matrix is not None
    scene = Scene((Thing("black", "circle", "left", "large"),), ground)
    image = ((render([scene], 128, 128, random.Random(0)) / 2 + 0.5) * 255).round().byte().permute(0, 2, 3, 1)
    said = project(vae.encode(image)[0].mean.numpy(), matrix.numpy())
    rgb = np.frombuffer(said.rgb, np.uint8).reshape(16, 16, 3).astype(float)
    own, other = np.array(COLOURS[ground]), np.array(COLOURS["black"])
    right = rgb[2:-2, 10:14].mean((0, 1))
    assert np.linalg.norm(right - own) < np.linalg.norm(right - other)
    left = rgb[7:9, 1:6].mean((0, 1))
    assert np.linalg.norm(left - right) > 60


class FakeVae:
    """Answers the projection, after refusing a few times."""

    def __init__(self, refusals: int) -> None:
        self.refusals, self.asked = refusals, 0

    async def run(self, call: NodeCall[PreviewMatrix]) -> NodeResult[PreviewMatrix]:
        """One call."""
        self.asked += 1
        await asyncio.sleep(0)
        if self.asked <= self.refusals:
            raise RuntimeError("not now")
        return NodeResult(PreviewMatrix(np.zeros((37, 3))))


async def test_the_projection_is_asked_for_once_and_again_after_a_failure() -> None:
    """However many previews are due at once."""
    vae = FakeVae(refusals=1)
    mine = Previews({("m", "vae"): vae})
    with pytest.raises(RuntimeError):
        await mine.image("m", np.zeros((4, 2, 2)))
    await asyncio.gather(*(mine.image("m", np.zeros((4, 2, 2))) for _ in range(3)))
    assert vae.asked == 2
