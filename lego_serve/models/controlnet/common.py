"""Shared code of the families' ControlNets: checks against the base model, lazily computed residuals, shared passes.

The ControlNets of a family are one file in this folder of the family's name, with a ``load_controlnet``.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from lego_serve.errors import CheckpointError
from lego_serve.models.ragged.batch_invariant import LinearOps
from lego_serve.models.ragged.controlnet_source import ControlNetLane, ControlNetSource, ControlNetSpec
from lego_serve.models.ragged.packing import branches_of
from lego_serve.models.registry import ModelSpec

OUT_COST = 1 / 12  # a residual's own projection, next to a block's products of a row
BASE_KEYS = ("joint_attention_dim", "pooled_projection_dim", "in_channels", "patch_size")


class ControlNet(Protocol):
    """A ControlNet whose weights are in this process.

    Its products, ``linear_ops``, stay batch-invariant whatever its backbone's are: its residuals have the same bits in
    any process and for any backbone.
    """

    spec: ControlNetSpec
    linear_ops: LinearOps

    def rows(self, lane: ControlNetLane) -> int:
        """Return the image rows of a lane's branch."""
        ...

    def residuals(self, lanes: Sequence[ControlNetLane]) -> Iterator[torch.Tensor]:
        """Yield the residuals (rows, width), each computed on demand."""
        ...


class LoadedControlNet(ControlNet, ControlNetSource, Protocol):
    """A ControlNet whose weights are in this process, and so the source of its residuals there."""


def check_fits(
    spec: ModelSpec,
    folder: Path,
    config: Mapping[str, Any],
    base: ModelSpec,
    base_config: Mapping[str, Any],
    keys: tuple[str, ...],
) -> None:
    """Raise CheckpointError for a ControlNet of another width, text, latents or patches than its base."""
    values = {"width": width_of(config)} | {key: config[key] for key in keys}
    needed = {"width": width_of(base_config)} | {key: base_config.get(key, config[key]) for key in keys}
    for key, value in values.items():
        if value != needed[key]:
            raise CheckpointError(
                f"model {spec.name}: {folder} has {key} {value}, its base model {base.name} has {needed[key]}"
            )


def width_of(config: Mapping[str, Any]) -> int:
    """Return the width of a transformer's rows."""
    return int(config["num_attention_heads"] * config["attention_head_dim"])


def relative_cost(blocks: int, base_blocks: int) -> float:
    """Return what a row costs relative to a row of the backbone, counted in products."""
    return blocks * (1 + OUT_COST) / int(base_blocks)


class LazyResiduals:
    """Residuals computed in this process, each on demand.

    Residuals after the last requested one are not computed.  Unless they repeat, one is in memory at a time.
    """

    def __init__(
        self, residuals: Iterator[torch.Tensor], spec: ControlNetSpec, lanes: Sequence[ControlNetLane] = ()
    ) -> None:
        """Wrap the residuals of a pass over ``lanes``; their ``on_pass`` is called when it ends."""
        self._residuals, self._repeats, self._count = residuals, spec.repeats, spec.residuals
        self._lanes, self._began_s = lanes, 0.0
        self._kept: list[torch.Tensor] = []
        self._dropped = 0

    def block(self, index: int) -> torch.Tensor:
        """Return residual ``index``.  Raises IndexError for one that was dropped."""
        while (made := self._dropped + len(self._kept)) <= index:
            self._began_s = self._began_s or time.time()
            residual = next(self._residuals)
            if self._kept and not self._repeats:
                self._dropped += len(self._kept)
                self._kept.clear()
            self._kept.append(residual)
            if made + 1 == self._count:
                report_pass(self._lanes, self._began_s, time.time())
        if index < self._dropped:
            raise IndexError(f"residual {index} was requested after {self._dropped}")
        return self._kept[index - self._dropped]


def report_pass(lanes: Sequence[ControlNetLane], began_s: float, ended_s: float) -> None:
    """Call ``on_pass`` of a pass's lanes with its beginning and end, in seconds of the wall clock."""
    for lane in lanes:
        if lane.on_pass is not None:
            lane.on_pass(began_s, ended_s)


def run_together(net: ControlNet, steps: Sequence[Sequence[ControlNetLane]]) -> Iterator[list[torch.Tensor]]:
    """Compute the residuals of several steps, requested by different backbones, in one pass.

    Yields one residual of every step at a time, in the rows and bits the step alone would have.
    """
    lanes = [lane for step in steps for lane in step]
    step_of_lane = [index for index, step in enumerate(steps) for _ in step]
    branches = branches_of(lanes, [net.rows(lane) for lane in lanes])
    for residual in net.residuals(lanes):
        parts: list[list[torch.Tensor]] = [[] for _ in steps]
        for branch, rows in zip(branches, residual.split([b.image_rows for b in branches]), strict=True):
            parts[step_of_lane[branch.lane]].append(rows)
        yield [torch.cat(part) if part else residual[:0] for part in parts]
