"""What is run where a GPU is lent: on this machine it says that there is none, and its parts run on the CPU."""

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.engine.compute.gpu import SHARES, GpuRow, Peaks, Skipped, gpu_report, measure_gpu
from benchmarks.engine.compute.gpu_command import run_on_gpu
from benchmarks.engine.models import build
from benchmarks.engine.timing import Patience, Quartiles
from lego_serve.models.ragged.lane_input import LaneInput

ROOT = Path(__file__).parents[3]
MISSING = ("typer", "rich", "scipy", "ray", "fastapi", "pydantic")  # PIL comes with diffusers
SCRIPT = """
import sys
for name in {missing}:
    sys.modules[name] = None
from benchmarks.engine.compute import gpu_command
sys.path.append(str(gpu_command.KERNELS))
import torch
from benchmarks.engine import __main__, checks
from benchmarks.engine.compute.gpu import measure_gpu
from benchmarks.engine.models import build
from benchmarks.engine.timing import Patience
subject = build("tiny", torch.device("cpu"), "float32")
checks.checked(subject, batch_invariant=False)
for row in measure_gpu(subject, [6], [1], Patience(2, 0.0), ends_s=float("inf"), is_compiled=False):
    print(row.text())
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    """And measures nothing."""
    assert run_on_gpu([]) == 2
    assert "no GPU" in capfd.readouterr().err


def test_it_needs_no_library_that_a_gpu_machine_lacks(tmp_path: Path) -> None:
    """All that is run there is imported from a plain checkout where these cannot be, and one model is measured."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(missing=MISSING))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=env, timeout=300)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("| tiny | 96 x 96 | 1.00 | 1 |")


@pytest.mark.parametrize("name", ["tiny", "tiny-flux"])
def test_every_share_is_measured_until_the_time_is_over(name: str) -> None:
    """Whole steps beside diffusers', masked ones alone; the floor falls with the rows, and what is left out is said."""
    subject, now = build(name, torch.device("cpu"), "float32"), iter(range(10))
    peaks = Peaks(1e9, 1e12)
    *rows, left = measure_gpu(
        subject, [6], [1, 2], Patience(2, 0.0), ends_s=4.0, peaks=peaks, is_compiled=False, clock=lambda: next(now)
    )
    found = [row for row in rows if isinstance(row, GpuRow)]
    assert [(row.share, row.lanes) for row in found] == [*((share, 1) for share in SHARES), (1.0, 2)]
    assert [row.eager_s is None for row in found] == [False, True, True, False]
    floors = [row.floor_s for row in found]
    assert floors[:3] == sorted(floors[:3], reverse=True)  # type: ignore[type-var]
    assert isinstance(left, Skipped)
    assert "2 cases: not measured: the time is over" in gpu_report([*rows, left]).markdown()


def test_a_case_that_fails_costs_the_others_nothing() -> None:
    """Such as one that is too large for the device's memory: it is said why, and the next is measured."""
    subject = build("tiny", torch.device("cpu"), "float32")
    velocity = type(subject.backbone).velocity

    def short_of_memory(backbone: Any, lanes: Sequence[LaneInput], *rest: Any) -> Any:
        if len(lanes) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")
        return velocity(backbone, lanes, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(subject.backbone), "velocity", short_of_memory)
        found = list(measure_gpu(subject, [6], [3, 1], Patience(2, 0.0), ends_s=math.inf, is_compiled=False))
    assert [isinstance(each, Skipped) for each in found] == [True] * 3 + [False] * 3
    assert found[0].text().endswith("3 lanes: not measured: OutOfMemoryError: CUDA out of memory.")


def test_rows_are_in_the_files_as_soon_as_they_are_measured() -> None:
    """The later row of a case, which has the compiled twin too, takes the place of the one before."""
    time = Quartiles(1.0, 0.9, 1.1)
    row = GpuRow("m", 512, 1.0, 8, time, time, None, None)
    assert gpu_report([row, replace(row, compiled_s=time)]).records == [replace(row, compiled_s=time)]


def test_a_floor_is_of_products_or_of_memory() -> None:
    """Few rows wait for the weights, many for the products; the names of devices are those that CUDA says."""
    peaks = Peaks.of("NVIDIA H200")
    assert peaks == Peaks(989e12, 4.8e12)
    assert peaks.floor_s(10**9, 2, 1, 1, 64) == pytest.approx(2e9 / 4.8e12)
    assert peaks.floor_s(10**9, 2, 10_000, 10**6, 64) == pytest.approx((2e13 + 256e6) / 989e12)
    assert Peaks.of("a toaster") is None
