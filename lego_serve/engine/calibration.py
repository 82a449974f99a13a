"""Start-up measurements: how many items a batch should hold, and what a step costs, on this machine."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lego_serve.core.costs import Rates, StepCost, StepWork
from lego_serve.models.base import Backbone, Conditioning, LaneInput

BATCHES = (2, 4, 8)
GAIN = 0.95  # a larger batch must cut the time an item takes by at least a twentieth
TOKENS_A_SIDE = (8, 16)
LANES = (1, 2, 4, 8)
SAMPLE_TEXT_ROWS = 32


def best_batch(run: Callable[[int], torch.Tensor], repeats: int = 3) -> int:
    """The batch size with the least time an item, ties going to the smaller.

    ``run(n)`` answers the results of the first n of some sample items.  A size at which an item's
    bits differ from those it has alone is passed over: results must not depend on batch-mates.
    """
    best, best_s = 1, fastest(lambda: run(1), repeats)
    alone = run(1)[0]
    for size in BATCHES:
        if not torch.equal(run(size)[0], alone):
            continue
        item_s = fastest(lambda size=size: run(size), repeats) / size  # type: ignore[misc]
        if item_s < best_s * GAIN:
            best, best_s = size, item_s
    return best


def calibrate(backbone: Backbone, repeats: int = 2) -> Rates:
    """Measure guided steps of one to eight lanes in two sizes and fit the rates."""
    cost, seen = StepCost(), []
    for side in TOKENS_A_SIDE:
        lane = sample_lane(backbone, side)
        for count in LANES:
            work = work_of(backbone, [lane] * count)
            took_s = fastest(lambda: backbone.velocity([lane] * count), repeats)  # noqa: B023
            seen.append((work, took_s))
    for work, took_s in seen * 4:  # several times, so that the order they are seen in hardly matters
        cost.observe(work, took_s)
    return cost.rates


def sample_lane(backbone: Backbone, side: int, seed: int = 0, text_rows: int = SAMPLE_TEXT_ROWS) -> LaneInput:
    """A guided lane of ``side`` x ``side`` tokens with made-up contents."""
    pixels = backbone.shape.pixels_per_token * side
    draw = torch.Generator().manual_seed(seed)
    latents = torch.randn(backbone.shape.of(pixels, pixels), generator=draw)
    tokens = torch.randn(text_rows, backbone.text_width, generator=draw)
    cond = backbone.prepare(Conditioning(tokens, torch.randn(backbone.pooled_width, generator=draw)))
    return LaneInput(latents, 0.5, 4.0, cond, cond if backbone.classifier_free else None)


def work_of(backbone: Backbone, lanes: Sequence[LaneInput]) -> StepWork:
    """Rows and pairs of a step over these lanes."""
    lengths = []
    for lane in lanes:
        height, width = lane.latents.shape[-2:]
        scale = backbone.shape.pixels_per_latent
        tokens = backbone.shape.tokens(width * scale, height * scale)
        conds = [lane.cond] if lane.negative is None else [lane.cond, lane.negative]
        lengths += [tokens + int(cond.tokens.shape[0]) for cond in conds]
    return StepWork(sum(lengths), sum(length * length for length in lengths))


def fastest(run: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of some runs, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)
