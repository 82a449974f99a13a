"""What adapters cost: ``python -m benchmarks.addons.adapter_steps [--model builtin:lego-tiny] [--side 256]``.

Eight lanes with an adapter each, grouped, against the same eight without; and the time of patching one adapter set in
for another, in steps.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from lego_serve.engine.calibration import sample_adapter, sample_lane
from lego_serve.models.loading import load_backbone
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.registry import ModelSpec

LANES = 8
RANKS = (4, 16, 32)
PARTS = {"attention": "attn", "all linears": ""}
TARGETS = {"attention": 1.25, "all linears": 1.6}
TARGET_SWAP_STEPS = 2.0


@dataclass(frozen=True, slots=True)
class Row:
    """One rank and choice of layers: seconds of a step without adapters and grouped, of a swap and of a restoration."""

    layers: str
    rank: int
    plain_s: float
    grouped_s: float
    swap_s: float
    restore_s: float

    @property
    def ratio(self) -> float:
        """The time of the grouped step over that of the plain one."""
        return self.grouped_s / self.plain_s

    @property
    def swap_steps(self) -> float:
        """The time of a swap in steps of the plain batch."""
        return self.swap_s / self.plain_s


def measure(backbone: Backbone, side: int, repeats: int = 7, ranks: Sequence[int] = RANKS) -> list[Row]:
    """Measure guided lanes of ``side`` x ``side`` tokens with adapters of every choice of layers and every rank."""
    lanes = [sample_lane(backbone, side, seed) for seed in range(LANES)]
    return [_row(backbone, lanes, layers, rank, repeats) for layers in PARTS for rank in ranks]


def _row(backbone: Backbone, lanes: Sequence[LaneInput], layers: str, rank: int, repeats: int) -> Row:
    adapters = [sample_adapter(backbone, rank, seed, PARTS[layers]) for seed in range(len(lanes))]
    adapted = [replace(lane, adapters=((adapter, 0.8),)) for lane, adapter in zip(lanes, adapters, strict=True)]
    next_adapter = itertools.cycle(adapters)
    swap_s, restore_s, plain_s, grouped_s = _medians_s(
        [
            lambda: backbone.adapters.patch(((next(next_adapter), 0.8),)),
            backbone.adapters.restore,
            lambda: backbone.velocity(lanes),
            lambda: backbone.velocity(adapted),
        ],
        repeats,
    )
    return Row(layers, rank, plain_s, grouped_s, swap_s, restore_s)


def _medians_s(runs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median time of each run, turn by turn, after one turn to warm up."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats + 1):
        for run, run_times in zip(runs, times, strict=True):
            started = time.perf_counter()
            run()
            run_times.append(time.perf_counter() - started)
    return [statistics.median(run_times[1:]) for run_times in times]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text, with the targets."""
    lines = [
        f"{'layers':12}{'rank':>5}{'plain ms':>10}{'grouped ms':>12}{'ratio':>7}{'target':>8}{'swap ms':>9}{'steps':>7}"
    ]
    for row in rows:
        lines.append(
            f"{row.layers:12}{row.rank:>5}{row.plain_s * 1e3:>10.1f}{row.grouped_s * 1e3:>12.1f}{row.ratio:>7.2f}"
            f"{TARGETS[row.layers]:>8.2f}{row.swap_s * 1e3:>9.1f}{row.swap_steps:>7.2f}"
        )
    slow = sum(row.swap_steps > TARGET_SWAP_STEPS for row in rows)
    lines.append(f"A swap takes {TARGET_SWAP_STEPS:g} steps at most in all but {slow} of {len(rows)} cases.")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="builtin:lego-tiny")
    parser.add_argument("--family", default="sd3")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--side", type=int, default=256, help="pixels a side")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone, _ = load_backbone(ModelSpec("model", options.model, family=options.family, dtype=options.dtype))
    tokens = options.side // backbone.shape.pixels_per_token
    rows = measure(backbone, tokens, options.repeats)
    print(f"{LANES} lanes of {options.side} px, one thread, torch {torch.__version__}")
    print(table(rows))


if __name__ == "__main__":
    main()
