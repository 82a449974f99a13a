"""gated_residual on a CPU: its bits, its properties and its errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_kernels import examples, gated_residual, reference

SIZES = [(1, 1, 1), (7, 31, 3), (17, 96, 5), (5, 128, 8), (3, 1536, 2), (0, 64, 2)]
sizes = st.tuples(st.integers(1, 20), st.integers(1, 130), st.integers(1, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_cpu_gives_the_reference_bit_for_bit(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    """And the formula that callers depend on."""
    arguments = examples.gated_residual(*size, dtype)
    actual = gated_residual(**arguments)
    assert torch.equal(actual, reference.gated_residual(**arguments))
    gate = arguments["gate"].index_select(0, arguments["branch"])
    assert torch.equal(actual, torch.addcmul(arguments["x"], gate, arguments["update"]))


@settings(deadline=None, max_examples=50)
@given(size=sizes)
def test_a_closed_gate_leaves_x_alone(size: tuple[int, int, int]) -> None:
    """In a new tensor: x itself stays as it was."""
    arguments = examples.gated_residual(*size, torch.float32)
    arguments["gate"].zero_()
    actual = gated_residual(**arguments)
    assert torch.equal(actual, arguments["x"])
    assert actual.data_ptr() != arguments["x"].data_ptr()


@settings(deadline=None, max_examples=50)
@given(size=sizes)
def test_a_row_alone_gets_the_bits_it_gets_in_a_batch(size: tuple[int, int, int]) -> None:
    """An image must not depend on what else is computed beside it."""
    arguments = examples.gated_residual(*size, torch.float32)
    together = gated_residual(**arguments)
    for row in range(size[0]):
        alone = {name: arguments[name][row : row + 1] for name in ("x", "update", "branch")}
        assert torch.equal(gated_residual(**alone, gate=arguments["gate"])[0], together[row])


def test_rows_may_lie_apart_in_memory() -> None:
    """A slice of wider rows gives the bits of a copy."""
    arguments = examples.gated_residual(6, 40, 3, torch.float32)
    spread = torch.cat([arguments["x"]] * 2, dim=1)[:, :40]
    assert torch.equal(gated_residual(**arguments | {"x": spread}), gated_residual(**arguments))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.ones(6, 40, 1)}, r"x has shape \[6, 40, 1\], must be \[T, D\]"),
        ({"update": torch.ones(5, 40)}, r"update has shape \[5, 40\], must be \[6, 40\]"),
        ({"gate": torch.ones(1, 3, 40)}, r"gate has shape \[1, 3, 40\], must be \[B, 40\]"),
        ({"gate": torch.ones(3, 41)}, r"gate has shape \[3, 41\], must be \[3, 40\]"),
        ({"branch": torch.zeros(6)}, r"branch of shape \[6\] is torch.float32, must be torch.int64"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(changed: dict[str, torch.Tensor], message: str) -> None:
    """With its shape and the one it should have."""
    with pytest.raises(ValueError, match=message):
        gated_residual(**examples.gated_residual(6, 40, 3, torch.float32) | changed)
