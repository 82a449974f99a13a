"""The routes around the images: models, health, metrics, keys, cancelling."""

import asyncio
from hashlib import sha256

import httpx2
import pytest

from lego_serve.core.nodes.requests import ListAdapterNames
from lego_serve.errors import CapacityError, DeadlineExceeded, JobCancelled, NodeError
from lego_serve.gateway.app import create_app
from lego_serve.gateway.routes import models
from lego_serve.gateway.settings import ApiKey, GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.client import Live
from tests.support.gateway.wire import leaving, wait_for

ADDED = ("controlnet", "controlnet-lora", "edit", "edit-lora", "img2img", "img2img-lora", "lora")
TINY = ["lego-tiny", *(f"lego-tiny-{name}" for name in ADDED)]


async def test_models_are_the_workflows(client) -> None:
    """GET /v1/models lists workflows with the inputs they take."""
    data = (await client.get("/v1/models")).json()["data"]
    assert [card["id"] for card in data] == TINY
    assert data[0]["lego"]["inputs"]["prompt"] == {"type": "text", "required": True}
    assert (await client.get("/v1/models/lego-tiny")).json() == data[0]
    assert (await client.get("/v1/models/nope")).status_code == 404


async def test_a_model_says_what_it_may_be_asked_with(client, runner) -> None:
    """Adapters and ControlNets by name, those of the workflow beside it too; none where nothing takes any."""
    lego = {card["id"]: card["lego"] for card in (await client.get("/v1/models")).json()["data"]}
    for name in ("lego-tiny", "lego-tiny-lora", "lego-tiny-controlnet", "lego-tiny-controlnet-lora"):
        assert lego[name]["adapters"] == ["a", "b"]
        assert lego[name]["controlnets"] == ["depth", "edges"]
    for name in ("lego-tiny-img2img", "lego-tiny-edit"):
        assert (lego[name]["adapters"], lego[name]["controlnets"]) == (["a", "b"], [])
    assert runner.adapter_requests == [("lego-tiny", ListAdapterNames())]


async def test_models_are_listed_while_nobody_names_their_adapters(client, runner, monkeypatch) -> None:
    """A LoRA node that is away delays the list a little, and its adapters are unknown."""
    monkeypatch.setattr(models, "PATIENCE_S", 0.01)
    runner.names_gate = asyncio.Event()
    lego = (await client.get("/v1/models/lego-tiny")).json()["lego"]
    assert (lego["adapters"], lego["controlnets"]) == (None, ["depth", "edges"])


async def test_an_unknown_model_is_told_with_the_nearest(client) -> None:
    """As a generation tells it."""
    error = (await client.get("/v1/models/lego-tiny-lorra")).json()["error"]
    assert error["message"] == "There is no model lego-tiny-lorra; did you mean lego-tiny-lora?"


async def test_health_follows_the_runner(client, runner) -> None:
    """Live always; ready and startup once the nodes answer."""
    assert (await client.get("/health/ready")).status_code == 200
    runner.is_ready = False
    assert (await client.get("/health/live")).status_code == 200
    assert (await client.get("/health/ready")).status_code == 503
    assert (await client.get("/health/startup")).status_code == 503


async def test_metrics_count_what_happened(client) -> None:
    """A finished and a refused request are counted, nothing stays in flight, no prompt is shown."""
    await client.post("/v1/images/generations", json={"prompt": "secret words"})
    await client.post("/v1/images/generations", json={"prompt": "secret words", "size": "16x16"})
    page = (await client.get("/metrics")).text
    assert 'lego_serve_requests_total{outcome="ok",workflow="lego-tiny"} 1.0' in page
    assert 'lego_serve_requests_total{outcome="out_of_range",workflow="lego-tiny"} 1.0' in page
    assert "lego_serve_requests_in_flight 0.0" in page
    assert "lego_serve_denoise_step_lanes_count" in page
    assert "secret" not in page


async def test_calls_made_again_are_counted_as_the_journal_tells_of_them(client, app, runner) -> None:
    """Whatever becomes of their job."""
    async with app.router.lifespan_context(app):
        runner.journal.on_retry("denoise", "lego-tiny")
        runner.journal.on_redone("lego-tiny", 3)
        page = (await client.get("/metrics")).text
    assert 'lego_serve_node_retries_total{model="lego-tiny",node="denoise"} 1.0' in page
    assert 'lego_serve_steps_redone_total{model="lego-tiny"} 3.0' in page


async def test_unknown_routes_and_methods_have_openai_errors(client) -> None:
    """404 and 405 come in the same shape as everything else."""
    assert (await client.get("/nope")).json()["error"]["code"] == "route_not_found"
    assert (await client.put("/v1/models")).json()["error"]["code"] == "method_not_allowed"


async def test_a_route_is_as_it_is_written_and_405_says_what_it_takes(client) -> None:
    """A slash too many is no redirect but an unknown route."""
    assert (await client.get("/v1/models/")).status_code == 404
    refused = await client.put("/v1/models")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


async def test_what_nobody_expected_is_a_marked_500_logged_once(client, runner, caplog) -> None:
    """The caller can tell the operator which request it was, and hears nothing of the inside."""
    runner.error = ZeroDivisionError("secret")
    answer = await client.post("/v1/images/generations", json={"prompt": "a"}, headers={"x-request-id": "abc-1"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert answer.headers["x-request-id"] == "abc-1"
    assert "secret" not in answer.text
    assert [record.exc_info is not None for record in caplog.records if record.levelname == "ERROR"] == [True]


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), JobCancelled("no"), CapacityError("full")])
async def test_an_ordinary_outcome_is_one_line_of_the_log(client, runner, caplog, error) -> None:
    """No traceback for what is the caller's doing; one where a node failed."""
    caplog.set_level("INFO", "lego_serve")
    runner.error = error
    await client.post("/v1/images/generations", json={"prompt": "a"})
    [record] = [record for record in caplog.records if record.name.startswith("lego_serve.gateway")]
    assert (record.levelname, record.exc_info) == ("INFO", None)
    caplog.clear()
    runner.error = NodeError("broken")
    await client.post("/v1/images/generations", json={"prompt": "a"})
    [record] = [record for record in caplog.records if record.name.startswith("lego_serve.gateway")]
    assert record.levelname == "ERROR"
    assert record.exc_info


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/images/edits"])
async def test_a_client_that_hangs_up_in_its_body_is_no_error(app, caplog, path: str) -> None:
    """Its request ends without a traceback."""
    media = b"application/json" if "generations" in path else b"multipart/form-data; boundary=x"
    messages = iter([{"type": "http.request", "body": b"--x", "more_body": True}, {"type": "http.disconnect"}])
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        return next(messages)

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"content-type", media)], "http_version": "1.1", "scheme": "http", "root_path": "",
    }  # fmt: skip
    await app(scope, receive, send)
    assert sent[0]["status"] == 499
    assert not [record for record in caplog.records if record.levelno >= 30]


async def test_a_job_has_the_id_of_its_request(client, runner) -> None:
    """So its caller and an operator know it while it runs; two requests of one id have two jobs."""
    runner.gate = asyncio.Event()
    ask = {"json": {"prompt": "a"}, "headers": {"x-request-id": "abc-1"}}
    both = [asyncio.ensure_future(client.post("/v1/images/generations", **ask)) for _ in range(2)]
    while len(runner.waiting) < 2:
        await asyncio.sleep(0.01)
    listed = (await client.get("/v1/admin/jobs")).json()["data"]
    assert listed[0] == {
        "id": "job_abc-1", "object": "job", "workflow": "lego-tiny", "tenant": "default", "age_s": 2.5,
        "nodes": {"latents": "running"},
        "paused": False,
    }  # fmt: skip
    assert listed[1]["id"].startswith("job_abc-1-")
    runner.gate.set()
    answers = [(await answer).json()["lego"]["job_id"] for answer in both]
    assert sorted(answers) == sorted(card["id"] for card in listed)


async def test_the_request_id_is_the_callers_where_it_is_well_formed(client) -> None:
    """A good id comes back; a bad one is replaced."""
    good = await client.get("/health/live", headers={"x-request-id": "abc-1"})
    bad = await client.get("/health/live", headers={"x-request-id": "a b\t<script>"})
    assert good.headers["x-request-id"] == "abc-1"
    assert "script" not in bad.headers["x-request-id"]


async def test_no_answer_is_taken_for_another_type_than_it_says(client, runner) -> None:
    """Whatever answers says that browsers are not to guess."""
    url = "/v1/images/generations"
    answers = [await client.get(path) for path in ("/health/live", "/metrics", "/openapi.json", "/nope")]
    answers.append(await client.put("/v1/models"))
    answers += [await client.post(url, json=body) for body in ({"prompt": "a"}, {"prompt": "a", "stream": True}, {})]
    answers.append(await client.post(url, content=b" " * 300_000))
    runner.error = ZeroDivisionError("secret")
    answers.append(await client.post(url, json={"prompt": "a"}))
    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 405, 200, 200, 400, 413, 500]
    assert {answer.headers.get("x-content-type-options") for answer in answers} == {"nosniff"}


async def test_the_openapi_document_knows_the_body(client) -> None:
    """/openapi.json describes the fields of a generation."""
    document = (await client.get("/openapi.json")).json()
    body = document["paths"]["/v1/images/generations"]["post"]["requestBody"]
    assert "num_inference_steps" in body["content"]["application/json"]["schema"]["properties"]


async def test_keys_open_what_their_scope_allows(runner) -> None:
    """No key 401, a user's key makes images, an admin's cancels jobs; the tenant reaches the job."""
    keys = (
        ApiKey(sha256(b"user-key").hexdigest(), "shop", is_admin=False, weight=2.0),
        ApiKey(sha256(b"admin-key").hexdigest(), "ops", is_admin=True),
    )
    app = create_app(runner, runner, GatewaySettings("lego-tiny", keys), Metrics())
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        user, admin = ({"authorization": f"Bearer {k}"} for k in ("user-key", "admin-key"))
        assert (await client.get("/v1/models")).status_code == 401
        assert (await client.get("/v1/models", headers={"authorization": "Bearer no"})).status_code == 401
        made = await client.post("/v1/images/generations", json={"prompt": "a"}, headers=user)
        assert made.status_code == 200
        assert (runner.jobs[0].tenant, runner.jobs[0].weight) == ("shop", 2.0)
        assert (await client.delete("/v1/admin/jobs/job_known", headers=user)).status_code == 403
        assert (await client.delete("/v1/admin/jobs/job_known", headers=admin)).status_code == 200
        assert (await client.delete("/v1/admin/jobs/job_other", headers=admin)).status_code == 404


async def test_an_operator_pauses_and_resumes_a_job(client, runner) -> None:
    """By its id; 404 for a job that is not in flight."""
    paused = await client.post("/v1/admin/jobs/job_known/pause")
    assert (paused.status_code, paused.json()["status"]) == (200, "paused")
    resumed = await client.post("/v1/admin/jobs/job_known/resume")
    assert (resumed.status_code, resumed.json()["status"]) == (200, "resumed")
    missing = await client.post("/v1/admin/jobs/job_other/pause")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "job_not_found")
    assert runner.asked_to_pause == [("job_known", True), ("job_known", False), ("job_other", True)]


def test_the_unmodified_openai_client_works(app) -> None:
    """Generating, editing, listing and errors through the official package."""
    import io

    import openai
    from PIL import Image

    with Live(app) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        made = client.images.generate(model="lego-tiny", prompt="a", size="128x128", extra_body={"seed": 9})
        assert made.data[0].b64_json
        assert made.model_extra["lego"]["seed"] == 9
        image = io.BytesIO()
        Image.new("RGB", (96, 96)).save(image, "PNG")
        edited = client.images.edit(image=("a.png", image.getvalue()), prompt="a", extra_body={"strength": 0.5})
        assert edited.data[0].b64_json
        assert [m.id for m in client.models.list()] == TINY
        with pytest.raises(openai.NotFoundError) as missing:
            client.images.generate(model="nope", prompt="a")
        assert missing.value.code == "model_not_found"
        assert missing.value.request_id


def test_a_client_that_leaves_cancels_its_job(app, runner) -> None:
    """Closing the connection cancels the job and frees its place."""
    runner.gate = asyncio.Event()
    with Live(app) as url:
        with leaving(url, "/v1/images/generations", {"prompt": "a"}):
            assert wait_for(lambda: runner.waiting)
        assert wait_for(lambda: runner.cancelled)
        assert runner.cancelled == [runner.jobs[0].id]
        assert wait_for(lambda: "lego_serve_requests_in_flight 0.0" in httpx2.get(f"{url}/metrics", timeout=60).text)
