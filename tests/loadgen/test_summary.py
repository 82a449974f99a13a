import io

import pytest
from PIL import Image

from loadgen import summary
from loadgen.client import Reply, Sample
from loadgen.stats import Spread


def image(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def burst(done_s: list[float], level: int = 10) -> list[Sample]:
    """A burst answered one after the other at the given times."""
    begun = [0.0, *done_s[:-1]]
    return [Sample(0.0, sent, done, Reply(image(level))) for sent, done in zip(begun, done_s, strict=True)]


SERIAL = burst([1.0, 2.0, 3.0, 4.0])
TOGETHER = burst([1.9, 2.0, 2.0, 2.0], level=12)
FAILED = [*TOGETHER[:3], Sample(0.0, 0.0, 0.1, Reply(None, "500"))]


def test_throughput() -> None:
    """Throughput is images over the time from the first due to the last done."""
    assert summary.throughput_rps(SERIAL) == 1.0
    assert summary.throughput_rps(TOGETHER) == 2.0


def test_failures_make_no_throughput() -> None:
    """A failed request counts as no image, and a side without any image is an error that quotes it."""
    assert summary.throughput_rps(FAILED) == 1.5
    with pytest.raises(summary.NoImagesError, match="500"):
        summary.throughput_rps(FAILED[3:])


def test_solo() -> None:
    """The time of one image alone comes from the steps of a serial burst, not from its latencies."""
    assert summary.solo_s([[SERIAL, burst([3.0, 4.0])]]) == 1.0


def test_failures_miss_the_objective() -> None:
    """Attainment is a share of all requests, those without an image included."""
    assert summary.figures([[SERIAL]], slo_s=3.0).medians["attainment"] == 0.75
    assert summary.figures([[FAILED]], slo_s=3.0).medians["attainment"] == 0.75


def test_figures_are_medians_of_rounds() -> None:
    """A side's number is the median over rounds of each round's median, with the extremes kept."""
    slow = burst([2.0, 4.0, 6.0, 8.0])
    found = summary.figures([[SERIAL, SERIAL], [TOGETHER], [slow]], slo_s=5.0)
    assert found.spreads["throughput_rps"] == Spread(1.0, 0.5, 2.0)
    assert found.medians["max_rate_at_90pct"] is None
    assert set(found.medians) == set(summary.KEYS)
    assert found.extremes["throughput_rps"] == [0.5, 2.0]


def test_ratios_are_lego_over_baseline() -> None:
    """Every ratio is lego over baseline, null where the suite does not measure it."""
    baseline, lego = summary.figures([[SERIAL]], 5.0), summary.figures([[TOGETHER]], 5.0)
    assert summary.ratios(baseline, lego) == {
        "throughput": 2.0,
        "mean": 0.79,
        "p95": pytest.approx(0.519, abs=0.001),
        "max_rate_at_90pct": None,
    }
    assert summary.round_ratios([[SERIAL]], [[TOGETHER]]) == [2.0]


def test_image_differences() -> None:
    """Images of the same request are compared pixel by pixel; failed ones are left out."""
    assert summary.image_differences([[SERIAL]], [[FAILED]]) == {
        "images_compared": 3,
        "max_difference_255": 2,
        "median_max_difference_255": 2,
    }
