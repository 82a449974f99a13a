"""Durable jobs over HTTP: accepted in two ways, read in five, ended once."""

import asyncio
import base64
import hashlib
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from lego_serve.core.durable_jobs.preview import JobPreview
from lego_serve.core.durable_jobs.record import JobRecord
from lego_serve.core.jobs.job import GeneratedImage, JobProgress
from lego_serve.errors import StoreUnavailable
from lego_serve.gateway.jobs.service import DurableJobs
from lego_serve.gateway.jobs.watching import JobEvent
from lego_serve.gateway.settings import GatewaySettings
from tests.support.gateway.client import error_of, file_of, mask_of
from tests.support.gateway.durable import Cluster, until, wait_until
from tests.support.gateway.runner import FakeRunner

IMAGES, JOBS = "/v1/images/generations", "/v1/jobs"
ASYNC = {"prefer": "respond-async"}
BODY = {"prompt": "a red circle", "size": "96x128", "n": 2}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """One server's store, without keys."""
    return Cluster(tmp_path / "jobs", GatewaySettings("lego-tiny", max_body_bytes=2_000_000))


async def test_any_request_for_images_becomes_a_job_where_its_client_wants_no_image_now(cluster: Cluster) -> None:
    """202 and the job; its result is what the request would have been answered, and each image has a link."""
    async with cluster.gateway() as gateway:
        accepted = await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)
        assert accepted.status_code == 202
        job = accepted.json()
        assert accepted.headers["location"] == f"{JOBS}/{job['id']}"
        assert accepted.headers["preference-applied"] == "respond-async"
        assert (job["object"], job["endpoint"]) == ("job", IMAGES)
        assert job["status"] in ("queued", "in_progress")
        ended = await until(gateway.client, job["id"])
        assert (ended["status"], ended["progress"], ended["images_done"]) == ("completed", 100, 2)
        result = (await gateway.client.get(f"{JOBS}/{job['id']}/result")).json()
        assert [data["seed"] for data in result["data"]] == [result["lego"]["seed"], result["lego"]["seed"] + 1]
        for index, data in enumerate(result["data"]):
            file = base64.b64decode(data["b64_json"])
            assert Image.open(io.BytesIO(file)).size == (96, 128)
            link = ended["result"]["data"][index]["url"]  # type: ignore[index]
            assert link.startswith(f"http://localhost{JOBS}/{job['id']}/images/{index}?")
            fetched = await gateway.client.get(link)
            assert fetched.content == file
            assert fetched.headers["etag"] == f'"{hashlib.sha256(file).hexdigest()}"'
            assert fetched.headers["content-type"] == "image/png"


async def test_a_file_is_fetched_in_parts_and_not_twice(cluster: Cluster) -> None:
    """Range gives a part, and the tag of what a client has gives 304."""
    async with cluster.gateway() as gateway:
        job = (await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)).json()
        await until(gateway.client, job["id"])
        url = f"{JOBS}/{job['id']}/images/0"
        whole = await gateway.client.get(url)
        part = await gateway.client.get(url, headers={"range": "bytes=0-7"})
        assert (part.status_code, part.content) == (206, whole.content[:8])
        for wrong in ("bytes=", "lines=0-7", "bytes=7-0", "bytes=-"):
            assert (await gateway.client.get(url, headers={"range": wrong})).content == whole.content
        assert (await gateway.client.get(url, headers={"range": "bytes=9999999-"})).status_code == 416
        for known in (whole.headers["etag"], f'"other", W/{whole.headers["etag"]}', "*"):
            same = await gateway.client.get(url, headers={"if-none-match": known})
            assert (same.status_code, same.content) == (304, b"")
        missing = await gateway.client.get(f"{JOBS}/{job['id']}/images/2")
        assert error_of(missing) == (404, "image_not_found", "index")


async def test_a_job_names_an_endpoint_and_its_body_or_a_workflow_and_its_inputs(cluster: Cluster) -> None:
    """Both make the same image of the same seed; what is said of the job is kept beside."""
    cluster.wall = lambda: 1_800_000_000.0
    async with cluster.gateway() as gateway:
        options = {"priority": 5, "metadata": {"order": "17"}, "deadline_ms": 60_000}
        bodies = [
            {"endpoint": IMAGES, "body": {"prompt": "a", "size": "96x96", "seed": 3, "num_inference_steps": 4}},
            {"workflow": "lego-tiny", "inputs": {"prompt": "a", "width": 96, "height": 96, "seed": 3, "steps": 4}},
        ]
        for body in bodies:
            answer = await gateway.client.post(JOBS, json=body | options, headers={"prefer": "wait=60"})
            assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=60")
            job = answer.json()
            assert (job["status"], job["priority"], job["metadata"]) == ("completed", 5, {"order": "17"})
            assert job["deadline_at"] == job["created_at"] + 60
        first, second = gateway.runner.jobs
        assert dict(first.inputs) == dict(second.inputs)
        assert first.deadline_s == pytest.approx(160)


async def test_of_two_deadlines_the_earlier_one_holds(cluster: Cluster) -> None:
    """The job's and its body's."""
    cluster.wall = lambda: 1_800_000_000.0
    async with cluster.gateway() as gateway:
        for of_job, of_body in ((60_000, 5_000), (5_000, 60_000), (None, 5_000), (5_000, None)):
            body = {"endpoint": IMAGES, "body": BODY | {"deadline_ms": of_body}, "deadline_ms": of_job}
            job = (await gateway.client.post(JOBS, json=body)).json()
            assert job["deadline_at"] == job["created_at"] + 5


async def test_null_is_as_if_it_were_not_given(cluster: Cluster) -> None:
    """Of a workflow's inputs too: no image makes no edit."""
    async with cluster.gateway() as gateway:
        inputs = {"prompt": "a", "image": None, "template": None}
        answer = await gateway.client.post(JOBS, json={"workflow": "lego-tiny", "inputs": inputs})
        assert answer.status_code == 202, answer.text
        assert answer.json()["endpoint"] == IMAGES


async def test_an_edit_is_stored_with_its_files(cluster: Cluster) -> None:
    """As a form with `Prefer`, and as a job with base64; the masked part alone is edited."""
    async with cluster.gateway() as gateway:
        files = {"image": file_of(9), "mask": mask_of()}
        form = await gateway.client.post("/v1/images/edits", data={"prompt": "a"}, files=files, headers=ASYNC)
        assert form.status_code == 202, form.text
        body = {"prompt": "a"} | {name: base64.b64encode(file).decode() for name, file in files.items()}
        job = await gateway.client.post(JOBS, json={"endpoint": "/v1/images/edits", "body": body})
        for answer in (form, job):
            assert (await until(gateway.client, answer.json()["id"]))["status"] == "completed"
        weights = [run.inputs["edit"].weight.tobytes() for run in gateway.runner.jobs]
        assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, (400, "missing", "endpoint")),
        ({"endpoint": IMAGES}, (400, "missing", "endpoint")),
        ({"endpoint": IMAGES, "body": {}, "workflow": "lego-tiny", "inputs": {}}, (400, "missing", "endpoint")),
        ({"endpoint": IMAGES, "body": {"prompt": ""}}, (400, "invalid_value", "prompt")),
        ({"endpoint": IMAGES, "body": {"prompt": "a", "n": 11}}, (400, "out_of_range", "n")),
        ({"endpoint": IMAGES, "body": {"prompt": "a", "model": "no"}}, (404, "model_not_found", "model")),
        ({"endpoint": "/v1/images/edits", "body": {"prompt": "a"}}, (400, "missing", "image")),
        (
            {"endpoint": "/v1/images/edits", "body": {"prompt": "a", "image": "?"}},
            (400, "invalid_base64", "image"),
        ),
        ({"workflow": "lego-tiny", "inputs": {"prompt": "a", "width": 96}}, (400, "invalid_value", "inputs")),
        ({"workflow": "lego-tiny", "inputs": {"prompt": "a"}, "priority": 11}, (400, "out_of_range", "priority")),
        ({"endpoint": "/v1/chat", "body": {}}, (400, "invalid_value", "endpoint")),
    ],
)
async def test_a_wrong_job_is_refused_and_nothing_of_it_is_left(cluster: Cluster, body, error) -> None:
    """The refusal names the field, as for a synchronous request; no record and no file is left."""
    async with cluster.gateway() as gateway:
        answer = await gateway.client.post(JOBS, json=body)
        assert error_of(answer)[::2] == error[::2], answer.text
        assert (await gateway.client.get(JOBS)).json()["data"] == []
    assert [path.name for path in cluster.folder.iterdir() if path.is_dir()] == []


async def events_of(gateway, job_id: str) -> list[tuple[str, dict]]:
    """All events of a job, to its end."""
    answer = await gateway.client.get(f"{JOBS}/{job_id}/events")
    blocks = [block.splitlines() for block in answer.text.strip().split("\n\n") if not block.startswith(":")]
    return [(lines[0].removeprefix("event: "), json.loads(lines[2].removeprefix("data: "))) for lines in blocks]


async def hear(jobs: DurableJobs, job_id: str, heard: list[JobEvent | None]) -> None:
    """Write down what a second watcher is told at the same moment as the first."""
    record = await jobs.store.get(job_id)
    assert record is not None
    async for event in jobs.watch(record):
        heard.append(event)


async def test_events_tell_the_state_now_each_step_previews_and_the_end(cluster: Cluster) -> None:
    """Each holds the whole job; whoever comes after the end is told of the end."""
    runner = FakeRunner()
    runner.gate = asyncio.Event()
    preview = GeneratedImage(2, 2, bytes(12), 0)
    async with cluster.gateway(runner) as gateway:
        job = (await gateway.client.post(IMAGES, json=BODY | {"n": 1}, headers=ASYNC)).json()
        jobs, heard = gateway.app.state.jobs, list[JobEvent | None]()
        await jobs.signer()  # which would keep the first watcher, so that it misses what the second hears
        listening = asyncio.ensure_future(events_of(gateway, job["id"]))
        await wait_until(lambda: bool(runner.waiting))
        await wait_until(lambda: jobs.is_watched(job["id"]))
        hearing = asyncio.ensure_future(hear(jobs, job["id"], heard))
        await wait_until(lambda: bool(heard))
        attempt = jobs.worker.attempt(job["id"])
        attempt.note(JobProgress(0, 5, 20, 1.5, preview))
        await wait_until(lambda: any(isinstance(event, JobPreview) for event in heard))
        attempt.note(JobProgress(0, 10, 20, 1.0))
        await wait_until(lambda: any(isinstance(event, JobRecord) and event.progress.step == 10 for event in heard))
        runner.gate.set()
        await hearing
        events = await listening
        names = [name for name, _ in events]
        assert names[0] == "job.progress"
        assert names[-2:] == ["job.image", "job.completed"]
        shown = next(event for name, event in events if name == "job.preview")
        assert (shown["preview"]["step"], shown["preview"]["steps"]) == (5, 20)
        Image.open(io.BytesIO(base64.b64decode(shown["preview"]["b64_json"]))).verify()
        steps = [event["step"] for name, event in events if name == "job.progress"]
        assert steps == sorted(steps)
        assert 10 in steps
        assert {event["id"] for _, event in events} == {job["id"]}
        assert [name for name, _ in await events_of(gateway, job["id"])] == ["job.image", "job.completed"]


async def test_a_cancelled_job_ends_at_once_and_its_lanes_with_it(cluster: Cluster) -> None:
    """A second cancel changes nothing, its result is 409, and it can be deleted with all it had."""
    runner = FakeRunner()
    runner.gate = asyncio.Event()
    async with cluster.gateway(runner) as gateway:
        job = (await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)).json()
        await wait_until(lambda: bool(runner.waiting))
        for _ in range(2):
            cancelled = await gateway.client.post(f"{JOBS}/{job['id']}/cancel")
            assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
        await wait_until(lambda: not runner.in_flight)
        assert error_of(await gateway.client.get(f"{JOBS}/{job['id']}/result"))[:2] == (409, "job_cancelled")
        deleted = await gateway.client.delete(f"{JOBS}/{job['id']}")
        assert deleted.json() == {"id": job["id"], "object": "job", "deleted": True}
        assert error_of(await gateway.client.get(f"{JOBS}/{job['id']}"))[:2] == (404, "job_not_found")
    assert [path.name for path in cluster.folder.iterdir() if path.is_dir()] == []


async def test_a_job_is_deleted_though_its_files_cannot_be_removed_now(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record is gone, and so is what it had soon after; a 503 would say that it is there still."""

    def away(job_id: str) -> None:
        raise StoreUnavailable("The object store does not answer; try again later.")

    async with cluster.gateway() as gateway:
        job = (await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)).json()
        await until(gateway.client, job["id"])
        monkeypatch.setattr(gateway.app.state.jobs.files, "delete", away)
        assert (await gateway.client.delete(f"{JOBS}/{job['id']}")).status_code == 200
        assert error_of(await gateway.client.get(f"{JOBS}/{job['id']}"))[:2] == (404, "job_not_found")
