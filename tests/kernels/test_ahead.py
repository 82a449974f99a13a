"""What the kernels take of a GPU that is not here."""

import os
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ahead() -> dict[str, Any]:
    """The script's names."""
    return runpy.run_path(str(ROOT / "kernels" / "ahead.py"))


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled in this process")
def test_no_kernel_spills_registers_on_hopper(
    ahead: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the widths of SD3.5 medium, and at least a sixth of a multiprocessor's warps fit at once."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    cases = [case for case in ahead["cases"]() if case.shape.startswith("SD3.5")]
    assert {case.op for case in cases} == {
        "norm_modulate",
        "gated_residual",
        "qk_norm_rope",
        "lora_shrink",
        "lora_expand",
        "residual_norm_modulate",
        "int8_rows",
        "sparse24",
        "gather_rows",
        "scatter_rows",
    }
    for case in cases:
        found = ahead["compile_ahead"](case)
        assert found.spilled == 0, case
        assert found.registers <= 255
        assert found.resident_warps(case.warps) >= 64 // 6, case


def test_warps_fit_by_registers_warps_and_programs(ahead: dict[str, Any]) -> None:
    """Registers are allocated in eights a thread, and a program stays whole."""
    resources = ahead["Resources"]
    assert resources(64, 0, 0).resident_warps(4) == 32
    assert resources(57, 0, 0).resident_warps(4) == 32
    assert resources(16, 0, 0).resident_warps(4) == 64
    assert resources(16, 0, 0).resident_warps(1) == 32
