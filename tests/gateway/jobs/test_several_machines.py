"""Durable jobs over gateways that share Redis and an object store, and no folder: as on several machines."""

import asyncio
import io
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from obstore.store import MemoryStore
from PIL import Image

from lego_serve.core.durable_jobs.preview import JobPreview
from lego_serve.core.durable_jobs.record import JobRecord, JobStatus
from lego_serve.core.jobs.job import GeneratedImage, JobProgress
from lego_serve.core.jobs.progress import LaneCheckpoint
from lego_serve.errors import StoreUnavailable
from lego_serve.gateway.jobs.watching import JobEvent
from lego_serve.gateway.settings import GatewaySettings, KeptImageSettings
from lego_serve.jobstore.blobs.folder import FolderBlobs
from lego_serve.jobstore.blobs.objects import ObjectBlobs
from lego_serve.jobstore.redis_client import connect, connect_for_bytes
from lego_serve.jobstore.redis_store import RedisJobStore
from lego_serve.jobstore.running.checkpoints import FileCheckpoints
from lego_serve.jobstore.running.redis_checkpoints import RedisCheckpoints
from lego_serve.jobstore.running.redis_previews import RedisPreviews
from lego_serve.jobstore.sweeping import release
from tests.support.gateway.durable import LEASE_S, QUICK, Cluster, Gateway, until, wait_until
from tests.support.gateway.images import file_of
from tests.support.gateway.runner import FakeRunner
from tests.support.jobstore.redis_server import RedisServer

IMAGES, EDITS, JOBS = "/v1/images/generations", "/v1/images/edits", "/v1/jobs"
ASYNC = {"prefer": "respond-async"}
BODY = {"prompt": "a red circle"}


class AwayBlobs(ObjectBlobs):
    """An object store that can be away."""

    is_away = False

    def read(self, folder: str, name: str) -> bytes:
        """Read what there is, or nothing."""
        if self.is_away:
            raise StoreUnavailable("The object store of jobs does not answer; try again later.")
        return super().read(folder, name)


class Machines:
    """Two machines."""

    def __init__(self, url: str, folder: Path) -> None:
        self.objects = AwayBlobs(MemoryStore())
        self.first, self.second = (self._machine(url, folder / name) for name in "ab")

    def _machine(self, url: str, folder: Path) -> Cluster:
        return Cluster(
            folder,
            GatewaySettings(
                "lego-tiny",
                max_image_pixels=1_000_000,
                kept_images=KeptImageSettings(self.objects),
                compat=frozenset({"comfyui"}),
            ),
            replace(QUICK, owner=folder.name, max_running=1),
            open_store=lambda: RedisJobStore(connect(url, 60.0), LEASE_S),
            open_checkpoints=lambda: RedisCheckpoints(
                connect_for_bytes(url, 60.0), FileCheckpoints(FolderBlobs(folder))
            ),
            open_previews=lambda: RedisPreviews(connect_for_bytes(url, 60.0)),
            blobs=self.objects,
        )


@pytest.fixture
def machines(redis_server: RedisServer, tmp_path: Path) -> Machines:
    """Two, with nothing to do."""
    redis_server.flush()
    return Machines(redis_server.url, tmp_path)


def held() -> FakeRunner:
    """A runner whose jobs wait."""
    runner = FakeRunner()
    runner.gate = asyncio.Event()
    return runner


async def test_a_job_goes_on_from_a_checkpoint_of_another_machine(machines: Machines) -> None:
    """The first machine is lost; nothing of its disk is needed, and nothing is left in Redis."""
    first_runner = held()
    async with machines.first.gateway(first_runner) as first:
        job_id = (await first.client.post(IMAGES, json=BODY, headers=ASYNC)).json()["id"]
        await wait_until(lambda: bool(first_runner.waiting))
        attempt = first.app.state.jobs.worker.attempt(job_id)
        first_runner.checkpoints.keep("latents", 0, LaneCheckpoint(10, b"ten"))
        store = machines.second.open_checkpoints()  # type: ignore[misc]
        while await store.latest(job_id) is None:
            attempt.note(JobProgress(0, 10, 100, 60.0))
            await asyncio.sleep(0.01)
        async with machines.second.gateway() as second:
            await release(second.app.state.jobs.store, "a 1")
            ended = await until(second.client, job_id)
            assert (ended["status"], ended["attempt"]) == ("completed", 2)
            assert second.runner.checkpoints.kept("latents") == {0: LaneCheckpoint(10, b"ten")}
            await wait_until(lambda: not first.runner.in_flight)
        assert await store.latest(job_id) is None
        await store.close()
    assert not list(machines.first.folder.glob("**/*.ckpt"))


async def test_what_one_machine_was_sent_another_makes_and_each_shows(machines: Machines) -> None:
    """The images of an edit, its mask and its results are objects; parts and tags of these are as of files."""
    form = {"prompt": "a red circle", "seed": "3"}
    files = {"image": ("a.png", file_of(Image.new("RGB", (128, 128))), "image/png")}
    async with machines.first.gateway(held()) as first, AsyncExitStack() as later:
        await first.client.post(IMAGES, json=BODY, headers=ASYNC)
        await wait_until(lambda: bool(first.runner.waiting))
        second = await later.enter_async_context(machines.second.gateway())
        job = (await first.client.post(EDITS, data=form, files=files, headers=ASYNC)).json()
        ended = await until(second.client, job["id"])
        assert ended["status"] == "completed", ended
        shown = [await each.client.get(f"{JOBS}/{job['id']}/images/0") for each in (first, second)]
        assert shown[0].content == shown[1].content
        whole, url = shown[0], f"{JOBS}/{job['id']}/images/0"
        assert (whole.headers["content-type"], whole.headers["accept-ranges"]) == ("image/png", "bytes")
        size = len(whole.content)
        for asked, status, content in (
            ("bytes=0-7", 206, whole.content[:8]),
            ("bytes=8-", 206, whole.content[8:]),
            ("bytes=-5", 206, whole.content[-5:]),
            (f"bytes=1-{size + 99}", 206, whole.content[1:]),
            (f"bytes={size}-", 416, b""),
            ("bytes=5-2", 200, whole.content),
            ("bytes=0-1,3-4", 200, whole.content),
        ):
            part = await first.client.get(url, headers={"range": asked})
            assert (part.status_code, part.content) == (status, content), asked
        part = await first.client.get(url, headers={"range": "bytes=2-3"})
        assert (part.headers["content-range"], part.headers["content-length"]) == (f"bytes 2-3/{size}", "2")
        tag = whole.headers["etag"]
        assert (await first.client.get(url, headers={"if-none-match": tag})).status_code == 304
        changed = await first.client.get(url, headers={"range": "bytes=2-3", "if-range": '"another"'})
        assert (changed.status_code, changed.content) == (200, whole.content)
        assert (await first.client.delete(f"{JOBS}/{job['id']}")).status_code == 200
        assert list(machines.objects.list(job["id"])) == []


async def test_previews_and_steps_are_seen_through_any_machine(machines: Machines) -> None:
    """As soon as the record says that there is news."""
    async with machines.first.gateway(held()) as first, machines.second.gateway(held()) as second:
        await watched_through_another(first, second)


async def test_previews_and_steps_are_seen_through_any_gateway_of_a_machine(tmp_path: Path) -> None:
    """Over a database and a folder; the job's end leaves none."""
    cluster = Cluster(tmp_path / "jobs", GatewaySettings("lego-tiny"), replace(QUICK, max_running=1))
    async with cluster.gateway(held()) as first, cluster.gateway(held()) as second:
        await watched_through_another(first, second)
    assert not list(cluster.folder.glob("*/*.preview"))


async def watched_through_another(first: Gateway, second: Gateway) -> None:
    """A job that one gateway runs is watched in the other: its previews, each once, its steps and its end."""
    body = {"endpoint": IMAGES, "body": BODY | {"partial_images": 2}}
    job_id = (await first.client.post(JOBS, json=body)).json()["id"]
    await wait_until(lambda: bool(first.runner.waiting or second.runner.waiting))
    runs, other = (first, second) if first.runner.waiting else (second, first)
    attempt = runs.app.state.jobs.worker.attempt(job_id)
    record = await other.app.state.jobs.store.get(job_id)
    seen: list[JobEvent] = []

    async def watch() -> None:
        async for event in other.app.state.jobs.watch(record):
            if event is not None:
                seen.append(event)

    watching = asyncio.ensure_future(watch())
    for step in (7, 14):
        attempt.note(JobProgress(0, step, 20, 1.0, GeneratedImage(2, 2, bytes(12), 0)))
        await wait_until(lambda step=step: step in [each.step for each in seen if isinstance(each, JobPreview)])
    await wait_until(lambda: any(isinstance(each, JobRecord) and each.progress.step == 14 for each in seen))
    assert runs.runner.gate is not None
    runs.runner.gate.set()
    async with asyncio.timeout(60):
        await watching
    previews = [each for each in seen if isinstance(each, JobPreview)]
    assert [each.step for each in previews] == [7, 14]
    Image.open(io.BytesIO(previews[0].jpeg)).verify()
    assert isinstance(seen[-1], JobRecord)
    assert seen[-1].status is JobStatus.COMPLETED


async def test_a_job_whose_images_cannot_be_read_now_goes_round_again(machines: Machines) -> None:
    """It neither fails nor counts as a death: the object store comes back."""
    form = {"prompt": "a red circle", "seed": "3"}
    files = {"image": ("a.png", file_of(Image.new("RGB", (128, 128))), "image/png")}
    async with machines.first.gateway(held()) as first:
        await first.client.post(IMAGES, json=BODY, headers=ASYNC)
        await wait_until(lambda: bool(first.runner.waiting))
        job_id = (await first.client.post(EDITS, data=form, files=files, headers=ASYNC)).json()["id"]
        machines.objects.is_away = True
        async with machines.second.gateway() as second:
            while (await until(second.client, job_id, "in_progress", "queued"))["attempt"] < 2:  # type: ignore[operator]
                await asyncio.sleep(0.01)
            machines.objects.is_away = False
            assert (await until(second.client, job_id))["status"] == "completed"


async def test_links_and_uploads_of_one_machine_are_another_ones_too(machines: Machines) -> None:
    """A link opens the same image everywhere, also a part of it; an upload is seen, listed and replaced everywhere."""
    async with machines.first.gateway() as first, machines.second.gateway() as second:
        body = BODY | {"response_format": "url"}
        link = (await first.client.post(IMAGES, json=body)).json()["data"][0]["url"]
        shown = [await each.client.get(link) for each in (first, second)]
        assert [each.status_code for each in shown] == [200, 200]
        assert shown[0].content == shown[1].content
        part = await second.client.get(link, headers={"range": "bytes=0-7"})
        assert (part.status_code, part.content) == (206, shown[0].content[:8])
        assert (await second.client.get(link.replace("-0.png", "-1.png"))).status_code == 401
        contents = [file_of(Image.new("RGB", (128, 128), colour)) for colour in ("red", "blue")]
        for gateway, content, name in ((first, contents[0], "a.png"), (second, contents[1], "a (1).png")):
            files = {"image": ("a.png", content, "image/png")}
            assert (await gateway.client.post("/upload/image", files=files)).json()["name"] == name
            for other in (first, second):
                view = await other.client.get("/view", params={"filename": name, "type": "input"})
                assert (view.status_code, view.content) == (200, content)
                offered = (await other.client.get("/object_info/LoadImage")).json()["LoadImage"]["input"]["required"]
                assert name in offered["image"][0]
