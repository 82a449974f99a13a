"""The kernels' benchmark runs on this machine."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_benchmark_checks_and_times_every_op_on_a_cpu(tmp_path: Path) -> None:
    """It refuses to time what is wrong, so that its success says the results are right."""
    command = [sys.executable, "kernels/bench.py", "--device", "cpu", "--seconds", "0"]
    command += ["--json", str(tmp_path / "rows.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    ops = {"norm_modulate", "gated_residual", "qk_norm_rope", "lora_shrink", "lora_expand"}
    assert {row["op"] for row in rows} == ops
    assert all(row["op_us"] > 0 for row in rows)
