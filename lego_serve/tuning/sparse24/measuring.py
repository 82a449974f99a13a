"""Runs a model over lessons: what its layers' rows are like, and what its velocity loses by a layer in 2:4."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.batch_invariant import LinearOps
from lego_serve.models.ragged.conditioning import Conditioning
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.ragged.layers import Linear, block_layers
from lego_serve.models.ragged.linear_kinds.roles import using_kinds
from lego_serve.models.ragged.linear_kinds.sparse24_rows import Residual, Sparse24Rows
from lego_serve.tuning.lessons import Lesson
from lego_serve.tuning.sparse24.low_rank import Fitted, Moments, fit

BATCH = 4  # images of a pass
MAX_BYTES = 2 << 30  # of moments in memory; with more the model runs again


@dataclass(frozen=True, slots=True)
class Observed:
    """A layer's own product, which adds the rows that it sees to the moments of the layer."""

    weight: torch.Tensor
    ops: LinearOps
    moments: Moments

    def __call__(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Compute the product for rows x (rows, inputs)."""
        self.moments.add(x, self.weight)
        return self.ops.linear(x, self.weight, bias)


def lanes_of(lesson: Lesson, backbone: Backbone, step: int) -> Iterator[list[LaneInput]]:
    """Yield a lesson's images at a step, a few at a time, as a backbone takes them."""
    count = lesson.latents.shape[1]
    prepared = [
        backbone.prepare(Conditioning(tokens, pooled))
        for tokens, pooled in zip(lesson.tokens, lesson.pooled, strict=True)
    ]
    negatives = prepared[:count] if lesson.branches == 2 else [None] * count
    lanes = [
        LaneInput(latents, float(lesson.sigmas[step]), lesson.guidance, cond, negative)
        for latents, cond, negative in zip(lesson.latents[step], prepared[-count:], negatives, strict=True)
    ]
    for first in range(0, count, BATCH):
        yield lanes[first : first + BATCH]


def fit_residuals(
    backbone: Backbone,
    lessons: Sequence[Lesson],
    names: Sequence[str],
    rank: int,
    steps: Sequence[int],
    max_bytes: int = MAX_BYTES,
) -> Iterator[tuple[str, Fitted]]:
    """Yield for each named layer the residual that fits its dense rows at these steps of lessons, two at least.

    The last lesson's rows are those that the ridge is chosen by.
    """
    layers = block_layers(vars(backbone))
    sizes = {name: 16 * layers[name].weight.shape[1] * sum(layers[name].weight.shape) for name in names}
    for group in groups(sizes, max_bytes):
        some, others = (
            _moments({name: layers[name] for name in group}, backbone, part, steps)
            for part in (lessons[:-1], lessons[-1:])
        )
        for name in group:
            yield name, fit(some.pop(name), others.pop(name), rank)


def _moments(
    layers: Mapping[str, Linear], backbone: Backbone, lessons: Sequence[Lesson], steps: Sequence[int]
) -> dict[str, Moments]:
    """Return the moments of the rows that layers, by name, see at these steps of lessons."""
    moments = {name: Moments.of(layer.weight) for name, layer in layers.items()}
    with using_kinds(layers, {n: Observed(layer.weight, layer.ops, moments[n]) for n, layer in layers.items()}):
        for lesson in lessons:
            for step in steps:
                for lanes in lanes_of(lesson, backbone, step):
                    backbone.velocity(lanes)
    return moments


def groups(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """Yield names in their order, as many at a time as have at most this size together, and one at least."""
    group: list[str] = []
    for name, size in sizes.items():
        if group and size + sum(sizes[each] for each in group) > most:
            yield group
            group = []
        group.append(name)
    if group:
        yield group


class VelocityError:
    """What a backbone's guided velocity loses by layers in 2:4, over the images and steps of a lesson."""

    def __init__(self, backbone: Backbone, lesson: Lesson, steps: Sequence[int]) -> None:
        self._backbone, self._layers = backbone, block_layers(vars(backbone))
        self._batches = [lanes for step in steps for lanes in lanes_of(lesson, backbone, step)]
        self._dense = [torch.stack(backbone.velocity(lanes)) for lanes in self._batches]

    def of(self, residuals: Mapping[str, Residual]) -> float:
        """Return the norm of the velocity's error over the velocity's, with these layers sparse."""
        kinds = {
            name: Sparse24Rows.of(self._layers[name].weight, residual, self._layers[name].ops)
            for name, residual in residuals.items()
        }
        with using_kinds(self._layers, kinds):
            found = [torch.stack(self._backbone.velocity(lanes)) for lanes in self._batches]
        lost = sum(float((one - other).square().sum()) for one, other in zip(found, self._dense, strict=True))
        return math.sqrt(lost / sum(float(each.square().sum()) for each in self._dense))
