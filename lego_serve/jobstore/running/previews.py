"""Where a gateway leaves previews of the jobs that it runs, for those that watch them through another one.

ID/ATTEMPT-LANE-STEP-STEPS.preview      a JPEG file
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Protocol

from lego_serve.core.durable_jobs.preview import JobPreview, latest_of_each
from lego_serve.jobstore.blobs.port import Blobs

NAME = re.compile(r"(\d+)-(\d+)-(\d+)-(\d+)\.preview")


class Previews(Protocol):
    """Keeps the latest previews of running jobs.  Every method may raise StoreUnavailable."""

    async def put(self, attempt: int, preview: JobPreview) -> None:
        """Leave a preview of an attempt."""
        ...

    async def latest(self, job_id: str, attempt: int) -> Sequence[JobPreview]:
        """Return the latest preview of each lane of an attempt."""
        ...

    async def delete(self, job_id: str) -> None:
        """Remove what an ended job needs no more."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class FilePreviews:
    """Previews as files in the folder of their job; a client asks for a few of each image at most."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def put(self, attempt: int, preview: JobPreview) -> None:
        """Write a file."""
        name = f"{attempt}-{preview.lane}-{preview.step}-{preview.steps}.preview"
        await asyncio.to_thread(self._blobs.write, preview.job_id, name, preview.jpeg, is_durable=False)

    async def latest(self, job_id: str, attempt: int) -> Sequence[JobPreview]:
        """Read files."""
        return await asyncio.to_thread(self._latest, job_id, attempt)

    async def delete(self, job_id: str) -> None:
        """Remove files."""
        await asyncio.to_thread(self._delete, job_id)

    async def close(self) -> None:
        """Nothing is open."""

    def _latest(self, job_id: str, attempt: int) -> list[JobPreview]:
        found = latest_of_each(
            JobPreview(job_id, int(match[2]), int(match[3]), int(match[4]), b"")
            for name in self._names(job_id)
            if (match := NAME.fullmatch(name)) and int(match[1]) == attempt
        )
        read = []
        for each in found:
            name = f"{attempt}-{each.lane}-{each.step}-{each.steps}.preview"
            try:
                jpeg = self._blobs.read(job_id, name)
            except FileNotFoundError:  # the job has just ended
                continue
            read.append(JobPreview(job_id, each.lane, each.step, each.steps, jpeg))
        return read

    def _delete(self, job_id: str) -> None:
        self._blobs.delete(job_id, [name for name in self._names(job_id) if NAME.fullmatch(name)])

    def _names(self, job_id: str) -> list[str]:
        return [blob.name for blob in self._blobs.list(job_id)]
