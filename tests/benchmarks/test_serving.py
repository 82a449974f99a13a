import itertools
import os
import subprocess
import sys

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
