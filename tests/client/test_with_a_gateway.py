"""The client against the real gateway, whose runner answers at once."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from lego_serve.client import Client, JobFailed, StillRunning
from lego_serve.core.jobs.job import GeneratedImage, JobProgress
from lego_serve.errors import IdempotencyKeyReused, NodeError, NotFound, RequestError
from lego_serve.gateway.settings import GatewaySettings, KeptImageSettings, TemplateSettings
from lego_serve.jobstore.blobs.folder import FolderBlobs
from tests.support.gateway.client import Live, file_of, mask_of
from tests.support.gateway.durable import Cluster
from tests.support.gateway.runner import FakeRunner

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)
PNG = b"\x89PNG"


@dataclass
class Served:
    """A client, and the runner behind its gateway."""

    client: Client
    runner: FakeRunner
    url: str


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A gateway with durable jobs and templates, on a socket."""
    runner = FakeRunner()
    templates = TemplateSettings(tmp_path / "templates", 3, 100_000, {"lego-tiny": 300_000})
    settings = GatewaySettings("lego-tiny", max_body_bytes=2_000_000, templates=templates)
    with Live(Cluster(tmp_path / "jobs", settings).app(runner)) as url:
        client = Client(url, retries=1)
        yield Served(client, runner, url)
        client.close()


def test_images_and_edits(served: Served) -> None:
    """Fields, files and lists arrive as they are meant."""
    made = served.client.generate("a", size="96x128", n=2, seed=7, lora=[{"name": "a", "scale": 0.5}])
    assert [file[:4] for file in made.files] == [PNG, PNG]
    assert (made.seeds, made.answer["size"]) == ((7, 8), "96x128")
    edited = served.client.edit("a", file_of(), mask_of(), seed=3, reuse="exact", lora=[{"name": "a"}])
    assert edited.files[0][:4] == PNG
    assert served.runner.jobs[1].inputs["seed"] == 3


def test_a_job_from_its_submission_to_its_images(served: Served) -> None:
    """It is one job however often it is submitted with its key."""
    client = served.client
    job = client.submit("a", seed=7, size="96x96", key="order-17", options={"metadata": {"order": "17"}})
    assert client.submit("a", seed=7, size="96x96", key="order-17", options={"metadata": {"order": "17"}}).id == job.id
    assert client.wait(job).progress == 100
    images = client.images(job)
    assert (images.files[0][:4], images.seeds) == (PNG, (7,))
    assert [found.id for found in client.jobs(status="completed")] == [job.id]
    assert client.job(job).answer["metadata"] == {"order": "17"}
    with pytest.raises(RequestError) as reused:
        client.submit("b", key="order-17")
    assert (reused.value.status, reused.value.code) == (IdempotencyKeyReused.status, IdempotencyKeyReused.code)
    client.request("DELETE", f"/v1/jobs/{job.id}")
    with pytest.raises(NotFound):
        client.job(job)


def test_an_edit_is_a_job_too(served: Served) -> None:
    """Its images go along as base64."""
    job = served.client.wait(served.client.submit("a", file_of(), mask_of(), seed=3))
    assert job.answer["endpoint"] == "/v1/images/edits"
    assert served.client.images(job).files[0][:4] == PNG


def test_a_jobs_progress_is_told_as_it_is_made(served: Served) -> None:
    """With previews; the end comes last, and once."""
    served.runner.gate = gate = asyncio.Event()
    served.runner.progress = [JobProgress(0, 5, 10, 1.0, GeneratedImage(8, 8, bytes(192), 1))]
    job = served.client.submit("a", partial_images=1)
    found = []
    for state in served.client.progress(job):
        found.append(state)
        if state.step == 5:  # a preview may come before, with the step that was known then
            served.runner.loop.call_soon_threadsafe(gate.set)
    assert [state.has_ended for state in found] == [False] * (len(found) - 1) + [True]
    assert found[-1].status == "completed"
    assert any(state.step == 5 for state in found)


def test_a_job_that_runs_is_cancelled(served: Served) -> None:
    """Whoever waits for it hears of it."""
    served.runner.gate = asyncio.Event()
    job = served.client.submit("a")
    with pytest.raises(StillRunning):
        served.client.wait(job, timeout_s=0.1)
    with pytest.raises(StillRunning):
        served.client.images(job)
    assert served.client.cancel(job).status == "cancelled"
    with pytest.raises(JobFailed) as failed:
        served.client.wait(job)
    assert failed.value.code == "cancelled"


def test_a_job_that_fails_says_as_what(served: Served) -> None:
    """Waited for, and where its images are asked for."""
    served.runner.error = NodeError("It broke.")
    job = served.client.submit("a")
    with pytest.raises(JobFailed, match=r"It broke\.") as failed:
        served.client.wait(job)
    assert failed.value.code == "node_failed"
    with pytest.raises(Exception, match=r"It broke\."):
        served.client.images(job)


def test_templates_and_adapters(served: Served) -> None:
    """A registered image is in the list, and is edited by its id."""
    card = served.client.add_template(file_of(), {"name": "grey"})
    assert [each["id"] for each in served.client.templates()] == [card["id"]]
    assert served.client.edit("a", template=card["id"]).files
    assert [each["id"] for each in served.client.adapters()] == ["a", "b"]


def test_images_are_files_where_a_server_answers_links(tmp_path: Path) -> None:
    """By default, or because whoever submitted the job asked for them."""
    kept = KeptImageSettings(FolderBlobs(tmp_path / "kept"))
    settings = GatewaySettings("lego-tiny", default_response_format="url", kept_images=kept)
    with Live(Cluster(tmp_path / "jobs", settings).app(FakeRunner())) as url, closing(Client(url)) as client:
        body = {"endpoint": "/v1/images/generations", "body": {"prompt": "a", "response_format": "url"}}
        linked = client.wait(client.request("POST", "/v1/jobs", body)["id"])
        made = client.generate("a"), client.edit("a", file_of()), client.images(client.wait(client.submit("a")))
        assert [images.files[0][:4] for images in (*made, client.images(linked))] == [PNG] * 4


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_blocks_of_the_clients_page_run(served: Served, block: str, tmp_path: Path, monkeypatch) -> None:
    """As they stand, but for the address."""
    monkeypatch.chdir(tmp_path)
    exec(compile(block.replace("http://127.0.0.1:8000", served.url), "client.md", "exec"), {})
    assert served.runner.jobs
