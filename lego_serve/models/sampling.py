"""Noise, sigma tables and samplers: pure tensor functions, equal to diffusers' schedulers.

Flow matching (Esser et al., 2024): x = (1 - sigma) z + sigma e, and the model predicts v = dx / dsigma,
so that z = x - sigma v.  A sampler keeps no state between lanes; what it needs of earlier steps is
the lane's ``history``, a tuple of tensors that travels with it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lego_serve.core.tiers.grids import Grid
from lego_serve.errors import RequestError
from lego_serve.models.ragged.conditioning import ImageLatents
from lego_serve.models.ragged.device import uploaded

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler

History = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The sigma of each step and a final 0 (steps + 1 numbers), and the time in 0..1 the model is given (steps).

    On a grid the steps stand for others, those asked for: ``asked`` counts them, and ``begins`` has, for each step,
    the index of the asked step that it begins in.  Without a grid each step stands for itself.
    """

    sigmas: tuple[float, ...]
    times: tuple[float, ...]
    begins: tuple[int, ...] = ()
    asked: int = 0

    def __post_init__(self) -> None:
        if not self.asked:
            object.__setattr__(self, "asked", len(self.times))
            object.__setattr__(self, "begins", tuple(range(len(self.times))))

    @property
    def steps(self) -> int:
        """Number of forward passes."""
        return len(self.times)

    def shortened(self, strength: float) -> "Schedule":
        """Return the schedule without the first ``1 - strength`` of its steps, as in diffusers."""
        first = int(max(self.steps - min(self.steps * strength, self.steps), 0))
        return Schedule(self.sigmas[first:], self.times[first:])

    def on_grid(self, grid: Grid) -> "Schedule":
        """Return the steps of a grid in place of these, from the same first sigma to the same end.

        A grid tells the model its sigmas as times, as Euler does.
        """
        sigmas = grid.part_below(self.sigmas[0])
        begins = tuple(sum(asked >= sigma - 1e-9 for asked in self.sigmas[1:-1]) for sigma in sigmas[:-1])
        return Schedule(sigmas, sigmas[:-1], begins, self.steps)

    def span(self, step: int) -> tuple[int, int]:
        """Return the asked steps that a step stands for, from and up to."""
        return self.begins[step], self.begins[step + 1] if step + 1 < self.steps else self.asked

    def early_steps(self, asked: int) -> int:
        """Return how many steps stand for none but the first ``asked`` of the asked steps; never all of them."""
        return min(sum(self.span(step)[1] <= asked for step in range(self.steps)), self.steps - 1)


@dataclass(frozen=True, slots=True)
class LaneStart:
    """The start of a lane: its latents (channels, height, width) and the schedule of its steps."""

    latents: torch.Tensor
    schedule: Schedule


def euler(
    latents: torch.Tensor, velocity: torch.Tensor, schedule: Schedule, step: int, history: History, seed: int = 0
) -> tuple[torch.Tensor, History]:
    """Take one step of Euler's method, in fp32.  Returns the latents and the history."""
    # Subtracted in fp32, as in diffusers; a scalar tensor on the CPU reaches any device without a copy.
    dt = torch.tensor(schedule.sigmas[step + 1]) - torch.tensor(schedule.sigmas[step])
    return latents + dt * velocity, ()


def dpmpp_2m(
    latents: torch.Tensor, velocity: torch.Tensor, schedule: Schedule, step: int, history: History, seed: int = 0
) -> tuple[torch.Tensor, History]:
    """Take one step of DPM-Solver++(2M) (Lu et al., 2022) for flow matching, in fp32.

    With alpha = 1 - sigma and lambda = log(alpha / sigma) it extrapolates the predicted image to
    the middle of the step, from the prediction of the step before.  The first step and the last, where
    lambda is infinite, are of first order.
    """
    sigma, next_sigma = schedule.sigmas[step], schedule.sigmas[step + 1]
    image = latents - sigma * velocity
    if next_sigma == 0:
        return image, ()
    h = _log_snr(next_sigma) - _log_snr(sigma)
    extrapolated = image
    if history:
        previous_h = _log_snr(sigma) - _log_snr(schedule.sigmas[step - 1])
        extrapolated = image + (0.5 * h / previous_h) * (image - history[0])
    return (next_sigma / sigma) * latents + (1 - next_sigma) * -math.expm1(-h) * extrapolated, (image,)


def lcm(
    latents: torch.Tensor, velocity: torch.Tensor, schedule: Schedule, step: int, history: History, seed: int = 0
) -> tuple[torch.Tensor, History]:
    """Take one step of multistep consistency sampling (Song et al., 2023; Luo et al., 2023) for flow matching, in fp32.

    For models distilled to say the finished image at once: it is noised anew to the next sigma.  The noise is drawn
    from the lane's seed and the step, so that a lane that goes on elsewhere draws the same.
    """
    sigma, next_sigma = schedule.sigmas[step], schedule.sigmas[step + 1]
    image = latents - sigma * velocity
    if next_sigma == 0:
        return image, ()
    fresh = torch.randn(latents.shape, generator=step_generator(seed, step))
    return (1 - next_sigma) * image + next_sigma * uploaded(fresh, latents.device), ()


def _scm(steps: int, mu: float | None) -> Schedule:
    """Return the table of SANA-Sprint's continuous-time consistency sampling (Chen et al., 2025): even angles.

    Its noise is x = cos(t) z + sin(t) e, which over cos(t) + sin(t) is ours at sigma = sin(t) / (cos(t) + sin(t)).  A
    shift has no part in it.
    """
    half = math.pi / 2
    angles = [half, MIDDLE_ANGLE] if steps == 2 else [half * (1 - index / steps) for index in range(steps)]
    sigmas = tuple(math.sin(angle) / (math.cos(angle) + math.sin(angle)) for angle in angles)
    return Schedule((1.0, *sigmas[1:], 0.0), (1.0, *sigmas[1:]))


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return the source of a step's noise; another one than that of any other step or seed."""
    return torch.Generator().manual_seed((seed + 1) * 1_000_003 + step)


def _log_snr(sigma: float) -> float:
    return math.log1p(-sigma) - math.log(sigma) if sigma < 1 else -math.inf


Advance = Callable[[torch.Tensor, torch.Tensor, Schedule, int, History, int], tuple[torch.Tensor, History]]
# With x = (1 - sigma) z + sigma e both take the step of consistency sampling; their sigmas differ.
SAMPLERS: Mapping[str, Advance] = {"euler": euler, "dpmpp_2m": dpmpp_2m, "lcm": lcm, "scm": lcm}
MIDDLE_ANGLE = 1.3  # of two steps of `scm`, where the second begins, as diffusers' SCMScheduler has it


class FlowMatchTables:
    """Makes the sigma tables of a checkpoint's scheduler, for any number of steps, image size and sampler.

    With ``explicit_sigmas`` the family's pipeline gives the scheduler evenly spaced sigmas of its own
    (FLUX) rather than a number of steps (SD3).
    """

    def __init__(self, scheduler: "FlowMatchEulerDiscreteScheduler", *, explicit_sigmas: bool = False) -> None:
        self._scheduler, self._explicit_sigmas = scheduler, explicit_sigmas

    def schedule(self, sampler: str, steps: int, tokens: int) -> Schedule:
        """Return the table of a sampler for an image of so many tokens.  Raises RequestError for an unknown sampler."""
        builds = {"euler": self._euler, "dpmpp_2m": self._dpmpp_2m, "lcm": self._euler, "scm": _scm}
        build = builds.get(sampler)
        if build is None:
            raise RequestError(f"`sampler` must be one of {', '.join(SAMPLERS)}.", param="sampler")
        return build(steps, self._shift(tokens))

    def start(
        self,
        shape: tuple[int, int, int],
        seed: int,
        schedule: Schedule,
        init: ImageLatents | None = None,
        strength: float = 1.0,
        grid: Grid | None = None,
    ) -> LaneStart:
        """Draw a lane's noise, or noise an encoded image as far as ``strength`` (0..1) says.

        As in diffusers' image-to-image pipeline one generator draws the image's posterior sample
        first and the noise second, and the first ``1 - strength`` of the steps is left out.  Of a ``grid`` the part
        below the first sigma that is left is run.
        """
        generator = torch.Generator().manual_seed(seed)
        if init is None:
            return LaneStart(noise(shape, generator), _on(grid, schedule))
        remaining = _on(grid, schedule.shortened(strength))
        latents = init.mean + init.std * noise(shape, generator)
        sigma = remaining.sigmas[0]
        return LaneStart(sigma * noise(shape, generator) + (1.0 - sigma) * latents, remaining)

    def _shift(self, tokens: int) -> float | None:
        """Return ``mu``, linear in the image tokens between the config's two numbers; None where the shift is fixed."""
        config = self._scheduler.config
        if not config.use_dynamic_shifting:
            return None
        low, high = config.base_image_seq_len, config.max_image_seq_len
        return float(config.base_shift + (tokens - low) / (high - low) * (config.max_shift - config.base_shift))

    def _euler(self, steps: int, mu: float | None) -> Schedule:
        if self._explicit_sigmas:
            self._scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        else:
            self._scheduler.set_timesteps(num_inference_steps=steps, mu=mu)
        sigmas = tuple(self._scheduler.sigmas.tolist())
        return Schedule(sigmas, sigmas[:-1])

    def _dpmpp_2m(self, steps: int, mu: float | None) -> Schedule:
        from diffusers import DPMSolverMultistepScheduler

        config = self._scheduler.config
        shift = config.shift if mu is None else math.exp(mu)
        solver = DPMSolverMultistepScheduler(
            num_train_timesteps=config.num_train_timesteps,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=shift,
        )
        solver.set_timesteps(steps)
        # The solver gives the model whole timesteps, a little below those of its sigmas.
        times = tuple(t / config.num_train_timesteps for t in solver.timesteps.tolist())
        return Schedule(tuple(solver.sigmas.tolist()), times)


def _on(grid: Grid | None, schedule: Schedule) -> Schedule:
    return schedule if grid is None else schedule.on_grid(grid)


def noise(shape: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
    """Draw standard normal noise on the CPU in fp32, as diffusers draws it for one image."""
    return torch.randn((1, *shape), generator=generator)[0]
