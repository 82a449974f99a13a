"""The compiled kernels at real shapes, on a GPU."""

import os

import pytest
import torch

import lego_kernels
from lego_kernels import examples, reference

if not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("needs a CUDA device, and a process that compiles kernels", allow_module_level=True)

pytestmark = pytest.mark.gpu
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
ROWS = [(1, 1, 1), (7, 31, 3), (0, 64, 2), (2048, 256, 16), (4429, 1536, 5), (4608, 3072, 2)]
LATENTS = [(1, 1, 1, 1), (3, 5, 7, 11), (16, 4, 4, 0), (16, 64, 64, 1433), (16, 64, 64, None), (4, 33, 17, 561)]
HEADS = [(1, 1, 2), (5, 3, 30), (0, 4, 64), (2048, 4, 64), (4429, 24, 64), (4608, 24, 128)]
SEGMENTS = [([1], 1, [1]), ([5, 0, 7], 33, [4, 16]), ([70, 3], 130, [1, 256]), ([512] * 8, 3072, [16] * 8)]
# float32 takes approximate roots, of which cancelling terms of order ten show many ulps (64 are 8e-6);
# half precision is rounded once, and in q and k thrice
BUDGET_ULPS = {torch.float32: 64.0, torch.float16: 1.0, torch.bfloat16: 1.0}
HEADS_BUDGET_ULPS = {torch.float32: 64.0, torch.float16: 6.0, torch.bfloat16: 6.0}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", ROWS, ids=str)
@pytest.mark.parametrize("op", ["norm_modulate", "gated_residual"])
def test_rows_are_the_reference(op: str, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    """In float64, within one rounding in half precision."""
    arguments = getattr(examples, op)(*size, dtype, "cuda")
    actual = getattr(lego_kernels, op)(**arguments)
    assert actual.dtype == dtype
    exact = getattr(reference, op)(**examples.widened(arguments))
    assert reference.ulps(actual, exact) <= BUDGET_ULPS[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", ROWS, ids=str)
def test_the_fused_sum_is_normed_as_it_was_rounded(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    """The bits of the two kernels after another."""
    arguments = examples.residual_norm_modulate(*size, dtype, "cuda")
    total, normed = lego_kernels.residual_norm_modulate(**arguments)
    assert torch.equal(total, lego_kernels.gated_residual(*(arguments[n] for n in ("x", "update", "gate", "branch"))))
    assert torch.equal(normed, lego_kernels.norm_modulate(total, *(arguments[n] for n in ("shift", "scale", "branch"))))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", ROWS, ids=str)
def test_codes_are_the_references(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Bit for bit, and the scales with them."""
    arguments = examples.int8_rows(*size[:2], dtype, "cuda")
    for part, expected in zip(lego_kernels.int8_rows(**arguments), reference.int8_rows(**arguments), strict=True):
        assert torch.equal(part, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(1, 4), (7, 36), (0, 64), (4429, 1536), (4608, 15360)], ids=str)
def test_the_larger_half_is_the_references(size: tuple[int, int], dtype: torch.dtype) -> None:
    """Values and places, bit for bit."""
    arguments = examples.sparse24(*size, dtype, "cuda")
    for part, expected in zip(lego_kernels.sparse24(**arguments), reference.sparse24(**arguments), strict=True):
        assert torch.equal(part, expected)


@pytest.mark.parametrize("parts", ["last kept blend", "last", "kept", "blend", ""])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", LATENTS, ids=str)
def test_active_rows_are_the_references(size: tuple[int, int, int, int | None], dtype: torch.dtype, parts: str) -> None:
    """Taken out bit for bit, and put back with a step within one rounding."""
    taken = examples.gather_rows(*size, dtype, "cuda")
    assert torch.equal(lego_kernels.gather_rows(**taken), reference.gather_rows(**taken))
    arguments = examples.scatter_rows(*size, dtype, "cuda", parts=parts)
    actual = lego_kernels.scatter_rows(**arguments)
    assert reference.ulps(actual, reference.scatter_rows(**examples.widened(arguments))) <= BUDGET_ULPS[dtype]


@pytest.mark.parametrize("parts", ["q k rope", "q k", "q rope", "rope"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", HEADS, ids=str)
def test_heads_are_the_reference(size: tuple[int, int, int], dtype: torch.dtype, parts: str) -> None:
    """In float64, within the roundings that diffusers makes too."""
    arguments = examples.qk_norm_rope(*size, dtype, "cuda", parts=parts)
    actual = lego_kernels.qk_norm_rope(**arguments)
    assert actual.dtype == dtype
    exact = reference.qk_norm_rope(**examples.widened(arguments))
    assert reference.ulps(actual, exact) <= HEADS_BUDGET_ULPS[dtype]
    assert torch.equal(actual[:, 2], arguments["qkv"][:, 2])


@pytest.mark.parametrize("op", ["norm_modulate", "gated_residual"])
def test_a_row_alone_gets_the_bits_it_gets_in_a_batch(op: str) -> None:
    """An image must not depend on what else is computed beside it."""
    arguments = getattr(examples, op)(64, 3072, 4, torch.bfloat16, "cuda")
    together = getattr(lego_kernels, op)(**arguments)
    alone = {name: value[5:6] for name, value in arguments.items() if value.shape[0] == 64}
    assert torch.equal(getattr(lego_kernels, op)(**arguments | alone)[0], together[5])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SEGMENTS, ids=str)
@pytest.mark.parametrize("op", ["lora_shrink", "lora_expand"])
def test_low_rank_products_are_the_reference(
    op: str, case: tuple[list[int], int, list[int]], dtype: torch.dtype
) -> None:
    """In float64, summed in float32 and rounded once."""
    arguments = getattr(examples, op)(*case, dtype, "cuda")
    exact = getattr(reference, op)(**examples.widened(arguments))
    actual = getattr(lego_kernels, op)(**arguments)
    assert actual.dtype == dtype
    assert reference.ulps(actual, exact) <= BUDGET_ULPS[dtype]


def test_nothing_waits_for_the_device() -> None:
    """Every op only launches: torch raises here at whatever would synchronise."""
    rows = examples.norm_modulate(8, 64, 2, torch.bfloat16, "cuda")
    heads = examples.qk_norm_rope(8, 4, 64, torch.bfloat16, "cuda")
    taken = examples.gather_rows(16, 8, 8, 30, torch.bfloat16, "cuda")
    placed = examples.scatter_rows(16, 8, 8, 30, torch.float32, "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        lego_kernels.norm_modulate(**rows)
        lego_kernels.int8_rows(rows["x"])
        lego_kernels.sparse24(rows["x"])
        lego_kernels.gather_rows(**taken)
        lego_kernels.scatter_rows(**placed)
        lego_kernels.gated_residual(rows["x"], rows["x"], rows["scale"], rows["branch"])
        lego_kernels.qk_norm_rope(**heads)
    finally:
        torch.cuda.set_sync_debug_mode("default")
