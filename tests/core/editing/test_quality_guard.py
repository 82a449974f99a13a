"""The guard over edits that reuse activations: which edits are compared, and what follows from the comparisons."""

import math

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.editing.quality_guard import LADDER, MAX_SAMPLES, MIN_SAMPLES, EditCohort, QualityGuard
from lego_serve.core.editing.reuse import Quality

COHORT = EditCohort.of("w", 0.15, 256 * 256)
OTHER = EditCohort.of("w", 0.05, 256 * 256)


def observed(guard: QualityGuard, *ssims: float, quality: Quality = Quality.HIGH) -> QualityGuard:
    """A guard that has seen these comparisons at time 0."""
    for ssim in ssims:
        guard.observe(COHORT, quality, ssim, 0.0)
    return guard


def test_cohorts_are_by_workflow_share_size_and_caption() -> None:
    """A bound belongs to the class below it; images above all bounds have a class of their own."""
    assert EditCohort.of("w", 0.2, 256 * 256) == COHORT
    assert EditCohort.of("w", 0.21, 256 * 256) != COHORT
    assert EditCohort.of("v", 0.2, 256 * 256) != COHORT
    assert EditCohort.of("w", 0.2, 256 * 256, is_described=True) != COHORT
    assert EditCohort.of("w", 1.0, 4096 * 4096).pixels > 1024 * 1024


def test_comparing_takes_its_share_of_the_time_and_no_more() -> None:
    """After a comparison of 2 s at a share of a fiftieth, 100 s pass without any, of whatever cohort."""
    guard = QualityGuard(0.02)
    assert guard.is_due(COHORT, Quality.HIGH, 10.0)
    guard.record_time(2.0, 12.0)
    assert not guard.is_due(OTHER, Quality.HIGH, 111.0)
    assert guard.is_due(OTHER, Quality.HIGH, 112.0)
    assert not guard.is_due(COHORT, Quality.EXACT, 112.0)
    assert not QualityGuard(0).is_due(COHORT, Quality.HIGH, 0.0)


def test_a_cohort_with_enough_samples_is_not_compared() -> None:
    """Until the samples are older than the window."""
    guard = observed(QualityGuard(1.0, window_s=60), *[0.99] * MAX_SAMPLES)
    assert not guard.is_due(COHORT, Quality.HIGH, 59.0)
    assert guard.is_due(OTHER, Quality.HIGH, 59.0)
    assert guard.is_due(COHORT, Quality.HIGH, 61.0)


def test_a_cohort_below_its_floor_climbs_the_ladder_and_others_do_not() -> None:
    """Rung by rung, up to the full computation."""
    guard = observed(QualityGuard(1.0), 0.9, 0.9)
    assert guard.quality(COHORT, Quality.HIGH, 0.95, 0.0) is Quality.HIGH  # two samples are too few
    observed(guard, 0.9)
    assert guard.quality(COHORT, Quality.HIGH, 0.95, 0.0) is Quality.CAREFUL
    assert guard.quality(OTHER, Quality.HIGH, 0.95, 0.0) is Quality.HIGH
    assert guard.quality(COHORT, Quality.HIGH, 0.85, 0.0) is Quality.HIGH
    assert guard.quality(COHORT, Quality.HIGH, None, 0.0) is Quality.HIGH
    observed(guard, 0.9, 0.9, 0.9, quality=Quality.CAREFUL)
    assert guard.quality(COHORT, Quality.HIGH, 0.95, 0.0) is Quality.EXACT
    assert guard.quality(COHORT, Quality.BALANCED, 0.95, 0.0) is Quality.BALANCED  # it has no samples


def test_a_floor_of_one_has_all_edits_computed_in_full_at_once() -> None:
    """Before anything has been compared, and whatever comparisons said."""
    assert QualityGuard(0.02).quality(COHORT, Quality.BALANCED, 1.0, 0.0) is Quality.EXACT
    assert observed(QualityGuard(0.02), 1.0, 1.0, 1.0).quality(COHORT, Quality.HIGH, 1.0, 0.0) is Quality.EXACT


def test_old_samples_do_not_count() -> None:
    """A cohort gets another chance after the window."""
    guard = observed(QualityGuard(1.0, window_s=60), 0.5, 0.5, 0.5)
    assert guard.quality(COHORT, Quality.HIGH, 0.95, 59.0) is Quality.CAREFUL
    assert guard.quality(COHORT, Quality.HIGH, 0.95, 61.0) is Quality.HIGH
    assert guard.is_due(COHORT, Quality.HIGH, 61.0)


@given(st.lists(st.tuples(st.sampled_from(LADDER), st.floats(0, 1))), st.sampled_from(LADDER), st.floats(0, 1))
def test_no_edit_runs_at_less_than_the_requested_quality(
    samples: list[tuple[Quality, float]], requested: Quality, floor: float
) -> None:
    """Whatever was observed; and the chosen quality is not below the floor."""
    guard = QualityGuard(1.0)
    for quality, ssim in samples:
        guard.observe(COHORT, quality, ssim, 0.0)
    chosen = guard.quality(COHORT, requested, floor, 0.0)
    assert LADDER.index(chosen) >= LADDER.index(requested)
    recent = [ssim for quality, ssim in samples if quality is chosen][-MAX_SAMPLES:]
    if chosen is not Quality.EXACT and len(recent) >= MIN_SAMPLES:
        assert sum(recent) / len(recent) >= floor


@given(
    st.floats(0.01, 1.0),
    st.lists(st.tuples(st.floats(0.0, 50.0), st.floats(0.01, 10.0)), max_size=40),
)
def test_comparisons_never_take_more_than_their_share(share: float, edits: list[tuple[float, float]]) -> None:
    """However edits arrive and long a comparison takes, over any time that ends when the next one may begin."""
    guard, now, spent_s = QualityGuard(share, window_s=math.inf), 0.0, 0.0
    for pause_s, comparison_s in edits:
        now += pause_s
        if guard.is_due(OTHER, Quality.HIGH, now):
            assert spent_s <= share * now * (1 + 1e-9) + 1e-9
            now += comparison_s
            spent_s += comparison_s
            guard.record_time(comparison_s, now)


def test_what_comparisons_came_to_is_told_by_cohort_and_quality() -> None:
    """Of those that count; a cohort without any is left out."""
    guard = observed(QualityGuard(1.0, window_s=60), 0.9, 0.8)
    guard.observe(OTHER, Quality.CAREFUL, 0.99, -50.0)
    [careful, high] = sorted(guard.comparisons(10.0), key=lambda each: each.quality.value)
    assert (careful.cohort, careful.count, careful.mean) == (OTHER, 1, 0.99)
    assert (high.cohort, high.count, round(high.mean, 6)) == (COHORT, 2, 0.85)
    assert [each.cohort for each in guard.comparisons(20.0)] == [COHORT]
