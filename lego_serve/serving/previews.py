"""Latents to small pictures, cheaply: one matrix a VAE, asked of its node once."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from lego_serve.core.job import Picture
from lego_serve.core.wire import Answer, Call


class VaeHandle(Protocol):
    """The deployment that knows a VAE's projection."""

    async def run(self, call: Call) -> Answer:
        """Make a call."""
        ...


class Previews:
    """The projections of the models in use."""

    def __init__(self, nodes: Mapping[tuple[str, str], VaeHandle]) -> None:
        self._nodes = nodes
        self._matrices: dict[str, np.ndarray] = {}

    async def picture(self, model: str, latents: Any) -> Picture:
        """A picture of a pixel a latent; its seed is not told."""
        if model not in self._matrices:
            answer = await self._nodes[model, "vae"].run(Call("preview_fit", {}))
            value: Any = answer.value
            self._matrices[model] = np.array(value["matrix"])
        return project(latents, self._matrices[model])


def project(latents: np.ndarray, matrix: np.ndarray) -> Picture:
    """Latents (channels, height, width) times a matrix (channels + 1, 3), whose last row is the offset, as 8-bit RGB."""
    rgb = np.tensordot(latents, matrix[:-1], axes=(0, 0)) + matrix[-1]
    pixels = (rgb.clip(0, 1) * 255).round().astype(np.uint8)
    return Picture(pixels.shape[1], pixels.shape[0], pixels.tobytes(), 0)
