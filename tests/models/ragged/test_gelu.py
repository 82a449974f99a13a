"""A linear layer and its GELU in one pass: the same but for rounding, and each row for itself."""

import pytest
import torch
from torch.nn import functional as F

from lego_kernels import Factors, Segments
from lego_serve.models.ragged import batch_invariant
from lego_serve.models.ragged.batch_invariant import linear_gelu
from lego_serve.models.ragged.layers import Linear, gelu_tanh
from lego_serve.models.ragged.lora_products import GroupedLora

FUSED = pytest.mark.skipif(not batch_invariant.fuses_gelu(), reason="this CPU does not multiply bf16")
ROWS = 70


def layer(inputs: int, outputs: int) -> tuple[torch.Tensor, Linear]:
    """Rows and a layer in bf16."""
    draw = torch.Generator().manual_seed(inputs)
    x, weight, bias = (torch.randn(shape, generator=draw) for shape in ((ROWS, inputs), (outputs, inputs), outputs))
    return x.bfloat16(), Linear((weight * inputs**-0.5).bfloat16(), bias.bfloat16())


def added(inputs: int, outputs: int, runs: list[tuple[int, int]]) -> GroupedLora:
    """A product of rank 4 that is added to these rows."""
    draw = torch.Generator().manual_seed(1)
    down, up = (torch.randn(shape, generator=draw).bfloat16() for shape in ((4, inputs), (outputs, 4)))
    segments = Segments(tuple((start, stop, 0) for start, stop in runs))
    return GroupedLora(Factors.down(down), segments, ((0, outputs, Factors.up(up, columns=(0,)), segments),))


@FUSED
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 64), (128, 512), (768, 200), (1536, 64)])
def test_a_row_gets_the_bits_it_gets_alone(inputs: int, outputs: int) -> None:
    """However many rows there are, and wherever they lie; close to what float64 says."""
    x, of = layer(inputs, outputs)
    whole = linear_gelu(x, of.weight, of.bias)
    if whole is None:
        assert batch_invariant.stable_rows_gelu(inputs, outputs, True) is None
        return
    assert of.bias is not None
    exact = F.gelu(F.linear(x.double(), of.weight.double(), of.bias.double()), approximate="tanh")
    torch.testing.assert_close(whole.double(), exact, atol=1e-3, rtol=2**-7)
    for start, stop in ((0, 1), (3, 5), (69, 70), (10, 43)):
        part = linear_gelu(x[start:stop], of.weight, of.bias)
        assert part is not None
        assert torch.equal(part, whole[start:stop])


def test_there_is_no_one_pass_where_it_does_not_pay() -> None:
    """Not in float32: the layer then does both in turn."""
    x, of = layer(16, 64)
    assert of.bias is not None
    wide = Linear(of.weight.float(), of.bias.float())
    assert linear_gelu(x.float(), wide.weight, wide.bias) is None
    assert torch.equal(wide.gelu(x.float()), gelu_tanh(F.linear(x.float(), wide.weight, wide.bias)))


@pytest.mark.parametrize("runs", [[(0, 9)], [(4, 9), (30, 31)], [(0, ROWS)]])
def test_rows_with_adapters_leave_the_others_as_they_are(runs: list[tuple[int, int]]) -> None:
    """Bit for bit; and they get the bits they get alone."""
    x, of = layer(128, 512)
    plain = of.gelu(x)
    of.added = added(128, 512, runs)
    beside = of.gelu(x)
    touched = torch.zeros(ROWS, dtype=torch.bool)
    for start, stop in runs:
        touched[start:stop] = True
        of.added = added(128, 512, [(0, stop - start)])
        assert torch.equal(of.gelu(x[start:stop]), beside[start:stop])
        assert not torch.equal(beside[start:stop], plain[start:stop])
    assert torch.equal(beside[~touched], plain[~touched])
