"""Checkpoints in Redis: gateways on several machines go on with each other's jobs without a folder that they share.

    {lego}:ckpt:ID      the bytes of a checkpoint, for an hour after it was written

Unlike files these know the fence: one of an attempt that does not count any more is refused.  The script that writes a
job's end removes them.
"""

from redis.asyncio import Redis

from lego_serve.core.durable_jobs.checkpoint import DamagedCheckpoint, JobCheckpoint, pack, unpack
from lego_serve.errors import StaleAttempt
from lego_serve.jobstore import redis_scripts as lua
from lego_serve.jobstore.redis_client import ScriptRunner
from lego_serve.jobstore.redis_store import PREFIX
from lego_serve.jobstore.running.checkpoints import Checkpoints

MAX_BYTES = 16 * 2**20  # four images of 2048 x 2048 with the history of their sampler
KEEP_S = 3600


class RedisCheckpoints:
    """Checkpoints beside the records; what is too large for that goes to ``larger``.

    ``client`` answers bytes, unlike that of the records.
    """

    def __init__(self, client: Redis, larger: Checkpoints, *, prefix: str = PREFIX) -> None:
        self._scripts, self._larger = ScriptRunner(client, prefix), larger
        self._have_larger: set[str] = set()  # jobs that have one there, as far as this process knows

    async def write(self, checkpoint: JobCheckpoint) -> None:
        """Set a checkpoint, where its attempt is the one that the record has."""
        content = pack(checkpoint)
        if len(content) > MAX_BYTES:
            self._have_larger.add(checkpoint.job_id)
            await self._larger.write(checkpoint)
            return
        words = checkpoint.job_id, checkpoint.attempt, content, 1000 * KEEP_S
        if not await self._scripts.run(lua.SET_CHECKPOINT, *words):
            raise StaleAttempt(f"Attempt {checkpoint.attempt} at job {checkpoint.job_id} does not count any more.")

    async def latest(self, job_id: str) -> JobCheckpoint | None:
        """Return the checkpoint of the later attempt, here or there; of two of one attempt the one here."""
        here, there = await self._read(job_id), await self._larger.latest(job_id)
        if there is None:
            return here
        self._have_larger.add(job_id)
        return there if here is None or here.attempt < there.attempt else here

    async def delete(self, job_id: str) -> None:
        """Remove what lies elsewhere; what is here went with the job's end."""
        if job_id in self._have_larger:
            self._have_larger.discard(job_id)
            await self._larger.delete(job_id)

    async def close(self) -> None:
        """Close the connections."""
        await self._scripts.client.aclose()
        await self._larger.close()

    async def _read(self, job_id: str) -> JobCheckpoint | None:
        content = await self._scripts.run(lua.GET_CHECKPOINT, job_id)
        try:
            found = None if content is None else unpack(content)
        except DamagedCheckpoint:
            return None
        return found if found is not None and found.job_id == job_id else None
