"""The layers of the families' forward passes: what they compute, and each row for itself."""

from dataclasses import dataclass

import pytest
import torch
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding, Timesteps
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lego_kernels import Factors, Segments
from lego_serve.models.ragged.batch_invariant import LinearOps
from lego_serve.models.ragged.layers import (
    EmbeddingMlp,
    Linear,
    NumberEmbedding,
    Part,
    adaln_modulate,
    gated_residual,
    gelu_tanh,
    linears,
    name_layers,
    share_ops,
)
from lego_serve.models.ragged.lora_products import GroupedLora

ROWS = 70
DTYPES = [torch.float32, torch.bfloat16]


def rows_and_layer(inputs: int, outputs: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, Linear]:
    """Rows and a layer."""
    draw = torch.Generator().manual_seed(inputs)
    x, weight, bias = (torch.randn(shape, generator=draw) for shape in ((ROWS, inputs), (outputs, inputs), outputs))
    return x.to(dtype), Linear((weight * inputs**-0.5).to(dtype), bias.to(dtype))


def delta(layer: Linear, runs: list[tuple[int, int]]) -> GroupedLora:
    """A product of rank 4 that is added to these rows of a layer."""
    outputs, inputs = layer.weight.shape
    draw = torch.Generator().manual_seed(1)
    down, up = (torch.randn(shape, generator=draw).to(layer.weight) for shape in ((4, inputs), (outputs, 4)))
    segments = Segments(tuple((start, stop, 0) for start, stop in runs))
    return GroupedLora(Factors.down(down), segments, ((0, outputs, Factors.up(up, columns=(0,)), segments),))


@torch.no_grad()
def test_layers_side_by_side_compute_what_each_computes() -> None:
    """In their order; and it is known whose outputs lie where."""
    torch.manual_seed(0)
    block = torch.nn.ModuleDict({"q": torch.nn.Linear(8, 6), "k": torch.nn.Linear(8, 4)})
    name_layers(block, "transformer")
    unnamed = torch.nn.Linear(8, 2)
    layer, x = Linear.of(block["q"], unnamed, block["k"]), torch.randn(5, 8)
    torch.testing.assert_close(layer(x), torch.cat([block["q"](x), unnamed(x), block["k"](x)], dim=1))
    assert layer.parts == (Part("transformer.q", 0, 6), Part("transformer.k", 8, 12))


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, ROWS - 1), count=st.integers(1, ROWS), dtype=st.sampled_from(DTYPES))
def test_a_layer_gives_a_row_the_bits_it_gets_alone(start: int, count: int, dtype: torch.dtype) -> None:
    """With a GELU after it and without, and with something added to some rows or nothing."""
    x, layer = rows_and_layer(48, 192, dtype)
    stop = min(start + count, ROWS)
    for runs in (None, [(10, 40)]):
        layer.lora = None if runs is None else delta(layer, runs)
        plain, gelu = layer(x), layer.gelu(x)
        if runs is not None:
            overlap = max(start, 10) - start, min(stop, 40) - start
            layer.lora = delta(layer, [overlap] if overlap[0] < overlap[1] else [])
        assert torch.equal(layer(x[start:stop]), plain[start:stop])
        assert torch.equal(layer.gelu(x[start:stop]), gelu[start:stop])


def test_a_layer_without_gelu_in_one_pass_computes_both_in_turn() -> None:
    """As in float32."""
    x, layer = rows_and_layer(16, 64)
    assert torch.equal(layer.gelu(x), gelu_tanh(layer(x)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("runs", [[(0, 9)], [(4, 9), (30, 31)], [(0, ROWS)]])
def test_rows_with_adapters_leave_the_others_as_they_are(runs: list[tuple[int, int]], dtype: torch.dtype) -> None:
    """Bit for bit; and they get the bits they get alone."""
    x, layer = rows_and_layer(128, 512, dtype)
    plain = layer.gelu(x)
    layer.lora = delta(layer, runs)
    beside = layer.gelu(x)
    touched = torch.zeros(ROWS, dtype=torch.bool)
    for start, stop in runs:
        touched[start:stop] = True
        layer.lora = delta(layer, [(0, stop - start)])
        assert torch.equal(layer.gelu(x[start:stop]), beside[start:stop])
        assert not torch.equal(beside[start:stop], plain[start:stop])
    assert torch.equal(beside[~touched], plain[~touched])


@dataclass(frozen=True)
class Block:
    """Layers among other things."""

    first: Linear
    width: int
    second: Linear | None = None


def test_all_layers_of_a_model_share_its_products() -> None:
    """Those in blocks, lists, tuples and mappings of them; other models' are their own."""
    layers = [Linear(torch.zeros(1, 1), None) for _ in range(5)]
    model = {"blocks": [Block(layers[0], 3, layers[1]), Block(layers[2], 3)], "out": (layers[3], "a name"), "size": 4}
    assert list(map(id, linears(model))) == list(map(id, layers[:4]))
    ops = share_ops(model)
    assert all(layer.ops is ops for layer in layers[:4])
    assert layers[4].ops is not ops
    assert share_ops(model) is not ops


def test_a_layer_multiplies_with_its_models_products() -> None:
    """What adapters add to it too."""

    class Counting(LinearOps):
        """Notes the shapes of the products."""

        def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
            """As ever."""
            shapes.append(tuple(weight.shape))
            return super().linear(x, weight, bias)

        def add_linear(self, out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> None:
            """As ever."""
            shapes.append(tuple(weight.shape))
            super().add_linear(out, x, weight)

    shapes: list[tuple[int, ...]] = []
    x, layer = rows_and_layer(16, 64)
    layer.ops, layer.lora = Counting(), delta(layer, [(0, 9)])
    layer(x)
    assert shapes == [(64, 16), (4, 16), (64, 4)]


@torch.no_grad()
def test_embeddings_are_diffusers_own() -> None:
    """Of times and guidances, and of the pooled text; one number a branch."""
    torch.manual_seed(0)
    waves, embedding = Timesteps(32, True, 0), TimestepEmbedding(32, 48)
    text = PixArtAlphaTextProjection(24, 48, act_fn="silu")
    numbers = [0.25, 1.0, 3.5]
    expected = embedding(waves(torch.tensor(numbers) * 1000))
    torch.testing.assert_close(NumberEmbedding.of(waves, embedding)(numbers), expected)
    pooled = torch.randn(3, 24)
    torch.testing.assert_close(EmbeddingMlp.of(text)(pooled), text(pooled))


@given(row_branch=st.lists(st.integers(0, 2), min_size=1, max_size=9))
def test_each_row_is_modulated_and_gated_by_its_own_branch(row_branch: list[int]) -> None:
    """Wherever it lies among rows of others."""
    draw = torch.Generator().manual_seed(0)
    x, update = torch.randn(2, len(row_branch), 8, generator=draw)
    shift, scale, gate = torch.randn(3, 3, 8, generator=draw)
    index = torch.tensor(row_branch)
    modulated, gated = adaln_modulate(x, shift, scale, index), gated_residual(x, update, gate, index)
    for row, branch in enumerate(row_branch):
        normed = F.layer_norm(x[row], (8,), eps=1e-6)
        torch.testing.assert_close(modulated[row], normed * (1 + scale[branch]) + shift[branch])
        torch.testing.assert_close(gated[row], x[row] + gate[branch] * update[row])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_gelu_written_out_is_torchs_own_but_for_rounding(dtype: torch.dtype) -> None:
    """Over all numbers that occur, and far beyond."""
    x = torch.linspace(-40, 40, 4001).to(dtype)
    exact = F.gelu(x.double(), approximate="tanh")
    tolerance = 1e-6 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(gelu_tanh(x.clone()).double(), exact, atol=tolerance, rtol=tolerance)
