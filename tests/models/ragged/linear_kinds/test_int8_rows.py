"""Layers of 8-bit products: what they compute, that rows do not depend on each other, and what they refuse."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lego_kernels import reference
from lego_serve.errors import CheckpointError
from lego_serve.models.loading import load_backbone
from lego_serve.models.ragged.layers import linears
from lego_serve.models.ragged.linear_kinds.int8_rows import Int8Matmul, Int8Rows, int8_rows_reference
from lego_serve.models.registry import ModelSpec
from tests.support.engine.engines import alone, engine_of, latents, request, run

INPUTS, OUTPUTS, ROWS = 96, 80, 40


def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows of very different sizes, a weight and a bias."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(ROWS, INPUTS, generator=draw) * torch.logspace(-4, 4, ROWS)[:, None]
    return rows, torch.randn(OUTPUTS, INPUTS, generator=draw), torch.randn(OUTPUTS, generator=draw)


@given(st.integers(0, 99))
def test_products_are_those_of_rounded_numbers(seed: int) -> None:
    """Within the rounding of one step of a row, each by its own scale; near what fp32 comes to."""
    x, weight, bias = drawn(seed)
    out, expected = Int8Rows.of(weight)(x, bias), int8_rows_reference(x, weight, bias)
    # A number that lies on the edge of two steps may round either way: one step of that row times one weight.
    step = x.abs().amax(dim=1, keepdim=True) * 2 / 127 * weight.abs().max()
    assert bool(((out - expected).abs() <= 2 * step).all())
    dense = x @ weight.T + bias
    assert float((out - dense).norm() / dense.norm()) < 0.03


@given(seed=st.integers(0, 99), dtype=st.sampled_from([torch.float32, torch.bfloat16]), rows=st.integers(0, ROWS))
def test_products_for_a_gpu_are_those_of_rounded_numbers(seed: int, dtype: torch.dtype, rows: int) -> None:
    """Of any number of rows, and nearer to what fp32 comes to than a CPU's, whose rows have a bit less."""
    x, weight, bias = (each.to(dtype) for each in drawn(seed))
    out = Int8Matmul.of(weight)(x[:rows], bias)
    (codes, scales), (of_weight, of_outputs) = reference.int8_rows(x[:rows]), reference.int8_rows(weight)
    exact = codes.double() @ of_weight.double().T * scales.double()[:, None] * of_outputs.double() + bias.double()
    assert out.dtype == dtype
    torch.testing.assert_close(out, exact.to(dtype))
    dense = x[:rows].float() @ weight.float().T + bias.float()
    assert rows == 0 or float((out - dense).norm() / dense.norm()) < 0.015


@given(st.data())
def test_a_row_for_a_gpu_does_not_depend_on_its_mates(data: st.DataObject) -> None:
    """Bit for bit, in any part of a batch."""
    x, weight, bias = drawn(data.draw(st.integers(0, 9)))
    layer = Int8Matmul.of(weight)
    start = data.draw(st.integers(0, ROWS - 1))
    stop = data.draw(st.integers(start + 1, ROWS))
    assert torch.equal(layer(x[start:stop].clone(), bias), layer(x, bias)[start:stop])


def test_a_row_that_is_no_number_spoils_itself_alone() -> None:
    """8 bits have no code for it; the row's scale has."""
    x, weight, bias = drawn(0)
    expected = Int8Matmul.of(weight)(x, bias)
    x[3, 7] = torch.nan
    found = Int8Matmul.of(weight)(x, bias)
    assert bool(found[3].isnan().all())
    assert torch.equal(found[4:], expected[4:])


def test_a_weight_that_a_gpu_cannot_multiply_is_refused() -> None:
    """With its shape."""
    with pytest.raises(ValueError, match=r"shape \[80, 94\] has a side that is not in 8s"):
        Int8Matmul.of(torch.ones(80, 94))


@given(st.data())
def test_a_row_does_not_depend_on_its_mates(data: st.DataObject) -> None:
    """Bit for bit, in any part of a batch, beside rows that are a million times larger."""
    x, weight, bias = drawn(data.draw(st.integers(0, 9)))
    layer = Int8Rows.of(weight)
    start = data.draw(st.integers(0, ROWS - 1))
    stop = data.draw(st.integers(start + 1, ROWS))
    assert torch.equal(layer(x[start:stop].clone(), bias), layer(x, bias)[start:stop])


def test_zeros_stay_zeros() -> None:
    """A row of nothing has no scale of its own."""
    _, weight, bias = drawn(0)
    assert torch.equal(Int8Rows.of(weight)(torch.zeros(3, INPUTS), bias), bias.expand(3, -1))


def test_a_model_in_8_bits_keeps_its_lanes_apart(tiny_folder: Path) -> None:
    """A lane's bits are the same alone and among others; blocks alone are changed, and images hardly."""
    spec = ModelSpec("m", str(tiny_folder), dtype="float32", max_sequence_length=0)
    dense, int8 = load_backbone(spec), load_backbone(replace(spec, linear="int8"))
    changed = [layer for layer in linears(vars(int8[0])) if layer.kind is not None]
    assert 0 < len(changed) < len(list(linears(vars(int8[0]))))
    engine = engine_of(int8)
    for key, width in (("mine", 96), ("a", 128), ("b", 160)):
        engine.add(request(key, width=width, height=96))
    mine = request("mine", width=96, height=96)
    found = latents(run(engine)["mine"])
    assert torch.equal(found, alone(int8, mine))
    exact = alone(dense, mine)
    assert 0 < float((found - exact).norm() / exact.norm()) < 0.05


def test_other_numbers_on_a_cpu_are_refused(tiny_folder: Path) -> None:
    """Before anything is served, with the key to change."""
    spec = ModelSpec("m", str(tiny_folder), dtype="bfloat16", max_sequence_length=0, linear="int8")
    with pytest.raises(CheckpointError, match="on a CPU `linear: int8` is for `dtype: float32`; this is bfloat16"):
        load_backbone(spec)
