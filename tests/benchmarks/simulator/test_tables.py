"""The tables of the simulated cluster."""

from pathlib import Path

import pytest

from benchmarks.simulator.loads import artifact, gpus_needed, highest_rate, pattern, random_load
from benchmarks.simulator.recorded import replay
from benchmarks.simulator.scale import speed
from benchmarks.simulator.tables import Kept, Result, verdict
from benchmarks.simulator.traces import diflow_requests, gentd_days
from lego_serve.errors import ConfigError

SETTING = artifact()


def test_a_table_is_markdown_with_its_verdicts() -> None:
    """Head, rows, and whether targets are met."""
    found = Result("T", "words", ["a", "b"], [[1, 2]], [verdict("x", 1.0, 2.0), verdict("y", 1.0, 2.0, at_most=True)])
    text = found.markdown()
    assert "| a | b |\n|---|---|\n| 1 | 2 |" in text
    assert "x: 1.00, the target is at least 2: NOT met" in text
    assert "y: 1.00, the target is at most 2: met" in text


def test_numbers_are_kept_for_the_same_code(tmp_path: Path) -> None:
    """A key is computed once in a folder, and each time without one."""
    calls: list[int] = []
    for _ in range(2):
        assert Kept(tmp_path)("key", lambda value: calls.append(value) or [value], 3) == [3]
    assert calls == [3]
    assert Kept(None)("key", lambda: 4) == 4


def test_a_wrong_line_of_a_published_trace_is_named(tmp_path: Path) -> None:
    """File and line."""
    path = tmp_path / "trace.txt"
    for text in ("A 1.0\nZ 1.0", "A 1.0\nA x", "A 1.0\nA"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"trace\.txt:2: "):
            diflow_requests(SETTING, path)


def test_days_begin_at_noon(tmp_path: Path) -> None:
    """A request after midnight belongs to the evening before; failed ones are left out."""
    path = tmp_path / "log.csv"
    path.write_text(
        "gmt_create,predict_status,exec_time_seconds,checkpoint_model_version_id\n"
        "2024-12-03 13:00:00,SUCCEED,32.0,M1\n2024-12-04 01:00:00,SUCCEED,8,M2\n2024-12-03 14:00:00,FAILED,9,M3\n"
    )
    assert list(gentd_days(path, 1)) == [(3600.0, "M1", 32.0), (46800.0, "M2", 8.0)]


def test_replayed_steps_take_what_the_profile_says() -> None:
    """Between two points by a straight line."""
    assert replay([(1, 1.0), (2, 1.5), (4, 2.5)], [1, 3, 4, 2]) == pytest.approx([1.0, 2.0, 2.5, 1.5])


def test_lego_needs_fewer_gpus_and_stands_larger_bursts_than_diflow() -> None:
    """For DiFlow's trace at scale 1, two instead of three; gaps of CV 2.5 at 2 requests a second."""
    assert (
        gpus_needed(SETTING, pattern(SETTING, "1.0"), "lego")
        == 2
        < gpus_needed(SETTING, pattern(SETTING, "1.0"), "diflow")
    )
    bursty = random_load(SETTING, 31, 300, cv=2.5)
    assert highest_rate(SETTING, bursty, "lego", low=2.0, high=2.1, tolerance=0.2) == 2.0
    assert highest_rate(SETTING, bursty, "diflow", low=2.0, high=2.1, tolerance=0.2) == 0.0


@pytest.mark.long
def test_deciding_is_fast() -> None:
    """200 GPUs and 4,000 requests in seconds, admission and routing in 200 us, a scaling tick in 10 ms.

    On the tables' core: others that have been met take up to three times as long for the same, which
    `python -m benchmarks.simulator` says.
    """
    verdicts = speed(Kept(None), quick=True, slowness=3.0).verdicts
    assert all(each.endswith(": met") for each in verdicts), verdicts
