"""Prompts as durable jobs: the job's idempotency key is the prompt's id, and its graph is kept beside its images."""

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fastapi import Request

from lego_serve.compat.comfyui.answers import EndedPrompt, QueuedPrompt
from lego_serve.compat.comfyui.bodies import PromptBody
from lego_serve.compat.comfyui.faults import PromptRefused
from lego_serve.compat.comfyui.paths import PROMPT_ID, saved_files
from lego_serve.compat.comfyui.translate import translate
from lego_serve.compat.task import SavedAs
from lego_serve.core.durable_jobs.inputs import MARK
from lego_serve.core.durable_jobs.record import JobRecord, JobStatus
from lego_serve.core.durable_jobs.store import MAX_PAGE, JobQuery
from lego_serve.core.tiers.book import EXACT
from lego_serve.core.tiers.checkpoints import NO_SUCH_TIER
from lego_serve.errors import IdempotencyKeyReused, LegoError, NotFound, RequestError
from lego_serve.gateway.compat.preparation import ForeignImages
from lego_serve.gateway.errors import settle
from lego_serve.gateway.jobs.service import DurableJobs, Submitted
from lego_serve.gateway.jobs.submission import EDITS, GENERATIONS, JobOptions, Submission
from lego_serve.gateway.queue.shared_looks import SharedLooks
from lego_serve.gateway.requests.schemas import EditRequest
from lego_serve.gateway.settings import Caller

log = logging.getLogger("lego_serve.gateway")
KEY = "comfyui:"  # before the prompt's id, in the job's idempotency key
GRAPH_FILE = "graph"
CLIENT, PREVIEWS = "comfyui.client_id", "comfyui.previews"  # in the job's metadata
PREVIEW_METHODS = ("auto", "latent2rgb", "taesd")
LANE_PREVIEWS = 3  # of each image; they are made into files where somebody listens
FIRST = 1  # the priority of prompts that are to go before others
MAX_KNOWN = 512  # graphs that are kept in memory
MOMENT_S = 1.0
RECENT = 20
OPEN = (JobStatus.IN_PROGRESS, JobStatus.QUEUED)


STATUS_WORDS: Mapping[JobStatus, Literal["success", "interrupted"]] = {
    JobStatus.COMPLETED: "success",
    JobStatus.CANCELLED: "interrupted",
}


@dataclass(frozen=True, slots=True)
class Graph:
    """A prompt's nodes, the outputs among them, and the one that samples."""

    nodes: Mapping[str, object]
    outputs: tuple[SavedAs, ...] = ()
    sampling_node: str = ""

    @property
    def sampler(self) -> str:
        """The class of the sampling node."""
        entry = self.nodes.get(self.sampling_node)
        return str(entry.get("class_type", "")) if isinstance(entry, Mapping) else ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A job that is a prompt."""

    record: JobRecord
    id: str
    graph: Graph

    @property
    def client_id(self) -> str:
        """Who is told of it; empty for nobody."""
        return self.record.request.metadata.get(CLIENT, "")

    @property
    def has_previews(self) -> bool:
        """Whether its client asked for previews."""
        return PREVIEWS in self.record.request.metadata

    @property
    def is_in_history(self) -> bool:
        """Whether it ran and ended; one that was taken from the queue leaves no trace."""
        status = self.record.status
        return status.has_ended and (status is not JobStatus.CANCELLED or self.record.started_at is not None)

    @property
    def queued(self) -> QueuedPrompt:
        """The prompt as queue and history list it; a later one has a larger number."""
        number = int(self.record.created_at * 1000)
        outputs = [output.node for output in self.graph.outputs]
        extra = {"client_id": self.client_id} if self.client_id else {}
        is_first = self.record.request.priority >= FIRST
        return QueuedPrompt(self.id, -number if is_first else number, self.graph.nodes, outputs, extra)

    def files(self, record: JobRecord) -> dict[str, list[dict[str, object]]]:
        """Return the files of each output, of a job that is done."""
        made = (record.result or {}).get("images")
        count = len(made) if isinstance(made, Sequence) else 0
        return {output.node: saved_files(output, self.id, count) for output in self.graph.outputs if count}

    @property
    def ended(self) -> EndedPrompt:
        """How it ended."""
        record = self.record
        began = record.started_at or record.created_at
        return EndedPrompt(
            self.queued,
            STATUS_WORDS.get(record.status, "error"),
            int(began * 1000),
            int((record.completed_at or began) * 1000),
            self.files(record),
            "" if record.error is None else record.error.message,
            self.graph.sampling_node,
        )


class Accepted:
    """How many prompts this gateway has accepted, for who waits for the next one."""

    def __init__(self) -> None:
        self.count = 0
        self._next = asyncio.Event()

    def add(self) -> None:
        """Count one more."""
        self.count += 1
        self._next.set()
        self._next = asyncio.Event()

    async def wait(self, timeout_s: float) -> None:
        """Wait until there is one more, for so long at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._next.wait(), timeout_s)


class Prompts:
    """The prompts of all tenants, in the store of jobs."""

    def __init__(self, jobs: DurableJobs) -> None:
        self.jobs = jobs
        self.accepted = Accepted()
        self._known: dict[str, Graph] = {}
        self._remaining = SharedLooks(self._count_open)  # each of many listeners asks as a prompt ends

    async def submit(
        self, request: Request, caller: Caller, body: PromptBody, wanted: ForeignImages, graph: Graph
    ) -> Prompt:
        """Accept a prompt.  Raises LegoError, IdempotencyKeyReused where its id is another prompt's."""
        prompt_id = body.prompt_id or str(uuid.uuid4())
        metadata = {CLIENT: body.client_id} if body.client_id else {}
        if body.extra_data.get("preview_method") in PREVIEW_METHODS:
            metadata[PREVIEWS] = "1"
        submission = Submission(
            EDITS if isinstance(wanted.body, EditRequest) else GENERATIONS,
            wanted.body.model_copy(update={"partial_images": LANE_PREVIEWS}),
            {**wanted.files, GRAPH_FILE: json.dumps(body.prompt, sort_keys=True).encode()},
            JobOptions(priority=FIRST if body.goes_first else 0, metadata=metadata),
            KEY + prompt_id,
        )
        submitted = await self._submit(caller, submission, request)
        await settle(request, is_replayed=submitted.is_replayed)
        self._remember(submitted.record.id, graph)
        self.accepted.add()
        return Prompt(submitted.record, prompt_id, graph)

    async def _submit(self, caller: Caller, submission: Submission, request: Request) -> Submitted:
        """Accept a job in its model's default tier, or where that is not tuned for it in all of its steps.

        A graph has no place to name a tier.  Raises LegoError.
        """
        try:
            return await self.jobs.submit(caller, submission, request)
        except RequestError as error:
            # A prompt that is sent again may have been accepted as one in all of its steps.
            if not isinstance(error, IdempotencyKeyReused) and error.code != NO_SUCH_TIER:
                raise
        in_full = replace(submission, body=submission.body.model_copy(update={"tier": EXACT}))
        submitted = await self.jobs.submit(caller, in_full, request)
        if not submitted.is_replayed:
            log.info("job %s runs all of its steps: the default tier is not tuned for it", submitted.record.id)
        return submitted

    async def find(self, tenant: str, prompt_id: str) -> Prompt | None:
        """Return a tenant's prompt by its id; None where there is none."""
        if PROMPT_ID.fullmatch(prompt_id) is None:
            return None
        record = await self.jobs.store.find(tenant, KEY + prompt_id)
        return None if record is None else await self.of(record)

    async def open(self, tenant: str) -> tuple[list[Prompt], list[Prompt]]:
        """Return a tenant's prompts that run and those that wait, the oldest first."""
        running, waiting = [
            await self._of_all(await self._page(tenant, MAX_PAGE, status, ascending=True)) for status in OPEN
        ]
        return running, waiting

    async def just_ended(self, tenant: str) -> list[Prompt]:
        """Return a tenant's prompts that ended a moment ago, the oldest first."""
        since = await self.jobs.store.now() - MOMENT_S
        return [prompt for prompt in await self.ended(tenant, RECENT) if (prompt.record.completed_at or 0.0) > since]

    async def latest(self, tenant: str, count: int) -> list[Prompt]:
        """Return a tenant's latest prompts in any state, the newest first."""
        return await self._of_all(await self._page(tenant, count))

    async def ended(self, tenant: str, count: int) -> list[Prompt]:
        """Return a tenant's latest prompts that ran and ended, the oldest first."""
        prompts = await self.latest(tenant, count)
        return [prompt for prompt in reversed(prompts) if prompt.is_in_history]

    async def remaining(self, tenant: str) -> int:
        """Return how many of a tenant's prompts wait or run: one look for all who want to know at the same time."""
        return await self._remaining.ask(tenant)

    async def _count_open(self, tenant: str) -> int:
        return sum(map(len, await self.open(tenant)))

    async def of(self, record: JobRecord) -> Prompt | None:
        """Return a job as a prompt; None where it is no prompt."""
        key = record.request.key or ""
        return Prompt(record, key.removeprefix(KEY), await self._graph(record)) if key.startswith(KEY) else None

    async def _page(
        self, tenant: str, count: int, status: JobStatus | None = None, *, ascending: bool = False
    ) -> list[JobRecord]:
        query = JobQuery(tenant, limit=min(count, MAX_PAGE), ascending=ascending, status=status)
        return list((await self.jobs.page(query)).jobs)

    async def _of_all(self, records: list[JobRecord]) -> list[Prompt]:
        found = [await self.of(record) for record in records]
        return [prompt for prompt in found if prompt is not None]

    async def _graph(self, record: JobRecord) -> Graph:
        known = self._known.get(record.id)
        if known is None:
            try:
                known = read_graph(await asyncio.to_thread(self._read, record))
            except (LegoError, ValueError):  # its files are gone, or another version wrote them
                return Graph({})
            self._remember(record.id, known)
        return known

    def _read(self, record: JobRecord) -> object:
        files = record.request.inputs.get("files")
        entry = files.get(GRAPH_FILE) if isinstance(files, Mapping) else None
        if not isinstance(entry, Mapping):
            raise NotFound("The prompt's graph is not kept.")
        return json.loads(self.jobs.files.read_input(record.id, str(entry[MARK])))

    def _remember(self, job_id: str, graph: Graph) -> None:
        while len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[job_id] = graph


def read_graph(nodes: object) -> Graph:
    """Return a graph as it was accepted once.  Raises ValueError."""
    if not isinstance(nodes, Mapping):
        raise ValueError("a graph is an object of nodes")
    try:
        task = translate(nodes)
    except PromptRefused:
        return Graph(nodes)
    return Graph(nodes, task.outputs, task.sampling_node or "")
