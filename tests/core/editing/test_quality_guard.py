"""The guard over edits that read activations: who is compared, and what is made of it."""

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.editing.quality_guard import LADDER, MAX_SAMPLES, MIN_SAMPLES, EditCohort, QualityGuard
from lego_serve.core.editing.reuse import Quality

CLASS = EditCohort.of("w", 0.15, 256 * 256)
OTHER = EditCohort.of("w", 0.05, 256 * 256)


def told(guard: QualityGuard, *likeness: float, quality: Quality = Quality.HIGH, at: float = 0.0) -> QualityGuard:
    """A guard that has seen these comparisons."""
    for each in likeness:
        guard.observe(CLASS, quality, each, at)
    return guard


def test_classes_are_by_workflow_share_size_and_caption() -> None:
    """Bounds belong to the class below; what is larger than all of them has one of its own."""
    assert EditCohort.of("w", 0.2, 256 * 256) == CLASS
    assert EditCohort.of("w", 0.21, 256 * 256) != CLASS
    assert EditCohort.of("v", 0.2, 256 * 256) != CLASS
    assert EditCohort.of("w", 0.2, 256 * 256, is_described=True) != CLASS
    assert EditCohort.of("w", 1.0, 4096 * 4096).pixels > 1024 * 1024


def test_comparing_takes_its_share_of_the_time_and_no_more() -> None:
    """After two seconds of it at a fiftieth, 100 s pass; whatever the class."""
    guard = QualityGuard(0.02)
    assert guard.is_due(CLASS, Quality.HIGH, 10.0)
    guard.spent(2.0, 12.0)
    assert not guard.is_due(OTHER, Quality.HIGH, 111.0)
    assert guard.is_due(OTHER, Quality.HIGH, 112.0)
    assert not guard.is_due(CLASS, Quality.EXACT, 112.0)
    assert not QualityGuard(0).is_due(CLASS, Quality.HIGH, 0.0)


def test_a_class_of_which_enough_is_known_is_left_alone() -> None:
    """Until that is old."""
    guard = told(QualityGuard(1.0, window_s=60), *[0.99] * MAX_SAMPLES)
    assert not guard.is_due(CLASS, Quality.HIGH, 59.0)
    assert guard.is_due(OTHER, Quality.HIGH, 59.0)
    assert guard.is_due(CLASS, Quality.HIGH, 61.0)


def test_a_class_under_its_floor_climbs_the_ladder_and_others_do_not() -> None:
    """Rung by rung, as far as the full computation."""
    guard = told(QualityGuard(1.0), 0.9, 0.9)
    assert guard.quality(CLASS, Quality.HIGH, 0.95, 0.0) is Quality.HIGH  # two say nothing yet
    told(guard, 0.9)
    assert guard.quality(CLASS, Quality.HIGH, 0.95, 0.0) is Quality.CAREFUL
    assert guard.quality(OTHER, Quality.HIGH, 0.95, 0.0) is Quality.HIGH
    assert guard.quality(CLASS, Quality.HIGH, 0.85, 0.0) is Quality.HIGH
    assert guard.quality(CLASS, Quality.HIGH, None, 0.0) is Quality.HIGH
    told(guard, 0.9, 0.9, 0.9, quality=Quality.CAREFUL)
    assert guard.quality(CLASS, Quality.HIGH, 0.95, 0.0) is Quality.EXACT
    assert guard.quality(CLASS, Quality.BALANCED, 0.95, 0.0) is Quality.BALANCED  # nothing is known of that


def test_what_is_old_is_forgotten() -> None:
    """A class gets another chance after the window."""
    guard = told(QualityGuard(1.0, window_s=60), 0.5, 0.5, 0.5)
    assert guard.quality(CLASS, Quality.HIGH, 0.95, 59.0) is Quality.CAREFUL
    assert guard.quality(CLASS, Quality.HIGH, 0.95, 61.0) is Quality.HIGH
    assert guard.is_due(CLASS, Quality.HIGH, 61.0)


@given(st.lists(st.tuples(st.sampled_from(LADDER), st.floats(0, 1))), st.sampled_from(LADDER), st.floats(0, 1))
def test_nobody_is_given_less_than_they_asked_for(found, asked, floor) -> None:
    """Whatever was observed; and what is given has not been found wanting."""
    guard = QualityGuard(1.0)
    for quality, likeness in found:
        guard.observe(CLASS, quality, likeness, 0.0)
    given_ = guard.quality(CLASS, asked, floor, 0.0)
    assert LADDER.index(given_) >= LADDER.index(asked)
    seen = [likeness for quality, likeness in found if quality is given_][-20:]
    if given_ is not Quality.EXACT and len(seen) >= MIN_SAMPLES:
        assert sum(seen) / len(seen) >= floor
