"""The checkpoints of a durable job: kept in memory as they come, and stored by time.

A checkpoint every few steps costs more than the steps it saves when a gateway dies; one every some seconds does not
(Young, 1974: the interval grows with the square root of the time between failures).
"""

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping

from lego_serve.core.durable_jobs.checkpoint import JobCheckpoint, LaneKey
from lego_serve.core.durable_jobs.record import JobRecord
from lego_serve.core.jobs.progress import LaneCheckpoint
from lego_serve.core.workflow.graph import Workflow


def job_hash(workflow: Workflow, record: JobRecord) -> str:
    """Return a hash of a workflow's graph and a job's stored inputs: what its lanes' steps depend on."""
    facts = json.dumps([workflow.content_hash, record.request.inputs, record.request.seed], sort_keys=True)
    return hashlib.sha256(facts.encode("utf-8", "surrogatepass")).hexdigest()


class JobCheckpoints:
    """Where the lanes of one attempt begin, and how far they have come; a CheckpointKeeper."""

    def __init__(self, job_id: str, attempt: int, workflow_hash: str, earlier: JobCheckpoint | None) -> None:
        self._job_id, self._attempt, self._workflow_hash = job_id, attempt, workflow_hash
        self._lanes = {} if earlier is None else dict(earlier.lanes_for(job_id, workflow_hash))
        self._is_new = False

    @property
    def is_new(self) -> bool:
        """Whether a lane has come further since ``store``."""
        return self._is_new

    def kept(self, node: str) -> Mapping[int, LaneCheckpoint]:
        """Return where a node's lanes begin."""
        return {key.lane: each for key, each in self._lanes.items() if key.node == node}

    def keep(self, node: str, lane: int, checkpoint: LaneCheckpoint) -> None:
        """Take a lane's newest checkpoint."""
        self._lanes[LaneKey(node, lane)] = checkpoint
        self._is_new = True

    async def store(self, write: Callable[[JobCheckpoint], Awaitable[None]]) -> None:
        """Write all lanes as they are.  Raises what ``write`` raises; they are still to be written then."""
        self._is_new = False
        try:
            await write(JobCheckpoint(self._job_id, self._attempt, self._workflow_hash, dict(self._lanes)))
        except BaseException:
            self._is_new = True
            raise
