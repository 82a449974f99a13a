"""The seams: what the gateway asks of whoever runs jobs."""

from collections.abc import Mapping
from typing import Protocol

from lego_serve.core.job import Job, JobResult
from lego_serve.core.workflow import Workflow


class JobRunner(Protocol):
    """Runs jobs to their end; the coordinator is one, tests have another."""

    @property
    def workflows(self) -> Mapping[str, Workflow]:
        """The workflows it can run, by name."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether every model node answers."""
        ...

    @property
    def in_flight(self) -> int:
        """Jobs accepted and not ended."""
        ...

    def now(self) -> float:
        """Seconds on the clock that job times are given in."""
        ...

    async def run(self, job: Job) -> JobResult:
        """Run a job whose inputs are bound.  Raises LegoError; cancelling the await cancels the job."""
        ...

    def cancel(self, job_id: str) -> bool:
        """Cancel a job; False when it is not in flight here."""
        ...
