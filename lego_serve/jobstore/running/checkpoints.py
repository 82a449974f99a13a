"""Where the checkpoints of durable jobs lie: the port, and files, one for each attempt.

    ID/ATTEMPT.ckpt     the lanes of an attempt, as far as they were stored

A file is not synced: a checkpoint that power loss takes only costs steps.
"""

import asyncio
import re
from typing import Protocol

from lego_serve.core.durable_jobs.checkpoint import DamagedCheckpoint, JobCheckpoint, pack, unpack
from lego_serve.jobstore.blobs.port import Blobs

NAME = re.compile(r"(\d+)\.ckpt")


class Checkpoints(Protocol):
    """Keeps how far the attempts at jobs have come.  Every method may raise StoreUnavailable."""

    async def write(self, checkpoint: JobCheckpoint) -> None:
        """Keep how far an attempt is, in place of what it kept before.

        Raises StaleAttempt where it is known that another attempt counts.
        """
        ...

    async def latest(self, job_id: str) -> JobCheckpoint | None:
        """Return the checkpoint of the latest attempt that left a whole one; None where the job starts anew."""
        ...

    async def delete(self, job_id: str) -> None:
        """Remove what an ended job needs no more."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class FileCheckpoints:
    """Checkpoints as files beside those of their jobs.  Files know no fence: an attempt writes one of its own."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def write(self, checkpoint: JobCheckpoint) -> None:
        """Write the file of an attempt."""
        content = pack(checkpoint)
        name = f"{checkpoint.attempt}.ckpt"
        await asyncio.to_thread(self._blobs.write, checkpoint.job_id, name, content, is_durable=False)

    async def latest(self, job_id: str) -> JobCheckpoint | None:
        """Read the file of the latest attempt that can be read."""
        return await asyncio.to_thread(self._latest, job_id)

    async def delete(self, job_id: str) -> None:
        """Remove the files of all attempts."""
        await asyncio.to_thread(self._delete, job_id)

    async def close(self) -> None:
        """Nothing is open."""

    def _latest(self, job_id: str) -> JobCheckpoint | None:
        for _, name in sorted(self._names(job_id), reverse=True):
            try:
                found = unpack(self._blobs.read(job_id, name))
            except (FileNotFoundError, DamagedCheckpoint):
                continue
            if found.job_id == job_id:
                return found
        return None

    def _delete(self, job_id: str) -> None:
        self._blobs.delete(job_id, [name for _, name in self._names(job_id)])

    def _names(self, job_id: str) -> list[tuple[int, str]]:
        names = (blob.name for blob in self._blobs.list(job_id))
        return [(int(match[1]), name) for name in names if (match := NAME.fullmatch(name))]
