"""Layers over activations in 2:4: what they compute, that rows do not depend on each other, and what they refuse."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lego_kernels import reference
from lego_kernels.sparse24 import sparse24_unpack
from lego_serve.errors import CheckpointError
from lego_serve.models.loading import load_backbone
from lego_serve.models.ragged.batch_invariant import LinearOps
from lego_serve.models.ragged.layers import block_layers
from lego_serve.models.ragged.linear_kinds.sparse24_rows import Residual, Sparse24Rows, use_sparse24_rows
from lego_serve.models.registry import ModelSpec
from tests.support.engine.engines import alone, engine_of, latents, request, run
from tests.support.engine.residuals import residuals_of

INPUTS, OUTPUTS, ROWS, RANK = 96, 80, 40, 5


def drawn(seed: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Residual]:
    """Rows of very different sizes, a weight, a bias and a residual."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(ROWS, INPUTS, generator=draw) * torch.logspace(-3, 4, ROWS)[:, None]
    weight, bias = torch.randn(OUTPUTS, INPUTS, generator=draw), torch.randn(OUTPUTS, generator=draw)
    residual = Residual(torch.randn(INPUTS, RANK, generator=draw) / 9, torch.randn(RANK, OUTPUTS, generator=draw) / 9)
    return rows.to(dtype), weight.to(dtype), bias.to(dtype), residual


@given(seed=st.integers(0, 99), dtype=st.sampled_from([torch.float32, torch.bfloat16]), rows=st.integers(0, ROWS))
def test_products_are_those_of_the_formula(seed: int, dtype: torch.dtype, rows: int) -> None:
    """In double precision, of any number of rows; within what the dtype rounds to."""
    x, weight, bias, residual = drawn(seed, dtype)
    x = x[:rows]
    out = Sparse24Rows.of(weight, residual, LinearOps())(x, bias)
    kept = sparse24_unpack(*reference.sparse24(x)).double()
    scale = ((x.double() ** 2).sum(dim=1) / ((kept**2).sum(dim=1) + 1e-8)).sqrt()
    a, b = (part.to(dtype).double() for part in (residual.a, residual.b))
    expected = scale[:, None] * (kept @ weight.double().T) + x.double() @ a @ b + bias.double()
    assert out.dtype == dtype
    sizes = x.double().norm(dim=1, keepdim=True) + 1
    close = 1e-5 if dtype == torch.float32 else 0.05
    assert bool(((out.double() - expected).abs() <= close * weight.double().norm(dim=1).max() * sizes).all())


@given(st.data())
def test_a_row_does_not_depend_on_its_mates(data: st.DataObject) -> None:
    """Bit for bit, in any part of a batch, beside rows that are a million times larger."""
    x, weight, bias, residual = drawn(
        data.draw(st.integers(0, 9)), data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    )
    layer = Sparse24Rows.of(weight, residual, LinearOps())
    start = data.draw(st.integers(0, ROWS - 1))
    stop = data.draw(st.integers(start + 1, ROWS))
    assert torch.equal(layer(x[start:stop].clone(), bias), layer(x, bias)[start:stop])


def test_a_row_that_is_no_number_spoils_itself_alone() -> None:
    """Though it is among what is kept."""
    x, weight, bias, residual = drawn(0, torch.float32)
    layer = Sparse24Rows.of(weight, residual, LinearOps())
    expected = layer(x, bias)
    x[3, 7] = torch.nan
    found = layer(x, bias)
    assert bool(found[3].isnan().all())
    assert torch.equal(found[4:], expected[4:])


def test_zeros_stay_zeros_and_rows_that_are_sparse_anyway_are_exact() -> None:
    """A row of nothing has no norm to give back; one of two numbers in four loses none."""
    x, weight, bias, residual = drawn(0, torch.float32)
    nothing = Residual(torch.zeros_like(residual.a), residual.b)
    layer = Sparse24Rows.of(weight, nothing, LinearOps())
    assert torch.equal(layer(torch.zeros(3, INPUTS), None), torch.zeros(3, OUTPUTS))
    x[:, ::2] = 0
    torch.testing.assert_close(layer(x[9:], bias), x[9:] @ weight.T + bias)


@pytest.mark.parametrize(
    ("weight", "residual", "message"),
    [
        (torch.ones(8, 6), Residual(torch.ones(6, 2), torch.ones(2, 8)), r"\[8, 6\], float32, has no .* in 4s"),
        (torch.ones(8, 4).double(), Residual(torch.ones(4, 2), torch.ones(2, 8)), r"\[8, 4\], float64, has no rows"),
        (torch.ones(8, 4), Residual(torch.ones(4, 2), torch.ones(2, 9)), r"\[4, 2\] and \[2, 9\] does not fit"),
        (torch.ones(8, 4), Residual(torch.ones(4, 3), torch.ones(2, 8)), r"\[4, 3\] and \[2, 8\] does not fit"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(weight: torch.Tensor, residual: Residual, message: str) -> None:
    """With its shapes."""
    with pytest.raises(ValueError, match=message):
        Sparse24Rows.of(weight, residual, LinearOps())


def test_a_model_with_sparse_layers_keeps_its_lanes_apart(tiny_folder: Path) -> None:
    """A lane's bits are the same alone and among others; the layers that are named are changed, and no other."""
    spec = ModelSpec("m", str(tiny_folder), dtype="float32", max_sequence_length=0)
    dense, sparse = load_backbone(spec), load_backbone(spec)
    layers = block_layers(vars(sparse[0]))
    use_sparse24_rows(sparse[0], "m", residuals_of(sparse[0], "net.2"))
    assert [path for path, layer in layers.items() if layer.kind is not None] == [p for p in layers if "net.2" in p]
    engine = engine_of(sparse)
    for key, width in (("mine", 96), ("a", 128), ("b", 160)):
        engine.add(request(key, width=width, height=96))
    mine = request("mine", width=96, height=96)
    found = latents(run(engine)["mine"])
    assert torch.equal(found, alone(sparse, mine))
    assert not torch.equal(found, alone(dense, mine))


def test_a_layer_that_the_model_does_not_have_is_refused(tiny_folder: Path) -> None:
    """As one is whose shapes do not fit; the message names the model and the layer."""
    backbone, _ = load_backbone(ModelSpec("m", str(tiny_folder), dtype="float32", max_sequence_length=0))
    residual, first = Residual(torch.ones(4, 2), torch.ones(2, 8)), next(iter(block_layers(vars(backbone))))
    with pytest.raises(CheckpointError, match=r"model m: `linear: sparse24` is to be for transformer\.x, no layer"):
        use_sparse24_rows(backbone, "m", {"transformer.x": residual})
    with pytest.raises(CheckpointError, match=rf"model m: `linear: sparse24` cannot be had for {first}: .* \[4, 2\]"):
        use_sparse24_rows(backbone, "m", {first: residual})
