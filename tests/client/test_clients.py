"""Both clients: what they send, what they make of the answers, and what they do where none comes."""

import asyncio
import base64
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lego_serve import client as package
from lego_serve.client import AsyncClient, Client, Images, Job, JobFailed, StillRunning, Unreachable
from lego_serve.client.clients import ImageFields
from lego_serve.errors import CapacityError, LegoError, NotFound, RequestError
from lego_serve.gateway.requests.foreign_fields import ForeignFields
from lego_serve.gateway.requests.schemas import REFUSED, EditRequest, GenerationRequest
from tests.support.gateway.scripted_server import Answer, ScriptedServer

URL = "/v1/images/generations"
IMAGES = {"created": 1, "data": [{"b64_json": base64.b64encode(b"png").decode(), "seed": 7}], "size": "8x8"}
HANG_UP = Answer(b"", hangs_up=True)
FILES = {"response_format": "b64_json"}
POLL = {"openai-poll-after-ms": "10"}
NOT_FOR_CLIENTS = {  # an argument of its own, what its methods decide, and what has no effect
    "prompt", "stream", "stream_progress", "response_format",
    "background", "moderation", "style", "input_fidelity", "user", "safety_identifier",
}  # fmt: skip


def card(status: str = "queued", **more: Any) -> dict[str, Any]:
    """A job as the server shows it."""
    return {"id": "job_1", "object": "job", "status": status, "model": "lego-tiny", "progress": 0} | more


def events(*cards: dict[str, Any]) -> bytes:
    """A stream of events, with pings."""
    return b"".join(f"event: job.x\nid: 1\ndata: {json.dumps(each)}\n\n: ping\n\n".encode() for each in cards)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A server that answers as told."""
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    """A client of it that waits."""
    client = Client(server.url, "secret")
    yield client
    client.close()


def test_images_are_files_with_their_seeds(server, client) -> None:
    """The rest of the answer is beside them; the key and the fields go along."""
    server.script[URL] = [Answer(IMAGES)]
    made = client.generate("a circle", seed=7, lora=[{"name": "b"}])
    assert made == Images((b"png",), (7,), {"created": 1, "size": "8x8"})
    [asked] = server.asked
    assert json.loads(asked.body) == {"prompt": "a circle", "seed": 7, "lora": [{"name": "b"}]} | FILES
    assert asked.headers["authorization"] == "Bearer secret"


async def test_the_awaited_client_does_the_same(server) -> None:
    """It is what the other one runs."""
    server.script[URL] = [Answer(IMAGES)]
    client = AsyncClient(server.url)
    assert (await client.generate("a")).files == (b"png",)
    await client.aclose()


async def test_the_waiting_client_works_where_a_loop_runs_already(server, client) -> None:
    """As in a notebook."""
    server.script[URL] = [Answer(IMAGES)]
    assert client.generate("a").seeds == (7,)


def test_an_edit_is_a_form_with_files(server, client, tmp_path: Path) -> None:
    """Lists and numbers as JSON; a file may be a path; an edit of a template has no file and is a form all the same."""
    (tmp_path / "mask.png").write_bytes(b"mask")
    server.script["/v1/images/edits"] = [Answer(IMAGES)]
    client.edit("a", b"image", tmp_path / "mask.png", lora=[{"name": "b"}], n=2)
    client.edit("a", template="tmpl_1")
    for asked, parts in zip(server.asked, ([b"image", b"mask", b'[{"name": "b"}]', b"2"], [b"tmpl_1"]), strict=True):
        assert asked.headers["content-type"].startswith("multipart/form-data")
        assert all(b"\r\n\r\n%s\r\n" % part in asked.body for part in parts)


def test_a_submission_that_got_no_answer_is_sent_again_with_its_key(server, client) -> None:
    """So it is one job, whether or not the first one had arrived."""
    server.script["/v1/jobs"] = [HANG_UP, Answer(card(), 202)]
    job = client.submit("a", seed=3, options={"priority": 2})
    assert (job.id, job.status, job.has_ended) == ("job_1", "queued", False)
    first, second = server.asked
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    expected = {"endpoint": URL, "body": {"prompt": "a", "seed": 3} | FILES, "priority": 2}
    assert json.loads(second.body) == json.loads(first.body) == expected


def test_each_submission_has_a_key_of_its_own_or_the_callers(server, client) -> None:
    """Edits are told by their image or template."""
    server.script["/v1/jobs"] = [Answer(card(), 202)]
    client.submit("a", b"image")
    client.submit("a", template="t")
    client.submit("a", key="mine")
    keys = [asked.headers["idempotency-key"] for asked in server.asked]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"
    bodies = [json.loads(asked.body) for asked in server.asked]
    assert [body["endpoint"] for body in bodies] == ["/v1/images/edits", "/v1/images/edits", URL]
    assert bodies[0]["body"]["image"] == base64.b64encode(b"image").decode()


def test_a_generation_that_got_no_answer_is_not_sent_again(server, client) -> None:
    """Nobody knows whether it was made; who wants to be sure submits a job."""
    server.script[URL] = [HANG_UP, Answer(IMAGES)]
    with pytest.raises(Unreachable):
        client.generate("a")
    assert len(server.asked) == 1


def test_what_the_server_has_no_room_for_is_sent_again_when_it_says(server, client) -> None:
    """Unless it says that this is no use."""
    busy = {"error": {"message": "Full.", "type": "rate_limit_error", "param": None, "code": "over_capacity"}}
    server.script[URL] = [Answer(busy, 429, {"retry-after-ms": "1"}), Answer(IMAGES)]
    assert client.generate("a").files
    server.script[URL] = [Answer(busy, 429, {"x-should-retry": "false"}), Answer(IMAGES)]
    with pytest.raises(CapacityError):
        client.generate("a")


def test_where_nothing_listens_the_error_says_so() -> None:
    """After the retries, of which there may be none."""
    client = Client("http://127.0.0.1:1", retries=0)
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:1.*ConnectError"):
        client.job("job_1")
    client.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, NotFound), (429, CapacityError), (401, RequestError), (409, RequestError), (500, LegoError)],
)
def test_errors_are_those_of_the_server(server, client, status: int, kind: type[LegoError]) -> None:
    """With its status, code, field and when to come again."""
    told = {"message": "No.", "type": "some_error", "param": "n", "code": "some_code"}
    headers = {"retry-after": "3", "x-should-retry": "false"}
    server.script["/v1/jobs/a%2Fb"] = [Answer({"error": told}, status, headers)]
    with pytest.raises(kind) as caught:
        client.job("a/b")
    error = caught.value
    assert (type(error), error.message, error.status) == (kind, "No.", status)
    assert (error.kind, error.param, error.code, error.retry_after_s) == ("some_error", "n", "some_code", 3.0)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'"no"'])
def test_an_answer_of_another_server_is_no_error_of_ours(server, client, body: bytes) -> None:
    """A proxy's page, or JSON of another form."""
    server.script["/v1/jobs/job_1"] = [Answer(body, 502)]
    if body == b"[]":
        with pytest.raises(LegoError, match="answered 502"):
            client.job("job_1")
        return
    with pytest.raises(Unreachable, match="is it a lego_serve server"):
        client.job("job_1")


def test_a_job_is_followed_by_its_events(server, client) -> None:
    """Each state once, previews with their file; nothing is asked for besides."""
    preview = {"preview": {"b64_json": base64.b64encode(b"jpeg").decode()}}
    running, shown = card("in_progress", progress=50), card("in_progress", progress=50) | preview
    server.script["/v1/jobs/job_1/events"] = [
        Answer(events(card(), running, shown, card("completed"), card("completed")))
    ]
    found = list(client.progress("job_1"))
    assert [(job.status, job.progress, job.preview) for job in found] == [
        ("queued", 0, None),
        ("in_progress", 50, None),
        ("in_progress", 50, b"jpeg"),
        ("completed", 0, None),
    ]
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "broken", [Answer(events(card()), hangs_up=True), Answer(events(card())), HANG_UP, Answer(status=501)]
)
def test_where_events_break_off_the_job_is_asked_for(server, client, broken: Answer) -> None:
    """As often as the server says; what is known already is not told again."""
    server.script["/v1/jobs/job_1/events"] = [broken]
    running = Answer(card("in_progress"), headers=POLL)
    server.script["/v1/jobs/job_1"] = [Answer(card(), headers=POLL), running, running, Answer(card("completed"))]
    found = [job.status for job in client.progress("job_1")]
    assert found == ["queued", "in_progress", "completed"]


def test_who_stops_listening_ends_the_stream(server, client) -> None:
    """And the client goes on."""
    server.script["/v1/jobs/job_1/events"] = [Answer(events(card(), card("in_progress")))]
    progress = client.progress("job_1")
    assert next(progress).status == "queued"
    progress.close()
    server.script["/v1/jobs/job_1"] = [Answer(card())]
    assert client.job("job_1") == Job("job_1", "queued", "lego-tiny", 0, None, None, None, None, None, {})


def test_a_job_is_waited_for(server, client) -> None:
    """It is completed, or it has failed with what the server says, or it goes on."""
    path = "/v1/jobs/job_1"
    server.script[f"{path}/events"] = [Answer(events(card(), card("completed")))]
    assert client.wait("job_1").status == "completed"
    server.script[f"{path}/events"] = [
        Answer(events(card("failed", error={"code": "node_failed", "message": "Broke."})))
    ]
    with pytest.raises(JobFailed, match=r"job_1 failed: Broke\.") as caught:
        client.wait("job_1")
    assert caught.value.code == "node_failed"
    server.script[f"{path}/events"] = [Answer(events(card("cancelled")))]
    with pytest.raises(JobFailed, match="cancelled"):
        client.wait("job_1")
    server.script[f"{path}/events"] = [Answer(events(card()))]
    server.script[path] = [Answer(card(), headers={"retry-after": "5"})]
    with pytest.raises(StillRunning):
        client.wait("job_1", timeout_s=0.05)


def test_images_of_a_job_are_those_of_its_result(server, client) -> None:
    """Not before it has one."""
    server.script["/v1/jobs/job_1/result"] = [Answer(card(), 202), Answer(IMAGES)]
    with pytest.raises(StillRunning):
        client.images("job_1")
    assert client.images("job_1").files == (b"png",)


def test_jobs_are_listed_and_cancelled(server, client) -> None:
    """What is not asked for is left out of the query; a cancel does no harm twice."""
    server.script["/v1/jobs"] = [Answer({"data": [card()], "has_more": True, "last_id": "job_1"})]
    assert [job.id for job in client.jobs(5, status="queued")] == ["job_1"]
    assert server.asked[0].path == "/v1/jobs?limit=5&status=queued"
    server.script["/v1/jobs/job_1/cancel"] = [HANG_UP, Answer(card("cancelled"))]
    assert client.cancel("job_1").status == "cancelled"


def test_templates_and_adapters(server, client) -> None:
    """Lists of cards; a template is a form with its image."""
    server.script["/v1/templates"] = [Answer({"data": [{"id": "t"}]}), Answer({"id": "t"}, 201)]
    server.script["/v1/admin/adapters"] = [Answer({"data": [{"id": "a"}]})]
    assert client.templates() == [{"id": "t"}]
    assert client.add_template(b"image", {"name": "x"}) == {"id": "t"}
    assert b"\r\n\r\nx\r\n" in server.asked[-1].body
    assert client.adapters() == [{"id": "a"}]


def test_the_client_is_light() -> None:
    """It loads none of the server's libraries, and is short."""
    heavy = ("torch", "ray", "fastapi", "pydantic", "numpy", "PIL", "yaml")
    code = f"import sys, lego_serve.client; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    files = Path(package.__file__).parent.glob("*.py")
    assert sum(1 for file in files for line in file.read_text().splitlines() if line.strip()) < 300


def test_a_type_checker_knows_every_field_that_a_server_honours() -> None:
    """What checks a caller's program is told that the package has types, and takes what the pages show."""
    assert (Path(package.__file__).parents[1] / "py.typed").exists()
    honoured = {*GenerationRequest.model_fields, *EditRequest.model_fields} - {*ForeignFields.model_fields, *REFUSED}
    assert ImageFields.__optional_keys__ == honoured - NOT_FOR_CLIENTS


def test_a_wait_that_is_interrupted_ends_the_request(server, client, monkeypatch) -> None:
    """What the thread was doing for it is cancelled."""
    cancelled, begun = asyncio.Event(), threading.Event()

    async def hang() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    def interrupted(self: object) -> None:
        begun.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.Future.result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.wait_for(hang())
    monkeypatch.undo()
    client.wait_for(asyncio.wait_for(cancelled.wait(), 60))
