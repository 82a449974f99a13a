"""What must hold before anything is timed: kernels equal their references, and our velocities diffusers'."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch

import lego_kernels
from benchmarks.engine.diffusers_side import uniform_call
from benchmarks.engine.models import Subject
from lego_kernels import examples, reference
from lego_serve.engine.batch_invariance import ensure_batch_invariance

ROWS, BRANCHES, RANKS = 96, 5, (4, 16)
# float32 carries the error of approximate roots and of sums in another order; half precision rounds terms of order
# four before they are added.
BUDGET_ULPS = {torch.float32: 64.0, torch.bfloat16: 16.0, torch.float16: 16.0}
# Of the whole velocity, relative to its length; half precision rounds differently after every layer.
BUDGET_VELOCITY = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}


class Disagreement(Exception):
    """A result is further from its reference than rounding explains, so its time says nothing."""


def check_kernels(subject: Subject, ops: ModuleType | Any = lego_kernels) -> dict[str, float]:
    """Return the error of every op at the model's widths, in ulps.  Raises Disagreement above the budget."""
    config = subject.transformer.config
    heads, head_width = int(config.num_attention_heads), int(config.attention_head_dim)
    device, dtype = str(subject.device), subject.dtype
    width = heads * head_width
    channels = subject.backbone.shape.channels
    arguments_of = {
        "norm_modulate": examples.norm_modulate(ROWS, width, BRANCHES, dtype, device),
        "gated_residual": examples.gated_residual(ROWS, width, BRANCHES, dtype, device),
        "residual_norm_modulate": examples.residual_norm_modulate(ROWS, width, BRANCHES, dtype, device),
        "qk_norm_rope": examples.qk_norm_rope(ROWS, heads, head_width, dtype, device),
        "int8_rows": examples.int8_rows(ROWS, width, dtype, device),
        "gather_rows": examples.gather_rows(channels, 8, 12, 40, dtype, device),
        "scatter_rows": examples.scatter_rows(channels, 8, 12, 40, dtype, device),
        "sparse24": examples.sparse24(ROWS, width, dtype, device),
        "lora_shrink": examples.lora_shrink((ROWS, ROWS), width, RANKS, dtype, device),
        "lora_expand": examples.lora_expand((ROWS, ROWS), width, RANKS, dtype, device),
    }
    return {name: _error(name, getattr(ops, name), arguments, dtype) for name, arguments in arguments_of.items()}


def check_velocities(subject: Subject, side: int, seeds: Sequence[int] = (1, 2)) -> float:
    """Return the distance of our velocities from diffusers', relative to their length.

    Raises Disagreement above the budget.
    """
    theirs = uniform_call(subject, subject.transformer, seeds, side, side)()
    ours = torch.stack(subject.backbone.velocity([subject.lane(seed, side, side) for seed in seeds]))
    error = float((ours - theirs).norm() / theirs.norm())
    if not error <= BUDGET_VELOCITY[subject.dtype]:  # not `>`: NaN must fail too
        raise Disagreement(f"{subject.name} is {error:.2g} from diffusers' velocity: its time would say nothing")
    return error


def _error(name: str, op: Callable[..., reference.Result], arguments: examples.Arguments, dtype: torch.dtype) -> float:
    with torch.inference_mode():
        exact = getattr(reference, name)(**examples.widened(arguments))
        error = reference.ulps(op(**arguments), exact)
    if not error <= BUDGET_ULPS[dtype]:
        raise Disagreement(f"kernel {name} is {error:.1f} ulps from its reference, the budget is {BUDGET_ULPS[dtype]}")
    return error


def checked(subject: Subject, *, batch_invariant: bool) -> dict[str, Any]:
    """Return what was checked of a model, as JSON values.  Raises Disagreement, and ConfigError where it must hold."""
    kernels = check_kernels(subject)
    invariance = ensure_batch_invariance(subject.backbone, required=batch_invariant)
    error = check_velocities(subject, min(subject.architecture.sides))
    return {
        "dtype": str(subject.dtype).removeprefix("torch."),
        "text_rows": subject.architecture.text_rows,
        "kernel_error_ulps": kernels,
        "velocity_error_ratio": error,
        "batch_invariance": invariance,
    }
