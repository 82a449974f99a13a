"""What everything about durable jobs in one gateway shares."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from lego_serve.core.durable_jobs.record import JobRecord
from lego_serve.core.durable_jobs.record_json import BadRecord
from lego_serve.core.durable_jobs.store import JobStore
from lego_serve.errors import StoreUnavailable
from lego_serve.gateway.context import Context
from lego_serve.gateway.jobs.settings import JobSettings
from lego_serve.gateway.jobs.watching import Watchers
from lego_serve.gateway.queue.times import QueueTimes
from lego_serve.jobstore.blobs.folder import FolderBlobs
from lego_serve.jobstore.files import JobFiles
from lego_serve.jobstore.running.checkpoints import Checkpoints, FileCheckpoints
from lego_serve.jobstore.running.leftovers import drop_running, drop_unneeded
from lego_serve.jobstore.running.previews import FilePreviews, Previews
from lego_serve.webhooks.settings import WebhookSettings

LAST_WRITE_S = 2.0  # that a cancelled attempt waits for the file that it writes


@dataclass(frozen=True, slots=True)
class JobStorage:
    """Where durable jobs are kept, how many of them run here, and where their ends may be told.

    ``wall`` is the wall clock in seconds.
    """

    store: JobStore
    files: JobFiles
    checkpoints: Checkpoints
    previews: Previews
    settings: JobSettings
    wall: Callable[[], float] = time.time
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)

    @classmethod
    def in_folder(cls, store: JobStore, folder: Path, settings: JobSettings, **more: Any) -> Self:
        """Return one whose files and checkpoints lie in a folder beside the store; ``more`` are further fields."""
        blobs = FolderBlobs(folder)
        return cls(store, JobFiles(blobs), FileCheckpoints(blobs), FilePreviews(blobs), settings, **more)


@dataclass(frozen=True, slots=True)
class JobParts:
    """The gateway's parts, where jobs are kept, and who watches; ``wall`` is the wall clock."""

    context: Context
    store: JobStore
    files: JobFiles
    checkpoints: Checkpoints
    previews: Previews
    settings: JobSettings
    wall: Callable[[], float]
    queue: QueueTimes
    watchers: Watchers = field(default_factory=Watchers)

    @classmethod
    def over(cls, context: Context, storage: JobStorage) -> Self:
        """Return the parts of a gateway over where jobs are kept."""
        store, settings = storage.store, storage.settings
        queue = QueueTimes(store, settings.max_running, lambda: context.runner.workflows, storage.wall)
        return cls(
            context,
            store,
            storage.files,
            storage.checkpoints,
            storage.previews,
            settings,
            storage.wall,
            queue,
        )

    async def drop_running(self, record: JobRecord) -> None:
        """Remove what an ended job needs no more."""
        await drop_running(record, self.files, self.checkpoints, self.previews)

    async def drop_refused(self, known: JobRecord) -> None:
        """Remove what an attempt has left of a job that it may end no more, by the job's record as it is now.

        What cannot be removed now goes with the job.
        """
        with suppress(StoreUnavailable, BadRecord):
            record = await self.store.get(known.id)
            if record is not None and not record.status.has_ended:
                await drop_unneeded(record, self.files)
                return
            await self.drop_running(record or known)
            if record is None:
                await asyncio.to_thread(self.files.delete, known.id)

    async def keep_result(self, record: JobRecord, index: int, content: bytes, image_format: str) -> str:
        """Write an image that the job's attempt has made, and return its sha256.  Raises StoreUnavailable.

        An attempt that is cancelled meanwhile, since its job ended or goes elsewhere, does not leave it behind.
        """
        write = self.files.write_result
        writing = asyncio.ensure_future(
            asyncio.to_thread(write, record.id, record.attempt, index, content, image_format)
        )
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            writing.add_done_callback(lambda done: done.cancelled() or done.exception())  # whatever it met
            await asyncio.wait({writing}, timeout=LAST_WRITE_S)
            await self.drop_refused(record)
            raise

    def written(self, record: JobRecord) -> None:
        """This gateway has written a change of a job: whoever watches hears of it, ends are counted and learnt from."""
        if record.status.has_ended:
            self.queue.learn(record)
            self.context.metrics.count_durable_end(record.status.value)
        self.watchers.tell(record)
