"""What the families' ControlNets share: whether one fits its model, residuals made as they are asked for, times.

The ControlNets of a family are one file here of the family's name, with a ``load_controlnet``.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from lego_serve.errors import CheckpointError
from lego_serve.models.ragged import layers
from lego_serve.models.ragged.controlnet_source import ControlNetLane, ControlNetSource, ControlNetSpec
from lego_serve.models.ragged.packing import Packing, branches_of
from lego_serve.models.registry import ModelSpec

OUT_COST = 1 / 12  # a residual's own projection, next to a block's products of a row
BASE_KEYS = ("joint_attention_dim", "pooled_projection_dim", "in_channels", "patch_size")


class ControlNet(Protocol):
    """A ControlNet whose weights are here."""

    spec: ControlNetSpec

    def rows(self, lane: ControlNetLane) -> int:
        """Image rows of a lane's branch."""
        ...

    def residuals(self, lanes: Sequence[ControlNetLane]) -> Iterator[torch.Tensor]:
        """The residuals (rows, width) one after the other, each computed when it is asked for."""
        ...


class LoadedControlNet(ControlNet, ControlNetSource, Protocol):
    """A ControlNet whose weights are here is also the source of its residuals here."""


def check_fits(
    spec: ModelSpec,
    folder: Path,
    config: Mapping[str, Any],
    base: ModelSpec,
    ours: Mapping[str, Any],
    keys: tuple[str, ...],
) -> None:
    """Raise CheckpointError for a ControlNet of another width, text, latents or patches than its base."""
    found = {"width": width_of(config)} | {key: config[key] for key in keys}
    needed = {"width": width_of(ours)} | {key: ours.get(key, config[key]) for key in keys}
    for key, value in found.items():
        if value != needed[key]:
            raise CheckpointError(
                f"model {spec.name}: {folder} has {key} {value}, its base model {base.name} has {needed[key]}"
            )


def width_of(config: Mapping[str, Any]) -> int:
    """The width of a transformer's rows."""
    return int(config["num_attention_heads"] * config["attention_head_dim"])


def share_of(blocks: int, of: int) -> float:
    """What a row costs relative to a row of the backbone, counted in products."""
    return blocks * (1 + OUT_COST) / int(of)


class LazyResiduals:
    """Residuals computed in this process, each when a block asks for it.

    Nothing is computed that no block adds, and, unless they repeat, one residual is in memory at a time.
    """

    def __init__(
        self, residuals: Iterator[torch.Tensor], spec: ControlNetSpec, lanes: Sequence[ControlNetLane] = ()
    ) -> None:
        """``lanes``: who hears when the first was begun and the last was made."""
        self._residuals, self._repeats, self._count = residuals, spec.repeats, spec.residuals
        self._lanes, self._began_s = lanes, 0.0
        self._kept: list[torch.Tensor] = []
        self._dropped = 0

    def block(self, index: int) -> torch.Tensor:
        """Residual ``index``; IndexError for one that was dropped."""
        while (made := self._dropped + len(self._kept)) <= index:
            self._began_s = self._began_s or time.time()
            residual = next(self._residuals)
            if self._kept and not self._repeats:
                self._dropped += len(self._kept)
                self._kept.clear()
            self._kept.append(residual)
            if made + 1 == self._count:
                tell_ran(self._lanes, self._began_s, time.time())
        if index < self._dropped:
            raise IndexError(f"residual {index} was asked for after {self._dropped}")
        return self._kept[index - self._dropped]


def tell_ran(lanes: Sequence[ControlNetLane], began_s: float, ended_s: float) -> None:
    """Tell the lanes of a pass when it began and ended."""
    for lane in lanes:
        if lane.on_pass is not None:
            lane.on_pass(began_s, ended_s)


def run_together(net: ControlNet, steps: Sequence[Sequence[ControlNetLane]]) -> Iterator[list[torch.Tensor]]:
    """The residuals of several steps, asked for by different backbones, in one pass.

    Each item holds one residual of every step, in the rows and bits the step alone would have.
    """
    lanes = [lane for step in steps for lane in step]
    step_of = [number for number, step in enumerate(steps) for _ in step]
    branches = branches_of(lanes, [net.rows(lane) for lane in lanes])
    for residual in net.residuals(lanes):
        parts: list[list[torch.Tensor]] = [[] for _ in steps]
        for branch, rows in zip(branches, residual.split([b.image_rows for b in branches]), strict=True):
            parts[step_of[branch.lane]].append(rows)
        yield [torch.cat(part) if part else residual[:0] for part in parts]


def embedded_time(embed: Any, lanes: Sequence[ControlNetLane], packing: Packing, weight: torch.Tensor) -> torch.Tensor:
    """diffusers' embedding of each branch's time, in the dtype and on the device of a weight: (branches, width)."""
    times = [lanes[b.lane].time for b in packing.branches]
    return layers.embed_numbers(embed, embed.timestep_embedder, times, weight.device, weight.dtype)


def embedded_guidance(
    embed: Any, lanes: Sequence[ControlNetLane], packing: Packing, weight: torch.Tensor
) -> torch.Tensor:
    """The same of the guidance a distilled ControlNet is told."""
    scales = [lanes[b.lane].guidance for b in packing.branches]
    return layers.embed_numbers(embed, embed.guidance_embedder, scales, weight.device, weight.dtype)
