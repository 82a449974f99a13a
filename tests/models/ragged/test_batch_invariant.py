"""Products whose rows have the same bits in any batch, and the same but for rounding as float64 computes."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lego_serve.models.ragged import batch_invariant
from lego_serve.models.ragged.batch_invariant import LinearOps, fuses_gelu, stable_rows, stable_rows_gelu

ROWS = 300  # over a block
SHAPES = [(16, 64), (48, 64), (48, 192), (256, 40)]
DTYPES = [torch.float32, torch.bfloat16]
SLICES = [(0, 1), (3, 5), (69, 70), (10, 43), (43, 300), (299, 300)]
fused_only = pytest.mark.skipif(not fuses_gelu(), reason="this CPU does not multiply bf16")

Layer = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def layer(inputs: int, outputs: int, dtype: torch.dtype) -> Layer:
    """Rows, a weight and a bias."""
    draw = torch.Generator().manual_seed(inputs)
    x, weight, bias = (torch.randn(shape, generator=draw) for shape in ((ROWS, inputs), (outputs, inputs), (outputs,)))
    return x.to(dtype), (weight * inputs**-0.5).to(dtype), bias.to(dtype)


@settings(max_examples=60, deadline=None)
@given(shape=st.sampled_from(SHAPES), dtype=st.sampled_from(DTYPES), has_bias=st.booleans(), data=st.data())
def test_a_row_of_a_linear_layer_has_the_same_bits_in_any_batch(
    shape: tuple[int, int], dtype: torch.dtype, has_bias: bool, data: st.DataObject
) -> None:
    """However many rows there are, and wherever they lie."""
    x, weight, bias = layer(*shape, dtype)
    start = data.draw(st.integers(0, ROWS - 1))
    stop = data.draw(st.integers(start + 1, ROWS))
    ops, used_bias = LinearOps(), bias if has_bias else None
    assert torch.equal(ops.linear(x[start:stop], weight, used_bias), ops.linear(x, weight, used_bias)[start:stop])


@pytest.mark.parametrize("fewest", [None, 1, 64, 256], ids=["blocks", "as they are", "padded to 64", "padded to 256"])
def test_padding_and_blocks_change_a_product_by_rounding_alone(
    fewest: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the probe finds: each row's result, and no row more."""
    monkeypatch.setattr(batch_invariant, "stable_rows", lambda *_: fewest)
    x, weight, bias = layer(48, 64, torch.float32)
    for rows in (1, 7, 256, 257, ROWS):
        out = LinearOps().linear(x[:rows], weight, bias)
        exact = F.linear(x[:rows].double(), weight.double(), bias.double())
        torch.testing.assert_close(out.double(), exact, atol=1e-5, rtol=1e-5)


def test_blocks_give_a_row_the_same_bits_in_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no number of rows is enough: a row that starts a batch lies elsewhere in its block than one amid it."""
    monkeypatch.setattr(batch_invariant, "stable_rows", lambda *_: None)
    x, weight, bias = layer(48, 64, torch.float32)
    whole = LinearOps().linear(x, weight, bias)
    for start, stop in SLICES:
        assert torch.equal(LinearOps().linear(x[start:stop], weight, bias), whole[start:stop])


def test_a_plain_product_is_seen_through_by_the_probe() -> None:
    """Where the probe asks for padding, fewer rows without it do change bits (or one row suffices)."""
    fewest = stable_rows(48, 64, torch.float32, "cpu", True)
    assert fewest is None or fewest >= 1
    if fewest is not None and fewest > 1:
        x, weight, bias = layer(48, 64, torch.float32)
        few = [F.linear(x[row : row + 1], weight, bias) for row in range(ROWS)]
        assert not torch.equal(torch.cat(few), F.linear(x, weight, bias))


@pytest.mark.parametrize("unstable", [0, 3, 64, 511])
def test_the_probe_finds_the_fewest_rows_of_a_product_that_is_unstable_below(unstable: int) -> None:
    """A product that adds a bit where there are at most so many rows; None where there are too many."""
    x = torch.zeros(batch_invariant.MAX_PROBE_ROWS, 1)

    def product(start: int, stop: int) -> torch.Tensor:
        return x[start:stop] + (stop - start <= unstable)

    expected = {0: 1, 3: 4, 64: 128, 511: None}[unstable]
    assert batch_invariant._fewest_stable(product) == expected


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_another_order_of_a_sum_shows_in_what_the_probe_draws(inputs: int, outputs: int) -> None:
    """Also where it is rounded to 16 bits, which hides it from nearly all numbers that are drawn at random."""
    x, weight, _ = batch_invariant._sample_layer(inputs, outputs, torch.bfloat16, "cpu", False)
    terms = x[:8, None].float() * weight.float()
    forwards, backwards = torch.zeros(8, outputs), torch.zeros(8, outputs)
    for index in range(inputs):
        forwards += terms[..., index]
        backwards += terms[..., inputs - 1 - index]
    differing = forwards.bfloat16() != backwards.bfloat16()
    assert differing.float().mean() > 0.05


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("has_bias", [True, False])
def test_every_single_row_and_few_rows_have_the_bits_they_have_among_all(
    inputs: int, outputs: int, has_bias: bool, dtype: torch.dtype
) -> None:
    """Each of three hundred rows, by itself and with up to four others."""
    x, weight, bias = layer(inputs, outputs, dtype)
    ops, used_bias = LinearOps(), bias if has_bias else None
    whole = ops.linear(x, weight, used_bias)
    for rows in range(1, 6):
        for start in range(ROWS - rows + 1):
            part = ops.linear(x[start : start + rows], weight, used_bias)
            assert torch.equal(part, whole[start : start + rows]), (start, rows)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_a_row_that_is_added_to_has_the_same_bits_in_any_batch(inputs: int, outputs: int, dtype: torch.dtype) -> None:
    """However many rows there are, and wherever they lie; columns beside it are left alone."""
    x, weight, _ = layer(inputs, outputs, dtype)
    before = torch.randn(ROWS, 3 * outputs, generator=torch.Generator().manual_seed(1)).to(dtype)
    columns = slice(outputs, 2 * outputs)
    whole = before.clone()
    LinearOps().add_linear(whole[:, columns], x, weight)
    tolerance = 1e-4 if dtype == torch.float32 else 0.1  # one rounding here, two there
    torch.testing.assert_close(whole[:, columns], before[:, columns] + x @ weight.T, atol=tolerance, rtol=tolerance)
    assert torch.equal(whole[:, :outputs], before[:, :outputs])
    for start, stop in SLICES:
        part = before[start:stop].clone()
        LinearOps().add_linear(part[:, columns], x[start:stop], weight)
        assert torch.equal(part, whole[start:stop])


@pytest.mark.parametrize("fewest", [None, 64])
def test_what_is_added_in_blocks_or_padded_is_the_same_but_for_rounding(
    fewest: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is left of the rows that padded it."""
    monkeypatch.setattr(batch_invariant, "stable_rows_added", lambda *_: fewest)
    x, weight, _ = layer(48, 64, torch.float32)
    out = torch.ones(7, 64)
    LinearOps().add_linear(out, x[:7], weight)
    torch.testing.assert_close(out, 1 + x[:7] @ weight.T, atol=1e-4, rtol=1e-4)


@fused_only
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 64), (128, 512), (768, 200), (1536, 64)])
def test_a_row_of_a_layer_and_its_gelu_has_the_same_bits_in_any_batch(inputs: int, outputs: int) -> None:
    """However many rows there are, and wherever they lie; close to what float64 computes."""
    x, weight, bias = layer(inputs, outputs, torch.bfloat16)
    whole = LinearOps().linear_gelu(x, weight, bias)
    if whole is None:
        assert stable_rows_gelu(inputs, outputs, True) is None
        return
    exact = F.gelu(F.linear(x.double(), weight.double(), bias.double()), approximate="tanh")
    torch.testing.assert_close(whole.double(), exact, atol=1e-3, rtol=2**-7)
    for start, stop in SLICES:
        part = LinearOps().linear_gelu(x[start:stop], weight, bias)
        assert part is not None
        assert torch.equal(part, whole[start:stop])


def test_there_is_no_gelu_in_one_pass_in_float32() -> None:
    """It does not pay there."""
    assert LinearOps().linear_gelu(*layer(16, 64, torch.float32)) is None


def products_of(ops: LinearOps, tensors: Layer) -> list[Callable[[], object]]:
    """Calls of the three products."""
    x, weight, bias = tensors
    out = torch.zeros(len(x), len(weight), dtype=x.dtype)
    return [
        lambda: ops.linear(x, weight, bias),
        lambda: ops.linear_gelu(x, weight, bias),
        lambda: ops.add_linear(out, x, weight),
    ]


class Probed(Exception):
    """A product asked how many rows it needs."""


@pytest.mark.parametrize("index", range(3), ids=["linear", "linear_gelu", "add_linear"])
def test_the_rule_is_dropped_for_one_model_alone(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its products ask for no number of rows any more; those of another in the process still do."""

    def probe(*_: object) -> int:
        raise Probed

    monkeypatch.setattr(batch_invariant, "fuses_gelu", lambda: True)
    monkeypatch.setattr(batch_invariant, "_fused_gelu", F.linear)
    for name in ("stable_rows", "stable_rows_gelu", "stable_rows_added"):
        monkeypatch.setattr(batch_invariant, name, probe)
    tensors = layer(16, 64, torch.bfloat16)
    dropped, other = LinearOps(), LinearOps()
    dropped.batch_invariant = False
    products_of(dropped, tensors)[index]()
    with pytest.raises(Probed):
        products_of(other, tensors)[index]()
