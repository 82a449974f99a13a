"""Unmodified clients of AUTOMATIC1111 and ComfyUI, against a server of two gateways that share a port."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pytest
import webuiapi
from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper
from PIL import Image
from sd_backend_client import connect_to_backend
from sd_backend_client.api.a1111_webservice import A1111Webservice
from sd_backend_client.api.comfyui_webservice import ComfyUiWebservice
from sd_backend_client.api.shared_data.diffusion_params import DiffusionParams
from sd_backend_client.api.shared_data.generation_handle import GenerationHandle, GenerationStatus

from lego_serve.cli.demo import free_port
from tests.support.e2e.images import PROMPT, png
from tests.support.e2e.node import installed
from tests.support.graphs import Graph, image_to_image, text_to_image

pytestmark = pytest.mark.ray
SDK = "@saintno/comfyui-sdk@0.3.1"
SIZE = {"width": 128, "height": 96}
QUICK = {"steps": 8, "cfg_scale": 4.0, **SIZE}
PARAMS = {"prompt": PROMPT, "sd_model_name": "lego-tiny", "seed": 5, **QUICK}
PATIENCE_S = 120.0


def titled(graph: Graph) -> Graph:
    """A workflow as ComfyUI's menu exports it, with a title for each node."""
    for entry in graph.values():
        entry["_meta"] = {"title": entry["class_type"]}
    return graph


def photo() -> Image.Image:
    """What edits start from."""
    return Image.fromarray(np.full((96, 128, 3), (40, 40, 160), np.uint8))


def left_half() -> Image.Image:
    """A mask that is white on the left."""
    mask = Image.new("L", (128, 96), 0)
    mask.paste(255, (0, 0, 64, 96))
    return mask


def right_of(image: Image.Image) -> np.ndarray:
    """Pixels far from the masked part."""
    return np.asarray(image.convert("RGB"))[:, 100:].astype(int)


def test_webuiapi_makes_images_and_edits_them(server) -> None:
    """A1111: text to image with an adapter in the prompt, image to image with a mask, options, and what a PNG says."""
    api = webuiapi.WebUIApi(host="127.0.0.1", port=urlsplit(server.url).port)
    api.util_wait_for_ready()
    api.util_set_model("lego-tiny")
    assert api.util_get_current_model() == "lego-tiny"
    adapter = api.get_loras()[0]["name"]
    made = api.txt2img(prompt=f"{PROMPT} <lora:{adapter}:0.8>", seed=5, batch_size=2, **QUICK)
    assert [image.size for image in made.images] == [(128, 96)] * 2
    assert (made.info["all_seeds"], made.info["sd_model_name"]) == ([5, 6], "lego-tiny")
    assert "Seed: 5" in api.png_info(made.images[0]).info
    edited = api.img2img(
        images=[photo()], mask_image=left_half(), prompt="a yellow square", denoising_strength=1.0, seed=3, **QUICK
    )
    assert np.abs(right_of(edited.image) - right_of(photo())).max() <= 2
    assert np.abs(np.asarray(edited.image).astype(int)[:, :32] - np.asarray(photo())[:, :32]).max() > 20


def test_webuiapi_sees_progress_and_interrupts_in_either_gateway(server) -> None:
    """Whichever one took the request: it is answered with its last preview."""
    api = webuiapi.WebUIApi(host="127.0.0.1", port=urlsplit(server.url).port)
    results: list[webuiapi.WebUIApiResult] = []
    slow = {"steps": 100, "width": 256, "height": 256}
    thread = threading.Thread(target=lambda: results.append(api.txt2img(prompt=PROMPT, batch_size=4, **slow)))
    thread.start()
    limit, seen = time.monotonic() + PATIENCE_S, 0.0
    while seen < 0.15 and time.monotonic() < limit:  # each on a connection of its own, to either gateway
        now = httpx2.get(f"{server.url}/sdapi/v1/progress", timeout=60).json()
        seen = max(seen, now["progress"])
        time.sleep(0.05)
    assert now["state"]["sampling_steps"] == 100
    assert httpx2.post(f"{server.url}/sdapi/v1/interrupt", timeout=60).json() is None
    thread.join(PATIENCE_S)
    [interrupted] = results
    assert 1 <= len(interrupted.images) <= 4
    assert interrupted.images[0].size == (256, 256)
    assert httpx2.get(f"{server.url}/sdapi/v1/progress", timeout=60).json()["state"]["job_count"] == 0


def ended(handle: GenerationHandle) -> list[Image.Image]:
    """The images of a generation."""
    return handle.wait(timeout=PATIENCE_S).images


@pytest.mark.parametrize("client", [A1111Webservice, ComfyUiWebservice])
def test_sd_backend_client_works_by_both_protocols(server, client) -> None:
    """It reads every answer against a strict schema: lists, capabilities, text to image, image to image, inpainting."""
    backend = client(server.url)
    assert "lego-tiny" in [option.name for option in backend.list_checkpoints()]
    assert "euler" in [option.name for option in backend.list_samplers()]
    assert backend.list_loras()
    assert backend.list_schedulers()
    assert [model.full_model_name for model in backend.list_controlnet_models()] == ["lego-tiny-outline"]
    for empty in (backend.list_hypernetworks, backend.list_upscalers):
        assert empty() == []
    assert backend.get_capabilities().controlnet
    [image] = ended(backend.submit_txt2img(DiffusionParams(**PARAMS)))
    assert image.size == (128, 96)
    [image] = ended(backend.submit_img2img(DiffusionParams(**PARAMS, init_images=[photo()], denoising_strength=0.5)))
    assert image.size == (128, 96)
    masked = DiffusionParams(**PARAMS, init_images=[photo()], mask=left_half(), denoising_strength=1.0, mask_blur=2)
    [image] = ended(backend.submit_inpaint(masked))
    assert np.abs(right_of(image) - right_of(photo())).max() <= 2


def test_sd_backend_client_cancels_by_both_protocols(server) -> None:
    """What runs stops; and the server is told by what it answers."""
    assert isinstance(connect_to_backend(server.url), ComfyUiWebservice)
    slow = DiffusionParams(**PARAMS | {"steps": 100, "width": 256, "height": 256, "batch_size": 4})
    for backend in (A1111Webservice(server.url), ComfyUiWebservice(server.url)):
        handle = backend.submit_txt2img(slow)
        limit = time.monotonic() + PATIENCE_S
        while handle.poll().status is GenerationStatus.PENDING and time.monotonic() < limit:
            time.sleep(0.05)
        assert handle.cancel()
        while not handle.poll().done and time.monotonic() < limit:
            time.sleep(0.05)
        assert handle.poll().status is GenerationStatus.CANCELLED


def test_comfy_api_simplified_runs_workflows(server, tmp_path) -> None:
    """ComfyUI: it posts, then listens, then asks for the history; an upload is what another workflow starts from."""
    api = ComfyApiWrapper(server.url)
    workflow = ComfyWorkflowWrapper(titled(text_to_image(steps=8)))
    files = api.queue_and_wait_images(workflow, "SaveImage")
    assert len(files) == 2
    assert [Image.open(io.BytesIO(file)).size for file in files.values()] == [(128, 96)] * 2
    path = tmp_path / "photo.png"
    photo().save(path)
    sent = api.upload_image(path, subfolder="shop")
    edit = ComfyWorkflowWrapper(titled(image_to_image(steps=8)))
    edit.set_node_param("LoadImage", "image", f"{sent['subfolder']}/{sent['name']}")
    assert len(api.queue_and_wait_images(edit, "SaveImage")) == 1
    assert api.get_queue()["queue_pending"] == []
    assert "KSampler" in api.get_object_info("KSampler")
    assert api.get_system_stats()["system"]["comfyui_version"]
    assert api.get_embeddings() == []


@pytest.fixture(scope="session")
def node_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Node client, installed by its exact version."""
    return installed(SDK, tmp_path_factory.mktemp("node")) / "build" / "index.esm.js"


def test_the_node_sdk_runs_a_workflow(server, node_package) -> None:
    """It uploads, sends text/plain, hears progress, and fetches what was saved."""
    script = Path(__file__).parents[2] / "support" / "e2e" / "comfyui_sdk.mjs"
    image = base64.b64encode(png(np.asarray(photo()))).decode()
    done = subprocess.run(
        ["node", str(script), str(node_package), server.url, json.dumps(text_to_image(steps=100))],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        env=os.environ | {"IMAGE": image},
    )
    assert done.returncode == 0, done.stderr
    heard = json.loads(done.stdout.splitlines()[-1])
    assert "error" not in heard
    assert "lego-tiny" in heard["checkpoints"]
    assert (heard["pending"], heard["upload"]["name"]) == (True, "sdk.png")
    assert len(heard["result"]["images"]["images"]) == 2
    assert heard["bytes"] > 100
    assert heard["progress"] > 0


@contextmanager
def proxy(url: str) -> Iterator[str]:
    """Comfy's own proxy, which serves its API of jobs over a ComfyUI."""
    port = free_port()
    code = "import sys; from comfy_api_proxy.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "--comfyui", url, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + PATIENCE_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def test_comfys_sdk_works_through_its_proxy(server, tmp_path, monkeypatch) -> None:
    """Its jobs have ids of their own; it uploads what a workflow names, waits, and fetches the outputs."""
    from comfy_sdk import Comfy

    image = tmp_path / "photo.png"
    photo().save(image)
    with proxy(server.url) as url:
        monkeypatch.setenv("COMFY_BASE_URL", url)
        with Comfy() as client:
            workflow = client.workflows.from_json(image_to_image(steps=8))
            workflow.set_input("10", "image", client.assets.from_file(image))
            job = client.run(workflow, timeout=PATIENCE_S)
            assert job.status == "succeeded"
            [output] = job.get_outputs("9")
            assert Image.open(output.to_file(tmp_path / "out.png")).size == (128, 96)
