"""Sides are timed in turns, and numbers summed up as quartiles."""

from collections.abc import Sequence

import torch

from benchmarks.engine.timing import Patience, Quartiles, take_turns

CPU = torch.device("cpu")


def test_sides_take_turns() -> None:
    """After one round to warm up they run A B A B, as many rounds as asked for."""
    ran: list[str] = []
    times = take_turns({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, CPU, Patience(3, 0.0))
    assert "".join(ran) == "abababab"
    assert [len(t) for t in times.values()] == [3, 3]


def test_quartiles_of_numbers() -> None:
    """The middle and the borders of its half, as text too."""
    numbers: Sequence[float] = (1.0, 2.0, 3.0, 4.0, 5.0)
    assert Quartiles.of(numbers) == Quartiles(3.0, 2.0, 4.0)
    assert Quartiles.of(numbers).text(10, digits=0) == "30 (20 to 40)"
