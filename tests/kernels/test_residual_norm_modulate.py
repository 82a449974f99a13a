"""residual_norm_modulate on a CPU: its bits, its properties and its errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_kernels import examples, gated_residual, norm_modulate, reference, residual_norm_modulate

SIZES = [(1, 1, 1), (7, 31, 3), (17, 96, 5), (5, 128, 8), (3, 1536, 2), (0, 64, 2)]
sizes = st.tuples(st.integers(1, 20), st.integers(1, 130), st.integers(1, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_cpu_gives_the_bits_of_the_two_ops_after_another(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    """And those of the reference."""
    arguments = examples.residual_norm_modulate(*size, dtype)
    actual = residual_norm_modulate(**arguments)
    total = gated_residual(**{name: arguments[name] for name in ("x", "update", "gate", "branch")})
    assert torch.equal(actual[0], total)
    assert torch.equal(
        actual[1], norm_modulate(total, **{name: arguments[name] for name in ("shift", "scale", "branch")})
    )
    assert torch.equal(actual, reference.residual_norm_modulate(**arguments))


@settings(deadline=None, max_examples=50)
@given(size=sizes)
def test_a_row_alone_gets_the_bits_it_gets_in_a_batch(size: tuple[int, int, int]) -> None:
    """An image must not depend on what else is computed beside it."""
    arguments = examples.residual_norm_modulate(*size, torch.float32)
    together = residual_norm_modulate(**arguments)
    for row in range(size[0]):
        alone = {name: arguments[name][row : row + 1] for name in ("x", "update", "branch")}
        assert torch.equal(residual_norm_modulate(**arguments | alone)[:, 0], together[:, row])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.ones(6, 40, 1)}, r"x has shape \[6, 40, 1\], must be \[T, D\]"),
        ({"update": torch.ones(5, 40)}, r"update has shape \[5, 40\], must be \[6, 40\]"),
        ({"shift": torch.ones(3, 41)}, r"shift has shape \[3, 41\], must be \[3, 40\]"),
        ({"branch": torch.zeros(6)}, r"branch of shape \[6\] is torch.float32, must be torch.int64"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(changed: dict[str, torch.Tensor], message: str) -> None:
    """With its shape and the one it should have."""
    with pytest.raises(ValueError, match=message):
        residual_norm_modulate(**examples.residual_norm_modulate(6, 40, 3, torch.float32) | changed)
