"""The start-up probes: of a backbone that keeps its lanes apart, and of batches that change no bit of an answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.engine import batch_invariance
from lego_serve.engine.calibration import best_batch, stable_batch
from lego_serve.errors import ConfigError
from lego_serve.models.ragged.batch_invariant import LinearOps
from lego_serve.models.ragged.conditioning import Conditioning, LatentShape, PreparedPrompt
from lego_serve.models.ragged.lane_input import LaneInput
from tests.support.engine.engines import Clock


class FakeBackbone:
    """Answers a lane's own latents, plus a share of its batch-mates' where it leaks."""

    shape = LatentShape(4, 8, 16)
    text_width, pooled_width = 8, 8
    uses_cfg = True
    guidance_embeds = False
    bucket_rows = 1
    device = torch.device("cpu")

    def __init__(self, leak: float) -> None:
        self.leak = leak
        self.linear_ops = LinearOps()

    def prepare(self, cond: Conditioning) -> PreparedPrompt:
        """As given."""
        return PreparedPrompt(cond.tokens, cond.pooled)

    def velocity(self, lanes: Sequence[LaneInput]) -> list[torch.Tensor]:
        """The latents, and the leak."""
        total = sum(float(lane.latents.sum()) for lane in lanes)
        return [lane.latents + self.leak * (total - float(lane.latents.sum())) for lane in lanes]


def test_a_backbone_that_keeps_lanes_apart_is_batch_invariant() -> None:
    """Equal bits alone and among others."""
    assert batch_invariance.ensure_batch_invariance(FakeBackbone(0.0), required=True).startswith("required and checked")


def test_a_backbone_whose_lanes_leak_is_refused_where_that_is_required() -> None:
    """One bit of difference is enough, and the message names the way out."""
    with pytest.raises(ConfigError, match="choose `false`"):
        batch_invariance.ensure_batch_invariance(FakeBackbone(1e-6), required=True)


@pytest.mark.parametrize(("cost", "kept"), [(1.0, True), (1.2, False)])
def test_a_rule_that_costs_over_a_twentieth_is_dropped_where_none_is_required(
    cost: float, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For that backbone and no other; the message says what it cost."""
    monkeypatch.setattr(batch_invariance, "row_rule_cost", lambda backbone: cost)
    backbone, other = FakeBackbone(0.0), FakeBackbone(0.0)
    message = batch_invariance.ensure_batch_invariance(backbone, required=False)
    assert backbone.linear_ops.batch_invariant == kept
    assert other.linear_ops.batch_invariant
    assert f"{100 * (cost - 1):.1f} %" in message


SAMPLES = 9


@dataclass(frozen=True)
class Answer:
    """What an item is answered, in two arrays."""

    rows: np.ndarray
    summary: np.ndarray


def node(leaks: Callable[[int, int, int], bool], array: str = "summary") -> Callable[[Sequence[int]], list[Answer]]:
    """A node whose passes take no time; ``leaks(item, place, size)`` says where an array has another last bit."""

    def run(items: Sequence[int]) -> list[Answer]:
        answers = []
        for place, item in enumerate(items):
            arrays = {"rows": np.full((3, 2), item + 0.5, np.float32), "summary": np.full(2, item + 0.25, np.float32)}
            if len(items) > 1 and leaks(item, place, len(items)):
                arrays[array] = np.nextafter(arrays[array], np.float32(np.inf))
            answers.append(Answer(**arrays))
        return answers

    return run


def test_the_largest_batch_is_taken_where_no_bit_changes() -> None:
    """A pass over eight takes as long as one over a single item."""
    assert best_batch(node(lambda item, place, size: False), SAMPLES, clock=Clock()) == 8


@pytest.mark.parametrize("array", ["rows", "summary"])
def test_every_array_of_an_answer_is_compared(array: str) -> None:
    """One bit of one array in a batch of two is enough for items to stay alone."""
    assert best_batch(node(lambda item, place, size: True, array), SAMPLES, clock=Clock()) == 1


def test_a_batch_that_is_not_full_counts_too() -> None:
    """Of eight at most there may be seven; where seven change bits, four are the most."""
    assert best_batch(node(lambda item, place, size: size == 7), SAMPLES, clock=Clock()) == 4


def test_every_place_and_every_sample_is_compared() -> None:
    """Only the last place of a batch, or only one item among its mates, has other bits."""
    assert best_batch(node(lambda item, place, size: place == size - 1), SAMPLES, clock=Clock()) == 1
    assert best_batch(node(lambda item, place, size: item == SAMPLES - 1), SAMPLES, clock=Clock()) < 8


@given(st.integers(2, 9))
def test_the_stable_batch_ends_below_the_first_unstable_one(unstable: int) -> None:
    """Whatever larger ones do."""
    run = node(lambda item, place, size: size == unstable)
    assert stable_batch(run, SAMPLES, 1, 8) == min(unstable - 1, 8)
