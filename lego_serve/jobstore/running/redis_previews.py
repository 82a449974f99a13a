"""Previews in Redis, for gateways on several machines.

    {lego}:previews:ID      hash of the latest preview of each lane, for some minutes after the last one

The script that writes a job's end removes them.
"""

from collections.abc import Sequence

from redis.asyncio import Redis

from lego_serve.core.durable_jobs.preview import JobPreview
from lego_serve.jobstore import redis_scripts as lua
from lego_serve.jobstore.redis_client import ScriptRunner
from lego_serve.jobstore.redis_store import PREFIX

KEEP_S = 600


class RedisPreviews:
    """Previews beside the records; ``client`` answers bytes."""

    def __init__(self, client: Redis, *, prefix: str = PREFIX) -> None:
        self._scripts = ScriptRunner(client, prefix)

    async def put(self, attempt: int, preview: JobPreview) -> None:
        """Set a preview of a lane, unless another attempt counts by now."""
        facts = f"{attempt} {preview.step} {preview.steps} ".encode()
        words = preview.job_id, attempt, preview.lane, facts + preview.jpeg, 1000 * KEEP_S
        await self._scripts.run(lua.SET_PREVIEW, *words)

    async def latest(self, job_id: str, attempt: int) -> Sequence[JobPreview]:
        """Return the hash's previews of an attempt."""
        fields: list[bytes] = await self._scripts.run(lua.GET_PREVIEWS, job_id)
        found = []
        for lane, content in zip(fields[::2], fields[1::2], strict=True):
            of, step, steps, jpeg = content.split(b" ", 3)
            if int(of) == attempt:
                found.append(JobPreview(job_id, int(lane), int(step), int(steps), jpeg))
        return sorted(found, key=lambda preview: preview.lane)

    async def delete(self, job_id: str) -> None:
        """Nothing is left: they went with the job's end."""

    async def close(self) -> None:
        """Close the connections."""
        await self._scripts.client.aclose()
