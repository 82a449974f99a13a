"""What jobs of a workflow took says what the next one takes."""

import pytest

from lego_serve.core.jobs.job import Job, TaskStats
from lego_serve.core.placement.job_pace import MOST, JobPace, Pace, busy_s, work_of
from lego_serve.core.tiers.book import TierChoice


def job(tier: TierChoice | None = None, **inputs: object) -> Job:
    """A job with these inputs."""
    return Job("j", "w", inputs, 0.0, tier=tier or TierChoice())


def test_work_is_pixels_times_steps_times_images_as_far_as_they_are_numbers() -> None:
    """What is missing, or no whole number, counts as one."""
    assert work_of(job(width=128, height=64, steps=10, n=2)) == 128 * 64 * 20
    assert work_of(job(width="a", height=True, steps=-1)) == 1.0
    assert work_of(job(width=10**400)) == MOST


def test_a_job_in_a_tier_is_that_part_of_the_work() -> None:
    """A fast one and a whole one of a workflow teach the same pace."""
    pace = JobPace()
    pace.learn(job(TierChoice("fast", 0.25), steps=20), {"latents": TaskStats(run_s=2.0)})
    assert pace.seconds(job(steps=20)) == pytest.approx(8.0)


def test_lanes_of_a_batch_share_its_seconds_and_what_was_cached_takes_none() -> None:
    """So that jobs at the same time do not count the same second twice."""
    stats = {
        "text": TaskStats(run_s=0.5, cache_hit=True),
        "latents": TaskStats(run_s=9.0, step_s=(0.4, 0.2), step_lanes=(4, 1)),
        "image": TaskStats(run_s=0.1),
    }
    assert busy_s(stats) == pytest.approx(0.1 + 0.2 + 0.1)


def test_the_pace_of_a_workflow_is_learnt_from_its_jobs() -> None:
    """Nothing is known of one without any."""
    pace = JobPace()
    assert pace.seconds(job(width=64, height=64, steps=10)) is None
    pace.learn(job(width=64, height=64, steps=10), {"latents": TaskStats(run_s=2.0)})
    assert pace.seconds(job(width=128, height=128, steps=10)) == pytest.approx(8.0)
    pace.learn(job(width=64, height=64, steps=10), {})
    assert pace.seconds(job(width=64, height=64, steps=10)) == pytest.approx(2.0)


def test_a_kind_of_which_nothing_is_known_is_guessed_by_the_others() -> None:
    """By the mean of their paces; nothing is guessed before any job has ended, and no time teaches nothing."""
    pace = Pace()
    pace.learn("a", 10.0, 0.0)
    assert (pace.guess("a", 10.0), pace.seconds("a", 10.0)) == (None, None)
    pace.learn("a", 10.0, 20.0)
    pace.learn("b", 10.0, 40.0)
    assert (pace.guess("a", 5.0), pace.guess("c", 5.0), pace.seconds("c", 5.0)) == (10.0, 15.0, None)
