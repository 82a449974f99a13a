import os
from pathlib import Path

from loadgen.machine import busy_share, describe_commit, describe_machine, describe_versions, pin


def test_pin() -> None:
    """Pinning keeps this process on the first of the cores it may use."""
    before = os.sched_getaffinity(0)
    try:
        assert pin(1) == sorted(before)[:1]
        assert os.sched_getaffinity(0) == {min(before)}
    finally:
        os.sched_setaffinity(0, before)


def test_where_it_ran() -> None:
    """A measurement names its processor and the packages that decide its speed."""
    assert describe_machine()["cpu"]
    assert {"python", "torch", "diffusers"} <= set(describe_versions())


def test_no_commit(tmp_path: Path) -> None:
    """Outside a git repository the commit is unknown, not an error."""
    assert describe_commit(tmp_path) == "unknown"


def test_a_share_of_the_cores_is_busy() -> None:
    """How busy the machine is lies between nothing and all, whatever else it does."""
    assert 0.0 <= busy_share(0.05) <= 1.0
