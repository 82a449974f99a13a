"""ControlNets as a backbone meets them: where residuals come from, and where they are added.

A ControlNet runs beside the backbone over the same lanes and an image each; what its blocks say is
added to the image rows after the backbone's blocks (Zhang et al., 2023).  A source is asked for a
step before the backbone starts, and waited for only where a residual is added, so that ControlNets
elsewhere run at the same time as each other and as the backbone's first blocks.  A lane's uses are
added in the order of their ControlNets' names, so that no bit of it depends on its batch-mates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.ragged.packing import Packing, branches_of


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows [at, at + count) of residuals, times a weight, for rows [to, to + count) of the image."""

    to: int
    at: int
    count: int
    weight: float


@dataclass(frozen=True, slots=True)
class PendingResiduals:
    """One ControlNet's residuals of a step, and where its rows go: in image rows, and in joint rows."""

    spec: ControlNetSpec
    residuals: Residuals
    image: tuple[Segment, ...]
    joint: tuple[Segment, ...]

    def add(self, index: int, rows: torch.Tensor, segments: Sequence[Segment]) -> None:
        """Add residual ``index`` to rows, in place."""
        try:
            residual = self.residuals.block(index)
        except ControlNetUnavailable:
            raise
        except Exception as error:
            raise ControlNetFailed.of(self.spec.name, error) from error
        if residual is None:
            return
        residual = residual.to(rows)
        for segment in segments:
            part = residual[segment.at : segment.at + segment.count]
            # Two roundings as in diffusers, and the same ones wherever a row lies.
            rows[segment.to : segment.to + segment.count] += part if segment.weight == 1 else part * segment.weight


class ResidualAdder:
    """The ControlNets of one step of a backbone."""

    def __init__(self, lanes: Sequence[LaneInput], image_rows: Sequence[int], packing: Packing) -> None:
        """Begin the step of every ControlNet of every lane, before the backbone's own first block."""
        if not any(lane.controls for lane in lanes):
            self._started: list[PendingResiduals] = []
            return
        # By source and not by name alone: while one takes another's place, lanes of both are in the batch.
        uses: dict[tuple[str, int], list[tuple[int, ActiveControlNet]]] = {}
        for index, lane in enumerate(lanes):
            for use in lane.controls:
                uses.setdefault((use.source.spec.name, id(use.source)), []).append((index, use))
        places = _places(packing)
        self._started = [_start(uses[source], lanes, image_rows, places) for source in sorted(uses)]

    def add(self, image: torch.Tensor, block: int, blocks: int, residual_of: ResidualOf) -> None:
        """After double block ``block`` of ``blocks`` (or any of SD3's): add what belongs to it to the image rows."""
        for started in self._started:
            if count := started.spec.doubles:
                of = repeated_residual if started.spec.repeats else residual_of
                started.add(of(block, blocks, count), image, started.image)

    def add_joint(self, joint: torch.Tensor, block: int, blocks: int, residual_of: ResidualOf) -> None:
        """After single block ``block`` of ``blocks``: the same for rows of text and image."""
        for started in self._started:
            if count := started.spec.singles:
                started.add(started.spec.doubles + residual_of(block, blocks, count), joint, started.joint)


def _start(
    uses: Sequence[tuple[int, ActiveControlNet]],
    lanes: Sequence[LaneInput],
    image_rows: Sequence[int],
    places: dict[tuple[int, bool], tuple[int, int]],
) -> PendingResiduals:
    source = uses[0][1].source
    asked = [
        ControlNetLane(
            lanes[i].latents, lanes[i].time, lanes[i].guidance, use.image, use.cond, use.negative, use.on_pass
        )
        for i, use in uses
    ]
    try:
        residuals = source.start(asked)
    except ControlNetUnavailable:
        raise
    except Exception as error:
        raise ControlNetFailed.of(source.spec.name, error) from error
    image, joint, at = [], [], 0
    for branch in branches_of(asked, [image_rows[i] for i, _ in uses]):
        index, use = uses[branch.lane]
        to, to_joint = places[index, branch.is_negative]
        image.append(Segment(to, at, branch.image_rows, use.weight))
        joint.append(Segment(to_joint, at, branch.image_rows, use.weight))
        at += branch.image_rows
    return PendingResiduals(source.spec, residuals, tuple(_merged(image)), tuple(_merged(joint)))


def _places(packing: Packing) -> dict[tuple[int, bool], tuple[int, int]]:
    """Where the image rows of each lane's branch start, among image rows and among joint rows."""
    places, image, joint = {}, 0, 0
    for branch in packing.branches:
        places[branch.lane, branch.is_negative] = (image, joint + branch.text_rows)
        image += branch.image_rows
        joint += branch.text_rows + branch.image_rows
    return places


def _merged(segments: Sequence[Segment]) -> Iterator[Segment]:
    """Neighbours on both sides with one weight as one."""
    last: Segment | None = None
    for segment in segments:
        if last is not None and segment.weight == last.weight and segment.to == last.to + last.count:
            last = Segment(last.to, last.at, last.count + segment.count, last.weight)
            continue
        if last is not None:
            yield last
        last = segment
    if last is not None:
        yield last
