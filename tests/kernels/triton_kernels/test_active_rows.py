"""The Triton kernels of gather_rows and scatter_rows under Triton's interpreter against their references."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_kernels import examples, reference
from lego_kernels.launching import MAX_WIDTH
from lego_kernels.triton_kernels.gather_rows import gather_rows_triton
from lego_kernels.triton_kernels.scatter_rows import scatter_rows_triton

Size = tuple[int, int, int, int | None]
# (channels, lines, tokens a line, active): one of everything; a part; none; all of them; those that have no list
SIZES: list[Size] = [(1, 1, 1, 1), (3, 5, 7, 11), (16, 4, 4, 0), (16, 9, 8, 31), (4, 3, 2, 6), (16, 6, 7, None)]
PARTS = ["last kept blend", "last", "kept", "blend", ""]
BUDGET_ULPS = {torch.float32: 4.0, torch.float16: 1.0}
sizes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)).flatmap(
    lambda sides: st.tuples(*map(st.just, sides), st.one_of(st.none(), st.integers(0, sides[1] * sides[2])))
)
dtypes = st.sampled_from([torch.float32, torch.float16])


def check(size: Size, dtype: torch.dtype, parts: str) -> None:
    """Rows are the reference's bit for bit; a step is float64's within its rounding, its velocity exactly."""
    taken = examples.gather_rows(*size, dtype)
    rows = gather_rows_triton(**taken)
    assert rows.dtype == dtype
    assert torch.equal(rows, reference.gather_rows(**taken))
    arguments = examples.scatter_rows(*size, dtype, parts=parts)
    actual = scatter_rows_triton(**arguments)
    assert {part.dtype for part in actual} == {dtype}
    assert torch.equal(actual.velocity, reference.scatter_rows(**arguments).velocity)
    assert reference.ulps(actual, reference.scatter_rows(**examples.widened(arguments))) <= BUDGET_ULPS[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_active_rows_are_the_references(size: Size, dtype: torch.dtype) -> None:
    """With each of the parts left out somewhere."""
    for parts in PARTS:
        check(size, dtype, parts)


@settings(deadline=None, max_examples=40)
@given(size=sizes, dtype=dtypes, parts=st.sampled_from(PARTS))
def test_any_size_is_the_references(size: Size, dtype: torch.dtype, parts: str) -> None:
    """Whatever tokens are active, and whatever part of a program the last pixels fill."""
    check(size, dtype, parts)


def test_latents_may_lie_apart_in_memory() -> None:
    """As columns of wider ones do, rows that are a part of a batch's, and a list of tokens cut out of another."""
    arguments = examples.scatter_rows(4, 3, 5, 7, torch.float32)
    expected = scatter_rows_triton(**arguments)
    wide = {name: torch.cat([arguments[name]] * 2, dim=-1)[..., : arguments[name].shape[-1]] for name in ("latents",)}
    wide["rows"] = torch.cat([arguments["rows"]] * 2, dim=1)[:, :16]
    wide["active"] = torch.stack([arguments["active"]] * 2, dim=1)[:, 0]
    for part, of_copy in zip(scatter_rows_triton(**arguments | wide), expected, strict=True):
        assert torch.equal(part, of_copy)
    taken = examples.gather_rows(4, 3, 5, 7, torch.float32)
    spread = taken | {"latents": torch.cat([taken["latents"]] * 2, dim=1)[:, :6]}
    assert torch.equal(gather_rows_triton(**spread), gather_rows_triton(**taken))


def test_latents_of_too_many_channels_are_refused() -> None:
    """Before anything is launched."""
    latents = torch.ones(MAX_WIDTH + 1, 1, 1)
    with pytest.raises(ValueError, match=f"a token of latents has rows of {MAX_WIDTH + 1} values"):
        gather_rows_triton(latents, None, patch=1, dtype=torch.float32)
    with pytest.raises(ValueError, match=f"latents, of so many channels, has rows of {MAX_WIDTH + 1} values"):
        scatter_rows_triton(latents, latents.view(1, -1), None, patch=1, channels_last=True, sigmas=(1.0, 0.0))
