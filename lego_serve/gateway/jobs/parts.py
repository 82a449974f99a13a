"""What everything about durable jobs in one gateway shares."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lego_serve.core.durable_jobs.store import JobStore
from lego_serve.gateway.context import Context
from lego_serve.gateway.jobs.settings import JobSettings
from lego_serve.gateway.jobs.watching import Watchers
from lego_serve.jobstore.files import JobFiles
from lego_serve.webhooks.settings import WebhookSettings


@dataclass(frozen=True, slots=True)
class JobStorage:
    """Where durable jobs are kept, how many of them run here, and where their ends may be told.

    ``wall`` is the wall clock in seconds.
    """

    store: JobStore
    files: JobFiles
    settings: JobSettings
    wall: Callable[[], float] = time.time
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)


@dataclass(frozen=True, slots=True)
class JobParts:
    """The gateway's parts, the store of records, the folder of files, and who watches; ``wall`` is the wall clock."""

    context: Context
    store: JobStore
    files: JobFiles
    settings: JobSettings
    wall: Callable[[], float]
    watchers: Watchers = field(default_factory=Watchers)
