"""norm_modulate on a CPU: its bits, its properties and its errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lego_kernels import examples, norm_modulate, reference

SIZES = [(1, 1, 1), (7, 31, 3), (17, 96, 5), (5, 128, 8), (3, 1536, 2), (0, 64, 2)]
sizes = st.tuples(st.integers(1, 20), st.integers(1, 130), st.integers(1, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_cpu_gives_the_reference_bit_for_bit(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    """And the formula that callers depend on."""
    arguments = examples.norm_modulate(*size, dtype)
    actual = norm_modulate(**arguments)
    assert torch.equal(actual, reference.norm_modulate(**arguments))
    x, shift, scale, branch = (arguments[name] for name in ("x", "shift", "scale", "branch"))
    normed = F.layer_norm(x, (size[1],), eps=1e-6)
    gathered = shift.index_select(0, branch), (1 + scale).index_select(0, branch)
    assert torch.equal(actual, torch.addcmul(gathered[0], normed, gathered[1]))


@settings(deadline=None, max_examples=50)
@given(size=sizes)
def test_without_modulation_it_is_layer_norm(size: tuple[int, int, int]) -> None:
    """Zero shift and zero scale leave the norm."""
    arguments = examples.norm_modulate(*size, torch.float32)
    none = torch.zeros_like(arguments["shift"])
    actual = norm_modulate(arguments["x"], none, none, arguments["branch"], eps=1e-5)
    assert torch.equal(actual, F.layer_norm(arguments["x"], (size[1],), eps=1e-5))


@settings(deadline=None, max_examples=50)
@given(size=sizes, data=st.data())
def test_the_order_of_rows_does_not_matter(size: tuple[int, int, int], data: st.DataObject) -> None:
    """A row is answered the same, bit for bit, wherever it stands."""
    arguments = examples.norm_modulate(*size, torch.float32)
    order = torch.tensor(data.draw(st.permutations(range(size[0]))))
    moved = arguments | {"x": arguments["x"][order], "branch": arguments["branch"][order]}
    assert torch.equal(norm_modulate(**moved), norm_modulate(**arguments)[order])


@settings(deadline=None, max_examples=50)
@given(size=sizes)
def test_a_row_alone_gets_the_bits_it_gets_in_a_batch(size: tuple[int, int, int]) -> None:
    """An image must not depend on what else is computed beside it."""
    arguments = examples.norm_modulate(*size, torch.float32)
    together = norm_modulate(**arguments)
    for row in range(size[0]):
        alone = arguments | {"x": arguments["x"][row : row + 1], "branch": arguments["branch"][row : row + 1]}
        assert torch.equal(norm_modulate(**alone)[0], together[row])


def test_rows_may_lie_apart_in_memory() -> None:
    """A slice of wider rows gives the bits of a copy."""
    arguments = examples.norm_modulate(6, 40, 3, torch.float32)
    spread = torch.cat([arguments["x"]] * 2, dim=1)[:, :40]
    assert torch.equal(norm_modulate(**arguments | {"x": spread}), norm_modulate(**arguments))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.ones(6)}, r"x has shape \[6\], must be \[T, D\]"),
        ({"x": torch.ones(6, 0)}, r"x has shape \[6, 0\]"),
        ({"x": torch.ones(6, 40, dtype=torch.float64)}, "x is torch.float64, must be one of"),
        ({"shift": torch.ones(40)}, r"shift has shape \[40\], must be \[B, 40\]"),
        ({"shift": torch.ones(3, 39)}, r"shift has shape \[3, 39\], must be \[3, 40\]"),
        ({"scale": torch.ones(2, 40)}, r"scale has shape \[2, 40\], must be \[3, 40\]"),
        ({"scale": torch.ones(3, 40).half()}, r"scale of shape \[3, 40\] is torch.float16, must be torch.float32"),
        ({"branch": torch.zeros(5, dtype=torch.int64)}, r"branch has shape \[5\], must be \[6\]"),
        ({"branch": torch.zeros(6, dtype=torch.int32)}, r"branch of shape \[6\] is torch.int32"),
        ({"branch": torch.zeros(6, dtype=torch.int64, device="meta")}, r"branch of shape \[6\] is on meta"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(changed: dict[str, torch.Tensor], message: str) -> None:
    """With its shape and the one it should have."""
    with pytest.raises(ValueError, match=message):
        norm_modulate(**examples.norm_modulate(6, 40, 3, torch.float32) | changed)


def test_a_branch_without_a_table_row_is_an_index_error() -> None:
    """On a CPU; a GPU is not made to look."""
    arguments = examples.norm_modulate(6, 40, 3, torch.float32)
    with pytest.raises(IndexError):
        norm_modulate(**arguments | {"branch": torch.full((6,), 3)})
