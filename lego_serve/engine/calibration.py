"""Start-up measurements: how many items a batch should hold, and what a step costs, on this machine."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch

from lego_serve.core.costs import Rates, StepCost, StepWork
from lego_serve.core.scheduling.lora_mode import AdapterRates
from lego_serve.core.values import arrays_of
from lego_serve.models.lora.adapter import Adapter, Pair
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.conditioning import Conditioning
from lego_serve.models.ragged.device import wait_for
from lego_serve.models.ragged.lane_input import LaneInput

BATCHES = (2, 4, 8)
GAIN = 0.95  # a larger batch must cut the time of an item by at least a twentieth
TOKENS_A_SIDE = (8, 16)
LANES = (1, 2, 4, 8)
SAMPLE_TEXT_ROWS = 32
Clock: TypeAlias = Callable[[], float]  # seconds
Run: TypeAlias = Callable[[Sequence[int]], Sequence[object]]  # numbers of sample items to all that each is answered


def best_batch(run: Run, samples: int, repeats: int = 3, clock: Clock = time.perf_counter) -> int:
    """Return the batch size with the least time an item, the smaller one where times are about equal.

    ``run`` computes some of at least eight sample items together and returns all that is answered for each.  Results
    must not depend on batch-mates, so a size is taken only where it and every smaller one, for batches are not always
    full, leave to each item the bits of every array that it has alone.
    """
    best, best_s, stable = 1, fastest(lambda: run(range(1)), repeats, clock), 1
    for size in BATCHES:
        item_s = fastest(lambda size=size: run(range(size)), repeats, clock) / size  # type: ignore[misc]
        if item_s >= best_s * GAIN:
            continue
        stable = stable_batch(run, samples, stable, size)
        if stable < size:
            break
        best, best_s = size, item_s
    return best


def stable_batch(run: Run, samples: int, known: int, largest: int) -> int:
    """Return the largest batch up to which every one above ``known`` leaves to items the bits that they have alone.

    None above ``largest`` is tried.  Batches begin at several samples, so that an item is compared in several places.
    """
    alone = [_bits(run([item])[0]) for item in range(samples)]
    for size in range(known + 1, largest + 1):
        for start in (0, 1, samples - size):
            items = [(start + place) % samples for place in range(size)]
            if [_bits(answer) for answer in run(items)] != [alone[item] for item in items]:
                return size - 1
    return largest


def _bits(answer: object) -> list[bytes]:
    """Return the bits of every array in an answer."""
    arrays = arrays_of(answer)
    assert arrays, f"{type(answer).__name__} has no array to compare"
    return [np.ascontiguousarray(array).tobytes() for array in arrays]


def calibrate(backbone: Backbone, repeats: int = 2) -> Rates:
    """Measure guided steps of one to eight lanes in two sizes and fit the rates."""
    measurements = []
    for side in TOKENS_A_SIDE:
        lane = sample_lane(backbone, side)
        for count in LANES:
            work = work_of(backbone, [lane] * count)
            took_s = fastest(lambda: _computed(backbone, [lane] * count), repeats)  # noqa: B023
            measurements.append((work, took_s))
    cost = StepCost()
    for work, took_s in measurements * 4:  # several times, so that their order hardly matters
        cost.observe(work, took_s)
    return cost.rates


def calibrate_adapters(backbone: Backbone, repeats: int = 2) -> AdapterRates:
    """Measure what grouped products add to a step, in two ranks and with one and four sets, and the time of a swap."""
    lane = sample_lane(backbone, TOKENS_A_SIDE[0])
    rows = work_of(backbone, [lane]).rows
    measurements = []  # (multiplications of rows, sets, seconds)
    for rank, count in ((4, 1), (32, 1), (4, 4), (32, 4)):
        adapters = [sample_adapter(backbone, rank, seed) for seed in range(count)]
        weight = backbone.adapters.weigh(((adapters[0], 1.0),))
        adapted = [replace(lane, adapters=((adapter, 1.0),)) for adapter in adapters]
        plain_s = fastest(lambda: _computed(backbone, [lane] * count), repeats)  # noqa: B023
        took_s = fastest(lambda: _computed(backbone, adapted), repeats)  # noqa: B023
        measurements.append((weight.row_products * rows * count, count, took_s - plain_s))
    first, second = (((adapter, 1.0),) for adapter in adapters[:2])

    def swap_twice() -> None:
        backbone.adapters.patch(first)
        backbone.adapters.patch(second)
        wait_for(backbone.device)

    swap_s = fastest(swap_twice, repeats) / 2
    backbone.adapters.restore()
    product_s, set_s = _fit_two_rates(measurements)
    return AdapterRates(product_s, set_s, swap_s / weight.touched)


def _computed(backbone: Backbone, lanes: Sequence[LaneInput]) -> None:
    """Compute the velocities of lanes, to the end."""
    backbone.velocity(lanes)
    wait_for(backbone.device)


def _fit_two_rates(measurements: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Fit ``a x + b y = t`` to rows (x, y, t) by least squares; a negative rate becomes 0, the other is fitted anew."""
    xx, yy = sum(x * x for x, _, _ in measurements), sum(y * y for _, y, _ in measurements)
    xy = sum(x * y for x, y, _ in measurements)
    xt, yt = sum(x * t for x, _, t in measurements), sum(y * t for _, y, t in measurements)
    determinant = xx * yy - xy * xy
    a, b = (xt * yy - yt * xy) / determinant, (yt * xx - xt * xy) / determinant
    if a < 0:
        return 0.0, max(yt / yy, 0.0)
    return (a, b) if b >= 0 else (max(xt / xx, 0.0), 0.0)


def sample_adapter(backbone: Backbone, rank: int, seed: int = 0, only: str = "") -> Adapter:
    """Return a made-up adapter of the layers whose path contains ``only``; of all layers without."""
    draw = torch.Generator().manual_seed(seed)
    pairs = {
        path: Pair(torch.randn(rank, inputs, generator=draw) * 0.01, torch.randn(outputs, rank, generator=draw) * 0.01)
        for path, (outputs, inputs) in backbone.adapters.shapes.items()
        if only in path
    }
    return Adapter(f"sample-{seed}", f"sample-{rank}-{seed}-{only}", pairs)


def sample_lane(backbone: Backbone, side: int, seed: int = 0, text_rows: int = SAMPLE_TEXT_ROWS) -> LaneInput:
    """Return a guided lane of ``side`` x ``side`` tokens with made-up contents."""
    pixels = backbone.shape.pixels_per_token * side
    draw = torch.Generator().manual_seed(seed)
    latents = torch.randn(backbone.shape.of(pixels, pixels), generator=draw).to(backbone.device)
    tokens = torch.randn(text_rows, backbone.text_width, generator=draw)
    cond = backbone.prepare(Conditioning(tokens, torch.randn(backbone.pooled_width, generator=draw)))
    return LaneInput(latents, 0.5, 4.0, cond, cond if backbone.uses_cfg else None)


def work_of(backbone: Backbone, lanes: Sequence[LaneInput]) -> StepWork:
    """Return the rows and pairs of a step over these lanes."""
    lengths = []
    for lane in lanes:
        height, width = lane.latents.shape[-2:]
        scale = backbone.shape.pixels_per_latent
        tokens = backbone.shape.tokens(width * scale, height * scale)
        conds = [lane.cond] if lane.negative is None else [lane.cond, lane.negative]
        lengths += [tokens + int(cond.tokens.shape[0]) for cond in conds]
    return StepWork(sum(lengths), sum(length * length for length in lengths))


def fastest(run: Callable[[], Any], repeats: int, clock: Clock = time.perf_counter) -> float:
    """Return the seconds of the fastest of some runs, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        started = clock()
        run()
        times.append(clock() - started)
    return min(times)
