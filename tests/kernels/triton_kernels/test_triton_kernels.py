"""The Triton kernels under Triton's interpreter against the reference in float64.

No bfloat16: the interpreter truncates where a GPU rounds.  test_gpu.py has it.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_kernels import Factors, Segments, examples, reference
from lego_kernels.launching import MAX_WIDTH
from lego_kernels.triton_kernels.gated_residual import gated_residual_triton
from lego_kernels.triton_kernels.lora_expand import lora_expand_triton
from lego_kernels.triton_kernels.lora_shrink import lora_shrink_triton
from lego_kernels.triton_kernels.norm_modulate import norm_modulate_triton
from lego_kernels.triton_kernels.qk_norm_rope import qk_norm_rope_triton
from lego_kernels.triton_kernels.residual_norm_modulate import residual_norm_modulate_triton

DTYPES = [torch.float32, torch.float16]
# (T, D, B): one of everything; a masked row; many branches; an exact power of two; SD3.5's width; nothing
ROWS = [(1, 1, 1), (1, 96, 1), (7, 31, 3), (17, 96, 5), (5, 128, 8), (3, 1536, 2), (0, 64, 2)]
# (T, heads, head width, parts)
HEADS = [
    (1, 1, 1, "q k"),
    (5, 3, 31, "k"),
    (7, 3, 96, "q k rope"),
    (3, 24, 128, "q k rope"),
    (4, 9, 128, "q rope"),
    (2, 1, 1536, "rope"),
    (3, 2, 2, "q k rope"),
    (0, 4, 64, "q k rope"),
]
# (segment lengths, width, ranks): one of everything; an empty segment; several tiles; the largest rank; no segment
SEGMENTS = [
    ([1], 1, [1]),
    ([5, 0, 7], 33, [4, 16]),
    ([70, 3], 130, [1, 256]),
    ([0], 16, [3]),
    ([], 16, [3]),
    ([9] * 8, 64, [1, 2, 4, 8, 16, 32, 64, 128]),
]
# float32 sums in another order than float64; half precision is rounded once, and in q and k thrice
BUDGET_ULPS = {torch.float32: 8.0, torch.float16: 1.0}
HEADS_BUDGET_ULPS = {torch.float32: 8.0, torch.float16: 4.0}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", ROWS, ids=str)
def test_norm_modulate_is_the_reference(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    """In float32 statistics, rounded once."""
    arguments = examples.norm_modulate(*size, dtype)
    actual = norm_modulate_triton(**arguments)
    assert actual.dtype == dtype
    assert actual.shape == arguments["x"].shape
    assert reference.ulps(actual, reference.norm_modulate(**examples.widened(arguments))) <= BUDGET_ULPS[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", ROWS, ids=str)
def test_gated_residual_is_the_reference(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Rounded once."""
    arguments = examples.gated_residual(*size, dtype)
    actual = gated_residual_triton(**arguments)
    assert actual.dtype == dtype
    assert actual.shape == arguments["x"].shape
    assert reference.ulps(actual, reference.gated_residual(**examples.widened(arguments))) <= BUDGET_ULPS[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", ROWS, ids=str)
def test_residual_norm_modulate_is_the_reference(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    """And the bits of the two kernels after another."""
    arguments = examples.residual_norm_modulate(*size, dtype)
    actual = residual_norm_modulate_triton(**arguments)
    assert actual.dtype == dtype
    assert actual.shape == (2, *size[:2])
    # The norm is of the rounded sum, so each part is held against float64 by itself.
    total = reference.gated_residual(**examples.widened({k: arguments[k] for k in ("x", "update", "gate", "branch")}))
    assert reference.ulps(actual[0], total) <= BUDGET_ULPS[dtype]
    tables = {name: arguments[name] for name in ("shift", "scale", "branch")}
    assert torch.equal(actual[1], norm_modulate_triton(actual[0].contiguous(), **tables))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", HEADS, ids=str)
def test_qk_norm_rope_is_the_reference(size: tuple[int, int, int, str], dtype: torch.dtype) -> None:
    """With each of its parts left out somewhere, and v passed through."""
    tokens, heads, width, parts = size
    arguments = examples.qk_norm_rope(tokens, heads, width, dtype, parts=parts)
    actual = qk_norm_rope_triton(**arguments)
    assert actual.dtype == dtype
    exact = reference.qk_norm_rope(**examples.widened(arguments))
    assert reference.ulps(actual, exact) <= HEADS_BUDGET_ULPS[dtype]
    assert torch.equal(actual[:, 2], arguments["qkv"][:, 2])


def test_rows_may_lie_apart_in_memory() -> None:
    """Slices of wider rows, columns of a transposed tensor, and tables cut out of one modulation product."""
    arguments = examples.norm_modulate(6, 40, 3, torch.float32)
    expected = norm_modulate_triton(**arguments)
    x, tables = arguments["x"], torch.cat([arguments["shift"], arguments["scale"]], dim=1)
    shift, scale = tables.chunk(2, dim=1)
    for spread in (torch.cat([x, x], dim=1)[:, :40], torch.stack([x, x], dim=1)[:, 0], x.t().contiguous().t()):
        assert torch.equal(norm_modulate_triton(spread, shift, scale, arguments["branch"]), expected)
    branch = torch.stack([arguments["branch"], arguments["branch"]], dim=1)[:, 0]
    assert torch.equal(norm_modulate_triton(x, shift, scale, branch), expected)


def test_updates_and_gates_may_lie_apart_in_memory() -> None:
    """As they do where one product holds several of them."""
    arguments = examples.gated_residual(6, 40, 3, torch.float32)
    expected = gated_residual_triton(**arguments)
    wide = {name: torch.cat([arguments[name]] * 2, dim=1)[:, :40] for name in ("x", "update", "gate")}
    assert torch.equal(gated_residual_triton(**wide, branch=arguments["branch"]), expected)


def test_qkv_may_be_a_slice_of_a_wider_projection() -> None:
    """As in FLUX's single blocks, where one product holds q, k, v and the MLP."""
    arguments = examples.qk_norm_rope(4, 3, 32, torch.float32)
    expected = qk_norm_rope_triton(**arguments)
    fused = torch.cat([arguments["qkv"].flatten(1), torch.ones(4, 50)], dim=1)
    sliced = fused[:, : 3 * 3 * 32].unflatten(1, (3, 3, 32))
    assert torch.equal(qk_norm_rope_triton(**arguments | {"qkv": sliced}), expected)
    swapped = arguments["qkv"].transpose(-1, -2).contiguous().transpose(-1, -2)
    assert torch.equal(qk_norm_rope_triton(**arguments | {"qkv": swapped}), expected)


def test_a_row_wider_than_a_program_is_refused() -> None:
    """Before anything is launched."""
    with pytest.raises(ValueError, match=f"x has rows of {MAX_WIDTH + 1} values"):
        norm_modulate_triton(**examples.norm_modulate(1, MAX_WIDTH + 1, 1, torch.float32))
    with pytest.raises(ValueError, match="x has rows"):
        gated_residual_triton(**examples.gated_residual(1, MAX_WIDTH + 1, 1, torch.float32))
    with pytest.raises(ValueError, match="qkv has rows"):
        qk_norm_rope_triton(**examples.qk_norm_rope(1, 1, MAX_WIDTH + 1, torch.float32, parts="q"))


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(1, 5), width=st.integers(1, 70), branches=st.integers(1, 4))
def test_any_size_is_the_reference(rows: int, width: int, branches: int) -> None:
    """Whatever part of a block the last columns fill."""
    arguments = examples.norm_modulate(rows, width, branches, torch.float32)
    exact = reference.norm_modulate(**examples.widened(arguments))
    assert reference.ulps(norm_modulate_triton(**arguments), exact) <= BUDGET_ULPS[torch.float32]


@settings(deadline=None, max_examples=25)
@given(tokens=st.integers(1, 3), heads=st.integers(1, 10), pairs=st.integers(1, 20))
def test_any_heads_are_the_reference(tokens: int, heads: int, pairs: int) -> None:
    """Whatever part of a tile the last heads fill."""
    arguments = examples.qk_norm_rope(tokens, heads, 2 * pairs, torch.float32)
    exact = reference.qk_norm_rope(**examples.widened(arguments))
    assert reference.ulps(qk_norm_rope_triton(**arguments), exact) <= HEADS_BUDGET_ULPS[torch.float32]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SEGMENTS, ids=str)
def test_low_rank_products_are_the_reference(case: tuple[list[int], int, list[int]], dtype: torch.dtype) -> None:
    """Summed in float32 and rounded once, each segment with its own factors, rows of none untouched."""
    for name, op in (("lora_shrink", lora_shrink_triton), ("lora_expand", lora_expand_triton)):
        arguments = getattr(examples, name)(*case, dtype)
        exact = getattr(reference, name)(**examples.widened(arguments))
        actual = op(**arguments)
        assert actual.dtype == dtype
        assert actual.shape == exact.shape
        assert reference.ulps(actual, exact) <= BUDGET_ULPS[dtype]


def widths_share_bits() -> bool:
    """Whether this CPU's library, which the interpreter multiplies with, sums alike for tiles of 16 and 64 ranks."""
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(32, 64, generator=draw).numpy(), torch.randn(64, 64, generator=draw).numpy()
    return bool((x @ weight[:16].T == (x @ weight.T)[:, :16]).all())


# Where it does not, what a row's bits depend on is not the kernel's doing.
@pytest.mark.parametrize("other", [16, 64] if widths_share_bits() else [16])
def test_low_rank_products_of_a_row_do_not_depend_on_its_batch(other: int) -> None:
    """A segment alone gets the bits it gets beside others, of larger ranks too."""
    together = examples.lora_shrink([20, 40], 96, [4, other], torch.float32)
    rows = together["segments"].rows[0]
    alone = together | {"down": Factors.down(together["down"].weights[0]), "segments": Segments((rows,))}
    start, stop, _ = rows
    first = lora_shrink_triton(**together)[start:stop, :4]
    assert torch.equal(lora_shrink_triton(**alone)[start:stop], first)
