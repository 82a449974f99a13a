"""Adds the residuals of ControlNets to a backbone's rows.

A ControlNet runs beside the backbone over the same lanes and an image each; its blocks' outputs are
added to the image rows after the backbone's blocks (Zhang et al., 2023).  A source begins a step
before the backbone does and is waited for only where a residual is added, so that ControlNets in
other processes run at the same time as each other and as the backbone's first blocks.  A lane's uses
are added in the order of their ControlNets' names, so that no bit of it depends on its batch-mates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from lego_serve.models.ragged.controlnet_source import (
    ActiveControlNet,
    ControlNetFailed,
    ControlNetLane,
    ControlNetSpec,
    ControlNetUnavailable,
    ResidualOf,
    Residuals,
    repeated_residual,
)
from lego_serve.models.ragged.device import uploaded
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.ragged.packing import Packing, branches_of


@dataclass(frozen=True, slots=True)
class Segment:
    """Adds residual rows [source, source + count), times a weight, to rows [target, target + count)."""

    target: int
    source: int
    count: int
    weight: float


@dataclass(frozen=True, slots=True)
class PendingResiduals:
    """One ControlNet's residuals of a step, and the segments that add them to image rows and to joint rows.

    Several blocks in turn add the same residual, which is ``kept`` like that: of one that comes from another process
    there is one copy to the device.  Those that repeat are all kept.
    """

    spec: ControlNetSpec
    residuals: Residuals
    image: tuple[Segment, ...]
    joint: tuple[Segment, ...]
    kept: dict[int, torch.Tensor | None] = field(default_factory=dict)

    def add(self, index: int, rows: torch.Tensor, segments: Sequence[Segment]) -> None:
        """Add residual ``index`` to rows, in place."""
        residual = self._residual(index, rows)
        if residual is None:
            return
        for segment in segments:
            part = residual[segment.source : segment.source + segment.count]
            # Two roundings as in diffusers, and the same ones wherever a row lies.
            target = slice(segment.target, segment.target + segment.count)
            rows[target] += part if segment.weight == 1 else part * segment.weight

    def _residual(self, index: int, like: torch.Tensor) -> torch.Tensor | None:
        """Wait for residual ``index``; return it on the device and in the dtype of the rows that it is added to."""
        if index in self.kept:
            return self.kept[index]
        try:
            residual = self.residuals.block(index)
        except ControlNetUnavailable:
            raise
        except Exception as error:
            raise ControlNetFailed.of(self.spec.name, error) from error
        if not self.spec.repeats:
            self.kept.clear()
        self.kept[index] = None if residual is None else uploaded(residual, like.device).to(like.dtype)
        return self.kept[index]


class ResidualAdder:
    """Adds the residuals of one step's ControlNets."""

    def __init__(self, lanes: Sequence[LaneInput], image_rows: Sequence[int], packing: Packing) -> None:
        """Begin the step of every ControlNet of every lane, before the backbone's own first block."""
        if not any(lane.controls for lane in lanes):
            self._pending: list[PendingResiduals] = []
            return
        # By source and not by name alone: while one is replaced by another, lanes of both are in the batch.
        uses: dict[tuple[str, int], list[tuple[int, ActiveControlNet]]] = {}
        for index, lane in enumerate(lanes):
            for use in lane.controls:
                uses.setdefault((use.source.spec.name, id(use.source)), []).append((index, use))
        places = _places(packing)
        self._pending = [_start(uses[source], lanes, image_rows, places) for source in sorted(uses)]

    def add(self, image: torch.Tensor, block: int, blocks: int, residual_of: ResidualOf) -> None:
        """Add the residuals of double block ``block`` of ``blocks`` (or any of SD3's) to the image rows, in place."""
        for pending in self._pending:
            if count := pending.spec.doubles:
                index_of = repeated_residual if pending.spec.repeats else residual_of
                pending.add(index_of(block, blocks, count), image, pending.image)

    def add_joint(self, joint: torch.Tensor, block: int, blocks: int, residual_of: ResidualOf) -> None:
        """Add the residuals of single block ``block`` of ``blocks`` to the joint rows, in place."""
        for pending in self._pending:
            if count := pending.spec.singles:
                pending.add(pending.spec.doubles + residual_of(block, blocks, count), joint, pending.joint)


def _start(
    uses: Sequence[tuple[int, ActiveControlNet]],
    lanes: Sequence[LaneInput],
    image_rows: Sequence[int],
    places: dict[tuple[int, bool], tuple[int, int]],
) -> PendingResiduals:
    source = uses[0][1].source
    net_lanes = [_net_lane(lanes[index], use) for index, use in uses]
    try:
        residuals = source.start(net_lanes)
    except ControlNetUnavailable:
        raise
    except Exception as error:
        raise ControlNetFailed.of(source.spec.name, error) from error
    image, joint, source_row = [], [], 0
    for branch in branches_of(net_lanes, [image_rows[index] for index, _ in uses]):
        index, use = uses[branch.lane]
        image_row, joint_row = places[index, branch.is_negative]
        image.append(Segment(image_row, source_row, branch.image_rows, use.weight))
        joint.append(Segment(joint_row, source_row, branch.image_rows, use.weight))
        source_row += branch.image_rows
    return PendingResiduals(source.spec, residuals, tuple(_merged(image)), tuple(_merged(joint)))


def _net_lane(lane: LaneInput, use: ActiveControlNet) -> ControlNetLane:
    return ControlNetLane(
        latents=lane.latents,
        time=lane.time,
        guidance=lane.guidance,
        image=use.image,
        cond=use.cond,
        negative=use.negative,
        on_pass=use.on_pass,
    )


def _places(packing: Packing) -> dict[tuple[int, bool], tuple[int, int]]:
    """Find where each branch's image rows start among image rows and among joint rows, by lane and is_negative."""
    places, image, joint = {}, 0, 0
    for branch in packing.branches:
        places[branch.lane, branch.is_negative] = (image, joint + branch.text_rows)
        image += branch.image_rows
        joint += branch.text_rows + branch.image_rows
    return places


def _merged(segments: Sequence[Segment]) -> Iterator[Segment]:
    """Merge segments of one weight that are neighbours on both sides."""
    last: Segment | None = None
    for segment in segments:
        if last is not None and segment.weight == last.weight and segment.target == last.target + last.count:
            last = Segment(last.target, last.source, last.count + segment.count, last.weight)
            continue
        if last is not None:
            yield last
        last = segment
    if last is not None:
        yield last
