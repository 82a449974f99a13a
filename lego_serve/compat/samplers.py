"""The samplers and schedulers of ComfyUI and AUTOMATIC1111, and what stands in for them here."""

from collections.abc import Mapping
from types import MappingProxyType

# ComfyUI's name -> A1111's label, and our sampler.  Ancestral and stochastic ones add noise anew in each step, which
# only `lcm` and `scm` do of ours; DDIM without noise takes Euler's steps.
SAMPLERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "euler": ("Euler", "euler"),
        "euler_ancestral": ("Euler a", "euler"),
        "ddim": ("DDIM", "euler"),
        "dpmpp_2m": ("DPM++ 2M", "dpmpp_2m"),
        "dpmpp_2m_sde": ("DPM++ 2M SDE", "dpmpp_2m"),
        "lcm": ("LCM", "lcm"),
    }
)
# ComfyUI's name -> A1111's name and label.  A model's own schedule is used whichever is named.
SCHEDULERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "normal": ("normal", "Normal"),
        "karras": ("karras", "Karras"),
        "exponential": ("exponential", "Exponential"),
        "sgm_uniform": ("sgm_uniform", "SGM Uniform"),
        "simple": ("simple", "Simple"),
        "ddim_uniform": ("ddim", "DDIM"),
        "beta": ("beta", "Beta"),
        "kl_optimal": ("kl_optimal", "KL Optimal"),
    }
)
AUTOMATIC = "automatic"  # A1111's word for the sampler's own schedule
UNREMARKABLE = ("normal", "simple", "sgm_uniform")  # what workflows for flow-matching models name


def exact_sampler(name: str) -> str | None:
    """Return our sampler for a name or label of theirs that means just it, else None."""
    ours = sampler_of(name)
    return ours if ours is not None and name.casefold() in (ours, SAMPLERS[ours][0].casefold()) else None


def sampler_of(name: str) -> str | None:
    """Return our sampler for ComfyUI's name or A1111's label, also one with the schedule in it, as of old."""
    word = name.strip().casefold()
    for label in (label for _, label in SCHEDULERS.values()):
        word = word.removesuffix(f" {label.casefold()}")
    found = (ours for theirs, (label, ours) in SAMPLERS.items() if word in (theirs, label.casefold()))
    return next(found, None)


def scheduler_of(name: str) -> str | None:
    """Return ComfyUI's name for a scheduler of ComfyUI or A1111; None for an unknown word."""
    word = name.strip().casefold()
    if word == AUTOMATIC:
        return AUTOMATIC
    known = SCHEDULERS.items()
    return next((name for name, (a1111, label) in known if word in (name, a1111, label.casefold())), None)
