"""StepCost: what it predicts from what it saw."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.costs import StepCost


def seen(*steps: tuple[int, float]) -> StepCost:
    cost = StepCost()
    for rows, took_s in steps:
        cost.observe(rows, took_s)
    return cost


def test_nothing_seen_predicts_nothing() -> None:
    """Before the first step the prediction is zero."""
    assert StepCost().seconds(100) == 0.0


def test_a_line_is_found() -> None:
    """Steps that take a constant and so much a row are predicted exactly, between and beyond those seen."""
    cost = seen(*[(rows, 0.01 + 0.001 * rows) for rows in (10, 40, 20, 80, 160)])
    assert cost.seconds(100) == pytest.approx(0.11)
    assert cost.seconds(1000) == pytest.approx(1.01)


def test_equal_steps_predict_their_mean() -> None:
    """When every step had as many rows, no slope is made up."""
    assert seen((50, 0.2), (50, 0.2)).seconds(500) == pytest.approx(0.2)


def test_late_steps_weigh_more() -> None:
    """After the machine has slowed down, the prediction follows."""
    assert seen(*[(50, 0.1)] * 100, *[(50, 0.2)] * 100).seconds(50) == pytest.approx(0.2, rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 100)), max_size=30), st.integers(1, 10_000))
def test_a_prediction_is_never_negative(steps: list[tuple[int, float]], rows: int) -> None:
    """Whatever was seen, no step is promised to take less than no time, and more rows never take less."""
    cost = seen(*steps)
    assert 0 <= cost.seconds(rows) <= cost.seconds(rows + 1)
