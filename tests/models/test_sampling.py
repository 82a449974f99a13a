"""Samplers against diffusers' schedulers, step for step."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler, SCMScheduler

from lego_serve.errors import RequestError
from lego_serve.models.sampling import SAMPLERS, FlowMatchTables, Schedule, step_generator
from tests.support.transformers import solver

FIXED = {"shift": 3.0}
DYNAMIC = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
TOKENS, SEED = 400, 7


def shift_of(config: dict[str, Any]) -> float | None:
    """``mu`` by the pipelines' own formula."""
    if not config.get("use_dynamic_shifting"):
        return None
    slope = (config["max_shift"] - config["base_shift"]) / (4096 - 256)
    return TOKENS * slope + config["base_shift"] - slope * 256


def ours(sampler: str, schedule: Schedule, velocities: list[torch.Tensor], latents: torch.Tensor) -> torch.Tensor:
    """Our latents after all steps, given a model's outputs."""
    history: tuple[torch.Tensor, ...] = ()
    for step, velocity in enumerate(velocities):
        latents, history = SAMPLERS[sampler](latents, velocity, schedule, step, history, SEED)
    return latents


@pytest.mark.parametrize("config", [FIXED, DYNAMIC], ids=["fixed shift", "dynamic shift"])
@pytest.mark.parametrize("steps", [1, 2, 8, 20, 28])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "lcm"])
def test_a_sampler_takes_diffusers_steps(sampler: str, steps: int, config: dict[str, Any]) -> None:
    """From the same latents and velocities every step ends where the scheduler's does, at the same model times."""
    base = FlowMatchEulerDiscreteScheduler(**config)
    schedule = FlowMatchTables(base).schedule(sampler, steps, TOKENS)
    theirs = {
        "euler": lambda: base,
        "dpmpp_2m": lambda: solver(config),
        "lcm": lambda: FlowMatchLCMScheduler(**config),
    }[sampler]()
    theirs.set_timesteps(steps, mu=shift_of(config))
    draw = torch.Generator().manual_seed(steps)
    latents = start = torch.randn(1, 4, 8, 8, generator=draw)
    velocities = [torch.randn(1, 4, 8, 8, generator=draw) for _ in range(steps)]
    assert np.allclose([t * 1000 for t in schedule.times], theirs.timesteps.numpy(), atol=1e-3)
    for step, (velocity, time) in enumerate(zip(velocities, theirs.timesteps, strict=True)):
        drawn = {"generator": step_generator(SEED, step)} if sampler == "lcm" else {}
        latents = theirs.step(velocity, time, latents, **drawn).prev_sample
    torch.testing.assert_close(ours(sampler, schedule, velocities, start), latents, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
def test_scm_takes_the_steps_of_sana_sprint(steps: int) -> None:
    """Its pipeline's: latents over cos + sin, a velocity turned into TrigFlow's, and diffusers' scheduler for the rest.

    Latents end divided by the scheduler's ``sigma_data``, by which the pipeline multiplies them at first.
    """
    schedule = FlowMatchTables(FlowMatchEulerDiscreteScheduler(**FIXED)).schedule("scm", steps, TOKENS)
    theirs = SCMScheduler(prediction_type="trigflow", sigma_data=0.5)
    theirs.set_timesteps(steps, intermediate_timesteps=1.3 if steps == 2 else None)
    theirs.set_begin_index(0)
    draw = torch.Generator().manual_seed(steps)
    start = torch.randn(1, 4, 8, 8, generator=draw)
    velocities = [torch.randn(1, 4, 8, 8, generator=draw) for _ in range(steps)]
    latents = 0.5 * start
    for step, (velocity, angle) in enumerate(zip(velocities, theirs.timesteps[:-1], strict=True)):
        sigma = torch.sin(angle) / (torch.cos(angle) + torch.sin(angle))
        assert schedule.times[step] == pytest.approx(float(sigma), abs=1e-5)
        scale = torch.sqrt(sigma**2 + (1 - sigma) ** 2)
        turned = ((1 - 2 * sigma) * latents / 0.5 * scale + (1 - 2 * sigma + 2 * sigma**2) * velocity) / scale
        latents = theirs.step(turned * 0.5, angle, latents, generator=step_generator(SEED, step)).prev_sample
    torch.testing.assert_close(ours("scm", schedule, velocities, start), latents / 0.5, atol=2e-4, rtol=1e-4)


def test_every_sampler_is_held_against_diffusers() -> None:
    """By one of the two tests above."""
    assert set(SAMPLERS) == {"euler", "dpmpp_2m", "lcm", "scm"}


def test_lcm_draws_noise_that_depends_on_seed_and_step_alone() -> None:
    """Different in each step and for each seed, the same again: a lane that goes on elsewhere draws what it would."""
    draws = [torch.randn(4, generator=step_generator(seed, step)) for seed in (0, 1, 2**32 - 1) for step in range(3)]
    assert len({tuple(draw.tolist()) for draw in draws}) == 9
    assert torch.equal(torch.randn(4, generator=step_generator(1, 2)), draws[5])


def test_dpmpp_starts_from_pure_noise_without_dividing_by_it() -> None:
    """A table that begins at sigma 1, where the image's share is nothing, gives finite steps."""
    schedule = Schedule((1.0, 0.6, 0.3, 0.0), (1.0, 0.6, 0.3))
    latents = ours("dpmpp_2m", schedule, [torch.ones(1, 2, 2)] * 3, torch.ones(1, 2, 2))
    assert torch.isfinite(latents).all()


def test_an_explicit_table_is_what_the_flux_pipeline_sets() -> None:
    """FLUX hands the scheduler evenly spaced sigmas of its own."""
    base = FlowMatchEulerDiscreteScheduler(**DYNAMIC)
    schedule = FlowMatchTables(base, explicit_sigmas=True).schedule("euler", 7, TOKENS)
    base.set_timesteps(sigmas=np.linspace(1.0, 1 / 7, 7), mu=shift_of(DYNAMIC))
    assert schedule.sigmas == tuple(base.sigmas.tolist())


def test_an_unknown_sampler_is_the_requests_fault() -> None:
    """The message names those there are."""
    with pytest.raises(RequestError, match=r"`sampler` must be one of euler, dpmpp_2m, lcm, scm\.") as refused:
        FlowMatchTables(FlowMatchEulerDiscreteScheduler(**FIXED)).schedule("heun", 4, TOKENS)
    assert refused.value.param == "sampler"
