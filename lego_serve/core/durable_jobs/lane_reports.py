"""How far a durable job is, from what its lanes tell."""

from lego_serve.core.durable_jobs.record import StoredProgress
from lego_serve.core.jobs.job import JobProgress

DENOISED_PERCENT = 95  # what comes after the last step is the rest


class LaneReports:
    """The last report of each image of a job."""

    def __init__(self, images: int) -> None:
        self._images = images
        self._latest: dict[int, JobProgress] = {}

    def note(self, progress: JobProgress) -> None:
        """Take a report."""
        self._latest[progress.index] = progress

    def summary(self) -> StoredProgress | None:
        """Return how far the job is: the step of the image that is furthest behind; None before the first report."""
        if not self._latest:
            return None
        reports = list(self._latest.values())
        behind = min(reports, key=lambda report: report.step / max(1, report.steps))
        done = sum(report.step / max(1, report.steps) for report in reports) / max(self._images, len(reports))
        started = len(reports) >= self._images
        return StoredProgress(
            percent=int(DENOISED_PERCENT * done),
            step=behind.step if started else 0,
            steps=behind.steps,
            eta_s=round(max(report.eta_s for report in reports), 3),
        )
