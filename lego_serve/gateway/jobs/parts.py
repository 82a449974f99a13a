"""What everything about durable jobs in one gateway shares."""

from collections.abc import Callable
from dataclasses import dataclass, field

from lego_serve.core.durable_jobs.store import JobStore
from lego_serve.gateway.context import Context
from lego_serve.gateway.jobs.settings import JobSettings
from lego_serve.gateway.jobs.watching import Watchers
from lego_serve.jobstore.files import JobFiles


@dataclass(frozen=True, slots=True)
class JobParts:
    """The gateway's parts, the store of records, the folder of files, and who watches; ``wall`` is the wall clock."""

    context: Context
    store: JobStore
    files: JobFiles
    settings: JobSettings
    wall: Callable[[], float]
    watchers: Watchers = field(default_factory=Watchers)
