"""Start-up measurements: how many items a batch should hold on this machine."""

import time
from collections.abc import Callable
from typing import Any

import torch

from lego_serve.models.base import Backbone, Conditioning, LaneInput

BATCHES = (2, 4, 8)
GAIN = 0.95  # a larger batch must cut the time an item takes by at least a twentieth
LANES = (1, 2, 4, 8, 16)
SAMPLE_TEXT_ROWS = 32


def best_batch(run: Callable[[int], torch.Tensor], repeats: int = 3) -> int:
    """The batch size with the least time an item, ties going to the smaller.

    ``run(n)`` answers the results of the first n of some sample items.  A size at which an item's
    bits differ from those it has alone is passed over: results must not depend on batch-mates.
    """
    best, best_s = 1, _fastest(lambda: run(1), repeats)
    alone = run(1)[0]
    for size in BATCHES:
        if not torch.equal(run(size)[0], alone):
            continue
        item_s = _fastest(lambda size=size: run(size), repeats) / size  # type: ignore[misc]
        if item_s < best_s * GAIN:
            best, best_s = size, item_s
    return best


def best_rows(backbone: Backbone, repeats: int = 2) -> int:
    """The token rows of a step above which more lanes no longer make a lane cheaper.

    Measured with guided lanes of 16 x 16 latent pixels; at least the rows of one lane.
    """
    width = 2 * backbone.shape.pixels_per_token * 4
    tokens = backbone.shape.tokens(width, width)
    lane = _sample_lane(backbone, width)
    rows_each = 2 * (tokens + lane.cond.tokens.shape[0])
    best, best_s = LANES[0], float("inf")
    for count in LANES:
        lane_s = _fastest(lambda count=count: backbone.velocity([lane] * count), repeats) / count  # type: ignore[misc]
        if lane_s < best_s * GAIN:
            best, best_s = count, lane_s
    # Twice the knee: bits of throughput are left, and newcomers join a running batch at once.
    return 2 * best * rows_each


def _sample_lane(backbone: Backbone, width: int) -> LaneInput:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(backbone.shape.of(width, width), generator=generator)
    cond = Conditioning(torch.zeros(SAMPLE_TEXT_ROWS, backbone.text_width), torch.zeros(backbone.pooled_width))
    return LaneInput(latents, 0.5, 4.0, cond, cond)


def _fastest(run: Callable[[], Any], repeats: int) -> float:
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)
