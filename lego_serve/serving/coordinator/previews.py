"""Makes previews from latents with one matrix per VAE."""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from lego_serve.core.jobs.job import GeneratedImage
from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.core.nodes.requests import FitPreview, PreviewMatrix


class VaeHandle(Protocol):
    """The deployment that knows a VAE's projection."""

    async def run(self, call: NodeCall[PreviewMatrix]) -> NodeResult[PreviewMatrix]:
        """Make a call."""
        ...


class Previews:
    """The projections of the models in use."""

    def __init__(self, nodes: Mapping[tuple[str, str], VaeHandle]) -> None:
        self._nodes = nodes
        self._asked: dict[str, asyncio.Future[np.ndarray]] = {}

    def expect(self, model: str) -> None:
        """Ask for a model's projection in good time, if it is not known yet."""
        if model not in self._asked:
            self._asked[model] = asyncio.ensure_future(self._ask(model))

    async def image(self, model: str, latents: Any) -> GeneratedImage:
        """An image of a pixel a latent; its seed is not told.  Raises what asking for the projection raised."""
        self.expect(model)
        try:
            matrix = await asyncio.shield(self._asked[model])
        except asyncio.CancelledError:
            raise
        except Exception:
            self._asked.pop(model, None)  # the next preview asks again
            raise
        return project(latents, matrix)

    async def _ask(self, model: str) -> np.ndarray:
        result = await self._nodes[model, "vae"].run(NodeCall(FitPreview()))
        return np.array(result.reply.matrix)


def project(latents: np.ndarray, matrix: np.ndarray) -> GeneratedImage:
    """Latents (channels, height, width) to 8-bit RGB, by a matrix (9 * channels + 1, 3) of ``models/previews``."""
    padded = np.pad(latents, ((0, 0), (1, 1), (1, 1)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    rows = windows.transpose(1, 2, 0, 3, 4).reshape(*latents.shape[1:], -1)
    rgb = rows @ matrix[:-1] + matrix[-1]
    pixels = (rgb.clip(0, 1) * 255).round().astype(np.uint8)
    return GeneratedImage(pixels.shape[1], pixels.shape[0], pixels.tobytes(), 0)
