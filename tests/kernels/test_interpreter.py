"""The Triton kernels on a CPU, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the kernels' own tests run in this process")
def test_the_interpreted_kernels_pass_their_tests() -> None:
    """All of ``tests/kernels/triton_kernels``, with TRITON_INTERPRET set before triton is imported.

    Slow: the interpreter runs the programs of a kernel one after the other, in a process that imports torch anew.
    """
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:schemathesis"]
    command += ["tests/kernels/triton_kernels"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
