"""The benchmark of the stores of jobs, in its quick form."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.jobstore.redis_server import RedisServer


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_the_quick_form_empties_each_store(request: pytest.FixtureRequest, tmp_path: Path, store: str) -> None:
    """And says how many jobs a second that were, one at a time and several."""
    if store == "redis":
        RedisServer.find_program()
    numbers = tmp_path / "numbers.json"
    command = [sys.executable, "-m", "benchmarks.jobstore", "--quick", "--store", store, "--processes", "2"]
    done = subprocess.run(
        [*command, "--json", str(numbers)], capture_output=True, text=True, cwd=request.config.rootpath, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(numbers.read_text())
    assert [(row["claimed_at_once"], row["processes"], row["jobs"]) for row in rows] == [(1, 2, 640), (8, 2, 640)]
    assert all(0 < row["claim_p50_ms"] <= row["claim_p99_ms"] <= row["claim_longest_ms"] for row in rows)
    assert "claimed and completed/s" in done.stdout
