"""What the brain of a cluster believes: jobs and how far they are, workers and what they hold, run and load.

Values have one owner, the :class:`~lego_serve.core.cluster.cell.Cell`; policies read them and return decisions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from lego_serve.core.cluster.work import JobWork, batch_step_s


@dataclass(frozen=True, slots=True)
class Job:
    """A request for an image as the brain sees it; ``value`` weighs a miss, ``group`` is the class with a floor."""

    id: int
    work: JobWork
    arrived_s: float
    deadline_s: float
    group: str = "default"
    tenant: str = "default"
    value: float = 1.0


@dataclass(slots=True)
class Lane:
    """An admitted job: where it is and what is left of it."""

    job: Job
    steps_left: int
    is_encoded: bool = False
    home: int | None = None  # the worker that has its latents
    call: int | None = None  # the call that runs it now
    may_split: bool = False  # whether it was admitted on two workers, should one be too slow

    @classmethod
    def of(cls, job: Job) -> "Lane":
        """A job of which nothing is done."""
        return cls(job, job.work.shape.steps)

    @property
    def left_s(self) -> float:
        """The seconds it still takes on one worker."""
        return self.job.work.left_s(self.steps_left, is_encoded=self.is_encoded)

    @property
    def least_left_s(self) -> float:
        """The seconds it still takes at the least, each step on two workers."""
        work = self.job.work
        step_s = min(work.step_s, work.split_step_s)
        return (0.0 if self.is_encoded else work.encode_s) + self.steps_left * step_s + work.decode_s


@dataclass(frozen=True, slots=True)
class Call:
    """What one worker, or two at the same time, are to do: encode, take steps in one batch, decode."""

    id: int
    workers: tuple[int, ...]
    lanes: tuple[Lane, ...]
    steps: int
    encodes: tuple[Lane, ...]
    decodes: tuple[Lane, ...]
    seconds: float  # as estimated

    @property
    def models(self) -> frozenset[str]:
        """The models with weights that it needs on its workers."""
        return frozenset().union(*(lane.job.work.models for lane in self.lanes))


@dataclass(slots=True)
class Worker:
    """A GPU's process: its memory, models, lanes and call."""

    id: int
    memory_bytes: int
    resident: set[str] = field(default_factory=set)
    loading: dict[str, float] = field(default_factory=dict)  # when each is expected
    reserved_bytes: int = 0
    lanes: list[Lane] = field(default_factory=list)  # started here and not ended
    call: Call | None = None
    until_s: float = 0.0  # when its call is expected to end
    helps: int | None = None  # the job whose next step it waits for, to take a branch of it
    sets: dict[frozenset[str], float] = field(default_factory=dict)  # what loading a set takes; emptied by changes

    def has(self, models: frozenset[str]) -> bool:
        """Whether it can run a job with these models at once."""
        return models <= self.resident

    def free_s(self, now: float) -> float:
        """When its call is over, at the earliest now."""
        return max(now, self.until_s) if self.call is not None else now


def batch_left_s(lanes: Sequence[Lane]) -> float:
    """The seconds until all lanes have ended if they go on in one batch, each leaving it when its steps are done."""
    if len(lanes) == 1:
        return lanes[0].left_s
    order = sorted(lanes, key=lambda lane: lane.steps_left)
    total = sum(lane.job.work.decode_s for lane in order)
    total += sum(lane.job.work.encode_s for lane in order if not lane.is_encoded)
    done = 0
    for index, lane in enumerate(order):
        if lane.steps_left > done:
            total += (lane.steps_left - done) * batch_step_s([each.job.work for each in order[index:]])
            done = lane.steps_left
    return total
