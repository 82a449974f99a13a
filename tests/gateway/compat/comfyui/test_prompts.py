"""Prompts over HTTP: accepted, queued, interrupted, done; their images, and what they start from."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lego_serve.compat.comfyui.nodes import CLASSES
from lego_serve.gateway.settings import ApiKey, GatewaySettings
from tests.support.gateway.client import file_of, mask_of
from tests.support.gateway.comfyui import Served, memory_storage, served
from tests.support.gateway.runner import FakeRunner
from tests.support.graphs import image_to_image, masked_edit, text_to_image

KEYS = tuple(ApiKey(sha256(name.encode()).hexdigest(), name, is_admin=False) for name in ("alpha", "beta"))


@pytest.fixture
async def comfyui(runner: FakeRunner, settings: GatewaySettings, tmp_path: Path) -> AsyncIterator[Served]:
    """A gateway with a store in memory."""
    async with served(runner, settings, memory_storage(tmp_path / "jobs")) as gateway:
        yield gateway


async def test_a_prompt_becomes_images(comfyui: Served, runner: FakeRunner) -> None:
    """Accepted at once; its history names the files, and each is there to be viewed."""
    accepted = await comfyui.client.post("/prompt", json={"prompt": text_to_image(), "client_id": "me"})
    assert accepted.status_code == 200, accepted.text
    prompt_id = accepted.json()["prompt_id"]
    assert accepted.json()["node_errors"] == {}
    entry = await comfyui.ended(prompt_id)
    assert entry["status"]["status_str"] == "success"  # type: ignore[index]
    assert entry["prompt"][2] == text_to_image()  # type: ignore[index]
    files = entry["outputs"]["9"]["images"]  # type: ignore[index]
    assert len(files) == 2
    for file in files:
        view = await comfyui.client.get("/api/view", params=file)
        assert (view.status_code, view.headers["content-type"]) == (200, "image/png")
        assert Image.open(io.BytesIO(view.content)).size == (128, 96)
    [job] = runner.jobs
    assert [job.inputs[name] for name in ("prompt", "negative_prompt", "seed", "n")] == ["a red circle", "blurry", 7, 2]
    assert list((await comfyui.client.get("/history")).json()) == [prompt_id]


@pytest.mark.parametrize("media_type", ["text/plain;charset=UTF-8", "application/json", None])
async def test_a_body_of_any_type_is_read(comfyui: Served, media_type: str | None) -> None:
    """Some clients give none."""
    headers = {} if media_type is None else {"content-type": media_type}
    body = json.dumps({"prompt": text_to_image()}).encode()
    assert (await comfyui.client.post("/api/prompt", content=body, headers=headers)).status_code == 200


async def test_a_text_may_be_empty(comfyui: Served, runner: FakeRunner) -> None:
    """It is kept so, until a gateway runs it."""
    graph = text_to_image()
    graph["6"]["inputs"]["text"] = ""
    answer = await comfyui.client.post("/prompt", json={"prompt": graph})
    await comfyui.ended(answer.json()["prompt_id"])
    assert str(runner.jobs[0].inputs["prompt"]).strip() == ""


async def test_a_web_page_of_another_origin_posts_nothing(comfyui: Served, runner: FakeRunner) -> None:
    """Any body is read, so the origin is what protects; a page of the server itself may."""
    body = {"prompt": text_to_image()}
    answer = await comfyui.client.post("/prompt", json=body, headers={"origin": "https://evil.example"})
    assert (answer.status_code, bool(runner.jobs)) == (403, False)
    own = {"origin": f"http://127.0.0.1:{comfyui.port}"}
    assert (await comfyui.client.post("/prompt", json=body, headers=own)).status_code == 200


async def test_a_clients_own_id_is_kept(comfyui: Served, runner: FakeRunner) -> None:
    """The same prompt again is the same job; another prompt of the id is refused."""
    body = {"prompt": text_to_image(), "prompt_id": "order-17"}
    for _ in range(2):
        answer = await comfyui.client.post("/prompt", json=body)
        assert (answer.status_code, answer.json()["prompt_id"]) == (200, "order-17")
    await comfyui.ended("order-17")
    assert len(runner.jobs) == 1
    other = await comfyui.client.post("/prompt", json=body | {"prompt": text_to_image(steps=9)})
    assert (other.status_code, other.json()["error"]["type"]) == (422, "idempotency_key_reused")


async def test_a_node_that_is_not_known_is_named_with_the_nearest(comfyui: Served) -> None:
    """In ComfyUI's shape, by node."""
    graph = text_to_image()
    graph["3"]["class_type"] = "KSamplr"
    answer = await comfyui.client.post("/prompt", json={"prompt": graph})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "missing_node_type")
    assert "did you mean KSampler?" in error["message"]
    assert answer.json()["node_errors"]["3"]["class_type"] == "KSamplr"


@pytest.mark.parametrize(
    ("sampling", "named"), [({"steps": 150}, "`steps`"), ({"cfg": 60.0}, "`cfg`"), ({"denoise": 0.5}, "denoise")]
)
async def test_what_the_model_cannot_do_is_said_in_the_nodes_words(comfyui: Served, sampling, named) -> None:
    """Bounds are the workflow's."""
    answer = await comfyui.client.post("/prompt", json={"prompt": text_to_image(**sampling)})
    assert answer.status_code == 400
    assert named in answer.text


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"prompt": []}', b'{"prompt": {"1": 5}}', b'{"prompt": {}}'])
async def test_what_is_no_prompt_is_refused(comfyui: Served, content: bytes) -> None:
    """With 400 and an error that says so."""
    answer = await comfyui.client.post("/prompt", content=content)
    assert (answer.status_code, set(answer.json())) == (400, {"error", "node_errors"})


async def test_the_queue_lists_what_runs_and_what_waits(comfyui: Served, runner: FakeRunner) -> None:
    """Until it is taken out of the queue, or interrupted; only what ran is in the history."""
    runner.gate = asyncio.Event()
    ids = []
    for seed in range(3):
        answer = await comfyui.client.post("/prompt", json={"prompt": text_to_image(seed=seed)})
        ids.append(answer.json()["prompt_id"])
        while seed == 0 and not runner.waiting:
            await asyncio.sleep(0.01)
    count = (await comfyui.client.get("/prompt")).json()
    assert count == {"exec_info": {"queue_remaining": 3}}
    queue = (await comfyui.client.get("/queue")).json()
    listed = [entry[1] for entry in queue["queue_running"] + queue["queue_pending"]]
    assert sorted(listed) == sorted(ids)
    running = [entry[1] for entry in queue["queue_running"]]
    assert running
    await comfyui.client.post("/queue", json={"delete": [each for each in ids if each not in running]})
    await comfyui.client.post("/interrupt", content=b"")
    assert (await comfyui.client.get("/prompt")).json()["exec_info"]["queue_remaining"] == 0
    history = (await comfyui.client.get("/history")).json()
    assert sorted(history) == sorted(running)
    assert {entry["status"]["status_str"] for entry in history.values()} == {"error"}
    await comfyui.client.post("/history", json={"clear": True})
    assert (await comfyui.client.get("/history")).json() == {}


async def test_an_upload_is_what_a_prompt_starts_from(comfyui: Served, runner: FakeRunner) -> None:
    """It is offered to pickers, viewed again, and gets a number where its name is taken."""
    sent = {"image": ("photo.png", file_of(99), "image/png")}
    answer = await comfyui.client.post("/upload/image", files=sent, data={"type": "input"})
    assert answer.json() == {"name": "photo.png", "subfolder": "", "type": "input"}
    shown = (await comfyui.client.get("/object_info/LoadImage")).json()
    assert shown["LoadImage"]["input"]["required"]["image"][0] == ["photo.png"]
    view = await comfyui.client.get("/view", params={"filename": "photo.png", "type": "input"})
    assert view.content == file_of(99)
    other = await comfyui.client.post("/api/upload/image", files={"image": ("photo.png", file_of(5), "image/png")})
    assert other.json()["name"] == "photo (1).png"
    accepted = await comfyui.client.post("/prompt", json={"prompt": image_to_image()})
    assert accepted.status_code == 200, accepted.text
    await comfyui.ended(accepted.json()["prompt_id"])
    [job] = runner.jobs
    assert (job.workflow, job.inputs["strength"]) == ("lego-tiny-img2img", 0.6)
    assert int(np.asarray(job.inputs["image"].pixels)[0, 0, 0]) == 99


async def test_a_mask_is_the_transparency_of_an_upload(comfyui: Served, runner: FakeRunner) -> None:
    """Sent after its image, it is joined with it; what is transparent changes, and keeps its colour below."""
    await comfyui.client.post("/upload/image", files={"image": ("plain.png", file_of(99), "image/png")})
    reference = json.dumps({"filename": "plain.png", "subfolder": "", "type": "input"})
    sent = {"image": ("photo.png", mask_of(), "image/png")}
    answer = await comfyui.client.post("/upload/mask", files=sent, data={"original_ref": reference})
    assert answer.json()["name"] == "photo.png"
    accepted = await comfyui.client.post("/prompt", json={"prompt": masked_edit()})
    assert accepted.status_code == 200, accepted.text
    await comfyui.ended(accepted.json()["prompt_id"])
    [job] = runner.jobs
    edit = job.inputs["edit"]
    assert job.workflow == "lego-tiny-edit"
    weight = np.asarray(edit.weight)
    assert (weight[10, 10], weight[90, 120]) == (255, 0)
    assert int(np.asarray(edit.pixels)[10, 10, 0]) == 99


@pytest.mark.parametrize(
    ("files", "data"),
    [
        ({"image": ("a.txt", b"no image", "text/plain")}, {}),
        ({"other": ("a.png", file_of(), "image/png")}, {}),
        ({"image": ("a.png", file_of(), "image/png")}, {"subfolder": "../.."}),
        ({"image": ("a.png", file_of(), "image/png"), "second": ("b.png", file_of(), "image/png")}, {}),
    ],
)
async def test_what_is_no_upload_is_refused(comfyui: Served, files, data) -> None:
    """With 400."""
    assert (await comfyui.client.post("/upload/image", files=files, data=data)).status_code == 400


@pytest.mark.parametrize("reference", ["", "{", "[]", '{"filename": 5}', '{"filename": "none.png"}'])
async def test_a_mask_needs_its_image(comfyui: Served, reference: str) -> None:
    """One that is not there is 404, anything else 400."""
    sent = {"image": ("m.png", mask_of(), "image/png")}
    answer = await comfyui.client.post("/upload/mask", files=sent, data={"original_ref": reference})
    assert answer.status_code == (404 if "none" in reference else 400)


@pytest.mark.parametrize("name", ["x_00001_.none.png", "../../etc/passwd", "x.png", "x_00000_.none.png"])
async def test_a_file_that_is_not_there_is_404(comfyui: Served, name: str) -> None:
    """Whatever its name is; without a name it is 400."""
    assert (await comfyui.client.get("/view", params={"filename": name})).status_code == 404
    assert (await comfyui.client.get("/view")).status_code == 400


async def test_another_tenant_sees_nothing(runner, settings, tmp_path) -> None:
    """No history, no files, no uploads, and it stops nothing."""
    alpha, beta = ({"authorization": f"Bearer {name}"} for name in ("alpha", "beta"))
    async with served(runner, replace(settings, keys=KEYS), memory_storage(tmp_path / "jobs")) as gateway:
        assert (await gateway.client.get("/queue")).status_code == 401
        gateway.client.headers.update(alpha)
        await gateway.client.post("/upload/image", files={"image": ("photo.png", file_of(), "image/png")})
        answer = await gateway.client.post("/prompt", json={"prompt": text_to_image(), "prompt_id": "one"})
        assert answer.status_code == 200
        file = (await gateway.ended("one"))["outputs"]["9"]["images"][0]  # type: ignore[index]
        gateway.client.headers.update(beta)
        assert (await gateway.client.get("/history/one")).json() == {}
        assert (await gateway.client.get("/view", params=file)).status_code == 404
        assert (await gateway.client.get("/view", params={"filename": "photo.png", "type": "input"})).status_code == 404
        assert (await gateway.client.post("/prompt", json={"prompt": image_to_image()})).status_code == 400
        again = await gateway.client.post("/prompt", json={"prompt": text_to_image(), "prompt_id": "one"})
        assert again.status_code == 200


async def test_every_offer_is_answered(comfyui: Served) -> None:
    """With names that a prompt may use, and nothing for folders that there are not."""
    nodes = (await comfyui.client.get("/object_info")).json()
    assert set(nodes) == set(CLASSES)
    assert nodes["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0] == ["lego-tiny", "gpt-image-1"]
    assert (await comfyui.client.get("/object_info/None")).json() == {}
    assert (await comfyui.client.get("/models/loras")).json() == ["a", "b"]
    assert (await comfyui.client.get("/models/none")).json() == []
    assert (await comfyui.client.get("/models/controlnet")).json() == ["depth", "edges"]
    for path in ("/models", "/embeddings", "/extensions", "/features", "/system_stats"):
        assert (await comfyui.client.get(f"/api{path}")).status_code == 200
    assert (await comfyui.client.post("/free", json={})).json() is None


async def test_without_a_store_prompts_say_so(client) -> None:
    """What needs none is answered all the same."""
    for method, path in (("POST", "/prompt"), ("GET", "/prompt"), ("GET", "/queue"), ("GET", "/history")):
        answer = await client.request(method, path)
        assert (answer.status_code, "jobs.store" in answer.json()["error"]["message"]) == (503, True)
    assert (await client.get("/object_info")).status_code == 200
