"""The two clients: one is awaited; the other waits, and runs the first on a thread of its own.

What failed before it can have arrived is sent again, and so is what does no harm twice: reading, cancelling, and the
submission of a job, whose idempotency key makes it the same job.
"""

import asyncio
import base64
import json
import random
import threading
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from functools import update_wrapper
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import httpx2

from lego_serve.client.answers import Images, Job, JobFailed, StillRunning, Unreachable, content_of, seconds_in

P = ParamSpec("P")
T = TypeVar("T")
File: TypeAlias = bytes | Path
URL, TIMEOUT_S, RETRIES = "http://127.0.0.1:8000", 600.0, 3
EVENTS_TIMEOUT_S, MOST_PAUSE_S = 60.0, 60.0  # a server says something every 15 s
FILES = {"response_format": "b64_json"}  # whatever the server answers by default
NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


class ImageFields(TypedDict, total=False):
    """Fields of a request for images besides its prompt and images; a server takes more, by ``request``."""

    model: str
    n: int
    size: str
    quality: str
    seed: int
    num_inference_steps: int
    guidance_scale: float
    guidance_start: float
    guidance_end: float
    sampler: str
    tier: str
    tier_floor: str
    negative_prompt: str
    output_format: str
    output_compression: int
    embed_request: bool
    partial_images: int
    deadline_ms: int
    lora: list[dict[str, Any]]
    controlnet: list[dict[str, Any]]
    strength: float
    template: str
    caption: str
    mask_dilation: int
    mask_feather: int
    reuse: str


class AsyncClient:
    """A client to be awaited."""

    def __init__(self, url: str = URL, key: str = "", timeout_s: float = TIMEOUT_S, retries: int = RETRIES) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.AsyncClient(base_url=url, headers=headers, timeout=timeout_s)
        self._retries = retries

    async def generate(self, prompt: str, **fields: Unpack[ImageFields]) -> Images:
        """Make images from a prompt, and wait for them."""
        return Images.of(await self.request("POST", "/v1/images/generations", {"prompt": prompt, **FILES, **fields}))

    async def edit(
        self, prompt: str, image: File | None = None, mask: File | None = None, **fields: Unpack[ImageFields]
    ) -> Images:
        """Make images from an image or a ``template``, and wait for them."""
        form = {"prompt": prompt, **FILES, **{k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}}
        parts = {name: (None, text) for name, text in form.items()}  # a form also where no file goes along
        return Images.of(await self.request("POST", "/v1/images/edits", files=parts | _files(image=image, mask=mask)))

    async def submit(
        self,
        prompt: str,
        image: File | None = None,
        mask: File | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        key: str = "",
        **fields: Unpack[ImageFields],
    ) -> Job:
        """Have a generation, or an edit of an image or ``template``, made whatever becomes of this connection.

        ``options`` of the job: `priority`, `deadline_ms`, `metadata`, `webhook`.  One ``key``, one job.
        """
        files = {name: base64.b64encode(file).decode() for name, file in _files(image=image, mask=mask).items()}
        endpoint = "/v1/images/edits" if files or "template" in fields else "/v1/images/generations"
        body = {"endpoint": endpoint, "body": {"prompt": prompt, **FILES, **fields, **files}, **(options or {})}
        headers = {"idempotency-key": key or str(uuid.uuid4())}
        return Job.of(content_of(await self._send("POST", "/v1/jobs", True, json=body, headers=headers)))

    async def job(self, job: Job | str) -> Job:
        """Return a job as it stands."""
        return Job.of(await self.request("GET", _path(job)))

    async def jobs(self, limit: int = 20, after: str | None = None, status: str | None = None) -> tuple[Job, ...]:
        """Return your newest jobs, or those accepted before the one with the id ``after``; a hundred at most."""
        query = {"limit": limit, "after": after, "status": status}
        given = {name: value for name, value in query.items() if value is not None}
        return tuple(map(Job.of, content_of(await self._send("GET", "/v1/jobs", params=given))["data"]))

    async def progress(self, job: Job | str) -> AsyncGenerator[Job, None]:
        """Yield a job as it stands and after each change, its end last: by its events, by asking where they break."""
        known: Job | None = None
        try:
            async with self._http.stream("GET", f"{_path(job)}/events", timeout=EVENTS_TIMEOUT_S) as answer:
                async for line in answer.aiter_lines():
                    if not answer.is_success or not line.startswith("data:"):
                        continue
                    if (found := Job.of(json.loads(line.removeprefix("data:")))) != known:
                        known = found
                        yield found
        except httpx2.TransportError:
            pass
        while known is None or not known.has_ended:
            answer = await self._send("GET", _path(job))
            if (found := Job.of(content_of(answer))) != known:
                known = found
                yield found
            if not found.has_ended:
                await asyncio.sleep(seconds_in(answer, "openai-poll-after-ms", "retry-after") or 1.0)

    async def wait(self, job: Job | str, timeout_s: float | None = None) -> Job:
        """Return a job when it is completed.  Raises JobFailed where it ends otherwise, StillRunning after the time."""
        try:
            async with asyncio.timeout(timeout_s):
                async for found in self.progress(job):
                    ended = found
        except TimeoutError:
            raise StillRunning(f"the job has not ended after {timeout_s} s") from None
        if ended.status != "completed":
            error = ended.answer.get("error") or {}
            raise JobFailed(f"{ended.id} {ended.status}: {error.get('message')}", code=error.get("code", ended.status))
        return ended

    async def images(self, job: Job | str) -> Images:
        """Return the images of a completed job.  Raises StillRunning, or the error that it ended with."""
        answer = await self._send("GET", f"{_path(job)}/result")
        if answer.status_code == 202:
            raise StillRunning("the job has no images yet")
        content = content_of(answer)
        for index, each in enumerate(content["data"]):
            if "b64_json" not in each:  # whoever submitted the job wanted links
                file = await self._send("GET", f"{_path(job)}/images/{index}")
                each["b64_json"] = base64.b64encode(file.content if file.is_success else content_of(file)).decode()
        return Images.of(content)

    async def cancel(self, job: Job | str) -> Job:
        """End a job; one that has ended stays as it is."""
        return Job.of(content_of(await self._send("POST", f"{_path(job)}/cancel", True)))

    async def templates(self) -> list[dict[str, Any]]:
        """Return your templates, oldest first."""
        return list((await self.request("GET", "/v1/templates"))["data"])

    async def add_template(self, image: File, fields: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Register an image for many edits.

        ``fields`` are `name`, `model`, `size`, `caption`, `pin`, `warm` and `tier`.
        """
        return dict(await self.request("POST", "/v1/templates", fields, _files(image=image)))

    async def adapters(self) -> list[dict[str, Any]]:
        """Return the adapters of the server, for an operator."""
        return list((await self.request("GET", "/v1/admin/adapters"))["data"])

    async def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, files: Mapping[str, Any] | None = None
    ) -> Any:
        """Return the answer to any request: of a JSON body, or of a form where there are files."""
        content = {"json": body} if files is None else {"data": body, "files": files}
        return content_of(await self._send(method, path, method != "POST", **content))

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def _send(self, method: str, path: str, is_safe: bool = True, **content: Any) -> httpx2.Response:
        """Return the answer to a request, which is sent again where that ``is_safe``.  Raises Unreachable."""
        for left in reversed(range(self._retries + 1)):
            pause_s = None
            try:
                answer = await self._http.request(method, path, **content)
                if not left or answer.status_code not in (429, 503) or answer.headers.get("x-should-retry") == "false":
                    return answer
                pause_s = seconds_in(answer, "retry-after-ms", "retry-after")
            except httpx2.TransportError as error:
                if not left or not (is_safe or isinstance(error, NEVER_SENT)):
                    raise Unreachable(f"{self._http.base_url}: {type(error).__name__}") from error
            await asyncio.sleep(min(pause_s or random.uniform(0.1, 0.5) * 2 ** (self._retries - left), MOST_PAUSE_S))
        raise AssertionError("the last try returns or raises")


def _blocking(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Client", P], T]:
    def call(client: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return client.wait_for(method(client.awaited, *args, **kwargs))

    return update_wrapper(call, method)


class Client:
    """A client that waits."""

    def __init__(self, url: str = URL, key: str = "", timeout_s: float = TIMEOUT_S, retries: int = RETRIES) -> None:
        self.awaited, self._loop = AsyncClient(url, key, timeout_s, retries), asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    generate, edit, submit = _blocking(AsyncClient.generate), _blocking(AsyncClient.edit), _blocking(AsyncClient.submit)
    job, jobs, wait = _blocking(AsyncClient.job), _blocking(AsyncClient.jobs), _blocking(AsyncClient.wait)
    images, cancel, request = (
        _blocking(AsyncClient.images),
        _blocking(AsyncClient.cancel),
        _blocking(AsyncClient.request),
    )
    templates, add_template = _blocking(AsyncClient.templates), _blocking(AsyncClient.add_template)
    adapters = _blocking(AsyncClient.adapters)

    def progress(self, job: Job | str) -> Iterator[Job]:
        """Yield a job as it stands and after each change, its end last."""
        jobs = self.awaited.progress(job)

        async def following() -> Job | None:
            return await anext(jobs, None)

        try:
            while (found := self.wait_for(following())) is not None:
                yield found
        finally:
            self.wait_for(jobs.aclose())

    def close(self) -> None:
        """Close its connections, and end its thread."""
        self.wait_for(self.awaited.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine of the awaited client comes to."""
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result()
        finally:
            running.cancel()  # where the wait was interrupted


def _path(job: Job | str) -> str:
    return f"/v1/jobs/{quote(job if isinstance(job, str) else job.id, safe='')}"


def _files(**files: File | None) -> dict[str, Any]:
    given = {name: file for name, file in files.items() if file is not None}
    return {name: file if isinstance(file, bytes) else file.read_bytes() for name, file in given.items()}
