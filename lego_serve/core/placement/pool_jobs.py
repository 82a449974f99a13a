"""The jobs of a pool, how much of them is bound ahead of time, and what it means that one is taken."""

from dataclasses import dataclass

from lego_serve.core.cluster.profiles import CostModel, Profile
from lego_serve.core.cluster.schedule import NEVER
from lego_serve.core.cluster.state import Job, Lane
from lego_serve.core.cluster.work import JobWork, WorkflowShape


@dataclass(frozen=True, slots=True)
class PoolRule:
    """How much is bound to a replica ahead of time: jobs, for its batches, or seconds of work."""

    ahead: int = 8
    ahead_s: float = 1.0
    move_s: float = 0.3  # by which a job that is taken from another replica must end sooner


@dataclass(frozen=True, slots=True)
class PoolJob:
    """A job as a pool sees it: its seconds alone on a replica, the models it needs there, and its deadline."""

    id: str
    seconds: float
    models: frozenset[str] = frozenset()
    deadline_s: float = NEVER
    tenant: str = "default"

    def lane(self, number: int) -> Lane:
        """Return it in the words of admission: one step of so many seconds."""
        costs = CostModel([Profile("job", 0.0, 0, ((1, self.seconds),))])
        work = JobWork(WorkflowShape("job", "job", 1), costs)
        return Lane.of(Job(number, work, 0.0, self.deadline_s, tenant=self.tenant))


@dataclass(frozen=True, slots=True)
class Steal:
    """A job that goes to a replica without work from one that had not begun it, and ends so much sooner there."""

    job: str
    before: str
    after: str
    sooner_s: float
