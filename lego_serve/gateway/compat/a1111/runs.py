"""The requests of one protocol that run in this process, for who asks how far they are or wants them to stop."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lego_serve.core.jobs.job import GeneratedImage, JobProgress


@dataclass(slots=True, eq=False)
class Run:
    """A request under way: its tenant, what is known of its images, and whether it was told to stop.

    ``job_id`` is empty until its job has begun; ``size`` (width, height) is what its images will have.  ``expected_at``
    is when it is expected to end, on the runner's clock, as it was when it got its place; None where that was unknown.
    """

    tenant: str
    began_s: float
    job_id: str = ""
    images: int = 1
    steps: int = 0
    size: tuple[int, int] = (0, 0)
    expected_at: float | None = None
    is_interrupted: bool = False
    is_skipped: bool = False
    latest: dict[int, JobProgress] = field(default_factory=dict)  # by image
    previews: dict[int, GeneratedImage] = field(default_factory=dict)

    @property
    def is_stopped(self) -> bool:
        """Whether it was told to stop."""
        return self.is_interrupted or self.is_skipped

    @property
    def step(self) -> int:
        """The steps that are done, of all its images in the mean."""
        return sum(progress.step for progress in self.latest.values()) // self.images

    def eta_s(self, now: float) -> float:
        """The seconds to its end: as its images tell, before they do as it was expected; 0 where nothing is known."""
        if not self.latest and self.expected_at is not None:
            return max(0.0, self.expected_at - now)
        return max((progress.eta_s for progress in self.latest.values()), default=0.0)

    def tell(self, progress: JobProgress) -> None:
        """Note how far an image is."""
        self.latest[progress.index] = progress
        self.steps = progress.steps
        if progress.preview is not None:
            self.previews[progress.index] = progress.preview


class Runs:
    """The runs of this process by tenant, the oldest first."""

    def __init__(self) -> None:
        self._runs: list[Run] = []

    @contextmanager
    def begin(self, run: Run) -> Iterator[Run]:
        """Hold a run as long as the block lasts."""
        self._runs.append(run)
        try:
            yield run
        finally:
            self._runs.remove(run)

    def of(self, tenant: str) -> list[Run]:
        """Return a tenant's runs."""
        return [run for run in self._runs if run.tenant == tenant]
