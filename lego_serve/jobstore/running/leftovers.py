"""What a job leaves behind at its end, wherever it is kept, and who removes it: the gateway or the supervisor."""

import asyncio
from contextlib import suppress

from lego_serve.core.durable_jobs.record import JobRecord
from lego_serve.errors import StoreUnavailable
from lego_serve.jobstore.files import JobFiles
from lego_serve.jobstore.running.checkpoints import Checkpoints
from lego_serve.jobstore.running.previews import Previews


async def drop_running(record: JobRecord, files: JobFiles, checkpoints: Checkpoints, previews: Previews) -> None:
    """Remove what an ended job needs no more: checkpoints, previews, images of its request, and those that failed.

    What cannot be removed now goes with the job.
    """
    for running in (checkpoints, previews):
        with suppress(StoreUnavailable):
            await running.delete(record.id)
    await drop_unneeded(record, files)


async def drop_unneeded(record: JobRecord, files: JobFiles) -> None:
    """Remove the files that a job's record, as it is now, has left behind; what cannot go now goes with the job."""
    with suppress(StoreUnavailable):
        await asyncio.to_thread(files.delete_unneeded, record)
