import itertools
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import serving


def test_memory_of_a_tree() -> None:
    """A process is weighed together with what it started, each in bytes."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        sizes = serving.memory_bytes(os.getpid())
        child.communicate(b"\n")
    assert child.pid in sizes
    assert sizes[os.getpid()] > 2**20


def test_memory_of_nothing() -> None:
    """A process that is gone weighs nothing."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert serving.memory_bytes(child.pid) == {}


def test_prompts_never_repeat() -> None:
    """No prompt or pair comes twice, so that no cache shortens what is timed."""
    drawn = list(itertools.islice(serving._prompts(), 100))
    assert len(set(drawn)) == len({prompt for prompt, _ in drawn}) == len(drawn) == 100


def test_a_checkout_is_served_by_its_own_entry_point(tmp_path: Path) -> None:
    """Wherever a version keeps its command line."""
    (tmp_path / "pyproject.toml").write_text('[project.scripts]\nlego-serve = "lego_serve.cli:run"\n')
    code = "from lego_serve.cli import run; run()"
    assert serving.serve_command(tmp_path) == [sys.executable, "-P", "-c", code]
