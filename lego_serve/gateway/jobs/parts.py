"""What everything about durable jobs in one gateway shares."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from lego_serve.core.durable_jobs.record import JobRecord
from lego_serve.core.durable_jobs.store import JobStore
from lego_serve.errors import StoreUnavailable
from lego_serve.gateway.context import Context
from lego_serve.gateway.jobs.settings import JobSettings
from lego_serve.gateway.jobs.submission import passing_inputs
from lego_serve.gateway.jobs.watching import Watchers
from lego_serve.gateway.queue.times import QueueTimes
from lego_serve.jobstore.blobs.folder import FolderBlobs
from lego_serve.jobstore.files import JobFiles
from lego_serve.jobstore.running.checkpoints import Checkpoints, FileCheckpoints
from lego_serve.jobstore.running.previews import FilePreviews, Previews
from lego_serve.webhooks.settings import WebhookSettings


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
        """Remove what an ended job needs no more: checkpoints, previews and images of its request.

        What cannot be removed now goes with the job.
        """
        for running in (self.checkpoints, self.previews):
            with suppress(StoreUnavailable):
                await running.delete(record.id)
        await self.drop_inputs(record)

    async def drop_inputs(self, record: JobRecord) -> None:
        """Remove the images of an ended job's request."""
        if names := passing_inputs(record.request.inputs):
            with suppress(StoreUnavailable):
                await asyncio.to_thread(self.files.delete_inputs, record.id, names)

    def written(self, record: JobRecord) -> None:
        """This gateway has written a change of a job: whoever watches hears of it, ends are counted and learnt from."""
        if record.status.has_ended:
            self.queue.learn(record)
            self.context.metrics.count_durable_end(record.status.value)
        self.watchers.tell(record)
