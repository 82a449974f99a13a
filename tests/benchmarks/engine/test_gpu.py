"""What is run where a GPU is lent: on this machine it says that there is none, and its parts run on the CPU."""

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.engine.__main__ import app
from benchmarks.engine.compute.gpu import SHARES, Peaks, gpu_report, measure_gpu
from benchmarks.engine.models import build
from benchmarks.engine.timing import Patience


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    """And measures nothing; without a command it names both ways."""
    refused = CliRunner().invoke(app, ["--gpu"])
    assert refused.exit_code == 2
    assert "no GPU" in refused.output


@pytest.mark.parametrize("name", ["tiny", "tiny-flux"])
def test_every_share_is_measured_until_the_time_is_over(name: str) -> None:
    """Whole steps beside diffusers', masked ones alone; the floor falls with the rows."""
    subject, now = build(name, torch.device("cpu"), "float32"), iter(range(10))
    peaks = Peaks(1e9, 1e12)
    found = list(
        measure_gpu(
            subject, [6], [1, 2], Patience(2, 0.0), ends_s=4.0, peaks=peaks, is_compiled=False, clock=lambda: next(now)
        )
    )
    assert [(row.share, row.lanes) for row in found] == [*((share, 1) for share in SHARES), (1.0, 2)]
    assert [row.eager_s is None for row in found] == [False, True, True, False]
    floors = [row.floor_s for row in found[:3]]
    assert floors == sorted(floors, reverse=True)  # type: ignore[type-var]
    assert "over before" in gpu_report(found, is_complete=False).markdown()


def test_a_floor_is_of_products_or_of_memory() -> None:
    """Few rows wait for the weights, many for the products; the names of devices are those that CUDA says."""
    peaks = Peaks.of("NVIDIA H200")
    assert peaks == Peaks(989e12, 4.8e12)
    assert peaks.floor_s(10**9, 2, 1, 1, 64) == pytest.approx(2e9 / 4.8e12)
    assert peaks.floor_s(10**9, 2, 10_000, 10**6, 64) == pytest.approx((2e13 + 256e6) / 989e12)
    assert Peaks.of("a toaster") is None
