"""Residuals in closed form: the best of their rank, as far as the rows say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_kernels.sparse24 import sparse24_rows
from lego_serve.models.ragged.linear_kinds.sparse24_rows import Residual
from lego_serve.tuning.sparse24.low_rank import Moments, fit, fitted

ROWS, INPUTS, OUTPUTS = 300, 24, 16


def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows whose numbers depend on each other, and a weight."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(INPUTS, INPUTS, generator=draw) * torch.logspace(0, -2, INPUTS)
    return torch.randn(ROWS, INPUTS, generator=draw) @ mix, torch.randn(OUTPUTS, INPUTS, generator=draw)


def moments_of(x: torch.Tensor, weight: torch.Tensor, parts: int = 1) -> Moments:
    """Those of rows that come in parts."""
    moments = Moments.of(weight)
    for part in x.chunk(parts):
        moments.add(part, weight)
    return moments


def error_of(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """E, plainly."""
    kept = sparse24_rows(x).double()
    scale = (x.double().norm(dim=1) / kept.norm(dim=1))[:, None]
    return (x.double() - scale * kept) @ weight.double().T


def left(x: torch.Tensor, weight: torch.Tensor, residual: Residual) -> float:
    """What of E a residual leaves, over the product's size."""
    rest = error_of(x, weight) - x.double() @ residual.a.double() @ residual.b.double()
    return float(rest.norm() / (x.double() @ weight.double().T).norm())


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 99), rank=st.integers(1, OUTPUTS), parts=st.integers(1, 4))
def test_no_other_residual_of_the_rank_leaves_less(seed: int, rank: int, parts: int) -> None:
    """Eckart and Young's bound: least squares' fit, truncated; and what it is said to leave is what it leaves."""
    x, weight = drawn(seed)
    moments = moments_of(x, weight, parts)
    found = fitted(moments, rank, 1e-12)
    assert found.a.shape == (INPUTS, rank)
    assert found.b.shape == (rank, OUTPUTS)
    error, product = error_of(x, weight), (x.double() @ weight.double().T).norm()
    fit_of_all = x.double() @ torch.linalg.lstsq(x.double(), error).solution
    truncated = (fit_of_all - error).square().sum() + torch.linalg.svdvals(fit_of_all)[rank:].square().sum()
    assert left(x, weight, found) == pytest.approx(float(truncated.sqrt() / product), rel=1e-4)
    assert moments.left(found) == pytest.approx(left(x, weight, found), rel=1e-4)
    assert moments.left(Residual(found.a * 0, found.b)) == pytest.approx(float(error.norm() / product), rel=1e-4)


def test_more_rank_leaves_less_and_both_factors_are_of_one_size() -> None:
    """So that both learn at a like pace."""
    x, weight = drawn(1)
    moments = moments_of(x, weight)
    found = [fitted(moments, rank, 1e-5) for rank in (1, 2, 4, 8, 16)]
    errors = [moments.left(each) for each in found]
    assert errors == sorted(errors, reverse=True)
    assert len(set(errors)) == len(errors)
    for each in found:
        torch.testing.assert_close(each.a.norm(dim=0), each.b.norm(dim=1))


def test_a_fit_to_few_rows_does_not_harm_others() -> None:
    """Where least squares would: the ridge is chosen by those."""
    x, weight = drawn(3)
    some, others = moments_of(x[:26], weight), moments_of(x[26:], weight)
    assert others.left(fitted(some, 8, 1e-12)) > (others.error / others.product) ** 0.5
    assert (found := fit(some, others, 8)).error <= found.without * (1 + 1e-6)


def test_rows_that_lose_nothing_need_no_residual() -> None:
    """Numbers in pairs of zeros, and rows of zeros: no number is infinite or none."""
    x, weight = drawn(2)
    x[:, ::2] = 0
    for rows in (x, torch.zeros_like(x)):
        moments = moments_of(rows, weight)
        found = fit(moments, moments, 4)
        assert found.error == pytest.approx(0, abs=1e-3)
        assert bool(found.residual.a.isfinite().all())
        assert bool(found.residual.b.isfinite().all())
        assert float((rows @ found.residual.a @ found.residual.b).abs().max()) < 1e-3
