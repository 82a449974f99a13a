"""Durable jobs through the unmodified openai client, against a server of two gateways that share a port."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai.pagination import AsyncCursorPage, SyncCursorPage

from lego_serve.process.tree import descendants
from tests.support.e2e.images import PROMPT
from tests.support.e2e.servers import Server, wait_for_death, wait_until_both_serve

pytestmark = pytest.mark.ray
ASYNC = {"Prefer": "respond-async"}
QUICK = {"seed": 5, "num_inference_steps": 8}
LONG = {"seed": 11, "num_inference_steps": 100}
LARGE = {"model": "lego-tiny", "prompt": PROMPT, "size": "192x192", "n": 2}
PATIENCE_S = 120.0


class Job(openai.BaseModel):
    """A job as it is answered; the client keeps every field."""

    id: str
    status: str
    attempt: int


def client_of(server: Server, **words: Any) -> openai.OpenAI:
    """The official package's client."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=PATIENCE_S, **words)


def submitted(client: openai.OpenAI, **request: Any) -> Job:
    """A job that was accepted instead of an image."""
    answer = client.images.with_raw_response.generate(**request, extra_headers=ASYNC)
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "respond-async")
    return Job.model_validate(answer.http_response.json())


def until(client: openai.OpenAI, job_id: str, *statuses: str) -> Job:
    """The job once it is in one of these states; a gateway that is away is asked again."""
    limit = time.monotonic() + PATIENCE_S
    while True:
        job = client.get(f"/jobs/{job_id}", cast_to=Job)
        if job.status in statuses:
            return job
        assert time.monotonic() < limit, job
        time.sleep(0.05)


def files_of(result: openai.types.ImagesResponse) -> list[str | None]:
    """The files of an answer, in base64."""
    return [image.b64_json for image in result.data or ()]


def gateways(server: Server) -> list[int]:
    """The processes of the gateways that serve."""
    found = []
    for pid in descendants(server.process.pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"lego_serve.gateway_process" in words:
            found.append(pid)
    return found


def test_the_openai_client_submits_polls_and_pages(server) -> None:
    """A header makes a job of the request; its result is what the request is answered without the header."""
    client = client_of(server)
    request = {"model": "lego-tiny", "prompt": PROMPT, "size": "128x96", "extra_body": QUICK}
    ids = [submitted(client, **request).id for _ in range(3)]
    assert [until(client, job_id, "completed").attempt for job_id in ids] == [1, 1, 1]
    result = client.get(f"/jobs/{ids[0]}/result", cast_to=openai.types.ImagesResponse)
    assert files_of(result) == files_of(client.images.generate(**request))
    listed = client.get_api_list("/jobs", page=SyncCursorPage[Job], model=Job, options={"params": {"limit": 2}})
    pages = iter(listed.iter_pages())
    first, second = next(pages), next(pages)
    assert [job.id for job in first.data] == ids[:0:-1]
    assert second.data[0].id == ids[0]


async def test_the_async_openai_client_submits_polls_and_pages(server) -> None:
    """In the same way."""
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        answer = await client.images.with_raw_response.generate(
            model="lego-tiny", prompt=PROMPT, extra_headers=ASYNC | {"Prefer": "respond-async, wait=30"}
        )
        job = Job.model_validate(answer.http_response.json())
        assert (answer.status_code, job.status) == (200, "completed")
        assert files_of(await client.get(f"/jobs/{job.id}/result", cast_to=openai.types.ImagesResponse))
        listed = client.get_api_list("/jobs", page=AsyncCursorPage[Job], model=Job, options={"params": {"limit": 1}})
        assert [each.id for each in (await listed).data] == [job.id]


def test_jobs_and_requests_with_keys_outlive_every_gateway(server) -> None:
    """kill -9 of all gateways: a second attempt makes the same bytes, and the client's own retry is answered once."""
    client = client_of(server, max_retries=30)
    undisturbed = files_of(client.images.generate(**LARGE, extra_body=LONG))
    job = submitted(client, **LARGE, extra_body=LONG)
    answers: list[list[str | None]] = []
    keyed = {"extra_body": LONG | {"seed": 12}, "extra_headers": {"Idempotency-Key": job.id}}
    asking = threading.Thread(target=lambda: answers.append(files_of(client.images.generate(**LARGE, **keyed))))
    asking.start()
    limit = time.monotonic() + PATIENCE_S
    while len(client.get("/jobs", cast_to=dict[str, Any], options={"params": {"status": "in_progress"}})["data"]) < 2:
        assert time.monotonic() < limit
        time.sleep(0.02)
    killed = gateways(server)
    assert len(killed) == 2
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    for pid in killed:
        wait_for_death(pid)
    ended = until(client, job.id, "completed")
    assert ended.attempt == 2
    result = client.get(f"/jobs/{job.id}/result", cast_to=openai.types.ImagesResponse)
    assert files_of(result) == undisturbed
    asking.join(PATIENCE_S)
    newest = client.get("/jobs", cast_to=dict[str, Any], options={"params": {"limit": 2}})["data"]
    assert [each["id"] for each in newest[1:]] == [job.id]  # the request with a key is one job, not one for each try
    assert (newest[0]["status"], newest[0]["attempt"]) == ("completed", 2)
    assert answers == [files_of(client.get(f"/jobs/{newest[0]['id']}/result", cast_to=openai.types.ImagesResponse))]
    wait_until_both_serve(server)
    assert httpx2.get(f"{server.url}/health/ready", timeout=10).status_code == 200
