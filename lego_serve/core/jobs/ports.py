"""The interfaces between the gateway and whoever runs jobs and the cluster behind them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias, TypeVar

from lego_serve.core.jobs.forecast import Forecast
from lego_serve.core.jobs.job import Job, JobProgress, JobResult, JobState
from lego_serve.core.jobs.journal import Journal
from lego_serve.core.jobs.progress import LaneCheckpoint
from lego_serve.core.nodes.requests import AdapterAdminRequest, ModelAdapters, SeenReplica, TemplateCommand
from lego_serve.core.scheduling.autoscaling import ReplicaBounds
from lego_serve.core.scheduling.scale_board import ScaleBoard
from lego_serve.core.workflow.graph import Workflow

ReplyT = TypeVar("ReplyT")
OnProgress: TypeAlias = Callable[[JobProgress], None]


class CheckpointKeeper(Protocol):
    """Keeps a job's checkpoints for longer than the process that runs it; nodes are named as in the workflow."""

    def kept(self, node: str) -> Mapping[int, LaneCheckpoint]:
        """Return where the lanes of a denoising node begin; a lane without an entry begins at its first step."""
        ...

    def keep(self, node: str, lane: int, checkpoint: LaneCheckpoint) -> None:
        """Take a lane's newest checkpoint, in place of the one before."""
        ...


class Scaling(Protocol):
    """Tells how many replicas nodes are to have, and pins them."""

    async def read(self) -> ScaleBoard:
        """Return the board of all nodes, by ``MODEL.COMPONENT``."""
        ...

    async def pin(self, node: str, bounds: ReplicaBounds | None) -> None:
        """Pin a node; None is what its configuration says.  Raises NotFound, NodeUnavailable."""
        ...


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
        """How many jobs it runs."""
        ...

    def now(self) -> float:
        """Return the seconds on the clock that job times are given in."""
        ...

    async def offer(self, job: Job) -> Forecast | None:
        """Say when a job would end if it came now; None where that cannot be known yet, or soon enough.

        Where that is in time, for it and for all others, its place is kept until it runs or is withdrawn.
        """
        ...

    def withdraw(self, job_id: str) -> None:
        """A job that was offered does not run after all; nothing happens for one that does, or did."""
        ...

    async def run(
        self, job: Job, on_progress: OnProgress | None = None, checkpoints: CheckpointKeeper | None = None
    ) -> JobResult:
        """Run a job whose inputs are bound, and report its progress as ``job.stream`` asks.

        Raises LegoError; cancelling the await cancels the job.
        """
        ...

    @property
    def journal(self) -> Journal:
        """What happened to its jobs, and what was decided."""
        ...

    def cancel(self, job_id: str) -> bool:
        """Cancel a job; False when it is not in flight here."""
        ...

    async def pause(self, job_id: str, paused: bool) -> bool:
        """Pause or resume a job's lanes from the next step on; False when it is not in flight here."""
        ...

    def states(self) -> Sequence[JobState]:
        """Return the state of every job in flight here."""
        ...

    def story(self, job_id: str) -> tuple[str, ...]:
        """Return what happened to a job here, one line an event, kept a while after its end; empty if unknown."""
        ...


class ClusterAdmin(Protocol):
    """Carries out what operators, and the routes of templates, want of the replicas of model nodes."""

    async def replicas(self) -> Mapping[str, str]:
        """Return the backbone replicas: id to the node they belong to."""
        ...

    async def loads(self) -> Sequence[SeenReplica]:
        """Return every replica of every node that answers soon, with what it has in hand."""
        ...

    async def scales(self) -> ScaleBoard:
        """Return how many replicas each node is to have, by ``MODEL.COMPONENT``; empty where that is not known."""
        ...

    async def pin(self, node: str, bounds: ReplicaBounds | None) -> None:
        """Keep a node, ``MODEL.COMPONENT``, within bounds until a restart; None is what its configuration says.

        Raises NotFound, NodeUnavailable.
        """
        ...

    async def drain(self, replica: str) -> int:
        """Move a replica's lanes elsewhere and replace it; return how many calls moved.  Raises NotFound."""
        ...

    async def adapters(self, model: str | None, request: AdapterAdminRequest) -> ModelAdapters:
        """Carry out a request about a model's adapters; None is the only model that has any.

        Raises LegoError, NotFound if the model has no adapters.
        """
        ...

    async def check_prompt(self, model: str, prompt: str, tenant: str, weight: float) -> None:
        """Raise RequestError, about `prompt`, for one that a model's text encoder refuses, such as one too long.

        It is a tenant's work, and waits for its turn at the encoder by the weight of its jobs.
        """
        ...

    async def templates(self, model: str, request: TemplateCommand[ReplyT]) -> Mapping[str, ReplyT]:
        """Return the reply of each backbone replica of a model to a request.  Raises NodeUnavailable."""
        ...
