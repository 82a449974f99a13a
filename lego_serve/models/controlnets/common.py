"""What the families' ControlNets share: residuals made block by block as they are asked for, times, and merging."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch

from lego_serve.models import layers
from lego_serve.models.controls import ControlForm, ControlLane
from lego_serve.models.packing import Packing, branches_of


class ControlNet(Protocol):
    """A ControlNet whose weights are here."""

    form: ControlForm

    def rows(self, lane: ControlLane) -> int:
        """Image rows of a lane's branch."""
        ...

    def residuals(self, lanes: Sequence[ControlLane]) -> Iterator[torch.Tensor]:
        """The residuals (rows, width) one after the other, each computed when it is asked for."""
        ...


class LazyResiduals:
    """Residuals computed in this process, each when a block asks for it.

    Nothing is computed that no block adds, and, unless they repeat, one residual is in memory at a time.
    """

    def __init__(self, residuals: Iterator[torch.Tensor], form: ControlForm, lanes: Sequence[ControlLane] = ()) -> None:
        """``lanes``: who hears when the first was begun and the last was made."""
        self._residuals, self._repeats, self._count = residuals, form.repeats, form.residuals
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


def tell_ran(lanes: Sequence[ControlLane], began_s: float, ended_s: float) -> None:
    """Tell the lanes of a pass when it began and ended."""
    for lane in lanes:
        if lane.ran is not None:
            lane.ran(began_s, ended_s)


def run_together(net: ControlNet, steps: Sequence[Sequence[ControlLane]]) -> Iterator[list[torch.Tensor]]:
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


def embedded_time(embed: Any, lanes: Sequence[ControlLane], packing: Packing, weight: torch.Tensor) -> torch.Tensor:
    """diffusers' embedding of each branch's time, in the dtype and on the device of a weight: (branches, width)."""
    return _embedded(embed, embed.timestep_embedder, [lanes[b.lane].time for b in packing.branches], weight)


def embedded_guidance(embed: Any, lanes: Sequence[ControlLane], packing: Packing, weight: torch.Tensor) -> torch.Tensor:
    """The same of the guidance a distilled ControlNet is told."""
    return _embedded(embed, embed.guidance_embedder, [lanes[b.lane].guidance for b in packing.branches], weight)


def _embedded(embed: Any, mlp: Any, numbers: Sequence[float], weight: torch.Tensor) -> torch.Tensor:
    waves = embed.time_proj((torch.tensor(numbers) * 1000).to(weight.device)).to(weight.dtype)
    return layers.embed_mlp(waves, mlp.linear_1, mlp.linear_2)
