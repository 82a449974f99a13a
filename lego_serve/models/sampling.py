"""Noise, sigma tables and the Euler step: pure tensor functions, equal to diffusers' to the bit.

Flow matching (Esser et al., 2024): x = (1 - sigma) z + sigma e, and the model says dx / dsigma.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lego_serve.models.base import ImageLatents

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler


@dataclass(frozen=True, slots=True)
class Start:
    """Where a lane begins: its latents (channels, height, width) and the sigmas left, the last one 0."""

    latents: torch.Tensor
    sigmas: tuple[float, ...]

    @property
    def steps(self) -> int:
        """Forward passes from here to the picture."""
        return len(self.sigmas) - 1


class FlowMatchSampler:
    """A checkpoint's scheduler, read as tables: it keeps no state between lanes."""

    def __init__(self, scheduler: "FlowMatchEulerDiscreteScheduler") -> None:
        self._scheduler = scheduler

    def sigmas(self, steps: int, tokens: int) -> tuple[float, ...]:
        """The sigma of each step and a final 0 (steps + 1 numbers) for a picture of so many tokens."""
        config = self._scheduler.config
        mu = None
        if config.use_dynamic_shifting:
            # Linear in the number of image tokens between the two the scheduler's config names.
            few, many = config.base_image_seq_len, config.max_image_seq_len
            mu = config.base_shift + (tokens - few) / (many - few) * (config.max_shift - config.base_shift)
        self._scheduler.set_timesteps(steps, mu=mu)
        return tuple(self._scheduler.sigmas.tolist())

    def start(
        self,
        shape: tuple[int, int, int],
        seed: int,
        steps: int,
        tokens: int,
        init: ImageLatents | None,
        strength: float,
    ) -> Start:
        """Noise for a lane, or an encoded picture noised as far as ``strength`` (0..1) says.

        As in diffusers' image-to-image pipeline one generator draws the picture's posterior sample
        first and the noise second, and the first ``1 - strength`` of the steps is left out.
        """
        generator = torch.Generator().manual_seed(seed)
        sigmas = self.sigmas(steps, tokens)
        if init is None:
            return Start(noise(shape, generator), sigmas)
        first = int(max(steps - min(steps * strength, steps), 0))
        latents = init.mean + init.std * noise(shape, generator)
        sigma = sigmas[first]
        return Start(sigma * noise(shape, generator) + (1.0 - sigma) * latents, sigmas[first:])


def noise(shape: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
    """Standard normal noise, drawn on the CPU in fp32 as diffusers draws it for one picture."""
    return torch.randn((1, *shape), generator=generator)[0]


def euler_step(latents: torch.Tensor, velocity: torch.Tensor, sigma: float, next_sigma: float) -> torch.Tensor:
    """One Euler step from sigma to next_sigma, in fp32."""
    dt = torch.tensor(next_sigma) - torch.tensor(sigma)
    return latents + dt.to(latents.device) * velocity
