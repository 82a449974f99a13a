"""The seams: what the gateway asks of whoever runs jobs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from lego_serve.core.addons import AdapterCommand
from lego_serve.core.editing.templates import TemplateCommand
from lego_serve.core.jobs.job import Job, JobProgress, JobResult, JobState
from lego_serve.core.workflow.graph import Workflow


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

    async def run(self, job: Job, tell: Callable[[JobProgress], None] | None = None) -> JobResult:
        """Run a job whose inputs are bound, telling how it gets on as ``job.stream`` asks.

        Raises LegoError; cancelling the await cancels the job.
        """
        ...

    async def replicas(self) -> Mapping[str, str]:
        """The backbone replicas there are: id to the node they belong to."""
        ...

    async def drain(self, replica: str) -> int:
        """Move a replica's lanes elsewhere and have it replaced; answers how many calls moved.  Raises NotFound."""
        ...

    async def adapters(self, order: AdapterCommand) -> Mapping[str, Any]:
        """Do what is wanted of the adapters of a model.  Raises LegoError, NotFound where the model has none."""
        ...

    async def templates(self, order: TemplateCommand) -> Mapping[str, int]:
        """What each backbone replica of a model answers about a template.  Raises NodeUnavailable."""
        ...

    def states(self) -> Sequence[JobState]:
        """The jobs in flight here."""
        ...

    async def pause(self, job_id: str, paused: bool) -> bool:
        """Let a job's lanes wait, or go on, from the next step on; False when it is not in flight here."""
        ...

    def cancel(self, job_id: str) -> bool:
        """Cancel a job; False when it is not in flight here."""
        ...
