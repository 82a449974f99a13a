"""Predicts the seconds of a job from those that jobs of its workflow took, by its pixels, steps and images.

What lanes of a batch share is divided among them, so that the seconds of jobs in flight add up to those of the replica.
"""

from collections.abc import Mapping

from lego_serve.core.jobs.job import Job, TaskStats

MEMORY = 0.9  # weight of the past jobs of a workflow against the next
MEASURES = ("width", "height", "steps", "n")
MOST = 1 << 40  # of a measure: a workflow may leave its whole numbers unbounded


def work_of(job: Job) -> float:
    """Return the pixels times steps times images that a job asks for, as far as its inputs say, in its tier."""
    work = job.tier.share
    for name in MEASURES:
        value = job.inputs.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            work *= min(value, MOST)
    return work


def busy_s(stats: Mapping[str, TaskStats]) -> float:
    """Return the seconds of a replica that a job took by its tasks; loads are not among them."""
    total = 0.0
    for each in stats.values():
        if each.step_s:
            total += sum(step_s / max(1, lanes) for step_s, lanes in zip(each.step_s, each.step_lanes, strict=True))
        elif not each.cache_hit:
            total += each.run_s
    return total


class Pace:
    """Seconds by unit of work, of each kind of job by its name."""

    def __init__(self) -> None:
        self._pace: dict[str, float] = {}

    def seconds(self, name: str, work: float) -> float | None:
        """Return the predicted seconds of a job; None before one of its kind has ended."""
        pace = self._pace.get(name)
        return None if pace is None else pace * work

    def guess(self, name: str, work: float) -> float | None:
        """Return the same, by the mean of all kinds where none of its own has ended; None before any has."""
        known = self.seconds(name, work)
        if known is None and self._pace:
            return work * sum(self._pace.values()) / len(self._pace)
        return known

    def learn(self, name: str, work: float, seconds: float) -> None:
        """Hear what a job took; no time says nothing."""
        if seconds > 0.0:
            seen, pace = seconds / work, self._pace.get(name)
            self._pace[name] = seen if pace is None else MEMORY * pace + (1.0 - MEMORY) * seen


class JobPace:
    """Seconds by unit of work, of each workflow."""

    def __init__(self) -> None:
        self._pace = Pace()

    def seconds(self, job: Job) -> float | None:
        """Return the predicted seconds of a job; None before one of its workflow has ended."""
        return self._pace.seconds(job.workflow, work_of(job))

    def learn(self, job: Job, stats: Mapping[str, TaskStats]) -> None:
        """Hear what a job took."""
        self._pace.learn(job.workflow, work_of(job), busy_s(stats))
