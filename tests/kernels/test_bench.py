"""The kernels' benchmark runs on this machine."""

import json
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_benchmark_checks_and_times_every_op_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses to time what is wrong, so that its success says the results are right."""
    words = ["--device", "cpu", "--seconds", "0", "--json", str(tmp_path / "rows.json")]
    monkeypatch.setattr(sys, "argv", ["kernels/bench.py", *words])
    runpy.run_path(str(ROOT / "kernels" / "bench.py"), run_name="__main__")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    ops = {"norm_modulate", "gated_residual", "residual_norm_modulate", "qk_norm_rope", "lora_shrink", "lora_expand"}
    ops |= {"int8_rows", "sparse24", "gather_rows", "scatter_rows"}
    assert {row["op"] for row in rows} == ops
    assert all(row["op_us"] > 0 for row in rows)
