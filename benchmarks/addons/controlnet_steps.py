"""What a ControlNet adds to a step, in this process: ``python -m benchmarks.addons.controlnet_steps``.

Three sides in turn over the same lanes: the plain step, the ControlNet's own forward pass as far as the backbone uses
it, and the controlled step.  The target for the last is at most 1.10 times the first two together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.engine.models import ARCHITECTURES, DEFAULTS, Subject, build, random_module
from benchmarks.engine.report import Report, machine_info, write_reports
from benchmarks.engine.timing import Patience, Quartiles, ratios, take_turns
from lego_serve.core.scheduling.controlnet_placement import residual_bytes
from lego_serve.engine.batch_invariance import ensure_batch_invariance
from lego_serve.models.controlnet.common import LoadedControlNet
from lego_serve.models.ragged.controlnet_source import (
    ActiveControlNet,
    ControlNetLane,
    ControlNetSpec,
    flux_residual,
    sd3_residual,
)
from lego_serve.models.ragged.lane_input import LaneInput

TARGET = 1.10
LANES = (1, 4)
SD3_KEYS = (
    "sample_size",
    "patch_size",
    "in_channels",
    "attention_head_dim",
    "num_attention_heads",
    "joint_attention_dim",
    "caption_projection_dim",
    "pooled_projection_dim",
    "pos_embed_max_size",
    "qk_norm",
)
FLUX_KEYS = (
    "in_channels",
    "attention_head_dim",
    "num_attention_heads",
    "joint_attention_dim",
    "pooled_projection_dim",
    "guidance_embeds",
    "axes_dims_rope",
)
COLUMNS = (
    "model",
    "image",
    "lanes",
    "residuals",
    "MB a step",
    "plain ms",
    "ControlNet ms",
    "controlled ms",
    "controlled over both",
)


@dataclass(frozen=True, slots=True)
class ControlRow:
    """One size and number of lanes, which all use the same ControlNet.

    ``own_s``: the seconds of the ControlNet's forward pass; ``over_both``: the controlled step over plain and own.
    """

    model: str
    pixels: int
    lanes: int
    residuals: int
    bytes: int
    plain_s: Quartiles
    own_s: Quartiles
    controlled_s: Quartiles
    over_both: Quartiles

    def cells(self) -> list[str]:
        """Return the row of the table, in the order of COLUMNS."""
        over_both = self.over_both.text(digits=2)
        return [
            self.model,
            f"{self.pixels} x {self.pixels}",
            str(self.lanes),
            str(self.residuals),
            f"{self.bytes / 1e6:.1f}",
            self.plain_s.text(1000),
            self.own_s.text(1000),
            self.controlled_s.text(1000),
            over_both if self.over_both.median <= TARGET else f"{over_both} missed",
        ]


def main(
    model: Annotated[list[str] | None, typer.Option(help=f"Models, of: {', '.join(ARCHITECTURES)}.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    lanes: Annotated[list[int] | None, typer.Option(min=1, help="Numbers of lanes.")] = None,
    side: Annotated[list[int] | None, typer.Option(min=1, help="Sides of images, in tokens.")] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Measure each case for at least so long.")] = 1.0,
    quick: Annotated[bool, typer.Option("--quick", help="One case and few rounds, to see that it runs.")] = False,
    to_json: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
    to_markdown: Annotated[Path | None, typer.Option("--markdown", help="Also write the table to this file.")] = None,
) -> None:
    """Time plain steps, ControlNets and controlled steps."""
    place = torch.device(device)
    if place.type == "cpu":
        torch.set_num_threads(1)
    patience = Patience(rounds=3, least_s=0.0) if quick else Patience(least_s=seconds)
    rows = []
    for name in model or DEFAULTS[place.type]:
        subject = build(name, place)
        ensure_batch_invariance(subject.backbone, required=place.type == "cpu")
        net = controlnet_of(subject)
        net.linear_ops.batch_invariant = subject.backbone.linear_ops.batch_invariant
        for tokens in side or ((6,) if quick else subject.architecture.sides[1::2]):
            rows += [measure(subject, net, tokens, count, patience) for count in lanes or ((1,) if quick else LANES)]
    report = Report(
        title="A ControlNet in the backbone's process: medians and quartiles, the sides in turn",
        columns=COLUMNS,
        rows=[row.cells() for row in rows],
        records=rows,
        remarks=[f"The target is {TARGET:.2f}; {sum(row.over_both.median > TARGET for row in rows)} rows miss it."],
        metadata={"machine": machine_info(place)},
    )
    write_reports([report], Console(), to_json, to_markdown)


def controlnet_of(subject: Subject) -> LoadedControlNet:
    """Return a ControlNet with random weights and half the backbone's blocks.

    For FLUX it has a quarter of them, as published ones have.
    """
    from diffusers import FluxControlNetModel, SD3ControlNetModel

    from lego_serve.models.controlnet.flux import FluxControlNet
    from lego_serve.models.controlnet.sd3 import Sd3ControlNet

    config = subject.transformer.config
    width = int(config.num_attention_heads * config.attention_head_dim)
    channels = subject.backbone.shape.channels
    if subject.architecture.family == "sd3":
        blocks = max(1, config.num_layers // 2)
        settings: dict[str, Any] = {key: config[key] for key in SD3_KEYS} | {"num_layers": blocks}
        module = random_module(SD3ControlNetModel, settings, subject.device, subject.dtype)
        return Sd3ControlNet(module, ControlNetSpec("bench", width, blocks, 0, channels))
    doubles, singles = -(-config.num_layers // 4), -(-config.num_single_layers // 4)
    settings = {key: config[key] for key in FLUX_KEYS} | {"num_layers": doubles, "num_single_layers": singles}
    module = random_module(FluxControlNetModel, settings, subject.device, subject.dtype)
    return FluxControlNet(module, ControlNetSpec("bench", width, doubles, singles, channels))


def measure(subject: Subject, net: LoadedControlNet, side: int, count: int, patience: Patience) -> ControlRow:
    """Measure one size and number of lanes."""
    plain = [subject.lane(seed, side, side) for seed in range(count)]
    controlled = [replace(lane, controls=(control_of(subject, net, lane, seed),)) for seed, lane in enumerate(plain)]
    controlnet_lanes = [
        ControlNetLane(lane.latents, lane.time, lane.guidance, use.image, use.cond, use.negative)
        for lane in controlled
        for use in lane.controls
    ]
    used = used_residuals(subject, net.spec)

    def own_pass() -> None:
        residuals = net.start(controlnet_lanes)
        for index in used:
            residuals.block(index)

    runs = {
        "plain": lambda: subject.backbone.velocity(plain),
        "own": own_pass,
        "controlled": lambda: subject.backbone.velocity(controlled),
    }
    times = take_turns(runs, subject.device, patience)
    both = [plain_s + own_s for plain_s, own_s in zip(times["plain"], times["own"], strict=True)]
    rows = sum(net.rows(lane) * (1 if lane.negative is None else 2) for lane in controlnet_lanes)
    return ControlRow(
        model=subject.name,
        pixels=side * subject.backbone.shape.pixels_per_token,
        lanes=count,
        residuals=len(used),
        bytes=residual_bytes(rows, net.spec.width, len(used), subject.dtype.itemsize),
        plain_s=Quartiles.of(times["plain"]),
        own_s=Quartiles.of(times["own"]),
        controlled_s=Quartiles.of(times["controlled"]),
        over_both=ratios(times["controlled"], both),
    )


def control_of(subject: Subject, net: LoadedControlNet, lane: LaneInput, seed: int) -> ActiveControlNet:
    """Return a use of the ControlNet with made-up contents."""
    image = torch.randn(lane.latents.shape, generator=torch.Generator().manual_seed(seed)).to(subject.device)
    negative = None if lane.negative is None else net.prepare(subject.conditioning(2 * seed + 1))
    return ActiveControlNet(net, net.image(image), 1.0, net.prepare(subject.conditioning(2 * seed)), negative)


def used_residuals(subject: Subject, spec: ControlNetSpec) -> Sequence[int]:
    """Return the residuals that the backbone adds to a block, in order."""
    config = subject.transformer.config
    if subject.architecture.family == "sd3":
        blocks = int(config.num_layers)
        return sorted({sd3_residual(block, blocks, spec.doubles) for block in range(blocks - 1)})
    doubles, singles = int(config.num_layers), int(config.num_single_layers)
    first = {flux_residual(block, doubles, spec.doubles) for block in range(doubles)}
    return sorted(first | {spec.doubles + flux_residual(block, singles, spec.singles) for block in range(singles)})


if __name__ == "__main__":
    typer.run(main)
