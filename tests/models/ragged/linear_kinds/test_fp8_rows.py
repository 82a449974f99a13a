"""Layers of products of 8-bit floats: what they compute, that rows stand alone, and what they refuse."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.models.loading import load_backbone
from lego_serve.models.ragged.batch_invariant import LinearOps
from lego_serve.models.ragged.layers import LinearKind, linears
from lego_serve.models.ragged.linear_kinds.fp8_rows import Fp8Emulated, Fp8Matmul, fp8_rows
from lego_serve.models.registry import ModelSpec
from tests.support.engine.engines import alone, engine_of, latents, request, run

INPUTS, OUTPUTS, ROWS = 96, 80, 40
Make = Callable[[torch.Tensor], LinearKind]
KINDS: dict[str, Make] = {"cpu": lambda weight: Fp8Emulated.of(weight, LinearOps()), "gpu": Fp8Matmul.of}
dtypes = st.sampled_from([torch.float32, torch.bfloat16])


def drawn(seed: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows of very different sizes, a weight and a bias."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(ROWS, INPUTS, generator=draw) * torch.logspace(-4, 4, ROWS)[:, None]
    weight, bias = torch.randn(OUTPUTS, INPUTS, generator=draw), torch.randn(OUTPUTS, generator=draw)
    return rows.to(dtype), weight.to(dtype), bias.to(dtype)


def rounded(x: torch.Tensor) -> torch.Tensor:
    """A row times the power of two that brings its largest to 448, each number to three bits behind its first."""
    scale = x.double().abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 448
    numbers = x.double() / scale
    step = torch.exp2(numbers.abs().clamp_min(2.0**-6).log2().floor() - 3)
    return (numbers / step).round() * step * scale


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 99), dtype=dtypes, rows=st.integers(1, ROWS))
def test_products_are_those_of_rounded_numbers(kind: str, seed: int, dtype: torch.dtype, rows: int) -> None:
    """Of any number of rows; near what fp32 comes to."""
    x, weight, bias = drawn(seed, dtype)
    x = x[:rows]
    out = KINDS[kind](weight)(x, bias)
    assert out.dtype == dtype
    expected = rounded(x) @ rounded(weight).T + bias.double()
    # A number on the edge of two steps may round either way in fp32: some numbers, one step of an eighth.
    sizes = x.double().norm(dim=1, keepdim=True) * weight.double().norm(dim=1).max() + bias.double().abs().max()
    assert bool(((out.double() - expected).abs() <= 0.01 * sizes).all())
    dense = x.double() @ weight.double().T + bias.double()
    assert float((out.double() - dense).norm() / dense.norm()) < 0.06


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_row_does_not_depend_on_its_mates(kind: str, data: st.DataObject) -> None:
    """Bit for bit, in any part of a batch, beside rows that are a million times larger."""
    x, weight, bias = drawn(data.draw(st.integers(0, 9)), data.draw(dtypes))
    layer = KINDS[kind](weight)
    start = data.draw(st.integers(0, ROWS - 1))
    stop = data.draw(st.integers(start + 1, ROWS))
    assert torch.equal(layer(x[start:stop].clone(), bias), layer(x, bias)[start:stop])


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_is_no_number_spoils_itself_alone(kind: str, number: float) -> None:
    """Infinite ones are no numbers afterwards either."""
    x, weight, bias = drawn(0)
    expected = KINDS[kind](weight)(x, bias)
    x[3, 7] = number
    found = KINDS[kind](weight)(x, bias)
    assert bool(found[3].isnan().all())
    assert torch.equal(found[4:], expected[4:])


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_stay_zeros(kind: str) -> None:
    """A row of nothing has no scale of its own."""
    _, weight, bias = drawn(0)
    assert torch.equal(KINDS[kind](weight)(torch.zeros(3, INPUTS), bias), bias.expand(3, -1))


@given(seed=st.integers(0, 99), dtype=dtypes)
def test_codes_are_finite_and_the_largest_of_a_row_keeps_its_size(seed: int, dtype: torch.dtype) -> None:
    """Whatever the row's size: nothing overflows."""
    x, _, _ = drawn(seed, dtype)
    codes, scales = fp8_rows(x)
    assert bool(codes.float().isfinite().all())
    back = codes.float() * scales
    torch.testing.assert_close(back.abs().amax(dim=1), x.float().abs().amax(dim=1), rtol=1e-6, atol=0)


def test_a_weight_that_a_gpu_cannot_multiply_is_refused() -> None:
    """With its shape."""
    with pytest.raises(ValueError, match=r"shape \[80, 88\] has a side that is not in 16s"):
        Fp8Matmul.of(torch.ones(80, 88))


def test_a_model_in_8_bit_floats_keeps_its_lanes_apart(tiny_folder: Path) -> None:
    """A lane's bits are the same alone and among others; blocks alone are changed, and images hardly."""
    spec = ModelSpec("m", str(tiny_folder), dtype="float32", max_sequence_length=0)
    dense, fp8 = load_backbone(spec), load_backbone(replace(spec, linear="fp8"))
    changed = [layer for layer in linears(vars(fp8[0])) if layer.kind is not None]
    assert 0 < len(changed) < len(list(linears(vars(fp8[0]))))
    engine = engine_of(fp8)
    for key, width in (("mine", 96), ("a", 128), ("b", 160)):
        engine.add(request(key, width=width, height=96))
    mine = request("mine", width=96, height=96)
    found = latents(run(engine)["mine"])
    assert torch.equal(found, alone(fp8, mine))
    exact = alone(dense, mine)
    assert 0 < float((found - exact).norm() / exact.norm()) < 0.1
